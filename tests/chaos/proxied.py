"""A stack whose processes reach Postgres, S3 and the broker through proxies that inject faults."""

from sqlalchemy import make_url

from services.local_stack.state import read
from tests.chaos.proxy import Proxy
from tests.support import tenants
from tests.support.stack import Stack

QUICK = {**tenants.QUICK, "DARKROOM_STEP_LIMIT_S": "30"}


class Proxies:
    """A proxy in front of each server of a stack."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        state = read(stack.root)
        assert state is not None
        self.postgres, self.s3 = Proxy(state.ports["postgres"]), Proxy(state.ports["s3"])
        self.broker = Proxy(state.ports["broker"])

    def environment(self, role: str) -> dict[str, str]:
        """Return the variables of a process that goes through the proxies, and notices losses soon."""
        settings = self.stack.settings(role)  # type: ignore[arg-type]
        url = self.stack.engine(role).url.set(port=self.postgres.port)  # type: ignore[arg-type]
        assert settings.s3_endpoint_url is not None
        assert settings.broker_url is not None
        broker = make_url(settings.broker_url.get_secret_value()).set(port=self.broker.port)
        address = settings.s3_endpoint_url.rsplit(":", 1)[0]
        return {
            **QUICK,
            "DARKROOM_DATABASE_URL": url.render_as_string(hide_password=False),
            "DARKROOM_BROKER_URL": broker.render_as_string(hide_password=False),
            "DARKROOM_S3_ENDPOINT_URL": f"{address}:{self.s3.port}",
        }

    def heal(self) -> None:
        """End the faults of all proxies."""
        for proxy in (self.postgres, self.s3, self.broker):
            proxy.set("pass")

    def close(self) -> None:
        """Stop the proxies."""
        for proxy in (self.postgres, self.s3, self.broker):
            proxy.close()

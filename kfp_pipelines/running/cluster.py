"""Kubeflow's API server: upload a package under its version, run it, schedule it, and read the status of a run."""

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
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from kfp_pipelines.build import IMAGE_VARIABLE
from training.errors import DarkroomError

DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")  # where pods have KFP's token mounted
PAGE = 100


class ClusterError(DarkroomError):
    """Kubeflow does not answer or refuses a request; the message says what to check."""


class ClusterSettings(BaseSettings):
    """How to reach Kubeflow Pipelines. Secrets print as asterisks."""

    model_config = SettingsConfigDict(env_prefix="DARKROOM_KFP_", frozen=True)

    host: str = Field(
        default="http://ml-pipeline.kubeflow.svc:8888", pattern=r"^https?://", description="address of the API"
    )
    namespace: str = Field(default="kubeflow", description="the profile's namespace where there are many users")
    token: SecretStr | None = Field(default=None, description="a bearer token; in a pod the mounted one is used")
    ca_cert: Path | None = None
    pipeline_root: str | None = Field(
        default=None, description="where artifacts are stored; unset: the server's default"
    )
    service_account: str | None = Field(default=None, description="of the runs' pods; unset: the server's default")


@dataclass(frozen=True)
class Uploaded:
    """A package on the server: a version of a pipeline."""

    pipeline_id: str
    version_id: str
    name: str
    version: str


class Cluster:
    """The API server, with errors that say what to do."""

    def __init__(self, settings: ClusterSettings) -> None:
        self.settings = settings
        with self._translate_errors("reach"):
            self.client = self._client()

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

    def upload(self, package: Path, commit: str) -> Uploaded:
        """Upload a package, unless the server has this version of it, and return it.

        The version consists of the git commit and the sha256 of the package, so equal packages have equal versions.
        """
        document = package.read_text()
        name = next(yaml.safe_load_all(document))["pipelineInfo"]["name"]
        version = f"{commit}-{hashlib.sha256(document.encode()).hexdigest()[:12]}"
        with self._translate_errors("upload to"):
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
        with self._translate_errors("run on"):
            run = self.client.run_pipeline(
                experiment_id=self._experiment(experiment), job_name=f"{uploaded.name} {uploaded.version}",
                params=dict(arguments), pipeline_id=uploaded.pipeline_id, version_id=uploaded.version_id,
                pipeline_root=self.settings.pipeline_root, service_account=self.settings.service_account,
            )  # fmt: skip
        return str(run.run_id)

    def schedule(self, uploaded: Uploaded, arguments: Mapping[str, Any], experiment: str, cron: str) -> str:
        """Run on a schedule, one run at a time, without catching up on missed runs. Returns the schedule's id.

        cron: see `cron.check_cron`; in UTC.
        """
        with self._translate_errors("schedule on"):
            recurring = self.client.create_recurring_run(
                experiment_id=self._experiment(experiment), job_name=uploaded.name, params=dict(arguments),
                pipeline_id=uploaded.pipeline_id, version_id=uploaded.version_id, cron_expression=cron,
                max_concurrency=1, no_catchup=True, pipeline_root=self.settings.pipeline_root,
                service_account=self.settings.service_account,
            )  # fmt: skip
        return str(recurring.recurring_run_id)

    def status(self, run_id: str) -> Any:
        """Return the run and its stages, as the server describes them."""
        with self._translate_errors("ask"):
            return self.client.get_run(run_id)

    def link(self, run_id: str) -> str:
        """Return the address of a run in the KFP UI."""
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
    def _translate_errors(self, what: str) -> Iterator[None]:
        """Raise ClusterError for an error of the client, and drop the links that the client prints."""
        import kfp_server_api
        import urllib3

        at = f"Kubeflow at {self.settings.host}"
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # it requires Kubeflow Pipelines 2
                yield
        except kfp_server_api.ApiException as error:
            why = {
                401: "the token is missing or has expired: set DARKROOM_KFP_TOKEN",
                403: f"this login lacks the permission in the namespace {self.settings.namespace!r}",
                404: "not found; is DARKROOM_KFP_HOST the address of the API?",
            }
            reason = why.get(error.status, " ".join(str(error.body or error.reason).split())[:300])
            raise ClusterError(f"cannot {what} {at} ({error.status}): {reason}") from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = str(getattr(error, "reason", error))
            raise ClusterError(f"{at} does not answer ({reason}); check DARKROOM_KFP_HOST and the network") from None


def check_image(image: str) -> None:
    """Raise ClusterError unless the image is named by its digest.

    A tag may point at another image tomorrow, and KFP's cache would not notice.
    """
    if not DIGEST.fullmatch(image):
        raise ClusterError(f"{IMAGE_VARIABLE}: {image!r} is not allowed; permitted: NAME@sha256:DIGEST")

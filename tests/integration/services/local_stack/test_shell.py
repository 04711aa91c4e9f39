"""Variables of a shell for other programs change nothing about the local stack."""

import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from services.local_stack import lifecycle
from services.s3_client import CredentialsError, make_client
from tests.support.commands import Darkroom, run_darkroom
from tests.support.stack import Stack, publish_tiny

NOWHERE = "127.0.0.1:9"
SHELL = {
    **{name: f"http://{NOWHERE}" for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY")},
    **{"no_proxy": "", "NO_PROXY": ""},
    **{"AWS_PROFILE": "work", "AWS_CONFIG_FILE": "/etc/passwd", "AWS_ENDPOINT_URL_S3": f"http://{NOWHERE}"},
    **{"AWS_MAX_ATTEMPTS": "many", "AWS_USE_FIPS_ENDPOINT": "true", "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "none"},
    **{"AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other", "AWS_SESSION_TOKEN": "other"},
    **{"PGHOST": "127.0.0.9", "PGPORT": "9", "PGUSER": "nobody", "PGPASSWORD": "wrong", "PGDATABASE": "other"},
    **{"PGHOSTADDR": "127.0.0.9", "PGSSLMODE": "require", "PGSERVICE": "work", "PGOPTIONS": "--search_path=mine"},
    **{"PGTARGETSESSIONATTRS": "standby", "PGREQUIREAUTH": "none", "PGCHANNELBINDING": "require"},
    **{"CELERY_BROKER_URL": f"redis://{NOWHERE}/0", "CELERY_LOADER": "other.Loader", "CELERY_RESULT_BACKEND": "other"},
    **{"BROKER_URL": f"redis://{NOWHERE}/0", "REDIS_URL": f"redis://{NOWHERE}/0", "CONFIG_MODULE": "other"},
    **{"APP": "other:app", "LOADER": "other.Loader", "WORKDIR": "/nowhere", "RESULT_BACKEND": "other"},
}  # fmt: skip
REQUEST = {"items": [{"class_label": 1}], "steps": 1}


@pytest.fixture
def root() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="darkroom-"))
    folder.chmod(0o711)
    yield folder / "stack"
    lifecycle.stop(folder / "stack")
    shutil.rmtree(folder)


def test_every_command_works(root: Path) -> None:
    darkroom: Darkroom = partial(run_darkroom, root, timeout=120, **SHELL)
    for _ in range(2):
        done = darkroom("up")
        assert done.returncode == 0, done.stderr
    stack = Stack(root)
    publish_tiny(stack)
    with stack.process("dispatcher", **SHELL) as dispatcher, stack.process("worker", **SHELL) as worker:
        dispatcher.wait_for("serves")
        worker.wait_for("serves")
        assert stack.wait(stack.submit(REQUEST)).state == "succeeded", worker.log.read_text()
        for command in (["check"], ["status"], ["jobs", "list"], ["releases", "list"], ["prune", "--dry-run"]):
            done = darkroom(*command)
            assert done.returncode == 0, done.stdout + done.stderr
        assert "the broker does not answer" not in dispatcher.log.read_text()
    stack.close()
    done = darkroom("down")
    assert done.returncode == 0, done.stderr
    assert "postgres, broker, s3" in done.stdout


def test_a_profile_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "work")
    with pytest.raises(CredentialsError, match=r"\(work\).*AWS_PROFILE"):
        make_client(endpoint_url=None, region="us-east-1", access_key_id=None, secret_access_key=None)

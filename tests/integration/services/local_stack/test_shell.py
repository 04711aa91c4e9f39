"""Variables of a shell for other programs change nothing about the local stack."""

import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.local_stack import lifecycle
from services.local_stack.background import stop_background
from services.s3_client import CredentialsError, make_client
from tests.support.commands import Darkroom, call_darkroom, run_darkroom
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
    stop_background(folder / "stack")
    lifecycle.stop(folder / "stack")
    shutil.rmtree(folder)


@pytest.mark.long
def test_every_command_works(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    darkroom: Darkroom = partial(run_darkroom, root, timeout=120, **SHELL)
    for _ in range(2):
        done = darkroom("up")
        assert done.returncode == 0, done.stderr
    stack = Stack(root)
    publish_tiny(stack)
    logs = {name: root / "logs" / f"{name}.log" for name in ("dispatcher", "worker")}
    assert stack.wait(stack.submit(REQUEST)).state == "succeeded", logs["worker"].read_text()
    for command in (["check"], ["status"], ["jobs", "list"], ["releases", "list"], ["prune", "--dry-run"]):
        done = darkroom(*command)
        assert done.returncode == 0, done.stdout + done.stderr
    sheets = {}
    for how in ([], ["--local"]):
        path = root / f"sheet{''.join(how)}.png"
        what = ("--class", "1", "--class", "2", "--count", "4", "--image-size", "48x16")
        request = ("tiny", *what, "--seed", "3", "--steps", "2", "--output", str(path))
        done = call_darkroom(capsys, root, "generate", *request, *how)
        assert done.returncode == 0, done.stderr
        sheets[bool(how)] = np.asarray(Image.open(path)).astype(int)
    assert sheets[False].std() > 0
    names = sheets[False].shape[1] - (2 * (2 * 48 + 2) + 2)  # at twice the size, with gaps, and the names of the rows
    assert 0 < names < 60
    assert sheets[False].shape[0] > 2 * (2 * 16 + 2)
    assert np.abs(sheets[True] - sheets[False]).max() <= 1, "both sample the same images"
    assert "the broker does not answer" not in logs["dispatcher"].read_text()
    stack.close()
    done = darkroom("down")
    assert done.returncode == 0, done.stderr
    assert "worker, dispatcher, postgres, broker, s3" in done.stdout


def test_a_profile_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "work")
    with pytest.raises(CredentialsError, match=r"\(work\).*AWS_PROFILE"):
        make_client(endpoint_url=None, region="us-east-1", access_key_id=None, secret_access_key=None)


def test_clients_of_a_process_read_the_definition_of_s3_once() -> None:
    keys = {"access_key_id": "mine", "secret_access_key": "mine"}
    first, second = (make_client(endpoint_url=f"http://{NOWHERE}", region="us-east-1", **keys) for _ in range(2))  # type: ignore[arg-type]
    assert first._loader is second._loader

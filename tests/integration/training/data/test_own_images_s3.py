"""The user's own images as tars in S3: the same set as from the folder, and refusals of one line."""

import io
import json
import socket
import struct
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.config import Config
from PIL import Image
from rich.console import Console

from services.local_stack.state import StackState, read
from tests.support.stack import Stack
from training.data.image_set import DataError, ImageSet
from training.data.own_images import object_storage
from training.data.own_images.prepare import Settings, prepare_once
from training.data.own_images.sources import open_source

COUNT = 60


@pytest.fixture(scope="module")
def state(stack: Stack) -> StackState:
    state = read(stack.root)
    assert state is not None
    return state


@pytest.fixture
def environment(state: StackState, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user sets."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", state.s3_endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", state.s3_access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", state.s3_secret_access_key)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images with metadata."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    records = []
    for number in range(COUNT):
        name = f"{number % 3}/{number:03}.png"
        (root / name).parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(root / name)
        records.append({"file_name": name, "text": f"image {number}", "label": number % 3})
    (root / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return root


def client(state: StackState) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=state.s3_endpoint_url,
        aws_access_key_id=state.s3_access_key_id,
        aws_secret_access_key=state.s3_secret_access_key,
        region_name="us-east-1",
        config=Config(proxies={}),
    )


@pytest.fixture(scope="module")
def bucket(state: StackState, pictures: Path) -> str:
    """The stack's bucket, with the images under own/ (metadata beside) and alone/ (metadata inside)."""
    names = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.png"))
    parts = {f"own/{part:03}.tar": names[part::3] for part in range(3)}
    for key, members in {**parts, "alone/all.tar": ["metadata.jsonl", *reversed(names)]}.items():
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            for name in members:
                archive.add(pictures / name, name)
        client(state).put_object(Bucket=state.s3_bucket, Key=key, Body=file.getvalue())
    metadata = (pictures / "metadata.jsonl").read_bytes()
    client(state).put_object(Bucket=state.s3_bucket, Key="own/metadata.jsonl", Body=metadata)
    client(state).put_object(Bucket=state.s3_bucket, Key="own/readme.md", Body=b"not a tar")
    return state.s3_bucket


@pytest.fixture
def make(environment: None, tmp_path: Path) -> Callable[..., ImageSet]:
    def run(source: str, root: str = "set", **options: Any) -> ImageSet:
        console = Console(file=io.StringIO())
        return prepare_once(source, tmp_path / root, Settings(16, **options), console=console)

    return run


def refused(make: Callable[..., ImageSet], source: str) -> str:
    with pytest.raises(DataError) as caught:
        make(source)
    message = str(caught.value)
    assert message.startswith(f"data.root: {source}")
    assert "\n" not in message
    return message


def test_tars_in_s3_make_the_same_set_as_the_folder(make: Callable[..., ImageSet], bucket: str, pictures: Path) -> None:
    of_folder = make(str(pictures), "folder").description
    assert of_folder.count == COUNT
    assert make(f"s3://{bucket}/own/", "prefix").description == of_folder
    assert make(f"s3://{bucket}/own", "bare").description == of_folder
    assert make(f"s3://{bucket}/alone/all.tar", "key").description == of_folder


def test_other_layouts_in_s3_make_the_same_set_as_the_folder(
    make: Callable[..., ImageSet], state: StackState, pictures: Path, tmp_path: Path
) -> None:
    names = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.*"))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.write(pictures / name, name)
    put = partial(client(state).put_object, Bucket=state.s3_bucket)
    put(Key="zips/all.zip", Body=packed.getvalue())
    for name in names:
        put(Key=f"loose/{name}", Body=(pictures / name).read_bytes())
    expected = make(str(pictures), "folder").description.fingerprint
    for place in ("zips/", "zips/all.zip", "loose/"):
        made = make(f"s3://{state.s3_bucket}/{place}", f"set-{place.replace('/', '-')}")
        assert made.description.fingerprint == expected, place


def test_parquet_and_idx_files_in_s3_are_read(make: Callable[..., ImageSet], state: StackState, pictures: Path) -> None:
    images = [path.read_bytes() for path in sorted(pictures.rglob("*.png"))]
    table = io.BytesIO()
    pq.write_table(pa.table({"image": [{"bytes": one, "path": None} for one in images], "label": [1] * COUNT}), table)
    put = partial(client(state).put_object, Bucket=state.s3_bucket)
    put(Key="rows/train.parquet", Body=table.getvalue())
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16), dtype=np.uint8)
    put(Key="idx/train-images-idx3-ubyte", Body=struct.pack(">4i", 0x803, *pixels.shape) + pixels.tobytes())
    put(Key="idx/train-labels-idx1-ubyte", Body=struct.pack(">2i", 0x801, COUNT) + bytes([1, 2] * (COUNT // 2)))
    assert len(make(f"s3://{state.s3_bucket}/rows/", "rows").images) == COUNT
    for place in ("idx/", "idx/train-images-idx3-ubyte"):
        made = make(f"s3://{state.s3_bucket}/{place}", f"set-{place.replace('/', '-')}")
        assert (len(made.images), made.description.classes) == (COUNT, ("1", "2")), place


def test_a_part_of_the_tars_lacks_what_the_metadata_beside_them_lists(
    make: Callable[..., ImageSet], bucket: str
) -> None:
    part = make(f"s3://{bucket}/own/001.tar", max_bad=0.9)
    assert part.description.count == COUNT // 3


def test_a_set_is_made_again_only_when_an_object_changes(
    make: Callable[..., ImageSet], bucket: str, state: StackState, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = f"s3://{bucket}/alone/"
    made = make(source)
    with monkeypatch.context() as patch:
        patch.setattr(object_storage, "ObjectStream", unread)
        assert make(source).description == made.description
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo("more.txt")
        archive.addfile(info)
    client(state).put_object(Bucket=bucket, Key="alone/more.tar", Body=file.getvalue())
    try:
        with monkeypatch.context() as patch:
            patch.setattr(object_storage, "ObjectStream", unread)
            with pytest.raises(AssertionError, match="read"):
                make(source)
        assert make(source).description == made.description
    finally:
        client(state).delete_object(Bucket=bucket, Key="alone/more.tar")


def test_a_broken_connection_is_taken_up_where_it_broke(environment: None, bucket: str) -> None:
    """Given a real object, when the connection breaks in its middle, then the rest is asked for by its range."""
    source = open_source(f"s3://{bucket}/alone/all.tar")
    whole = source.archives[0].open().read(source.total)  # type: ignore[attr-defined]
    stream = source.archives[0].open()  # type: ignore[attr-defined]
    begin = stream.read(10_000)
    stream.pause = 0
    stream.body.close()
    stream.body = Broken()
    rest = b"".join(iter(lambda: stream.read(10_000), b""))
    assert len(begin) == 10_000
    assert begin + rest == whole
    assert len(whole) == source.total


def unread(*_: Any) -> None:
    raise AssertionError("an object was read")


class Broken:
    """A connection that is gone."""

    def read(self, size: int) -> bytes:
        raise ConnectionResetError("connection reset by peer")

    def close(self) -> None:
        pass


def test_an_object_that_is_replaced_meanwhile_is_not_mixed(environment: None, bucket: str, state: StackState) -> None:
    client(state).put_object(Bucket=bucket, Key="changing/x.tar", Body=b"1" * 50_000)
    try:
        stream = open_source(f"s3://{bucket}/changing/x.tar").archives[0].open()  # type: ignore[attr-defined]
        client(state).put_object(Bucket=bucket, Key="changing/x.tar", Body=b"2" * 50_000)
        with pytest.raises(DataError, match="was replaced while it was read"):
            stream.read(10)
    finally:
        client(state).delete_object(Bucket=bucket, Key="changing/x.tar")


def test_what_is_not_there(make: Callable[..., ImageSet], bucket: str) -> None:
    assert "there is no such bucket" in refused(make, "s3://no-such-bucket/own/")
    assert refused(make, "s3://no-such-bucket/own/x.tar").endswith("does not exist")
    assert refused(make, f"s3://{bucket}/own/x.tar").endswith("does not exist")
    with pytest.raises(DataError, match=f"data.root: there are no images under s3://{bucket}/nowhere/, nor a tar"):
        make(f"s3://{bucket}/nowhere/")


def test_wrong_credentials(
    make: Callable[..., ImageSet], bucket: str, state: StackState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    for source in (f"s3://{bucket}/own/", f"s3://{bucket}/own/000.tar"):
        message = refused(make, source)
        assert "may not be read with these credentials" in message
        assert "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in message
        assert "wrong-secret" not in message
        assert state.s3_access_key_id not in message


def test_no_credentials(
    make: Callable[..., ImageSet], bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    assert "needs credentials; set AWS_ACCESS_KEY_ID" in refused(make, f"s3://{bucket}/own/")


def test_an_endpoint_that_does_not_answer(
    make: Callable[..., ImageSet], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://someone:pass-word@127.0.0.1:{port}")
    message = refused(make, f"s3://{bucket}/own/")
    assert f"http://127.0.0.1:{port} does not answer" in message
    assert "check AWS_ENDPOINT_URL" in message
    assert "pass-word" not in message

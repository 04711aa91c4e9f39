"""Objects that are damaged, foreign or not kept are noticed, whatever the store says."""

import hashlib
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from services.storage.content import PART_BYTES, Content
from services.storage.errors import ObjectStoreError
from services.storage.listing import find_kept
from services.storage.object_store import ObjectStore, Stored
from services.storage.transient import is_transient
from tests.support.s3_proxy import Request, S3Proxy, s3_proxy
from tests.support.stack import Stack

BODY = b"an image" * 1000


def stored(body: bytes) -> Stored:
    return Stored(hashlib.sha256(body).hexdigest(), len(body))


def put_raw(store: ObjectStore, key: str, body: bytes, **metadata: str) -> None:
    store.client.put_object(Bucket=store.bucket, Key=key, Body=body, Metadata=metadata)


def test_the_first_object_stays(stack: Stack) -> None:
    store = stack.store()
    assert store.put_if_absent("once/object", b"first") == stored(b"first")
    assert store.put_if_absent("once/object", b"the second, longer") == stored(b"first")
    assert store.get("once/object") == b"first"


@pytest.mark.parametrize("name", ["sha256", "Sha256", "SHA256"])
def test_an_object_with_its_own_sha256_stays_however_the_name_is_written(stack: Stack, name: str) -> None:
    store = stack.store()
    put_raw(store, f"named/{name}", b"of another profile", **{name: stored(b"of another profile").sha256})
    assert store.put_if_absent(f"named/{name}", BODY) == stored(b"of another profile")


def test_an_answer_that_is_not_from_the_store_passes(stack: Stack) -> None:
    """A proxy or a portal answers with 200, and nothing that the store would say."""
    stack.store().put("kept/object", BODY, content_type="image/png")
    foreign = S3Proxy(rename=lambda name: "X-Other" if name.lower() == "etag" else name)
    with s3_proxy(stack.settings("worker"), foreign) as store:
        for act in (lambda: store.get("kept/object"), lambda: store.put_if_absent("kept/object", BODY)):
            with pytest.raises(BotoCoreError, match="is not from an object store") as error:
                act()
            assert is_transient(error.value)


def test_a_store_that_capitalises_metadata(stack: Stack) -> None:
    capitalise = S3Proxy(rename=lambda name: name.title() if name.lower().startswith("x-amz-meta") else name)
    with s3_proxy(stack.settings("worker"), capitalise) as store:
        assert store.put_if_absent("capitals/object", b"first") == stored(b"first")
        assert store.put_if_absent("capitals/object", b"second") == stored(b"first")


@pytest.mark.parametrize(
    ("body", "metadata"),
    [
        (b"not an image", {}),
        (BODY[:-1], {"sha256": hashlib.sha256(BODY).hexdigest()}),
        (BODY[:-1], {"sha256": "ab" * 32}),
        (b"x" + BODY[1:], {"sha256": hashlib.sha256(BODY).hexdigest()}),
        (b"", {"sha256": hashlib.sha256(BODY).hexdigest()}),
        (BODY[:-1], {"sha256": ""}),
    ],
    ids=["foreign", "truncated", "truncated, of another profile", "a byte differs", "empty", "no digest"],
)
def test_a_damaged_or_foreign_object_is_replaced(stack: Stack, body: bytes, metadata: dict[str, str]) -> None:
    store = stack.store()
    put_raw(store, "damaged/object", body, **metadata)
    assert store.put_if_absent("damaged/object", BODY, content_type="image/png") == stored(BODY)
    assert store.get("damaged/object") == BODY


def test_an_object_is_written_by_one_request_that_says_what_boto3_says(stack: Stack) -> None:
    seen, key = S3Proxy(), "signed/a =~+é.png"
    with s3_proxy(stack.settings("worker"), seen) as store:
        stored_now = store.put_if_absent(key, BODY, content_type="image/png", checked_later=True)
        (signed,) = seen.requests
        assert stored_now.sha256 == stored(BODY).sha256
        content = Content.of_bytes(BODY)
        store.client.put_object(
            Bucket=store.bucket,
            Key=key,
            Body=BODY,
            ContentType="image/png",
            Metadata={"sha256": content.sha256},
            ContentMD5=signed.headers["content-md5"],
        )
        by_boto3 = seen.requests[-1]
    assert signed.path == by_boto3.path
    assert signed.headers["if-none-match"] == "*"
    same = ("content-md5", "content-type", "content-length", "host", "x-amz-meta-sha256", "x-amz-content-sha256")
    assert {name: signed.headers[name] for name in same} == {name: by_boto3.headers[name] for name in same}
    assert stack.store().get(key) == BODY


def test_a_request_that_is_refused_once_is_repeated_and_one_that_is_refused_always_is_told(stack: Stack) -> None:
    answers = [503]
    with s3_proxy(stack.settings("worker"), S3Proxy(refuse=lambda _: answers.pop() if answers else None)) as store:
        assert store.put_if_absent("signed/refused-once", BODY) == stored(BODY)
    with s3_proxy(stack.settings("worker"), S3Proxy(refuse=lambda _: 403)) as store:
        with pytest.raises(ClientError) as error:
            store.put_if_absent("signed/refused", BODY)
        assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        assert not is_transient(error.value)


def truncating(stack: Stack, times: int) -> S3Proxy:
    """A store that says it has stored an object, `times` times, and keeps all but its last byte."""
    direct = stack.store()

    def truncate(request: Request) -> None:
        nonlocal times
        if request.method == "PUT" and times:
            times -= 1
            key = request.path.split("?")[0].removeprefix(f"/{direct.bucket}/")
            put_raw(direct, key, request.body[:-1], sha256=request.headers.get("x-amz-meta-sha256", ""))

    return S3Proxy(accepted=truncate)


def test_an_object_that_the_store_truncates_once_is_written_again(stack: Stack) -> None:
    with s3_proxy(stack.settings("worker"), truncating(stack, 1)) as store:
        assert store.put_if_absent("truncated/once", BODY) == stored(BODY)
        assert store.get("truncated/once") == BODY


def test_a_store_that_truncates_is_not_believed(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BODY)
    with s3_proxy(stack.settings("worker"), truncating(stack, 100)) as store:
        for write in (
            lambda: store.put_if_absent("truncated/always", BODY),
            lambda: store.put("truncated/put", BODY, content_type="text/plain"),
            lambda: store.upload("truncated/upload", tmp_path / "file"),
            lambda: store.upload_if_absent("truncated/blob", tmp_path / "file", sha256=stored(BODY).sha256),
        ):
            with pytest.raises(ObjectStoreError, match=r"truncated/.*the store accepted 8000 bytes and"):
                write()


@pytest.mark.parametrize("size", [0, 1000, PART_BYTES, 2 * PART_BYTES + 1])
def test_a_whole_blob_is_neither_uploaded_again_nor_read(stack: Stack, tmp_path: Path, size: int) -> None:
    path = tmp_path / "blob"
    path.write_bytes(b"ab" * (size // 2) + b"c" * (size % 2))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    seen = S3Proxy()
    with s3_proxy(stack.settings("publisher"), seen) as store:
        store.upload_if_absent(f"whole/{size}", path, sha256=sha256)
        assert store.get(f"whole/{size}") == path.read_bytes()
        seen.requests.clear()
        store.upload_if_absent(f"whole/{size}", path, sha256=sha256)
    assert [request.method for request in seen.requests] == ["HEAD"]


@pytest.mark.parametrize("part", [5 * 2**20, PART_BYTES])
@pytest.mark.parametrize("damage", ["none", "truncated", "a byte differs", "missing"])
def test_a_damaged_blob_is_replaced_and_a_whole_one_stays(stack: Stack, tmp_path: Path, damage: str, part: int) -> None:
    """A whole blob may have been uploaded in parts of another size, so that its ETag is another."""
    from boto3.s3.transfer import TransferConfig

    store, body = stack.store(), b"weights!" * (PART_BYTES // 8 + 1)
    path, there = tmp_path / "blob", tmp_path / "there"
    path.write_bytes(body)
    changed = {"none": body, "truncated": body[:-1], "a byte differs": b"W" + body[1:], "missing": b""}[damage]
    there.write_bytes(changed)
    key, sha256 = f"blob/{damage}-{part}", hashlib.sha256(body).hexdigest()
    if damage != "missing":
        config = TransferConfig(multipart_threshold=part, multipart_chunksize=part)
        metadata = {"Metadata": {"sha256": sha256}}
        store.client.upload_file(str(there), store.bucket, key, ExtraArgs=metadata, Config=config)
    before = store.etag(key)
    store.upload_if_absent(key, path, sha256=sha256)
    assert store.get(key) == body
    assert (store.etag(key) == before) == (damage == "none")


def test_what_a_store_keeps_is_found_by_listings(stack: Stack) -> None:
    direct = stack.store()
    keys = [f"listed/{folder}/{number:08d}.png" for folder in "ab" for number in (1, 2, 3, 5, 900)]
    contents = {key: Content.of_bytes(key.encode()) for key in keys}
    for key in [*keys, "listed/a/00000004.png", "listed/other"]:
        direct.put_if_absent(key, key.encode())
    put_raw(direct, keys[1], b"damaged")
    put_raw(direct, keys[2], keys[2].encode()[::-1])
    direct.delete([keys[6]])
    seen = S3Proxy()
    with s3_proxy(stack.settings("worker"), seen) as store:
        assert find_kept(store, contents) == set(keys) - {keys[1], keys[2], keys[6]}
        assert len(seen.requests) == 2
        assert find_kept(store, {keys[1]: contents[keys[1]], keys[0]: contents[keys[0]]}) == {keys[0]}
        assert len(seen.requests) == 4
        head = store.signed.head(keys[0])
        assert head is not None
        assert head.items() <= (store.head(keys[0]) or {}).items()
        assert not store.holds(keys[6], contents[keys[6]])


def test_a_listing_goes_on_where_the_store_has_ended_it(stack: Stack) -> None:
    direct = stack.store()
    keys = [f"paged/{number:08d}.png" for number in range(60)]
    contents = {key: Content.of_bytes(key.encode()) for key in keys[::10]}
    for key in keys:
        direct.put_if_absent(key, key.encode())
    assert find_kept(direct, contents) == set(contents)

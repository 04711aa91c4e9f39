"""Images that a tenant gives as conditions: bombs, odd files and files that the model cannot use.

The neighbour's jobs are done all the same, and no process ends.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.images import as_base64, decompression_bomb, image_file
from tests.support.releases import RESOLUTION_MODEL, make_resolution_release
from tests.support.stack import Process, Stack, publish
from tests.support.tenants import Tenant, end_open_jobs

pytestmark = pytest.mark.long

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
SMALL = as_base64(image_file(PIXELS))
SAME = "the same image as PIXELS"


@pytest.fixture(scope="module")
def resolution_release(stack: Stack) -> None:
    """A release that takes a low-resolution image of any size."""
    publish(stack, make_resolution_release(stack.root / RESOLUTION_MODEL))


@pytest.fixture(autouse=True)
def no_open_jobs(stack: Stack) -> Iterator[None]:
    """Jobs that a test leaves open do not reach the next one."""
    yield
    end_open_jobs(stack)


def submit(tenant: Tenant, images: list[str], **fields: Any) -> Any:
    """Submit one item for each image."""
    items = [{"low_resolution": image, "seed": 1} for image in images]
    return tenant.submit({"items": items, "steps": 1, **fields}, model=RESOLUTION_MODEL)


@pytest.mark.usefixtures("resolution_release")
def test_a_request_of_bombs_is_planned_within_a_bounded_time(
    stack: Stack, hostile_dispatcher: Process, attacker: Tenant, neighbour: Tenant
) -> None:
    """Fifty files of 48 KB in each of five requests; without a bound they would unpack to four billion pixels."""
    large = as_base64(image_file(Image.new("RGB", (4096, 4096), (9, 30, 7))))
    jobs = [submit(attacker, [large] * 50, seed=number) for number in range(5)]
    follower = neighbour.submit()
    neighbour.wait(follower, "planned", timeout=60)
    for job_id in jobs:
        attacker.wait(job_id, "planned", timeout=60)
    assert hostile_dispatcher.child.poll() is None


@pytest.mark.usefixtures("resolution_release", "hostile_dispatcher")
def test_large_images_hold_up_neither_the_engine_nor_a_neighbour(
    stack: Stack, attacker: Tenant, neighbour: Tenant
) -> None:
    """Eight files of 48 KB, 128 million pixels in all. A step limit of 10 seconds ends a process whose engine waits."""
    large = [as_base64(image_file(Image.new("RGB", (4096, 4096), (shade, 30, 7)))) for shade in range(8)]
    with stack.process("worker", DARKROOM_STEP_LIMIT_S="10", DARKROOM_ROWS="32") as worker:
        neighbour.wait(submit(neighbour, [SMALL]))
        slow = submit(attacker, large)
        attacker.wait(slow, "running")
        assert neighbour.wait(submit(neighbour, [SMALL])).state == "succeeded"
        assert attacker.job(slow).state == "running"  # what came after it is not behind it
        assert attacker.wait(slow).state == "succeeded"
        assert worker.child.poll() is None


UNDECODABLE = """
import torch
from training.model.autoencoder import Autoencoder
from services.worker.engine import Engine
leave_step, decode = Engine._step, Autoencoder.decode
def marking(self):
    leave = self.pack.batch.leave
    def mark(run):
        latent = leave(run)
        if run.seed % 7 == 3 and len(run.trajectory) == 9:
            latent[0, 0, 0] = 4321.0
        if run.seed % 7 == 4 and len(run.trajectory) == 9:
            latent[0, 0, 0] = float("nan")
        return latent
    self.pack.batch.leave = mark
    try:
        return leave_step(self)
    finally:
        del self.pack.batch.leave
def picky(self, latents, **options):
    if (latents == 4321.0).any():
        raise RuntimeError("this one cannot be decoded")
    return decode(self, latents, **options)
Engine._step, Autoencoder.decode = marking, picky
"""


@pytest.mark.usefixtures("hostile_dispatcher")
def test_images_that_cannot_be_decoded_fail_alone(stack: Stack, attacker: Tenant, neighbour: Tenant) -> None:
    """One image in seven cannot be decoded, and one in seven is not finite. No other image notices, nor does a job."""
    request = {"items": [{"class_label": 1}], "images_per_item": 64, "solver": "ddim", "seed": 0}
    with stack.process("worker", first=UNDECODABLE) as worker:
        bad = attacker.submit({**request, "steps": 9})
        good = neighbour.submit({**request, "steps": 10})
        row = attacker.wait(bad)
        assert neighbour.wait(good).state == "succeeded"
        assert worker.child.poll() is None
    broken, infinite = (sum(seed % 7 == rest for seed in range(64)) for rest in (3, 4))
    assert (row.state, row.failed, row.succeeded) == ("partial", broken + infinite, 64 - broken - infinite)
    outputs = attacker.outputs(bad)
    assert len(outputs) == 64
    for output in outputs:
        match output.seed % 7:
            case 3:
                assert output.error == "it cannot be decoded: this one cannot be decoded"
            case 4:
                assert output.error.startswith("it has NaN or infinite values; ")
            case _:
                assert output.error is None


def with_chunks(name: bytes, content: bytes, count: int = 1) -> bytes:
    """Return a small PNG with chunks before its pixels."""
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    body = image_file(PIXELS)
    return body[:33] + chunk * count + body[33:]


def with_segments(segment: bytes, count: int) -> bytes:
    """Return a small JPEG file with segments before its pixels."""
    body = image_file(PIXELS, "JPEG")
    return body[:2] + segment * count + body[2:]


def odd_files() -> dict[str, tuple[bytes, str]]:
    """Return files by name, and what is said about each; empty if it is used, SAME if it is PIXELS."""
    image = Image.fromarray(PIXELS)
    frames = [Image.new("RGB", (8, 8), (40 * i, 0, 0)) for i in range(5)]
    animated = {"save_all": True, "append_images": frames[1:]}
    unreadable = "is not a readable image; permitted: PNG, JPEG, WEBP files"
    return {
        "rgb": (image_file(image), SAME),
        "rgba": (image_file(image.convert("RGBA")), SAME),
        "lossless webp": (image_file(image, "WEBP", lossless=True), SAME),
        "grey": (image_file(image.convert("L")), ""),
        "palette": (image_file(image.convert("P")), ""),
        "1-bit": (image_file(image.convert("1")), ""),
        "16-bit": (image_file(np.arange(64, dtype=np.uint16).reshape(8, 8) * 999), ""),
        "cmyk": (image_file(image.convert("CMYK"), "JPEG"), ""),
        "apng": (image_file(frames[0], "PNG", **animated), ""),
        "animated webp": (image_file(frames[0], "WEBP", **animated), ""),
        "one column": (image_file(Image.new("RGB", (1, 4096))), ""),
        "one row": (image_file(Image.new("L", (16_000_000, 1))), ""),
        "a bomb": (decompression_bomb(30_000), "pixels is not allowed; permitted: at most 16777216 pixels"),
        "a text bomb": (with_chunks(b"zTXt", b"k\0\0" + zlib.compress(bytes(200_000_000), 9)), unreadable),
        "profiles": (
            with_chunks(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2**20)), 500),
            "a PNG file of 500 profiles is not allowed; permitted: at most 64 profiles",
        ),
        "a profile": (with_chunks(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2**20))), SAME),
        "chunks": (with_chunks(b"abCd", b"", 150_000), "permitted: at most 100000 reads"),
        "segments": (with_segments(b"\xff\xe5\0\2", 400_000), "permitted: at most 100000 reads"),
        "fill bytes": (with_segments(b"\xff", 1_000_000), "permitted: at most 100000 reads"),
        "animated gif": (image_file(frames[0], "GIF", **animated), unreadable),
        "tiff": (image_file(image, "TIFF"), unreadable),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>', unreadable),
        "truncated": (image_file(image)[:-60], unreadable),
        "truncated jpeg": (image_file(image.resize((64, 64)), "JPEG")[:-200], unreadable),
        "no pixels": (image_file(image).replace(struct.pack(">II", 8, 8), bytes(8)), unreadable),
        "noise": (np.random.default_rng(0).bytes(100_000), unreadable),
        "empty": (b"", unreadable),
    }


@pytest.mark.usefixtures("resolution_release", "service")
def test_odd_files_are_used_or_refused_in_words(stack: Stack, attacker: Tenant, neighbour: Tenant) -> None:
    """In objects each fails alone, after a claim; in a request each is refused in planning."""
    files = odd_files()
    store = stack.store()
    uris = []
    for name, (body, _) in files.items():
        key = f"inputs/attacker/{name.replace(' ', '_')}"
        store.put(key, body, content_type="image/png")
        uris.append(str(store.uri(key)))
    stored = submit(attacker, uris)
    inline = {name: submit(attacker, [as_base64(body)]) for name, (body, _) in files.items()}
    neighbour.assert_served()
    for name, (_, words) in files.items():
        row = attacker.wait(inline[name])
        if words in ("", SAME):
            assert row.state == "succeeded", (name, row.reason)
        else:
            assert row.state == "rejected", name
            assert row.reason.startswith("items[0].low_resolution: "), (name, row.reason)
            assert words in row.reason, (name, row.reason)
            assert "object at 0x" not in row.reason
    row = attacker.wait(stored)
    assert row.state == "partial", row.reason
    outputs = attacker.outputs(stored)
    for (name, (_, words)), output in zip(files.items(), outputs, strict=True):
        if words in ("", SAME):
            assert output.error is None, (name, output.error)
            assert (output.sha256 == outputs[0].sha256) == (words == SAME), name
        else:
            assert output.error.startswith("low_resolution: "), name
            assert words in output.error, (name, output.error)

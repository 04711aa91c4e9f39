"""What a job records of an image is what S3 holds, whatever lay under its key and whatever the store says."""

import hashlib

from tests.support.s3_proxy import Request, S3Proxy, s3_proxy
from tests.support.stack import Stack

REQUEST = {"items": [{"class_label": 1}], "steps": 1, "seed": 5}
OTHER = {"sha256": "ab" * 32}


def test_a_job_whose_keys_hold_other_objects_records_its_images(stack: Stack) -> None:
    store = stack.store()
    with stack.process("dispatcher"):
        jobs = [stack.submit(REQUEST) for _ in range(3)]
        for job_id in jobs:
            stack.wait(job_id, "planned")
        for job_id, (body, metadata) in zip(
            jobs, [(b"not an image", {}), (b"\x89PNG truncated", OTHER), (b"", OTHER)], strict=True
        ):
            key = f"outputs/default/{job_id}/images/00000000.png"
            store.client.put_object(Bucket=store.bucket, Key=key, Body=body, Metadata=metadata)
        with stack.process("worker"):
            states = [stack.wait(job_id).state for job_id in jobs]
    assert states == ["succeeded"] * 3
    recorded = [stack.outputs(job_id)[0] for job_id in jobs]
    for output in recorded:
        body = store.get(output.key)
        assert (output.sha256, output.bytes) == (hashlib.sha256(body).hexdigest(), len(body))
        assert body.startswith(b"\x89PNG")
    assert len({output.sha256 for output in recorded}) == 1


def test_images_that_the_store_does_not_keep_fail_and_say_so(stack: Stack) -> None:
    direct = stack.store()

    def truncate(request: Request) -> None:
        if request.method == "PUT" and "/images/" in request.path:
            key = request.path.split("?")[0].removeprefix(f"/{direct.bucket}/")
            metadata = {"sha256": request.headers["x-amz-meta-sha256"]}
            direct.client.put_object(Bucket=direct.bucket, Key=key, Body=request.body[:-7], Metadata=metadata)

    with (
        s3_proxy(stack.settings("worker"), S3Proxy(accepted=truncate)) as proxied,
        stack.process("dispatcher"),
        stack.process("worker", DARKROOM_S3_ENDPOINT_URL=proxied.client.meta.endpoint_url),
    ):
        job_id = stack.submit(REQUEST)
        assert stack.wait(job_id).state == "failed"
    (output,) = stack.outputs(job_id)
    assert "the store accepted " in output.error
    assert "does not return them; check the store" in output.error

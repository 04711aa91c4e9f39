"""What a GPU must do for the service's promises: the same bytes, no waiting, and errors that say what happened."""

import numpy as np
import torch

from services.job_requests.image_spec import ImageSpec
from services.worker.decoder import Decoder
from services.worker.images import Developed, Failed, Finished
from tests.benchmarks import gpu_memory
from tests.benchmarks.gpu_parts import add, develop
from tests.benchmarks.gpu_timing import DEVICE
from tests.support.gpu import IMAGES, check_bytes, check_no_step_waits, engine, no_waiting, pixels, psnr
from training.model.pixels import to_bytes


def test_no_step_waits_for_the_device() -> None:
    check_no_step_waits("bf16")


def test_nothing_waits_while_images_are_decoded_beside_steps() -> None:
    made = engine("bf16")
    develop(made, IMAGES)
    for index in IMAGES:
        add(made, index)
    done = 0
    with no_waiting():
        while made.busy:
            done += len(made.step())
    assert done == len(IMAGES)


def test_bytes_do_not_depend_on_place_or_company_in_fp32() -> None:
    check_bytes("fp32")


def test_bytes_do_not_depend_on_place_or_company_in_bf16() -> None:
    check_bytes("bf16")


def test_bf16_is_close_to_fp32() -> None:
    exact = pixels("fp32")
    assert psnr(pixels("bf16"), exact) > 35


def test_images_are_those_of_their_latents_though_the_main_stream_goes_on() -> None:
    """Latents are freed, and their memory is written again, while they are decoded on another stream."""
    made = engine("bf16")
    with torch.inference_mode():
        pack, rows = made.pack, made.decode_rows
        decoder: Decoder[str] = Decoder(made.model, pack._decode_latents, pack.shape, rows, DEVICE)
        request = made.request(ImageSpec(0, 0, 0, 2, "ddim", 1.0), made.read_conditions({"class_label": 1}))
        latents = torch.randn(6, rows, *pack.shape, device=DEVICE)
        expected = [to_bytes(pack._decode_latents(made.model.autoencoder, group)) for group in latents]
        found = []
        for group in latents:
            decoder.start([Finished("owner", request, latent.clone(), 0, 1, 0.0) for latent in group])
            for _ in range(50):  # other tensors of the same size
                torch.full(pack.shape, float("nan"), device=DEVICE)
            found += decoder.take(wait=False)
        while decoder.finished:
            found += decoder.take(wait=True)
        for one, right in zip(found, np.concatenate(expected), strict=True):
            assert isinstance(one.pixels, np.ndarray), one
            assert np.array_equal(one.pixels, right)


def test_a_full_device_serves_with_fewer_rows() -> None:
    gpu_memory.out_of_memory(DEVICE.type != "cuda", lambda name, value: None)


def test_nan_in_bf16_fails_the_image_alone() -> None:
    made = engine("bf16")
    add(made, 0)
    add(made, 1)
    made.step()
    with torch.inference_mode():
        made.pack.batch._state[0].fill_(float("nan"))
    done = [one for _ in iter(lambda: made.busy, False) for one in made.step()]
    assert sorted(type(one).__name__ for one in done) == ["Developed", "Failed"]
    failed = next(one for one in done if isinstance(one, Failed))
    assert failed.error.startswith("it has NaN or infinite values in bf16")
    made_alone = develop(made, [1])
    assert [one.pixels.tobytes() for one in done if isinstance(one, Developed)] == [made_alone[1]]

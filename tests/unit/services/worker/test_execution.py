"""Execution profiles: what they are called, what they compute, and when nothing may be served with them."""

import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo import config as dynamo

from services.worker import execution
from services.worker.device_faults import OutOfMemory, UnstableProfile
from services.worker.engine import Engine
from services.worker.execution import Execution
from services.worker.images import Failed
from tests.support.releases import make_small_release
from tests.unit.services.worker.test_engine import MIX, develop, image
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.batch import Batch
from training.model.release import Serve, read, write

CPU = torch.device("cpu")


def make(tiny_release: Path, profile: str = "auto") -> Engine[object]:
    return Engine[object](tiny_release, rows=8, device="cpu", profile=profile)


@pytest.mark.parametrize(
    ("profile", "device", "expected"),
    [
        ("auto", "cpu", (torch.float32, False)),
        ("auto", "cuda", (torch.bfloat16, True)),
        ("fp32", "cuda", (torch.float32, False)),
        ("fp32-compiled", "cpu", (torch.float32, True)),
        ("bf16", "cpu", (torch.bfloat16, False)),
        ("bf16-compiled", "cpu", (torch.bfloat16, True)),
    ],
)
def test_a_profile_is_chosen_by_setting_and_device(
    profile: str, device: str, expected: tuple[torch.dtype, bool]
) -> None:
    chosen = Execution.choose(profile, torch.device(device))
    assert (chosen.dtype, chosen.compiled) == expected


def test_profiles_have_different_names() -> None:
    names = {Execution.choose(profile, CPU).name(8, 4, 1) for profile in ("fp32", "fp32-compiled", "bf16")}
    assert len(names) == 3
    assert f"/torch-{torch.__version__}/float32/eager/8+4+1rows#" in Execution.choose("fp32", CPU).name(8, 4, 1)


def test_bf16_gives_the_same_bytes_in_any_company_and_nearly_those_of_fp32(tiny_release: Path) -> None:
    engine = make(tiny_release, "bf16")
    together = develop(engine, MIX[:8])
    shuffled = MIX[:8]
    random.Random(1).shuffle(shuffled)
    assert develop(engine, shuffled) == together
    for each in MIX[:2]:
        assert develop(engine, [each])[each.spec.seed] == together[each.spec.seed]
    exact = develop(make(tiny_release), MIX[:8])
    assert exact != together
    for seed, pixels in exact.items():
        difference = np.frombuffer(pixels, np.uint8).astype(int) - np.frombuffer(together[seed], np.uint8)
        assert np.sqrt((difference**2).mean()) < 4.5  # of 255, 35 dB


def test_bf16_keeps_what_decides_a_latent_in_float32(tiny_release: Path) -> None:
    engine = make(tiny_release, "bf16")
    assert engine.model.unet.conv_in.weight.dtype == torch.bfloat16
    assert next(engine.model.autoencoder.decoder.parameters()).dtype == torch.bfloat16
    assert engine.model.autoencoder.latent_scale.dtype == torch.float32
    assert next(engine.model.autoencoder.encoder.parameters()).dtype == torch.float32
    assert engine.pack.batch._state.dtype == torch.float32


def test_nan_in_bf16_fails_the_image_and_says_what_to_do(tiny_release: Path) -> None:
    engine = make(tiny_release, "bf16")
    with torch.no_grad():
        next(engine.model.unet.conv_out.parameters()).fill_(float("nan"))
    engine.add("owner", engine.request(image(1, steps=1).spec, engine.read_conditions({"class_label": 1})))
    (failed,) = engine.step()
    assert isinstance(failed, Failed)
    assert failed.error.startswith("it has NaN or infinite values in bf16")
    assert "serve the release in fp32" in failed.error


@pytest.mark.parametrize("part", ["step", "decoder"])
@pytest.mark.parametrize("fault", ["place", "company"])
def test_a_profile_whose_rows_are_not_independent_serves_nothing(
    tiny_release: Path, monkeypatch: pytest.MonkeyPatch, part: str, fault: str
) -> None:
    """As a kernel that is chosen by the batch's content, or that rounds its last rows in another way."""

    def disturb(answer: Tensor) -> Tensor:
        if fault == "place":
            return answer + torch.arange(len(answer)).reshape(-1, *[1] * (answer.dim() - 1)) * 1e-6
        return answer + answer.mean() * 1e-6

    if part == "step":

        def take_step(self: Execution) -> Any:
            real = original(self)
            return lambda *given: tuple(map(disturb, real(*given)))

        original = Execution.take_step
        monkeypatch.setattr(Execution, "take_step", take_step)
    else:
        monkeypatch.setattr(Execution, "decode", lambda self: lambda first, z: disturb(first.decode(z)))
    with pytest.raises(UnstableProfile, match=r"profile cpu/.*: (a step|the decoder) gives .* set DARKROOM_PROFILE"):
        make(tiny_release)


def test_memory_that_does_not_suffice_for_the_rows_is_noticed_at_load(
    tiny_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Batch, "__init__", fail)
    with pytest.raises(OutOfMemory, match="CUDA out of memory"):
        make(tiny_release)


def test_a_release_that_needs_fp32_or_fewer_rows_gets_them(tiny_release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ruled"
    shutil.copytree(tiny_release, folder)
    write(folder, read(folder).with_rule(Serve("fp32", 4)))
    engine = make(folder, "bf16")
    assert engine.model.unet.conv_in.weight.dtype == torch.float32
    assert "/float32/eager/4+" in engine.profile
    assert engine.profile == Engine[object](tiny_release, rows=4, device="cpu", profile="fp32").profile
    assert Engine[object](folder, rows=2, device="cpu").rows == 2


def test_joined_projections_give_the_same_bytes(tiny_release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = make(tiny_release)
    assert not [name for name, _ in joined.model.unet.named_parameters() if "self_attention.query" in name]
    monkeypatch.setattr(execution, "join_projections", lambda model: None)
    apart = make(tiny_release)
    assert develop(apart, MIX[:8]) == develop(joined, MIX[:8])
    assert apart.weight_bytes == joined.weight_bytes


@pytest.mark.long
def test_a_process_compiles_more_networks_than_torch_does_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After torch's limit a step fails, and a decoder runs eagerly without a word, with other bytes."""
    release = make_small_release(tmp_path / "release")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # which compiles nothing
    with dynamo.patch(recompile_limit=1, accumulated_recompile_limit=1):
        for rows in (2, 3):
            engine = Engine[object](release, rows=rows, device="cpu", profile="fp32-compiled")
        assert engine.rows == 3
    torch._dynamo.reset()


def test_a_decoder_with_a_codebook_is_compiled_as_a_whole() -> None:
    config = AutoencoderConfig(1, 2, 32, (1,), 0, middle_attention=False, regularisation="vq", codebook_size=8)
    model, latents = Autoencoder(config).eval(), torch.randn(2, 2, 8, 8)
    explained = torch._dynamo.explain(execution.decode)(model, latents)
    assert explained.graph_break_count == 0

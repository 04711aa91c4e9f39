"""Releases in the authors' layout are read again as the same models."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.comparison import random_weights
from tests.support.compvis import tiny_checkpoint, write_checkpoint
from tests.support.stable_diffusion_runs import KINDS, import_files
from tests.unit.training.model.test_huggingface_sampling import word_pieces
from training.model import conditioners
from training.model import release as release_format
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.conditioners.classes import ClassConditioner
from training.model.conditioners.frozen_text import FrozenTextConditioner
from training.model.conditioners.layout import LayoutConditioner
from training.model.conditioners.layout_map import LayoutMapConditioner
from training.model.conditioners.low_resolution import LowResolutionConditioner
from training.model.conditioners.masked_image import MaskedImageConditioner
from training.model.conditioners.semantic_map import SemanticMapConditioner
from training.model.conditioners.text import TextConditioner
from training.model.conditioners.token_ids import TokenIdsConditioner
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.interop.compvis import writing
from training.model.interop.compvis.files import read_config, read_state
from training.model.interop.compvis.options import Options
from training.model.interop.compvis.release import import_release
from training.model.interop.compvis.written_conditions import write_conditions
from training.model.latent_diffusion import LatentDiffusion, load_diffusion, save_autoencoder, save_diffusion
from training.model.release import Release
from training.model.unet import UNet, UNetConfig

FIRST = {"image_channels": 3, "latent_channels": 3, "channels": 32, "multipliers": (1, 2), "res_blocks": 1}
PIXELS = asdict(AutoencoderConfig(regularisation="identity", image_channels=3, latent_channels=3))
DENOISER = {"in_channels": 3, "out_channels": 3, "channels": 32, "multipliers": (1, 2), "res_blocks": 1,
            "attention_factors": (2,), "head_width": 16}  # fmt: skip


def written(folder: Path, condition: dict[str, Any], unet: Any, first: Any, diffusion: Any) -> Release:
    torch.manual_seed(0)
    autoencoder = random_weights(Autoencoder(AutoencoderConfig(**{**FIRST, **first})))
    autoencoder.latent_scale.fill_(0.25)
    model = LatentDiffusion(
        autoencoder,
        random_weights(UNet(UNetConfig(**{**DENOISER, **unet}))),
        random_weights(conditioners.Conditioners(condition)),
        Diffusion(DiffusionConfig(**diffusion)),
    )
    return save_diffusion(folder, model.eval(), name="small", image_size=16, guided=True)


def text() -> TextConditioner:
    return TextConditioner(24, 2, 6, assets={"tokenizer.json": word_pieces()})


def layout(crops: bool = True, groups: bool = True) -> LayoutConditioner:
    return LayoutConditioner(5, 24, 1, objects=2, vocabulary=64, crops=crops, groups=groups)


@pytest.mark.parametrize(
    ("condition", "unet", "first", "diffusion", "options"),
    [
        ({}, {}, {}, {}, {}),
        ({}, {"attention_factors": (1, 2), "scale_shift": True, "resample_in_blocks": True},
         {"attention_levels": (1,), "res_blocks": 2}, {"parameterisation": "v"}, {}),
        ({}, {"head_width": None, "heads": 4, "attention_factors": (1,)},
         {"regularisation": "vq", "codebook_size": 32, "middle_attention": False}, {"schedule": "cosine"}, {}),
        ({"class_label": ClassConditioner(5, 24)}, {"context_width": 24, "transformer_depth": 2}, {}, {}, {}),
        ({"class_label": ClassConditioner(5, 128, "time_embedding")}, {}, {}, {"parameterisation": "x0"}, {}),
        ({"class_label": ClassConditioner(5, 24)}, {"context_width": 24}, PIXELS, {}, {}),
        ({"caption": text()}, {"context_width": 24}, {}, {}, {}),
        ({"ids": TokenIdsConditioner(11, 4, 24, 1)}, {"context_width": 24}, {}, {},
         {"token_ids": True, "null_trained": True}),
        ({"map": SemanticMapConditioner(5, 3, 1)}, {"in_channels": 6}, {}, {}, {"null_trained": True}),
        ({"low_resolution": LowResolutionConditioner(3)}, {"in_channels": 6}, {}, {}, {"null_trained": True}),
        ({"masked_image": MaskedImageConditioner(2, 3)}, {"in_channels": 7}, {}, {}, {"null_trained": True}),
        ({"layout": layout()}, {"context_width": 24}, {}, {}, {"classes": 5, "null_trained": True}),
        ({"layout": layout(crops=False, groups=False)}, {"context_width": 24}, {}, {},
         {"classes": 5, "null_trained": True}),
        ({"class_label": ClassConditioner(5, 24), "masked_image": MaskedImageConditioner(2, 3, "stable_diffusion")},
         {"context_width": 24, "in_channels": 7}, {}, {}, {}),
    ],
)  # fmt: skip
def test_a_round_trip_is_exact(
    condition: Any, unet: Any, first: Any, diffusion: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    before = written(tmp_path / "release", condition, unet, first, diffusion)
    kind = "LatentInpaintDiffusion" if len(condition) == 2 else "LatentDiffusion"
    assert writing.export(tmp_path / "release", tmp_path / "out") == kind
    files = (tmp_path / "out" / writing.CHECKPOINT, tmp_path / "out" / writing.CONFIG)
    after, _ = import_release(*files, tmp_path / "again", name="small", options=Options(**options))
    assert after.architecture == before.architecture
    ours, theirs = (load_diffusion(tmp_path / name)[0].state_dict() for name in ("release", "again"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert after.guided == (before.guided or "null_trained" in options)


@pytest.mark.parametrize("kind", KINDS)
def test_stable_diffusion_comes_out_and_goes_in_again(kind: str, tmp_path: Path) -> None:
    """Tensor by tensor; of OpenCLIP's tower without its last layer and the projections, which nothing reads."""
    checkpoint = tmp_path / "out" / writing.CHECKPOINT
    release, _ = import_files(kind, tmp_path)
    writing.export(release, tmp_path / "out")
    after, _ = import_release(
        checkpoint, tmp_path / "out" / writing.CONFIG, tmp_path / "again", name="sd", options=Options()
    )
    assert after.digest == release_format.read(release).digest
    ending = ".safetensors" if KINDS[kind]["version"] == 2 else ".ckpt"
    before, found = read_state((tmp_path / "model").with_suffix(ending)), read_state(checkpoint)
    for key, tensor in found.items():
        assert torch.equal(tensor.flatten(), before[key].flatten()), key
    left = {key for key in before if key not in found and not key.startswith(("betas", "model_ema"))}
    unread = ("cond_stage_model.model.logit_scale", "cond_stage_model.model.text_projection")
    assert all(key.startswith((*unread, "cond_stage_model.model.transformer.resblocks.2.")) for key in left), left
    assert bool(left) == (KINDS[kind]["version"] == 2)
    theirs, ours = (read_config(folder / "config.yaml")["target"] for folder in (tmp_path, tmp_path / "out"))
    assert ours == theirs


def test_a_released_tower_of_openclip_is_read_as_penultimate() -> None:
    """Their code builds 24 layers and uses 23, so that the last one may be missing in the file."""
    config = {
        "model_type": "clip_text_model", "vocab_size": 8, "hidden_size": 64, "intermediate_size": 8,
        "num_hidden_layers": 23, "num_attention_heads": 1, "max_position_embeddings": 9, "hidden_act": "gelu",
    }  # fmt: skip
    text = FrozenTextConditioner(config, 9, padding="[UNK]", masked=False, assets={"tokenizer.json": word_pieces()})
    written = write_conditions(conditioners.Conditioners({"caption": text}), guided=True)
    found = written.params["cond_stage_config"]["params"]
    assert found == {"arch": "ViT-H-14", "layer": "penultimate", "max_length": 9}


def test_their_checkpoint_comes_out_as_it_went_in(tmp_path: Path) -> None:
    """Names, shapes and values, with attention at the finest level; what is no weight stays behind."""
    config, state = tiny_checkpoint()
    checkpoint, described = write_checkpoint(tmp_path, config, state)
    import_release(checkpoint, described, tmp_path / "release", name="small", options=Options())
    writing.export(tmp_path / "release", tmp_path / "out")
    found = read_state(tmp_path / "out" / writing.CHECKPOINT)
    wanted = {k: v for k, v in read_state(checkpoint).items() if k.startswith(("model.", "first_stage_model."))}
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert torch.equal(found[key].flatten(), tensor.flatten()), key
    unet = read_config(tmp_path / "out" / writing.CONFIG)["params"]["unet_config"]["params"]
    assert unet["num_heads"] == 2


@pytest.mark.parametrize(
    ("condition", "unet", "first", "diffusion", "told"),
    [
        ({}, {}, {}, {"schedule": "flow", "parameterisation": "flow"}, "schedule: 'flow' cannot be exported"),
        ({}, {}, {}, {"parameterisation": "v", "zero_terminal_snr": True}, "zero_terminal_snr: True cannot be"),
        ({}, {"coordinates": True}, {}, {}, r"unet\.coordinates: True cannot be exported; permitted: False"),
        ({}, {}, {"middle_attention": False, "attention_levels": (0,)}, {}, r"attention_levels: \(0,\) cannot be"),
        ({"a": ClassConditioner(2, 24), "b": ClassConditioner(2, 24)}, {"context_width": 24}, {}, {}, "a, b cannot be"),
        ({"class_label": ClassConditioner(5, 24), "masked_image": MaskedImageConditioner(2, 3)},
         {"context_width": 24, "in_channels": 7}, {}, {}, "style: 'latent_diffusion' cannot be .* with another"),
        ({"class_label": ClassConditioner(5, 128, "time_embedding"),
          "masked_image": MaskedImageConditioner(2, 3, "stable_diffusion")}, {"in_channels": 7}, {}, {},
         "conditioners.class_label: enters by time_embedding, which cannot be exported with a masked image"),
        ({"masked_image": MaskedImageConditioner(2, 3, "stable_diffusion")}, {"in_channels": 7}, {}, {},
         "masked_image.style: 'stable_diffusion' cannot be exported without a context"),
        ({"small": LowResolutionConditioner(3)}, {"in_channels": 6}, {}, {},
         "conditioners.small: this name cannot be exported; permitted: low_resolution"),
        ({"layout": layout(groups=False)}, {"context_width": 24}, {}, {}, "crops, groups: True, False cannot be"),
        ({"layout": LayoutMapConditioner(2, 3)}, {"in_channels": 6}, {}, {}, "a LayoutMapConditioner that enters by"),
        ({"caption": TextConditioner(24, 2, 6, heads=2, head_width=8, assets={"tokenizer.json": word_pieces()})},
         {"context_width": 24}, {}, {}, "heads, head_width: 2, 8 cannot be exported; permitted: 8, 64"),
    ],
)  # fmt: skip
def test_what_their_code_cannot_express(
    condition: Any, unet: Any, first: Any, diffusion: Any, told: str, tmp_path: Path
) -> None:
    written(tmp_path / "release", condition, unet, first, diffusion)
    with pytest.raises(writing.CompVisExportError, match=told):
        writing.export(tmp_path / "release", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_first_stage_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = random_weights(Autoencoder(AutoencoderConfig(**FIRST)))  # type: ignore[arg-type]
    before = save_autoencoder(tmp_path / "release", model, name="first", image_size=16)
    assert writing.export(tmp_path / "release", tmp_path / "out") == "AutoencoderKL"
    files = (tmp_path / "out" / writing.CHECKPOINT, tmp_path / "out" / writing.CONFIG)
    after, _ = import_release(*files, tmp_path / "again", name="first", options=Options())
    assert after.digest == before.digest
    with pytest.raises(writing.CompVisExportError, match="not empty"):
        writing.export(tmp_path / "release", tmp_path / "out")

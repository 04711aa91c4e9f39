"""What the README of an export samples with diffusers is what we sample."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import BertWordPieceTokenizer
from torch import Tensor

from tests.support import diffusers_folders as made
from tests.support.comparison import random_weights, relative_error
from training.model import conditioners
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.conditioners.classes import ClassConditioner
from training.model.conditioners.frozen_text import FrozenTextConditioner
from training.model.conditioners.layout_map import LayoutMapConditioner
from training.model.conditioners.low_resolution import LowResolutionConditioner
from training.model.conditioners.masked_image import MaskedImageConditioner
from training.model.conditioners.semantic_map import SemanticMapConditioner
from training.model.conditioners.text import TextConditioner
from training.model.conditioners.token_ids import TokenIdsConditioner
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.interop import huggingface
from training.model.interop.huggingface import reading as huggingface_reading
from training.model.latent_diffusion import LatentDiffusion
from training.model.single_step_solvers import ddim
from training.model.solver_step import advance
from training.model.spacing import levels
from training.model.unet import UNet, UNetConfig

diffusers = pytest.importorskip("diffusers")

CLASSES, STEPS, SCALE = 5, 4, 2.0  # SCALE is that of the README
SIZE, LATENT = 16, 8
UNREAD = ("ids", "low_resolution", "semantic_map", "layout_map")  # their folders do not say what the inputs mean
GUIDED = (
    "class",
    "class_time",
    "text",
    "short_text",
    "clip",
    "ids",
    "clip_masked",
    "class_masked",
    "class_time_masked",
)
V = {"parameterisation": "v"}
FLOW = {"schedule": "flow", "parameterisation": "flow"}
COORDINATES = {"coordinates": True}
VQ = {"regularisation": "vq", "codebook_size": 64}


def word_pieces() -> bytes:
    """A BERT tokenizer of few pieces, whose [PAD] is not the first."""
    pieces = ["[UNK]", "[CLS]", "[SEP]", "a", "photo", "##graph", "drawing", "[PAD]"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    return BertWordPieceTokenizer(vocabulary, lowercase=True).to_str().encode()


def clip(width: int, folder: Path) -> FrozenTextConditioner:
    """A frozen text encoder of 16 channels, as Stable Diffusion's."""
    made.clip_tokenizer(folder / "words")
    made.clip(hidden_size=16, intermediate_size=32).save_pretrained(folder / "words")
    return FrozenTextConditioner.from_folder(folder / "words", 77, width, masked=False)


def model(
    kind: str, autoencoder: dict[str, Any], diffusion: dict[str, Any], unet: dict[str, Any], folder: Path
) -> LatentDiffusion:
    """A latent diffusion model over latents of 16x16, with 2 channels if the autoencoder is not told."""
    torch.manual_seed(0)
    shape = {"image_channels": 3, "latent_channels": 2, "channels": 32, "multipliers": (1, 1), "res_blocks": 1}
    first = random_weights(Autoencoder(AutoencoderConfig(**{**shape, **autoencoder})))
    first.latent_scale.fill_(0.7)
    fields: dict[str, conditioners.Conditioner] = {}
    match kind:
        case "class":
            fields["class_label"] = ClassConditioner(CLASSES, 24)
        case "class_time":
            fields["class_label"] = ClassConditioner(CLASSES, 128, entry="time_embedding")
        case "text" | "short_text":
            length = 77 if kind == "text" else 6
            assets = {"tokenizer.json": word_pieces()}
            fields["caption"] = TextConditioner(24, 2, length, heads=2, head_width=8, assets=assets)
        case "ids":
            fields["ids"] = TokenIdsConditioner(11, 4, 24, 1, heads=2, head_width=8, padding=3)
        case "clip":
            fields["caption"] = clip(24, folder)
        case "semantic_map":
            fields["map"] = SemanticMapConditioner(5, 3, 1)
        case "layout_map":
            fields["layout"] = LayoutMapConditioner(2, 3)
        case "low_resolution":
            fields["image"] = LowResolutionConditioner(channels=2)
            first.latent_scale.fill_(1.0)  # which the pipeline for it takes for granted
        case "masked_image":
            fields["image"] = MaskedImageConditioner(factor=2)
        case "grey_hole":
            fields["image"] = MaskedImageConditioner(factor=2, style="stable_diffusion")
        case "clip_masked":
            fields["caption"] = clip(24, folder)
            fields["image"] = MaskedImageConditioner(factor=2, style="stable_diffusion")
        case "class_masked":
            fields["class_label"] = ClassConditioner(CLASSES, 24)
            fields["picture"] = MaskedImageConditioner(factor=2, style="stable_diffusion")
        case "class_time_masked":
            fields["picture"] = MaskedImageConditioner(factor=2, style="stable_diffusion")
            fields["class_label"] = ClassConditioner(CLASSES, 128, entry="time_embedding")
    context_width = (
        24 if kind in ("class", "text", "short_text", "clip", "ids", "clip_masked", "class_masked") else None
    )
    latent = autoencoder.get("latent_channels", 2)
    maps = {"low_resolution": 2, "semantic_map": 3, "layout_map": 3}.get(kind, 0)
    if "masked" in kind or kind == "grey_hole":
        maps = latent + 1
    denoiser = UNet(
        UNetConfig(
            in_channels=latent + maps, out_channels=latent, channels=32, multipliers=(1, 2), res_blocks=1,
            attention_factors=(2,), head_width=16, context_width=context_width, **unet,
        )
    )  # fmt: skip

    return LatentDiffusion(
        first,
        random_weights(denoiser),
        random_weights(conditioners.Conditioners(fields)),
        Diffusion(DiffusionConfig(**diffusion)),
    ).eval()


@torch.inference_mode()
def sampled(model: LatentDiffusion, noise: Tensor, given: list[dict[str, Any]] | None, scale: float) -> Tensor:
    """Our own DDIM at the released models' timesteps, ending at the level of timestep 0; with guidance."""
    spacing = "trailing" if model.diffusion.config.ends_in_pure_noise else "leading"
    trajectory = ddim(levels(model.diffusion, STEPS, spacing))
    state = torch.zeros(len(noise), trajectory.A.shape[1], *noise.shape[1:])
    state[:, 0] = noise

    def denoised(x: Tensor, t: Tensor, requests: Sequence[dict[str, Any] | None]) -> Tensor:
        return model.denoise(x, t, model.conditions(requests, (LATENT, LATENT)))

    for i in range(len(trajectory)):
        x, t = state[:, 0], torch.full((len(noise),), trajectory.t[i])
        if given is None:
            answer = denoised(x, t, [{}] * len(noise))
        else:
            kept = [name for name, one in model.conditioners.items() if getattr(one, "kept_in_null", False)]
            null = denoised(x, t, [{n: value if n in kept else None for n, value in one.items()} for one in given])
            answer = null + scale * (denoised(x, t, given) - null)
        A = torch.from_numpy(trajectory.A[i]).expand(len(noise), -1, -1)
        state = advance(state, answer, torch.zeros_like(x), A)
    return state[:, 0]


def values_of(kind: str, program: dict[str, Any]) -> list[Any] | None:
    """What the README's example asked for."""
    match kind:
        case "class" | "class_time":
            return [0, 1, 2, 3]
        case "text" | "short_text" | "clip":
            return ["a photograph", "a drawing"]
        case "ids":
            return [[0] * 4, [1] * 4]
        case "low_resolution":
            return list(program["low_resolution"])
        case "semantic_map":
            return list(program["labels"])
        case "layout_map":
            return [{"boxes": [{"class": n, "box": box} for n, box in one]} for one in program["layouts"]]
        case "masked_image" | "grey_hole":
            return [{"image": program["originals"][0], "mask": program["hole"][0, 0]}]
    return None


def requests_of(kind: str, names: list[str], program: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The same as requests to our model, whose conditions have these names."""
    condition, _, _ = kind.partition("_masked")
    values = values_of(condition if "_masked" in kind else kind, program)
    if values is None or "_masked" not in kind:
        return None if values is None else [{names[0]: value} for value in values]
    text, image = names if names[0] in ("caption", "class_label") else names[::-1]
    holes = zip(program["originals"], program["hole"], strict=True)
    pairs = zip(values, holes, strict=True)
    return [{text: value, image: {"image": one, "mask": hole[0]}} for value, (one, hole) in pairs]


@dataclass
class Recorded:
    """What passed through diffusers."""

    steps: list[Tensor]  # what the scheduler was given, the start noise first
    decoded: list[tuple[Tensor, Tensor]]  # by an autoencoder: unscaled latents, images


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    seen = Recorded([], [])

    def watch(owner: Any, name: str, note: Callable[[tuple[Any, ...], Any], None]) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            answer = original(*args, **kwargs)
            note(args, answer)
            return answer

        monkeypatch.setattr(owner, name, watched)

    for scheduler in (diffusers.DDIMScheduler, diffusers.FlowMatchEulerDiscreteScheduler):
        watch(scheduler, "step", lambda args, _: seen.steps.append(args[3]))
    for each in (diffusers.AutoencoderKL, diffusers.VQModel):
        watch(each, "decode", lambda args, answer: seen.decoded.append((args[1], answer[0])))
    return seen


def example(folder: Path) -> str:
    """The program of the export's README, with fewer steps."""
    (found,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert found.count("50") == 1
    return str(found.replace("50", str(STEPS)))


def check_equal(found: Any, ours: LatentDiffusion) -> None:
    """What was exported is read as the same model."""
    assert found.architecture() == json.loads(json.dumps(ours.architecture()))
    state = found.state_dict()
    for name, tensor in ours.state_dict().items():
        if name == "unet.time.0.weight":  # which flow matching rotates, and rotates back
            torch.testing.assert_close(state[name], tensor)
        else:
            assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize(
    ("kind", "diffusion", "autoencoder", "unet", "loads"),
    [
        ("none", {}, {}, {}, "LDMPipeline"),
        ("class", {"parameterisation": "v", "zero_terminal_snr": True}, {}, {}, "StableDiffusionPipeline"),
        ("class_time", {"parameterisation": "x0"}, {}, {}, "UNet2DModel"),
        ("text", V, {}, {}, "LDMTextToImagePipeline"),
        ("short_text", V, {}, {}, "UNet2DConditionModel"),
        ("ids", V, {}, {}, "UNet2DConditionModel"),
        ("low_resolution", V, {}, {}, "LDMSuperResolutionPipeline"),
        ("masked_image", V, {}, {}, "UNet2DModel"),
        ("grey_hole", V, {}, {}, "UNet2DModel"),
        ("clip_masked", V, {"latent_channels": 4}, {}, "StableDiffusionInpaintPipeline"),
        ("clip_masked", V, {}, {}, "UNet2DConditionModel"),
        ("clip_masked", V, VQ, {}, "UNet2DConditionModel"),
        ("class_masked", FLOW, {}, COORDINATES, "UNet2DConditionModel"),
        ("class_time_masked", {}, {}, {}, "UNet2DModel"),
        ("none", V, VQ, {}, "LDMPipeline"),
        ("class", V, VQ, {}, "UNet2DConditionModel"),
        ("text", V, VQ, {}, "LDMTextToImagePipeline"),
        ("clip", V, {}, {}, "StableDiffusionPipeline"),
        ("clip", V, VQ, {}, "UNet2DConditionModel"),
        ("semantic_map", V, {}, {}, "UNet2DModel"),
        ("layout_map", V, {}, COORDINATES, "UNet2DModel"),
        ("none", FLOW, {}, {}, "UNet2DModel"),
        ("class", FLOW, {}, COORDINATES, "UNet2DConditionModel"),
        ("text", FLOW, {}, {}, "UNet2DConditionModel"),
    ],
)
@torch.inference_mode()
def test_the_readme_s_example_samples_our_images(
    kind: str,
    diffusion: dict[str, Any],
    autoencoder: dict[str, Any],
    unet: dict[str, Any],
    loads: str,
    tmp_path: Path,
    recorded: Recorded,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, folder = model(kind, autoencoder, diffusion, unet, tmp_path), tmp_path / "out"
    assert huggingface.export_diffusion(ours, folder, name="small", image_size=SIZE) == loads
    monkeypatch.chdir(folder)
    # its inpainting pipeline draws the image's latent from the posterior; ours is its mean
    posterior = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(posterior, "sample", lambda self, generator=None: self.mean)
    program: dict[str, Any] = {}
    torch.manual_seed(2)  # no latent is as near to two entries of a codebook
    exec(example(folder), program)

    if loads == "StableDiffusionInpaintPipeline":
        program["originals"] = 2 * program["originals"] - 1
    noise, ((latents, images),) = recorded.steps[0], recorded.decoded
    given = requests_of(kind, list(ours.conditioners), program)
    expected = sampled(ours, noise, given, SCALE if kind in GUIDED else 1.0)
    for name in ours.conditioners:  # else an answer that ignores the condition would pass too
        assert given is not None
        without = sampled(ours, noise, [{**one, name: None} for one in given], 1.0)
        assert relative_error(without, expected) > 1e-3
    assert relative_error(latents * ours.autoencoder.latent_scale, expected) < 1e-4
    assert relative_error(images, ours.autoencoder.decode(expected)) < 1e-4
    assert len(program["images"]) == len(noise)
    if kind not in UNREAD and not unet:
        check_equal(huggingface_reading.read(folder).model, ours)
    if "mask" in kind and loads != "StableDiffusionInpaintPipeline":
        known = ~program["hole"].expand_as(images)
        assert torch.equal(program["images"][known], program["originals"][known])

"""An export, loaded and sampled by diffusers, gives the latents and images that we give."""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import BertWordPieceTokenizer
from torch import Tensor, nn

from training.model import conditioners, solvers
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.conditioners.classes import ClassConditioner
from training.model.conditioners.low_resolution import LowResolutionConditioner
from training.model.conditioners.masked_image import MaskedImageConditioner
from training.model.conditioners.semantic_map import SemanticMapConditioner
from training.model.conditioners.text import TextConditioner
from training.model.conditioners.token_ids import TokenIdsConditioner
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.interop import huggingface
from training.model.interop.huggingface.component import Component
from training.model.interop.huggingface.first_stage import autoencoder_component
from training.model.interop.huggingface.scheduler import scheduler_component
from training.model.interop.huggingface.unet import unet_component
from training.model.latent_diffusion import LatentDiffusion
from training.model.spacing import levels
from training.model.unet import UNet, UNetConfig

diffusers = pytest.importorskip("diffusers")

CLASSES, STEPS, SCALE = 5, 10, 2.0  # SCALE is that of the README
SIZE, LATENT = 32, 16
V = {"parameterisation": "v"}
VQ = {"regularisation": "vq", "codebook_size": 64}
needs_vq = pytest.mark.skipif(
    "regularisation" not in {each.name for each in fields(AutoencoderConfig)}, reason="this version has no codebooks"
)
GUIDED = ("class", "class_time", "text", "short_text", "ids")


def random_weights(module: nn.Module) -> Any:
    """Weights that show every mistake: nothing is zero, no norm is the identity."""
    for name, parameter in module.named_parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.1)
        elif not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight)
    return module.eval()


def load(component: Component, folder: Path) -> Any:
    """What diffusers makes of a component, strictly: no key missing, none left over."""
    component.write(folder)
    model_class = getattr(diffusers, component.class_name)
    model, info = model_class.from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
    assert not any(info.values()), info
    return model.eval()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


# -- parts -------------------------------------------------------------------------------------

SMALL = {"channels": 32, "multipliers": (1, 2), "res_blocks": 1, "attention_factors": (2,), "head_width": 16}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_factors": (1, 4), "multipliers": (1, 2, 2), "res_blocks": 2, "in_channels": 7},
        {"attention_factors": ()},  # in the middle alone
        {"attention_factors": (1, 2), "heads": 1},
        {"attention_factors": (1, 2), "head_width": None},
        {"heads": 4, "head_width": None},  # one attentive width: a fixed number is a fixed width
        {"attention_factors": (1,), "scale_shift": True, "resample_in_blocks": True},
        {"context_width": 24, "attention_factors": (1, 2), "transformer_depth": 2},
        {"context_width": 24, "attention_factors": (1, 2), "heads": 4, "head_width": None},
        {"context_width": 24, "attention_factors": (1, 4), "multipliers": (1, 2, 2), "res_blocks": 2, "heads": 1},
        {"context_width": 24, "attention_factors": (), "scale_shift": True, "resample_in_blocks": True},
        {"context_width": 24, "attention_factors": (1,), "multipliers": (1,), "resample_in_blocks": True},
    ],
)
@torch.inference_mode()
def test_u_nets(changes: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = random_weights(UNet(UNetConfig(**{**SMALL, **changes})))
    theirs = load(unet_component(ours, latent_size=8), tmp_path)
    x, t = torch.randn(2, ours.config.in_channels, 8, 8), torch.tensor([3, 700])
    context = torch.randn(2, 5, 24) if ours.config.context_width else None
    expected = theirs(x, t, *([] if context is None else [context])).sample
    assert relative_error(ours(x, t, context), expected) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [{}, {"attention_levels": (0, 2)}, {"attention_levels": (1,), "middle_attention": False, "image_channels": 1}],
)
@torch.inference_mode()
def test_autoencoders(changes: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = Autoencoder(AutoencoderConfig(**{"channels": 32, "multipliers": (1, 2, 2), "res_blocks": 1, **changes}))
    theirs = load(autoencoder_component(random_weights(ours), image_size=SIZE), tmp_path)
    images, latents = torch.randn(2, ours.config.image_channels, SIZE, SIZE), torch.randn(2, 4, 8, 8)
    assert relative_error(ours.posterior(images).mean, theirs.encode(images).latent_dist.mean) < 1e-5
    assert relative_error(ours.reconstruct_unscaled(latents), theirs.decode(latents).sample) < 1e-5


@needs_vq
@pytest.mark.parametrize("changes", [{}, {"z_channels": 6, "attention_levels": (0, 2)}])
@torch.inference_mode()
def test_autoencoders_with_a_codebook(changes: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"channels": 32, "multipliers": (1, 2, 2), "res_blocks": 1, **VQ, **changes}
    ours = random_weights(Autoencoder(AutoencoderConfig(**shape)))
    theirs = load(autoencoder_component(ours, image_size=SIZE), tmp_path)
    images, latents = torch.randn(2, 3, SIZE, SIZE), torch.randn(2, 4, 8, 8)
    assert relative_error(ours.encode(images), theirs.encode(images).latents) < 1e-5
    assert relative_error(ours.decode(latents), theirs.decode(latents).sample) < 1e-5


@pytest.mark.parametrize(
    "config",
    [
        DiffusionConfig(),
        DiffusionConfig("linear", 1e-4, 2e-2, timesteps=500),
        DiffusionConfig("cosine", parameterisation="v"),
        DiffusionConfig(parameterisation="v", zero_terminal_snr=True),
    ],
)
def test_noise_schedules(config: DiffusionConfig, tmp_path: Path) -> None:
    scheduler_component(config).write(tmp_path)
    theirs = diffusers.DDIMScheduler.from_pretrained(tmp_path)
    assert relative_error(theirs.alphas_cumprod.double().sqrt(), torch.as_tensor(Diffusion(config).alpha)) < 1e-5


def test_flow_matching_is_refused() -> None:
    with pytest.raises(huggingface.ExportError, match=r"diffusion\.schedule: 'flow' cannot be exported: .* from 1"):
        scheduler_component(DiffusionConfig("flow", parameterisation="flow"))


# -- whole models --------------------------------------------------------------------------------


def word_pieces() -> bytes:
    """A BERT tokenizer of few pieces, whose [PAD] is not the first."""
    pieces = ["[UNK]", "[CLS]", "[SEP]", "a", "photo", "##graph", "drawing", "[PAD]"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    return BertWordPieceTokenizer(vocabulary, lowercase=True).to_str().encode()


def model(kind: str, autoencoder: dict[str, Any], diffusion: dict[str, Any]) -> LatentDiffusion:
    """A latent diffusion model over 2x16x16 latents."""
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
        case "low_resolution":
            fields["image"] = LowResolutionConditioner(channels=2)
            first.latent_scale.fill_(1.0)  # which the pipeline for it takes for granted
        case "masked_image":
            fields["image"] = MaskedImageConditioner(factor=2)
    context_width = 24 if kind in ("class", "text", "short_text", "ids") else None
    maps = {"low_resolution": 2, "masked_image": 3}.get(kind, 0)
    denoiser = UNet(UNetConfig(in_channels=2 + maps, out_channels=2, context_width=context_width, **SMALL))  # type: ignore[arg-type]
    return LatentDiffusion(
        first,
        random_weights(denoiser),
        random_weights(conditioners.Conditioners(fields)),
        Diffusion(DiffusionConfig(**diffusion)),
    ).eval()


@torch.inference_mode()
def sampled(model: LatentDiffusion, noise: Tensor, values: list[Any] | None, scale: float) -> Tensor:
    """Our own DDIM at the released models' timesteps, ending at the level of timestep 0; with guidance."""
    spacing = "trailing" if model.diffusion.config.zero_terminal_snr else "leading"
    trajectory = solvers.ddim(levels(model.diffusion, STEPS, spacing))
    state = torch.zeros(len(noise), trajectory.A.shape[1], *noise.shape[1:])
    state[:, 0] = noise

    def denoised(x: Tensor, t: Tensor, requests: list[dict[str, Any] | None]) -> Tensor:
        return model.denoise(x, t, model.conditions(requests, (LATENT, LATENT)))

    for i in range(len(trajectory)):
        x, t = state[:, 0], torch.full((len(noise),), trajectory.t[i])
        if values is None:
            answer = denoised(x, t, [{}] * len(noise))
        else:
            (field,) = model.conditioners
            null = denoised(x, t, [None] * len(noise))
            answer = null + scale * (denoised(x, t, [{field: value} for value in values]) - null)
        A = torch.from_numpy(trajectory.A[i]).expand(len(noise), -1, -1)
        state = solvers.step(state, answer, torch.zeros_like(x), A)
    return state[:, 0]


def values_of(kind: str, program: dict[str, Any]) -> list[Any] | None:
    """What the README's example asked for."""
    match kind:
        case "class" | "class_time":
            return [0, 1, 2, 3]
        case "text" | "short_text":
            return ["a photograph", "a drawing"]
        case "ids":
            return [[0] * 4, [1] * 4]
        case "low_resolution":
            return list(program["low_resolution"])
        case "masked_image":
            return [{"image": program["pictures"][0], "mask": program["hole"][0, 0]}]
    return None


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

    watch(diffusers.DDIMScheduler, "step", lambda args, _: seen.steps.append(args[3]))
    for each in (diffusers.AutoencoderKL, diffusers.VQModel):
        watch(each, "decode", lambda args, answer: seen.decoded.append((args[1], answer[0])))
    return seen


def example(folder: Path) -> str:
    """The program of the export's README, with fewer steps."""
    (found,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert found.count("50") == 1
    return str(found.replace("50", str(STEPS)))


@pytest.mark.parametrize(
    ("kind", "diffusion", "autoencoder", "loads"),
    [
        ("none", {}, {}, "LDMPipeline"),
        ("class", {"parameterisation": "v", "zero_terminal_snr": True}, {}, "StableDiffusionPipeline"),
        ("class_time", {"parameterisation": "x0"}, {}, "UNet2DModel"),
        ("text", V, {}, "LDMTextToImagePipeline"),
        ("short_text", V, {}, "UNet2DConditionModel"),
        ("ids", V, {}, "UNet2DConditionModel"),
        ("low_resolution", V, {}, "LDMSuperResolutionPipeline"),
        ("masked_image", V, {}, "UNet2DModel"),
        pytest.param("none", V, VQ, "LDMPipeline", marks=needs_vq),
        pytest.param("class", V, VQ, "UNet2DConditionModel", marks=needs_vq),
        pytest.param("text", V, VQ, "LDMTextToImagePipeline", marks=needs_vq),
    ],
)
@torch.inference_mode()
def test_what_the_readme_samples_is_what_we_sample(
    kind: str,
    diffusion: dict[str, Any],
    autoencoder: dict[str, Any],
    loads: str,
    tmp_path: Path,
    recorded: Recorded,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = model(kind, autoencoder, diffusion)
    assert huggingface.export_diffusion(ours, tmp_path, name="small", image_size=SIZE) == loads
    monkeypatch.chdir(tmp_path)
    program: dict[str, Any] = {}
    torch.manual_seed(1)
    exec(example(tmp_path), program)

    noise, ((latents, images),) = recorded.steps[0], recorded.decoded
    values = values_of(kind, program)
    expected = sampled(ours, noise, values, SCALE if kind in GUIDED else 1.0)
    print(
        "ERR",
        kind,
        loads,
        relative_error(latents * ours.autoencoder.latent_scale, expected),
        relative_error(images, ours.autoencoder.decode(expected)),
    )
    if values is not None:  # else an answer that ignores the condition would pass too
        assert relative_error(sampled(ours, noise, [None] * len(noise), 1.0), expected) > 1e-3
    assert relative_error(latents * ours.autoencoder.latent_scale, expected) < 1e-4
    assert relative_error(images, ours.autoencoder.decode(expected)) < 1e-4
    assert len(program["images"]) == len(noise)


# -- what diffusers cannot express -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"attention_factors": (1, 2), "heads": 4, "head_width": None},
            "unet.heads: 4 cannot be exported: heads would be 8, 16 wide, and UNet2DModel has one width for all",
        ),
        (
            {"context_width": 24, "attention_factors": (2,), "resample_in_blocks": True},
            r"unet.resample_in_blocks: True cannot be exported with attention .* \[2\]",
        ),
    ],
)
def test_u_nets_that_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(huggingface.ExportError, match=told):
        unet_component(UNet(UNetConfig(**{**SMALL, **changes})), latent_size=8)


def test_a_property_newer_than_the_export_is_refused() -> None:
    @dataclass(frozen=True)
    class Newer(UNetConfig):
        gated: bool = False

    with pytest.raises(huggingface.ExportError, match=r"unet\.gated: True cannot be exported; permitted: False"):
        unet_component(UNet(Newer(**SMALL, gated=True)), latent_size=8)  # type: ignore[arg-type]


def test_a_tensor_without_a_place_is_refused() -> None:
    model = UNet(UNetConfig(**SMALL))  # type: ignore[arg-type]
    model.gate = nn.Linear(1, 1)
    with pytest.raises(huggingface.ExportError, match=r"gate\.weight: diffusers has no place"):
        unet_component(model, latent_size=8)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"a": ClassConditioner(2, 24), "b": ClassConditioner(2, 24)},
            "conditioners: a, b cannot be exported together; permitted: one",
        ),
        ({"map": SemanticMapConditioner(5, 3, 1)}, "conditioners.map: a SemanticMapConditioner that enters by concat"),
        (
            {"ids": TokenIdsConditioner(11, 4, 128, 1, entry="time_embedding")},
            "conditioners.ids: a TokenIdsConditioner that enters by time_embedding",
        ),
    ],
)
def test_conditions_that_are_refused(fields: dict[str, conditioners.Conditioner], told: str, tmp_path: Path) -> None:
    refused = model("none", {}, {})
    refused.conditioners = conditioners.Conditioners(fields)
    with pytest.raises(huggingface.ExportError, match=told):
        huggingface.export_diffusion(refused, tmp_path / "out", name="small", image_size=SIZE)
    assert not (tmp_path / "out").exists()

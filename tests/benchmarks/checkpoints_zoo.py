"""The authors' model zoo against their own code, see `checkpoints`."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.authors import Authors, Given
from tests.support.comparison import relative_error
from tests.support.compvis import write_checkpoint
from tests.support.zoo import LABELS, PIECES, ZOO, configuration
from training.model.guidance import Guidance
from training.model.interop import huggingface
from training.model.interop.compvis import writing
from training.model.interop.compvis.files import read_state
from training.model.interop.compvis.options import Options
from training.model.interop.compvis.release import import_release
from training.model.latent_diffusion import LatentDiffusion, load_diffusion
from training.model.sampling import Sampler, generate

STEPS, SCALE = 7, 3.0  # of which the authors' leading makes 8


class Asked(NamedTuple):
    """Two images: our requests, what the authors' sampler is given for them and for their null, and what counts."""

    requests: list[dict[str, Any]]
    given: Given
    null: Given | None = None
    region: Tensor | None = None  # of the images that is compared, 1 where it counts


@torch.inference_mode()
def measure(name: str, package: Path, folder: Path) -> tuple[float, str, str]:
    """Return the difference of our images from the authors', that of an export to diffusers, and of one to theirs."""
    config, kind = configuration(name), ZOO[name].condition
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        authors = Authors(package, config)
        files = write_checkpoint(folder, config, authors.state())
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"word{i}" for i in range(PIECES - 4))]
        (folder / "vocab.txt").write_text("\n".join(words))
        options = Options(beside=folder, classes=LABELS if kind == "layout" else None)
        import_release(*files, folder / "release", name="zoo", options=options)
        model, release = load_diffusion(folder / "release")
        asked = ask(kind, authors, model, release.image_shape[1])
        start = torch.randn(2, *release.latent_shape, generator=torch.Generator().manual_seed(1))
        scale = SCALE if asked.null is not None else 1.0
        expected = authors.sample(start, STEPS, asked.given, asked.null, scale).clamp(-1, 1)
        found = sample(model, asked, start, scale)
        writing.export(folder / "release", folder / "theirs")
        authors.restore(read_state(folder / "theirs" / writing.CHECKPOINT))
        again = authors.sample(start, STEPS, asked.given, asked.null, scale).clamp(-1, 1)
    region = torch.ones(1) if asked.region is None else asked.region
    return (
        relative_error(found * region, expected * region),
        export(folder, model, asked, start, scale),
        f"{relative_error(again, expected):.1e}",
    )


def sample(model: LatentDiffusion, asked: Asked, start: Tensor, scale: float) -> Tensor:
    """Return our images."""
    sampler = Sampler("ddim", STEPS, "leading")
    return generate(
        model, asked.requests, [0, 1], latent_shape=start.shape[1:], start=start, sampler=sampler,
        guidance=Guidance(scale),
    )  # fmt: skip


def export(folder: Path, model: LatentDiffusion, asked: Asked, start: Tensor, scale: float) -> str:
    """Return the difference between our images and diffusers' of the exported release, by its own modules."""
    import diffusers

    try:
        huggingface.export(folder / "release", folder / "exported")
    except huggingface.ExportError as error:
        return f"refused: {str(error).partition(' cannot be')[0]}"
    out = folder / "exported"
    first = out / ("vae" if (out / "vae").is_dir() else "vqvae")
    load = {"AutoencoderKL": diffusers.AutoencoderKL, "VQModel": diffusers.VQModel}
    vae = load[type_of(first)].from_pretrained(first, low_cpu_mem_usage=False).eval()
    networks = {"UNet2DModel": diffusers.UNet2DModel, "UNet2DConditionModel": diffusers.UNet2DConditionModel}
    unet = networks[type_of(out / "unet")].from_pretrained(out / "unet", low_cpu_mem_usage=False).eval()
    scheduler = diffusers.DDIMScheduler.from_pretrained(out / "scheduler")
    scheduler.set_timesteps(STEPS)
    size = (int(start.shape[2]), int(start.shape[3]))
    maps = model.conditions(asked.requests, size).maps
    contexts = exported_contexts(out, model, asked)

    def answer(x: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        given = {} if context is None else {"encoder_hidden_states": context}
        return torch.as_tensor(unet(x if maps is None else torch.cat([x, maps], dim=1), t, **given).sample)

    x = start
    for t in scheduler.timesteps:
        output = answer(x, t, contexts[0])
        if scale != 1.0:
            null = answer(x, t, contexts[1])
            output = null + scale * (output - null)
        x = scheduler.step(output, t, x).prev_sample
    images = vae.decode(x / vae.config.scaling_factor).sample.clamp(-1, 1)
    exact = Sampler("ddim", STEPS, "leading_exact")
    ours = generate(
        model, asked.requests, [0, 1], latent_shape=start.shape[1:], start=start, sampler=exact,
        guidance=Guidance(scale),
    )  # fmt: skip
    region = torch.ones(1) if asked.region is None else asked.region
    return f"{relative_error(images * region, ours * region):.1e}"


def type_of(part: Path) -> str:
    """Return the class of a part of diffusers."""
    return str(json.loads((part / "config.json").read_text())["_class_name"])


def exported_contexts(out: Path, model: LatentDiffusion, asked: Asked) -> tuple[Tensor | None, Tensor | None]:
    """Return the contexts of the requests and of their null, by the encoder that was exported."""
    fields = model.conditioners.by_field()
    (name,) = fields or ("none",)
    if "class_label" in fields:
        rows = [request[name] for request in asked.requests]
        table = fields[name].get_parameter("embedding.weight")
        one_hot = F.one_hot(torch.tensor([rows, [len(table) - 1] * 2]), len(table)).float()[:, :, None]
        return one_hot[0], one_hot[1]
    if not (out / "bert").is_dir():
        return None, None
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertModel

    bert, conditioner = LDMBertModel.from_pretrained(out / "bert").eval(), fields[name]
    values = [request[name] for request in asked.requests]
    reads = [torch.tensor([conditioner.read(v) for v in some]) for some in (values, [null_of(conditioner)] * 2)]
    return bert(reads[0])[0], bert(reads[1])[0]


def null_of(conditioner: Any) -> Any:
    """Return the null condition of a token transformer."""
    return conditioner.null


def ask(kind: str, authors: Authors, model: LatentDiffusion, side: int) -> Asked:
    """Return two images of a kind of condition. The contexts of BERT's encoder are ours; their package lacks it."""
    torch.manual_seed(2)
    images = torch.rand(2, 3, side, side) * 2 - 1
    fields = model.conditioners.by_field()
    name = next(iter(fields), "")
    match kind:
        case "class" | "class and null":
            table = fields[name].get_parameter("embedding.weight")
            null = {"c_crossattn": [table[[1000, 1000]][:, None]]} if kind == "class and null" else None
            return Asked([{name: 3}, {name: 700}], {"c_crossattn": [table[[3, 700]][:, None]]}, null)
        case "text" | "layout":
            values: list[Any] = ["word1 word7", "word9"]
            if kind == "layout":
                one = {"class": 3, "box": [0.1, 0.2, 0.6, 1]}
                values = [{"boxes": [one]}, {"boxes": [one, {"class": 9, "box": [0, 0, 0.5, 0.5]}]}]
            encode: Any = fields[name].embed
            null = {"c_crossattn": [encode([None, None])]} if kind == "text" else None
            return Asked([{name: value} for value in values], {"c_crossattn": [encode(values)]}, null)
        case "semantic map":
            labels = torch.randint(LABELS, (2, side, side))
            x = F.one_hot(labels, LABELS).permute(0, 3, 1, 2).float()
            for _ in range(2):  # their SpatialRescaler
                x = F.interpolate(x, scale_factor=0.5, mode="bilinear")
            x = F.conv2d(x, fields[name].get_parameter("rescaler.project.weight").flatten(1)[:, :, None, None])
            return Asked([{name: one} for one in labels], {"c_concat": [x]})
        case "masked image":
            holes = torch.zeros(2, 1, side, side)
            holes[:, :, side // 4 : side // 2, 4 : side // 2] = 1
            pairs = [{name: {"image": one, "mask": hole[0]}} for one, hole in zip(images, holes, strict=True)]
            return Asked(pairs, {"c_concat": [authors.masked(images, holes)]}, region=holes)
        case "low resolution":
            small = F.interpolate(images, scale_factor=1 / model.autoencoder.config.factor)
            return Asked([{name: one} for one in small], {"c_concat": [small]})
    return Asked([{}, {}], {})

"""The assembled model: autoencoder, denoising U-Net, conditioners and diffusion process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.model import conditioners, release
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.conditioners import Conditioners, Conditions
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.unet import LATER_FIELDS, UNet, UNetConfig

AUTOENCODER_FILE = "autoencoder.safetensors"
UNET_FILE = "unet.safetensors"
CONDITIONERS_FILE = "conditioners.safetensors"
Model = TypeVar("Model", bound=nn.Module)


class Prepared(NamedTuple):
    """Conditions in the form that every evaluation of a run reads; None where the model has no such entry.

    Of R rows each tensor is [R, ...]; of one row it lacks that dimension.
    """

    keys_values: Tensor | None  # [R, M, all cross-attentions' keys and values]
    maps: Tensor | None  # [R, K, h, w]
    embedding: Tensor | None  # [R, E]

    def row(self, i: int) -> "Prepared":
        """Row i, in memory of its own."""
        return Prepared(*(None if part is None else part[i].clone() for part in self))


class LatentDiffusion(nn.Module):
    """A diffusion model in the latent space of an autoencoder (Rombach et al. 2022, section 3)."""

    def __init__(self, autoencoder: Autoencoder, unet: UNet, conditioners: Conditioners, diffusion: Diffusion) -> None:
        super().__init__()
        self.autoencoder, self.unet, self.conditioners, self.diffusion = autoencoder, unet, conditioners, diffusion

    @classmethod
    def build(cls, architecture: Mapping[str, Any], assets: Mapping[str, Mapping[str, bytes]] | None = None) -> Self:
        """A model with fresh weights from the `architecture` of a release or a training configuration.

        assets: the files of each conditioner that has any, by its field. Raises KeyError, TypeError or ValueError.
        """
        assets = assets or {}
        return cls(
            Autoencoder(AutoencoderConfig(**architecture["autoencoder"])),
            UNet(UNetConfig(**architecture["unet"])),
            Conditioners(
                {
                    name: conditioners.build(config, assets.get(name))
                    for name, config in architecture["conditioners"].items()
                }
            ),
            Diffusion(DiffusionConfig(**architecture["diffusion"])),
        )

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return next(self.unet.parameters()).device

    def conditions(self, requests: Sequence[Mapping[str, Any] | None], size: tuple[int, int]) -> Prepared:
        """R requests' conditions, None for the null condition, for latents of `size` (h, w); computed once a run.

        Raises ValueError naming the field that does not fit.
        """
        return self.prepare(self.conditioners(requests, size, self.autoencoder.encode))

    def prepare(self, conditions: Conditions) -> Prepared:
        """What the U-Net reads at every evaluation: the tokens' keys and values, not the tokens."""
        keys_values = None if conditions.tokens is None else self.unet.keys_values(conditions.tokens)
        return Prepared(keys_values, conditions.maps, conditions.embedding)

    def predict(self, x: Tensor, t: Tensor, conditions: Prepared) -> Tensor:
        """What the parameterisation says of x: [R, C, h, w], t [R] -> eps, x0, v or the flow, [R, C, h, w].

        Rows are independent. The network runs in the dtype of its weights; the answer has that of x.
        """
        weights = next(self.unet.parameters()).dtype
        seen = x if conditions.maps is None else torch.cat([x, conditions.maps], dim=1)
        rest = (None if part is None else part.to(weights) for part in (conditions.keys_values, conditions.embedding))
        keys_values, embedding = rest
        return torch.as_tensor(self.unet(seen.to(weights), t, keys_values=keys_values, embedding=embedding)).to(x.dtype)

    def denoise(self, x: Tensor, t: Tensor, conditions: Prepared) -> Tensor:
        """The estimate of z_0: x [R, C, h, w], t [R] -> [R, C, h, w]. Rows are independent."""
        return self.diffusion.denoise(x, self.predict(x, t, conditions), t)

    def architecture(self) -> dict[str, Any]:
        """What `build` needs to make this model again."""
        return {
            "autoencoder": as_json(asdict(self.autoencoder.config)),
            "unet": {
                k: v
                for k, v in as_json(asdict(self.unet.config)).items()
                if k not in LATER_FIELDS or v != LATER_FIELDS[k]
            },
            "conditioners": {
                name: conditioner.config()  # type: ignore[operator]
                for name, conditioner in self.conditioners.items()
            },
            "diffusion": as_json(asdict(self.diffusion.config)),
        }


def as_json(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as JSON has it: sequences are lists."""
    return {key: list(value) if isinstance(value, tuple | list) else value for key, value in config.items()}


# -- release folders -----------------------------------------------------------------------------


def save_autoencoder(folder: Path, model: Autoencoder, *, name: str, image_size: int, **about: Any) -> release.Release:
    """Write an autoencoder release for square images. `about`: lineage and metrics."""
    c = model.config
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder / AUTOENCODER_FILE)
    return release.write(
        folder,
        release.Release(
            name=name,
            kind="autoencoder",
            architecture={"autoencoder": as_json(asdict(c))},
            image_shape=(c.image_channels, image_size, image_size),
            latent_shape=(c.latent_channels, image_size // c.factor, image_size // c.factor),
            conditions={},
            **about,
        ),
    )


def save_diffusion(
    folder: Path, model: LatentDiffusion, *, name: str, image_size: int, guided: bool = True, **about: Any
) -> release.Release:
    """Write a diffusion release; its autoencoder's file has the bytes of the autoencoder's own release.

    guided: whether the model was trained with condition dropout, so that guidance works; it says nothing of a model
    without conditions. about: lineage and metrics.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model.unet, folder / UNET_FILE)
    save_weights(model.conditioners, folder / CONDITIONERS_FILE)
    for field, conditioner in model.conditioners.items():
        for asset, content in conditioner.assets().items():  # type: ignore[operator]
            (folder / f"{field}.{asset}").write_bytes(content)
    described = save_autoencoder(folder, model.autoencoder, name=name, image_size=image_size, **about)
    return release.write(
        folder,
        replace(
            described,
            kind="diffusion",
            architecture=model.architecture(),
            conditions={**model.conditioners.schema(), **({"guided": guided} if len(model.conditioners) else {})},
        ),
    )


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state, with the permissions of the folder's other files (safetensors makes its own private)."""
    path.touch()
    mode = path.stat().st_mode
    save_file({name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}, path)
    path.chmod(mode)


def load_weights(module: nn.Module, path: Path) -> None:
    """Load strictly. Raises ReleaseError naming the file and the tensors that do not fit."""
    try:
        module.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, OSError) as error:
        raise release.ReleaseError(f"{path}: not a readable safetensors file ({error})") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise release.ReleaseError(f"{path}: the weights do not fit the architecture: {reason}") from None


def build_model(folder: Path, build: Callable[[], Model]) -> Model:
    """The model that a release's architecture describes. Raises ReleaseError when this version cannot build it."""
    try:
        return build()
    except (KeyError, TypeError, ValueError) as error:
        raise release.ReleaseError(f"{folder / release.MANIFEST}: architecture: cannot be built ({error})") from None


def load_autoencoder(folder: Path) -> tuple[Autoencoder, release.Release]:
    """The autoencoder of a verified release of either kind, in eval mode."""
    description = release.read(folder)
    model = build_model(folder, lambda: Autoencoder(AutoencoderConfig(**description.architecture["autoencoder"])))
    load_weights(model, folder / AUTOENCODER_FILE)
    return model.eval(), description


def load_diffusion(folder: Path) -> tuple[LatentDiffusion, release.Release]:
    """The model of a verified diffusion release, in eval mode. Raises ReleaseError for another kind."""
    description = release.read(folder)
    if description.kind != "diffusion":
        raise release.ReleaseError(f"{folder}: a release of kind {description.kind}; a diffusion release is needed")
    model = build_model(
        folder, lambda: LatentDiffusion.build(description.architecture, read_assets(folder, description))
    )
    load_weights(model.autoencoder, folder / AUTOENCODER_FILE)
    load_weights(model.unet, folder / UNET_FILE)
    load_weights(model.conditioners, folder / CONDITIONERS_FILE)
    return model.eval(), description


def read_assets(folder: Path, description: release.Release) -> dict[str, dict[str, bytes]]:
    """The files of each conditioner, by its field: those that `save_diffusion` wrote as FIELD.NAME."""
    assets: dict[str, dict[str, bytes]] = {}
    for field in description.architecture["conditioners"]:
        for path in folder.glob(f"{field}.*"):
            if path.suffix != ".safetensors":  # a field may be named as a file of weights is
                assets.setdefault(field, {})[path.name.removeprefix(f"{field}.")] = path.read_bytes()
    return assets

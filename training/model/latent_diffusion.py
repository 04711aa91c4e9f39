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
from training.model.light_decoder import LatentDecoder, LightDecoder
from training.model.release import AUTOENCODER_FILE
from training.model.unet import LATER_FIELDS, UNet, UNetConfig
from training.model.uninitialised import Uninitialised

UNET_FILE = "unet.safetensors"
CONDITIONERS_FILE = "conditioners.safetensors"
LIGHT_DECODER_FILE = "light_decoder.safetensors"
Model = TypeVar("Model", bound=nn.Module)


class Prepared(NamedTuple):
    """Conditions in the form that every network evaluation reads; None if the model has no such entry.

    The tensors of R rows are [R, ...]; those of a single row lack that dimension.
    """

    keys_values: Tensor | None  # [R, M, all cross-attentions' keys and values]
    maps: Tensor | None  # [R, K, h, w]
    embedding: Tensor | None  # [R, E]

    def row(self, i: int) -> "Prepared":
        """Return a copy of row i."""
        return Prepared(*(None if part is None else part[i].clone() for part in self))


class LatentDiffusion(nn.Module):
    """A diffusion model in the latent space of an autoencoder (Rombach et al. 2022, section 3).

    light_decoder: a second decoder of the same latents, if there is one.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        unet: UNet,
        conditioners: Conditioners,
        diffusion: Diffusion,
        light_decoder: LightDecoder | None = None,
    ) -> None:
        super().__init__()
        self.autoencoder, self.unet, self.conditioners, self.diffusion = autoencoder, unet, conditioners, diffusion
        self.light_decoder = light_decoder

    @classmethod
    def build(cls, architecture: Mapping[str, Any], assets: Mapping[str, Mapping[str, bytes]] | None = None) -> Self:
        """Build a model with fresh weights from the `architecture` of a release or a training configuration.

        assets: the files of conditioners that have any, by field. Raises KeyError, TypeError or ValueError for an
        architecture that does not fit.
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
            LightDecoder.build(architecture) if release.LIGHT_DECODER in architecture else None,
        )

    @property
    def decoders(self) -> dict[release.DecoderName, LatentDecoder]:
        """What decodes latents, by the name in requests: the autoencoder, and the light decoder if there is one."""
        own: dict[release.DecoderName, LatentDecoder] = {"full": self.autoencoder}
        return own if self.light_decoder is None else {**own, "light": self.light_decoder}

    @property
    def device(self) -> torch.device:
        """The device of the U-Net."""
        return next(self.unet.parameters()).device

    @property
    def is_told_guidance(self) -> bool:
        """Whether the guidance scale is an input of the network, so that a guided prediction takes one row."""
        return "guidance" in self.unet.config.numbers

    @property
    def has_null(self) -> bool:
        """Whether guidance compares two answers of the network, to the conditions and to their null conditions."""
        return bool(len(self.conditioners)) and not self.is_told_guidance

    def conditions(self, requests: Sequence[Mapping[str, Any] | None], size: tuple[int, int]) -> Prepared:
        """Prepare the conditions of R requests, None for the null condition, for latents of `size` (h, w).

        A sampling run needs this once. Raises ValueError naming the invalid field.
        """
        return self.prepare(self.conditioners(requests, size, self.autoencoder.encode))

    def prepare(self, conditions: Conditions) -> Prepared:
        """Replace tokens by their keys and values, which every evaluation of the U-Net reads."""
        weights = self.unet.conv_in.weight.dtype
        keys_values = None if conditions.tokens is None else self.unet.keys_values(conditions.tokens.to(weights))
        return Prepared(keys_values, conditions.maps, conditions.embedding)

    def null_of(self, conditions: Prepared, null: Prepared) -> Prepared:
        """Return what guidance compares one row of conditions with: `null`, with the maps of the row if they stay."""
        return null._replace(maps=conditions.maps) if self.conditioners.keeps_maps_in_null else null

    def numbers(self, step: Tensor, guidance: Tensor) -> Tensor | None:
        """Return the numeric inputs of a distilled network (`number_embedding.NUMBERS`), [R] -> [R, K], or None."""
        told = {"step": step, "guidance": guidance}
        names = self.unet.config.numbers
        return torch.stack([told[name] for name in names], dim=1) if names else None

    def predict(self, x: Tensor, t: Tensor, conditions: Prepared, numbers: Tensor | None = None) -> Tensor:
        """Evaluate the network: x [R, C, h, w], t [R] -> eps, x0, v or the flow, [R, C, h, w]; see `Diffusion.target`.

        numbers: [R, K], see `numbers`.
        Rows are independent. The network runs in the dtype of its weights; the output has that of x.
        """
        weights = self.unet.conv_in.weight.dtype
        full = x if conditions.maps is None else torch.cat([x, conditions.maps], dim=1)
        rest = (None if part is None else part.to(weights) for part in (conditions.keys_values, conditions.embedding))
        keys_values, embedding = rest
        output = self.unet(full.to(weights), t, keys_values=keys_values, embedding=embedding, numbers=numbers)
        return torch.as_tensor(output).to(x.dtype)

    def denoise(self, x: Tensor, t: Tensor, conditions: Prepared, numbers: Tensor | None = None) -> Tensor:
        """Estimate z_0: x [R, C, h, w], t [R] -> [R, C, h, w]. Rows are independent."""
        return self.diffusion.denoise(x, self.predict(x, t, conditions, numbers), t)

    def architecture(self) -> dict[str, Any]:
        """Return the configuration from which `build` makes this model."""
        return {
            "autoencoder": as_json(asdict(self.autoencoder.config)),
            "unet": {
                k: v
                for k, v in as_json(asdict(self.unet.config)).items()
                if k not in LATER_FIELDS or v != LATER_FIELDS[k]
            },
            "conditioners": {name: conditioner.config() for name, conditioner in self.conditioners.by_field().items()},
            "diffusion": as_json(asdict(self.diffusion.config)),
            **({} if self.light_decoder is None else {release.LIGHT_DECODER: self.light_decoder.light.to_json()}),
        }


def as_json(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration as JSON represents it: with lists for tuples."""
    return {key: list(value) if isinstance(value, tuple | list) else value for key, value in config.items()}


# -- release folders -----------------------------------------------------------------------------


def save_autoencoder(
    folder: Path,
    model: Autoencoder,
    *,
    name: str,
    image_size: int,
    lineage: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
) -> release.Release:
    """Write an autoencoder release for square images of `image_size` pixels."""
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
            lineage=lineage or {},
            metrics=metrics or {},
        ),
    )


def save_diffusion(
    folder: Path,
    model: LatentDiffusion,
    *,
    name: str,
    image_size: int,
    guided: bool = True,
    distilled: release.Distilled | None = None,
    lineage: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
) -> release.Release:
    """Write a diffusion release for square images of `image_size` pixels.

    Its autoencoder file has the same bytes as in the autoencoder's own release. guided: whether the model was trained
    with condition dropout, so that guidance works; ignored for a model without conditions. distilled: how a model that
    was distilled to few steps may be sampled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model.unet, folder / UNET_FILE)
    save_weights(model.conditioners, folder / CONDITIONERS_FILE)
    if model.light_decoder is not None:
        save_weights(model.light_decoder, folder / LIGHT_DECODER_FILE)
    for field, conditioner in model.conditioners.by_field().items():
        for asset, content in conditioner.assets().items():
            (folder / f"{field}.{asset}").write_bytes(content)
    written = save_autoencoder(
        folder, model.autoencoder, name=name, image_size=image_size, lineage=lineage, metrics=metrics
    )
    conditions = model.conditioners.schema()
    if len(model.conditioners):
        conditions["guided"] = guided
    if distilled is not None:
        conditions[release.DISTILLED] = distilled.to_json()
    return release.write(
        folder, replace(written, kind="diffusion", architecture=model.architecture(), conditions=conditions)
    )


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state. The file gets the usual permissions; safetensors alone would make it private."""
    path.touch()
    mode = path.stat().st_mode
    save_file({name: tensor.detach().contiguous() for name, tensor in module.state_dict().items()}, path)
    path.chmod(mode)


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a module's state, strictly. Raises ReleaseError naming the file and the tensors that do not fit."""
    try:
        module.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, OSError) as error:
        raise release.ReleaseError(f"{path}: not a readable safetensors file ({error})") from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise release.ReleaseError(f"{path}: the weights do not fit the architecture: {reason}") from None


def build_model(folder: Path, build: Callable[[], Model]) -> Model:
    """Return `build()`, without weights: the caller loads them.

    Raises ReleaseError if this version cannot build the architecture of the release.
    """
    try:
        with Uninitialised():
            return build()
    except (KeyError, TypeError, ValueError) as error:
        raise release.ReleaseError(f"{folder / release.MANIFEST}: architecture: cannot be built ({error})") from None


def load_autoencoder(folder: Path) -> tuple[Autoencoder, release.Release]:
    """Verify a release of either kind and load its autoencoder, in eval mode. Raises ReleaseError."""
    description = release.read(folder)
    model = build_model(folder, lambda: Autoencoder(AutoencoderConfig(**description.architecture["autoencoder"])))
    load_weights(model, folder / AUTOENCODER_FILE)
    return model.eval(), description


def load_diffusion(folder: Path) -> tuple[LatentDiffusion, release.Release]:
    """Verify a diffusion release and load its model, in eval mode. Raises ReleaseError, also for another kind."""
    description = release.read(folder)
    if description.kind != "diffusion":
        raise release.ReleaseError(f"{folder}: a release of kind {description.kind}; a diffusion release is needed")
    model = build_model(
        folder, lambda: LatentDiffusion.build(description.architecture, read_assets(folder, description))
    )
    load_weights(model.autoencoder, folder / AUTOENCODER_FILE)
    load_weights(model.unet, folder / UNET_FILE)
    load_weights(model.conditioners, folder / CONDITIONERS_FILE)
    if model.light_decoder is not None:
        load_weights(model.light_decoder, folder / LIGHT_DECODER_FILE)
    return model.eval(), description


def read_assets(folder: Path, description: release.Release) -> dict[str, dict[str, bytes]]:
    """Return the files of each conditioner by field, which `save_diffusion` wrote as FIELD.NAME."""
    assets: dict[str, dict[str, bytes]] = {}
    for field in description.architecture["conditioners"]:
        for path in folder.glob(f"{field}.*"):  # a field may have the name of another file, such as the card
            if path.suffix != ".safetensors" and path.name.endswith(release.WEIGHTS_SUFFIXES):
                assets.setdefault(field, {})[path.name.removeprefix(f"{field}.")] = path.read_bytes()
    return assets

"""The assembled model: autoencoder, denoising U-Net, conditioners and diffusion process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.model import conditioners, release, solvers
from training.model.autoencoder import Autoencoder, AutoencoderConfig
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.unet import UNet, UNetConfig

AUTOENCODER_FILE = "autoencoder.safetensors"
UNET_FILE = "unet.safetensors"
CONDITIONERS_FILE = "conditioners.safetensors"
Model = TypeVar("Model", bound=nn.Module)


class LatentDiffusion(nn.Module):
    """A diffusion model in the latent space of an autoencoder (Rombach et al. 2022, section 3)."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        unet: UNet,
        conditioners: conditioners.Conditioners,
        diffusion: Diffusion,
    ) -> None:
        super().__init__()
        self.autoencoder, self.unet, self.conditioners, self.diffusion = autoencoder, unet, conditioners, diffusion

    @classmethod
    def build(cls, architecture: Mapping[str, Any]) -> Self:
        """A model with fresh weights from the `architecture` of a release or a training configuration."""
        return cls(
            Autoencoder(AutoencoderConfig(**architecture["autoencoder"])),
            UNet(UNetConfig(**architecture["unet"])),
            conditioners.Conditioners(
                {name: conditioners.build(config) for name, config in architecture["conditioners"].items()}
            ),
            Diffusion(DiffusionConfig(**architecture["diffusion"])),
        )

    def context(self, requests: Sequence[Mapping[str, Any] | None]) -> Tensor | None:
        """R requests' conditions, None for the null condition -> tokens [R, M, width]; None if unconditional."""
        return self.conditioners.context(requests) if len(self.conditioners) else None

    def denoise(self, x: Tensor, t: Tensor, context: Tensor | None) -> Tensor:
        """x [R, C, h, w], t [R], context [R, M, width] -> the estimate of z_0, [R, C, h, w]. Rows are independent."""
        return self.diffusion.denoised(x, self.unet(x, t, context), t)

    def trajectory(self, solver: str, steps: int) -> solvers.Trajectory:
        """The matrices of `steps` steps of a solver. Raises ValueError naming what is permitted."""
        if solver not in solvers.SOLVERS:
            raise ValueError(f"solver: {solver!r} is not known; permitted: {', '.join(sorted(solvers.SOLVERS))}")
        timesteps = solvers.trailing(steps, self.diffusion.config.timesteps)
        return solvers.SOLVERS[solver]([*map(self.diffusion.level, timesteps), solvers.DATA])

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[Mapping[str, Any]],
        seeds: Sequence[int],
        *,
        latent_shape: Sequence[int],
        steps: int = 30,
        solver: str = "ddim",
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """One image for each request and seed: [R, channels, H, W] in [-1, 1].

        Classifier-free guidance (Ho & Salimans 2022): D = D_null + scale (D_condition - D_null).
        """
        device = next(self.unet.parameters()).device
        guided = guidance_scale != 1.0 and len(self.conditioners) > 0
        trajectory = self.trajectory(solver, steps)
        context = self.context([*requests, *([None] * len(requests) if guided else [])])

        def noise(index: int) -> Tensor:
            return torch.stack([solvers.seeded_noise(seed, index, latent_shape) for seed in seeds]).to(device)

        x = noise(0)
        state = torch.zeros(len(x), 5, *latent_shape, device=device)
        state[:, 0] = x
        for i in range(len(trajectory)):
            x = state[:, 0]
            t = torch.full((len(x),), trajectory.t[i], device=device)
            if guided:
                conditional, null = self.denoise(torch.cat([x, x]), torch.cat([t, t]), context).chunk(2)
                denoised = null + guidance_scale * (conditional - null)
            else:
                denoised = self.denoise(x, t, context)
            fresh = noise(i + 1) if trajectory.noisy(i) else torch.zeros_like(x)
            A = torch.from_numpy(trajectory.A[i]).expand(len(x), 5, 7)
            state = solvers.step(state, denoised, fresh, A)
        return self.autoencoder.decode(state[:, 0]).clamp(-1, 1)

    def architecture(self) -> dict[str, Any]:
        """What `build` needs to make this model again."""
        return {
            "autoencoder": plain(asdict(self.autoencoder.config)),
            "unet": plain(asdict(self.unet.config)),
            "conditioners": {
                name: {"type": "class", "classes": conditioner.classes, "width": conditioner.width}
                for name, conditioner in self.conditioners.items()
            },
            "diffusion": plain(asdict(self.diffusion.config)),
        }


def plain(config: dict[str, Any]) -> dict[str, Any]:
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
            architecture={"autoencoder": plain(asdict(c))},
            image_shape=(c.image_channels, image_size, image_size),
            latent_shape=(c.latent_channels, image_size // c.factor, image_size // c.factor),
            conditions={},
            **about,
        ),
    )


def save_diffusion(
    folder: Path, model: LatentDiffusion, *, name: str, image_size: int, **about: Any
) -> release.Release:
    """Write a diffusion release; its autoencoder's file has the bytes of the autoencoder's own release."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model.unet, folder / UNET_FILE)
    save_weights(model.conditioners, folder / CONDITIONERS_FILE)
    described = save_autoencoder(folder, model.autoencoder, name=name, image_size=image_size, **about)
    return release.write(
        folder,
        replace(
            described,
            kind="diffusion",
            architecture=model.architecture(),
            conditions=model.conditioners.schema(),
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


def built(folder: Path, build: Callable[[], Model]) -> Model:
    """The model that a release's architecture describes. Raises ReleaseError when this version cannot build it."""
    try:
        return build()
    except (KeyError, TypeError, ValueError) as error:
        raise release.ReleaseError(f"{folder / release.MANIFEST}: architecture: cannot be built ({error})") from None


def load_autoencoder(folder: Path) -> tuple[Autoencoder, release.Release]:
    """The autoencoder of a verified release of either kind, in eval mode."""
    description = release.read(folder)
    model = built(folder, lambda: Autoencoder(AutoencoderConfig(**description.architecture["autoencoder"])))
    load_weights(model, folder / AUTOENCODER_FILE)
    return model.eval(), description


def load_diffusion(folder: Path) -> tuple[LatentDiffusion, release.Release]:
    """The model of a verified diffusion release, in eval mode. Raises ReleaseError for another kind."""
    description = release.read(folder)
    if description.kind != "diffusion":
        raise release.ReleaseError(f"{folder}: a release of kind {description.kind}; a diffusion release is needed")
    model = built(folder, lambda: LatentDiffusion.build(description.architecture))
    load_weights(model.autoencoder, folder / AUTOENCODER_FILE)
    load_weights(model.unet, folder / UNET_FILE)
    load_weights(model.conditioners, folder / CONDITIONERS_FILE)
    return model.eval(), description

"""Sampling that starts from an image: from its latent with noise, or in a masked area while the rest is kept."""

import torch
import torch.nn.functional as F
from torch import Tensor

from services.worker.bounded_cache import BoundedCache
from services.worker.conditions import ReadBeginning
from services.worker.large_images import encode_in_tiles
from training.model.batch import Known, Run
from training.model.latent_diffusion import LatentDiffusion
from training.model.pixels import to_unit
from training.model.trajectory_table import transfer

LATENT_BYTES = 64 * 2**20  # of latents that are kept on the device


class BeginningEncoder:
    """Encodes images to begin with, one at a time, so that a latent never depends on the others.

    in_tiles: whether the images are too large to be encoded as a whole.
    """

    def __init__(self, model: LatentDiffusion, *, in_tiles: bool) -> None:
        self._model, self._in_tiles = model, in_tiles
        self._kept = BoundedCache[bytes, Tensor](LATENT_BYTES, lambda latent: latent.nbytes)

    def begin(self, run: Run, beginning: ReadBeginning, strength: float) -> None:
        """Let a run begin with an image.

        With a strength below 1 it starts at the noised latent, z_t = alpha_t z_0 + sigma_t eps at the first of its
        levels (SDEdit, Meng et al. 2022). With a hole, the latent around it is kept: before each evaluation it is put
        back with fresh noise, as by the mask of the authors' DDIM sampler (RePaint, Lugmayr et al. 2022, eq. 8).
        """
        latent = self._latent(beginning)
        if strength < 1:
            t = transfer(torch.tensor(run.trajectory.t[:1], dtype=torch.float64), latent.device)
            start = run.start.to(latent.device, non_blocking=True)  # from pinned memory
            run.start = self._model.diffusion.diffuse(latent[None], start[None], t)[0]
        if beginning.hole is not None:
            hole = transfer(torch.from_numpy(beginning.hole), latent.device).to(latent)[None]
            # A position whose pixels are not all kept is not kept.
            run.known = Known(latent, 1 - F.max_pool2d(hole, self._model.autoencoder.config.factor))

    def clear(self) -> None:
        """Free the device's memory."""
        self._kept.clear()

    def _latent(self, beginning: ReadBeginning) -> Tensor:
        latent = self._kept.get(beginning.digest)
        if latent is None:
            autoencoder, image = self._model.autoencoder, transfer(pixels_of(beginning)[None], self._model.device)
            latent = (encode_in_tiles(autoencoder, image) if self._in_tiles else autoencoder.encode(image))[0]
            self._kept.put(beginning.digest, latent)
        return latent


def pixels_of(beginning: ReadBeginning) -> Tensor:
    """Return the image, [channels, H, W] in [-1, 1]."""
    image = beginning.image[:, :, None] if beginning.image.ndim == 2 else beginning.image
    return to_unit(torch.from_numpy(image.copy())[None])[0]


def restore(image: Tensor, beginning: ReadBeginning | None) -> Tensor:
    """Return a generated image [channels, H, W] with the pixels outside of the hole as they were given."""
    if beginning is None or beginning.hole is None:
        return image
    hole, given = (transfer(part, image.device) for part in (torch.from_numpy(beginning.hole), pixels_of(beginning)))
    return torch.where(hole, image, given.to(image))

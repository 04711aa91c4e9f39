"""The latent scale of first stages: measured after their training, or before their use if imported without one."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from training.data.image_set import ImageSet
from training.data.rows import spread
from training.model.autoencoder import Autoencoder
from training.model.release import Release
from training.recipes.randomness import StepDraws, mix_seeds

BATCH = 32  # images in a batch
MOST = 10_000  # images


def is_unmeasured(autoencoder: Autoencoder, release: Release) -> bool:
    """Return whether the scale of an imported first stage is unknown and therefore 1."""
    stated = release.lineage.get("latent_scale", {}).get("from", "not measured")
    imported = release.kind == "autoencoder" and "imported_from" in release.lineage
    return imported and stated == "not measured" and float(autoencoder.latent_scale) == 1.0


def measure_if_needed(autoencoder: Autoencoder, release: Release, images: ImageSet) -> float | None:
    """Measure the scale of a first stage that has none, on the training images that it is going to encode.

    The noise schedule assumes latents of unit variance (Rombach et al. 2022, appendix G); those of an autoencoder may
    have any. Equal images give an equal scale, so that latents on disk and a resumed run agree. Returns the scale, or
    None if the release states it.
    """
    if not is_unmeasured(autoencoder, release):
        return None
    device = autoencoder.latent_scale.device
    autoencoder.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    scale = measure_on_training_images(autoencoder, images, seed=0)
    autoencoder.to(device)
    print(f"The first stage {release.name!r} has no latent scale; on these images it is {scale:.5g}.")
    return scale


def measure_on_training_images(autoencoder: Autoencoder, images: ImageSet, *, seed: int) -> float:
    """Set and return `latent_scale`, measured on training images; see `training_batches`."""
    return measure_latent_scale(autoencoder, training_batches(images), seed=seed)


def training_batches(images: ImageSet) -> Iterator[Tensor]:
    """Return this rank's part of the training images on which a scale is measured: batches [R, C, H, W] in [-1, 1].

    All ranks have at most MOST together, spread over the set: its images are sorted by name, and so mostly by class.
    """
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    rows = spread(images.rows("train"), MOST)[rank::ranks]
    return (images.pixels(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH))


@torch.no_grad()
def measure_latent_scale(autoencoder: Autoencoder, images: Iterator[Tensor], *, seed: int) -> float:
    """Set `latent_scale` to 1 / std of posterior samples over all images of all ranks.

    images: batches [R, C, H, W] in [-1, 1], different ones on each rank. The standard deviation is over images,
    channels and positions together, as in Rombach et al. 2022, appendix G, who measure it on one batch.
    """
    device = autoencoder.latent_scale.device
    rank = dist.get_rank() if dist.is_initialized() else 0
    autoencoder.latent_scale.fill_(1.0)
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # count, sum, sum of squares
    for index, batch in enumerate(images):
        mean, std = autoencoder.moments(batch.to(device))
        draws = StepDraws(mix_seeds(seed, rank), index, len(batch), device)
        z = (mean + std * draws.normal(*mean.shape[1:])).double()
        sums += torch.stack([torch.tensor(z.numel(), device=device).double(), z.sum(), z.square().sum()])
    if dist.is_initialized():
        dist.all_reduce(sums)
    count, total, squares = sums.tolist()
    variance = squares / count - (total / count) ** 2
    autoencoder.latent_scale.fill_(max(variance, 1e-12) ** -0.5)
    return float(autoencoder.latent_scale)

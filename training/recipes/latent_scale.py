"""The latent scale of first stages that were imported without one."""

import torch
import torch.distributed as dist

from training.data.image_set import ImageSet
from training.model.autoencoder import Autoencoder
from training.model.release import Release
from training.recipes.autoencoder import measure_latent_scale

BATCH = 32  # images in a batch
MOST = 10_000  # images


def is_unmeasured(autoencoder: Autoencoder, release: Release) -> bool:
    """Return whether nobody stated the scale of an imported first stage, which is therefore 1."""
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
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    rows = list(images.rows("train"))[rank:MOST:ranks]
    parts = (images.pixels(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH))
    scale = measure_latent_scale(autoencoder, parts, seed=0)
    autoencoder.to(device)
    print(f"The first stage {release.name!r} has no latent scale; on these images it is {scale:.5g}.")
    return scale

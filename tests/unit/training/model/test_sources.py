"""Training begins from releases and from folders of diffusers alike."""

from pathlib import Path

import diffusers
import torch

from tests.support import diffusers_folders as made
from training import encode_latents
from training.data import latents
from training.data.image_set import ImageSet
from training.model import release
from training.model.interop.huggingface.reading.release import import_release
from training.model.interop.sources import open_release
from training.model.latent_diffusion import load_autoencoder


def test_a_folder_of_diffusers_is_read_as_its_release(tmp_path: Path) -> None:
    torch.manual_seed(0)
    scheduler = diffusers.DDIMScheduler(**made.SD_BETAS, **made.LEADING)
    theirs = diffusers.LDMPipeline(made.vq(), made.plain_unet(), scheduler)
    theirs.save_pretrained(tmp_path / "ldm")
    imported, _ = import_release(tmp_path / "ldm" / "vqvae", tmp_path / "release", name="mine")
    for source in (tmp_path / "release", tmp_path / "ldm" / "vqvae", tmp_path / "ldm"):
        with open_release(source, first_stage=True) as folder:
            model, description = load_autoencoder(folder)
        assert description.digest == imported.digest
        assert torch.equal(model.encoder.conv_in.weight, theirs.vqvae.encoder.conv_in.weight)  # type: ignore
    with open_release(tmp_path / "ldm") as folder:
        assert release.read(folder).kind == "diffusion"
    with open_release(tmp_path) as folder:
        assert folder == tmp_path  # neither: its reader says so


def test_latents_of_a_first_stage_of_diffusers(bars: ImageSet, bars_root: Path, tmp_path: Path) -> None:
    made.vae(in_channels=1, out_channels=1).save_pretrained(tmp_path / "vae")
    folder = encode_latents.run(tmp_path / "vae", bars_root, tmp_path / "latents")
    with open_release(tmp_path / "vae") as opened:
        assert latents.read(folder).description.autoencoder == release.read(opened).digest

"""What training must do on a GPU."""

import torch

from tests.benchmarks.gpu_parts import SMALLEST
from tests.benchmarks.gpu_timing import DEVICE
from tests.benchmarks.gpu_training import FIRST_SMALLEST, OPTIMISER, step_of
from tests.support.gpu import no_waiting
from training.model.autoencoder import Autoencoder
from training.model.conditioners import Conditioners
from training.model.conditioners.classes import ClassConditioner
from training.model.diffusion import Diffusion, DiffusionConfig
from training.model.latent_diffusion import LatentDiffusion
from training.model.quantiser import VectorQuantiser
from training.model.unet import UNet
from training.recipes.diffusion import DiffusionRecipe
from training.recipes.randomness import StepDraws


def test_the_nearest_codebook_entry_is_found_in_float32_under_autocast() -> None:
    """In bf16 a third of 8192 entries of 3 numbers would not be the nearest."""
    torch.manual_seed(0)
    quantiser = VectorQuantiser(8192, 3).to(DEVICE)
    with torch.no_grad():
        quantiser.codebook.weight.normal_()
        z = torch.randn(4, 3, 32, 32, device=DEVICE)
        exact = torch.cdist(z.permute(0, 2, 3, 1).reshape(-1, 3).double(), quantiser.codebook.weight.double()).argmin(1)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            found = quantiser(z).indices.flatten()
    assert (found == exact).float().mean() > 0.999


def test_the_checkpoint_of_a_compiled_network_resumes_in_an_eager_one() -> None:
    torch.manual_seed(0)
    compiled, eager = UNet(SMALLEST).to(DEVICE), UNet(SMALLEST).to(DEVICE)
    if DEVICE.type == "cuda":
        compiled.compile(dynamic=False)
    optimiser = torch.optim.AdamW(compiled.parameters(), lr=1e-3, fused=True)
    x, t = torch.randn(2, 3, 8, 8, device=DEVICE), torch.tensor([3, 500], device=DEVICE)
    context = torch.randn(2, 1, 32, device=DEVICE)
    for _ in range(2):
        compiled(x, t, context).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    eager.load_state_dict(compiled.state_dict())
    resumed = torch.optim.AdamW(eager.parameters(), lr=1e-3, fused=True)
    resumed.load_state_dict(optimiser.state_dict())
    assert list(compiled.state_dict()) == list(eager.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, t, context), eager(x, t, context), rtol=1e-3, atol=1e-3)


def test_no_training_step_waits_for_the_device() -> None:
    """The host prepares the next step while the device computes."""
    torch.manual_seed(0)
    conditioners = Conditioners({"class_label": ClassConditioner(10, SMALLEST.context_width or 0)})
    model = LatentDiffusion(Autoencoder(FIRST_SMALLEST), UNet(SMALLEST), conditioners, Diffusion(DiffusionConfig()))
    recipe = DiffusionRecipe(model, OPTIMISER, steps=1000, seed=0, batch_size=4, condition_dropout=0.5).to(DEVICE)
    batch = {
        "moments": torch.randn(4, 2, 3, 8, 8, device=DEVICE),
        "requests": [{"class_label": row} for row in range(4)],
    }
    step = step_of(recipe, lambda: recipe.loss(batch, recipe.draw(batch, StepDraws(0, 1, 4, DEVICE))))
    step()
    with no_waiting():
        step()

"""Every configuration of the authors' model zoo is read, and written again as it was."""

import pytest
import torch

from tests.support.compvis import random_state
from tests.support.zoo import LABELS, ZOO, configuration
from training.model.interop.compvis import writing
from training.model.interop.compvis.checkpoint import image_size, make_model
from training.model.interop.compvis.options import Options
from training.model.interop.compvis.targets import READERS
from training.model.latent_diffusion import LatentDiffusion


@pytest.mark.parametrize("name", ZOO)
def test_a_configuration_is_read_and_written(name: str) -> None:
    config = configuration(name)
    parts = {"unet_config": "model.diffusion_model.", "first_stage_config": "first_stage_model.",
             "cond_stage_config": "cond_stage_model."}  # fmt: skip
    state: dict[str, torch.Tensor] = {}
    for part, prefix in parts.items():
        block = config["params"][part]
        if isinstance(block, dict) and block["target"].rpartition(".")[2] in READERS:
            state |= random_state(block, prefix)
    classes = LABELS if ZOO[name].condition == "layout" else None
    model = make_model(config, state, Options(token_ids=True, classes=classes))
    assert isinstance(model, LatentDiffusion)
    block, found, _ = writing.write_diffusion(model, image_size(config, model), guided=False)
    assert found.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(found[key].flatten(), tensor.flatten()), key
    for field in ("image_size", "linear_start", "linear_end", "scale_factor", "channels"):
        assert block["params"][field] == config["params"][field], field

"""A recipe's weights and optimiser moments as named tensors."""

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Optimizer

from training.recipes.recipe import Recipe
from training.runs.checkpoints import STATE, Checkpoint, damage_error


def state_of(recipe: Recipe) -> dict[str, Tensor]:
    """Return the weights as `recipe.NAME` and the optimisers' moments as `optimiser.K.PARAMETER.NAME`."""
    tensors = {f"recipe.{name}": tensor.detach() for name, tensor in recipe.saved_weights().items()}
    for k, optim in enumerate(recipe.optimiser_list()):
        for index, values in optim.state_dict()["state"].items():
            tensors |= {f"optimiser.{k}.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    return tensors


def restore(recipe: Recipe, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Load a checkpoint's state into a recipe and its optimisers, and return its tensors. Raises CheckpointError."""
    tensors = restore_weights(recipe, checkpoint)
    try:
        for k, optim in enumerate(recipe.optimiser_list()):
            prefix = f"optimiser.{k}."
            restore_optimiser(optim, {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    except (RuntimeError, ValueError) as error:
        raise damage_error(checkpoint.folder, error) from None
    return tensors


def restore_weights(recipe: Recipe, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Load a checkpoint's weights and step into a recipe, and return all its tensors. Raises CheckpointError."""
    tensors = read_tensors(checkpoint)
    try:
        recipe.load_saved_weights({n.removeprefix("recipe."): t for n, t in tensors.items() if n.startswith("recipe.")})
    except RuntimeError as error:
        raise damage_error(checkpoint.folder, error) from None
    recipe.step = checkpoint.step
    return tensors


def read_tensors(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint. Raises CheckpointError."""
    try:
        return load_file(checkpoint.folder / STATE)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise damage_error(checkpoint.folder, error) from None


def restore_optimiser(optim: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the moments `PARAMETER.NAME` into an optimiser, in the memory layout of their parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, field = name.partition(".")
        state.setdefault(int(index), {})[field] = tensor
    optim.load_state_dict({**optim.state_dict(), "state": state})
    for parameter, values in optim.state.items():
        for field, tensor in values.items():
            if tensor.shape == parameter.shape:  # files do not record the layout, and the result of a sum depends on it
                values[field] = torch.empty_like(parameter).copy_(tensor)

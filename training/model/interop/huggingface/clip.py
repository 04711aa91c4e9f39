"""Export of a frozen CLIP text encoder, as CLIPTextModel."""

from training.model.conditioners.frozen_text import FrozenTextConditioner
from training.model.interop.huggingface.component import Component

PREFIX = "text_model."  # of the tensors in every file of this class, whatever the version of transformers


def clip_component(conditioner: FrozenTextConditioner) -> Component:
    """Export the encoder as CLIPTextModel."""
    config = {"architectures": ["CLIPTextModel"], **conditioner.architecture}
    state = conditioner.encoder.state_dict()
    tensors = {f"{PREFIX}{name.removeprefix(PREFIX)}": tensor for name, tensor in state.items()}
    return Component("transformers", "CLIPTextModel", config, tensors, weights_file="model.safetensors")

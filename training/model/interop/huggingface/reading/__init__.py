"""Reading folders of diffusers: autoencoders, U-Nets, and the pipelines that combine them with text encoders.

Reading inverts the export: it uses every tensor of theirs and fills every tensor of ours. It needs transformers for
text encoders, and diffusers for nothing.
"""

from training.model.interop.huggingface.reading.folders import DiffusersError
from training.model.interop.huggingface.reading.model import ReadModel, Sources, is_diffusers_folder, read

__all__ = ["DiffusersError", "ReadModel", "Sources", "is_diffusers_folder", "read"]

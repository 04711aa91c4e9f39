"""Agreement of images and captions according to a pretrained CLIP (Hessel et al. 2021, CLIPScore)."""

import hashlib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.errors import summarise
from training.model.conditioners.frozen_text import load_pretrained
from training.model.pixels import to_bytes
from training.model.release import sha256_of

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own
BATCH = 64


class TextAgreement:
    """max(100 cos, 0) of the embeddings of an image and its caption.

    Compare only figures of the same network (`digest`), and report those of real images with their captions.
    """

    def __init__(self, network: Any, tokenizer: Any, name: str, digest: str) -> None:
        self.network, self.tokenizer, self.name, self.digest = network, tokenizer, name, digest
        self.image_size = int(network.config.vision_config.image_size)
        self.length = int(network.config.text_config.max_position_embeddings)

    @torch.inference_mode()
    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Square images [R, 1 or 3, S, S] in [-1, 1] and R captions -> [R]; longer captions are truncated."""
        if len(images) != len(captions) or images.shape[2] != images.shape[3]:
            raise ValueError(
                f"images: {tuple(images.shape)}, {len(captions)} captions; images must be square, with one caption each"
            )
        parts = []
        for start in range(0, len(images), BATCH):
            text = self.tokenizer(
                list(captions[start : start + BATCH]),
                padding=True,
                truncation=True,
                max_length=self.length,
                return_tensors="pt",
            )
            seen = self.network(
                input_ids=text.input_ids.to(self.device),
                attention_mask=text.attention_mask.to(self.device),
                pixel_values=self.pixels(images[start : start + BATCH]),
            )
            cosine = F.cosine_similarity(seen.image_embeds, seen.text_embeds)
            parts.append((100 * cosine).clamp(min=0).cpu())
        return torch.cat(parts)

    def pixels(self, images: Tensor) -> Tensor:
        """[R, 1 or 3, S, S] in [-1, 1] -> [R, 3, image_size, image_size], resized and scaled as CLIP was trained."""
        small = torch.from_numpy(to_bytes(images)).permute(0, 3, 1, 2).expand(-1, 3, -1, -1).to(self.device) / 255
        sides = (self.image_size, self.image_size)
        resized = F.interpolate(small, sides, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean, deviation = (torch.tensor(values, device=self.device)[:, None, None] for values in (MEAN, DEVIATION))
        return (resized - mean) / deviation

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return torch.device(self.network.device)


def load(folder: Path, field: str = "clip") -> TextAgreement:
    """Load the network and the tokenizer of a local folder in the layout of the `transformers` library.

    Reads only safetensors, runs no code of the folder and downloads nothing. Raises ValueError that starts with
    `field`.
    """
    if not folder.is_dir():  # the library would take it for the name of a hosted model
        raise ValueError(f"{field}: {folder} is not a folder; give one with a CLIP model")
    try:
        transformers = import_module("transformers")
    except ImportError:
        raise ValueError(f"{field}: needs the package transformers: pip install 'darkroom[text]'") from None
    try:
        tokenizer, network, missing = load_pretrained(transformers.CLIPModel, folder)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{field}: {folder} holds no CLIP model with safetensors ({summarise(error)})") from None
    if missing:  # the library would initialise them at random
        raise ValueError(f"{field}: the weights of {folder} lack {', '.join(missing[:3])}")
    files = sorted(folder.glob("*.safetensors"))
    digest = hashlib.sha256("".join(sha256_of(file) for file in files).encode()).hexdigest()
    return TextAgreement(network.requires_grad_(False).eval(), tokenizer, f"CLIP {folder.name}", digest)

"""Small folders of diffusers with random weights, written by diffusers and transformers themselves."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

from tests.support.comparison import random_weights

VAE = {
    "block_out_channels": [32, 32], "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2, "sample_size": 16, "scaling_factor": 0.7,
}  # fmt: skip
UNET = {"sample_size": 8, "layers_per_block": 1, "block_out_channels": [32, 64]}
PLAIN = {
    **UNET,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
CROSS = {
    **UNET, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "cross_attention_dim": 32, "attention_head_dim": 2,
}  # fmt: skip
SD_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LEADING = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


def vae(**changes: Any) -> Any:
    return random_weights(diffusers.AutoencoderKL(**{**VAE, **changes}))


def vq(**changes: Any) -> Any:
    return random_weights(diffusers.VQModel(**{**VAE, "num_vq_embeddings": 64, **changes}))


def plain_unet(**changes: Any) -> Any:
    return random_weights(diffusers.UNet2DModel(**{**PLAIN, **changes}))


def cross_unet(**changes: Any) -> Any:
    return random_weights(diffusers.UNet2DConditionModel(**{**CROSS, **changes}))


def clip(**changes: Any) -> Any:
    torch.manual_seed(3)
    config = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
              "vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513, **changes}  # fmt: skip
    return random_weights(transformers.CLIPTextModel(transformers.CLIPTextConfig(**config)))


def clip_tokenizer(folder: Path, padding: str = "<|endoftext|>") -> Any:
    """Write a byte-level CLIP tokenizer in the files of Stable Diffusion 1.x, which has no tokenizer.json."""
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in letters]
    characters = [chr(byte) for byte in letters] + [chr(256 + n) for n in range(len(rest))]
    tokens = [*characters, *(f"{one}</w>" for one in characters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
               "pad_token": padding}  # fmt: skip
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special})
    )
    return transformers.AutoTokenizer.from_pretrained(folder)


def bert() -> Any:
    torch.manual_seed(4)
    config = LDMBertConfig(
        vocab_size=8, max_position_embeddings=77, encoder_layers=2, encoder_ffn_dim=128, encoder_attention_heads=2,
        head_dim=8, d_model=32, dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    return random_weights(LDMBertModel(config))


def bert_tokenizer(folder: Path) -> Any:
    """Write the files of BERT's tokenizer, with a vocabulary of eight word pieces."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog"]) + "\n"
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 77})
    )
    return transformers.AutoTokenizer.from_pretrained(folder)


def stable_diffusion(
    folder: Path,
    scheduler: Any,
    unet: Any = None,
    text: Any = None,
    padding: str = "<|endoftext|>",
    kind: Any = diffusers.StableDiffusionPipeline,
) -> Any:
    """Return a StableDiffusionPipeline with small parts, without a safety checker."""
    return kind(
        vae=vae(), text_encoder=text or clip(), tokenizer=clip_tokenizer(folder, padding), unet=unet or cross_unet(),
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip

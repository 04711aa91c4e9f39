"""Small models of Stable Diffusion with random weights, in the layout of its authors' files."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.support.compvis import random_state

MERGES = ["c a", "ca t</w>", "r e", "re d</w>"]
SPECIAL = ["<|startoftext|>", "<|endoftext|>"]
WIDTH, LENGTH = 64, 16
SIZE = 8  # of the latents, of 4 channels; images have 16 pixels a side


def write_tokenizer(folder: Path) -> int:
    """Write CLIP's vocab.json and merges.txt, of single characters and two words. Returns the number of tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in MERGES)]
    pieces += SPECIAL
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]) + "\n")
    return len(pieces)


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return random weights: norms near the identity, small matrices."""
    return {
        key: torch.randn(shape) * 0.05 + (1.0 if len(shape) == 1 and "ln" in key.rpartition(".")[0] else 0.0)
        for key, shape in shapes.items()
    }


def clip_state(vocabulary: int, layers: int) -> dict[str, Tensor]:
    """Return a text tower of CLIP, by the names of `transformers`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    model = CLIPTextModel(clip_config(vocabulary, layers, "quick_gelu"))
    assert isinstance(model.config, CLIPTextConfig)
    return {
        f"transformer.text_model.{key}": tensor * (20 if ".fc1." in key else 1)  # so that its QuickGELU matters
        for key, tensor in model.state_dict().items()
    }


def clip_config(vocabulary: int, layers: int, activation: str) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=layers,
        num_attention_heads=1, max_position_embeddings=LENGTH, hidden_act=activation, bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1, pad_token_id=0, projection_dim=WIDTH,
    )  # fmt: skip


def open_clip_state(vocabulary: int, layers: int) -> dict[str, Tensor]:
    """Return a text tower of OpenCLIP, by its own names."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (vocabulary, WIDTH), "positional_embedding": (LENGTH, WIDTH),
        "ln_final.weight": (WIDTH,), "ln_final.bias": (WIDTH,), "text_projection": (WIDTH, WIDTH), "logit_scale": (),
    }  # fmt: skip
    for i in range(layers):
        shapes |= {
            f"transformer.resblocks.{i}.{name}": shape
            for name, shape in {
                "ln_1.weight": (WIDTH,), "ln_1.bias": (WIDTH,), "ln_2.weight": (WIDTH,), "ln_2.bias": (WIDTH,),
                "attn.in_proj_weight": (3 * WIDTH, WIDTH), "attn.in_proj_bias": (3 * WIDTH,),
                "attn.out_proj.weight": (WIDTH, WIDTH), "attn.out_proj.bias": (WIDTH,),
                "mlp.c_fc.weight": (2 * WIDTH, WIDTH), "mlp.c_fc.bias": (2 * WIDTH,),
                "mlp.c_proj.weight": (WIDTH, 2 * WIDTH), "mlp.c_proj.bias": (WIDTH,),
            }.items()
        }  # fmt: skip
    return {f"model.{key}": tensor for key, tensor in random_tensors(shapes).items()}


def stable_diffusion(
    vocabulary: int, *, version: int = 1, inpainting: bool = False, prediction: str = "eps"
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the `model` block and the state dict of Stable Diffusion 1.x or 2.x."""
    torch.manual_seed(0)
    sizes = {"num_heads": 2} if version == 1 else {"num_head_channels": 16, "use_linear_in_transformer": True}
    unet = {
        "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
        "params": {
            "image_size": 32, "in_channels": 9 if inpainting else 4, "out_channels": 4, "model_channels": 32,
            "attention_resolutions": [2, 1], "num_res_blocks": 1, "channel_mult": [1, 2], **sizes,
            "use_spatial_transformer": True, "transformer_depth": 1, "context_dim": WIDTH, "use_checkpoint": True,
            "legacy": False,
        },
    }  # fmt: skip
    first_stage = {
        "target": "ldm.models.autoencoder.AutoencoderKL",
        "params": {
            "embed_dim": 4, "monitor": "val/rec_loss", "lossconfig": {"target": "torch.nn.Identity"},
            "ddconfig": {
                "double_z": True, "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32,
                "ch_mult": [1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
                **({"attn_type": "vanilla-xformers"} if version == 2 else {}),
            },
        },
    }  # fmt: skip
    if version == 1:
        embedder: dict[str, Any] = {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"}
        embedder["params"] = {"max_length": LENGTH}
        text = clip_state(vocabulary, 2)
    else:
        embedder = {"target": "ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder"}
        embedder["params"] = {"freeze": True, "layer": "penultimate", "max_length": LENGTH}
        text = open_clip_state(vocabulary, 3)
    name = "LatentInpaintDiffusion" if inpainting else "LatentDiffusion"
    config = {
        "target": f"ldm.models.diffusion.ddpm.{name}",
        "params": {
            "linear_start": 0.00085, "linear_end": 0.0120, "timesteps": 1000, "scale_factor": 0.18215,
            "parameterization": prediction, "first_stage_key": "jpg", "cond_stage_key": "txt", "image_size": SIZE,
            "channels": 4, "conditioning_key": "hybrid" if inpainting else "crossattn", "use_ema": False,
            "unet_config": unet, "first_stage_config": first_stage, "cond_stage_config": embedder,
        },
    }  # fmt: skip
    convolutions = [".skip_connection.", ".nin_shortcut.", "quant_conv.", ".attn_1."]  # of 1x1
    convolutions += [".proj_in.", ".proj_out."] if version == 1 else []
    state = random_state(unet, "model.diffusion_model.") | random_state(first_stage, "first_stage_model.")
    for key, tensor in state.items():
        if tensor.dim() == 2 and any(part in key for part in convolutions):
            state[key] = tensor[:, :, None, None]
    state |= {f"cond_stage_model.{key}": tensor for key, tensor in text.items()}
    return config, state | {"betas": torch.zeros(1000), "model_ema.decay": torch.tensor(0.99)}


def diffusers_parts(config: dict[str, Any], state: dict[str, Tensor], tokenizer: Path) -> dict[str, Any]:
    """Return the parts of diffusers' pipelines, with weights that its own converters made of the state dict."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders import single_file_utils as convert
    from transformers import CLIPTextModel, CLIPTokenizer

    version_2 = "FrozenOpenCLIP" in config["params"]["cond_stage_config"]["target"]
    unet = UNet2DConditionModel(
        sample_size=SIZE, in_channels=config["params"]["unet_config"]["params"]["in_channels"], out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=WIDTH,
        attention_head_dim=(2, 4) if version_2 else 2, use_linear_projection=version_2,
    )  # fmt: skip
    unet.load_state_dict(convert.convert_ldm_unet_checkpoint(dict(state), dict(unet.config)))
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 32), layers_per_block=1, latent_channels=4, sample_size=16, scaling_factor=0.18215,
    )  # fmt: skip
    vae.load_state_dict(convert.convert_ldm_vae_checkpoint(dict(state), dict(vae.config)))
    pieces = CLIPTokenizer.from_pretrained(tokenizer, model_max_length=LENGTH)
    text = CLIPTextModel(clip_config(len(pieces), 2, "gelu" if version_2 else "quick_gelu"))
    if version_2:
        pieces.pad_token = "!"
        found = convert.convert_open_clip_checkpoint(text, dict(state), prefix="cond_stage_model.model.")
    else:
        found = convert.convert_ldm_clip_checkpoint(dict(state))
    found = {key.removeprefix("text_model."): value for key, value in found.items()}
    text.load_state_dict({key: found[key] for key in text.state_dict()})
    return {"unet": unet.eval(), "vae": vae.eval(), "text_encoder": text.eval(), "tokenizer": pieces}

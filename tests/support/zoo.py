"""The configurations of the authors' model zoo and of their training folder, at a reduced width.

Depths, multipliers, places of attention, heads, conditions and schedules are theirs; widths and vocabularies are small.
"""

from typing import Any, NamedTuple

MODULES, WIDTH, CONTEXT = "ldm.modules.", 32, 24


class Entry(NamedTuple):
    """A configuration: its U-Net's and first stage's parameters that differ, its condition and its betas."""

    unet: dict[str, Any]
    first: dict[str, Any]
    condition: str = "none"
    betas: tuple[float, float] = (0.0015, 0.0195)


F4: dict[str, Any] = {"ch_mult": [1, 2, 4]}
F8: dict[str, Any] = {"ch_mult": [1, 2, 2, 4], "attn_resolutions": [32], "embed_dim": 4}
F4_PLAIN = {**F4, "attn_type": "none"}
KL_F8: dict[str, Any] = {"ch_mult": [1, 2, 4, 4], "embed_dim": 4, "double_z": True}
FACES = {"attention_resolutions": [8, 4, 2], "channel_mult": [1, 2, 3, 4], "num_head_channels": 32}
CHURCHES = {"attention_resolutions": [1, 2, 4, 8], "channel_mult": [1, 2, 2, 4, 4], "num_heads": 8,
            "use_scale_shift_norm": True, "resblock_updown": True}  # fmt: skip
CIN = {"attention_resolutions": [4, 2, 1], "channel_mult": [1, 2, 4], "num_head_channels": 32}
CIN2 = {"attention_resolutions": [8, 4, 2], "channel_mult": [1, 2, 3, 5], "num_heads": 1}
TEXT = {"attention_resolutions": [8, 4, 2], "channel_mult": [1, 2, 3, 5], "num_head_channels": 32}
TEXT_1P4B = {"attention_resolutions": [4, 2, 1], "channel_mult": [1, 2, 4, 4], "num_heads": 8, "legacy": False}
LAYOUT = {**FACES, "transformer_depth": 3}
INPAINTING = {"attention_resolutions": [8, 4, 2], "channel_mult": [1, 2, 3, 4], "num_heads": 8, "resblock_updown": True}
BSR = {"attention_resolutions": [16, 8], "channel_mult": [1, 2, 2, 4], "num_head_channels": 32}
SEMANTIC = {"attention_resolutions": [32, 16, 8], "channel_mult": [1, 4, 8], "num_heads": 8}

ZOO = {
    "celeba256, ffhq256, lsun_beds256": Entry(FACES, F4),
    "lsun_churches256": Entry(CHURCHES, KL_F8, betas=(0.0015, 0.0155)),
    "cin256": Entry(CIN, F8, "class"),
    "cin256-v2": Entry(CIN2, F4, "class and null"),
    "text2img256": Entry(TEXT, F4, "text"),
    "txt2img-1p4B": Entry(TEXT_1P4B, KL_F8, "text", (0.00085, 0.012)),
    "layout2img-openimages256": Entry(LAYOUT, F4, "layout", (0.0015, 0.0205)),
    "inpainting_big": Entry(INPAINTING, F4_PLAIN, "masked image", (0.0015, 0.0205)),
    "bsr_sr": Entry(BSR, F4, "low resolution", (0.0015, 0.0155)),
    "semantic_synthesis256, semantic_synthesis512": Entry(SEMANTIC, F4, "semantic map", (0.0015, 0.0205)),
}
CLASSES = {"class": 1000, "class and null": 1001}
LABELS = 20  # of layouts and semantic maps
PIECES = 24  # of the texts' vocabulary


def configuration(name: str) -> dict[str, Any]:
    """Return the `model` block of a configuration."""
    entry = ZOO[name]
    first = dict(entry.first)
    width, kl = first.pop("embed_dim", 3), first.get("double_z", False)
    unet = {"in_channels": width, "out_channels": width, "model_channels": WIDTH, "num_res_blocks": 2, **entry.unet}
    parts = condition(entry.condition, width)
    unet |= parts.pop("unet")
    ddconfig = {"double_z": False, "z_channels": width, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": WIDTH,
                "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0, **first}  # fmt: skip
    size = 64 // 2 ** (len(first["ch_mult"]) - 1)
    return {
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": {
            "linear_start": entry.betas[0], "linear_end": entry.betas[1], "timesteps": 1000,
            "image_size": max(size, 2 ** (len(unet["channel_mult"]) - 1)), "channels": width, "scale_factor": 0.5,
            "unet_config": {"target": f"{MODULES}diffusionmodules.openaimodel.UNetModel",
                            "params": {"image_size": 64, **unet}},
            "first_stage_config": {
                "target": f"ldm.models.autoencoder.{'AutoencoderKL' if kl else 'VQModelInterface'}",
                "params": {"embed_dim": width, "ddconfig": ddconfig, **({} if kl else {"n_embed": 64})},
            },
            **parts,
        },
    }  # fmt: skip


def condition(kind: str, latent: int) -> dict[str, Any]:
    """Return the parameters of a condition, with those of the U-Net under `unet`."""
    cross = {"use_spatial_transformer": True, "context_dim": CONTEXT}
    encoders = f"{MODULES}encoders.modules."
    match kind:
        case "class" | "class and null":
            embedder = {"embed_dim": CONTEXT, "n_classes": CLASSES[kind], "key": "class_label"}
            return {"unet": cross, "cond_stage_key": "class_label", "conditioning_key": "crossattn",
                    "cond_stage_config": {"target": f"{encoders}ClassEmbedder", "params": embedder}}  # fmt: skip
        case "text":
            embedder = {"n_embed": CONTEXT, "n_layer": 2, "vocab_size": PIECES, "max_seq_len": 9}
            return {"unet": cross, "cond_stage_key": "caption", "conditioning_key": "crossattn",
                    "cond_stage_config": {"target": f"{encoders}BERTEmbedder", "params": embedder}}  # fmt: skip
        case "layout":
            embedder = {"n_embed": CONTEXT, "n_layer": 2, "vocab_size": 64, "max_seq_len": 11}
            settings = {**embedder, "use_tokenizer": False}
            return {"unet": cross, "cond_stage_key": "coordinates_bbox", "conditioning_key": "crossattn",
                    "cond_stage_config": {"target": f"{encoders}BERTEmbedder", "params": settings}}  # fmt: skip
        case "semantic map":
            rescaler = {"n_stages": 2, "in_channels": LABELS, "out_channels": 3}
            return {"unet": {"in_channels": latent + 3}, "cond_stage_key": "segmentation", "conditioning_key": "concat",
                    "cond_stage_config": {"target": f"{encoders}SpatialRescaler", "params": rescaler}}  # fmt: skip
        case "masked image":
            return {"unet": {"in_channels": 2 * latent + 1}, "cond_stage_key": "masked_image",
                    "conditioning_key": "concat", "cond_stage_config": "__is_first_stage__"}  # fmt: skip
        case "low resolution":
            return {"unet": {"in_channels": latent + 3}, "cond_stage_key": "LR_image", "conditioning_key": "concat",
                    "cond_stage_config": {"target": "torch.nn.Identity"}}  # fmt: skip
    return {"unet": {}, "cond_stage_config": "__is_unconditional__"}

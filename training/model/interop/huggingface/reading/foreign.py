"""Folders that are no latent diffusion model of this kind, by the names of their classes."""

import re

READABLE = (
    "AutoencoderKL", "VQModel", "UNet2DModel", "UNet2DConditionModel", "DDIMPipeline", "DDPMPipeline", "LDMPipeline",
    "LDMSuperResolutionPipeline", "LDMTextToImagePipeline", "PNDMPipeline", "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline", "StableDiffusionPipeline",
)  # fmt: skip

# The first pattern that occurs in a class's name says what it is.
FOREIGN = {
    r"StableDiffusionXL|^KolorsP": "Stable Diffusion XL, whose U-Net reads two text encoders and the image's size",
    r"StableDiffusion3|^SD3": "Stable Diffusion 3, which is a transformer",
    r"Flux": "Flux, which is a transformer",
    r"Video|UNet3D|SpatioTemporal|Motion|AnimateDiff|TemporalDecoder|CogVideo|^Wan|^LTX|^Mochi|^Allegro": "for video",
    r"Audio|MusicLDM|Spectrogram": "for sound",
    r"^DiT": "DiT, which is a transformer",
    r"PixArt": "PixArt, which is a transformer",
    r"Transformer|Sana|Lumina|AuraFlow|HunyuanDiT|CogView|QwenImage|HiDream|Chroma": "a transformer, not a U-Net",
    r"ControlNet|Adapter|GLIGEN": "an addition to a model, which is not one by itself",
    r"Upscale|Depth2Img|InstructPix2Pix|UnCLIP|ImageVariation": "a Stable Diffusion with another kind of condition",
    r"Kandinsky|Wuerstchen|StableCascade|UnCLIP|Shap|IFPipeline|^IF": "a model of several stages",
    r"LatentConsistency": "a model whose U-Net reads the guidance scale",
    r"AutoencoderTiny|ConsistencyDecoder|AutoencoderDC|Asymmetric|Autoencoder": "another kind of autoencoder",
    r"UNet": "another kind of U-Net",
}


def describe_class(name: object) -> str:
    """Return what a class that cannot be read is, and what can."""
    what = next((what for pattern, what in FOREIGN.items() if re.search(pattern, str(name))), "not known to Darkroom")
    return f"{name!r} cannot be read: it is {what}; permitted: {', '.join(READABLE)}"

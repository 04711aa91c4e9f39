"""The programs in the README of an export; `pipelines` fills in the braces."""

PAGE = """\
# {name}

This folder has the layout of diffusers {version}. Run this in it:

```python
{example}
```
"""

AUTOENCODER = """
import torch
from diffusers import {autoencoder}

autoencoder = {autoencoder}.from_pretrained(".")
scale = autoencoder.config.scaling_factor
images = torch.rand(1, {image_channels}, {image_size}, {image_size}) * 2 - 1  # in [-1, 1]
with torch.inference_mode():
    latents = autoencoder.encode(images).{encoded} * scale
    images = autoencoder.decode(latents / scale).sample
"""

PIPELINES = {
    "LDMPipeline": """
from diffusers import LDMPipeline

pipeline = LDMPipeline.from_pretrained(".")
images = pipeline(batch_size=4, num_inference_steps=50).images
""",
    "LDMTextToImagePipeline": """
from diffusers import LDMTextToImagePipeline

pipeline = LDMTextToImagePipeline.from_pretrained(".")
size = 8 * {size}  # eight times the latents' size, because the pipeline divides by eight; the images may have another
prompts = ["a photograph", "a drawing"]
images = pipeline(prompts, height=size, width=size, num_inference_steps=50, guidance_scale=2.0).images
""",
    "LDMSuperResolutionPipeline": """
import torch
from diffusers import LDMSuperResolutionPipeline

pipeline = LDMSuperResolutionPipeline.from_pretrained(".")
low_resolution = torch.rand(1, {maps}, {size}, {size}) * 2 - 1  # in [-1, 1], of the latents' size
images = pipeline(low_resolution, num_inference_steps=50).images
""",
    "ClipPipeline": """
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained(".")
images = pipeline(["a photograph", "a drawing"], num_inference_steps=50, guidance_scale=2.0).images
""",
    "StableDiffusionInpaintPipeline": """
import torch
from diffusers import StableDiffusionInpaintPipeline

pipeline = StableDiffusionInpaintPipeline.from_pretrained(".")
originals = torch.rand(2, {image_channels}, {image_size}, {image_size})  # in [0, 1]
hole = torch.zeros(2, 1, {image_size}, {image_size})
hole[..., {image_size} // 4 : {image_size} // 2] = 1
images = pipeline(  # which draws the latent of the known part from the posterior; Darkroom takes its mean
    ["a photograph", "a drawing"],
    image=originals,
    mask_image=hole,
    height={image_size},
    width={image_size},
    num_inference_steps=50,
    guidance_scale=2.0,
).images
""",
    "StableDiffusionPipeline": """
import torch
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained(".", text_encoder=None, tokenizer=None)


def context(rows):  # the U-Net projects one-hot rows to class tokens
    return torch.nn.functional.one_hot(rows, {rows})[:, None].float()


labels = torch.arange({count})
images = pipeline(
    prompt_embeds=context(labels),
    negative_prompt_embeds=context(torch.full_like(labels, {null})),
    num_inference_steps=50,
    guidance_scale=2.0,
).images
""",
}

PARTS = """
import torch
from diffusers import {autoencoder}, {scheduler}, {unet}

{load_unet}
autoencoder = {autoencoder}.from_pretrained(".", subfolder="vqvae")
scheduler = {scheduler}.from_pretrained(".", subfolder="scheduler")

{conditions}

steps = 50
scheduler.set_timesteps({timesteps})
with torch.inference_mode():
    latents = torch.randn(count, {channels}, {size}, {size})
    for t in scheduler.timesteps:
        latents = scheduler.step(output(latents, t), t, latents).prev_sample
    images = autoencoder.decode(latents / autoencoder.config.scaling_factor).sample.clamp(-1, 1)
{restored}"""

TIMESTEPS = {"FlowMatchEulerDiscreteScheduler": "sigmas=[1 - i / steps for i in range(steps)]"}

LOAD_UNET = {
    False: """
unet = {unet}.from_pretrained(".", subfolder="unet")
""",
    True: """
network = {unet}.from_pretrained(".", subfolder="unet")


def unet(x, t, **given):  # the network also reads the coordinates of each position
    across, down = ((2 * torch.arange(n) + 1) / n - 1 for n in (x.shape[3], x.shape[2]))
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy")).expand(len(x), -1, -1, -1)
    return network(torch.cat([x, grid], dim=1), t, **given)


""",
}

RESTORED = "images = torch.where(hole, images, originals)  # restore the known pixels\n"

PROMPTS = """

def context(prompts):
    ids = tokenizer(prompts, padding="max_length", max_length={length}, truncation=True, return_tensors="pt").input_ids
    return {{"encoder_hidden_states": encoder(ids)[0].detach()}}


count = 2
condition, null = context(["a photograph", "a drawing"]), context([""] * count)
"""

GUIDED = """

def output(latents, t, guidance_scale=2.0):
    conditional, unconditional = (unet({input}, t, **given).sample for given in (condition, null))
    return unconditional + guidance_scale * (conditional - unconditional)
"""

CONCATENATED = """

def output(latents, t):
    return unet(torch.cat([latents, maps], dim=1), t).sample
"""

CONDITIONS = {
    "none": """
count = {count}


def output(latents, t):
    return unet(latents, t).sample
""",
    "labels": """
count = {count}
condition = {{"class_labels": torch.arange(count)}}
null = {{"class_labels": torch.full((count,), {null})}}
"""
    + GUIDED,
    "tokens": """

def context(rows):  # the U-Net projects one-hot rows to class tokens
    return {{"encoder_hidden_states": torch.nn.functional.one_hot(rows, {rows})[:, None].float()}}


count = {count}
condition, null = context(torch.arange(count)), context(torch.full((count,), {null}))
"""
    + GUIDED,
    "text": """
from diffusers.pipelines.latent_diffusion import LDMBertModel
from transformers import PreTrainedTokenizerFast

encoder = LDMBertModel.from_pretrained("bert")
tokenizer = PreTrainedTokenizerFast.from_pretrained("tokenizer")
"""
    + PROMPTS
    + GUIDED,
    "ids": """
from diffusers.pipelines.latent_diffusion import LDMBertModel

bert = LDMBertModel.from_pretrained("bert")


def context(ids):
    return {{"encoder_hidden_states": bert(torch.tensor(ids))[0].detach()}}


ids = [[0] * {length}, [1] * {length}]  # replace these: {length} token ids for each image
count = len(ids)
condition, null = context(ids), context([{null}] * count)
"""
    + GUIDED,
    "clip": """
from transformers import CLIPTextModel, PreTrainedTokenizerFast

encoder = CLIPTextModel.from_pretrained("text_encoder")
tokenizer = PreTrainedTokenizerFast.from_pretrained("tokenizer")
"""
    + PROMPTS
    + GUIDED,
    "semantic_map": """
from safetensors.torch import load_file

columns = load_file("conditions.safetensors")["columns"]  # [classes, maps]
count = 1
labels = torch.randint({classes}, (count, {size} * 2**{stages}, {size} * 2**{stages}))  # the class of each pixel
maps = torch.nn.functional.embedding(labels, columns).permute(0, 3, 1, 2)
for _ in range({stages}):
    maps = torch.nn.functional.interpolate(maps, scale_factor=0.5, mode="{method}")
"""
    + CONCATENATED,
    "layout_map": """
from safetensors.torch import load_file

vectors = load_file("conditions.safetensors")["vectors"]  # [classes, maps]
# For each image, the class of each object and its box x0, y0, x1, y1, as shares of the width and height.
layouts = [[(0, (0.1, 0.2, 0.6, 0.7)), (1, (0.5, 0.5, 1.0, 0.9))]]
count = len(layouts)


def share(low, high):  # of each of the cells in a row or column
    cells = torch.arange({size})
    return ((cells + 1).clamp(max=high * {size}) - cells.clamp(min=low * {size})).clamp(min=0)


maps = torch.zeros(count, {maps}, {size}, {size})
for row, objects in enumerate(layouts):
    for label, (x0, y0, x1, y1) in objects:
        maps[row] += (share(y0, y1)[:, None] * share(x0, x1)) * vectors[label][:, None, None]
"""
    + CONCATENATED,
    "low_resolution": """
count = 1
maps = torch.rand(count, {maps}, {size}, {size}) * 2 - 1  # the low-resolution image in [-1, 1], of the latents' size
"""
    + CONCATENATED,
    "masked_image": """
count = 1
"""
    + CONCATENATED,
}

WITH_MAPS = "torch.cat([latents, maps], dim=1)"
MASKED = """

originals = torch.rand(count, {image_channels}, {image_size}, {image_size}) * 2 - 1  # in [-1, 1]
hole = torch.zeros(count, 1, {image_size}, {image_size}, dtype=torch.bool)
hole[..., {image_size} // 4 : {image_size} // 2] = True
with torch.inference_mode():
    known = autoencoder.encode(originals.masked_fill(hole, {filled})).{encoded} * autoencoder.config.scaling_factor
mask = torch.nn.functional.interpolate({mask}, size=({size}, {size}))
maps = torch.cat([{order}], dim=1)
"""
MASKED_STYLES = {
    "latent_diffusion": {"filled": "-1.0", "mask": "2 * hole.float() - 1", "order": "known, mask"},
    "stable_diffusion": {"filled": "0.0", "mask": "hole.float()", "order": "mask, known"},
}

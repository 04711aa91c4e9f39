"""The authors' own networks and sampler, from a folder with their package `ldm`, put together as their code does."""

import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.comparison import random_weights
from tests.support.compvis import random_state
from training.model.interop.compvis.targets import READERS

Given = dict[str, list[Tensor]]  # c_concat and c_crossattn, as their sampler takes them


class FirstStage(nn.Module):
    """Their AutoencoderKL or VQModelInterface: encoder, decoder, 1x1 convolutions and codebook."""

    def __init__(self, params: dict[str, Any], kl: bool) -> None:
        super().__init__()
        parts = import_module("ldm.modules.diffusionmodules.model")
        config, width = params["ddconfig"], params["embed_dim"]
        self.encoder, self.decoder = parts.Encoder(**config), parts.Decoder(**config)
        self.quant_conv = nn.Conv2d((1 + kl) * config["z_channels"], (1 + kl) * width, 1)
        self.post_quant_conv = nn.Conv2d(width, config["z_channels"], 1)
        self.quantize = None if kl else nn.ModuleDict({"embedding": nn.Embedding(params["n_embed"], width)})

    def encode(self, images: Tensor) -> Tensor:
        moments = self.quant_conv(self.encoder(images))
        return moments if self.quantize is not None else moments.chunk(2, dim=1)[0]

    def decode(self, z: Tensor) -> Tensor:
        if self.quantize is not None:
            table = self.quantize.get_parameter("embedding.weight")
            flat = z.permute(0, 2, 3, 1)
            z = table[torch.cdist(flat.flatten(0, 2), table).argmin(1)].view(flat.shape).permute(0, 3, 1, 2)
        return torch.as_tensor(self.decoder(self.post_quant_conv(z)))


class Authors:
    """A model of theirs with random weights. config: the `model` block."""

    def __init__(self, package: Path, config: dict[str, Any]) -> None:
        if str(package) not in sys.path:
            sys.path.append(str(package))
        torch.manual_seed(0)
        self.params = config["params"]
        first, self.embedder = self.params["first_stage_config"], self.params["cond_stage_config"]
        networks = import_module("ldm.modules.diffusionmodules.openaimodel")
        unet = {**self.params["unet_config"]["params"], "use_checkpoint": False}
        if "context_dim" in unet:  # this version of their code wants one for each block
            unet["context_dim"] = [unet["context_dim"]] * unet.get("transformer_depth", 1)
        self.unet = random_weights(networks.UNetModel(**unet)).eval()
        self.first = random_weights(FirstStage(first["params"], first["target"].endswith("KL"))).eval()

    def state(self) -> dict[str, Tensor]:
        """Return a checkpoint's state dict; of an embedder by the names of its reader."""
        state = {f"model.diffusion_model.{key}": tensor for key, tensor in self.unet.state_dict().items()}
        state |= {f"first_stage_model.{key}": tensor for key, tensor in self.first.state_dict().items()}
        if isinstance(self.embedder, dict) and self.embedder["target"].rpartition(".")[2] in READERS:
            state |= random_state(self.embedder, "cond_stage_model.")
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Load a state dict, strictly."""
        for module, prefix in ((self.unet, "model.diffusion_model."), (self.first, "first_stage_model.")):
            part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            module.load_state_dict(part)

    def masked(self, images: Tensor, holes: Tensor) -> Tensor:
        """Return the maps of images whose holes [R, 1, H, W] are 1, as their scripts/inpaint.py makes them."""
        known = self.first.encode((1 - holes) * images - holes) * self.params["scale_factor"]
        return torch.cat([known, F.interpolate(2 * holes - 1, size=known.shape[2:])], dim=1)

    @torch.no_grad()
    def sample(self, start: Tensor, steps: int, given: Given, null: Given | None = None, scale: float = 1.0) -> Tensor:
        """Return images by their DDIM sampler."""
        util = import_module("ldm.modules.diffusionmodules.util")
        betas = torch.as_tensor(
            util.make_beta_schedule("linear", 1000, self.params["linear_start"], self.params["linear_end"])
        )
        products = torch.cumprod(1 - betas, dim=0)
        model = SimpleNamespace(
            num_timesteps=1000, device=torch.device("cpu"), parameterization="eps", betas=betas.float(),
            alphas_cumprod=products.float(), alphas_cumprod_prev=torch.cat([torch.ones(1), products[:-1]]).float(),
            apply_model=self.apply,
        )  # fmt: skip
        sampler = import_module("ldm.models.diffusion.ddim").DDIMSampler(model)
        latents, _ = sampler.sample(
            steps, len(start), start.shape[1:], given or None, x_T=start, verbose=False, eta=0.0,
            unconditional_guidance_scale=scale, unconditional_conditioning=null,
        )  # fmt: skip
        return self.first.decode(latents / self.params["scale_factor"])

    def apply(self, x: Tensor, t: Tensor, given: Given | None) -> Tensor:
        """Their DiffusionWrapper."""
        given = given or {}
        maps, context = given.get("c_concat", []), given.get("c_crossattn")
        blocks = self.params["unet_config"]["params"].get("transformer_depth", 1)
        tokens = None if context is None else [torch.cat(context, 1)] * blocks
        answer = self.unet(torch.cat([x, *maps], dim=1), t, context=tokens)
        return torch.as_tensor(answer)

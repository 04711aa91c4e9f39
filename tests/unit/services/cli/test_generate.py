"""What `darkroom generate` asks a release for."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.cli.generate import build_request
from services.errors import CommandError
from services.registry.releases import ReleaseRow
from training.model.conditioners import ClassConditioner
from training.model.latent_diffusion import load_diffusion, save_diffusion

NAMES = ("10", "1", "null", "a/b", "猫", "", "g", "h", "i", "j")


@pytest.fixture(scope="module")
def row(tiny_release: Path, tmp_path_factory: pytest.TempPathFactory) -> ReleaseRow:
    """A release whose classes have odd names."""
    model, _ = load_diffusion(tiny_release)
    (field,) = model.conditioners.by_field().values()
    assert isinstance(field, ClassConditioner)
    field.names = NAMES
    made = save_diffusion(tmp_path_factory.mktemp("odd") / "odd", model, name="odd", image_size=32)
    manifest = {"architecture": made.architecture, "conditions": made.conditions}
    now = datetime.now(UTC)
    return ReleaseRow(1, "odd", 1, "diffusion", made.digest, manifest, now, {}, "someone", None, None)


@pytest.mark.parametrize(
    ("given", "asked"), [("1", "1"), ("10", "10"), ("2", 2), ("null", "null"), ("a/b", "a/b"), ("猫", "猫"), ("", "")]
)
def test_a_class_is_meant_by_its_name_before_its_number(given: str, asked: str | int, row: ReleaseRow) -> None:
    assert build_request(row, [given], [], 4) == {"items": [{"class_label": asked}], "images_per_item": 4}


def test_more_classes_than_images_are_refused(row: ReleaseRow) -> None:
    """The last ones were left out without a word."""
    message = "--count: 1 is not allowed; permitted: at least 2, one of each class and caption that is given"
    with pytest.raises(CommandError, match=message):
        build_request(row, ["g", "h"], [], 1)
    assert len(build_request(row, ["g", "h"], [], 2)["items"]) == 2
    assert len(build_request(row, [], [], 4)["items"]) == 4

"""`darkroom pictures inspect` names its argument."""

from pathlib import Path

import pytest

from services.cli.pictures import inspect
from services.errors import CommandError


def test_a_missing_folder_is_named_as_the_argument(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"^PICTURES: .*/nothing does not exist$"):
        inspect(str(tmp_path / "nothing"))

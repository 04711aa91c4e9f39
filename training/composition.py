"""From the files of `configs/` and overrides to a checked experiment: Hydra composes, the dataclasses check.

Every mistake becomes an ExperimentError of one line that names the field.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from training.experiment import RECIPES, DataAlone, DataConfig, Experiment, ExperimentError, check

Checked = TypeVar("Checked")
CONFIGS = Path(__file__).parent / "configs"


def names() -> list[str]:
    """The experiments that ship with the project."""
    return sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def load(experiment: str, overrides: Sequence[str] = ()) -> Experiment:
    """The checked experiment of `configs/experiment/{experiment}.yaml`, with Hydra overrides such as `steps=500`."""
    if experiment not in names():
        raise ExperimentError(f"experiment: {experiment!r} is not known; permitted: {', '.join(names())}")
    config = composed([f"experiment={experiment}", *overrides])
    return checked(container(config))


def data(overrides: Sequence[str]) -> DataConfig:
    """The checked `data` node alone, of overrides such as data=images. Raises ExperimentError."""
    return validated(DataAlone, {"data": container(composed(overrides).data)}).data


def container(config: DictConfig) -> dict[str, Any]:
    """A configuration without interpolations. Raises ExperimentError for a field that is needed and not set."""
    try:
        if missing := OmegaConf.missing_keys(config):
            raise ExperimentError(f"{min(missing)}: needed and not set; add {min(missing)}=VALUE")
        content = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ExperimentError(first_line(error)) from None
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def composed(overrides: Sequence[str]) -> DictConfig:
    """What Hydra makes of the files and the overrides. Raises ExperimentError."""
    parser = OverridesParser.create()
    for override in overrides:
        try:
            parser.parse_override(override)
        except HydraException:
            raise ExperimentError(f"{override!r} is not an override; write field=value, quoted where needed") from None
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose("train", list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        if match := re.search(r"Could not override '([^']+)'", str(error)):
            field = match[1]
            known = [str(key) for key in flat(composed(list(overrides)[:1]))]
            close = difflib.get_close_matches(field, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ExperimentError(f"{field}: there is no such field{hint}") from None
        if match := re.search(r"Could not find '(data|recipe)/([^']+)'", str(error)):
            permitted = sorted(path.stem for path in (CONFIGS / match[1]).glob("*.yaml"))
            raise ExperimentError(f"{match[1]}: {match[2]!r} is not known; permitted: {', '.join(permitted)}") from None
        raise ExperimentError(first_line(error)) from None


def flat(config: DictConfig, prefix: str = "") -> list[str]:
    """The dotted names of all fields."""
    found = []
    for key in config:
        name = f"{prefix}{key}"
        found.append(name)
        node = config._get_node(key)  # not its value, which may lead to a field that is not set
        if isinstance(node, DictConfig) and not OmegaConf.is_missing(config, key):
            found += flat(node, f"{name}.")
    return found


def checked(content: Mapping[str, Any]) -> Experiment:
    """A composed experiment as dataclasses. Raises ExperimentError naming the first field that does not fit."""
    recipe = content.get("recipe")
    if recipe not in RECIPES:
        raise ExperimentError(f"recipe: {recipe!r} is not known; permitted: {', '.join(sorted(RECIPES))}")
    experiment: Experiment = validated(RECIPES[recipe], content)
    check(experiment)
    return experiment


def validated(kind: type[Checked], content: Mapping[str, Any]) -> Checked:
    """A dataclass of plain values. Raises ExperimentError naming the first field that does not fit."""
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location = list(map(str, first["loc"]))
        if location[:2] == ["model", "conditioners"]:
            del location[3:4]  # which of the types it is; no field is called so
        field = ".".join(location)
        match first["type"]:
            case "unexpected_keyword_argument":
                raise ExperimentError(f"{field}: there is no such field") from None
            case "value_error":  # of a dataclass that checks itself: it names its field
                raise ExperimentError(f"{field}.{first['ctx']['error']}") from None
            case "missing":
                raise ExperimentError(f"{field}: needed and not set") from None
            case "union_tag_not_found":
                raise ExperimentError(f"{field}.type: needed and not set") from None
            case "union_tag_invalid":
                tag, permitted = first["ctx"]["tag"], first["ctx"]["expected_tags"].replace("'", "")
                raise ExperimentError(f"{field}.type: {tag!r} is not known; permitted: {permitted}") from None
        raise ExperimentError(f"{field}: {first['input']!r} is not allowed; {first['msg']}") from None


def first_line(error: Exception) -> str:
    """What an exception of Hydra says, without its further lines."""
    return str(error).strip().splitlines()[0]

"""From the files of `configs/` and overrides to a checked experiment: Hydra composes, the dataclasses check.

Every mistake becomes an ExperimentError of one line that names the field.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from training.experiments.fields import field_names
from training.experiments.schema import RECIPES, DataAlone, DataConfig, Experiment, ExperimentError, check

Checked = TypeVar("Checked")
CONFIGS = Path(__file__).parents[1] / "configs"
GROUPS = ("data", "recipe", "experiment")  # folders of it
PACKAGE = "# @package _global_"  # at the head of an experiment: its fields are the run's
UNION_MEMBERS = ("str", "int", "float", "bool", "none")  # as pydantic names them in the place of an error


def names() -> list[str]:
    """The experiments that ship with the project."""
    return sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def load(experiment: str, overrides: Sequence[str] = ()) -> Experiment:
    """The checked experiment of `configs/experiment/{experiment}.yaml`, with Hydra overrides such as `steps=500`.

    A name that ends in .yaml is the path of a file of one's own. Raises ExperimentError.
    """
    if experiment.endswith(".yaml"):
        config = own(Path(experiment), overrides)
    elif experiment in names():
        config = composed([f"experiment={experiment}", *overrides])
    else:
        raise ExperimentError(
            f"experiment: {experiment!r} is not known; permitted: a path that ends in .yaml, {', '.join(names())}"
        )
    recipe = config.get("recipe")
    if recipe not in RECIPES:
        raise ExperimentError(f"recipe: {told(recipe)} is not known; permitted: {', '.join(sorted(RECIPES))}")
    found: Experiment = validated(RECIPES[recipe], config)
    check(found)
    return found


def data(overrides: Sequence[str]) -> DataConfig:
    """The checked `data` node alone, of overrides such as data=images. Raises ExperimentError."""
    return validated(DataAlone, OmegaConf.masked_copy(composed(overrides), "data")).data


def own(path: Path, overrides: Sequence[str]) -> DictConfig:
    """What Hydra makes of an experiment's file anywhere, as if it were one of `configs/experiment`.

    Raises ExperimentError.
    """
    try:
        content = path.read_text(encoding="utf-8")
        yaml.safe_load(content)
    except OSError as error:
        raise ExperimentError(f"experiment: {path} cannot be read ({error.strerror})") from None
    except (UnicodeError, yaml.YAMLError) as error:
        raise ExperimentError(f"experiment: {path} is not YAML ({' '.join(str(error).split())})") from None
    with TemporaryDirectory() as folder:
        (Path(folder) / "experiment").mkdir()
        (Path(folder) / "experiment" / "own.yaml").write_text(f"{PACKAGE}\n{content}", encoding="utf-8")
        return composed(overrides, [f"hydra.searchpath=[file://{folder}]", "experiment=own"])


def composed(overrides: Sequence[str], first: Sequence[str] = ()) -> DictConfig:
    """What Hydra makes of the files, of overrides of ours and of a person's. Raises ExperimentError."""
    parser = OverridesParser.create()
    written = list(first)
    for override in overrides:
        try:
            parsed = parser.parse_override(override)
        except HydraException:
            raise ExperimentError(f"{override!r} is not an override; write field=value, quoted where needed") from None
        if parsed.is_sweep_override():
            raise ExperimentError(f"{override!r} has several values; permitted: one, in quotes where it has commas")
        field = parsed.key_or_group
        if field in GROUPS and not parsed.is_delete():
            chosen, permitted = parsed.value(), sorted(path.stem for path in (CONFIGS / field).glob("*.yaml"))
            if chosen not in permitted:
                raise ExperimentError(f"{field}: {told(chosen)} is not known; permitted: {', '.join(permitted)}")
        # "++" sets a field whether or not a file lists it: the dataclasses know the names, and check them.
        plain = override[0] not in "+~" and field not in GROUPS
        written.append(f"++{override}" if plain else override)
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose("train", written)
    except (HydraException, OmegaConfBaseException) as error:
        raise ExperimentError(first_line(error)) from None


def validated(kind: type[Checked], config: DictConfig) -> Checked:
    """A composed configuration as a dataclass. Raises ExperimentError naming the first field that does not fit."""
    needed = None
    try:
        if missing := OmegaConf.missing_keys(config):
            needed = ExperimentError(f"{min(missing)}: needed and not set; add {min(missing)}=VALUE")
        content = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise needed or ExperimentError(first_line(error)) from None
    assert isinstance(content, dict)
    try:
        found = TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        if unknown := [one for one in mistakes if one["type"] == "unexpected_keyword_argument"]:
            raise ExperimentError(no_such_field(field_of(unknown[0]), content)) from None
        raise needed or ExperimentError(mistake(mistakes[0])) from None
    if needed:
        raise needed
    return found


def field_of(error: ErrorDetails) -> str:
    """The dotted name of the field that a mistake is in, without the names of a union's members."""
    location = list(map(str, error["loc"]))
    if location[:2] == ["model", "conditioners"]:
        del location[3:4]  # which of the types it is; no field is called so
    return ".".join(part for part in location if re.fullmatch(r"[A-Za-z0-9_-]+", part) and part not in UNION_MEMBERS)


def no_such_field(field: str, content: dict[Any, Any]) -> str:
    """What is said of a misspelt field."""
    close = difflib.get_close_matches(field, [known for known in field_names(content) if known != field], n=1)
    return f"{field}: there is no such field" + (f"; did you mean {close[0]}?" if close else "")


def mistake(error: ErrorDetails) -> str:
    """One of pydantic's errors in one line that names the field."""
    field = field_of(error)
    match error["type"]:
        case "value_error":  # of a dataclass that checks itself: it names its field
            return f"{field}.{error['ctx']['error']}"
        case "missing":
            return f"{field}: needed and not set"
        case "union_tag_not_found":
            return f"{field}.type: needed and not set"
        case "union_tag_invalid":
            permitted = error["ctx"]["expected_tags"].replace("'", "")
            return f"{field}.type: {error['ctx']['tag']!r} is not known; permitted: {permitted}"
    return f"{field}: {error['input']!r} is not allowed; {error['msg']}"


def told(value: Any) -> str:
    """A value as a person wrote it."""
    return "null" if value is None else repr(value)


def first_line(error: Exception) -> str:
    """What an exception of Hydra says, without its further lines."""
    return str(error).strip().splitlines()[0]

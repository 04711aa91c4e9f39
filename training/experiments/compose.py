"""Composes an experiment from the files of `configs/` and overrides with Hydra, and checks it against its schema.

Every mistake becomes an ExperimentError of one line that names the field.
"""

import difflib
import json
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

from training.errors import describe_permitted, first_line, summarise
from training.experiments.fields import field_names
from training.experiments.schema import RECIPES, DataConfig, DataOnly, Experiment, ExperimentError, check
from training.model.release import MANIFEST

Checked = TypeVar("Checked")
CONFIGS = Path(__file__).parents[1] / "configs"
GROUPS = ("data", "recipe", "experiment")  # folders of CONFIGS
PACKAGE = "# @package _global_"  # first line of an experiment file: its fields are at the top level
# Hydra reads these files of its own for its launcher, sweeper and logging, which a composition has no use for.
UNUSED = tuple(
    f"~hydra/{group}"
    for group in ("output", "launcher", "sweeper", "help", "hydra_help", "hydra_logging", "job_logging", "env")
)
OPTIONAL_PATHS = ("data.prepared", "data.latents", "initial")
PATHS = ("data.root", "autoencoder", "teacher", "output", *OPTIONAL_PATHS)  # fields whose values are paths
UNION_MEMBERS = ("str", "int", "float", "bool", "none")  # as pydantic names them in the location of an error


def names() -> list[str]:
    """Return the names of the experiments that the project ships."""
    return sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def load(experiment: str, overrides: Sequence[str] = ()) -> Experiment:
    """Return the experiment of `configs/experiment/{experiment}.yaml` with Hydra overrides such as `steps=500`.

    A name that ends in .yaml is the path of the user's own file. Raises ExperimentError.
    """
    if experiment.endswith(".yaml"):
        config = compose_file(Path(experiment), overrides)
    elif experiment in names():
        config = compose_fields([f"experiment={experiment}", *overrides])
    else:
        raise ExperimentError(
            f"experiment: {experiment!r} is not known; permitted: a path that ends in .yaml, {', '.join(names())}"
        )
    recipe = config.get("recipe")
    if recipe not in RECIPES:
        raise ExperimentError(f"recipe: {format_value(recipe)} is not known; permitted: {', '.join(sorted(RECIPES))}")
    found: Experiment = validate(RECIPES[recipe], config)
    check(found)
    return found


def data(overrides: Sequence[str]) -> DataConfig:
    """Return only the checked `data` fields, for overrides such as data=images. Raises ExperimentError."""
    return validate(DataOnly, OmegaConf.masked_copy(compose_fields(overrides), "data")).data


def compose_file(path: Path, overrides: Sequence[str]) -> DictConfig:
    """Compose the experiment of a file outside the project, as if it were in `configs/experiment`.

    Raises ExperimentError.
    """
    try:
        content = path.read_text(encoding="utf-8")
        fields = yaml.safe_load(content) or {}
    except OSError as error:
        raise ExperimentError(f"experiment: {path} cannot be read ({error.strerror})") from None
    except (UnicodeError, yaml.YAMLError) as error:
        raise ExperimentError(f"experiment: {path} is not YAML ({summarise(error, 1000)})") from None
    if not isinstance(fields, dict):
        raise ExperimentError(f"experiment: {path} is not a mapping of fields to values")
    if not isinstance(defaults := fields.get("defaults", []), list):
        raise ExperimentError(
            f"experiment: {path}: defaults: {format_value(defaults)} is not allowed; permitted: a list, such as "
            "[emoji_text, _self_]"
        )
    with TemporaryDirectory() as folder:
        (Path(folder) / "experiment").mkdir()
        (Path(folder) / "experiment" / "own.yaml").write_text(f"{PACKAGE}\n{content}", encoding="utf-8")
        return compose_fields(overrides, [f"hydra.searchpath=[file://{folder}]", "experiment=own"])


def compose_fields(overrides: Sequence[str], first: Sequence[str] = ()) -> DictConfig:
    """Compose the configuration of the user's overrides, after the ones in `first`. Raises ExperimentError."""
    parser = OverridesParser.create()
    complete = list(first)
    paths: dict[str, str | None] = {}
    for override in overrides:
        field, equals, given = override.partition("=")
        if equals and field.lstrip("+") in PATHS:
            field = field.lstrip("+")
            paths[field] = None if given == "null" and field in OPTIONAL_PATHS else parse_path(given)
            continue
        try:
            parsed = parser.parse_override(override)
        except HydraException:
            raise ExperimentError(f"{override!r} is not an override; write field=value, quoted if needed") from None
        if parsed.is_sweep_override():
            raise ExperimentError(f"{override!r} has several values; permitted: one, in quotes if it contains commas")
        field = parsed.key_or_group
        if field in GROUPS and not parsed.is_delete():
            choice, permitted = parsed.value(), sorted(path.stem for path in (CONFIGS / field).glob("*.yaml"))
            if choice not in permitted:
                raise ExperimentError(
                    f"{field}: {format_value(choice)} is not known; permitted: {', '.join(permitted)}"
                )
        # "++" sets a field whether or not a file lists it; the dataclasses check the names.
        is_field = override[0] not in "+~" and field not in GROUPS
        complete.append(f"++{override}" if is_field else override)
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("train", [*UNUSED, *complete])
        for field, path in paths.items():
            OmegaConf.update(config, field, path, force_add=True)
        fill_channels(config)
        return config
    except (HydraException, OmegaConfBaseException) as error:
        raise ExperimentError(first_line(error)) from None


def parse_path(given: str) -> str:
    """Return the path that a user gives: every character counts, except quotes around it."""
    if len(given) >= 2 and given[0] == given[-1] and given[0] in "'\"":
        return given[1:-1].replace(f"\\{given[0]}", given[0])
    return given


def fill_channels(config: DictConfig) -> None:
    """Set `data.channels`, where it is null, from the release that the experiment builds on, or from the images."""
    data = config.get("data")
    if not isinstance(data, DictConfig) or OmegaConf.is_missing(data, "channels") or data.get("channels") is not None:
        return
    root = None if OmegaConf.is_missing(data, "root") else data.get("root")
    OmegaConf.update(data, "channels", channels_of_release(config) or channels_of_images(root))


def channels_of_release(config: DictConfig) -> int | None:
    """Return the channels of the release that the experiment builds on, if there is one."""
    for field in ("autoencoder", "teacher", "initial"):
        path = None if OmegaConf.is_missing(config, field) else config.get(field)
        try:
            if path:
                return int(json.loads((Path(path) / MANIFEST).read_text())["image_shape"][0])
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            continue
    return None


def channels_of_images(root: Any) -> int:
    """Return the channels that the images at `root` need."""
    from training.data.own_images.probe import find_channels

    return find_channels(root) if isinstance(root, str) else 3


def validate(kind: type[Checked], config: DictConfig) -> Checked:
    """Return a composed configuration as a dataclass. Raises ExperimentError naming the first field that is wrong."""
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
            raise ExperimentError(describe_unknown_field(field_of(unknown[0]), content)) from None
        raise needed or ExperimentError(describe_mistake(mistakes[0])) from None
    if needed:
        raise needed
    return found


def field_of(error: ErrorDetails) -> str:
    """Return the dotted name of the field that an error is about, without the names of a union's members."""
    location = list(map(str, error["loc"]))
    if location[:2] == ["model", "conditioners"]:
        del location[3:4]  # the name of the union member
    return ".".join(part for part in location if re.fullmatch(r"[A-Za-z0-9_-]+", part) and part not in UNION_MEMBERS)


def describe_unknown_field(field: str, content: dict[Any, Any]) -> str:
    """Return the message for a misspelt field, with the closest known name."""
    close = difflib.get_close_matches(field, [known for known in field_names(content) if known != field], n=1)
    return f"{field}: there is no such field" + (f"; did you mean {close[0]}?" if close else "")


def describe_mistake(error: ErrorDetails) -> str:
    """Return one of pydantic's errors as a line that names the field."""
    field = field_of(error)
    match error["type"]:
        case "value_error":  # raised by a dataclass, and names the field
            return f"{field}.{error['ctx']['error']}"
        case "missing":
            return f"{field}: needed and not set"
        case "union_tag_not_found":
            return f"{field}.type: needed and not set"
        case "union_tag_invalid":
            permitted = error["ctx"]["expected_tags"].replace("'", "")
            return f"{field}.type: {error['ctx']['tag']!r} is not known; permitted: {permitted}"
    return f"{field}: {error['input']!r} is not allowed; {describe_permitted(error['msg'])}"


def format_value(value: Any) -> str:
    """Return a value as in YAML: null for None."""
    return "null" if value is None else repr(value)

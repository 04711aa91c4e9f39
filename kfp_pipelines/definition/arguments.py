"""The arguments of a pipeline on the command line: `name=value`, under the names of its parameters in the KFP UI."""

import json
import re
import shlex
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter as SignatureParameter
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kfp_pipelines.definition.parameters import signature
from kfp_pipelines.definition.pipeline import VARIANTS
from kfp_pipelines.stages import gate, request_defaults, training
from services.registry.aliases import check_alias
from services.registry.releases import REFERENCE, RegistryError
from training.errors import DarkroomError

EXPERIMENTS = {
    "autoencoder_experiment": "autoencoder_overrides",
    "diffusion_experiment": "diffusion_overrides",
    "distillation_experiment": "distillation_overrides",
}
STAGES = {
    "autoencoder_experiment": "train-autoencoder",
    "diffusion_experiment": "train-diffusion",
    "distillation_experiment": "train-student",
}
NO_DEVICES: Mapping[str, int] = MappingProxyType({})
# Fields that the stages fill in; any value lets the other overrides be checked before the run.
PLACEHOLDERS = {
    "autoencoder_experiment": ["data.root=x"],
    "diffusion_experiment": ["data.root=x", "autoencoder=x", "data.latents=x"],
    "distillation_experiment": ["data.root=x", "teacher=x"],
}


class ArgumentError(DarkroomError):
    """An argument is not allowed; the message names it and what is permitted."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a pipeline. Lists are given one element at a time; elements of kind `dict` are JSON."""

    name: str
    kind: type
    of_list: bool
    default: Any  # `inspect.Parameter.empty`: required

    @property
    def required(self) -> bool:
        """Whether the parameter has no default."""
        return self.default is SignatureParameter.empty

    def parse(self, value: str) -> Any:
        """Return a value, or an element of a list, from its text. Raises ArgumentError."""
        try:
            if self.kind is dict:
                parsed = json.loads(value)
                if not isinstance(parsed, dict) or not all(isinstance(part, str) for part in parsed.values()):
                    raise ValueError
                return parsed
            return self.kind(value)
        except ValueError:
            kind = "a JSON object whose values are strings" if self.kind is dict else self.kind.__name__
            raise ArgumentError(f"{self.name}: {value!r} is not allowed; permitted: {kind}") from None


def parameters(variant: str) -> dict[str, Parameter]:
    """Return the parameters of a variant by name. Raises ArgumentError for an unknown variant."""
    if variant not in VARIANTS:
        raise ArgumentError(f"variant: {variant!r} is not known; permitted: {', '.join(VARIANTS)}")
    found = {}
    for name, parameter in signature(VARIANTS[variant].parameters).parameters.items():
        of_list = typing.get_origin(parameter.annotation) is list
        kind = typing.get_args(parameter.annotation)[0] if of_list else parameter.annotation
        found[name] = Parameter(name, typing.get_origin(kind) or kind, of_list, parameter.default)
    return found


def parse(variant: str, pairs: Sequence[str], devices: Mapping[str, int] = NO_DEVICES) -> dict[str, Any]:
    """Return the arguments of a run, checked as far as possible before anything runs. Raises ArgumentError.

    devices: how many train together, by the parameter of the experiment, where they are more than one.
    """
    known = parameters(variant)
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in known:
            raise ArgumentError(f"{pair!r} is not allowed; permitted: {', '.join(f'{one}=' for one in known)}")
        parameter = known[name]
        if parameter.of_list:
            arguments.setdefault(name, []).append(parameter.parse(value))
        else:
            arguments[name] = parameter.parse(value)
    missing = [name for name, parameter in known.items() if parameter.required and name not in arguments]
    if missing:
        raise ArgumentError(f"{variant} requires {', '.join(f'{name}=' for name in missing)}")
    check(known, arguments, devices)
    return inline_experiments(arguments)


def check_names(given: Mapping[str, Any]) -> None:
    """Raise ArgumentError for a release, an alias, a place or a number that a stage would refuse hours later.

    given: the values of all parameters of a variant, by name.
    """
    for name in ("autoencoder", "base", "teacher"):
        if name in given and not REFERENCE.fullmatch(given[name]):
            raise ArgumentError(f"{name}: {given[name]!r} is not allowed; permitted: NAME, NAME@ALIAS or NAME@VERSION")
    checkpoints = given["checkpoints"]
    if "://" in checkpoints and not re.fullmatch("s3://[^/]+(/.*)?", checkpoints):
        raise ArgumentError(f"checkpoints: {checkpoints!r} is not allowed; permitted: s3://BUCKET/PREFIX, or a folder")
    if given.get("smoke_images", 0) < 0:
        raise ArgumentError(f"smoke_images: {given['smoke_images']} is not allowed; permitted: 0 for none, or more")
    if "alias" in given:
        check_alias(given["alias"])


def check_sweep(entries: Sequence[Mapping[str, str]], of_data: Sequence[str]) -> None:
    """Raise ArgumentError or ExperimentError for an entry of a sweep that its stage would refuse."""
    from training.experiments import compose

    for entry in entries:
        if "experiment" not in entry or entry.keys() - {"experiment", "overrides"}:
            raise ArgumentError(
                f"autoencoders: {json.dumps(dict(entry))} is not allowed; permitted: experiment, and overrides"
            )
        compose.load(entry["experiment"], [*of_data, "data.root=x", *shlex.split(entry.get("overrides", ""))])


def check(known: Mapping[str, Parameter], arguments: Mapping[str, Any], devices: Mapping[str, int]) -> None:
    """Raise ArgumentError for an experiment, override, rule or sampling that a stage would refuse hours later."""
    from training.experiments import compose
    from training.experiments.schema import ExperimentError

    def value(name: str) -> Any:
        return arguments.get(name, known[name].default)

    try:
        check_names({name: value(name) for name in known})
        if "gate" in known:
            gate.parse_rules(value("gate"))
        training.parse_sampling(value("sampling"))
        if "teacher" not in known:  # what a student permits is known when it is trained
            request_defaults.check(value("request_defaults"))
        data = [f"data={value('data')}", *value("data_overrides")]
        compose.data(data if any(one.startswith("data.root=") for one in data) else [*data, "data.root=x"])
        of_data = training.training_overrides(value("data"), value("data_overrides"))
        for name, overrides in EXPERIMENTS.items():
            if name in known:
                together = [f"devices={devices[name]}"] if name in devices else []
                compose.load(value(name), [*together, *of_data, *PLACEHOLDERS[name], *value(overrides)])
        if "autoencoders" in known:
            check_sweep(value("autoencoders"), of_data)
    except (gate.GateError, RegistryError, ValueError, ExperimentError) as error:
        raise ArgumentError(str(error)) from None


def inline_experiments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the path of an experiment by the file's text, because pods cannot read the files of this machine."""
    return {
        name: Path(value).read_text() if name in EXPERIMENTS and str(value).endswith(".yaml") else value
        for name, value in arguments.items()
    }

"""What is searched for the best settings of a run. Importing this module loads no torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from centerarc.io.yaml_file import read_yaml
from centerarc.training.config import TrainConfig
from centerarc.training.data_config import Positive, Section, Seed
from centerarc.training.judged import EvaluateConfig, StudySet
from centerarc.training.settings import (
    TUNE,
    SettingError,
    allowed_fields,
    check_config,
    field_names,
    fields_of,
    first_of,
    kinds_of,
    load_config,
    located,
    nearest_fields,
    shown,
    value_of,
    with_settings,
)

# What is no setting of the training, and why.
_REFUSED = {
    "run_dir": "each trial has a folder of its own",
    "plugins": "they say which names there are",
    "seed": "it is chance, and the best of several seeds says nothing about another one",
    "validation": "it judges the trials, and must be the same for all",
}

# Measures that a search would have to lower.
_LESS_IS_BETTER = ("eer", "threshold_spread")


class Range(Section):
    """Numbers between two ends, both included."""

    low: float = Field(allow_inf_nan=False, description="the lowest value")
    high: float = Field(allow_inf_nan=False, description="the highest value")
    log: bool = Field(default=False, description="draw the logarithm evenly, not the value")
    whole: bool = Field(
        default=False, description="whole numbers only; those of a field that takes no others are"
    )

    @model_validator(mode="after")
    def _ends_fit(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"high must be above low, {self.low:g}, got {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 with log: true, got {self.low:g}")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(
                "low and high must be whole numbers with whole: true, got "
                f"{self.low:g} and {self.high:g}"
            )
        return self

    def holds(self, value: Any) -> bool:
        """Whether a value is one of these."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high

    def said(self) -> str:
        """The range in words, such as `16 to 64, logarithmic`."""
        more = ", logarithmic" if self.log else ""
        return f"{self.low:g} to {self.high:g}{more}"


class Choices(Section):
    """One of several values, which need not be numbers."""

    choices: list[Any] = Field(min_length=2, description="the values, two at least")

    @model_validator(mode="after")
    def _differ(self) -> Self:
        labels = [label_of(value) for value in self.choices]
        for number, label in enumerate(labels):
            if label in labels[:number]:
                raise ValueError(f"choices has {label} twice")
        return self

    def holds(self, value: Any) -> bool:
        """Whether a value is one of these."""
        return label_of(value) in map(label_of, self.choices)

    def said(self) -> str:
        """The choices in words."""
        return ", ".join(map(label_of, self.choices))


def label_of(value: Any) -> str:
    """A value as text that no other value has.

    Example:
        >>> label_of(1), label_of("1"), label_of([2, 3])
        ('1', '"1"', '[2, 3]')
    """
    return json.dumps(value, default=str)


def _space(given: Any) -> Any:
    """A list is one of choices: `[16, 32]` for `{choices: [16, 32]}`."""
    if isinstance(given, list):
        given = {"choices": given}
    if isinstance(given, Mapping):
        kind: type[Section] = Choices if "choices" in given else Range
        try:
            return kind.model_validate(given)
        except ValidationError as error:
            raise ValueError(first_problem(error, kind, given)[1]) from error
    if not isinstance(given, Range | Choices):
        raise ValueError(f"must be {{low: ..., high: ...}} or a list of choices, got {given!r}")
    return given


Space = Annotated[Range | Choices, BeforeValidator(_space)]


class TuneConfig(Section):
    """The section `tune`: what is searched, and for how long."""

    search: dict[str, Space] = Field(
        default={},
        description="dotted setting -> {low, high}, also with log: true or whole: true; or a list "
        "of choices",
    )
    trials: Positive = Field(default=20, description="runs, those that fail included")
    hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default=None, description="no run starts after so many hours of work; none is no limit"
    )
    seed: Seed = Field(default=0, description="seed of the search; that of the runs stays")
    evaluate: EvaluateConfig | None = Field(
        default=None,
        description="what judges a trial, as in a study; none is the validation of the run",
    )

    @model_validator(mode="after")
    def _more_is_better(self) -> Self:
        measure = "" if self.evaluate is None else self.evaluate.primary_measure
        if measure in _LESS_IS_BETTER:
            raise ValueError(f"evaluate.primary must be better the higher it is, got {measure}")
        return self


class StudyTune(TuneConfig):
    """The section `tune` of a study: a search for each arm, with the same budget."""

    arms: dict[str, dict[str, Space]] = Field(
        default={}, description="by arm: what is searched for it besides, or in other ranges"
    )

    def of(self, arm: str, settings: Mapping[str, Any]) -> TuneConfig | None:
        """What is searched for an arm.

        Args:
            arm: Its name.
            settings: What it sets, by dotted names: this is fixed, unless `arms` searches it.

        Returns:
            The search; None where nothing is left to search.
        """
        common = {name: space for name, space in self.search.items() if name not in settings}
        search = {**common, **self.arms.get(arm, {})}
        given = {name: getattr(self, name) for name in TuneConfig.model_fields}
        return TuneConfig(**{**given, "search": search}) if search else None


@dataclass(frozen=True)
class TuneFile:
    """What a file with a section `tune` holds.

    Args:
        train: The configuration without that section.
        tune: The section.
    """

    train: TrainConfig
    tune: TuneConfig


def load_tuning(
    path: str | Path,
    flags: Sequence[str] = (),
    *,
    trials: int | None = None,
    hours: float | None = None,
) -> TuneFile:
    """Reads a configuration with a section `tune`.

    Args:
        path: A YAML file.
        flags: Command-line words that override settings, as for `load_config`.
        trials: Over `tune.trials`.
        hours: Over `tune.hours`.

    Returns:
        The checked configuration and what is searched.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a field is unknown or out of range, nothing is searched, or a searched
            setting does not exist or cannot have one of the values.
    """
    section = read_yaml(path).get(TUNE)
    if section is None:
        raise ValueError(
            f"{path} has no section {TUNE}, which says what to search, such as "
            f"{TUNE}: {{search: {{loss.m: {{low: 0.2, high: 0.5}}}}}}"
        )
    given = {"trials": trials, "hours": hours}
    over = {name: value for name, value in given.items() if value is not None}
    if isinstance(section, Mapping):
        section = {**section, **over}
    path = Path(path)
    tune = read_tune(section, path)
    train = load_config(path, flags)
    check_search(train, tune, path)
    return TuneFile(train=train, tune=tune)


def read_tune(section: Any, where: str | Path) -> TuneConfig:
    """Checks a section `tune`.

    Args:
        section: What was read.
        where: How an error names the origin: words, or the path of the YAML file.

    Raises:
        ValueError: For the first wrong field, in one line.
    """
    try:
        return TuneConfig.model_validate(section)
    except ValidationError as error:
        name, said = first_problem(error, TuneConfig, section, TUNE)
        raise ValueError(f"{located(where, fields_of(name, said))}: {said}") from error


# What fields may be, where pydantic speaks of Python's types.
_MUST = {
    "model_type": "be a section: `name: value` lines",
    "model_attributes_type": "be a section: `name: value` lines",
    "dict_type": "be a section: `name: value` lines; one without changes is {}",
    "list_type": "be a list, such as [0, 1]",
    "path_type": "be a path, in quotes if YAML takes it for something else",
    "bool_type": "be true or false",
    "too_short": "name at least one",
}
# What pydantic adds to the place of an error: the members of unions.
_TAGS = ("DrawnPeople", "dict[any,any]", "function-", "lax-or-strict", "path", "[key]")


def first_problem(
    error: ValidationError, root: type[Section], content: Any, section: str = ""
) -> tuple[str, str]:
    """Returns the field of the first problem that pydantic found, and a line about it.

    Args:
        error: The problems.
        root: What the content was to be.
        content: The content.
        section: Where it is in its file.
    """
    first = first_of(error)
    path = [str(part) for part in first["loc"]]
    own = [part for part in path if not part.startswith(_TAGS)]
    name = ".".join(filter(None, (section, *own)))
    if path[-1:] == ["[key]"]:
        within = ".".join(own[:-1])
        return name, f"a name in {within} must be text, got {first['input']!r}; quote it"
    if first["type"] == "missing":
        within = name.removesuffix(".sets")
        if within.endswith("evaluate"):
            others = f"{within} must have it, or all_pairs or pairs of one set"
            return name, f"{name} is missing; {others}"
        return name, f"{name} is missing; it is required"
    if first["type"] == "extra_forbidden":
        return name, _unknown(name, own, root, content)
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should ")
    if first["type"] == "value_error":
        return name, f"{name}: {message}" if name else message
    message = _MUST.get(first["type"], message)
    if name == "train":
        message = "be the path of a file of centerarc train, or its content"
    elif own[-1:] == ["all_pairs"] and "sets" in own[:-2]:
        message = "be a folder, or drawn people such as {people: 100, first: 1000}"
    return name, f"{name} must {message}, got {shown(first['input'])}"


def _unknown(name: str, path: Sequence[str], root: type[Section], content: Any) -> str:
    """Says that a field of a study or a search does not exist, and names the nearest one."""
    *above, leaf = path
    known = allowed_fields(root, ".".join(above), content)
    if above[-1:] == ["evaluate"]:  # the fields of one set may be right here
        known += StudySet.model_fields
        if leaf in StudySet.model_fields:
            within = name.removesuffix(f".{leaf}")
            return f"{name} must be in a set of its own, since there is {within}.sets"
    prefix = name.removesuffix(".".join(path))
    others = [prefix + one for one in field_names({}, root)]
    if root is TuneConfig or "settings" in root.model_fields:  # what is a setting of the training
        others += [("" if root is TuneConfig else "settings.") + one for one in field_names({})]
    near = nearest_fields(name, known, others)
    if near:
        return f"unknown field {name}; did you mean {' or '.join(near)}?"
    hint = f"it must be one of {', '.join(known)}"
    return f"unknown field {name}; {hint}"


def check_search(config: TrainConfig, tune: TuneConfig, where: str | Path) -> None:
    """Checks that every searched setting exists and may have the values.

    Args:
        config: The run whose settings are searched.
        tune: What is searched.
        where: How an error names the origin: words, or the path of the YAML file.

    Raises:
        SettingError: For the first one that does not; the message names it and the value.
    """

    def refuse(name: str, said: str, cause: Exception | None = None) -> NoReturn:
        fields = [f"{TUNE}.search.{name}", f"{TUNE}.search", TUNE]
        raise SettingError(f"{located(where, fields)}: {TUNE}.search{said}", fields) from cause

    if not tune.search:
        refuse("", " must name at least one setting")
    content = written(config)
    for name in tune.search:
        if reason := _REFUSED.get(name.partition(".")[0]):
            refuse(name, f".{name} cannot be searched: {reason}")
        try:
            kinds_of(name, content)
        except ValueError as error:
            refuse(name, f": {error}", error)
    whole = whole_settings(config, tune)
    for name, space in tune.search.items():
        if isinstance(space, Choices):
            values = space.choices
        else:
            values = [space.low, space.high]
            if name in whole and not all(value.is_integer() for value in values):
                ends = f"{space.low:g} and {space.high:g}"
                refuse(name, f".{name} must have whole numbers as low and high, got {ends}")
            values = [int(value) for value in values] if name in whole else values
        for value in values:
            try:
                check_config(with_settings(content, {name: value}), "with this value")
            except ValueError as error:
                refuse(name, f".{name} cannot be {label_of(value)}: {error}", error)


def whole_settings(config: TrainConfig, tune: TuneConfig) -> frozenset[str]:
    """The searched settings that are whole numbers, as told or because the field takes no others.

    Example:
        >>> config = TrainConfig(run_dir="runs/a", data={"source": "synthetic"})
        >>> search = {"schedule.epochs": {"low": 5, "high": 20}, "loss.m": {"low": 0, "high": 1}}
        >>> whole_settings(config, TuneConfig(search=search))
        frozenset({'schedule.epochs'})
    """
    content, found = written(config), set()
    for name, space in tune.search.items():
        kinds = kinds_of(name, content)
        if isinstance(space, Range) and (space.whole or (int in kinds and float not in kinds)):
            found.add(name)
    return frozenset(found)


def written(config: TrainConfig) -> dict[str, Any]:
    """A configuration as its file has it: without the defaults of what it leaves out."""
    return config.model_dump(mode="json", exclude_unset=True)


def given_values(config: TrainConfig, tune: TuneConfig) -> dict[str, Any] | None:
    """The searched settings as the configuration has them; None if the search leaves one out.

    Example:
        >>> config = TrainConfig(run_dir="runs/a", data={"source": "synthetic"})
        >>> given_values(config, TuneConfig(search={"loss.m": {"low": 0.2, "high": 0.5}}))
        {'loss.m': 0.5}
        >>> given_values(config, TuneConfig(search={"loss.m": {"low": 0.2, "high": 0.4}}))
    """
    content = config.model_dump(mode="json")
    values = {name: value_of(content, name) for name in tune.search}
    fits = all(space.holds(values[name]) for name, space in tune.search.items())
    return values if fits else None


def with_values(config: TrainConfig, values: Mapping[str, Any], run_dir: Path) -> TrainConfig:
    """The run with other settings, in another folder.

    Raises:
        ValueError: If the settings do not fit each other.
    """
    changed = with_settings(written(config), {**values, "run_dir": str(run_dir)})
    return check_config(changed, "these settings together")

"""The file of a study: arms, seeds, what is judged. Importing this module does not import torch."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from centerarc.io.yaml_file import locate, read_yaml
from centerarc.training.config import TrainConfig, import_plugins
from centerarc.training.data_config import COMMON_FIELDS, NamedPath, Positive, Section, Seed
from centerarc.training.judged import EvaluateConfig, check_name
from centerarc.training.search import StudyTune, TuneConfig, check_search, first_problem
from centerarc.training.settings import TUNE, SettingError, check_config, fields_of, located

# A study on drawn faces, which needs no data.
DRAWN = Path(__file__).with_name("drawn.yaml")
# Settings that are the study's own.
_OWN = ("seed", "run_dir", "plugins")


def _nested(settings: Any) -> Any:
    """Settings whose dotted names have become sections."""
    if not isinstance(settings, Mapping):
        return settings
    found: dict[str, Any] = {}
    for name, value in flat(settings).items():
        here = found
        *sections, leaf = name.split(".")
        for section in sections:
            here = here.setdefault(section, {})
            if not isinstance(here, dict):
                raise ValueError(f"{name} is given beside {section}, which is no section there")
        if leaf in here:
            raise ValueError(f"{name} is given beside its section")
        here[leaf] = value
    return found


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names.

    Raises:
        ValueError: If a name is not text, or one is given twice, nested and dotted.

    Example:
        >>> flat({"loss": {"m": 0.2}, "data.min_images": 2})
        {'loss.m': 0.2, 'data.min_images': 2}
    """
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if not isinstance(name, str):
            raise ValueError(f"the name of a setting must be text, got {name!r}")
        whole = f"{prefix}{name}"
        inner = isinstance(value, Mapping) and value
        for each, one in (flat(value, f"{whole}.") if inner else {whole: value}).items():
            if each in found:
                raise ValueError(f"{each} is given twice")
            found[each] = one
    return found


Settings = Annotated[dict[str, Any], BeforeValidator(_nested)]


class StudyConfig(Section):
    """A study: every arm trained with every seed, all of them judged alike.

    Example:
        >>> study = StudyConfig(
        ...     study_dir="runs/study",
        ...     train={"data": {"source": "synthetic"}},
        ...     seeds=[0, 1],
        ...     arms={"softmax": {"loss.m": 0}, "arcface": {"loss": {"m": 0.3}}},
        ...     evaluate={"all_pairs": {"people": 20, "first": 100}},
        ... )
        >>> study.baseline_arm, study.config_of("arcface", 1).loss.m
        ('softmax', 0.3)
    """

    study_dir: NamedPath = Field(description="folder of the study")
    train: NamedPath | dict[str, Any] = Field(
        description="configuration of the runs: a file of centerarc train, or its content"
    )
    settings: Settings = Field(
        default={}, description="what all arms change of it; names nested or dotted"
    )
    seeds: list[Seed] = Field(min_length=1, description="each arm is trained with each of them")
    jobs: Positive = Field(default=1, description="runs at once")
    threads: Positive | None = Field(
        default=None,
        description="CPU threads of a run; none divides the cores among jobs",
    )
    arms: dict[str, Settings] = Field(
        min_length=1, description="by name: the settings of each arm; names nested or dotted"
    )
    baseline: str | None = Field(
        default=None, description="the arm that others are compared with; none is the first"
    )
    evaluate: EvaluateConfig = Field(description="what every run is judged on")
    tune: StudyTune | None = Field(
        default=None, description="search settings for each arm first, each with the same budget"
    )
    keep_weights: bool = Field(
        default=True,
        description="false deletes a run's weights and state once it is judged; scores stay",
    )

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        for name in self.arms:
            check_name("arms", name)
        if self.baseline is not None and self.baseline not in self.arms:
            raise ValueError(
                f"baseline must be one of the arms {', '.join(self.arms)}, got {self.baseline!r}"
            )
        for name in {} if self.tune is None else self.tune.arms:
            if name not in self.arms:
                raise ValueError(
                    f"tune.arms must name some of the arms {', '.join(self.arms)}, got {name!r}"
                )
        if self.tune is not None and not (self.tune.search or any(self.tune.arms.values())):
            raise ValueError("tune.search must name at least one setting, or tune.arms of an arm")
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"seeds must differ from each other, got {self.seeds}")
        for where, settings in (("settings", self.settings), *self.arms.items()):
            if own := [name for name in _OWN if name in settings]:
                raise ValueError(
                    f"{where} must not have {own[0]}: seeds are those of `seeds`, folders are made "
                    "in study_dir, and plugins belong to the file of `train`"
                )
        return self

    @property
    def baseline_arm(self) -> str:
        """The arm that others are compared with."""
        return self.baseline or next(iter(self.arms))

    def with_jobs(self, jobs: int) -> Self:
        """The study with another number of runs at once.

        Raises:
            ValueError: If it is below 1.
        """
        if jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {jobs}")
        return self.model_copy(update={"jobs": jobs})

    def base(self) -> dict[str, Any]:
        """The content of the configuration that all arms start from, with its plugins imported."""
        if isinstance(self.train, Path):
            content, folder = read_yaml(self.train), self.train.parent
            content.pop(TUNE, None)  # for `centerarc tune` alone
        else:
            content, folder = copy.deepcopy(self.train), Path.cwd()
        return merged(import_plugins(content, folder), self.settings)

    def config_of(
        self,
        arm: str,
        seed: int,
        *,
        chosen: Mapping[str, Any] | None = None,
        base: Mapping[str, Any] | None = None,
    ) -> TrainConfig:
        """The configuration of a run.

        Args:
            arm: Name of the arm.
            seed: Its seed.
            chosen: Settings that a tuning chose for the arm, nested or dotted; they come over
                those that the study gives it.
            base: From `base`, if it is at hand.

        Raises:
            ValueError: If a setting is unknown or out of range; names the arm.
        """
        content = merged(self.base() if base is None else base, self.arms[arm])
        content = merged(content, _nested(chosen or {}))
        content |= {"seed": seed, "run_dir": self.run_dir(arm, seed)}
        return check_config(content, f"arm {arm!r}")

    def tune_of(self, arm: str) -> TuneConfig | None:
        """What is searched for an arm; None if nothing is."""
        return None if self.tune is None else self.tune.of(arm, flat(self.arms[arm]))

    def run_dir(self, arm: str, seed: int) -> Path:
        """Folder of a run."""
        return self.study_dir / "runs" / arm / f"seed-{seed}"

    def tuning_dir(self, arm: str) -> Path:
        """Folder of an arm's search."""
        return self.study_dir / "tuning" / arm

    def scores_dir(self, arm: str, seed: int) -> Path:
        """Folder of what is kept of a run: its record and its embeddings of each set."""
        return self.study_dir / "scores" / arm / f"seed-{seed}"


def merged(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Puts settings over others: sections are merged, values and lists replaced.

    Another `data.source` comes without the old one's own fields, such as its `root`.

    Example:
        >>> merged({"loss": {"s": 30, "m": 0.5}}, {"loss": {"m": 0}})
        {'loss': {'s': 30, 'm': 0}}
    """
    result = dict(content)
    for name, value in changes.items():
        before = result.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            source = value.get("source", before.get("source"))
            if name == "data" and source != before.get("source"):
                before = {k: v for k, v in before.items() if k in COMMON_FIELDS}
            result[name] = merged(before, value)
        else:
            result[name] = copy.deepcopy(value)
    return result


def load_study(path: str | Path) -> StudyConfig:
    """Reads the file of a study.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not YAML, or a field is unknown or out of range; in one line that
            names the file and the field.
    """
    return check_study(read_yaml(path), Path(path))


def check_study(content: Mapping[str, Any], where: str | Path = "the study") -> StudyConfig:
    """Checks a mapping against the fields of `StudyConfig`, and each arm against `TrainConfig`.

    Args:
        content: Nested mapping of field names to values.
        where: How an error names the origin: words, or the path of the YAML file.

    Raises:
        ValueError: For the first wrong field, in one line.
    """
    try:
        study = StudyConfig.model_validate(dict(content))
    except ValidationError as error:
        name, said = first_problem(error, StudyConfig, content)
        raise ValueError(f"{located(where, fields_of(name, said))}: {said}") from error
    arm = ""
    try:
        base = study.base()
        for arm in study.arms:
            config = study.config_of(arm, study.seeds[0], base=base)
            if (tune := study.tune_of(arm)) is not None:
                check_search(config, tune, f"arm {arm!r}")
    except SettingError as error:
        raise ValueError(f"{_located(study, where, arm, error)}: {error}") from error
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{located(where, ['train'])}: {error}") from error
    return study


def _located(study: StudyConfig, where: str | Path, arm: str, error: SettingError) -> str:
    """Where a setting of an arm comes from: the study's file, or the one that it names."""
    sections = (f"arms.{arm}", "settings", "train")
    fields = [f"{section}.{field}" for field in error.fields for section in sections]
    fields += [f"tune.arms.{arm}.{field.removeprefix('tune.search.')}" for field in error.fields]
    fields += [field for field in error.fields if field.startswith("tune.")]
    own = isinstance(where, Path) and locate(where, fields)[1]
    if not own and isinstance(study.train, Path) and locate(study.train, error.fields)[1]:
        return located(study.train, error.fields)
    return located(where, fields)

"""Several evaluations of the same pairs or probes, and how sure their differences are."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from centerarc.evaluation.accuracy import CONVENTIONS
from centerarc.evaluation.all_pairs import AllPairs
from centerarc.evaluation.all_pairs_report import (
    AllPaired,
    AllPairsComparison,
    AllPairsSettings,
    compare_all_pairs,
)
from centerarc.evaluation.comparison import (
    IdentificationComparison,
    VerificationComparison,
    compare_identification,
    compare_with_first,
)
from centerarc.evaluation.protocols.judging import (
    Identified,
    SearchSettings,
    Settings,
    Verified,
    judge_pairs,
    judge_searches,
)
from centerarc.evaluation.protocols.result_files import StoredEvaluation, read_evaluation


@dataclass(frozen=True, eq=False)
class Comparison:
    """Evaluations side by side.

    Attributes:
        names: What the models are called, the first being what the others are compared with.
        stored: The files.
        dataset: What they were evaluated on.
        verified: 1:1 of each; empty where there is none.
        differences: 1:1, each model's rates minus the first one's, by name; empty without people.
        identified: 1:N of each; empty where there is none.
        search_differences: 1:N, likewise; empty without resamples.
        all_paired: All pairs of the same images; empty where there are none.
        all_pairs_differences: Of them, likewise; empty without resamples.
        notes: What should be known, in sentences.
        command: What repeats it.
    """

    names: list[str]
    stored: list[StoredEvaluation]
    dataset: str
    verified: list[Verified]
    differences: dict[str, VerificationComparison]
    identified: list[Identified]
    search_differences: dict[str, IdentificationComparison]
    all_paired: list[AllPaired] = field(default_factory=list)
    all_pairs_differences: dict[str, AllPairsComparison] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    command: str = ""

    @property
    def recipes(self) -> dict[str, list[Any]]:
        """Settings in which runs differ, by name with dots: a value for each, None for no run."""
        every = [_flat(one.content["model"].get("recipe") or {}) for one in self.stored]
        if sum(map(bool, every)) < 2:
            return {}
        names = dict.fromkeys(name for recipe in every for name in recipe if name != "run_dir")
        found = {name: [recipe.get(name) for recipe in every] for name in names}
        runs = [number for number, recipe in enumerate(every) if recipe]
        return {n: v for n, v in found.items() if any(v[r] != v[runs[0]] for r in runs)}

    @property
    def interval_method(self) -> str:
        """How the intervals of the differences came about; empty where there are none."""
        parts = self.differences, self.search_differences, self.all_pairs_differences
        return " ".join(one.interval_method for part in parts for one in [*part.values()][:1])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        models: dict[str, Any] = {}
        for number, (name, stored) in enumerate(zip(self.names, self.stored, strict=True)):
            models[name] = {"file": str(stored.path), "model": stored.content.get("model")}
            if self.verified:
                models[name]["verification"] = self.verified[number].to_dict()
            if self.identified:
                models[name]["identification"] = self.identified[number].to_dict()
            if self.all_paired:
                models[name]["all_pairs"] = self.all_paired[number].to_dict()
        return {
            "format": "centerarc comparison 1",
            "command": self.command,
            "data": self.dataset,
            "first": self.names[0],
            "models": models,
            "minus_first": {
                name: {
                    kind: found[name].to_dict()
                    for kind, found in (
                        ("verification", self.differences),
                        ("identification", self.search_differences),
                        ("all_pairs", self.all_pairs_differences),
                    )
                    if name in found
                }
                for name in self.names[1:]
            },
            **({"recipes": self.recipes} if self.recipes else {}),
            "notes": list(self.notes),
        }


def compare_files(paths: Sequence[str | os.PathLike[str]]) -> Comparison:
    """Compares evaluations of the same pairs, or of the same probes in the same gallery.

    Args:
        paths: JSON files that `centerarc evaluate --json` wrote, with their scores beside; the
            first is what the others are compared with.

    Returns:
        The comparison: everything is computed again from the scores, the same for all.

    Raises:
        ValueError: If there are fewer than two files, a file twice, one that is none, or
            evaluations of different pairs or judged differently; the message names the files.
        OSError: If a file cannot be read.
    """
    if len(paths) < 2:
        raise ValueError(f"a comparison needs at least 2 evaluations, got {len(paths)}")
    files = [Path(path) for path in paths]
    _check_distinct(files)
    stored = [read_evaluation(path) for path in files]
    _check_alike(stored)
    first = stored[0]
    names = [path.name.removesuffix(".json") for path in files]
    if len(set(names)) < len(names):
        names = [str(path) for path in files]
    verified: list[Verified] = []
    differences: dict[str, VerificationComparison] = {}
    identified: list[Identified] = []
    search_differences: dict[str, IdentificationComparison] = {}
    notes: tuple[str, ...] = ()
    if first.pairs is not None:
        settings = _settings(stored)
        verified = [_judged(one, settings) for one in stored]
        if first.pairs.people is None or not settings.resamples:
            why = "the people are not known" if first.pairs.people is None else "intervals off"
            notes = (f"How sure the differences are is unknown: {why}.",)
            same = all(np.array_equal(one.scores, verified[0].scores) for one in verified)
            notes = ("Every score is the same, so nothing differs.",) if same else notes
        else:
            differences = compare_with_first(
                {name: one.scores for name, one in zip(names, verified, strict=True)},
                first.pairs.same,
                first.pairs.fold,
                first.pairs.people,
                convention=settings.convention,
                fars=settings.fars,
            )
        notes = (*verified[0].notes(first.dataset), *notes)
        if settings.convention == "insightface":
            notes = (*notes, f"TAR by the convention insightface: {CONVENTIONS['insightface']}.")
    if first.searches:
        search = _search_settings(stored)
        identified = [_searched(one, search) for one in stored]
        if search.convention == "insightface":
            notes = (*notes, identified[0].report.convention)
        if search.resamples:
            search_differences = compare_identification(
                {name: one.searches for name, one in zip(names, stored, strict=True)},
                ranks=search.ranks,
                fpirs=search.fpirs,
                bootstrap=search.resamples,
                seed=search.seed,
                convention=search.convention,
            )
    paired: list[AllPaired] = []
    paired_differences: dict[str, AllPairsComparison] = {}
    if first.all_pairs is not None:
        how = _all_pairs_settings(stored)
        records = {name: _record(one) for name, one in zip(names, stored, strict=True)}
        try:
            paired = [AllPaired.of(record, how) for record in records.values()]
        except ValueError as error:
            raise ValueError(f"{error}; evaluate all of them with the same --far") from error
        if how.resamples:
            paired_differences = compare_all_pairs(
                records,
                fars=how.all_fars,
                fpir=how.fpir,
                bootstrap=how.resamples,
                seed=how.seed,
            )
    mirrored = [name for name, one in zip(names, stored, strict=True) if _mirrored(one)]
    if 0 < len(mirrored) < len(names):
        others = ", ".join(name for name in names if name not in mirrored)
        notes = (*notes, f"With mirror: {', '.join(mirrored)}; without: {others}.")
    return Comparison(
        *(names, stored, first.dataset, verified, differences, identified, search_differences),
        *(paired, paired_differences, notes),
    )


def _mirrored(stored: StoredEvaluation) -> bool:
    """Whether embeddings are those of the images with their mirror images."""
    return bool(stored.content["model"].get("mirror"))


def _flat(recipe: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their names with dots."""
    found: dict[str, Any] = {}
    for name, value in recipe.items():
        inner = isinstance(value, dict)
        found |= _flat(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


def _check_distinct(files: list[Path]) -> None:
    for number, path in enumerate(files):
        for other in files[:number]:
            if path == other:
                raise ValueError(f"{str(path)!r} is named twice")
            try:
                same = os.path.samefile(path, other)
            except OSError:
                same = False  # whoever reads them says what is wrong
            if same:
                raise ValueError(f"{str(other)!r} and {str(path)!r} are the same file")


def _check_alike(stored: list[StoredEvaluation]) -> None:
    first = stored[0]
    for other in stored[1:]:
        both = f"{str(first.path)!r} and {str(other.path)!r}"
        a, b = first.pairs, other.pairs
        all_of = first.all_pairs, other.all_pairs
        if (
            (a is None) != (b is None)
            or bool(first.searches) != bool(other.searches)
            or (all_of[0] is None) != (all_of[1] is None)
        ):
            raise ValueError(f"{both} are of different protocols")
        if a is not None and b is not None and a.digest != b.digest:
            raise ValueError(
                f"{both} are not of the same pairs: the one of {first.dataset}, the other of "
                f"{other.dataset}"
            )
        images = [(one.digest, one.ordered) for one in all_of if one is not None]
        if len(set(images)) > 1:
            raise ValueError(
                f"{both} are not of all pairs of the same images: the one of {first.dataset}, the "
                f"other of {other.dataset}"
            )
        for setting, of in (
            ("fpir", "all_pairs_settings"),
            ("convention", "settings"),
            ("person_score", "search_settings"),
            ("convention", "search_settings"),
        ):
            mine, theirs = (getattr(getattr(one, of), setting, "") for one in (first, other))
            if mine != theirs:
                raise ValueError(f"{both} differ in {setting}: {mine} and {theirs}")
        if first.probes_digest != other.probes_digest:
            raise ValueError(f"{both} are not of the same probes and galleries")


def _settings(stored: list[StoredEvaluation]) -> Settings:
    """Those of the first, with what any of them asked for."""
    every = [one.settings for one in stored if one.settings is not None]
    return replace(
        every[0],
        fars=tuple(dict.fromkeys(far for one in every for far in one.fars)),
        resamples=max(one.resamples or 0 for one in every),
    )


def _search_settings(stored: list[StoredEvaluation]) -> SearchSettings:
    """Those of the first, with what any of them asked for."""
    every = [one.search_settings for one in stored if one.search_settings is not None]
    return replace(
        every[0],
        ranks=tuple(sorted({rank for one in every for rank in one.ranks})),
        fpirs=tuple(sorted({fpir for one in every for fpir in one.fpirs}, reverse=True)),
        resamples=max(one.resamples for one in every),
    )


def _all_pairs_settings(stored: list[StoredEvaluation]) -> AllPairsSettings:
    """Those of the first, with what any of them asked for."""
    every = [one.all_pairs_settings for one in stored if one.all_pairs_settings is not None]
    return replace(
        every[0],
        fars=tuple(dict.fromkeys(far for one in every for far in one.fars)),
        resamples=max(one.resamples for one in every),
    )


def _record(stored: StoredEvaluation) -> AllPairs:
    assert stored.all_pairs is not None  # `_check_alike` has seen to it
    return stored.all_pairs


def _judged(stored: StoredEvaluation, settings: Settings) -> Verified:
    pairs = stored.pairs
    assert pairs is not None
    try:
        return judge_pairs(pairs.scores, pairs.same, pairs.fold, pairs.people, "", (), {}, settings)
    except ValueError as error:
        raise ValueError(f"{str(stored.path)!r}: {error}") from error


def _searched(stored: StoredEvaluation, settings: SearchSettings) -> Identified:
    try:
        return judge_searches(stored.searches, settings)
    except ValueError as error:
        raise ValueError(f"{str(stored.path)!r}: {error}") from error

"""Several evaluations of the same pairs or probes, and how sure their differences are."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
from centerarc.evaluation.protocols.results import StoredEvaluation, read_evaluation


@dataclass(frozen=True, eq=False)
class Comparison:
    """Evaluations side by side.

    Attributes:
        names: what the models are called, the first being what the others are compared with.
        stored: the files.
        dataset: what they were evaluated on.
        verified: 1:1 of each; empty where there is none.
        differences: 1:1, each model's rates minus the first one's, by name; empty without people.
        search_differences: 1:N, likewise; empty without resamples.
        identified: 1:N of each; empty where there is none.
        notes: what should be known, in sentences.
        command: what repeats it.
    """

    names: list[str]
    stored: list[StoredEvaluation]
    dataset: str
    verified: list[Verified]
    differences: dict[str, VerificationComparison]
    identified: list[Identified]
    search_differences: dict[str, IdentificationComparison]
    notes: tuple[str, ...] = ()
    command: str = ""

    @property
    def interval_method(self) -> str:
        """How the intervals of the differences came about; empty where there are none."""
        found = [*self.differences.values()][:1], [*self.search_differences.values()][:1]
        return " ".join(one.interval_method for part in found for one in part)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        models: dict[str, Any] = {}
        for number, (name, stored) in enumerate(zip(self.names, self.stored, strict=True)):
            models[name] = {"file": str(stored.path), "model": stored.content.get("model")}
            if self.verified:
                models[name]["verification"] = self.verified[number].to_dict()
            if self.identified:
                models[name]["identification"] = self.identified[number].to_dict()
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
                    )
                    if name in found
                }
                for name in self.names[1:]
            },
            "notes": list(self.notes),
        }


def compare_files(paths: Sequence[str | os.PathLike[str]]) -> Comparison:
    """Compare evaluations of the same pairs, or of the same probes in the same gallery.

    Args:
        paths: JSON files that ``centerarc evaluate --json`` wrote, with their scores beside; the
            first is what the others are compared with.

    Returns:
        The comparison: everything is computed again from the scores, the same for all.

    Raises:
        ValueError: fewer than two files, a file twice, one that is none, or evaluations of
            different pairs or judged differently; the message names the files.
        OSError: a file cannot be read.
    """
    if len(paths) < 2:
        raise ValueError(f"a comparison needs at least 2 evaluations, got {len(paths)}")
    files = [Path(path) for path in paths]
    _check_distinct(files)
    stored = [read_evaluation(path) for path in files]
    names = _names(files)
    _check_alike(stored)
    pairs = [one.pairs for one in stored if one.pairs is not None]
    verified: list[Verified] = []
    differences: dict[str, VerificationComparison] = {}
    notes: list[str] = []
    settings = _settings(stored)
    if pairs and settings is not None:
        verified = [_judged(one, settings) for one in stored]
        if pairs[0].people is None or not settings.resamples:
            notes.append(
                "How sure the differences are is unknown: "
                + ("nobody knows the people." if pairs[0].people is None else "no resamples.")
            )
        else:
            differences = compare_with_first(
                {name: one.scores for name, one in zip(names, pairs, strict=True)},
                pairs[0].same,
                pairs[0].fold,
                pairs[0].people,
                convention=settings.convention,
                fars=settings.fars,
                bootstrap=settings.resamples,
                seed=settings.seed,
            )
    search = _search_settings(stored)
    return Comparison(
        names,
        stored,
        stored[0].dataset,
        verified,
        differences,
        [] if search is None else [_searched(one, search) for one in stored],
        {} if search is None else _search_differences(names, stored, search),
        tuple(notes),
    )


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


def _names(files: list[Path]) -> list[str]:
    stems = [path.name.removesuffix(".json") for path in files]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in files]


def _check_alike(stored: list[StoredEvaluation]) -> None:
    first = stored[0]
    for other in stored[1:]:
        both = f"{str(first.path)!r} and {str(other.path)!r}"
        a, b = first.pairs, other.pairs
        if (a is None) != (b is None) or bool(first.searches) != bool(other.searches):
            raise ValueError(f"{both} are of different protocols")
        if a is not None and b is not None and a.digest != b.digest:
            raise ValueError(
                f"{both} are not of the same pairs: the one of {first.dataset}, the other of "
                f"{other.dataset}"
            )
        if first.probes_digest != other.probes_digest:
            raise ValueError(f"{both} are not of the same probes and galleries")
        kinds = [
            (
                one.settings.convention if one.settings else "",
                one.search_settings.person_score if one.search_settings else "",
            )
            for one in (first, other)
        ]
        for setting, mine, theirs in zip(("convention", "person_score"), *kinds, strict=True):
            if mine != theirs:
                raise ValueError(f"{both} differ in {setting}: {mine} and {theirs}")


def _settings(stored: list[StoredEvaluation]) -> Settings | None:
    """Those of the first, with what any of them asked for."""
    every = [one.settings for one in stored if one.settings is not None]
    if not every:
        return None
    return replace(
        every[0],
        fars=tuple(dict.fromkeys(far for one in every for far in one.fars)),
        resamples=max(one.resamples or 0 for one in every),
    )


def _search_settings(stored: list[StoredEvaluation]) -> SearchSettings | None:
    """Those of the first, with what any of them asked for."""
    every = [one.search_settings for one in stored if one.search_settings is not None]
    if not every:
        return None
    return replace(
        every[0],
        ranks=tuple(sorted({rank for one in every for rank in one.ranks})),
        fpirs=tuple(sorted({fpir for one in every for fpir in one.fpirs}, reverse=True)),
        resamples=max(one.resamples for one in every),
    )


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


def _search_differences(
    names: list[str], stored: list[StoredEvaluation], settings: SearchSettings
) -> dict[str, IdentificationComparison]:
    if not settings.resamples:
        return {}
    return compare_identification(
        {name: one.searches for name, one in zip(names, stored, strict=True)},
        ranks=settings.ranks,
        fpirs=settings.fpirs,
        bootstrap=settings.resamples,
        seed=settings.seed,
    )

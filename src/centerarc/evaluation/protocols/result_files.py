"""An evaluation in two files: JSON with every number, and the scores that they were made of."""

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.accuracy import CONVENTIONS
from centerarc.evaluation.all_pairs import AllPairs
from centerarc.evaluation.all_pairs_report import AllPairsSettings
from centerarc.evaluation.files.pickles import short
from centerarc.evaluation.gallery import PERSON_SCORES, GallerySearch
from centerarc.evaluation.identification import SEARCH_CONVENTIONS
from centerarc.evaluation.protocols.judging import (
    FORMAT,
    Evaluation,
    Identified,
    SearchSettings,
    Settings,
    Sides,
    Verified,
)
from centerarc.evaluation.scores import (
    BoolArray,
    IntArray,
    ScoreArray,
    check_folds,
    check_scores_as_given,
)
from centerarc.io.files import atomic_path

_DIGEST = "scores_sha256"
_SHA256 = re.compile("[0-9a-f]{64}")
_SEARCH = tuple(GallerySearch.__dataclass_fields__)
_ALL = "all_"  # before the names of the arrays of all pairs
_Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class StoredPairs:
    """Scored pairs from a file; as in `centerarc.evaluation.protocols.Verified`.

    Attributes:
        scores: `(P,)` cosine of each pair.
        same: `(P,)` whether it is genuine.
        fold: `(P,)` its fold; None where there are none.
        people: First and second person of each pair; None where unknown.
        digest: Of which images the pairs are.
    """

    scores: ScoreArray
    same: BoolArray
    fold: IntArray | None
    people: Sides | None
    digest: str


@dataclass(frozen=True, eq=False)
class StoredEvaluation:
    """An evaluation from its files.

    Attributes:
        path: Of the JSON file.
        content: What is in it.
        dataset: What was judged on, in a few words.
        pairs: The scored pairs, where there are some.
        settings: How they were judged.
        searches: The searches; empty where there are none.
        search_settings: How they were judged.
        probes_digest: Of the probes and who they are of; empty where there are none.
        all_pairs: All pairs of some people's images, where there are some.
        all_pairs_settings: How they were judged.
    """

    path: Path
    content: dict[str, Any]
    dataset: str
    pairs: StoredPairs | None
    settings: Settings | None
    searches: list[GallerySearch]
    search_settings: SearchSettings | None
    probes_digest: str
    all_pairs: AllPairs | None = None
    all_pairs_settings: AllPairsSettings | None = None


# Writing.


def scores_path(path: str | os.PathLike[str]) -> Path:
    """The file of scores beside a JSON file.

    `out.json` has `out.scores.npz`. A name that does not end so is kept whole, before another
    ending, so that no two names share their scores: `model-1.0` has `model-1.0-scores.npz`.
    """
    place = Path(path)
    stem = place.name.removesuffix(".json")
    ending = ".scores.npz" if stem != place.name else "-scores.npz"
    return place.with_name(stem + ending)


def write_evaluation(path: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """Write an evaluation as JSON, and its scores beside it.

    An evaluation that is there already can be read until the new one can, whatever happens: the
    new scores wait beside the old ones until the new JSON file, which names their SHA-256, is in
    place. If the process is killed then, `read_evaluation` finds them where they wait.

    Args:
        path: the JSON file.
        evaluation: the result.

    Raises:
        ValueError: the result holds what JSON does not, or the path is a folder or a device.
        OSError: a file cannot be written; the message has its name. What was there is as it was.
    """
    file = Path(path)
    content = evaluation.to_dict()
    if evaluation.verification is not None:
        content["pairs_sha256"] = _pairs_digest(evaluation.verification, evaluation.images.places)
    if evaluation.identification is not None:
        content["probes_sha256"] = _probes_digest(
            evaluation.identification, evaluation.images.places
        )
    scores = scores_path(file)
    file_of_arrays = io.BytesIO()  # equal arrays give equal files
    np.savez_compressed(file_of_arrays, allow_pickle=False, **_arrays_of(evaluation))
    packed = file_of_arrays.getvalue()
    digest = hashlib.sha256(packed).hexdigest()
    content |= {"scores": scores.name, _DIGEST: digest}
    try:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=True)
    except ValueError as error:
        raise ValueError(f"the evaluation cannot be written to {str(file)!r}: {error}") from error
    if scores.exists() and not scores.is_file():
        raise ValueError(f"{str(scores)!r} is not a file; the scores of {str(file)!r} belong there")
    before = _named_digest(file)
    try:
        with _written(scores, _waiting(scores, digest)) as temporary:
            temporary.write_bytes(packed)
        with _written(file, file) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    finally:
        _settle(file, scores, {digest} if before is None else {digest, before})


def _arrays_of(evaluation: Evaluation) -> _Arrays:
    """The scored pairs and the searches of an evaluation as arrays by name."""
    arrays: _Arrays = {}
    if (verified := evaluation.verification) is not None:
        arrays |= {"scores": verified.scores, "same": verified.same}
        if verified.fold is not None:
            arrays["fold"] = verified.fold
        if verified.people is not None:
            people, numbers = np.unique(np.stack(verified.people), return_inverse=True)
            first, second = numbers.reshape(2, -1).astype(np.int32)
            names = np.asarray(people).astype(np.str_)
            arrays |= {"person_a": first, "person_b": second, "people": names}
    if evaluation.identification is not None:
        for number, search in enumerate(evaluation.identification.searches):
            found = {n: np.asarray(getattr(search, n)) for n in _SEARCH}
            arrays |= {f"search{number}_{n}": values for n, values in found.items() if values.size}
    if evaluation.all_pairs is not None:
        record = evaluation.all_pairs.record.to_arrays()
        arrays |= {f"{_ALL}{name}": values for name, values in record.items()}
    return arrays


def _waiting(scores: Path, digest: str) -> Path:
    """Where new scores wait until their JSON file is in place."""
    target = Path(os.path.realpath(scores))
    return target.with_name(f".{target.name}.{digest[:16]}")


def _settle(file: Path, scores: Path, digests: set[str]) -> None:
    """Put the waiting scores that the JSON file names in their place, and delete the others."""
    named = _named_digest(file)
    for digest in digests:
        waiting = _waiting(scores, digest)
        if digest != named:
            waiting.unlink(missing_ok=True)
        elif waiting.exists():
            os.replace(waiting, os.path.realpath(scores))


def _named_digest(file: Path) -> str | None:
    """The SHA-256 of the scores that a JSON file names; None where there is no such file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    found = content.get(_DIGEST) if isinstance(content, dict) else None
    return found if isinstance(found, str) and _SHA256.fullmatch(found) else None


@contextmanager
def _written(shown: Path, path: Path) -> Iterator[Path]:
    """A temporary path that becomes a file; what the system refuses is said with a name."""
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"cannot write {str(shown)!r}: {reason}") from error


def _pairs_digest(verified: Verified, places: list[str]) -> str:
    """Of which images the pairs are, and in which order."""
    digest = hashlib.sha256()
    # By name, since a model and a file of embeddings number their images each in its own way.
    used = np.unique(np.concatenate([np.unique(side) for side in verified.index]))
    order = sorted(used.tolist(), key=places.__getitem__)
    _add_texts(digest, [places[number] for number in order])
    rank = np.zeros(len(places), dtype="<i8")
    rank[order] = np.arange(len(order))
    for side in verified.index:
        digest.update(rank[side].tobytes())
    digest.update(np.packbits(verified.same).tobytes())
    if verified.fold is not None:
        digest.update(np.ascontiguousarray(verified.fold).astype("<i8").tobytes())
    return digest.hexdigest()


def _probes_digest(identified: Identified, places: list[str]) -> str:
    """Of which images there are, and whose they are."""
    digest = hashlib.sha256()
    _add_texts(digest, places)
    for search in identified.searches:
        _add_texts(digest, [str(label) for label in search.probe_labels.tolist()])
        digest.update(np.ascontiguousarray(search.mated).tobytes())
    return digest.hexdigest()


def _add_texts(digest: Any, texts: Sequence[str]) -> None:
    for text in texts:
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")


# Reading.


def read_evaluation(path: str | os.PathLike[str]) -> StoredEvaluation:
    """Reads an evaluation that `write_evaluation` wrote.

    Raises:
        ValueError: If it is none, a field is wrong, or the scores are missing, damaged or not
            those that were written with it; the message names the file.
        OSError: If a file cannot be read.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OSError(f"cannot read {str(file)!r}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{str(file)!r} is not what centerarc evaluate --json writes: it is no JSON ({error})"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{str(file)!r} is not what centerarc evaluate --json writes ({FORMAT!r})")
    fields = _Fields(file, content)
    fields.at("model", dict)
    if "verification" in content:
        fields.at("pairs_sha256", str)
    dataset = fields.at("data.name", str)
    scores = file.with_name(Path(fields.at("scores", str)).name)
    digest = fields.at(_DIGEST, str, _SHA256.fullmatch, "a SHA-256")
    arrays = _arrays_in(file, scores, digest)
    try:
        pairs = _pairs_in(arrays, str(content.get("pairs_sha256", "")))
        searches = _searches_in(arrays)
        everything = _all_pairs_in(arrays, str(scores))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"cannot read {str(scores)!r}: {error}") from error
    for part, there in (
        ("verification", pairs is not None),
        ("identification", bool(searches)),
        ("all_pairs", everything is not None),
    ):
        if (part in content) != there:
            raise ValueError(
                f"{str(file)!r} and its scores {scores.name!r} disagree on whether there is a "
                f"part {part}"
            )
    return StoredEvaluation(
        file,
        content,
        dataset,
        pairs,
        None if pairs is None else fields.settings(),
        searches,
        fields.search_settings() if searches else None,
        fields.at("probes_sha256", str) if searches else "",
        everything,
        None if everything is None else fields.all_pairs_settings(),
    )


class _Fields:
    """The fields of a JSON file; what is missing or wrong is said with the file."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self._path = path
        self._content = content

    def at(
        self, name: str, kind: type, good: Callable[[Any], Any] | None = None, what: str = ""
    ) -> Any:
        """The field of a name with dots, if it is of its kind and good."""
        value: Any = self._content
        parts = name.split(".")
        for depth, part in enumerate(parts, 1):
            if not isinstance(value, dict) or part not in value:
                raise ValueError(f"{str(self._path)!r} has no {'.'.join(parts[:depth])}")
            value = value[part]
        # True is a whole number to Python, and to no one else.
        right = isinstance(value, kind) and not isinstance(value, bool)
        if not right or (good is not None and not good(value)):
            what = what if right else _KINDS[kind]
            raise ValueError(
                f"{str(self._path)!r}: {name} must be {what}, got {short(repr(value))}"
            )
        return value

    def settings(self) -> Settings:
        """How pairs were judged."""
        part = "verification.settings"
        allowed = f"one of {', '.join(CONVENTIONS)}"
        convention = self.at(f"{part}.convention", str, CONVENTIONS.__contains__, allowed)
        fars = self.at(f"{part}.far", list, _are_rates, "rates in (0, 1)")
        return Settings(convention, (), tuple(map(float, fars)), *self._resampling(part))

    def search_settings(self) -> SearchSettings:
        """How searches were judged."""
        part = "identification"
        ranks = self.at(f"{part}.cmc", dict, _are_ranks, "shares by rank")
        fpirs = self.at(f"{part}.tpir_at_fpir", dict, _are_rates, "shares by rates in (0, 1)")
        allowed = f"one of {', '.join(PERSON_SCORES)}"
        score = self.at(f"{part}.person_score", str, PERSON_SCORES.__contains__, allowed)
        resampling = self._resampling(f"{part}.settings")
        self._content[part]["settings"].setdefault("convention", "exact")  # of older files
        allowed = f"one of {', '.join(SEARCH_CONVENTIONS)}"
        known = SEARCH_CONVENTIONS.__contains__
        convention = self.at(f"{part}.settings.convention", str, known, allowed)
        return SearchSettings(
            tuple(map(int, ranks)), tuple(map(float, fpirs)), score, *resampling, convention
        )

    def all_pairs_settings(self) -> AllPairsSettings:
        """How all pairs were judged."""
        part = "all_pairs.settings"
        fars = self.at(f"{part}.far", list, _are_rates, "rates in (0, 1)")
        fpir = self.at(f"{part}.fpir", float, lambda rate: 0 < rate < 1, "in (0, 1)")
        return AllPairsSettings(tuple(map(float, fars)), fpir, *self._resampling(part))

    def _resampling(self, part: str) -> tuple[int, int]:
        resamples = self.at(
            f"{part}.resamples", int, lambda n: n == 0 or n >= 100, "0 or at least 100"
        )
        return resamples, self.at(f"{part}.seed", int, lambda n: n >= 0, "at least 0")


_KINDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def _are_rates(values: list[Any] | dict[str, Any]) -> bool:
    try:
        return all(0 < float(value) < 1 for value in values)
    except (TypeError, ValueError):
        return False


def _are_ranks(values: dict[str, Any]) -> bool:
    try:
        return bool(values) and all(int(value) >= 1 for value in values)
    except ValueError:
        return False


def _arrays_in(file: Path, scores: Path, digest: str) -> _Arrays:
    """The arrays of the very file that was written with a JSON file, as its SHA-256 tells."""
    there = False
    for place in (scores, _waiting(scores, digest)):
        try:
            with open(place, "rb") as packed:
                if hashlib.file_digest(packed, "sha256").hexdigest() == digest:
                    packed.seek(0)
                    with np.load(packed, allow_pickle=False) as stored:
                        return {name: stored[name] for name in stored.files}
            there = True
        except FileNotFoundError:
            continue
        except Exception as error:  # a damaged zip file can fail in any way
            raise ValueError(f"cannot read {str(place)!r}: {error}") from error
    if there:
        raise ValueError(
            f"cannot read {str(scores)!r} as the scores of {str(file)!r}: it is not the file that "
            "was written with it (another SHA-256)"
        )
    raise ValueError(
        f"{str(file)!r} needs its scores {scores.name!r} beside it, which are not there"
    )


def _pairs_in(arrays: _Arrays, digest: str) -> StoredPairs | None:
    if "scores" not in arrays:
        return None
    scores, same = check_scores_as_given(arrays["scores"], arrays["same"])
    fold = check_folds(arrays["fold"], scores.size) if "fold" in arrays else None
    people = (arrays["person_a"], arrays["person_b"]) if "people" in arrays else None
    for side in people or ():
        if side.shape != scores.shape:
            raise ValueError(f"people must have shape {scores.shape}, got {side.shape}")
    return StoredPairs(scores, same, fold, people, digest)


def _searches_in(arrays: _Arrays) -> list[GallerySearch]:
    searches: list[GallerySearch] = []
    while f"search{len(searches)}_rank" in arrays:
        prefix = f"search{len(searches)}_"
        values: dict[str, Any] = {
            name: arrays[prefix + name]
            for name in _SEARCH
            if prefix + name in arrays or not name.startswith("top_")
        }
        values["gallery_images"] = int(values["gallery_images"])
        values["person_score"] = str(values["person_score"])
        if values["person_score"] not in PERSON_SCORES:
            raise ValueError(f"person_score is {values['person_score']!r}")
        shape = values["probe_labels"].shape
        for name in ("mated", "rank", "mate_score", "other_score", "other_person"):
            if values[name].shape != shape:
                raise ValueError(f"{name} must have shape {shape}, got {values[name].shape}")
        top, of = (np.asarray(values.get(f"top_{name}", ())) for name in ("others", "probes"))
        if top.shape != of.shape or top.size > shape[0] or not np.isin(of, np.arange(*shape)).all():
            raise ValueError(f"top_probes must number the probes of top_others, got {of.shape}")
        searches.append(GallerySearch(**values))
    return searches


def _all_pairs_in(arrays: _Arrays, source: str) -> AllPairs | None:
    own = {name.removeprefix(_ALL): a for name, a in arrays.items() if name.startswith(_ALL)}
    return AllPairs.from_arrays(own, source) if own else None

"""An evaluation in two files: JSON with every number, and the scores behind them."""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.accuracy import CONVENTIONS, Convention
from centerarc.evaluation.gallery import PERSON_SCORES, GallerySearch
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

# The scores of an evaluation as plain arrays, and back from a file.

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class StoredPairs:
    """Scored pairs from a file; as in :class:`centerarc.evaluation.protocols.judging.Verified`.

    Attributes:
        scores: (P,) cosine of each pair.
        same: (P,) whether it is genuine.
        fold: (P,) its fold; None where there are none.
        people: first and second person of each pair; None where unknown.
        digest: of which images the pairs are.
    """

    scores: ScoreArray
    same: BoolArray
    fold: IntArray | None
    people: Sides | None
    digest: str


def pair_arrays(verified: Verified) -> Arrays:
    """The scored pairs of an evaluation as arrays by name."""
    arrays: Arrays = {"scores": verified.scores, "same": verified.same}
    if verified.fold is not None:
        arrays["fold"] = verified.fold
    if verified.people is not None:
        people, numbers = np.unique(np.stack(verified.people), return_inverse=True)
        first, second = numbers.reshape(2, -1).astype(np.int32)
        names = np.asarray(people).astype(np.str_)
        arrays |= {"person_a": first, "person_b": second, "people": names}
    return arrays


def search_arrays(identified: Identified) -> Arrays:
    """The searches of an evaluation as arrays by name."""
    return {
        f"search{number}_{name}": np.asarray(getattr(search, name))
        for number, search in enumerate(identified.searches)
        for name in GallerySearch.__dataclass_fields__
    }


def pack(arrays: Arrays) -> tuple[bytes, str]:
    """Make an .npz file of arrays, and its SHA-256; equal arrays give equal files."""
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **arrays)
    content = packed.getvalue()
    return content, hashlib.sha256(content).hexdigest()


def unpack(path: Path, digest: str) -> Arrays | None:
    """Read the arrays of an .npz file, if it is the very file with this SHA-256.

    Returns:
        The arrays; None where the file is another one.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            return None
        file.seek(0)
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}


def pairs_of(arrays: Arrays, digest: str) -> StoredPairs | None:
    """The scored pairs that :func:`pair_arrays` made arrays of; None where there are none.

    Raises:
        ValueError: they are not what it makes.
    """
    if "scores" not in arrays:
        return None
    scores, same = check_scores_as_given(arrays["scores"], arrays["same"])
    fold = check_folds(arrays["fold"], scores.size) if "fold" in arrays else None
    people = None
    if "people" in arrays:
        people = arrays["person_a"], arrays["person_b"]
        for side in people:
            if side.shape != scores.shape:
                raise ValueError(f"people must have shape {scores.shape}, got {side.shape}")
    return StoredPairs(scores, same, fold, people, digest)


def searches_of(arrays: Arrays) -> list[GallerySearch]:
    """The searches that :func:`search_arrays` made arrays of; empty where there are none.

    Raises:
        ValueError: they are not what it makes.
    """
    searches: list[GallerySearch] = []
    while f"search{len(searches)}_rank" in arrays:
        prefix = f"search{len(searches)}_"
        values: dict[str, Any] = {
            name: arrays[prefix + name] for name in GallerySearch.__dataclass_fields__
        }
        values["gallery_images"] = int(values["gallery_images"])
        values["person_score"] = str(values["person_score"])
        if values["person_score"] not in PERSON_SCORES:
            raise ValueError(f"person_score is {values['person_score']!r}")
        search = GallerySearch(**values)
        for name in ("mated", "rank", "mate_score", "other_score", "other_person"):
            if values[name].shape != search.probe_labels.shape:
                raise ValueError(
                    f"{name} must have shape {search.probe_labels.shape}, got {values[name].shape}"
                )
        searches.append(search)
    return searches


# How an evaluation from a file was judged: what its JSON says, checked.


class Content:
    """The content of a JSON file whose fields are asked for by name.

    Args:
        path: the file, for messages.
        content: what is in it.
    """

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self._path = path
        self._content = content

    def text(self, *names: str) -> str:
        """A text that must be there.

        Raises:
            ValueError: it is not; the message has the file and the field.
        """
        return str(self._at(names, str, "a text"))

    def block(self, *names: str) -> dict[str, Any]:
        """An object that must be there; see :meth:`text`."""
        found: dict[str, Any] = self._at(names, dict, "an object")
        return found

    def verification(self) -> Settings:
        """How pairs were judged.

        Raises:
            ValueError: a field is missing or out of range; the message has file and field.
        """
        where = ("verification", "settings")
        named = self.text(*where, "convention")
        convention = next((one for one in get_args(Convention) if one == named), None)
        if convention is None:
            raise self._wrong((*where, "convention"), f"one of {', '.join(CONVENTIONS)}")
        fars = self._at((*where, "far"), list, "a list")
        if not all(_is_rate(far) for far in fars):
            raise self._wrong((*where, "far"), "rates in (0, 1)")
        resamples, seed = self._resampling(*where)
        return Settings(convention, (), tuple(map(float, fars)), resamples, seed)

    def identification(self) -> SearchSettings:
        """How searches were judged; see :meth:`verification`."""
        part = "identification"
        try:
            ranks = [int(rank) for rank in self.block(part, "cmc")]
        except ValueError:
            ranks = []
        if not ranks or min(ranks) < 1:
            raise self._wrong((part, "cmc"), "shares by rank")
        try:
            fpirs = [float(fpir) for fpir in self.block(part, "tpir_at_fpir")]
        except ValueError:
            fpirs = [0.0]
        if not all(map(_is_rate, fpirs)):
            raise self._wrong((part, "tpir_at_fpir"), "shares by rates in (0, 1)")
        person_score = self.text(part, "person_score")
        if person_score not in PERSON_SCORES:
            raise self._wrong((part, "person_score"), f"one of {', '.join(PERSON_SCORES)}")
        resamples, seed = self._resampling(part, "settings")
        return SearchSettings(tuple(ranks), tuple(fpirs), person_score, resamples, seed)

    def _resampling(self, *where: str) -> tuple[int, int]:
        resamples = self._at((*where, "resamples"), int, "a whole number")
        if resamples != 0 and resamples < 100:
            raise self._wrong((*where, "resamples"), "0 or at least 100")
        seed = self._at((*where, "seed"), int, "a whole number")
        if seed < 0:
            raise self._wrong((*where, "seed"), "at least 0")
        return resamples, seed

    def _at(self, names: tuple[str, ...], kind: type, what: str) -> Any:
        value: Any = self._content
        for depth, name in enumerate(names, 1):
            if not isinstance(value, dict) or name not in value:
                raise ValueError(f"{str(self._path)!r} has no {'.'.join(names[:depth])}")
            value = value[name]
        # True is a whole number to Python, and to nobody else.
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self._wrong(names, what)
        return value

    def _wrong(self, names: tuple[str, ...], what: str) -> ValueError:
        value: Any = self._content
        for name in names:
            value = value[name]
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        return ValueError(f"{str(self._path)!r}: {'.'.join(names)} must be {what}, got {shown}")


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < 1


# An evaluation in two files: JSON with every number, and the scores that they were made of.

_DIGEST = "scores_sha256"
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class StoredEvaluation:
    """An evaluation from its files.

    Attributes:
        path: of the JSON file.
        content: what is in it.
        dataset: what was judged on, in a few words.
        pairs: the scored pairs, where there are some.
        settings: how they were judged.
        searches: the searches; empty where there are none.
        search_settings: how they were judged.
        probes_digest: of the probes and who they are of; empty where there are none.
    """

    path: Path
    content: dict[str, Any]
    dataset: str
    pairs: StoredPairs | None
    settings: Settings | None
    searches: list[GallerySearch]
    search_settings: SearchSettings | None
    probes_digest: str


def scores_path(path: str | os.PathLike[str]) -> Path:
    """The file of scores beside a JSON file.

    ``out.json`` has ``out.scores.npz``. A name that does not end so is kept whole, before another
    ending, so that no two names share their scores: ``model-1.0`` has ``model-1.0-scores.npz``.
    """
    place = Path(path)
    stem = place.name.removesuffix(".json")
    ending = ".scores.npz" if stem != place.name else "-scores.npz"
    return place.with_name(stem + ending)


def check_place(path: str | os.PathLike[str]) -> None:
    """See before long work that its result can be written.

    Raises:
        ValueError: the path is a folder, or its folder is a file.
    """
    place = Path(path)
    if place.is_dir():
        raise ValueError(f"{str(path)!r} is a folder; it must name a file")
    if place.parent.exists() and not place.parent.is_dir():
        raise ValueError(f"{str(place.parent)!r} is no folder; {place.name!r} cannot be in it")


def write_evaluation(path: str | os.PathLike[str], evaluation: Evaluation) -> None:
    """Write an evaluation as JSON, and its scores beside it.

    An evaluation that is there already can be read until the new one can, whatever happens: the
    new scores wait beside the old ones until the new JSON file, which names their SHA-256, is in
    place. If the process is killed then, :func:`read_evaluation` finds them where they wait.

    Args:
        path: the JSON file.
        evaluation: the result.

    Raises:
        ValueError: the result holds what JSON does not, or the path is a folder or a device.
        OSError: a file cannot be written; the message has its name. What was there is as it was.
    """
    file = Path(path)
    arrays: Arrays = {}
    content = evaluation.to_dict()
    if evaluation.verification is not None:
        arrays |= pair_arrays(evaluation.verification)
        content["pairs_sha256"] = _pairs_digest(evaluation)
    if evaluation.identification is not None:
        arrays |= search_arrays(evaluation.identification)
        content["probes_sha256"] = _probes_digest(evaluation)
    scores = scores_path(file)
    packed, digest = pack(arrays)
    content |= {"scores": scores.name, _DIGEST: digest}
    try:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=True)
    except ValueError as error:
        raise ValueError(f"the evaluation cannot be written to {str(file)!r}: {error}") from error
    if scores.exists() and not scores.is_file():
        raise ValueError(f"{str(scores)!r} is no file; the scores of {str(file)!r} belong there")
    before = _named_digest(file)
    try:
        with _written(scores, _waiting(scores, digest)) as temporary:
            temporary.write_bytes(packed)
        with _written(file, file) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    finally:
        _settle(file, scores, {digest} if before is None else {digest, before})


def read_evaluation(path: str | os.PathLike[str]) -> StoredEvaluation:
    """Read an evaluation that :func:`write_evaluation` wrote.

    Raises:
        ValueError: it is none, a field is wrong, or the scores are missing, damaged or not those
            that were written with it; the message names the file.
        OSError: a file cannot be read.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OSError(f"cannot read {str(file)!r}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(file)!r} is no JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{str(file)!r} is not what centerarc evaluate --json writes ({FORMAT!r})")
    fields = Content(file, content)
    fields.block("model")
    if "verification" in content:
        fields.text("pairs_sha256")
    dataset = fields.text("data", "name")
    scores = file.with_name(Path(fields.text("scores")).name)
    digest = fields.text(_DIGEST)
    if not _SHA256.fullmatch(digest):
        raise ValueError(f"{str(file)!r}: {_DIGEST} must be a SHA-256, got {digest[:80]!r}")
    arrays = _arrays(file, scores, digest)
    try:
        pairs = pairs_of(arrays, str(content.get("pairs_sha256", "")))
        searches = searches_of(arrays)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"cannot read {str(scores)!r}: {error}") from error
    for part, there in (("verification", pairs is not None), ("identification", bool(searches))):
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
        None if pairs is None else fields.verification(),
        searches,
        fields.identification() if searches else None,
        fields.text("probes_sha256") if searches else "",
    )


def _arrays(file: Path, scores: Path, digest: str) -> Arrays:
    there = False
    for place in (scores, _waiting(scores, digest)):
        try:
            arrays = unpack(place, digest)
        except FileNotFoundError:
            continue
        except Exception as error:  # a damaged zip file can fail in any way
            raise ValueError(f"cannot read {str(place)!r}: {error}") from error
        if arrays is not None:
            return arrays
        there = True
    if there:
        raise ValueError(
            f"cannot read {str(scores)!r} as the scores of {str(file)!r}: it is not the file that "
            "was written with it (another SHA-256)"
        )
    raise ValueError(
        f"{str(file)!r} needs its scores {scores.name!r} beside it, which are not there"
    )


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


def _pairs_digest(evaluation: Evaluation) -> str:
    """Of which images the pairs are, and in which order."""
    verified = evaluation.verification
    assert verified is not None
    digest = hashlib.sha256()
    # By name, since a model and a file of embeddings number their images each in its own way.
    places = evaluation.images.places
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


def _probes_digest(evaluation: Evaluation) -> str:
    """Of which images there are, and whose they are."""
    identified = evaluation.identification
    assert identified is not None
    digest = hashlib.sha256()
    _add_texts(digest, evaluation.images.places)
    for search in identified.searches:
        _add_texts(digest, [str(label) for label in search.probe_labels.tolist()])
        digest.update(np.ascontiguousarray(search.mated).tobytes())
    return digest.hexdigest()


def _add_texts(digest: Any, texts: Sequence[str]) -> None:
    for text in texts:
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")

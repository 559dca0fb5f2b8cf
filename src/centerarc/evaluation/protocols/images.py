"""Protocols on single images: pairs of them verified, probes looked up in a gallery."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from centerarc.data.source import namesakes, one_list
from centerarc.evaluation.accuracy import check_convention
from centerarc.evaluation.embedding import pair_scores
from centerarc.evaluation.files.pair_set import (
    Missing,
    PairImages,
    PairSet,
    is_bin_set,
    open_pair_set,
    read_named_pairs,
)
from centerarc.evaluation.files.pairs import Pairs, check_both_kinds
from centerarc.evaluation.gallery import search_gallery
from centerarc.evaluation.protocols.judging import (
    Evaluation,
    JudgedImages,
    Picture,
    SearchSettings,
    Settings,
    Sides,
    chosen_groups,
    dataset_words,
    judge_pairs,
    judge_searches,
    pairs_of_one_picture,
    pictures_of,
    separability_of,
    shared_note,
)
from centerarc.evaluation.protocols.parts import JudgedPart, check_one_model, embedded_part
from centerarc.evaluation.protocols.subject import (
    EmbeddingsSubject,
    Progress,
    Subject,
)
from centerarc.evaluation.same_pictures import SHOWN, Embedded, near_copies, number_pictures
from centerarc.evaluation.scores import BoolArray, IntArray
from centerarc.io.tables import counted


def evaluate_pairs(
    subject: Subject,
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    folds: Iterable[int] | None = None,
    missing: Missing = "error",
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Verifies the pairs of a file.

    Args:
        subject: A model, or embeddings whose places are the names of the images. `pairs.txt`
            names a person and a number: `Ann_Lee/Ann_Lee_0001` with any ending.
        path: Pairs in any format of `centerarc.evaluation.files.open_pair_set`.
        images: Folder of the images, as there; embeddings need none, but then the page has no
            pictures.
        folds: Folds to keep; None keeps all.
        missing: "skip" leaves out pairs of which an image or embedding is not there.
        settings: How to judge.
        progress: Called with the stage, the steps done and all of them.

    Raises:
        ValueError: If the file is broken, an image or a column is missing, or settings do not
            fit; the message names file and line or entry.
        OSError: If a file cannot be read.
    """
    chosen = Settings() if settings is None else settings
    wanted = None if folds is None else list(folds)
    by_name = isinstance(subject, EmbeddingsSubject) and images is None
    pairs: PairSet | Pairs
    notes: list[str] = []
    if not is_bin_set(path):
        pairs = read_named_pairs(path, wanted)
        # Before the work: a wrong list or name should not cost minutes.
        check_both_kinds(pairs.same, str(path))
    elif by_name:
        raise ValueError(
            f"the images of {str(path)!r} have no names to find embeddings by; give a model"
        )
    else:
        pairs = open_pair_set(
            path, images=images, folds=wanted, image_size=subject.image_size, missing=missing
        )
    listed = len(pairs.same)
    if isinstance(pairs, Pairs) and not by_name:
        pairs = PairImages(pairs, images, image_size=subject.image_size, missing=missing)
        notes += pairs.notes
    elif isinstance(pairs, Pairs) and isinstance(subject, EmbeddingsSubject):
        absent = pairs.absent(subject.found.places) if missing == "skip" else []
        if absent:
            pairs, note = pairs.without(absent, f"are not in {subject.path}")
            notes.append(note)
    check_both_kinds(pairs.same, str(path))
    check_convention(chosen.convention, pairs.fold, pairs.same)
    groups = chosen_groups(pairs.columns, chosen.by, str(path))
    index = pairs.index_a, pairs.index_b
    if isinstance(subject, EmbeddingsSubject) and isinstance(pairs, Pairs):
        judged, index = _looked_up(subject, pairs)
    else:
        assert not isinstance(pairs, Pairs)
        again = partial(open_pair_set, path, images=images, folds=wanted, missing=missing)
        found = subject.embed(pairs, progress)
        judged = JudgedImages(
            found.embedding,
            None if pairs.people is None else pairs.labels,
            list(pairs.identities),
            [pairs.place(number) for number in range(len(pairs))],
            pictures_of(again),
            number_pictures(found)[0],
        )
    verified = judge_pairs(
        pair_scores(judged.embedding, *index),
        pairs.same,
        pairs.fold,
        pairs.people,
        pairs.people_note,
        index,
        groups,
        chosen,
    )
    assert judged.number is not None
    sides = [judged.number[side] for side in index]
    twice, odd = pairs_of_one_picture(
        sides[0] == sides[1],
        pairs.same,
        lambda row: [judged.places[int(side[row])] for side in index],
    )
    return Evaluation(
        model=subject.facts(),
        data={
            "protocol": "verification of pairs of images",
            "pairs": str(path),
            "images": None if images is None else str(images),
            "folds": np.unique(pairs.fold).tolist(),
            "distinct_images": len(judged.places),
            **({"left_out_pairs": listed - len(pairs.same)} if missing == "skip" else {}),
            **({"same_pictures": twice} if twice else {}),
        },
        dataset=dataset_words(path, wanted),
        images=judged,
        verification=verified,
        separability=separability_of(judged, chosen),
        notes=(*notes, *verified.notes(path), *odd),
    )


def _looked_up(subject: EmbeddingsSubject, pairs: Pairs) -> tuple[JudgedImages, Sides]:
    """The embeddings that pairs are of, and the pairs as numbers of them."""
    sides = np.stack(pairs.among(subject.found.places, f"are not in {subject.path}"))
    rows, number = np.unique(sides, return_inverse=True)
    index_a, index_b = number.reshape(2, -1).astype(np.int64)
    labels, identities = None, []
    if pairs.people is not None:
        names, codes = np.unique(np.stack(pairs.people), return_inverse=True)
        labels = np.empty(rows.size, dtype=np.int64)
        labels[index_a], labels[index_b] = codes.reshape(2, -1)
        identities = names.tolist()
    places = [subject.found.places[row] for row in rows.tolist()]
    embedding = subject.found.embedding[rows]
    number = number_pictures(Embedded(embedding))[0]
    judged = JudgedImages(embedding, labels, identities, places, None, number)
    return judged, (index_a, index_b)


def evaluate_galleries(
    subject: Subject | None,
    gallery: str | os.PathLike[str],
    probes: str | os.PathLike[str],
    *,
    distractors: str | os.PathLike[str] | None = None,
    settings: SearchSettings | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Looks every probe up in a gallery.

    A person has the same name in the gallery and among the probes. People of the distractors are
    others, whatever their names.

    Args:
        subject: A model, or embeddings whose places are those of the sources; None where all
            three are files of embeddings.
        gallery: Images of the people who are known: any source, or a file of embeddings.
        probes: Images to look up, of the same kinds.
        distractors: Images of further people in the gallery, without probes.
        settings: How to judge.
        progress: Called with the stage, the steps done and all of them.

    Raises:
        ValueError: If a source or file is broken, no subject is given where one is needed,
            embeddings are of different sizes or models, or no probe is of a known person.
        OSError: If a file cannot be read.
    """
    chosen = SearchSettings() if settings is None else settings
    paths = {"gallery": Path(gallery), "probes": Path(probes)}
    if distractors is not None:
        paths["distractors"] = Path(distractors)
    parts = {name: embedded_part(name, path, subject, progress) for name, path in paths.items()}
    check_one_model(parts)
    people = _people(parts)
    if not np.isin(people.labels["probes"], people.labels["gallery"]).any():
        raise ValueError(
            f"no one of {str(probes)!r} is in {str(gallery)!r}: people must have the same name in "
            f"both; probes have {parts['probes'].identities[0]!r}, the gallery "
            f"{parts['gallery'].identities[0]!r}"
        )
    counts = {f"{name}_images": len(part.places) for name, part in parts.items()}
    copies = _copies(parts, people.labels)
    parts = {name: part.only(copies.kept[name]) for name, part in parts.items()}
    labels, number = (
        {name: each[name][copies.kept[name]] for name in parts}
        for each in (people.labels, copies.number)
    )
    known = [name for name in ("gallery", "distractors") if name in parts]
    search = search_gallery(
        np.concatenate([parts[name].found.embedding for name in known]),
        np.concatenate([labels[name] for name in known]),
        parts["probes"].found.embedding,
        labels["probes"],
        person_score=chosen.person_score,
    )
    shown = ("gallery", "probes")
    judged = JudgedImages(
        np.concatenate([parts[name].found.embedding for name in shown]),
        np.concatenate([labels[name] for name in shown]),
        people.names,
        [*parts["gallery"].places, *parts["probes"].places],
        _pictures(parts["gallery"], parts["probes"]),
        np.concatenate([number[name] for name in shown]),
    )
    facts = [part.model for part in parts.values() if part.model]
    number_of = np.arange(len(judged.places))
    enrolled = len(parts["gallery"].places)
    identified = replace(
        judge_searches([search], chosen), known=number_of[:enrolled], probes=number_of[enrolled:]
    )
    return Evaluation(
        model=subject.facts() if subject is not None else facts[0],
        data={
            "protocol": "identification of probes in a gallery",
            **{name: str(path) for name, path in paths.items()},
            **counts,
            **({"same_pictures": copies.facts} if copies.notes else {}),
            **({"names_alike": people.alike} if people.alike else {}),
        },
        dataset=f"{paths['probes'].name} in {' and '.join(paths[name].name for name in known)}",
        images=judged,
        identification=identified,
        separability=separability_of(judged, Settings(resamples=chosen.resamples)),
        notes=(
            *copies.notes,
            *people.notes,
            *(note for part in parts.values() for note in part.notes),
        ),
    )


@dataclass(frozen=True, eq=False)
class _Copies:
    """Pictures that come twice: the number of each picture by part, which images are searched
    with, facts for the result, and notes."""

    number: dict[str, IntArray]
    kept: dict[str, BoolArray]
    facts: dict[str, object]
    notes: list[str]


def _copies(parts: dict[str, JudgedPart], labels: dict[str, IntArray]) -> _Copies:
    """Finds probes that are in the gallery, and distractors that are pictures of the others."""
    found = number_pictures(*(part.found for part in parts.values()))
    number = dict(zip(parts, found, strict=True))
    kept = {name: np.ones(each.size, dtype=np.bool_) for name, each in number.items()}
    known, asked = number["gallery"], number["probes"]
    where = {picture: row for row, picture in enumerate(known.tolist())}
    rows = np.array([where.get(picture, -1) for picture in asked.tolist()])
    seen = rows >= 0
    facts: dict[str, object] = {"probes_in_the_gallery": int(seen.sum())}
    notes: list[str] = []
    if seen.any():
        places = parts["probes"].places, parts["gallery"].places
        at = np.flatnonzero(seen)
        facts["examples"] = [[places[0][n], places[1][rows[n]]] for n in at[:SHOWN].tolist()]
        others = int((labels["probes"][at] != labels["gallery"][rows[at]]).sum())
        mated = np.isin(labels["probes"], labels["gallery"])
        then = "they are kept, because no other probe is of a person in the gallery"
        if (mated & ~seen).any():
            kept["probes"] = ~seen
            then = "they are left out"
        if others:
            then += f"; {others:,} of them are there under another name"
        facts["probes_left_out"] = int((~kept["probes"]).sum())
        notes += shared_note(at.size, seen.size, f"{then} (--json has examples)")
    near = near_copies(parts["probes"].found, parts["gallery"].found)
    if (at := np.flatnonzero((near >= 0) & ~seen)).size:
        places = parts["probes"].places, parts["gallery"].places
        facts["probes_almost_in_the_gallery"] = int(at.size)
        facts["almost_examples"] = [[places[0][n], places[1][near[n]]] for n in at[:SHOWN].tolist()]
        are = counted(int(at.size), "further probe is", "further probes are")
        notes.append(
            f"{are if seen.any() else are.replace('further ', '')} almost the same picture as one "
            "in the gallery, as when it was compressed again or resized, and says little of the "
            "model; kept (--json has examples)"
        )
    if "distractors" in parts:
        strangers = ~np.isin(number["distractors"], np.concatenate([known, asked]))
        if gone := int((~strangers).sum()):
            kept["distractors"] = strangers
            facts["distractors_left_out"] = gone
            place = parts["distractors"].places
            facts["distractor_examples"] = [place[n] for n in np.flatnonzero(~strangers)[:SHOWN]]
            are = "is a picture" if gone == 1 else "are pictures"
            notes.append(
                f"{gone:,} of {strangers.size:,} distractors {are} of the gallery or the probes, "
                "so of no one else; left out (--json has examples)"
            )
    return _Copies(number, kept, facts, notes)


@dataclass(frozen=True, eq=False)
class _People:
    """Everyone: names, the number of each image's person by part, notes without names, and which
    names of two parts are alike."""

    names: list[str]
    labels: dict[str, IntArray]
    notes: list[str]
    alike: dict[str, object]


def _people(parts: dict[str, JudgedPart]) -> _People:
    sides = ("gallery", "probes")
    known = one_list(*(parts[name].identities for name in sides))
    labels = dict(zip(sides, known.numbers, strict=True))
    names, notes = known.names, known.notes()
    alike: dict[str, object] = {}
    if known.by_case:
        alike["taken_for_one"] = known.by_case
    if (others := parts.get("distractors")) is not None:
        # A distractor who happens to share a name is somebody else.
        strangers = one_list(others.identities)
        labels["distractors"] = len(names) + strangers.numbers[0]
        names = [*names, *strangers.names]
        if same := namesakes(strangers.names, known.names):
            alike["distractors"] = same
            many = counted(len(same), "person", "people")
            notes.append(
                f"{many} of the distractors {'has' if len(same) == 1 else 'have'} the name of "
                "somebody in the gallery or among the probes and count as others: if they are the "
                "same people, ranks are worse than they should be (--json has the names)"
            )
    return _People(names, labels, notes, alike)


def _pictures(gallery: JudgedPart, probes: JudgedPart) -> Picture | None:
    first, second, count = gallery.picture, probes.picture, len(gallery.places)
    if first is None or second is None:
        return None
    return lambda index: first(index) if index < count else second(index - count)

"""`centerarc gallery`: people and their photos in one file or database, and who somebody is."""

import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from centerarc.cli.calibrate import calibrate
from centerarc.cli.flags import (
    MODEL,
    OUTPUT,
    ModelFlags,
    by_flags,
    check_outputs,
    flag,
    opened_model,
)
from centerarc.cli.index import index

if TYPE_CHECKING:
    from centerarc.gallery import Enrolled, Gallery, Identity, Recognizer

FACES = Group("Faces", sort_key=3)
# What became of photos, and people, that are shown before the rest is only counted.
_SHOWN = 10
_Model = Annotated[str, Parameter(group=MODEL, show_default=False)]
_Device = Annotated[str, Parameter(group=MODEL)]


@by_flags
def create(
    gallery: str,
    /,
    *,
    model: _Model = "",
    flags: Annotated[ModelFlags | None, Parameter(group=MODEL, show_default=False)] = None,
    mirror: Annotated[bool, flag(MODEL)] = False,
    device: _Device = "auto",
    embedding_size: Annotated[int | None, Parameter(group=MODEL)] = None,
    aligned: Annotated[bool, flag(FACES)] = False,
    detector: Annotated[Path | None, Parameter(group=FACES)] = None,
    min_score: Annotated[float, Parameter(group=FACES)] = 0.6,
    detect_side: Annotated[int, Parameter(group=FACES)] = 640,
    min_face: Annotated[float | None, Parameter(group=FACES)] = None,
    min_sharpness: Annotated[float | None, Parameter(group=FACES)] = None,
) -> None:
    """Make an empty gallery for one model.

    The gallery is one file, or in a PostgreSQL database with pgvector. It keeps which model its
    embeddings are of, by the digest of its weights and what is done to an image before, and takes
    no other's.

    Parameters
    ----------
    gallery
        The file to make, e.g. people.db, or postgresql://user@host/database?gallery=people.
    model
        A run folder, a weights file, an ONNX file, hf://owner/name on the Hugging Face Hub, or a
        public checkpoint with --architecture.
    mirror
        Sum the features of each image and its mirror image.
    device
        Where the model computes: auto, cpu, cuda or mps.
    embedding_size
        Instead of --model: the length of embeddings that are added as files.
    aligned
        Photos are aligned faces already, as centerarc data align makes them; else faces are found
        in them.
    detector
        ONNX file of a YuNet face detector, instead of that of the extra detect.
    min_score
        Least score of a face that the detector finds.
    detect_side
        Longest side of the picture in which the detector searches.
    min_face
        Refuse faces that take up a square of a smaller side in the photo, in pixels.
    min_sharpness
        Refuse faces that are less sharp.
    """
    from centerarc.gallery import Gallery
    from centerarc.gallery.store import is_url

    if bool(model) == (embedding_size is not None):
        raise ValueError("give --model MODEL, or --embedding-size N for embeddings without a model")
    if aligned and detector is not None:
        raise ValueError("detector must not be given with --aligned: nothing is detected")
    if not is_url(gallery) and Path(gallery).exists():  # before a large model is loaded
        raise ValueError(f"{gallery!r} is there already; a new gallery needs a new name")
    if embedding_size is not None:
        with Gallery.create(gallery, embedding_size=embedding_size) as made:
            place = made.store.place
        print(f"made {place} for embeddings of {embedding_size} numbers")
        return
    opening: dict[str, Any] = {
        "model": _whole(model),
        "flags": _plain_flags(flags),
        "mirror": mirror,
        "aligned": aligned,
        "detector": "" if detector is None else str(detector.resolve()),
        "min_score": min_score,
        "detect_side": detect_side,
        "min_face": min_face,
        "min_sharpness": min_sharpness,
    }
    facts = {"opening": json.dumps(opening), "model": _whole(model)}
    with Gallery.create(gallery, _recognizer(opening, device), facts=facts) as made:
        size, place = made.store.facts["size"], made.store.place
    print(f"made {place} for embeddings of {size} numbers by {model}")
    print(f"add people with: centerarc gallery add {shlex.quote(place)} FOLDER")


def _whole(model: str) -> str:
    return model if model.startswith("hf://") else str(Path(model).resolve())


def _plain_flags(flags: ModelFlags | None) -> dict[str, Any]:
    given = asdict(ModelFlags() if flags is None else flags)
    return {
        name: str(value.resolve()) if isinstance(value, Path) else value
        for name, value in given.items()
    }


def _recognizer(opening: dict[str, Any], device: str) -> "Recognizer":
    from centerarc.curate import YuNetDetector
    from centerarc.gallery import Recognizer

    flags: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in opening["flags"].items()
    }
    if flags.get("subtract"):
        flags["subtract"] = Path(flags["subtract"])
    detector = None
    if not opening["aligned"]:
        limits = {"min_score": opening["min_score"], "max_side": opening["detect_side"]}
        named = opening["detector"]
        try:
            detector = YuNetDetector(named, **limits) if named else YuNetDetector.bundled(**limits)
        except ImportError as error:
            raise ValueError(
                f"{error}; or --detector FILE.onnx, or --aligned for photos that are aligned faces"
            ) from None
    model = opened_model(opening["model"], ModelFlags(**flags), device, mirror=opening["mirror"])
    limited = {n: opening[n] for n in ("min_face", "min_sharpness") if opening[n] is not None}
    return Recognizer(model, detector, mirror=opening["mirror"], **limited)


def opened_gallery(path: str, model: str = "", device: str = "auto", *, photos: bool) -> "Gallery":
    """The gallery; where it is to take photos, with the model that it was made for."""
    from centerarc.gallery import Gallery

    gallery = Gallery(path)
    kept, place = gallery.store.facts.get("opening"), gallery.store.place
    if not photos:
        return gallery
    gallery.close()
    if kept is None:
        raise ValueError(f"{place!r} has no model and takes files of embeddings only")
    with gallery.store.undamaged("what it keeps of its model"):
        opening = dict(json.loads(kept))
    if model:
        opening["model"] = _whole(model)
    elif not opening["model"].startswith("hf://") and not Path(opening["model"]).exists():
        raise ValueError(
            f"the model of {place!r} was {opening['model']!r}, which is not there any more; "
            "say with --model where it is now"
        )
    found = Gallery(path, _recognizer(opening, device))
    if model and opening["model"] != found.store.facts["model"]:
        with suppress(OSError):  # where it may only be read
            found.store.keep(opening=json.dumps(opening), model=opening["model"])
    return found


@by_flags
def add(
    gallery: str,
    /,
    *sources: Annotated[Path, Parameter(name="from")],
    person: str = "",
    rule: Annotated[
        Literal["largest", "center", "score", "only"], Parameter(group=FACES)
    ] = "largest",
    model: _Model = "",
    device: _Device = "auto",
    log: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    overwrite: Annotated[bool, flag(OUTPUT)] = False,
) -> int:
    """Enrol people: a folder of photos for each, one person's photos, or embeddings.

    Each photo is one change of the file, which a kill at any time leaves whole; the same command
    resumes, as photos that are there are known by their bytes, whatever their names.

    Exit code: 0 done, 1 nothing is enrolled and nothing was there already, 2 wrong input, 130
    interrupted.

    Parameters
    ----------
    gallery
        The gallery's file or URL.
    sources
        A folder of <person>/<photo>; with --person photos, or folders of them; or a file of
        embeddings, .npz or .parquet, as centerarc embed writes it.
    person
        Whose photos these are: a name, or id:NUMBER.
    rule
        Which face of a photo is the person's: largest, center, score, or only, which refuses
        photos with several.
    model
        Where the gallery's model is, if it was moved.
    device
        Where the model computes: auto, cpu, cuda or mps.
    log
        A CSV file that says what became of each photo.
    overwrite
        Replace that file.
    """
    from centerarc.evaluation.embedding import is_embedding_file, read_embeddings
    from centerarc.io.progress import waiting
    from centerarc.io.tables import write_csv

    if not sources:
        raise ValueError("name folders, photos or files of embeddings to add")
    check_outputs([("log", log)], [gallery, *sources], overwrite=overwrite)
    files = [is_embedding_file(path) for path in sources]
    if any(files) and not all(files):
        raise ValueError("from must be photos or files of embeddings, not both at once")
    found: list[Enrolled] = []
    with closing(opened_gallery(gallery, model, device, photos=not any(files))) as opened:
        try:
            if person:
                person = _enrolled_name(opened, person)
            with waiting("enrolling", "photos") as progress:
                for path in sources if any(files) else ():
                    held = read_embeddings(path)
                    _check_embeddings_of(opened, held.metadata, path)
                    names = [person] * len(held) if person else held.identities
                    found += opened.add_embeddings(names, held.embedding, held.places)
                if person and not any(files):
                    photos = list(_photos(sources))
                    found += opened.add_photos(person, photos, rule=rule, progress=progress)
                elif not any(files):
                    for root in sources:
                        if not root.is_dir():
                            raise ValueError(
                                f"from must be a folder of <person>/<photo>, got {str(root)!r}; "
                                "of photos say with --person whose they are"
                            )
                        found += opened.add_folder(root, rule=rule, progress=progress)
        except KeyboardInterrupt:
            print("interrupted; the same command resumes with what is left", file=sys.stderr)
            return 130
        finally:
            if log is not None and found:
                write_csv(log, ["place", "person", "status", "reason"], found)
    return _say_enrolled(opened.store.place, found)


def _check_embeddings_of(gallery: "Gallery", metadata: dict[str, Any], path: Path) -> None:
    with gallery.store.undamaged("what it keeps of its model"):
        kept = dict(json.loads(gallery.store.facts.get("identity", "{}")))
    if not kept or not metadata:
        return
    there, here = _compared(metadata), _compared(kept)
    for name, value in here.items():
        if there[name] != value:
            raise ValueError(
                f"{str(path)!r} has embeddings of another model: {name} is {there[name]!r}, "
                f"and {value!r} in the gallery"
            )


def _compared(about: dict[str, Any]) -> dict[str, Any]:
    """What must be equal, of what a gallery or a file of embeddings says of its model."""
    given = about.get("preprocessing") or {}
    images = dict(json.loads(given) if isinstance(given, str) else given)
    images.pop("layout", None)  # the order in memory changes no number
    return {
        "weights_sha256": about.get("weights_sha256"),
        "features": about.get("features"),
        "mirror": str(about.get("mirror", False)).lower(),
        "preprocessing": json.dumps(images, sort_keys=True),
    }


def _photos(sources: Sequence[Path]) -> Iterable[Path]:
    from centerarc.curate.photos import PhotoTree

    for path in sources:
        if path.is_dir():
            yield from (path / photo.path for photo in PhotoTree(path).photos)
        elif path.exists():
            yield path
        else:
            raise ValueError(f"there is no photo {str(path)!r}")


def _say_enrolled(gallery: str, found: Sequence["Enrolled"]) -> int:
    from rich.console import Console

    from centerarc.cli.tables import facts_table

    counts = Counter(one.status for one in found)
    people = {one.person for one in found if one.status == "added"}
    reasons = Counter(one.reason.partition(":")[0] for one in found if one.status == "refused")
    facts = {
        "enrolled photos": counts["added"],
        "of people": len(people),
        "there already": counts["known"],
        **{f"refused: {reason}": count for reason, count in reasons.most_common()},
    }
    print(f"added to {gallery}")
    Console().print(facts_table({name: f"{count:,}" for name, count in facts.items()}))
    told = [one for one in found if one.reason]
    for one in told[:_SHOWN]:
        print(f"{one.place}: {one.reason}", file=sys.stderr)
    if len(told) > _SHOWN:
        print(f"and {len(told) - _SHOWN:,} more; --log FILE.csv has all", file=sys.stderr)
    return 0 if counts["added"] or counts["known"] else 1


def _who(text: str) -> str | int:
    head, _, number = text.partition(":")
    return int(number) if head == "id" and number.isdecimal() else text


def _enrolled_name(gallery: "Gallery", text: str) -> str:
    from centerarc.gallery.store import person_name

    who = _who(text)
    return gallery.person(who).name if isinstance(who, int) else person_name(who)


@by_flags
def remove(
    gallery: str,
    /,
    *people: str,
    photo: Annotated[tuple[int, ...], Parameter(consume_multiple=True, negative="")] = (),
) -> None:
    """Remove people with all their photos, or photos, for good.

    Their rows are overwritten in the file; a database frees them, and overwrites them when others
    come. Copies, backups and the photos are not touched.

    Parameters
    ----------
    gallery
        The gallery's file or URL.
    people
        Names, or id:NUMBER as centerarc gallery list shows it.
    photo
        Numbers of photos, as centerarc gallery list --person shows them.
    """
    from centerarc.io.tables import counted

    if not people and not photo:
        raise ValueError("name people to remove, or photos with --photo")
    with closing(opened_gallery(gallery, photos=False)) as opened:
        found = [opened.person(_who(name)) for name in people]  # all are there, or none goes
        if photo:
            there = {one.id for one in opened.photos()}
            if absent := [str(one) for one in photo if one not in there]:
                raise ValueError(
                    f"photo must be numbers of photos of {gallery!r}, got {', '.join(absent)}"
                )
        gone = opened.store.remove(people=[one.id for one in found], photos=photo)
    print(f"removed {', '.join(one.name for one in found) or 'photos'}: {counted(gone, 'photo')}")


@by_flags
def rename(gallery: str, person: str, name: str, /) -> None:
    """Give somebody another name; their number stays.

    Parameters
    ----------
    gallery
        The gallery's file or URL.
    person
        The name, or id:NUMBER.
    name
        The new name.
    """
    with closing(opened_gallery(gallery, photos=False)) as opened:
        before = opened.person(_who(person))
        opened.rename(before.id, name)
        print(f"{before.name} is {opened.person(before.id).name} now")


@by_flags
def list_(gallery: str, /, *, person: str = "") -> None:
    """Show who is in a gallery, or the photos of one person.

    Parameters
    ----------
    gallery
        The gallery's file or URL.
    person
        Whose photos to show: a name, or id:NUMBER.
    """
    with closing(opened_gallery(gallery, photos=False)) as opened:
        if person:
            for photo in opened.photos(_who(person)):
                print(f"{photo.id}\t{photo.added}\t{photo.place}")
            return
        people = opened.people()
        for one in people:
            print(f"id:{one.id}\t{one.photos}\t{one.name}")
        facts = opened.store.facts
        limits, outgrown = opened.thresholds, opened.outgrown
        index = opened.store.index
    if index is not None:
        print(f"searched by {index.words()}", file=sys.stderr)
    said = "not calibrated" if limits is None else f"names from a score of {limits.accept:.3f}"
    photos = sum(one.photos for one in people)
    print(
        f"{len(people):,} people, {photos:,} photos, embeddings of {facts['size']} numbers"
        f"{' by ' + facts['model'] if facts['model'] else ''}, {said}",
        file=sys.stderr,
    )
    if outgrown:
        print(outgrown, file=sys.stderr)


@by_flags
def export(
    gallery: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], group=OUTPUT)],
    overwrite: Annotated[bool, flag(OUTPUT)] = False,
) -> None:
    """Write all embeddings with names and places to a file, as centerarc embed does.

    Parameters
    ----------
    gallery
        The gallery's file or URL.
    out
        The file to write, .parquet or .npz.
    overwrite
        Replace OUT.
    """
    check_outputs([("out", out)], [gallery], overwrite=overwrite)
    with closing(opened_gallery(gallery, photos=False)) as opened:
        count = opened.export(out)
    print(f"wrote {count:,} embeddings to {out}")


@by_flags
def identify(
    gallery: str,
    /,
    *photos: Path,
    accept: float | None = None,
    reject: float | None = None,
    margin: float = 0.0,
    candidates: int = 3,
    model: _Model = "",
    device: _Device = "auto",
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], group=OUTPUT)] = None,
    overwrite: Annotated[bool, flag(OUTPUT)] = False,
) -> int:
    """Say who is on photos.

    Each face is a line: the name, if its score reaches the threshold that centerarc gallery
    calibrate chose or --accept gives, how alike it is, and how many strangers in a hundred reach
    such a score.

    Exit code: 0 done, 1 no photo could be read, 2 wrong input.

    Parameters
    ----------
    gallery
        The gallery's file or URL.
    photos
        Photos, folders of photos, or files of embeddings.
    accept
        Least score, a cosine from -1 to 1, of a face that has a name.
    reject
        Scores from here to --accept are unsure, lower ones strangers.
    margin
        How much higher than the second person's the score must be.
    candidates
        People to name for each face, at most.
    model
        Where the gallery's model is, if it was moved.
    device
        Where the model computes: auto, cpu, cuda or mps.
    out
        A CSV file with a row for each face and candidate.
    overwrite
        Replace OUT.
    """
    from centerarc.evaluation.embedding import is_embedding_file, read_embeddings
    from centerarc.gallery import Thresholds
    from centerarc.io.tables import write_csv

    if not photos:
        raise ValueError("name photos, folders of photos or files of embeddings")
    check_outputs([("out", out)], [gallery, *photos], overwrite=overwrite)
    limits: Thresholds | None = None
    if accept is not None:
        limits = Thresholds(accept, reject, margin)
    elif reject is not None or margin:
        name = "reject" if reject is not None else "margin"
        raise ValueError(f"{name} must be given with --accept, the score from which a name is said")
    files = [path for path in photos if is_embedding_file(path)]
    places = list(_photos([path for path in photos if path not in files]))
    rows: list[tuple[Any, ...]] = []
    with closing(opened_gallery(gallery, model, device, photos=bool(places))) as opened:
        for path in files:
            held = read_embeddings(path)
            _check_embeddings_of(opened, held.metadata, path)
            every = opened.identify_embeddings(held.embedding, limits, candidates=candidates)
            for place, one in zip(held.places, every, strict=True):
                rows += _said(place, 1, one)
        if limits is None and (hint := opened.outgrown or _uncalibrated(opened, gallery)):
            print(hint, file=sys.stderr)
        on_photos = opened.identify(places, limits, candidates=candidates) if places else []
        for where, found in zip(places, on_photos, strict=True):
            for number, one in enumerate(found, start=1):
                rows += _said(str(where), number, one)
    if out is not None:
        columns = ["place", "face", "verdict", "rank", "person", "id", "score", "strangers"]
        columns += ["box", "refused"]
        write_csv(out, columns, ([str(cell) for cell in row] for row in rows))
    return 1 if rows and all(row[-1].startswith("unreadable") for row in rows) else 0


def _uncalibrated(opened: "Gallery", gallery: str) -> str:
    command = f"centerarc gallery calibrate {shlex.quote(gallery)}"
    said = f"there is no threshold yet: {command} chooses one, or give --accept"
    return said if opened.thresholds is None else ""


def _said(place: str, number: int, one: "Identity") -> list[tuple[Any, ...]]:
    """Prints one face, and returns its rows."""
    face = one.face
    box = "" if face is None or face.box is None else " ".join(f"{x:.0f}" for x in face.box)
    refused = "" if face is None else face.reason
    where = f"{place}, face {number}" + (f" at {box}" if box else "")
    if refused:
        print(f"{place if face and face.refused == 'none' else where}: {refused}")
        return [(place, number, one.verdict, "", "", "", "", "", box, refused)]
    if not one.candidates:
        print(f"{where}: the gallery is empty")
        return []
    share = ""
    if one.strangers is not None:
        some = f"{one.strangers:.1%} of" if one.strangers else "none of the"
        share = f" ({some} strangers measured score as high)"
    best, *others = one.candidates
    head = f"{best.name} {best.score:.3f}"
    if one.verdict != "accepted":
        head = f"{one.verdict}, nearest {head}"
    rest = "".join(f", {who.name} {who.score:.3f}" for who in others)
    print(f"{where}: {head}{share}{f'; then{rest[1:]}' if rest else ''}")
    shown = "" if one.strangers is None else f"{one.strangers:.6g}"
    return [
        (place, number, one.verdict, rank, who.name, who.person, f"{who.score:.6f}", shown, box, "")
        for rank, who in enumerate(one.candidates, start=1)
    ]


@by_flags
def check(gallery: str, /) -> int:
    """Look for damage: the file, its embeddings, people without photos.

    Exit code: 0 all is well, 1 something is wrong, 2 not a gallery.

    Parameters
    ----------
    gallery
        The gallery's file or URL.
    """
    with closing(opened_gallery(gallery, photos=False)) as opened:
        problems = list(opened.check())
        count = sum(one.photos for one in opened.people())
    for problem in problems:
        print(problem)
    print(
        f"{opened.store.place}: {count:,} photos, {len(problems) or 'no'} problems", file=sys.stderr
    )
    return 1 if problems else 0


app = App(name="gallery", help="Enrol people, and say who is on photos.")
for command in (create, add, calibrate, identify, remove, rename, export, check, index):
    app.command(command, help_format="plaintext")
app.command(list_, name="list", help_format="plaintext")

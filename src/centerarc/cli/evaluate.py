"""`centerarc evaluate` and `centerarc compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from centerarc.cli.flags import (
    MODEL,
    OUTPUT,
    ModelFlags,
    Overwrite,
    Workers,
    by_flags,
    check_outputs,
    flag,
    numbers,
    opened_model,
    spoken,
)

if TYPE_CHECKING:
    from centerarc.evaluation.protocols.request import Request
    from centerarc.evaluation.protocols.subject import Subject


_WHAT = Group(
    "What to judge on",
    sort_key=1,
    help="""One of --pairs, --all-pairs, --gallery with --probes, --templates, or --ijb:

    centerarc evaluate runs/mine --pairs pairs.txt --images faces
    centerarc evaluate runs/mine --all-pairs faces
    centerarc evaluate runs/mine --gallery known --probes asked""",
)
_HOW = Group("How to judge", sort_key=3)


@by_flags
def evaluate(
    model: str | None = None,
    /,
    *,
    pairs: Annotated[Path | None, Parameter(group=_WHAT)] = None,
    images: Annotated[Path | None, Parameter(group=_WHAT)] = None,
    missing: Annotated[Literal["error", "skip"] | None, Parameter(group=_WHAT)] = None,
    folds: Annotated[tuple[int, ...] | None, numbers(int, "7,8", _WHAT)] = None,
    all_pairs: Annotated[Path | None, Parameter(group=_WHAT)] = None,
    other_side: Annotated[Path | None, Parameter(group=_WHAT)] = None,
    gallery: Annotated[Path | None, Parameter(group=_WHAT)] = None,
    probes: Annotated[Path | None, Parameter(group=_WHAT)] = None,
    distractors: Annotated[Path | None, Parameter(group=_WHAT)] = None,
    templates: Annotated[Path | None, Parameter(group=_WHAT)] = None,
    ijb: Annotated[Path | None, Parameter(group=_WHAT)] = None,
    flags: Annotated[ModelFlags | None, Parameter(group=MODEL, show_default=False)] = None,
    mirror: Annotated[bool, flag(MODEL)] = False,
    batch_size: Annotated[int, Parameter(group=MODEL)] = 64,
    workers: Workers = None,
    device: Annotated[str, Parameter(group=MODEL)] = "auto",
    by: Annotated[
        tuple[str, ...],
        Parameter(group=_HOW, consume_multiple=True, negative="", show_default=False),
    ] = (),
    far: Annotated[tuple[float, ...], numbers(float, "1e-5,1e-6", _HOW)] = (),
    convention: Annotated[
        Literal["exact", "grid", "insightface"] | None, Parameter(group=_HOW)
    ] = None,
    ranks: Annotated[tuple[int, ...], numbers(int, "1,5", _HOW)] = (),
    fpir: Annotated[tuple[float, ...], numbers(float, "0.1,0.01", _HOW)] = (),
    person_score: Annotated[Literal["max", "mean"] | None, Parameter(group=_HOW)] = None,
    weighting: Annotated[
        Literal["plain", "norm", "detector", "norm+detector"] | None, Parameter(group=_HOW)
    ] = None,
    resamples: Annotated[int | None, Parameter(group=_HOW)] = None,
    seed: Annotated[int, Parameter(group=_HOW)] = 0,
    json: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    report: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    title: Annotated[str, Parameter(group=OUTPUT, show_default=False)] = "",
    no_pictures: Annotated[bool, flag(OUTPUT)] = False,
    overwrite: Overwrite = False,
) -> None:
    """Measure how well a model tells people apart.

    On pairs of images (--pairs), on all pairs of some people's images, each person weighing the
    same (--all-pairs), on probes looked up in a gallery (--gallery, --probes), on
    templates of several images (--templates), or on IJB-B and IJB-C (--ijb).

    Parameters
    ----------
    model
        A run folder, a weights file, an ONNX file, hf://owner/name on the Hugging Face Hub, a
        public checkpoint with --architecture, or a file of embeddings from centerarc embed. Not
        needed where gallery and probes are such files.
    pairs
        Pairs: LFW's pairs.txt, a .bin set, or a list (image_a, image_b and same, and other forms).
        With --templates, a list of template_a, template_b and same. With --all-pairs, only their
        people are taken.
    images
        Folder of the images. pairs.txt needs it; a list has its own folder by default.
    missing
        What to do about images of a list that are not there: error (default), or skip, which leaves
        out the pairs and templates that need them and counts them.
    folds
        Use these folds of the pairs only, e.g. 7,8.
    convention
        How thresholds are chosen: exact (default); grid as arcface_torch has it, for the k-fold
        accuracy; or insightface for IJB, templates, and pairs without folds: TAR at the nearest FAR
        and TPIR as its IJB scripts have them, where all probes are of people in the gallery.
    by
        Columns of the .csv list to break results down by, with commas or blanks between; age also
        means age_a with age_b. age=20,40,60 cuts a column of numbers: under 20, 20 to 40 (40 not
        included), 40 to 60, 60 and over.
    far
        Further false accept rates, e.g. 1e-5,1e-6.
    all_pairs
        Images of which every two are compared: a folder of <person>/<image>, a .rec file, .tar
        shards, a list, or a file of embeddings.
    other_side
        With --all-pairs, the same images under the same names in another state, such as degraded:
        each pair is of an image of the one and another image of the other side.
    gallery
        Images of known people: a folder of <person>/<image>, a .rec file, .tar shards, a list, or
        a file of embeddings.
    probes
        Images to look up in the gallery, likewise.
    distractors
        Images of further people in the gallery, likewise.
    person_score
        Score of a person in the gallery: max over the images (default), or of their mean.
    ranks
        Ranks to report; 1,5,10,20 by default.
    fpir
        False positive identification rates to report; 0.1,0.01,0.001 by default, and of
        --all-pairs one, 0.01 by default.
    templates
        A .csv list of template and image, with media, identity, role and weight as needed.
    ijb
        Metadata folder of IJB-B or IJB-C; --images is then the folder of loose crops.
    weighting
        How images are weighted within a template; plain by default.
    mirror
        Sum the features of each image and its mirror image.
    resamples
        0 for no intervals; else resamples of the people, at least 100, behind those of ranks, TPIR,
        identities and all pairs, 1000 by default. Those of listed pairs come from a formula.
    seed
        Random seed of the resampling.
    json
        Also write everything to this file, and the scores to a file next to it, for centerarc
        compare.
    report
        Also write a page to this .html file; it shows faces and the names of people.
    title
        Heading of the page; "Evaluation of" the model by default.
    no_pictures
        Leave all faces out of the page, and the names of those on them.
    overwrite
        Replace the files of --json and --report if they are there.
    batch_size
        Images at once.
    workers
        Processes that read images; 0 reads in this one.
    device
        Where the model computes: auto, cpu, cuda or mps; ONNX models on cpu or cuda.
    """
    from dataclasses import replace

    from centerarc.cli.tables import show_evaluation
    from centerarc.evaluation.protocols.request import Request, evaluate_request
    from centerarc.evaluation.protocols.result_files import scores_path, write_evaluation
    from centerarc.io.progress import stages
    from centerarc.report.evaluation_page import write_evaluation_page
    from centerarc.report.rendering import require_report_extra

    given = locals() | {"overwrite": False}
    check_outputs(
        [("json", json), ("json", json and scores_path(json)), ("report", report)],
        (model, pairs, all_pairs, other_side, gallery, probes, distractors, templates),
        overwrite=overwrite,
    )
    if report is not None:
        require_report_extra()
    request = Request(
        pairs=pairs,
        images=images,
        missing=missing,
        folds=folds,
        convention=convention,
        by=by,
        far=far,
        all_pairs=all_pairs,
        other_side=other_side,
        gallery=gallery,
        probes=probes,
        distractors=distractors,
        person_score=person_score,
        templates=templates,
        ijb=ijb,
        weighting=weighting,
        ranks=ranks,
        fpir=fpir,
        resamples=resamples,
        seed=seed,
    )
    subject = _subject(model, request, flags, mirror, batch_size, workers, device)
    with stages("images") as progress:
        result = evaluate_request(request, subject, progress=progress)
    result = replace(result, command=spoken(evaluate, given))
    try:  # before anything is printed, which a closed pipe may end
        if json is not None:
            write_evaluation(json, result)
        if report is not None:
            shown = result
            if no_pictures:
                nameless = [""] * len(result.images.places)
                unseen = replace(result.images, picture=None, places=nameless)
                shown = replace(result, images=unseen)
            write_evaluation_page(report, shown, title=title)
    finally:
        show_evaluation(result)


def _subject(
    model: str | None,
    request: "Request",
    flags: ModelFlags | None,
    mirror: bool,
    batch_size: int,
    workers: int | None,
    device: str,
) -> "Subject | None":
    from centerarc.evaluation.embedding import is_embedding_file
    from centerarc.evaluation.protocols.subject import ModelSubject, opened_embeddings
    from centerarc.io.parallel import workers_for_a_model

    request.check_model(model is not None)
    if model is None:
        return None
    if is_embedding_file(Path(model)):
        if mirror or (flags is not None and flags != ModelFlags()):
            raise ValueError(f"{model!r} holds embeddings; flags of a model are not for it")
        return opened_embeddings(model)
    return ModelSubject(
        opened_model(model, flags, device, mirror=mirror),
        mirror=mirror,
        batch_size=batch_size,
        workers=workers_for_a_model() if workers is None else workers,
    )


@by_flags
def compare(
    baseline: Path,
    other: Path,
    /,
    *more: Path,
    report: Path | None = None,
    json: Path | None = None,
    title: Annotated[str, Parameter(show_default=False)] = "",
    overwrite: Overwrite = False,
) -> None:
    """Show evaluations side by side, and how sure their differences are.

    They must be of the same pairs, of all pairs of the same images, or of the same probes in the
    same gallery. Differences are to
    the first one named, on the same resampled people for all.

    Parameters
    ----------
    baseline
        A file that centerarc evaluate --json wrote, with the file of scores next to it. All others
        are compared with this one.
    other
        Another such file, of the same pairs or probes.
    more
        Further ones.
    report
        Also write a page to this .html file.
    json
        Also write everything to this file.
    title
        Heading of the page.
    overwrite
        Replace the files of --json and --report if they are there.
    """
    from dataclasses import replace
    from json import dumps

    from centerarc.cli.tables import show_comparison
    from centerarc.evaluation.protocols.side_by_side import compare_files
    from centerarc.io.files import atomic_path
    from centerarc.report.comparison_page import write_comparison_page
    from centerarc.report.rendering import require_report_extra

    given = locals() | {"overwrite": False}
    check_outputs(
        [("json", json), ("report", report)], (baseline, other, *more), overwrite=overwrite
    )
    if report is not None:
        require_report_extra()
    result = compare_files((baseline, other, *more))
    result = replace(result, command=spoken(compare, given))
    try:  # before anything is printed, which a closed pipe may end
        if json is not None:
            text = dumps(result.to_dict(), indent=2, allow_nan=False)
            with atomic_path(json) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        if report is not None:
            write_comparison_page(report, result, title=title)
    finally:
        show_comparison(result)

"""``centerarc evaluate``: how well a model tells people apart, by any of the protocols."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from centerarc.cli.models import ModelFlags

if TYPE_CHECKING:
    from centerarc.evaluation.protocols.subject import Subject

_Many = Parameter(consume_multiple=True, negative="")
_Flag = Parameter(negative="")


def evaluate(
    model: Path | None = None,
    /,
    *,
    pairs: Path | None = None,
    images: Path | None = None,
    folds: str = "",
    convention: Literal["exact", "grid"] | None = None,
    by: Annotated[tuple[str, ...], _Many] = (),
    far: Annotated[tuple[float, ...], _Many] = (),
    gallery: Path | None = None,
    probes: Path | None = None,
    distractors: Path | None = None,
    person_score: Literal["max", "mean"] | None = None,
    ranks: Annotated[tuple[int, ...], _Many] = (),
    fpir: Annotated[tuple[float, ...], _Many] = (),
    templates: Path | None = None,
    ijb: Path | None = None,
    weighting: Literal["plain", "norm", "detector", "norm+detector"] | None = None,
    mirror: Annotated[bool, _Flag] = False,
    resamples: Annotated[int | None, Parameter(show_default=lambda _: "1000")] = None,
    seed: int = 0,
    json: Path | None = None,
    report: Path | None = None,
    title: str = "",
    batch_size: int = 64,
    workers: Annotated[
        int | None, Parameter(show_default=lambda _: "one per core, at most 16")
    ] = None,
    device: str = "auto",
    flags: ModelFlags | None = None,
) -> None:
    """Measure how well a model tells people apart.

    On pairs of images (--pairs), on probes looked up in a gallery (--gallery, --probes), on
    templates of several images (--templates), or on IJB-B and IJB-C (--ijb).

    Parameters
    ----------
    model
        A run folder, a weights file, an ONNX file, a public checkpoint with --architecture, or a
        file of embeddings from centerarc embed. Not needed where gallery and probes are such files.
    pairs
        Pairs: LFW's pairs.txt, a .csv list, or a .bin set. With --templates, a .csv list of
        template_a, template_b and same.
    images
        Folder of the images. pairs.txt needs it; a .csv list has its own folder by default.
    folds
        Use these folds of the pairs only, e.g. 7,8.
    convention
        Thresholds of the k-fold accuracy: exact (default), or grid as arcface_torch has it.
    by
        Columns of the .csv list to break results down by; age also means age_a with age_b.
    far
        Further false accept rates, e.g. 1e-5.
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
        Ranks to report; 1 5 10 20 by default.
    fpir
        False positive identification rates to report; 0.1 0.01 0.001 by default.
    templates
        A .csv list of template and image, with media, identity, role and weight as needed.
    ijb
        Metadata folder of IJB-B or IJB-C; --images is then the folder of loose crops.
    weighting
        What images count in a template; plain by default.
    mirror
        Sum the features of each image and its mirror image.
    resamples
        Resamples of the people behind the intervals; 0 for no intervals.
    seed
        Of the resampling.
    json
        Also write everything to this file, and the scores beside it, for centerarc compare.
    report
        Also write a page to this .html file.
    title
        Heading of the page; the model's name by default.
    batch_size
        Images at once.
    workers
        Processes that read images; 0 reads in this one.
    device
        Where PyTorch computes: auto, cpu, cuda or mps. ONNX models run on the CPU.
    """
    from dataclasses import replace

    from centerarc.cli.command import spoken
    from centerarc.cli.progress import stages
    from centerarc.cli.results import show_evaluation
    from centerarc.evaluation.protocols import (
        Request,
        check_place,
        evaluate_request,
        write_evaluation,
    )
    from centerarc.evaluation.report import require_report_extra, write_evaluation_page

    given = dict(locals())
    if report is not None:
        require_report_extra()
    for path in (json, report):
        if path is not None:
            check_place(path)
    request = Request(
        pairs=pairs,
        images=images,
        folds=_folds(folds),
        convention=convention,
        by=by,
        far=far,
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
    subject = None
    if request.needs_model() or model is not None:
        subject = _subject(model, flags, mirror, batch_size, workers, device)
    with stages("images") as progress:
        result = evaluate_request(request, subject, progress=progress)
    result = replace(result, command=spoken(evaluate, given))
    show_evaluation(result)
    if json is not None:
        write_evaluation(json, result)
    if report is not None:
        write_evaluation_page(report, result, title=title)


def _subject(
    path: Path | None,
    flags: ModelFlags | None,
    mirror: bool,
    batch_size: int,
    workers: int | None,
    device: str,
) -> "Subject":
    from centerarc.cli.models import opened_model
    from centerarc.data.workers import workers_for_a_model
    from centerarc.evaluation.protocols import ModelSubject, is_embedding_file, opened_embeddings

    if path is None:
        raise ValueError("give a model, or a file of embeddings")
    if is_embedding_file(path):
        if mirror or (flags is not None and flags != ModelFlags()):
            raise ValueError(f"{str(path)!r} holds embeddings; flags of a model are not for it")
        return opened_embeddings(path)
    return ModelSubject(
        opened_model(path, flags, device),
        mirror=mirror,
        batch_size=batch_size,
        workers=workers_for_a_model() if workers is None else workers,
    )


def _folds(text: str) -> tuple[int, ...] | None:
    if not text:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"folds must be numbers with commas between, e.g. 7,8; got {text!r}"
        ) from None

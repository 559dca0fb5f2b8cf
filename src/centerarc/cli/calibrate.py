"""`centerarc gallery calibrate`: the threshold from which a face has a name."""

import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from centerarc.cli.flags import OUTPUT, by_flags, check_outputs, flag


@by_flags
def calibrate(
    gallery: str,
    /,
    *,
    fpir: float = 0.01,
    unsure: Annotated[bool, flag()] = False,
    fnir: float = 0.01,
    margin: Annotated[bool, flag()] = False,
    extrapolate: Annotated[bool, flag()] = False,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    report: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    json_: Annotated[Path | None, Parameter(name="--json", group=OUTPUT)] = None,
    overwrite: Annotated[bool, flag(OUTPUT)] = False,
) -> None:
    """Choose the threshold from which a face has a name, by the gallery's own photos.

    Each photo is compared with all others: once as one of its person, once as a stranger's, with
    the whole person left out. The threshold is kept in the gallery. Calibrate again when many
    people have come.

    A gallery with too few people for the wanted rate gets a threshold all the same, and the command
    says which rate so few people can vouch for.

    Parameters
    ----------
    gallery
        The gallery's file or URL.
    fpir
        Share of strangers' photos that may get a name.
    unsure
        Choose a second threshold, below which a face is a stranger's; between both it is unsure.
    fnir
        For --unsure: share of enrolled people's photos that may score below it.
    margin
        Also ask that the best person is ahead of the second, where that recognizes more.
    extrapolate
        Take the threshold from the distribution of the highest strangers' scores, for rates that
        the gallery is too small for.
    confidence
        Of every interval.
    resamples
        Resamples of people for the margin and the extrapolation.
    seed
        Of the resamples.
    report
        A page with the thresholds, what they promise, and the gallery's weak spots.
    json_
        A file with all numbers.
    overwrite
        Replace these files.
    """
    from rich.console import Console

    from centerarc.cli.tables import facts_table
    from centerarc.gallery import Gallery
    from centerarc.io.jobs import write_json
    from centerarc.report.gallery_page import rate_words, write_gallery_page
    from centerarc.report.numbers import small_percent
    from centerarc.report.rendering import require_report_extra

    check_outputs([("report", report), ("json", json_)], [gallery], overwrite=overwrite)
    if report is not None:
        require_report_extra(["plotly"])
    with closing(Gallery(gallery)) as opened:
        found = opened.calibrate(
            fpir,
            fnir=fnir,
            confidence=confidence,
            unsure=unsure,
            margin=margin,
            extrapolate=extrapolate,
            bootstrap=resamples,
            seed=seed,
        )
    if report is not None:
        write_gallery_page(report, found, name=opened.store.name)
    limits, chosen, measured = found.thresholds, found.chosen, found.found

    def said(rate: Any) -> str:
        if rate is None:
            return "not measurable: no one has two photos"
        value, low, high = rate_words(rate)
        return f"{value} ({low} to {high})"

    facts = {"people": f"{measured.people:,}", "photos": f"{measured.photos:,}"}
    facts["a name from a score of"] = f"{limits.accept:.3f}"
    if margin:
        rule = measured.margin_rule
        helps = rule is not None and rule.helps
        facts["ahead of the second"] = f"{limits.margin:.3f}" if helps else "does not help here"
    if chosen is not None:
        facts["strangers with a name"] = said(chosen.fpir)
        facts["enrolled without their name"] = said(chosen.fnir)
        facts["of these, with another name"] = said(chosen.wrong_person)
    elif (tail := measured.tail) is not None:
        facts["interval of this score"] = f"{tail.low:.3f} to {tail.high:.3f}"
        facts["fit of the tail"] = f"p = {tail.fit_p:.2f}" + (" (bad)" * (tail.fit_p < 0.05))
    print(f"calibrated {opened.store.place} for {small_percent(fpir)} of strangers")
    Console().print(facts_table(facts))
    if chosen is None:
        print("extrapolated beyond what was measured", file=sys.stderr)
    if measured.too_few is not None and chosen is not None:
        more = f"--fpir {measured.smallest_fpir:.2g} is the least that they vouch for"
        if measured.tail is not None:
            more += f", and --extrapolate would choose {measured.tail.threshold:.3f}"
        print(f"the threshold is kept, but {measured.too_few}: {more}", file=sys.stderr)
    weak = found.weak
    print(
        f"weak spots: {len(weak.misfits):,} photos that do not fit, {len(weak.thin):,} people with "
        f"one photo{'' if report else '; --report PAGE.html shows them'}"
    )
    if json_ is not None:
        weak_ids = weak.to_dict()
        write_json(json_, {"thresholds": asdict(limits), **measured.to_dict(), "weak": weak_ids})
    if report is not None:
        print(f"report: {report}")

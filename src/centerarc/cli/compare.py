"""``centerarc compare``: evaluations side by side, and how sure their differences are."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from centerarc.cli.command import by_flags, spoken


@by_flags
def compare(
    baseline: Path,
    other: Path,
    /,
    *more: Path,
    report: Path | None = None,
    json: Path | None = None,
    title: Annotated[str, Parameter(show_default=False)] = "",
) -> None:
    """Show two or more evaluations side by side, and how sure their differences are.

    They must be of the same pairs, or of the same probes in the same gallery. Differences are to
    the first one named, on the same resampled people for all.

    Parameters
    ----------
    baseline
        A file that centerarc evaluate --json wrote, with the scores that lie beside it. All others
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
    """
    from dataclasses import replace
    from json import dumps

    from centerarc.cli.flags import check_outputs
    from centerarc.cli.results import show_comparison
    from centerarc.data import atomic_path
    from centerarc.evaluation.protocols import compare_files
    from centerarc.evaluation.report import write_comparison_page

    given = dict(locals())
    check_outputs(json, report, (baseline, other, *more))
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

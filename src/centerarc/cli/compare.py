"""``centerarc compare``: evaluations side by side, and how sure their differences are."""

from pathlib import Path


def compare(
    *evaluations: Path,
    report: Path | None = None,
    json: Path | None = None,
    title: str = "",
) -> None:
    """Show two or more evaluations side by side, and how sure their differences are.

    They must be of the same pairs, or of the same probes in the same gallery. Differences are to
    the first one named, on the same resampled people for all.

    Parameters
    ----------
    evaluations
        Files that centerarc evaluate --json wrote, with the scores that lie beside them.
    report
        Also write a page to this .html file.
    json
        Also write everything to this file.
    title
        Heading of the page.
    """
    from dataclasses import replace
    from json import dumps

    from centerarc.cli.command import spoken
    from centerarc.cli.results import show_comparison
    from centerarc.data import atomic_path
    from centerarc.evaluation.protocols import check_place, compare_files
    from centerarc.evaluation.report import require_report_extra, write_comparison_page

    given = dict(locals())
    if report is not None:
        require_report_extra()
    for path in (json, report):
        if path is not None:
            check_place(path)
    result = replace(compare_files(evaluations), command=spoken(compare, given))
    show_comparison(result)
    if json is not None:
        text = dumps(result.to_dict(), indent=2, allow_nan=False)
        with atomic_path(json) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    if report is not None:
        write_comparison_page(report, result, title=title)

"""`centerarc data inspect`: what a source of images holds."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from centerarc.cli.flags import ListFlags, by_flags, flag

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from centerarc.curate.inspect import Overview


_PLOT_WIDTH = 100


@by_flags
def inspect(
    source: Path,
    /,
    *,
    report: Path | None = None,
    columns: ListFlags | None = None,
    workers: int | None = None,
    overwrite: Annotated[bool, flag()] = False,
) -> None:
    """Show what a set of images holds; reads headers only, decodes nothing.

    How many images each person has, how much of the data the people with most images hold,
    sizes, formats and color of the files, and what was left out when the source was opened.
    All goes to the terminal, and with --report to a page.

    Exit code: 0 done, 2 wrong input, 130 interrupted.

    Parameters
    ----------
    source
        A folder of <person>/<image>, a .rec file, .tar shards, or a .csv or .parquet list.
    report
        Also write a page with charts and sample images to this file (needs the extra report).
    workers
        Processes that read; 0 reads in this one. One for each core by default.
    overwrite
        Replace the page if it is there.
    """
    from rich.console import Console

    from centerarc.cli.flags import check_outputs, opened
    from centerarc.curate.inspect import inspect_source
    from centerarc.io.progress import counting
    from centerarc.report.dataset_pages import write_inspect_page
    from centerarc.report.rendering import require_report_extra

    check_outputs([("report", report)], [source], overwrite=overwrite)
    if report is not None:
        require_report_extra(["plotly"])
    faces = opened(source, columns=columns)
    with counting("reading headers", "images", len(faces)) as progress:
        overview = inspect_source(faces, workers=workers, progress=progress)
    _print(Console(), overview, str(source))
    if report is not None:
        write_inspect_page(report, faces, overview, name=source.resolve().name)
        print(f"report: {report}")


def _print(console: "Console", overview: "Overview", name: str) -> None:
    from centerarc.curate.inspect import tail_plot

    found = overview.statistics
    print(f"{name}: {found.images:,} images of {found.identities:,} identities\n")
    if found.minimum < found.maximum:  # else there is nothing to be seen
        print("images of each identity, the one with most at the left (both axes logarithmic)")
        try:
            "▁█│└─".encode(console.encoding or "ascii")
            unicode = True
        except (UnicodeEncodeError, LookupError):
            unicode = False
        width = max(min(console.width, _PLOT_WIDTH), 20)
        counts = overview.counts[overview.counts > 0]
        print(tail_plot(counts, width=width, unicode=unicode), end="\n\n")
    numbers = {
        "fewest": f"{found.minimum:,}",
        "median": f"{found.median:,g}",
        "mean": f"{found.mean:,.2f}",
        "most": f"{found.maximum:,}",
        **{f"{part:.0%} quantile": f"{value:,.4g}" for part, value in found.quantiles.items()},
        **{f"share of the top {part:.0%}": f"{share:.1%}" for part, share in found.heads.items()},
        "Gini coefficient": f"{found.gini:.3f}",
    }
    console.print(_table(("images of an identity", "value"), numbers.items()))
    groups = [
        (
            *(group, f"{people:,}", f"{people / found.identities:.1%}"),
            *(f"{images:,}", f"{images / found.images:.1%}"),
        )
        for group, people, images in found.groups
    ]
    columns = ("images", "identities", "share", "their images", "share")
    console.print(_table(columns, groups))
    console.print(_table(("files", "images"), _files(overview)))
    if overview.unreadable:
        place, reason = overview.unreadable[0]
        print(
            f"{len(overview.unreadable):,} images have no readable header, first {place}: {reason}"
        )
    if overview.left_out:
        first = {item.reason: item.place for item in reversed(overview.left_out)}
        reasons = Counter(item.reason for item in overview.left_out).most_common()
        rows = [(reason, f"{count:,}", first[reason]) for reason, count in reasons]
        table = _table(("left out when opened", "count", "first"), rows)
        table.columns[2].justify = "left"
        console.print(table)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(Text, row))  # not str: a path may hold what rich takes for markup
    return table


def _files(overview: "Overview") -> Iterator[tuple[str, str]]:
    from centerarc.report.dataset_pages import in_units

    sizes = overview.sizes.most_common()
    for (width, height), count in sizes[:5]:
        yield f"{width} x {height} pixels", f"{count:,}"
    if len(sizes) > 5:
        rest = sum(count for _, count in sizes[5:])
        yield f"{len(sizes) - 5:,} other sizes", f"{rest:,}"
        sides = sorted(min(size) for size in overview.sizes.elements())
        three = f"{sides[0]:,}, {sides[len(sides) // 2]:,}, {sides[-1]:,}"
        yield "shorter side: least, median, most", three
    for counter in (overview.formats, overview.colors):
        for name, count in counter.most_common():
            yield name, f"{count:,}"
    if len(overview.file_bytes):
        yield "all files", in_units(float(overview.file_bytes.sum()))
        yield "mean file", in_units(float(overview.file_bytes.mean()))

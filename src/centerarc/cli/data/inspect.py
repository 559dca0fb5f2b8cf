"""``centerarc data inspect``: what a source of images holds."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from centerarc.cli.flags import ListFlags

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from centerarc.curate.inspect import Overview


_PLOT_WIDTH = 100


def inspect(
    source: Path,
    /,
    *,
    report: Path | None = None,
    columns: ListFlags | None = None,
    workers: int | None = None,
) -> None:
    """Show what a set of images holds; reads headers only, decodes nothing.

    Parameters
    ----------
    source
        A folder of <person>/<image>, a .rec file, .tar shards, or a .csv or .parquet list.
    report
        Also write a page with charts and sample images to this file (needs the extra report).
    workers
        Processes that read; 0 reads in this one. One for each core by default.
    """
    from rich.console import Console

    from centerarc.cli.flags import opened
    from centerarc.cli.progress import counting
    from centerarc.curate.inspect import inspect_source
    from centerarc.report.dataset_pages import write_inspect_page
    from centerarc.report.rendering import require_report_extra

    if report is not None:
        require_report_extra(["plotly"])
    faces = opened(source, columns=columns)
    with counting("reading headers", "images", len(faces)) as progress:
        overview = inspect_source(faces, workers=workers, progress=progress)
    console = Console()
    _print(console, overview, str(source))
    if report is not None:
        write_inspect_page(report, faces, overview, name=source.resolve().name)
        console.print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)


def _print(console: "Console", overview: "Overview", name: str) -> None:
    from centerarc.curate.inspect import tail_plot

    found = overview.statistics
    say = _plain(console)
    say(f"{name}: {found.images:,} images of {found.identities:,} identities")
    say("")
    say("images of each identity, the one with most at the left (both axes logarithmic)")
    encoding = console.encoding or "ascii"
    unicode = _can_write(encoding, "▁█│└─")
    width = max(min(console.width, _PLOT_WIDTH), 20)
    say(tail_plot(overview.counts[overview.counts > 0], width=width, unicode=unicode))
    say("")
    console.print(_numbers(overview))
    console.print(_groups(overview))
    console.print(_files(overview))
    if overview.unreadable:
        place, reason = overview.unreadable[0]
        say(f"{len(overview.unreadable):,} images have no readable header, first {place}: {reason}")
    if overview.left_out:
        console.print(_left_out(overview))


def _plain(console: "Console") -> Callable[[str], None]:
    # Names may hold what rich takes for markup, and must not be broken.
    return lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)


def _can_write(encoding: str, text: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _new_table(*columns: str, title: str = "") -> "Table":
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _numbers(overview: "Overview") -> "Table":
    found = overview.statistics
    table = _new_table("images of an identity", "value")
    table.add_row("fewest", f"{found.minimum:,}")
    table.add_row("median", f"{found.median:,g}")
    table.add_row("mean", f"{found.mean:,.2f}")
    table.add_row("most", f"{found.maximum:,}")
    for quantile, value in found.quantiles.items():
        table.add_row(f"{quantile:.0%} quantile", f"{value:,.4g}")
    for part, share in found.heads.items():
        table.add_row(f"share of the top {part:.0%}", f"{share:.1%}")
    table.add_row("Gini coefficient", f"{found.gini:.3f}")
    return table


def _groups(overview: "Overview") -> "Table":
    found = overview.statistics
    table = _new_table("images", "identities", "share", "their images", "share")
    for name, identities, images in found.groups:
        table.add_row(
            name,
            f"{identities:,}",
            f"{identities / found.identities:.1%}",
            f"{images:,}",
            f"{images / found.images:.1%}",
        )
    return table


def _files(overview: "Overview") -> "Table":
    from rich.text import Text

    from centerarc.report.dataset_pages import in_units

    table = _new_table("files", "images")
    sizes = overview.sizes.most_common()
    for (width, height), count in sizes[:5]:
        table.add_row(f"{width} x {height} pixels", f"{count:,}")
    if len(sizes) > 5:
        rest = sum(count for _, count in sizes[5:])
        table.add_row(f"{len(sizes) - 5:,} other sizes", f"{rest:,}")
        sides = sorted(min(size) for size in overview.sizes.elements())
        table.add_row("shorter side: least, median, most", _three(sides))
    for counter in (overview.formats, overview.colours):
        for name, count in counter.most_common():
            table.add_row(Text(name), f"{count:,}")
    if len(overview.file_bytes):
        table.add_row("all files", in_units(float(overview.file_bytes.sum())))
        table.add_row("mean file", in_units(float(overview.file_bytes.mean())))
    return table


def _three(values: list[int]) -> str:
    return f"{values[0]:,}, {values[len(values) // 2]:,}, {values[-1]:,}"


def _left_out(overview: "Overview") -> "Table":
    from collections import Counter

    from rich.text import Text

    table = _new_table("left out when opened", "count", "first")
    table.columns[2].justify = "left"
    for kind, count in Counter(item.reason for item in overview.left_out).most_common():
        first = next(item for item in overview.left_out if item.reason == kind)
        table.add_row(Text(kind), f"{count:,}", Text(first.place))
    return table

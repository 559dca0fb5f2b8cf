"""Tables on a terminal: of work, evaluations and comparisons."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from centerarc.io.progress import duration

if TYPE_CHECKING:
    from centerarc.evaluation.groups import Breakdown
    from centerarc.evaluation.intervals import Estimate
    from centerarc.evaluation.protocols.judging import Evaluation, Verified
    from centerarc.evaluation.protocols.side_by_side import Comparison
    from centerarc.report.numbers import Row
    from centerarc.report.study_result import StudyResult
    from centerarc.training.study import PlannedRun

_NONE = "-"
_P_VALUE = "The p-value is how likely so large a gap is where there is none."


def facts_table(facts: Mapping[str, str]) -> Table:
    """A table of names and what belongs to them."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in facts.items():
        table.add_row(Text(name), Text(value))
    return table


def work_facts(left_out: Mapping[str, int], images: int, seconds: float) -> dict[str, str]:
    """What became of images that were worked through.

    Args:
        left_out: How many were left out, by reason.
        images: How many were worked on in this run.
        seconds: How long that took.
    """
    facts = {f"left out: {reason}": f"{count:,}" for reason, count in left_out.items()}
    facts["time"] = duration(seconds)
    if images:
        facts["images a second"] = f"{images / seconds:,.0f}"
    return facts


def show_evaluation(result: "Evaluation") -> None:
    """Prints every number of an evaluation."""
    from centerarc.report.numbers import (
        all_pairs_rows,
        search_rows,
        sentence,
        separability_rows,
        small_percent,
        verification_rows,
    )

    console = Console()
    for note in result.notes:
        _say(console, sentence(note))
    file = result.model.get("file", "embeddings")
    if result.verification is not None:
        pairs = result.verification
        title = f"{file}: {pairs.same.size:,} pairs of {result.dataset}"
        console.print(_rates(title, verification_rows(pairs.report)))
        _show_thresholds(console, pairs)
        for column, found in pairs.breakdowns.items():
            _show_breakdown(console, found, column)
        gaps = [gap for found in pairs.breakdowns.values() for gap in found.gaps.values()]
        if any(gap.doubt is not None for gap in gaps):
            _say(console, _P_VALUE)
        _say(console, f"{pairs.report.interval_method} {sentence(pairs.people_note)}")
    if result.identification is not None:
        report = result.identification.report
        console.print(_rates(f"{file}: {result.dataset}", search_rows(report)))
        _say(console, f"{report.convention} {report.interval_method}")
    if result.all_pairs is not None:
        every = result.all_pairs.report
        pairs_of = f"{every.num_genuine:,} genuine and {every.num_impostor:,} impostor pairs"
        title = f"{file}: {pairs_of} of {every.num_people:,} people, {result.dataset}"
        console.print(_rates(title, all_pairs_rows(every)))
        _say(console, f"{every.convention} {every.interval_method}")
    if result.separability is not None:
        of = f"{result.separability.num_images:,} images of {result.separability.num_people:,}"
        table = _table(
            f"Identities: {of} people; means of cosines",
            *("measure", "value", "95% interval", "5% to 95%", "of"),
        )
        for row in separability_rows(result.separability):
            if row.estimate.value is None:
                continue  # why is said below
            spread, note = row.spread, row.note.replace(" of ", "\n", 1)
            _add(table, row.name, *_value(row), spread, note)
        console.print(table)
        _say(
            console,
            "Compactness: an image and its person's other images. Separation: a person and the "
            "nearest other one, less is better. Margin: an image's compactness minus its cosine to "
            "the nearest other person. Nearest center: share of the images that are nearest to "
            "their own person. Own threshold: what each person needs; its spread is their standard "
            "deviation.",
        )
        if result.separability.too_few is not None:
            few = result.separability.too_few.sentence(small_percent)
            _say(console, f"There are no own thresholds: {few}.")
    if result.templates:
        _say(console, str(result.templates["convention"]))


def show_comparison(result: "Comparison") -> None:
    """Prints several evaluations side by side, and how sure their differences are."""
    from centerarc.report.numbers import compared_rows, equal_words

    console, rows = Console(), compared_rows(result)
    first, *others = result.names
    table = _table(f"{result.dataset}, compared with {first}", "measure", *result.names)
    for column in table.columns:
        column.no_wrap = False  # as many models as there are
    for row in rows:
        _add(table, row.label, *(_cell(row.words(one)) for one in row.estimates))
    console.print(table)
    for name in others:
        columns = ("difference,\npoints", "95% interval", "p-value")
        table = _table(f"{name} minus {first}", "measure", *columns)
        for row in rows:
            if name in row.differences:
                _add(table, row.label, *row.difference_words(name))
        if table.row_count:
            console.print(table)
    equal = equal_words(result)
    for text in equal.values():
        console.print(Text(text))
    if result.interval_method and len(equal) < len(others):
        _say(console, result.interval_method)
    if result.recipes:
        table = _table("Recipes differ", "setting", *result.names)
        for setting, values in result.recipes.items():
            _add(table, setting, *(_NONE if value is None else str(value) for value in values))
        console.print(table)
    for note in result.notes:
        _say(console, note)


def show_study_plan(runs: "Sequence[PlannedRun]") -> None:
    """Prints the runs of a study and what remains to be done for each."""
    table = _table(f"{len(runs)} runs", "arm", "seed", "state")
    for run in runs:
        _add(table, run.arm, str(run.seed), run.words)
    Console().print(table)


def show_study(result: "StudyResult") -> None:
    """Prints the tables of a study: the arms' means and their differences to the baseline."""
    from centerarc.report.study_result import is_rate

    console = Console()
    for judged in result.sets:
        facts = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in judged.facts.items())
        _say(console, f"{judged.name}: {facts}", style="bold")
        measures = dict.fromkeys(row.measure for row in result.rows if row.set == judged.name)
        for unit in ("%", "cosine"):  # apart, so that both fit a narrow terminal
            named = [one for one in measures if is_rate(one) == (unit == "%")]
            if named:
                console.print(_arms_table(result, judged.name, named, unit))
        if judged.intervals:
            _say(console, judged.intervals)
    which = f"{result.primary_measure} of {result.primary_set}"
    _say(console, f"* {which} is the measure that decides. Differences of rates are in points.")
    for arm in result.arms:
        if arm.chosen:
            found = ", ".join(f"{name} {_short(value)}" for name, value in arm.chosen.items())
            _say(console, f"{arm.name}: searches chose {found}.")
    for note in result.notes:
        _say(console, note)


def _arms_table(result: "StudyResult", judged: str, measures: Sequence[str], unit: str) -> Table:
    """Measures of a set, below each the arms with their means and differences."""
    from centerarc.report.study_result import value_words

    minus = f"minus\n{result.baseline}"
    # Cosines are wide, and how many seeds there are is said with the rates.
    seeds = unit == "%"
    columns = ("mean", "95% interval", minus, "95% interval", *(["seeds"] if seeds else []))
    table = _table("", f"{unit}, of", *columns)
    table.columns[0].overflow = "fold"
    for measure in measures:
        primary = (judged, measure) == (result.primary_set, result.primary_measure)
        table.add_row(Text(f"{measure} *" if primary else measure, style="bold"))
        rows = {row.arm: row for row in result.rows_of(judged, measure)}
        for arm in result.arms:
            row = rows.get(arm.name)
            cells = [_NONE, "", "", ""]
            if row is not None:
                # A mean is not negative, so a dash says "to" in less room.
                value, interval = _apart(value_words(measure, row.mean))
                cells = [value, interval.replace(" to ", "-"), "", ""]
                if row.difference is not None:
                    cells[2:] = _apart(value_words(measure, row.difference, "+"))
            if seeds:
                cells.append(f"{0 if row is None else row.seeds}/{len(result.seeds)}")
            _add(table, arm.name, *cells)
        table.add_section()
    return table


def _apart(words: str) -> tuple[str, str]:
    """A value and its interval, of `25.00 (20.00 to 30.00)`."""
    value, _, interval = words.partition(" (")
    return value, interval.rstrip(")")


def _short(value: object) -> str:
    """A setting as it was chosen; four digits say enough of a number."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(title: str, first: str, *numbers: str) -> Table:
    """A table whose columns are a name and numbers."""
    # Text, not str: a path may hold what rich takes for markup.
    table = Table(title=Text(title) if title else None, title_justify="left")
    table.add_column(Text(first), min_width=8)
    for name in numbers:
        table.add_column(Text(name), justify="right", no_wrap=True)
    return table


def _add(table: Table, *cells: str) -> None:
    # A no-break space is not in every terminal's encoding.
    table.add_row(*(Text(cell.replace("\u00a0", " ")) for cell in cells))


def _say(console: Console, text: str, style: str = "dim") -> None:
    """Prints what belongs to a table, below it."""
    for line in Text(text.replace("\u00a0", " ")).wrap(console, console.width):
        line.rstrip()  # of the blank at which it was broken
        console.print(line, style=style)


def _value(row: "Row") -> tuple[str, str]:
    value, interval = row.words
    if row.estimate.value is None:
        return _NONE, ""
    return value, f"{interval}%" if interval and not row.cosine else interval


def _rates(title: str, rows: Iterable["Row"]) -> Table:
    from centerarc.report.numbers import small_percent, thin_words

    table = _table(title, "measure", "value", "95% interval")
    table.add_column("note")
    for row in rows:
        few = row.estimate.too_few
        note = "; ".join(filter(None, (row.note, thin_words(row.estimate).rstrip("."))))
        note = note if few is None else few.sentence(small_percent)
        _add(table, row.name, *_value(row), note)
    return table


def _rate(estimate: "Estimate") -> str:
    """A rate with its interval below."""
    from centerarc.report.numbers import rate_words

    return _NONE if estimate.value is None else _cell(rate_words(estimate))


def _cell(words: tuple[str, str]) -> str:
    """A number with its interval below."""
    from centerarc.report.numbers import ABSENT

    value, interval = words
    return _NONE if value == ABSENT else "\n".join(filter(None, (value, interval)))


def _show_thresholds(console: Console, pairs: "Verified") -> None:
    from centerarc.report.numbers import threshold_rows

    rows = threshold_rows(pairs.report, pairs.held_out)
    held_out = ["held out"] if pairs.held_out else []
    columns = ("threshold", "95% interval", "FAR on new people", *held_out)
    table = _table("Thresholds", "wanted FAR", *columns)
    for row in rows:
        cells = (row.wanted, row.threshold, row.threshold_range, row.new_people)
        _add(table, *cells, *([row.held_out] if held_out else []))
    if rows:
        console.print(table)


def _show_breakdown(console: Console, found: "Breakdown", column: str) -> None:
    from centerarc.evaluation.protocols.judging import is_number
    from centerarc.report.numbers import interval_words, p_value_words

    groups = [(group, (group.accuracy, group.tar, group.far)) for group in found.groups.values()]
    short = []
    for group, rates in groups:
        few = next((rate.too_few for rate in rates if rate.too_few is not None), None)
        if few is not None:
            short.append(f"{group.name!r} {few}")
    if all(rate.value is None for _, rates in groups for rate in rates):
        hint = ""
        if all(is_number(side) for name in found.groups for side in name.split(" | ")):
            hint = f" Numbers can be cut into larger groups, e.g. --by {column}=20,40,60."
        _say(console, f"By {column}: no group can be judged. {_few(short, 1)}.{hint}")
        return
    table = _table(
        f"By {column}, at the threshold {found.threshold:.4f} of all",
        *(column, "accuracy", "TAR", "FAR", "genuine +\nimpostor"),
    )
    for group, rates in groups:
        pairs = f"{group.num_genuine:,} +\n{group.num_impostor:,}"
        _add(table, group.name or "(empty)", *map(_rate, rates), pairs)
    console.print(table)
    if short:
        _say(console, f"{_NONE}: {_few(short, 3)}.")
    if not found.gaps:
        return
    table = _table("", "measure", "worst", "best", "gap,\npoints", "95% interval", "p-value")
    table.columns[1].no_wrap = table.columns[2].no_wrap = False  # names of any length
    for measure, gap in found.gaps.items():
        name = measure if measure == "accuracy" else measure.upper()
        ends = (gap.worst or "(empty)", gap.best or "(empty)")
        interval, p_value = interval_words(gap.interval), p_value_words(gap.doubt)
        _add(table, name, *ends, f"{100 * gap.value:.2f}", interval, p_value)
    console.print(table)


def _few(reasons: list[str], shown: int) -> str:
    """The first reasons, and how many more there are."""
    more = [f"likewise {len(reasons) - shown} more"] if len(reasons) > shown else []
    return "; ".join([*reasons[:shown], *more])

"""Tables on a terminal: of settings, work, evaluations and comparisons."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from centerarc.io.progress import duration

if TYPE_CHECKING:
    from centerarc.evaluation.comparison import Difference
    from centerarc.evaluation.groups import Breakdown
    from centerarc.evaluation.identification import IdentificationReport
    from centerarc.evaluation.intervals import Estimate, Interval, TooFew
    from centerarc.evaluation.protocols.judging import Evaluation, Verified
    from centerarc.evaluation.protocols.side_by_side import Comparison
    from centerarc.evaluation.separability import Distribution, Separability
    from centerarc.evaluation.verification import VerificationReport


# Tables on a terminal, and rates as they stand in them.

NONE = "-"


def new_table(title: str, first: str, *numbers: str, note: bool = False) -> Table:
    """A table whose columns are a name, numbers, and perhaps a note."""
    # Text, not str: a path may hold what rich takes for markup.
    table = Table(title=Text(title) if title else None, title_justify="left")
    table.add_column(Text(first), min_width=8)
    for name in numbers:
        table.add_column(Text(name), justify="right", no_wrap=True)
    if note:
        table.add_column("note")
    return table


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


def add_estimate(table: Table, name: str, estimate: "Estimate", note: str = "") -> None:
    """A row with a rate and its interval."""
    value = NONE if estimate.value is None else percent(estimate.value)
    table.add_row(name, value, percents(estimate.interval), note)


def reason_words(too_few: "TooFew | None") -> str:
    """Why there is no value, with rates in per cent as all else; nothing where there is one."""
    return "" if too_few is None else too_few.sentence(small_rate)


def rate_with_interval(estimate: "Estimate") -> str:
    """A rate with its interval below."""
    if estimate.value is None:
        return NONE
    interval = low_to_high(estimate.interval)
    return percent(estimate.value) + (f"\n{interval}" if interval else "")


def percent(share: float) -> str:
    """A share with two digits."""
    return f"{100 * share:.2f} %"


def small_rate(rate: float) -> str:
    """A rate that may be tiny, in per cent."""
    from centerarc.report.numbers import small_percent

    return small_percent(rate).replace("\u00a0", " ")


def percents(interval: "Interval | None") -> str:
    """An interval of shares; empty where there is none."""
    return f"{low_to_high(interval)} %" if interval is not None else ""


def low_to_high(interval: "Interval | None", factor: float = 100, digits: int = 2) -> str:
    """Both ends of an interval; empty where there is none."""
    if interval is None:
        return ""
    return f"{factor * interval.low:.{digits}f} to {factor * interval.high:.{digits}f}"


def sentence(text: str) -> str:
    """A note as a sentence."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def say(console: Console, text: str) -> None:
    """Prints what belongs to a table, below it."""
    console.print(Text(text), style="dim", soft_wrap=False)


# Evaluations and comparisons as tables.

_DOUBT = (
    "Doubt: how often a resample gives no or the opposite difference, doubled; like a p-value, it "
    "is small where the difference is sure. It is never below 2 / (resamples + 1)."
)


def show_evaluation(result: "Evaluation") -> None:
    """Prints every number of an evaluation."""
    console = Console()
    for note in result.notes:
        say(console, sentence(note))
    file = result.model.get("file", "embeddings")
    if result.verification is not None:
        pairs = result.verification
        title = f"{file}: {pairs.same.size:,} pairs of {result.dataset}"
        console.print(_verification(pairs.report, title))
        thresholds = _thresholds(pairs)
        if thresholds is not None:
            console.print(thresholds)
        for column, found in pairs.breakdowns.items():
            _show_breakdown(console, found, column)
        gaps = [gap for found in pairs.breakdowns.values() for gap in found.gaps.values()]
        if any(gap.contrary_share is not None for gap in gaps):
            say(console, _DOUBT)
        say(console, f"{pairs.report.interval_method} {sentence(pairs.people_note)}")
    if result.identification is not None:
        report = result.identification.report
        console.print(_identification(report, f"{file}: {result.dataset}"))
        say(console, f"{report.convention} {report.interval_method}")
    if result.separability is not None:
        console.print(_separability(result.separability))
        say(
            console,
            "Compactness: an image and its person's other images. Separation: a person and the "
            "nearest other one, less is better. Margin: an image's compactness minus its cosine to "
            "the nearest other person. "
            "Own threshold: what each person needs. Nearest center: share of the images that are "
            "nearest to their own person.",
        )
        if result.separability.too_few is not None:
            say(console, sentence(reason_words(result.separability.too_few)))
    if result.templates:
        say(console, str(result.templates["convention"]))


def show_comparison(result: "Comparison") -> None:
    """Prints several evaluations side by side, and how sure their differences are."""
    console = Console()
    table = new_table(
        f"{result.dataset}, compared with {result.names[0]}", "measure", *result.names
    )
    for column in table.columns:
        column.no_wrap = False  # as many models as there are
    for name, estimates in result.named_rates(small_rate):
        table.add_row(name, *(rate_with_interval(estimate) for estimate in estimates))
    console.print(table)
    for name in result.names[1:]:
        differences = result.named_differences(name, small_rate)
        if not differences:
            continue
        table = new_table(
            f"{name} minus {result.names[0]}",
            "measure",
            "difference,\npoints",
            "95 % interval",
            "doubt",
        )
        for rate, difference in differences:
            _add_difference(table, rate, difference)
        console.print(table)
    if result.interval_method:
        say(console, f"{result.interval_method} {_DOUBT}")
    for note in result.notes:
        say(console, note)


def _verification(report: "VerificationReport", title: str) -> Table:
    table = new_table(title, "measure", "value", "95 % interval", note=True)
    pairs = report.num_genuine + report.num_impostor
    frequent = max(report.num_genuine, report.num_impostor) / pairs
    threshold = f"threshold {report.threshold:.4f}"
    constant = f"always giving the more frequent answer: {percent(frequent)}"
    if report.fold_std is not None:
        spread = (
            f"{len(report.fold_accuracy)} folds, ± {100 * report.fold_std:.2f} points between them"
        )
        notes = [spread, f"mean {threshold}", constant]
        if report.convention != "exact":
            notes.insert(1, f"convention {report.convention}")
        add_estimate(table, "accuracy", report.accuracy, "; ".join(notes))
    else:
        note = f"{threshold}, chosen on these pairs: optimistic; {constant}"
        add_estimate(table, "best accuracy", report.accuracy, note)
    add_estimate(table, "AUC", report.auc)
    add_estimate(table, "EER", report.eer)
    for far, tar in report.tar_at_far.items():
        add_estimate(table, f"TAR at FAR {small_rate(far)}", tar, reason_words(tar.too_few))
    return table


def _thresholds(pairs: "Verified") -> Table | None:
    held_out = bool(pairs.held_out)
    columns = ["wanted FAR", "threshold", "95 % interval", "FAR on new people"]
    table = new_table("Thresholds", *columns, *(["held out"] if held_out else []))
    for far, found in pairs.report.calibrated.items():
        if found.threshold is None:
            continue
        expected = ""
        if found.far_interval is not None:
            low, high = found.far_interval.low, found.far_interval.high
            expected = f"{small_rate(low)} to {small_rate(high)}"
        row = [f"{found.threshold:.4f}", low_to_high(found.threshold_interval, 1, 4), expected]
        if held_out:
            tried = pairs.held_out.get(far)
            row.append(
                "" if tried is None or tried.far.value is None else small_rate(tried.far.value)
            )
        table.add_row(small_rate(far), *row)
    return table if table.row_count else None


def _show_breakdown(console: Console, found: "Breakdown", column: str) -> None:
    from centerarc.evaluation.protocols.judging import is_number

    groups = found.groups.values()
    short = [
        f"{group.name!r} {reason}"
        for group in groups
        for reason in [group.accuracy.reason or group.tar.reason or group.far.reason]
        if reason is not None
    ]
    measured = any(
        rate.value is not None
        for group in groups
        for rate in (group.accuracy, group.tar, group.far)
    )
    if not measured:
        hint = ""
        if all(is_number(side) for name in found.groups for side in name.split(" | ")):
            hint = f" Numbers can be cut into larger groups, e.g. --by {column}=20,40,60."
        say(console, f"By {column}: no group can be judged. {_few(short, 1)}.{hint}")
        return
    console.print(_breakdown(found, column))
    if short:
        say(console, f"{NONE}: {_few(short, 3)}.")
    if found.gaps:
        console.print(_gaps(found))


def _few(reasons: list[str], shown: int) -> str:
    """The first reasons, and how many more there are."""
    more = [f"likewise {len(reasons) - shown} more"] if len(reasons) > shown else []
    return "; ".join([*reasons[:shown], *more])


def _breakdown(found: "Breakdown", column: str) -> Table:
    table = new_table(
        f"By {column}, at the threshold {found.threshold:.4f} of all",
        *(column, "accuracy", "TAR", "FAR", "genuine +\nimpostor"),
    )
    for group in found.groups.values():
        rates = (rate_with_interval(rate) for rate in (group.accuracy, group.tar, group.far))
        pairs = f"{group.num_genuine:,} +\n{group.num_impostor:,}"
        table.add_row(Text(group.name or "(empty)"), *rates, pairs)
    return table


def _gaps(found: "Breakdown") -> Table:
    table = new_table("", "measure", "worst", "best", "gap,\npoints", "95 % interval", "doubt")
    table.columns[1].no_wrap = table.columns[2].no_wrap = False  # names of any length
    for measure, gap in found.gaps.items():
        share = "" if gap.contrary_share is None else f"{gap.contrary_share:.3f}"
        name = measure if measure == "accuracy" else measure.upper()
        worst, best = Text(gap.worst or "(empty)"), Text(gap.best or "(empty)")
        table.add_row(name, worst, best, f"{100 * gap.value:.2f}", low_to_high(gap.interval), share)
    return table


def _identification(report: "IdentificationReport", title: str) -> Table:
    table = new_table(title, "measure", "value", "95 % interval", note=True)
    people, distractors = report.gallery_people[0], report.distractors[0]
    note = f"{report.mated[0]:,} probes among {people:,} people"
    if distractors:
        note += f", {distractors:,} of them distractors"
    for rank, share in report.cmc.items():
        add_estimate(table, f"rank {rank}", share, note)
        note = ""
    note = f"; {report.nonmated[0]:,} probes of strangers"
    for fpir, share in report.tpir_at_fpir.items():
        thresholds = report.threshold_at_fpir[fpir]
        if thresholds is None:
            add_estimate(
                table, f"TPIR at FPIR {small_rate(fpir)}", share, reason_words(share.too_few)
            )
            continue
        at = " and ".join(f"{threshold:.4f}" for threshold in thresholds)
        add_estimate(table, f"TPIR at FPIR {small_rate(fpir)}", share, f"threshold {at}{note}")
        note = ""
    return table


def _separability(found: "Separability") -> Table:
    images, people = f"{found.num_images:,} images", f"{found.num_people:,} people"
    table = new_table(
        f"Identities: {images} of {people}; means of cosines",
        *("measure", "value", "95 % interval", "5 % to 95 %", "of"),
    )
    rows: list[tuple[str, Distribution | None]] = [
        ("compactness", found.compactness),
        ("separation", found.separation),
        ("margin", found.margin),
        (f"own threshold, FAR {small_rate(found.far)}", found.thresholds),
    ]
    for name, values in rows:
        if values is None:
            table.add_row(name, NONE, "", "", "")
            continue
        spread = f"{values.quantiles[0.05].value:.3f} to {values.quantiles[0.95].value:.3f}"
        interval = low_to_high(values.mean.interval, 1, 3)
        table.add_row(name, f"{values.mean.value:.3f}", interval, spread, _behind(values))
    nearest = found.nearest_center_accuracy
    assert nearest.value is not None  # there are images to count
    # Each image with a margin is one whose nearest center is known.
    rate, interval = percent(nearest.value), percents(nearest.interval)
    table.add_row("nearest center", rate, interval, "", _behind(found.margin))
    return table


def _behind(values: "Distribution") -> str:
    """Whose values they are: of people, or of images of people."""
    people = f"{values.num_people:,} people"
    if values.count == values.num_people:
        return people
    return f"{values.count:,} images\n{people}"


def _add_difference(table: Table, name: str, found: "Difference") -> None:
    assert found.value is not None  # those without one are left out
    share = "" if found.contrary_share is None else f"{found.contrary_share:.3f}"
    interval = found.interval
    shown = ""
    if interval is not None:
        shown = f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f}"
    table.add_row(name, f"{100 * found.value:+.2f}", shown, share)

"""Evaluations and comparisons as tables."""

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from centerarc.evaluation import Breakdown, Difference, Estimate, Interval, VerificationReport
    from centerarc.evaluation.identification.result import IdentificationReport
    from centerarc.evaluation.protocols import Comparison, Evaluation, Verified
    from centerarc.evaluation.separability.measure import Separability

_NONE = "-"


def show_evaluation(result: "Evaluation") -> None:
    """Prints every number of an evaluation."""
    console = Console()
    file = result.model.get("file", "embeddings")
    if result.verification is not None:
        pairs = result.verification
        title = f"{file}: {pairs.same.size:,} pairs of {result.dataset}"
        console.print(_verification(pairs.report, title))
        console.print(_thresholds(pairs))
        for column, found in pairs.breakdowns.items():
            console.print(_breakdown(found, column))
            console.print(_gaps(found))
        _say(console, f"{pairs.report.interval_method} {_sentence(pairs.people_note)}")
    if result.identification is not None:
        report = result.identification.report
        console.print(_identification(report, f"{file}: {result.dataset}"))
        _say(console, f"{report.convention} {report.interval_method}")
    if result.separability is not None:
        console.print(_separability(result.separability))
        _say(
            console,
            "Compactness: an image and its person's other images. Separation: a person and the "
            "nearest other one, less is better. Margin: the one minus the other, for each image. "
            "Own threshold: what each person needs. Nearest center: how often it is the own.",
        )
        if result.separability.threshold_reason is not None:
            _say(console, _sentence(result.separability.threshold_reason))
    if result.templates:
        _say(console, str(result.templates["convention"]))
    for note in result.notes:
        _say(console, note)


def show_comparison(result: "Comparison") -> None:
    """Prints several evaluations side by side, and how sure their differences are."""
    console = Console()
    table = _table(f"{result.dataset}, compared with {result.names[0]}", "measure", *result.names)
    for column in table.columns:
        column.no_wrap = False  # as many models as there are
    for name, estimates in result.named_rates():
        table.add_row(name, *(_lines(estimate) for estimate in estimates))
    console.print(table)
    for name in result.names[1:]:
        differences = result.named_differences(name)
        if not differences:
            continue
        table = _table(f"{name} minus {result.names[0]}", "measure", "difference", "95 % interval")
        table.add_column("contrary", justify="right")
        for rate, difference in differences:
            _add_difference(table, rate, difference)
        console.print(table)
    if result.interval_method:
        _say(
            console,
            f"{result.interval_method} Contrary: how often a resampled difference is not on the "
            "side of most, doubled; small is sure.",
        )
    for note in result.notes:
        _say(console, note)


def _verification(report: "VerificationReport", title: str) -> Table:
    table = _table(title, "measure", "value", "95 % interval", note=True)
    if report.fold_std is not None:
        note = f"{len(report.fold_accuracy)} folds, ± {100 * report.fold_std:.2f} between folds"
        if report.convention != "exact":
            note += f", convention {report.convention}"
        _add(table, "accuracy", report.accuracy, note)
    else:
        _add(table, "best accuracy", report.accuracy, "threshold chosen on these pairs: optimistic")
    _add(table, "AUC", report.auc)
    _add(table, "EER", report.eer)
    for far, tar in report.tar_at_far.items():
        _add(table, f"TAR at FAR {far:g}", tar, tar.reason or "")
    return table


def _thresholds(pairs: "Verified") -> Table:
    held_out = bool(pairs.held_out)
    columns = ["wanted FAR", "threshold", "95 % interval", "FAR on new people"]
    table = _table("Thresholds", *columns, *(["held out"] if held_out else []))
    for far, found in pairs.report.calibrated.items():
        if found.threshold is None:
            continue
        row = [
            f"{found.threshold:.4f}",
            _range(found.threshold_interval, 1, 4),
            _range(found.far_interval, 1, None),
        ]
        if held_out:
            tried = pairs.held_out.get(far)
            row.append("" if tried is None or tried.far.value is None else f"{tried.far.value:.3g}")
        table.add_row(f"{far:g}", *row)
    return table


def _breakdown(found: "Breakdown", column: str) -> Table:
    table = _table(
        f"By {column}, at the threshold {found.threshold:.4f} of all",
        *(column, "accuracy", "TAR", "FAR", "pairs"),
    )
    for group in found.groups.values():
        rates = (_lines(rate) for rate in (group.accuracy, group.tar, group.far))
        pairs = f"{group.num_genuine:,} + {group.num_impostor:,}"
        table.add_row(Text(group.name or "(empty)"), *rates, pairs)
    return table


def _gaps(found: "Breakdown") -> Table:
    table = _table("", "measure", "worst", "best", "gap", "95 % interval", "contrary")
    table.columns[1].no_wrap = table.columns[2].no_wrap = False  # names of any length
    for measure, gap in found.gaps.items():
        share = "" if gap.contrary_share is None else f"{gap.contrary_share:.3f}"
        name = measure if measure == "accuracy" else measure.upper()
        worst, best = Text(gap.worst or "(empty)"), Text(gap.best or "(empty)")
        table.add_row(name, worst, best, f"{100 * gap.value:.2f}", _range(gap.interval), share)
    return table


def _identification(report: "IdentificationReport", title: str) -> Table:
    table = _table(title, "measure", "value", "95 % interval", note=True)
    people, distractors = report.gallery_people[0], report.distractors[0]
    note = f"{report.mated[0]:,} probes among {people:,} people"
    if distractors:
        note += f", {distractors:,} of them distractors"
    for rank, share in report.cmc.items():
        _add(table, f"rank {rank}", share, note)
        note = ""
    note = f"{report.nonmated[0]:,} probes of strangers"
    for fpir, share in report.tpir_at_fpir.items():
        _add(table, f"TPIR at FPIR {fpir:g}", share, share.reason or note)
        note = ""
    return table


def _separability(found: "Separability") -> Table:
    images, people = f"{found.num_images:,} images", f"{found.num_people:,} people"
    table = _table(
        f"Identities: {images} of {people}, cosines",
        *("measure", "mean", "95 % interval", "5 % to 95 %"),
    )
    rows: list[tuple[str, Any]] = [
        ("compactness", found.compactness),
        ("separation", found.separation),
        ("margin", found.margin),
        (f"own threshold, FAR {found.far:g}", found.thresholds),
    ]
    for name, values in rows:
        if values is None:
            table.add_row(name, _NONE, "", "")
            continue
        spread = f"{values.quantiles[0.05].value:.3f} to {values.quantiles[0.95].value:.3f}"
        table.add_row(name, f"{values.mean.value:.3f}", _range(values.mean.interval, 1, 3), spread)
    nearest = found.nearest_center_accuracy
    assert nearest.value is not None  # there are images to count
    table.add_row("nearest center", f"{100 * nearest.value:.2f} %", _range(nearest.interval), "")
    return table


def _add_difference(table: Table, name: str, found: "Difference") -> None:
    assert found.value is not None  # those without one are left out
    share = "" if found.contrary_share is None else f"{found.contrary_share:.3f}"
    interval = found.interval
    shown = ""
    if interval is not None:
        shown = f"{100 * interval.low:+.2f} to {100 * interval.high:+.2f}"
    table.add_row(name, f"{100 * found.value:+.2f}", shown, share)


def _table(title: str, first: str, *numbers: str, note: bool = False) -> Table:
    # Text, not str: a path may hold what rich takes for markup.
    table = Table(title=Text(title) if title else None, title_justify="left")
    table.add_column(Text(first), min_width=8)
    for name in numbers:
        table.add_column(Text(name), justify="right", no_wrap=True)
    if note:
        table.add_column("note")
    return table


def _add(table: Table, name: str, estimate: "Estimate", note: str = "") -> None:
    value = _NONE if estimate.value is None else f"{100 * estimate.value:.2f} %"
    table.add_row(name, value, _range(estimate.interval), note)


def _lines(estimate: "Estimate") -> str:
    """A rate with its interval below."""
    if estimate.value is None:
        return _NONE
    interval = _range(estimate.interval)
    return f"{100 * estimate.value:.2f} %" + (f"\n{interval}" if interval else "")


def _range(interval: "Interval | None", factor: float = 100, digits: int | None = 2) -> str:
    if interval is None:
        return ""
    low, high = factor * interval.low, factor * interval.high
    if digits is None:
        return f"{low:.3g} to {high:.3g}"
    return f"{low:.{digits}f} to {high:.{digits}f}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _say(console: Console, text: str) -> None:
    console.print(Text(text), style="dim", soft_wrap=False)

"""The page of a study: what was asked, what holds, how sure that is, and how to repeat it."""

import json
import os
from collections.abc import Sequence
from typing import Any

import yaml

from centerarc.io.progress import duration
from centerarc.report.rendering import render, require_report_extra
from centerarc.report.study_charts import (
    curve_charts,
    forest_chart,
    judged_by,
    learning_charts,
    measure_words,
    rows_by_arm,
    seeds_chart,
    style_of,
    trials_chart,
)
from centerarc.report.study_result import (
    Measured,
    StudyResult,
    StudyRow,
    is_rate,
    less_is_better,
    value_words,
)


def write_study_page(path: str | os.PathLike[str], result: StudyResult) -> None:
    """Write one self-contained HTML page about a study.

    Args:
        path: the file to write.
        result: what the study found, finished or not.

    Raises:
        ImportError: the extra `report` is not installed.
        OSError: the file cannot be written.
    """
    require_report_extra(["plotly"])
    words = measure_words(result.primary_measure)
    curves, learning = curve_charts(result), learning_charts(result)
    single = [forest_chart(result, words), seeds_chart(result, words), trials_chart(result)]
    render(
        path,
        "study.html.j2",
        [*(one for one in single if one is not None), *curves.values(), *learning],
        title=result.title,
        result=result,
        asked=asked(result),
        verdicts=verdicts(result),
        measure=words,
        above="Points above" if is_rate(result.primary_measure) else "Above",
        primary=[_primary_row(result, row) for row in _primary(result)],
        others=_other_tables(result),
        several=sum(row.difference is not None for row in _primary(result)),
        curve_sets=[(name, one.key) for name, one in curves.items()],
        learning=[one.key for one in learning],
        arms=_arm_settings(result),
        colors={arm.name: style_of(result, arm.name)[0] for arm in result.arms},
        searches=_searches(result),
        undone=[run for run in result.runs if run.status != "done"],
        sets=[(one.name, _set_words(one.definition, one.facts)) for one in result.sets],
        intervals={one.intervals: None for one in result.sets if one.intervals},
        time=duration(sum(run.seconds for run in result.runs)),
        machine=", ".join(f"{name} {value}" for name, value in result.machine.items()),
        file=yaml.safe_dump(result.study, sort_keys=False, allow_unicode=True),
    )


def asked(result: StudyResult) -> str:
    """The question that the study answers, in a sentence."""
    others = [arm.name for arm in result.arms if arm.name != result.baseline]
    what = measure_words(result.primary_measure)
    which = (
        f"Does {_listed(others, 'or')} differ from {result.baseline}"
        if others
        else (f"What does {result.baseline} reach")
    )
    seeds = f"{len(result.seeds)} seed{'s' if len(result.seeds) != 1 else ''}"
    return f"{which} in {what} on {result.primary_set}? Each arm was trained with {seeds}."


def verdicts(result: StudyResult) -> list[str]:
    """What can be said of the arms against the baseline, in sentences."""
    rows = rows_by_arm(_primary(result))
    base, what = rows.get(result.baseline), measure_words(result.primary_measure)
    measure = result.primary_measure
    compared = [row for row in rows.values() if row.difference is not None]
    if not compared:
        if base is None or len(result.arms) > 1:
            return ["There are not enough runs yet to compare the arms."]
        unit = "%" if is_rate(measure) else ""
        value = value_words(measure, Measured(base.mean.value))
        return [f"{result.baseline} reaches {value}{unit} {what}."]
    groups: dict[str, list[StudyRow]] = {"better": [], "worse": [], "same": [], "unknown": []}
    for row in compared:
        groups[side_of(row) or ("same" if _has_interval(row) else "unknown")].append(row)
    found = []
    for side in ("better", "worse"):
        if groups[side]:
            higher = (side == "better") != less_is_better(measure)
            which = f", which is {side}" if less_is_better(measure) else ""
            start = f"{'Higher' if higher else 'Lower'} {what} than {result.baseline}{which}"
            found.append(f"{start}: {_listed([_difference_words(row) for row in groups[side]])}.")
    for kind, start in (
        ("same", f"Cannot be told apart from {result.baseline}"),
        ("unknown", "Too few runs to say how sure a difference is"),
    ):
        if groups[kind]:
            found.append(f"{start}: {_listed([_difference_words(row) for row in groups[kind]])}.")
    return found


def side_of(row: StudyRow) -> str:
    """`better` or `worse` than the baseline where the interval leaves out 0; else empty."""
    found = row.difference
    if found is None or found.low is None or found.high is None:
        return ""
    if found.low <= 0 <= found.high:
        return ""
    return "better" if (found.low > 0) != less_is_better(row.measure) else "worse"


def _primary(result: StudyResult) -> list[StudyRow]:
    return result.rows_of(result.primary_set, result.primary_measure)


def _has_interval(row: StudyRow) -> bool:
    return row.difference is not None and row.difference.low is not None


def _difference_words(row: StudyRow) -> str:
    """Such as `unified (+3.20 points, 95% interval +1.10 to +5.30)`."""
    assert row.difference is not None
    value, interval = _split(value_words(row.measure, row.difference, "+"))
    unit = " points" if is_rate(row.measure) else ""
    return f"{row.arm} ({value}{unit}{', 95% interval ' + interval if interval else ''})"


def _split(words: str) -> tuple[str, str]:
    """A value and its interval, from `value_words`."""
    value, _, interval = words.partition(" (")
    return value, interval.rstrip(")")


def _cells(measure: str, found: Measured | None, sign: str = "") -> tuple[str, str]:
    return ("", "") if found is None else _split(value_words(measure, found, sign))


def _primary_row(result: StudyResult, row: StudyRow) -> dict[str, Any]:
    """The cells of an arm in the table of the primary measure."""
    value, interval = _cells(row.measure, row.mean)
    difference, around = _cells(row.measure, row.difference, "+")
    unit = "%" if is_rate(row.measure) else ""
    return {
        "arm": row.arm,
        "value": f"{value}{unit}",
        "interval": interval,
        "difference": difference,
        "around": around,
        "side": side_of(row),
        "doubt": "" if row.doubt is None else _doubt_words(row.doubt),
        "seeds": f"{row.seeds} of {len(result.seeds)}",
    }


def _doubt_words(doubt: float) -> str:
    return "below 0.001" if doubt < 0.001 else f"{doubt:.3f}"


def _other_tables(result: StudyResult) -> list[dict[str, Any]]:
    """For each set: its measures, and of each arm the value, its interval and its side."""
    tables = []
    for one in result.sets:
        measures = dict.fromkeys(row.measure for row in result.rows if row.set == one.name)
        rows = []
        for measure in measures:
            of = rows_by_arm(result.rows_of(one.name, measure))
            cells = []
            for arm in result.arms:
                row = of.get(arm.name)
                if row is None:
                    cells.append({"value": "", "interval": "", "side": ""})
                    continue
                value, interval = _cells(measure, row.mean)
                cells.append({"value": value, "interval": interval, "side": side_of(row)})
            unit = ", %" if is_rate(measure) else ", cosine"
            less = " (less is better)" if less_is_better(measure) else ""
            rows.append((f"{measure_words(measure)}{unit}{less}", cells))
        tables.append({"name": one.name, "rows": rows})
    return tables


def _arm_settings(result: StudyResult) -> list[dict[str, Any]]:
    """What each arm changes, and what was chosen for it, in words."""
    return [
        {
            "name": arm.name,
            "settings": _settings_words(arm.settings) or "the common configuration",
            "chosen": _settings_words(arm.chosen),
        }
        for arm in result.arms
    ]


def _settings_words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_value_words(value)}" for name, value in settings.items())


def _value_words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _searches(result: StudyResult) -> list[dict[str, Any]]:
    """What was searched for each arm, how it went, and what was chosen."""
    found = []
    for arm in result.arms:
        search = (result.tuning or {}).get(arm.name)
        if search is None:
            continue
        trials = search["trials"]
        done = [one for one in trials if one["value"] is not None]
        best = max((one["value"] for one in done), default=None)
        given = [one["value"] for one in done if one["settings"] == search.get("given")]
        found.append(
            {
                "arm": arm.name,
                "searched": "; ".join(f"{name}: {s}" for name, s in search["search"].items()),
                "trials": len(trials),
                "failed": len(trials) - len(done),
                "best": "" if best is None else f"{100 * best:.2f}%",
                "given": f"{100 * given[0]:.2f}%" if given else "",
                "chosen": _settings_words(arm.chosen) or "nothing yet",
                "measure": judged_by(search["measure"]),
                "hours": duration(search["seconds"]),
            }
        )
    return found


def _set_words(definition: dict[str, Any], facts: dict[str, int]) -> str:
    """What a set is, in words."""
    numbers = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in facts.items())
    where = ", ".join(f"{name} {_value_words(value)}" for name, value in definition.items())
    return f"{numbers}. Defined by {where}."


def _listed(parts: Sequence[str], word: str = "and") -> str:
    return f"{', '.join(parts[:-1])} {word} {parts[-1]}" if len(parts) > 1 else "".join(parts)

"""The page of a study: what was asked, what holds, how sure that is, and how to repeat it."""

import json
import os
import re
from collections.abc import Sequence
from typing import Any

from centerarc.io.progress import duration
from centerarc.io.yaml_file import dump_yaml
from centerarc.report.numbers import p_value_words
from centerarc.report.rendering import render, require_report_extra
from centerarc.report.study_charts import (
    curve_charts,
    forest_chart,
    judged_by,
    learning_charts,
    legend,
    measure_meaning,
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
    single = [forest_chart(result), seeds_chart(result, words), trials_chart(result)]
    searches = _searches(result)
    render(
        path,
        "study.html.j2",
        [*(one for one in single if one is not None), *curves.values(), *learning],
        title=result.title,
        result=result,
        asked=asked(result),
        verdicts=verdicts(result),
        measure=words,
        meaning=measure_meaning(result.primary_measure),
        unit="points" if is_rate(result.primary_measure) else "cosine",
        primary=[_primary_row(result, row) for row in _primary(result)],
        others=_other_tables(result),
        several=sum(row.difference is not None for row in _primary(result)) > 1,
        curve_sets=[(name, one.key) for name, one in curves.items()],
        learning=[one.key for one in learning],
        arms=_arm_settings(result),
        colors={arm.name: style_of(result, arm.name)[0] for arm in result.arms},
        legends={
            "arms": legend(result, [arm.name for arm in result.arms]),
            "tuned": legend(result, [one["arm"] for one in searches]),
        },
        searches=searches,
        tuned_on=_tuned_on(result) if searches else {},
        failed=[run for run in result.runs if run.status not in ("done", "waiting")],
        waiting=_waiting(result),
        sets=[(one.name, _set_words(one.definition, one.facts)) for one in result.sets],
        might=_might_move(result),
        thin=[row.arm for row in _primary(result) if row.pairs == 1 and _has_interval(row)],
        intervals=_intervals(result),
        time=duration(sum(run.seconds for run in result.runs)),
        machine=", ".join(f"{name} {value}" for name, value in result.machine.items()),
        file=dump_yaml(result.study),
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
    return f"{which} in {what} on {result.primary_set}? Each arm is trained with {seeds}."


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
            found.append(f"{start}: {_gains(groups[side])}.")
    if groups["same"]:
        found.append(
            f"Cannot be told apart from {result.baseline}, as the 95% interval of the difference "
            f"contains 0: {_gains(groups['same'])}."
        )
    if groups["unknown"]:
        start = "Too few runs to say how sure a difference is"
        found.append(f"{start}: {_gains(groups['unknown'])}.")
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


def _gains(rows: Sequence[StudyRow]) -> str:
    """Such as `unified +3.20 points and mean +1.10`, the largest first."""
    measure = rows[0].measure
    by_size = sorted(rows, key=lambda row: -abs(row.difference.value if row.difference else 0.0))
    parts: list[str] = []
    for row in by_size:
        assert row.difference is not None
        gained = minus(value_words(measure, Measured(row.difference.value), "+"))
        unit = " points" if is_rate(measure) and not parts else ""
        parts.append(f"{row.arm} {gained}{unit}")
    return _listed(parts)


def minus(words: str) -> str:
    """Numbers in words with a sign as wide as a plus."""
    return re.sub(r"(?<!\w)-(?=\d)", "\u2212", words)


def _split(words: str) -> tuple[str, str]:
    """A value and its interval, from `value_words`."""
    value, _, interval = minus(words).partition(" (")
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
        "baseline": row.arm == result.baseline,
        "p_value": p_value_words(row.doubt),
        "seeds": f"{row.seeds} of {len(result.seeds)}",
    }


def _other_tables(result: StudyResult) -> list[dict[str, Any]]:
    """For each set: its measures with their units, and of each arm value, interval and side."""
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
                # None of these is negative, so a dash says "to" in less room.
                interval = interval.replace(" to ", "\u2013")
                cells.append({"value": value, "interval": interval, "side": side_of(row)})
            unit = "percent" if is_rate(measure) else "cosine"
            less = ", less is better" if less_is_better(measure) else ""
            rows.append((measure_words(measure), f"{unit}{less}", cells))
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
                "searched": "; ".join(f"{name} {s}" for name, s in search["search"].items()),
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


def _waiting(result: StudyResult) -> dict[str, str]:
    """The seeds that are not run yet, by arm."""
    found: dict[str, list[str]] = {}
    for run in result.runs:
        if run.status == "waiting":
            found.setdefault(run.arm, []).append(str(run.seed))
    return {
        arm: f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
        for arm, seeds in found.items()
    }


def _might_move(result: StudyResult) -> str:
    """What the intervals of the primary measure are over."""
    kinds = [one.kind for one in result.sets if one.name == result.primary_set]
    over_people = ["other people"] if "all_pairs" in kinds else []
    over_seeds = ["other seeds"] if len(result.seeds) > 1 else []
    return _listed([*over_people, *over_seeds])


def _tuned_on(result: StudyResult) -> dict[str, str]:
    """The sets that judged the trials, by name, in words."""
    judged = ((result.study.get("tune") or {}).get("evaluate") or {}).get("sets") or {}
    return {
        name: ", ".join(f"{key} {_value_words(value)}" for key, value in one.items())
        for name, one in judged.items()
    }


def _intervals(result: StudyResult) -> dict[str, str]:
    """How the intervals were made, and the sets that this is true of."""
    found: dict[str, list[str]] = {}
    for one in result.sets:
        if one.intervals:
            found.setdefault(one.intervals, []).append(one.name)
    return {text: _listed(names) for text, names in found.items()}


def _set_words(definition: dict[str, Any], facts: dict[str, int]) -> str:
    """What a set is, in words."""
    numbers = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in facts.items())
    where = ", ".join(f"{name} {_value_words(value)}" for name, value in definition.items())
    return f"{numbers}. Defined by {where}."


def _listed(parts: Sequence[str], word: str = "and") -> str:
    return f"{', '.join(parts[:-1])} {word} {parts[-1]}" if len(parts) > 1 else "".join(parts)

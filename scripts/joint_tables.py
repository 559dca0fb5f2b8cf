"""The tables of docs/results/joint.md, from the results of its studies.

    python -m scripts.joint_tables runs docs/results/joint.md

Reads `runs/joint/study.json`, `runs/joint-longer/study.json` and those of the conditions, as far as
they are there.
"""

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.common.machine import machine_facts, machine_words
from benchmarks.common.page import markdown_table, write_regions

Study = dict[str, Any]
WORDS = {
    "softmax": "softmax",
    "arcface": "ArcFace",
    "shared": "+ pull to the prototype",
    "separate": "+ center loss (paper, raw)",
    "mean": "+ mean centers, negatives",
    "threshold": "+ unified threshold",
    "mean-threshold": "+ both of these",
}
MEASURES = {
    "tar@0.001": "TAR at FAR 0.1%",
    "tar@0.01": "TAR at FAR 1%",
    "tar@0.0001": "TAR at FAR 0.01%",
    "auc": "AUC",
    "tpir@0.01": "TPIR at FPIR 1%",
    "threshold_spread": "spread of thresholds (cosine x 100)",
    "accuracy": "accuracy",
}
SETTINGS = {
    "loss.s": "s",
    "loss.m": "m",
    "loss.center_weight": "center weight",
    "loss.threshold_weight": "threshold weight",
}
CONDITIONS = {
    "images2": "2 images of each person, 990 in all",
    "images3": "3 images of each person, 990 in all",
    "images5": "5 images of each person, 990 in all",
    "wrong10": "10% wrong labels",
    "epochs32": "32 epochs, settings as for 8",
    "larger": "`iresnet18` at 64 x 64, 12 epochs",
}


def row_of(study: Study, name: str, measure: str, arm: str) -> dict[str, Any] | None:
    """What a study says of one measure of an arm; None if nothing was measured."""
    rows = (
        row
        for row in study["rows"]
        if (row["set"], row["measure"], row["arm"]) == (name, measure, arm)
    )
    row = next(rows, None)
    return None if row is None or row["mean"] is None else row


def spread(part: dict[str, Any], sign: str = "") -> str:
    """A value in percent or points, and its interval."""
    shown = f"{100 * part['value']:{sign}.1f}"
    if part.get("low") is None:
        return shown
    return f"{shown} ({100 * part['low']:{sign}.1f} to {100 * part['high']:{sign}.1f})"


def arms_of(study: Study) -> list[str]:
    """Names of the arms, in their order."""
    return [arm["name"] for arm in study["arms"]]


def main_table(study: Study, name: str, measure: str) -> str:
    """An arm a line: mean over seeds, difference to ArcFace, and what each seed found."""
    rows = []
    for arm in arms_of(study):
        row = row_of(study, name, measure, arm)
        if row is None:
            continue
        change = "" if row["difference"] is None else f"**{spread(row['difference'], '+')}**"
        seeds = ", ".join(f"{100 * value:.1f}" for value in row["by_seed"].values())
        rows.append([WORDS[arm], spread(row["mean"]), change, seeds])
    heads = ["arm", f"{MEASURES[measure]}, %", "minus ArcFace, points", "each seed"]
    return markdown_table(heads, rows)


def differences_table(study: Study, name: str, measures: list[str]) -> str:
    """An arm a line, a measure a column: the difference to ArcFace."""
    rows = []
    for arm in arms_of(study):
        found = [row_of(study, name, measure, arm) for measure in measures]
        cells = [
            ""
            if row is None
            else spread(row["mean"])
            if row["difference"] is None
            else spread(row["difference"], "+")
            for row in found
        ]
        rows.append([WORDS[arm], *cells])
    return markdown_table(["arm", *(MEASURES[measure] for measure in measures)], rows)


def tuning_table(study: Study) -> str:
    """What was chosen for each arm, and how good its trials were."""
    rows = []
    for arm, tuning in study["tuning"].items():
        values = [100 * t["value"] for t in tuning["trials"] if t["value"] is not None]
        chosen = tuning["chosen"]
        cells = [f"{chosen[name]:.3g}" if name in chosen else "" for name in SETTINGS]
        trials = f"{min(values):.1f} to {max(values):.1f}"
        rows.append([WORDS[arm], *cells, trials])
    return markdown_table(["arm", *SETTINGS.values(), "its trials, TAR at FAR 0.1%, %"], rows)


def conditions_table(studies: dict[str, Study]) -> str:
    """A condition and an arm a line: ArcFace, the arm, and their difference."""
    rows = []
    for name, words in CONDITIONS.items():
        for arm in arms_of(studies[name]) if name in studies else ():
            alone = row_of(studies[name], "all_pairs", "tar@0.001", "arcface")
            row = row_of(studies[name], "all_pairs", "tar@0.001", arm)
            if alone is None or row is None or row["difference"] is None:
                continue
            values = [spread(alone["mean"]), spread(row["mean"])]
            change = f"**{spread(row['difference'], '+')}**"
            rows.append([words, str(len(row["by_seed"])), values[0], WORDS[arm], values[1], change])
    heads = ["condition", "seeds", "ArcFace, %", "arm", "its TAR, %", "difference, points"]
    return markdown_table(heads, rows)


def forms_table(study: Study) -> str:
    """The forms on fold 6."""
    rows = []
    for arm in arms_of(study):
        row = row_of(study, "all_pairs", "tar@0.001", arm)
        if row is not None:
            change = "" if row["difference"] is None else spread(row["difference"], "+")
            rows.append([f"`{arm}`", f"{100 * row['mean']['value']:.1f}", change])
    heads = ["form", "TAR at FAR 0.1%, %", "minus the first, points"]
    return markdown_table(heads, rows)


def caption(study: Study) -> str:
    """How to repeat it, and on what it ran."""
    run = next(run for run in study["runs"] if run["status"] == "done")
    facts = {"machine": machine_facts(), "torch": run["facts"]["torch"]}
    facts["threads"] = run["facts"]["threads"]
    return f"`{study['command']}`. {machine_words(facts)}"


def study_tables(study: Study, prefix: str = "") -> dict[str, str]:
    """The tables of a study whose settings were searched, by the names of their regions."""
    tables = {
        "primary": main_table(study, "clean", "tar@0.001"),
        "secondary": differences_table(
            study, "clean", ["tar@0.01", "tar@0.0001", "auc", "tpir@0.01", "threshold_spread"]
        ),
        "degraded": differences_table(study, "degraded", ["tar@0.001", "tar@0.01", "auc"]),
        "official": main_table(study, "official", "accuracy"),
        "tuning": tuning_table(study),
    }
    return {prefix + name: f"{body}\n\n{caption(study)}" for name, body in tables.items()}


def main(runs: Path, page: Path) -> None:
    """Rewrite the tables of the page that there are results for."""
    studies = {}
    for name in ("", "longer", *CONDITIONS, "forms"):
        path = runs / f"joint-{name}".rstrip("-") / "study.json"
        if path.exists():
            studies[name] = json.loads(path.read_text())
    regions = {}
    if "" in studies:
        regions |= study_tables(studies[""])
    if "longer" in studies:
        regions |= study_tables(studies["longer"], "longer-")
    if any(name in CONDITIONS for name in studies):
        regions["conditions"] = conditions_table(studies)
    if "forms" in studies:
        regions["forms"] = f"{forms_table(studies['forms'])}\n\n{caption(studies['forms'])}"
    write_regions(regions, page)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

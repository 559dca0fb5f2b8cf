"""YAML files from the tables of the tests: each has the value that is written, or is refused."""

import json
from collections.abc import Callable
from typing import Any

from benchmarks.faults.runs import (
    LOST,
    SAID,
    SURVIVED,
    UNCLEAR,
    Fault,
    Lab,
    Outcome,
)
from tests.io import test_yaml_file as yaml
from tests.training import test_settings_file as settings

KIND = "YAML files"
_BASE = settings.BASE.encode()


def faults(seed: int, amount: int | None = None) -> list[Fault]:
    """Each file of the tables, or so many, evenly spread."""
    every = [_value(written, value) for written, value in yaml.VALUES]
    every += [_wrong(_bytes(written)) for written, *_ in yaml.ERRORS]
    for extra, field, value in settings.VALUES:
        content = _BASE + extra.encode()
        every.append(_wrong(content) if field == "error" else _holds(content, field, value))
    every += [_wrong(_BASE + extra.encode()) for extra, *_ in settings.ERRORS]
    if amount is None:
        return every
    return [every[number * len(every) // amount] for number in range(amount)]


def _bytes(written: str | bytes) -> bytes:
    return written.encode() if isinstance(written, str) else written


def _value(written: str, value: Any) -> Fault:
    """A value stands where any value may: in the options of a backbone."""
    lines = written.replace("\n", "\n    ")
    return _holds(
        _BASE + f"model:\n  options:\n    a: {lines}\n".encode(), "model.options.a", value
    )


def _holds(content: bytes, field: str, value: Any) -> Fault:
    def judge(said: dict[str, Any]) -> Outcome:
        if "value" not in said:
            return Outcome(UNCLEAR, said.get("error") or said["broken"])
        found: Any = said["value"]
        for part in field.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        same = found == value and type(found) is type(value)
        return Outcome(SURVIVED if same else LOST, f"{value!r} was read as {found!r}")

    return _fault(content, judge, "a value")


def _wrong(content: bytes) -> Fault:
    def judge(said: dict[str, Any]) -> Outcome:
        if "value" in said:
            return Outcome(LOST, f"read: {content[-60:]!r}")
        error = said.get("error", "")
        clear = error and "\n" not in error and "config.yaml" in error
        return Outcome(SAID if clear else UNCLEAR, error or said["broken"])

    return _fault(content, judge, "a mistake")


def _fault(content: bytes, judge: Callable[[dict[str, Any]], Outcome], name: str) -> Fault:
    def act(lab: Lab) -> Outcome:
        lab.fresh()
        lab.config.write_bytes(content)
        ended = lab.read_settings()
        if not ended.codes:
            return Outcome(LOST, "hung")
        try:
            return judge(json.loads(ended.said.strip().splitlines()[-1]))
        except (ValueError, IndexError):
            return Outcome(UNCLEAR, ended.said)

    return Fault(KIND, name, act)

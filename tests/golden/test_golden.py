"""The numbers of short trainings stay as they were recorded, whatever is done to the code.

They are equal to the last bit where the same kernels compute, elsewhere up to rounding. If numbers
were meant to change, `scripts/golden.py` records them.
"""

import warnings

import pytest

from tests.distributed.pool import Pool
from tests.golden import record
from tests.golden.record import Numbers
from tests.golden.runs import STEPS, all_runs, make_runs


@pytest.mark.slow
@pytest.mark.distributed
def test_numbers_stay(pool: Pool) -> None:
    recorded = record.read()
    runs = all_runs()
    assert runs.keys() == recorded["runs"].keys(), "record the runs with scripts/golden.py"
    elsewhere = record.other_environment(record.environment(), recorded["environment"])
    if elsewhere:
        warnings.warn(f"golden runs are compared up to rounding: {elsewhere}", stacklevel=1)
    numbers = make_runs(pool)
    complaints = []
    for name, run in runs.items():
        old = Numbers.from_json(recorded["runs"][name])
        tolerance = record.TOLERANCES[run.tolerance]
        off = record.drifts(numbers[name], old)
        lines = record.differences(numbers[name], old)
        if elsewhere:
            lines = [
                f"{what}: off by {share:.1e}, allowed {tolerance:g}"
                for what, share in sorted(off.items())
                if not share <= tolerance
            ]
        if lines:
            center = ", default center term" if run.uses_default_center_term else ""
            most = max(off.values())
            kind = "may be rounding" if most <= tolerance else "more than rounding"
            complaints.append(f"{name} (off by {most:.1e}, {kind}{center})")
            complaints += [f"    {line}" for line in lines]
    assert not complaints, "\n".join(["numbers have changed:", *complaints])


def numbers(**changes: float) -> Numbers:
    made = Numbers()
    for step in range(STEPS):
        made.add("arcface", 30.0 - step)
    for step, value in changes.items():
        made.steps["arcface"][int(step.removeprefix("step"))] = value
    return made


def test_the_last_bit_counts() -> None:
    old = Numbers.from_json(numbers().to_json())
    assert record.differences(numbers(), old) == []
    (line,) = record.differences(numbers(step3=27.000002), old)
    assert line == "arcface: from step 4, 27.000002, recorded 27.0"
    assert record.drifts(numbers(step3=27.27), old) == {"arcface": pytest.approx(0.01)}


def test_what_is_missing_or_not_finite_is_a_difference() -> None:
    old = numbers()
    for new in (Numbers(), numbers(step0=float("nan"))):
        assert record.differences(new, old)
        assert not max(record.drifts(new, old).values()) <= 1.0

import itertools
import math

import pytest

from centerarc.training.config import ScheduleConfig
from centerarc.training.optimizer import lr_factor


def _factors(schedule: ScheduleConfig, steps_per_epoch: int) -> list[float]:
    total = schedule.epochs * steps_per_epoch
    return [lr_factor(step, total, steps_per_epoch, schedule) for step in range(total + 1)]


def test_warmup_starts_at_one_part_not_at_full_nor_at_zero() -> None:
    factors = _factors(ScheduleConfig(epochs=10, warmup_epochs=2), 5)
    assert factors[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert max(factors) == 1.0


def test_warmup_of_part_of_an_epoch() -> None:
    factors = _factors(ScheduleConfig(epochs=4, warmup_epochs=0.5), 8)
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]


def test_no_warmup_starts_at_full() -> None:
    assert _factors(ScheduleConfig(epochs=2, warmup_epochs=0), 5)[0] == 1.0


@pytest.mark.parametrize("shape", ["polynomial", "cosine"])
def test_falls_to_zero_just_after_the_last_step(shape: str) -> None:
    factors = _factors(ScheduleConfig(epochs=5, warmup_epochs=1, shape=shape), 4)
    fall = factors[4:]
    assert all(a > b for a, b in itertools.pairwise(fall))
    assert factors[-2] > 0
    assert factors[-1] == pytest.approx(0, abs=1e-12)


def test_shapes_half_way() -> None:
    for shape, expected in (("polynomial", 0.5**3), ("cosine", (1 + math.cos(math.pi / 2)) / 2)):
        plan = ScheduleConfig(epochs=4, warmup_epochs=0, shape=shape, power=3)
        assert _factors(plan, 5)[10] == pytest.approx(expected)

"""Scored pairs and searches to a result: rates agree, and what cannot be is refused first."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from centerarc.evaluation import evaluate_verification, search_gallery
from centerarc.evaluation.protocols import SearchSettings, Settings
from centerarc.evaluation.protocols.judging import (
    chosen_groups,
    judge_pairs,
    judge_searches,
    shared_note,
)


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    first = rng.integers(50, size=2000)
    second = np.where(rng.random(2000) < 0.4, first, rng.integers(50, size=2000))
    same = first == second
    return rng.normal(size=2000) + 2 * same, same, rng.integers(2, size=2000), (first, second)


def judged(pairs, **settings):
    scores, same, fold, people = pairs
    chosen = Settings(**{"resamples": 200, **settings})
    return judge_pairs(scores, same, fold, people, "named", (), {}, chosen)


def test_a_further_rate_is_measured_as_the_others_are(pairs, monkeypatch):
    from centerarc.evaluation import verification as result

    found = judged(pairs, fars=(0.03, 1e-7)).report
    assert list(found.tar_at_far) == sorted(found.tar_at_far, reverse=True)
    assert "needs at least 10,000,000" in found.tar_at_far[1e-7].reason
    # The same rate as one of those that are always reported.
    monkeypatch.setattr(result, "FAR_LEVELS", (0.03,))
    scores, same, fold, people = pairs
    expected = evaluate_verification(scores, same, fold, people)
    assert found.tar_at_far[0.03] == expected.tar_at_far[0.03]
    assert found.calibrated[0.03] == expected.calibrated[0.03]


def test_without_people_or_resamples_there_are_no_intervals(pairs):
    scores, same, fold, people = pairs
    for who, resamples in ((None, None), (people, 0)):
        found = judge_pairs(
            scores, same, fold, who, "unknown", (), {}, Settings(resamples=resamples)
        )
        assert found.report.accuracy.interval is None
        assert not found.report.has_intervals
        assert all(one.far.interval is None for one in found.held_out.values())
    assert found.report.accuracy.value == judged(pairs).report.accuracy.value


def test_several_columns_may_stand_in_one_text():
    a, b = np.array(["x", "y"]), np.array(["1", "2"])
    columns = {"light": a, "age": b, "light,age": b, "age=2": a}
    assert list(chosen_groups(columns, ["light, age"], "l.csv")) == ["light", "age"]
    # A column of that very name is meant by it.
    assert chosen_groups(columns, ["light,age"], "l.csv") == {"light,age": b}
    assert chosen_groups(columns, ["age=2"], "l.csv") == {"age=2": a}
    with pytest.raises(ValueError, match="each column once, got 'light' twice"):
        chosen_groups(columns, ["light", "age", "light"], "l.csv")


@given(
    st.lists(st.integers(-50, 150), min_size=1, max_size=30),
    st.lists(st.integers(-20, 120), min_size=1, max_size=4, unique=True).map(sorted),
)
def test_a_number_is_in_the_band_that_is_named(numbers, cuts):
    columns = {"age": np.array([str(number) for number in numbers])}
    by = f"age={','.join(map(str, cuts))}"
    found = chosen_groups(columns, [by], "l.csv")["age"]
    for number, name in zip(numbers, found.group.tolist(), strict=True):
        if name.startswith("under "):
            assert number < float(name.removeprefix("under ")) == cuts[0]
        elif name.endswith(" and over"):
            assert number >= float(name.removesuffix(" and over")) == cuts[-1]
        else:
            low, high = map(float, name.split(" to "))
            assert low <= number < high
            assert cuts.index(high) == cuts.index(low) + 1
    # Groups stand in the order of the numbers in them.
    first = [
        min(n for n, g in zip(numbers, found.group, strict=True) if g == o) for o in found.order
    ]
    assert first == sorted(first)


def test_bands_of_both_images_name_the_lower_first(pairs):
    ages = np.array(["7", "30", "30", "45.5"]), np.array(["40", "9", "20", "7"])
    columns = {"age_a": ages[0], "age_b": ages[1], "light": ages[0]}
    found = chosen_groups(columns, ["age=20,40,light"], "l.csv")
    assert found["age"].group.tolist() == [
        "under 20 | 40 and over",
        "under 20 | 20 to 40",
        "20 to 40",
        "under 20 | 40 and over",
    ]
    assert found["light"] is ages[0]
    scores, same, fold, people = pairs
    of = np.arange(2000) % 60
    bands = chosen_groups({"age": of.astype(np.str_)}, ["age=5,20"], "l.csv")
    judged_bands = judge_pairs(scores, same, fold, people, "", (), bands, Settings(resamples=100))
    groups = judged_bands.breakdowns["age"].groups
    assert list(groups) == ["under 5", "5 to 20", "20 and over"]
    inside = (of >= 5) & (of < 20)
    assert groups["5 to 20"].num_genuine == np.count_nonzero(same & inside)


def test_what_cannot_be_cut_is_told_with_its_line(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("same,age\n1,20\n0,30\n1,old\n0,\n", encoding="utf-8")
    columns = {"age": np.array(["20", "30", "old"])}
    with pytest.raises(ValueError, match=r"l\.csv, line 4: age must be a number .* 'old'"):
        chosen_groups(columns, ["age=20"], str(path))
    with pytest.raises(ValueError, match=r"l\.csv, line 5: age must be a number .* ''"):
        chosen_groups({"age": np.array([""])}, ["age=20"], str(path))
    for cuts in ("40,20", "20,20", "x", "", "nan"):
        with pytest.raises(ValueError, match="at rising numbers"):
            chosen_groups(columns, [f"age={cuts}"], str(path))


def test_a_file_without_columns_says_so():
    with pytest.raises(ValueError, match=r"pairs\.txt: a file of this format has no columns"):
        chosen_groups({}, ["age"], "pairs.txt")
    with pytest.raises(ValueError, match="there are none beside those of the pairs"):
        chosen_groups({}, ["age"], "pairs.csv")


def test_columns_of_both_images_and_of_the_pair():
    a, b = np.array(["x", "y"]), np.array(["y", "y"])
    columns = {"age_a": a, "age_b": b, "light": a, "odd_a": a}
    found = chosen_groups(columns, ["light", "age", "age_a"], "l.csv")
    assert found["light"] is a
    assert found["age"] == (a, b)
    assert found["age_a"] is a
    with pytest.raises(ValueError, match=r"l.csv, line 1: .* 'odd'.*the closest is 'odd_a'"):
        chosen_groups(columns, ["odd"], "l.csv")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ranks": (1, 0)}, r"ranks must be at least 1, got \[1, 0\]"),
        ({"ranks": ()}, r"ranks must be at least 1, got \[\]"),
        ({"fpirs": (0.1, 1.0)}, r"fpir must be in \(0, 1\), got 1.0"),
        ({"fpirs": (float("nan"),)}, r"fpir must be in \(0, 1\), got nan"),
        ({"person_score": "sum"}, "person_score must be max or mean, got 'sum'"),
        ({"resamples": 99}, "resamples must be 0 or at least 100, got 99"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        SearchSettings(**wrong)


def test_the_curve_ends_with_the_people_whatever_rank_is_asked_for():
    eye = np.eye(3)
    search = search_gallery(eye, [0, 1, 2], [[1, 0.5, 0], [1, 0.5, 0]], [0, 1])
    found = judge_searches([search], SearchSettings(ranks=(10**20,), resamples=0))
    assert found.curve.tolist() == [0.5, 1.0, 1.0]
    assert found.report.cmc[10**20].value == 1.0


def test_probes_of_the_gallery_are_noted():
    assert shared_note(0, 10) == ()
    assert shared_note(1, 10)[0].startswith("1 of 10 probes is also in the gallery")
    assert shared_note(1234, 5678)[0].startswith("1,234 of 5,678 probes are also in the gallery")

"""Thresholds of a gallery, from what its own photos show."""

import json
from pathlib import Path

import numpy as np
import pytest

from centerarc.evaluation import calibrate, leave_one_out
from centerarc.gallery import Gallery, Thresholds


def enrolled(path: Path, people: int = 40, noise: float = 0.1, seed: int = 0) -> Gallery:
    rng = np.random.default_rng(seed)
    gallery = Gallery.create(path, embedding_size=16)
    centers = rng.standard_normal((people, 16))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    owner = np.repeat(np.arange(people), 1 + np.arange(people) % 4)
    rows = centers[owner] + noise * rng.standard_normal((len(owner), 16))
    gallery.add_embeddings([f"p{one}" for one in owner], rows)
    return gallery


def test_the_threshold_is_that_of_the_statistics_and_is_kept(tmp_path: Path) -> None:
    with enrolled(tmp_path / "a.db") as gallery:
        found = gallery.calibrate(0.1)
        rows = gallery.store.rows()
        direct = calibrate(leave_one_out(rows.embedding, rows.person), 0.1)
        assert found.thresholds == Thresholds(direct.accept.threshold)
        assert found.chosen == direct.accept
        assert gallery.thresholds == found.thresholds
        about = json.loads(gallery.store.facts["calibration"])
        assert (about["people"], about["photos"], about["wanted_fpir"]) == (40, 100, 0.1)
        assert about["fpir"] == direct.accept.fpir.to_dict()
    with Gallery(tmp_path / "a.db") as again:
        assert again.thresholds == found.thresholds


def test_strangers_get_names_as_often_as_was_promised(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    strangers = rng.standard_normal((4000, 16))
    inside = 0
    for seed in range(12):
        with enrolled(tmp_path / f"{seed}.db", seed=seed) as gallery:
            found = gallery.calibrate(0.1)
            assert found.chosen is not None
            answers = gallery.identify_embeddings(strangers)
            reached = np.mean([one.name is not None for one in answers])
            inside += found.chosen.fpir.low <= reached <= found.chosen.fpir.high
            shares = [one.strangers for one in answers if one.name is not None]
            assert max(shares, default=0) <= 0.1 + 1e-9
    assert inside >= 10  # of 12 at 95%; fewer in 1 of 500 such tests


def test_two_thresholds_a_margin_and_an_extrapolation(tmp_path: Path) -> None:
    with enrolled(tmp_path / "a.db", people=150, noise=0.25) as gallery:
        two = gallery.calibrate(0.05, unsure=True)
        assert two.thresholds.reject == two.found.reject < two.thresholds.accept
        ahead = gallery.calibrate(0.05, margin=True)
        rule = ahead.found.margin_rule
        assert rule is not None
        wanted = (rule.threshold, rule.margin) if rule.helps else (two.thresholds.accept, 0.0)
        assert (ahead.thresholds.accept, ahead.thresholds.margin) == wanted
        far = gallery.calibrate(0.001, extrapolate=True)
        assert far.chosen is None
        assert far.found.tail is not None
        assert far.thresholds.accept == far.found.tail.threshold > two.thresholds.accept
        assert json.loads(gallery.store.facts["calibration"])["extrapolated"] is True


def test_a_gallery_of_one_person_cannot_be_calibrated(tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "a.db", embedding_size=2) as gallery:
        with pytest.raises(ValueError, match="photos of at least 2 people to be calibrated, got 0"):
            gallery.calibrate()
        gallery.add_embeddings(["a", "a"], np.eye(2))
        with pytest.raises(ValueError, match="got 1"):
            gallery.calibrate()
        assert gallery.thresholds is None
        gallery.add_embeddings(["b"], [[1, 1]])
        with pytest.raises(ValueError, match="fpir must be in"):
            gallery.calibrate(1.5)


def test_too_few_people_for_an_extrapolation_are_named(tmp_path: Path) -> None:
    with (
        enrolled(tmp_path / "a.db") as gallery,
        pytest.raises(ValueError, match="extrapolate is not possible here: a tail needs at least"),
    ):
        gallery.calibrate(0.001, extrapolate=True)


def test_weak_spots_are_named_by_their_photos(tmp_path: Path) -> None:
    with enrolled(tmp_path / "a.db", noise=0.01) as gallery:
        rows = gallery.store.rows()
        swapped = rows.embedding[rows.person == 4][0] + 0.01
        gallery.add_embeddings(["p7"], swapped[None], ["swapped.jpg"])
        found = gallery.calibrate(0.1)
        worst = found.weak.misfits[0]
        assert found.photos[worst.photo].place == "swapped.jpg"
        assert found.names[int(worst.person)] == "p7"
        assert found.names[int(worst.rival_person)] == "p3"
        pair = found.weak.alike[0]
        assert {found.names[int(one)] for one in (pair.first, pair.second)} == {"p3", "p7"}
        assert len(found.weak.thin) == 10


def test_a_gallery_that_has_grown_outgrows_its_calibration(tmp_path: Path) -> None:
    with enrolled(tmp_path / "a.db") as gallery:
        assert gallery.outgrown == ""
        gallery.calibrate(0.1)
        more = np.random.default_rng(5).standard_normal((11, 16))
        gallery.add_embeddings([f"new{one}" for one in range(10)], more[:10])
        assert gallery.outgrown == ""
        gallery.add_embeddings(["one more"], more[10:])
        said = "calibrated with 40 people, and there are 51 now: calibrate again"
        assert gallery.outgrown == said
        gallery.calibrate(0.1)
        assert gallery.outgrown == ""

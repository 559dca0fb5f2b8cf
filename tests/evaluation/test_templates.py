"""Templates and their scores, worked by hand and against the formula one image at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from centerarc.evaluation import (
    WEIGHTINGS,
    cmc,
    evaluate_identification,
    pool_templates,
    search_templates,
    template_pair_scores,
)
from centerarc.evaluation import templates as module

# Template 5 has a still (medium 1) and two frames of a video (medium 2); template 3 has a video of
# one frame, whose medium has the number of that of template 5, and a still.
FACES = [[2.0, 0.0], [0.0, 1.0], [0.0, 3.0], [4.0, 3.0], [0.0, 0.5]]
TEMPLATE = [5, 5, 5, 3, 3]
MEDIA = [1, 2, 2, 2, 7]
SCORE = [0.5, 1.0, 0.2, 1.0, 0.8]


def unit(*vector):
    return np.array(vector) / np.hypot(*vector)


def weighted(scores):
    return {"weighting": "detector", "detector_score": scores}


@pytest.mark.parametrize(
    ("weighting", "three", "five"),
    [
        # 3: (0.8, 0.6) + (0, 1); 5: (1, 0) + ((0, 1) + (0, 1)) / 2
        ("plain", (0.8, 1.6), (1, 1)),
        # 3: (4, 3) + (0, 0.5); 5: (2, 0) + (0, (1 + 3) / 2)
        ("norm", (4, 3.5), (2, 2)),
        # 3: (0.8, 0.6) + 0.8 (0, 1); 5: 0.5 (1, 0) + (0, (1 + 0.2) / 2)
        ("detector", (0.8, 1.4), (0.5, 0.6)),
        # 3: (4, 3) + (0, 0.4); 5: (1, 0) + (0, (1 + 0.6) / 2)
        ("norm+detector", (4, 3.4), (1, 0.8)),
    ],
)
def test_templates_worked_by_hand(weighting, three, five):
    score = SCORE if "detector" in weighting else None
    made = pool_templates(FACES, TEMPLATE, MEDIA, weighting=weighting, detector_score=score)
    assert made.ids.tolist() == [3, 5]
    np.testing.assert_allclose(made.embeddings, [unit(*three), unit(*five)], atol=1e-7)
    assert made.embeddings.dtype == np.float32
    assert made.num_images.tolist() == [2, 3]
    assert made.num_media.tolist() == [2, 2]
    written = made.to_dict()
    assert written["weighting"] == weighting
    assert WEIGHTINGS[weighting] in written["convention"]
    assert (written["num_templates"], written["num_media"], written["num_images"]) == (2, 4, 5)


def test_without_media_every_image_is_one():
    made = pool_templates(FACES, TEMPLATE)
    np.testing.assert_allclose(made.embeddings[1], unit(1, 2), atol=1e-7)
    assert made.num_media.tolist() == [2, 3]


def plain_templates(faces, template, media, weighting, score):
    """The same by loops over templates, media and images."""
    result = []
    for t in sorted(set(template)):
        total = np.zeros(len(faces[0]))
        for m in sorted({b for a, b in zip(template, media, strict=True) if a == t}):
            rows = [i for i in range(len(faces)) if (template[i], media[i]) == (t, m)]
            mean = np.zeros_like(total)
            for i in rows:
                x = np.asarray(faces[i], float)
                x = x if "norm" in weighting else x / np.linalg.norm(x)
                mean += (score[i] if "detector" in weighting else 1) * x / len(rows)
            total += mean
        result.append(total / np.linalg.norm(total))
    return result


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(0, 10**6), st.sampled_from(sorted(WEIGHTINGS)))
def test_templates_are_those_of_plain_loops_in_any_order(count, seed, weighting):
    rng = np.random.default_rng(seed)
    faces = rng.normal(size=(count, 16)) + 0.5
    template, media = rng.integers(-3, 9, count), rng.integers(0, 4, count)
    score = rng.uniform(0.1, 1, count)

    def pooled(template, media, order=slice(None)):
        given = score[order] if "detector" in weighting else None
        rows = faces[order], template[order], media[order]
        return pool_templates(*rows, weighting=weighting, detector_score=given)

    made = pooled(template, media)
    expected = plain_templates(faces, template, media, weighting, score)
    np.testing.assert_allclose(made.embeddings, expected, atol=2e-6)
    again = pooled(template.astype(str), media.astype(str), rng.permutation(count))
    back = again.rows([str(name) for name in made.ids])
    np.testing.assert_allclose(again.embeddings[back], made.embeddings, atol=1e-6)


def test_blocks_of_templates_do_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(0)
    faces = rng.normal(size=(300, 8)).astype(np.float32)
    template, media = rng.integers(0, 40, 300), rng.integers(0, 5, 300)
    template[:50] = 7
    whole = pool_templates(faces, template, media)
    monkeypatch.setattr(module, "_GATHERED", 11)
    parts = pool_templates(faces, template, media)
    np.testing.assert_array_equal(parts.embeddings, whole.embeddings)
    assert parts.num_media.tolist() == whole.num_media.tolist()
    assert parts.num_images.tolist() == np.bincount(template).tolist()


def test_templates_are_found_by_their_ids():
    made = pool_templates(FACES, ["b", "b", "b", "a", "a"])
    assert made.rows(["a", "b", "a"]).tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match=r"there is no template c \(entry 1\)"):
        made.rows(["a", "c"])
    with pytest.raises(ValueError, match="there is no template 5"):
        made.rows([5])


@pytest.mark.parametrize("table", [1 << 24, 0])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16])
def test_numbered_templates_are_found_with_and_without_a_table(monkeypatch, table, dtype):
    monkeypatch.setattr(module, "_TABLE", table)
    made = pool_templates(FACES, [50, 7, 300, 9, 7])
    assert made.ids.tolist() == [7, 9, 50, 300]
    assert made.rows(np.array([300, 7, 50, 9, 7], dtype=dtype)).tolist() == [3, 0, 2, 1, 0]
    for unknown in (6, 8, 301, 0):
        with pytest.raises(ValueError, match=rf"there is no template {unknown} \(entry 1\)"):
            made.rows(np.array([9, unknown], dtype=dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weighting": "sum"}, "weighting must be one of plain, norm, detector, .* got 'sum'"),
        ({"weighting": "detector"}, "detector_score must be given for the weighting 'detector'"),
        ({"detector_score": SCORE}, "detector_score must be None for the weighting 'plain'"),
        (weighted(SCORE[1:]), r"must have shape \(5,\)"),
        (weighted([1, 1, -1, 1, 1]), "at least 0, got -1.0 in row 2"),
        (weighted([1, 1, 1, 0, 0]), "template 3: its weighted images add up to nothing"),
        ({"template": TEMPLATE[1:]}, r"template must be .* shape \(5,\)"),
        ({"media": [0.5] * 5}, "media must be integers or names"),
        ({"embeddings": [*FACES[:4], [0, 0]]}, "embeddings must be finite .* row 4"),
        ({"embeddings": [*FACES[:4], [np.nan, 0]]}, "embeddings must be finite .* row 4"),
        ({"embeddings": [*FACES[:3], [1, 0], [-3, 0]]}, "template 3: .* add up to nothing"),
        ({"embeddings": [1, 2]}, r"embeddings must be numbers of shape \(N, D\)"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {"embeddings": FACES, "template": TEMPLATE, "media": MEDIA, **change}
    with pytest.raises(ValueError, match=message):
        pool_templates(**given)


@pytest.mark.parametrize(("gathering", "others"), [(0, 50), (1e9, 50), (1e9, 7), (40, 32_768)])
def test_pair_scores_are_cosines_however_they_are_made(monkeypatch, gathering, others):
    monkeypatch.setattr(module, "_TEMPLATES", 6)
    monkeypatch.setattr(module, "_PAIRS", 10)
    monkeypatch.setattr(module, "_OTHERS", others)
    monkeypatch.setattr(module, "_GATHERING", gathering)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(31, 24)) * rng.uniform(0.1, 9, (31, 1))
    a, b = rng.integers(0, 31, 500), rng.integers(0, 31, 500)
    a[a == 12] = 13  # a template that no pair begins with
    scores = template_pair_scores(values, a.astype(np.int32), b)
    expected = [
        values[i] @ values[j] / np.linalg.norm(values[i]) / np.linalg.norm(values[j])
        for i, j in zip(a, b, strict=True)
    ]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert scores.max() <= 1
    assert template_pair_scores(values, [], []).shape == (0,)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([0, 3], [0, 1], r"index_a must be in \[0, 3\), got 3 in pair 1"),
        ([0, 1], [0, -1], r"index_b must be in \[0, 3\), got -1 in pair 1"),
        ([0], [0, 1], "must have one shape"),
        ([0.0], [1.0], "index_a must be integers"),
    ],
)
def test_pairs_of_no_template_are_named(a, b, message):
    with pytest.raises(ValueError, match=message):
        template_pair_scores(np.eye(3), a, b)


def test_a_search_of_two_galleries_worked_by_hand():
    """Subjects 1 and 2 are in the first gallery, 3 in the second; every probe asks both."""
    eye = np.eye(4)
    faces = [eye[0], eye[1], eye[2], eye[0] + eye[3], 2 * eye[0] + eye[1], eye[2] - eye[0]]
    made = pool_templates(faces, [10, 20, 30, 11, 21, 31])
    galleries = [([10, 20], [1, 2]), ([30], [3])]
    searches = search_templates(made, galleries, ([11, 21, 31], [1, 2, 3]))
    # Probe 21 of subject 2 looks more like subject 1.
    assert searches[0].rank.tolist() == [1, 2, 0]
    assert searches[1].rank.tolist() == [0, 0, 1]
    assert [cmc(search, 1)[0] for search in searches] == [0.5, 1.0]
    report = evaluate_identification(searches, ranks=(1,), fpirs=(), bootstrap=0)
    assert report.cmc[1].value == 0.75
    assert report.nonmated == [1, 2]
    with pytest.raises(ValueError, match="there is no template 32"):
        search_templates(made, galleries, ([11, 32], [1, 2]))
    with pytest.raises(ValueError, match="at least one gallery"):
        search_templates(made, [], ([11], [1]))

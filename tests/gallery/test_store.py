"""What every gallery keeps, in a file as in a database: names, transactions, several processes."""

import hashlib
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from centerarc.gallery.store import NewPhoto, Store, create_store, open_store
from tests.gallery.test_search import drawn, expected


def photo(row: np.ndarray, place: str = "a.jpg") -> NewPhoto:
    return NewPhoto(hashlib.sha256(row.tobytes()).digest(), row, place, facts={"side": 3.5})


@pytest.fixture(params=["file", "database"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return str(tmp_path / "people.db")
    new: str = request.getfixturevalue("postgres").new()
    return new


@pytest.fixture
def store(place: str) -> Iterator[Store]:
    made = create_store(place, {"size": "24"})
    yield made
    made.close()


def filled(store: Store, names: str = "AABBC") -> np.ndarray:
    rows = drawn(len(names))
    assert store.add([(n, photo(row)) for n, row in zip(names, rows, strict=True)]) == [""] * 5
    return rows


def test_people_and_photos_come_back(store: Store) -> None:
    rows = filled(store)
    assert [(one.name, one.photos) for one in store.people()] == [("A", 2), ("B", 2), ("C", 1)]
    kept = list(store.photos(store.person("B").id))
    assert [one.id for one in kept] == [3, 4]
    assert kept[0].digest == hashlib.sha256(rows[2].tobytes()).hexdigest()
    assert kept[0].facts == {"side": 3.5}
    found = store.rows()
    assert found.person.tolist() == [1, 1, 2, 2, 3]
    np.testing.assert_array_equal(found.embedding, rows)
    assert store.names(np.array([1, 3, 77])) == {1: "A", 3: "C"}


def test_names_are_compared_in_their_composed_form(store: Store) -> None:
    rows = drawn(2)
    store.add([(unicodedata.normalize("NFD", "Zoë"), photo(rows[0]))])
    store.add([(" Zoë ", photo(rows[1]))])
    assert [(one.name, one.photos) for one in store.people()] == [("Zoë", 2)]
    assert store.person(unicodedata.normalize("NFD", "Zoë")).id == 1
    for wrong in ("", "  ", "a\nb"):
        with pytest.raises(ValueError, match="name must be printable text"):
            store.add([(wrong, photo(drawn(3)[2]))])


def test_who_is_not_there_is_named_with_who_may_be_meant(store: Store) -> None:
    store.add([("Ann Lee", photo(drawn(1)[0]))])
    with pytest.raises(ValueError, match=r"no person 'Ann Le'.*did you mean 'Ann Lee'"):
        store.person("Ann Le")
    with pytest.raises(ValueError, match="no person 9"):
        store.person(9)


def test_a_number_stays_and_is_never_given_again(store: Store) -> None:
    filled(store)
    store.rename(2, "D")
    assert store.person("D").id == 2
    with pytest.raises(ValueError, match="name must be no one else's, but 'C' is person 3"):
        store.rename(2, "C")
    store.rename(2, "D")  # its own
    assert store.remove(people=[3]) == 1
    store.add([("C", photo(drawn(9)[8]))])
    assert store.person("C").id == 4
    assert store.remove(photos=[6]) == 1
    assert store.person("C").photos == 0


def test_the_same_bytes_are_there_once_and_whose_they_are_is_said(store: Store) -> None:
    rows = filled(store)
    new = drawn(9)[7:9]
    said = store.add(
        [
            ("A", photo(rows[0], "copy.jpg")),
            ("Eve", photo(rows[2])),
            ("Eve", photo(new[0])),
            ("Eve", photo(new[0], "again.jpg")),
            ("Fay", photo(new[0])),
        ]
    )
    assert said == ["A", "B", "", "Eve", "Eve"]
    assert [one.name for one in store.people()] == ["A", "B", "C", "Eve"]
    assert store.holder(photo(rows[2]).digest) == "B"
    assert store.holder(photo(new[1]).digest) is None


def test_nothing_of_a_change_that_fails_stays(store: Store) -> None:
    rows = drawn(2)
    wrong = NewPhoto(b"x" * 32, rows[1][:5])
    with pytest.raises(ValueError, match=r"embedding must be float32 of shape \(24,\), got"):
        store.add([("A", photo(rows[0])), ("A", wrong)])
    assert not store.people()
    with pytest.raises(TypeError):
        store.add([("A", photo(rows[0])), ("A", NewPhoto(b"y" * 32, rows[1], facts={"x": {1}}))])
    assert not store.people()


def changes_are_seen(store: Store, place: str) -> None:
    """What two who have a gallery open change, each of them finds."""
    rows, more = filled(store), drawn(12)[5:]
    other = open_store(place)
    assert store.search(rows[2:3], 1).row.tolist() == [[3]]
    other.add([("D", photo(more[0]))])
    assert store.search(more[:1], 1).row.tolist() == [[6]]
    assert store.search(more[:1], 1).person.tolist() == [[4]]
    other.remove(people=[2])
    found = store.search(rows[2:3], 5)
    assert found.person[0].tolist()[3:] == [-1, -1]
    assert 2 not in found.person
    store.add([("E", photo(more[1]))])
    assert other.search(more[1:2], 1).row.tolist() == [[7]]
    assert other.search(rows[:1], 1).row.tolist() == [[1]]
    other.close()


def test_the_search_sees_what_others_change(store: Store, place: str) -> None:
    changes_are_seen(store, place)


def test_the_search_is_that_of_float64(store: Store) -> None:
    rows = drawn(40, seed=5)
    rows[30:33] = rows[:3]  # others' photos of the same numbers
    people = [f"P{number % 13}" for number in range(40)]
    new = [NewPhoto(bytes([n]) * 32, row) for n, row in enumerate(rows)]
    assert store.add(list(zip(people, new, strict=True))) == [""] * 40
    kept = store.rows()
    for queries in (rows[:5], np.concatenate([rows, drawn(40)])):
        found = store.search(queries, 20)
        for at, answer in enumerate(expected(kept.embedding, kept.person, queries, 20)):
            scores, numbers, places = zip(*answer, strict=True)
            assert found.person[at].tolist() == [*numbers, *[-1] * 7]
            assert found.row[at].tolist() == [*kept.photo[list(places)], *[-1] * 7]
            np.testing.assert_allclose(
                found.score[at, :13], np.clip(scores, -1, 1), rtol=0, atol=1e-12
            )


def test_an_empty_gallery_has_no_one(store: Store) -> None:
    for count in (0, 1, 70):
        found = store.search(drawn(count), 2)
        assert found.person.tolist() == [[-1, -1]] * count
    assert not list(store.problems())


def test_facts_are_kept(store: Store) -> None:
    store.keep(model="m", size="24")
    store.keep(model="n", other="é")
    assert {"size": "24", "model": "n", "other": "é"}.items() <= store.facts.items()


def test_thousands_of_people_and_photos(store: Store) -> None:
    rows = drawn(2500)
    new = [(f"P{at // 2:04}", photo(row)) for at, row in enumerate(rows)]
    assert store.add(new) == [""] * 2500
    assert store.add(new) == [name for name, _ in new]
    people = store.people()
    assert [one.name for one in people] == [f"P{at:04}" for at in range(1250)]
    assert store.names(np.arange(1, 1251)) == {one.id: one.name for one in people}
    np.testing.assert_array_equal(store.rows().embedding, rows)
    assert [one.id for one in store.photos()] == list(range(1, 2501))
    assert store.remove(people=[one.id for one in people[:1200]], photos=[2401, 2402, 9999]) == 2402
    assert len(list(store.photos())) == 98


def test_two_who_add_the_same_at_once(store: Store, place: str) -> None:
    rows = drawn(60)
    new = [(f"P{at // 3}", photo(row)) for at, row in enumerate(rows)]

    def add(order: int) -> list[str]:
        opened = open_store(place)
        said = [opened.add(new[::order][at : at + 4]) for at in range(0, 60, 4)]
        opened.close()
        return [one for some in said for one in some]

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(add, [1, -1]))
    assert sorted(one == "" for one in said[0] + said[1]) == [False] * 60 + [True] * 60
    assert [one.photos for one in store.people()] == [3] * 20


ADDING = """
import sys
from pathlib import Path
import numpy as np
from centerarc.gallery.store import open_store
from tests.gallery.test_store import photo

store = open_store(sys.argv[1])
rng = np.random.default_rng()
print("ready", flush=True)
while True:
    rows = rng.standard_normal((3, 24)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    store.add([(f"P{rng.integers(1 << 40)}", photo(row)) for row in rows])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_kill_at_any_time_leaves_whole_changes(store: Store, place: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(4):
        words = [sys.executable, "-c", ADDING, place]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.random() * 0.05)
            process.send_signal(signal.SIGKILL)
    people = store.people()
    assert len(people) > 4
    assert len(people) % 3 == 0
    assert {one.photos for one in people} == {1}
    assert not list(store.problems())


def test_numbers_that_none_can_have_are_not_there(store: Store) -> None:
    filled(store)
    with pytest.raises(ValueError, match=f"no person {10**30}"):
        store.person(10**30)
    assert store.remove(people=[10**30], photos=[-(10**30), 1]) == 1


def test_names_may_join_letters(store: Store) -> None:
    name = "\u0632\u0647\u0631\u0627\u200c\u0628\u0627\u0646\u0648"
    store.add([(name, photo(drawn(1)[0]))])
    assert store.person(name).name == name
    with pytest.raises(ValueError, match="printable"):
        store.rename(1, "\u200d")
    with pytest.raises(ValueError, match="stands for a person's number"):
        store.rename(1, "id:77")


@pytest.mark.parametrize("make", [open_store, lambda place: create_store(place, {"size": "3"})])
def test_a_url_of_something_else_is_no_file(make: Any, tmp_path: Path) -> None:
    for place in ("postgre://host/db", "sqlite:///a.db"):
        with pytest.raises(ValueError, match="a gallery is a file or a postgresql:// URL, got one"):
            make(place)
    assert not list(tmp_path.iterdir())

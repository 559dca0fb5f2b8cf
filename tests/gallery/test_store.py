"""A gallery's file: names, transactions, removal to the last byte, several processes."""

import hashlib
import signal
import sqlite3
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from centerarc.gallery import store as store_module
from centerarc.gallery.store import NewPhoto, SqliteStore
from tests.gallery.test_search import drawn


def photo(row: np.ndarray, place: str = "a.jpg") -> NewPhoto:
    return NewPhoto(hashlib.sha256(row.tobytes()).digest(), row, place, facts={"side": 3.5})


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    made = SqliteStore.create(tmp_path / "people.db", {"size": "24"})
    yield made
    made.close()


def filled(store: SqliteStore, names: str = "AABBC") -> np.ndarray:
    rows = drawn(len(names))
    assert store.add([(n, photo(row)) for n, row in zip(names, rows, strict=True)]) == [""] * 5
    return rows


def test_people_and_photos_come_back(store: SqliteStore) -> None:
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


def test_names_are_compared_in_their_composed_form(store: SqliteStore) -> None:
    rows = drawn(2)
    store.add([(unicodedata.normalize("NFD", "Zoë"), photo(rows[0]))])
    store.add([(" Zoë ", photo(rows[1]))])
    assert [(one.name, one.photos) for one in store.people()] == [("Zoë", 2)]
    assert store.person(unicodedata.normalize("NFD", "Zoë")).id == 1
    for wrong in ("", "  ", "a\nb"):
        with pytest.raises(ValueError, match="name must be printable text"):
            store.add([(wrong, photo(drawn(3)[2]))])


def test_who_is_not_there_is_named_with_who_may_be_meant(store: SqliteStore) -> None:
    store.add([("Ann Lee", photo(drawn(1)[0]))])
    with pytest.raises(ValueError, match=r"no person 'Ann Le'.*did you mean 'Ann Lee'"):
        store.person("Ann Le")
    with pytest.raises(ValueError, match="no person 9"):
        store.person(9)


def test_a_number_stays_and_is_never_given_again(store: SqliteStore) -> None:
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


def test_the_same_bytes_are_there_once_and_whose_they_are_is_said(store: SqliteStore) -> None:
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


def test_nothing_of_a_change_that_fails_stays(store: SqliteStore) -> None:
    rows = drawn(2)
    wrong = NewPhoto(b"x" * 32, rows[1][:5])
    with pytest.raises(ValueError, match=r"embedding must be float32 of shape \(24,\), got"):
        store.add([("A", photo(rows[0])), ("A", wrong)])
    assert not store.people()
    with pytest.raises(TypeError):
        store.add([("A", photo(rows[0])), ("A", NewPhoto(b"y" * 32, rows[1], facts={"x": {1}}))])
    assert not store.people()


def test_what_is_removed_is_not_in_the_file_any_more(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_MAPPED_FROM", 3)
    rows = filled(store)
    store.add([("Wanda Gone", NewPhoto(b"d" * 32, drawn(9)[8], "photos/wanda-gone.jpg"))])
    store.search(rows[:1], 1)
    secret = drawn(9)[8].tobytes()
    files = list(store.path.parent.iterdir())
    assert any(secret in path.read_bytes() for path in files)
    assert any(path.name == "people.db-rows" for path in files)
    store.remove(people=[store.person("Wanda Gone").id])
    for path in store.path.parent.iterdir():
        content = path.read_bytes()
        for trace in (secret, secret[:40], b"Wanda Gone", b"wanda-gone", b"d" * 32):
            assert trace not in content, path


@pytest.mark.parametrize("mapped", [1, 100])
def test_the_search_sees_what_others_change(
    store: SqliteStore, mapped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_MAPPED_FROM", mapped)
    rows, more = filled(store), drawn(12)[5:]
    other = SqliteStore(store.path)
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
    assert (store.path.with_name("people.db-rows").exists()) == (mapped == 1)


def test_a_file_of_rows_of_another_state_is_not_used(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_MAPPED_FROM", 1)
    rows = filled(store)
    store.search(rows, 1)
    place = store.path.with_name("people.db-rows")
    whole = place.read_bytes()
    for content in (whole[:-4], b"", whole.replace(b'"removals": "0"', b'"removals": "9"')):
        place.write_bytes(content)
        fresh = SqliteStore(store.path)
        assert fresh.search(rows, 1).row.tolist() == [[1], [2], [3], [4], [5]]
        fresh.close()
    assert place.read_bytes() == whole  # it was made again
    assert not list(store.problems())
    place.write_bytes(whole[:-1] + b"\x7f")
    assert [said.partition("'")[0] for said in store.problems()] == [""]


def test_without_a_file_of_rows_the_search_is_the_same(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_MAPPED_FROM", 1)
    rows = filled(store)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(store, "_write_rows", refuse)
    assert store.search(rows, 1).row.tolist() == [[1], [2], [3], [4], [5]]


def test_other_files_are_named(tmp_path: Path, store: SqliteStore) -> None:
    with pytest.raises(ValueError, match=r"there is no gallery .*gallery create"):
        SqliteStore(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("what a gallery is not" * 99)
    with pytest.raises(ValueError, match="damaged or not a gallery"):
        SqliteStore(tmp_path / "text.db")
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE a (b)").connection.close()
    with pytest.raises(ValueError, match="is not a gallery of centerarc"):
        SqliteStore(tmp_path / "other.db")
    with pytest.raises(ValueError, match="is there already"):
        SqliteStore.create(store.path, {"size": "24"})
    newer = sqlite3.connect(store.path)
    newer.execute("PRAGMA user_version = 9")
    newer.close()
    with pytest.raises(ValueError, match=r"another version of centerarc \(format 9, here 1\)"):
        SqliteStore(store.path)


def test_another_one_that_changes_for_long_is_named(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_PATIENCE", 0.1)
    waiting = SqliteStore(store.path)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OSError, match="is being changed by another process"):
        waiting.add([("A", photo(drawn(1)[0]))])
    other.execute("ROLLBACK")
    other.close()
    assert waiting.add([("A", photo(drawn(1)[0]))]) == [""]
    waiting.close()


def test_problems_are_found(store: SqliteStore) -> None:
    filled(store)
    assert not list(store.problems())
    broken = sqlite3.connect(store.path)
    broken.execute("UPDATE photo SET embedding = zeroblob(96) WHERE id = 2")
    broken.execute("UPDATE photo SET person = 99 WHERE id = 3")
    broken.commit()
    broken.close()
    assert sorted(store.problems()) == [
        "a photo belongs to no person",
        "the embedding of photo 2 does not have the length 1",
    ]


ADDING = """
import sys
from pathlib import Path
import numpy as np
from centerarc.gallery.store import SqliteStore
from tests.gallery.test_store import photo

store = SqliteStore(sys.argv[1])
rng = np.random.default_rng()
print("ready", flush=True)
while True:
    rows = rng.standard_normal((3, 24)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    store.add([(f"P{rng.integers(1 << 40)}", photo(row)) for row in rows])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_kill_at_any_time_leaves_whole_changes(store: SqliteStore) -> None:
    rng = np.random.default_rng(0)
    for _ in range(12):
        words = [sys.executable, "-c", ADDING, str(store.path)]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.random() * 0.05)
            process.send_signal(signal.SIGKILL)
    people = store.people()
    assert len(people) > 12
    assert len(people) % 3 == 0
    assert {one.photos for one in people} == {1}
    assert not list(store.problems())

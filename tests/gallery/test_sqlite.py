"""A gallery's file: removal to the last byte, the file of rows, damage, other files."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from centerarc.gallery import sqlite as store_module
from centerarc.gallery.sqlite import SqliteStore
from centerarc.gallery.store import NewPhoto
from tests.gallery.test_search import drawn
from tests.gallery.test_store import changes_are_seen, filled, photo


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    made = SqliteStore.create(tmp_path / "people.db", {"size": "24"})
    yield made
    made.close()


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
def test_the_file_of_rows_follows_what_others_change(
    store: SqliteStore, mapped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_MAPPED_FROM", mapped)
    changes_are_seen(store, str(store.path))
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


def test_pages_that_were_split_keep_nothing_of_who_was_removed(tmp_path: Path) -> None:
    store = SqliteStore.create(tmp_path / "people.db", {"size": "8"})
    rng = np.random.default_rng(0)
    rows = iter(rng.normal(size=(5000, 8)).astype(np.float32))

    def add(count: int) -> None:  # in any order, so that pages of indexes are split
        store.add([(f"{rng.integers(1 << 60):x}", photo(next(rows))) for _ in range(count)])

    for _ in range(30):
        add(100)
    gone = []
    for _ in range(12):
        alive = list(store.photos())
        picked = [alive[at] for at in rng.choice(len(alive), 60, replace=False)]
        gone += picked
        store.remove(people=[one.person for one in picked])
        add(30)
    store.remove()
    content = store.path.read_bytes()
    store.close()
    assert not [one for one in gone if bytes.fromhex(one.digest) in content]


def test_rows_that_are_written_while_somebody_is_removed_do_not_stay(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_MAPPED_FROM", 1)
    monkeypatch.setattr(store_module, "_PATIENCE", 0.01)
    rows, write = filled(store), SqliteStore._write_rows
    other, said = SqliteStore(store.path), []

    def meanwhile(self: SqliteStore, *values: object) -> None:
        write(self, *values)  # ends after the removal has deleted the file
        content = self._rows_path.read_bytes()
        with pytest.raises(OSError, match="another process has been reading it") as error:
            other.remove(people=[1])
        said.append(str(error.value))
        self._rows_path.write_bytes(content)

    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "_write_rows", meanwhile)
        store.search(rows[:1], 1)
    assert said[0].startswith(f"2 photos are removed from {str(store.path)!r}")
    assert not store._rows_path.exists()
    assert store.search(rows[:1], 1).person.tolist() != [[1]]
    # A kill before that leaves the file, and one in the middle a part of it.
    old = store._rows_path.read_bytes()
    part = store.path.with_name(".people.77-0123abcd.db-rows")
    part.touch()
    other.remove(people=[2])
    assert not part.exists()
    store._rows_path.write_bytes(old)
    monkeypatch.setattr(store_module, "_MAPPED_FROM", 100)
    other.search(rows[:1], 1)
    assert not store._rows_path.exists()
    other.close()


def test_a_link_has_the_rows_beside_what_it_leads_to(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_MAPPED_FROM", 1)
    rows = filled(store)
    link = tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(store.path)
    linked = SqliteStore(link)
    linked.search(rows[:1], 1)
    linked.close()
    assert [one.name for one in link.parent.iterdir()] == ["link.db"]
    assert Path(f"{store.path}-rows").exists()


def test_what_is_left_of_a_gallery_does_not_come_into_another(tmp_path: Path) -> None:
    path = tmp_path / "people.db"
    code = (
        "import os, signal, sys; from centerarc.gallery import Gallery\n"
        f"made = Gallery.create({str(path)!r}, embedding_size=2)\n"
        "made.add_embeddings(['Ann'], [[1, 0]]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    log = Path(f"{path}-wal")
    assert log.exists()
    path.unlink()
    with pytest.raises(ValueError, match=r"people\.db-wal' is left of a gallery that is gone"):
        SqliteStore.create(path, {"size": "2"})
    assert log.exists()
    log.unlink()
    made = SqliteStore.create(path, {"size": "2"})
    assert made.people() == []
    made.close()


def test_files_that_are_no_galleries_stay_as_they_are(tmp_path: Path) -> None:
    empty, other = tmp_path / "empty.db", tmp_path / "other.db"
    empty.touch()
    made = sqlite3.connect(other)
    made.execute("CREATE TABLE mine (what)")
    made.commit()
    made.close()
    for path in (empty, other):
        before = path.read_bytes()
        with pytest.raises(ValueError, match="is not a gallery of centerarc"):
            SqliteStore(path)
        assert path.read_bytes() == before


def test_a_change_that_the_disk_ends_says_so_and_the_next_one_is_made(store: SqliteStore) -> None:
    rows = filled(store)
    pages = store._value("PRAGMA page_count")
    store._value(f"PRAGMA max_page_count = {pages + 1}")
    many = drawn(3000)[10:]
    with pytest.raises(OSError, match="full"):
        store.add([("D", photo(row)) for row in many])
    store._value("PRAGMA max_page_count = 1000000")
    assert store.person("A").photos == 2
    assert len(store.search(rows[:1], 3).person[0]) == 3
    assert store.add([("D", photo(row)) for row in many]) == [""] * len(many)


def test_rows_that_another_process_deletes_at_once_are_still_searched(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_MAPPED_FROM", 1)
    rows, write = filled(store), SqliteStore._write_rows

    def deleted(self: SqliteStore, *values: object) -> None:
        write(self, *values)
        self._rows_path.unlink()

    monkeypatch.setattr(SqliteStore, "_write_rows", deleted)
    assert store.search(rows, 1).row[:, 0].tolist() == [1, 2, 3, 4, 5]


def test_two_who_remove_at_once_wait_for_each_other(store: SqliteStore) -> None:
    filled(store)
    code = (
        "import sys\nfrom centerarc.gallery.sqlite import SqliteStore\n"
        "from tests.gallery.test_store import drawn, photo\n"
        f"store, name = SqliteStore({str(store.path)!r}), sys.argv[1]\n"
        "for row in drawn(110)[5 + int(name) :: 3]:\n"
        "    store.add([(name, photo(row))])\n"
        "    store.remove(people=[store.person(name).id])\n"
    )
    several = [subprocess.Popen([sys.executable, "-c", code, str(n)]) for n in range(3)]
    assert [one.wait() for one in several] == [0, 0, 0]


def test_a_full_disk_is_named(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(store)
    full = sqlite3.OperationalError("database or disk is full")

    class Full:
        def __init__(self, connection: sqlite3.Connection) -> None:
            self.connection = connection

        def execute(self, statement: str, *values: object) -> object:
            if "checkpoint" in statement:
                raise full
            return self.connection.execute(statement, *values)

        def __getattr__(self, name: str) -> object:
            return getattr(self.connection, name)

    with monkeypatch.context() as patch:
        patch.setattr(store, "_connection", Full(store._connection))
        with pytest.raises(OSError, match=r"2 photos are removed .*disk is full, and they are in"):
            store.remove(people=[1])
    assert [one.name for one in store.people()] == ["B", "C"]

    def fail(*_: object) -> None:
        raise full

    monkeypatch.setattr(store_module, "_write_empty", fail)
    with pytest.raises(OSError, match=r"new\.db': database or disk is full"):
        SqliteStore.create(tmp_path / "new.db", {"size": "2"})
    assert not (tmp_path / "new.db").exists()


def test_where_nothing_can_be_written_a_gallery_is_read(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = filled(store)
    store.close()
    monkeypatch.setattr(store_module.SqliteStore, "_fixed", lambda _: True)
    fixed = SqliteStore(store.path)
    assert fixed.search(rows, 1).row[:, 0].tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(OSError, match="readonly database; the file and its folder must be"):
        fixed.remove(people=[1])
    fixed.close()


def test_a_path_may_have_characters_of_urls(tmp_path: Path) -> None:
    path = tmp_path / "50% of? #us &.db"
    SqliteStore.create(path, {"size": "2"}).close()
    assert SqliteStore(path).people() == []

"""A gallery in one SQLite file, searched exactly."""

import json
import os
import re
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn, Self
from urllib.parse import quote

import numpy as np

from centerarc.gallery.search import Float32Array, IntArray, Nearest, RowSearch
from centerarc.gallery.store import PhotoRow, Rows, Store
from centerarc.io.files import atomic_path

# "CArc" in SQLite's header says whose file it is, and the number which version of its tables.
_OURS, _VERSION = 0x43417263, 1
_TABLES = """
CREATE TABLE fact (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE person (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
CREATE TABLE photo (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    person INTEGER NOT NULL REFERENCES person (id) ON DELETE CASCADE,
    digest BLOB NOT NULL,
    face INTEGER NOT NULL,
    place TEXT NOT NULL,
    added TEXT NOT NULL,
    facts TEXT NOT NULL,
    embedding BLOB NOT NULL,
    UNIQUE (digest, face)
);
CREATE INDEX photo_of_person ON photo (person);
"""
# Bytes; of SQLite's usual 4,096 an embedding of 512 numbers would leave nearly half empty.
_PAGE = 16_384
# Seconds that a change waits for one of another process.
_PATIENCE = 30.0
# From so many rows on they are kept in a file of their own too, which is mapped and not read.
_MAPPED_FROM = 20_000
_HEADER = 512
_READ = 4096  # rows that are read at once


def _write_empty(path: Path, facts: Mapping[str, str]) -> None:
    connection = sqlite3.connect(path)
    try:
        connection.execute(f"PRAGMA page_size = {_PAGE}")
        connection.executescript(_TABLES)
        rows = {**facts, "uuid": uuid.uuid4().hex, "removals": "0"}
        with connection:
            connection.executemany("INSERT INTO fact VALUES (?, ?)", rows.items())
        connection.execute(f"PRAGMA application_id = {_OURS}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
    finally:
        connection.close()


class SqliteStore(Store):
    """A gallery in one SQLite file.

    What is removed is overwritten in the file. Large galleries have a second file, PATH-rows, which
    holds the same embeddings for the search to map; it is made when it is missing and may be
    deleted.

    Args:
        path: The file.

    Raises:
        ValueError: If there is no such file, or it is another one's or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        super().__init__(str(self.path), self.path.stem)
        if not self.path.is_file():
            raise ValueError(
                f"there is no gallery {self.place!r}; make one with centerarc gallery create"
            )
        # Of a link it is beside what that leads to, as the log of changes is.
        real = Path(os.path.realpath(self.path))
        self._rows_path = real.with_name(f"{real.name}-rows")
        self._lock = threading.RLock()
        self._connection = self._connected()
        with self._errors():
            kind = self._value("PRAGMA application_id")
            version = self._value("PRAGMA user_version")
        if kind != _OURS:
            self.close()
            raise ValueError(f"{self.place!r} is not a gallery of centerarc")
        if version != _VERSION:
            self.close()
            raise ValueError(
                f"{self.place!r} was made by another version of centerarc (format {version}, "
                f"here {_VERSION})"
            )
        with self._errors():  # only now: another's file stays as it is
            self._connection.execute("PRAGMA journal_mode = WAL")
        self._search: RowSearch | None = None
        self._photos = np.empty(0, np.int64)
        self._seen: tuple[str, int] = ("", 0)
        self._looked = (-1, -1)

    @classmethod
    def create(cls, path: str | os.PathLike[str], facts: Mapping[str, str]) -> Self:
        """Makes an empty gallery; see `SqliteStore`.

        Args:
            path: A file that is not there.
            facts: What it is to know of itself; "size" is the length of its embeddings.

        Raises:
            ValueError: If there is something already.
            OSError: If it cannot be written.
        """
        place = Path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        for end in ("-wal", "-journal"):
            left = place.with_name(place.name + end)
            if left.exists() and not place.exists():
                raise ValueError(
                    f"{str(left)!r} is left of a gallery that is gone, and would be taken for "
                    "changes of the new one; delete it"
                )
        try:
            place.touch(exist_ok=False)  # of two who make it at once one does
        except FileExistsError:
            raise ValueError(
                f"{str(place)!r} is there already; a new gallery needs a new name"
            ) from None
        try:
            with atomic_path(place) as temporary:
                _write_empty(temporary, facts)
        except BaseException as error:
            place.unlink(missing_ok=True)
            if isinstance(error, sqlite3.Error):
                raise OSError(f"{str(place)!r}: {error}") from error
            raise
        return cls(place)

    def readable(self) -> bool:
        """Returns whether the file is still there and answers."""
        return self.path.is_file() and super().readable()

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def _connected(self) -> sqlite3.Connection:
        # Where nothing can change SQLite needs no files beside this one.
        how = "?immutable=1" if self._fixed() else ""
        connection = sqlite3.connect(
            f"file:{quote(os.path.abspath(self.path))}{how}",
            timeout=_PATIENCE,
            isolation_level=None,
            check_same_thread=False,
            uri=True,
        )
        with self._errors():
            connection.execute("PRAGMA foreign_keys = ON")
            # KiB: the digests of a million photos, which are looked for in no order.
            connection.execute("PRAGMA cache_size = -65536")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _fixed(self) -> bool:
        """Whether the file is on a file system for reading only, and has no log of changes."""
        if not hasattr(os, "statvfs"):  # Windows
            return False
        fixed = bool(os.statvfs(self.path).f_flag & os.ST_RDONLY)
        return fixed and not Path(f"{os.path.realpath(self.path)}-wal").exists()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
                raise ValueError(
                    f"{self.place!r} is damaged or not a gallery ({error}); take a copy of it "
                    "from before"
                ) from error
            if name.startswith("SQLITE_BUSY"):
                raise OSError(
                    f"{self.place!r} is being changed by another process for more than "
                    f"{_PATIENCE:g} seconds; try again when it has ended"
                ) from error
            hint = ""
            if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
                hint = "; the file and its folder must be writable"
            raise OSError(f"{self.place!r}: {error}{hint}") from error

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk may have ended it
                    self._connection.execute("ROLLBACK")
                raise

    def _all(self, query: str, *values: Any) -> list[Any]:
        with self._lock, self._errors():
            return self._connection.execute(query, values).fetchall()

    def _change(self, statement: str, *values: Any) -> int:
        return self._connection.execute(statement, values).rowcount

    # Photos.

    def _insert(self, rows: Sequence[PhotoRow]) -> None:
        self._connection.executemany(
            "INSERT INTO photo (person, digest, face, place, added, facts, embedding) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((*row[:-1], row.embedding.tobytes()) for row in rows),
        )

    def remove(self, *, people: Sequence[int] = (), photos: Sequence[int] = ()) -> int:
        """Removes people with all their photos, and photos; returns how many photos went.

        The bytes are overwritten in the file, and the file of rows is deleted. People stay without
        photos.

        Raises:
            OSError: If they are removed, but another process has been reading for so long that they
                are still in the log of changes.
        """
        with self._changing():
            gone = self._delete(people, photos)
            self._change(
                "UPDATE fact SET value = CAST(value AS INTEGER) + 1 WHERE key = 'removals'"
            )
            # Where a page was split, a copy of what moved may be left in it, which nothing
            # overwrites: in indexes, whose entries come in any order.
            self._change("REINDEX")
        with self._lock, self._errors():
            self._search = None
            self._delete_rows()
            problem = self._empty_log()
        if problem:
            raise OSError(
                f"{gone} photos are removed from {self.place!r}, but {problem}, and they are in "
                "its log of changes until the last process that has it open closes it"
            )
        return gone

    def _empty_log(self) -> str:
        """Why what was there before is still in the log of changes; empty if it is not."""
        end = time.monotonic() + _PATIENCE
        try:
            while self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                # SQLite waits for readers, but not for another process that empties the log.
                if time.monotonic() > end:
                    return (
                        f"another process has been reading it for more than {_PATIENCE:g} seconds"
                    )
                time.sleep(0.01)
        except sqlite3.Error as error:  # a full disk
            return str(error)
        return ""

    # Search.

    def _delete_rows(self) -> None:
        """Deletes the file of rows, and what others have written of it so far."""
        path = self._rows_path
        path.unlink(missing_ok=True)
        stem, end = re.escape(path.stem), re.escape(path.suffix)
        for other in path.parent.iterdir():
            if re.fullmatch(rf"\.{stem}\.\d+-[0-9a-f]+{end}", other.name):
                other.unlink(missing_ok=True)

    def rows(self, after: int = 0) -> Rows:
        """Returns the embeddings of photos with numbers above one."""
        with self._lock, self._errors():
            count = self._value("SELECT count(*) FROM photo WHERE id > ?", after)
            photo, person = np.empty(count, np.int64), np.empty(count, np.int64)
            embedding = np.empty((count, int(self.facts["size"])), np.float32)
            at = 0
            for part in self._blocks(after):
                rows = slice(at, min(at + len(part.photo), count))
                kept = rows.stop - rows.start  # others may add while this reads
                photo[rows], person[rows] = part.photo[:kept], part.person[:kept]
                embedding[rows] = part.embedding[:kept]
                at = rows.stop
        return Rows(photo[:at], person[:at], embedding[:at])

    def _blocks(self, after: int) -> Iterator[Rows]:
        """The rows of photos with numbers above one, some thousand at a time."""
        size = int(self.facts["size"])
        query = "SELECT id, person, embedding FROM photo WHERE id > ? ORDER BY id"
        cursor = self._connection.execute(query, (after,))
        while found := cursor.fetchmany(_READ):
            photo, person, blobs = zip(*found, strict=True)
            blob = b"".join(one for one in blobs if isinstance(one, bytes))
            if len(blob) != len(found) * size * 4:
                raise ValueError(
                    f"{self.place!r} is damaged: a photo has an embedding of another size"
                )
            embedding = np.frombuffer(blob, "<f4").reshape(len(found), size)
            yield Rows(np.array(photo, np.int64), np.array(person, np.int64), embedding)

    def search(self, queries: Float32Array, count: int) -> Nearest:
        """Returns the nearest people of `(Q, D)` queries of unit length, as they are now.

        `row` of the result holds numbers of photos.
        """
        with self._lock:
            search = self._current()
            found = search.nearest(queries, count)
            inside = found.row >= 0
            found.row[inside] = self._photos[found.row[inside]]
        return found

    def _current(self) -> RowSearch:
        """The search in all rows; what others have changed is taken into account."""
        with self._errors():
            # The first changes with others' changes, the second with those of this connection.
            looked = (self._value("PRAGMA data_version"), self._connection.total_changes)
            if self._search is not None and looked == self._looked:
                return self._search
            self._connection.execute("BEGIN")  # one state of the file for all that is read
            try:
                state = (self.facts["removals"], self._value("SELECT max(id) FROM photo") or 0)
                if self._search is None or state != self._seen:
                    self._load(state)
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            if self.facts["removals"] != state[0]:  # while rows were written: they are in the file
                with suppress(OSError):
                    self._delete_rows()
        assert self._search is not None
        self._looked = looked
        return self._search

    def _load(self, state: tuple[str, int]) -> None:
        if self._search is not None and state[0] == self._seen[0]:
            new = self.rows(after=self._seen[1])
            if len(new.photo) + len(self._photos) == self._value("SELECT count(*) FROM photo"):
                parts = [*self._parts, new.embedding]
                person = np.concatenate([self._person, new.person])
                photos = np.concatenate([self._photos, new.photo])
                self._hold(parts, photos, person, state)
                return
        mapped, last = self._mapped(state[0])
        if self._value("SELECT count(*) FROM photo WHERE id > ?", last) >= _MAPPED_FROM:
            # A folder that cannot be written to is no hindrance.
            with suppress(OSError):
                self._write_rows(state, mapped, last)
                written, end = self._mapped(state[0])
                if written and end == state[1]:  # else another process has changed the file
                    mapped, last = written, end
        head = self._connection.execute(
            "SELECT id, person FROM photo WHERE id <= ? ORDER BY id", (last,)
        )
        old = np.fromiter(head, np.dtype((np.int64, 2)))
        rest = self.rows(after=last)
        photos, person = (np.concatenate(both) for both in zip(old.T, rest[:2], strict=True))
        self._hold([*mapped, rest.embedding], photos, person, state)

    def _hold(
        self,
        parts: list[Float32Array],
        photos: IntArray,
        person: IntArray,
        state: tuple[str, int],
    ) -> None:
        self._parts, self._photos, self._person = parts, photos, person
        self._search, self._seen = RowSearch(parts, person), state

    def _mapped(self, removals: str) -> tuple[list[Float32Array], int]:
        """The rows that the second file holds, and the number of the last photo among them."""
        try:
            with open(self._rows_path, "rb") as file:
                head = json.loads(file.read(_HEADER))
            facts = self.facts
            count = self._value("SELECT count(*) FROM photo WHERE id <= ?", head["last"])
            size = int(facts["size"])
            wanted = {"uuid": facts["uuid"], "removals": removals, "size": size, "rows": count}
            whole = self._rows_path.stat().st_size == _HEADER + 4 * size * count
            if count and whole and all(head[name] == value for name, value in wanted.items()):
                rows = np.memmap(self._rows_path, "<f4", "r", _HEADER, (count, size))
                return [np.asarray(rows)], int(head["last"])
            if head["uuid"] == facts["uuid"] and int(head["removals"]) < int(removals):
                self._rows_path.unlink()  # what was removed is in it
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError):
            pass  # it is not there, or of another state
        return [], 0

    def _write_rows(self, state: tuple[str, int], mapped: list[Float32Array], last: int) -> None:
        """Writes rows that are mapped already, and those of photos after the last of them."""
        facts = self.facts
        head = {"uuid": facts["uuid"], "removals": state[0], "size": int(facts["size"])}
        head |= {"rows": self._value("SELECT count(*) FROM photo"), "last": state[1]}
        with atomic_path(self._rows_path) as temporary, open(temporary, "wb") as file:
            file.write(json.dumps(head).encode().ljust(_HEADER))
            for part in mapped:
                np.ascontiguousarray(part, "<f4").tofile(file)
            for block in self._blocks(last):
                block.embedding.tofile(file)

    @property
    def index(self) -> None:
        """None: the search compares with all."""

    def make_index(self, recall: float) -> NoReturn:
        """Raises `ValueError`."""
        raise ValueError(
            f"an index needs a gallery at postgresql://, and {self.place!r} is a file, which is "
            "searched exactly"
        )

    def drop_index(self) -> None:
        """Does nothing."""

    def _damage(self) -> Iterator[str]:
        for (said,) in self._all("PRAGMA integrity_check"):
            if said != "ok":
                yield f"the file is damaged: {said}"
        for _ in self._all("PRAGMA foreign_key_check"):
            yield "a photo belongs to no person"
        mapped, last = self._mapped(self.facts["removals"])
        if mapped:
            rows = self.rows()
            held = rows.embedding[rows.photo <= last]
            if held.tobytes() != mapped[0].tobytes():
                yield f"{str(self._rows_path)!r} differs from the gallery; delete it"

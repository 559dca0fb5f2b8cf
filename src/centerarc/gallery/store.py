"""Where a gallery is kept: one SQLite file, changed by transactions, searched exactly."""

import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from centerarc.data.source import composed
from centerarc.gallery.search import Float32Array, IntArray, Nearest, RowSearch
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


class Person(NamedTuple):
    """Somebody in a gallery.

    Args:
        id: A number that stays, whatever the name becomes, and is never given again.
        name: In Unicode's composed form; no two people have the same.
        photos: How many there are.
    """

    id: int
    name: str
    photos: int


@dataclass(frozen=True)
class Photo:
    """A face that was enrolled, and where it came from.

    Args:
        id: A number that is never given again.
        person: The number of the person.
        place: The path of the photo when it was enrolled.
        digest: SHA-256 of the photo's bytes, in hexadecimal; of embeddings without a photo, theirs.
        face: Which of the photo's faces, from 0.
        added: When, in UTC (ISO 8601).
        facts: What was measured of the face, such as its box.
    """

    id: int
    person: int
    place: str
    digest: str
    face: int
    added: str
    facts: dict[str, Any]


@dataclass(frozen=True, eq=False)
class NewPhoto:
    """A face to enrol.

    Args:
        digest: SHA-256 of the photo's bytes.
        embedding: `(D,)` of unit length.
        place: The path of the photo.
        face: Which of its faces, from 0.
        facts: Anything that JSON holds.
    """

    digest: bytes
    embedding: Float32Array
    place: str = ""
    face: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


class Rows(NamedTuple):
    """Embeddings in the order in which they were enrolled.

    Args:
        photo: `(N,)` numbers of the photos.
        person: `(N,)` numbers of their people.
        embedding: `(N, D)` float32 of unit length.
    """

    photo: IntArray
    person: IntArray
    embedding: Float32Array


def person_name(name: str) -> str:
    """Returns a name as it is kept and compared; raises `ValueError` if it cannot be one."""
    kept = composed(name).strip()
    if not kept or not kept.isprintable():
        raise ValueError(f"name must be printable text, got {name!r}")
    return kept


class SqliteStore:
    """A gallery in one SQLite file.

    Every change is one transaction, which is there as a whole or not at all, wherever a process
    is killed. Several processes may read and change a gallery at the same time. What is removed
    is overwritten in the file. Large galleries have a second file, PATH-rows, which holds the same
    embeddings for the search to map; it is made when it is missing and may be deleted.

    Args:
        path: The file.

    Raises:
        ValueError: If there is no such file, or it is another one's or damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(
                f"there is no gallery {str(self.path)!r}; make one with centerarc gallery create"
            )
        self._lock = threading.RLock()
        self._connection = self._connected()
        with self._errors():
            kind = self._value("PRAGMA application_id")
            version = self._value("PRAGMA user_version")
        if kind != _OURS:
            self.close()
            raise ValueError(f"{str(self.path)!r} is not a gallery of centerarc")
        if version != _VERSION:
            self.close()
            raise ValueError(
                f"{str(self.path)!r} was made by another version of centerarc (format {version}, "
                f"here {_VERSION})"
            )
        self._search: RowSearch | None = None
        self._photos = np.empty(0, np.int64)
        self._seen: tuple[str, int] = ("", 0)

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
        if place.exists():
            raise ValueError(f"{str(place)!r} is there already; a new gallery needs a new name")
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(place) as temporary:
            connection = sqlite3.connect(temporary)
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
        return cls(place)

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    def _connected(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
        )
        with self._errors():
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        return connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
                raise ValueError(
                    f"{str(self.path)!r} is damaged or not a gallery ({error}); take a copy of it "
                    "from before"
                ) from error
            if name.startswith("SQLITE_BUSY"):
                raise OSError(
                    f"{str(self.path)!r} is being changed by another process for more than "
                    f"{_PATIENCE:g} seconds; try again when it has ended"
                ) from error
            raise OSError(f"{str(self.path)!r}: {error}") from error

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, of which nothing stays if the block fails."""
        with self._lock, self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _all(self, query: str, *values: Any) -> list[Any]:
        with self._lock, self._errors():
            return self._connection.execute(query, values).fetchall()

    def _value(self, query: str, *values: Any) -> Any:
        found = self._all(query, *values)
        return found[0][0] if found else None

    # What it knows of itself.

    @property
    def facts(self) -> dict[str, str]:
        """What was kept under each name, texts."""
        return dict(self._all("SELECT key, value FROM fact"))

    def keep(self, **facts: str) -> None:
        """Keeps texts under names, for those that are there instead."""
        with self._changing() as change:
            change.executemany("INSERT OR REPLACE INTO fact VALUES (?, ?)", facts.items())

    # People and their photos.

    def people(self) -> list[Person]:
        """Returns everybody, by name."""
        rows = self._all(
            "SELECT person.id, name, count(photo.id) FROM person LEFT JOIN photo "
            "ON photo.person = person.id GROUP BY person.id ORDER BY name"
        )
        return [Person(*row) for row in rows]

    def person(self, who: str | int) -> Person:
        """Returns somebody by name, or by number.

        Raises:
            ValueError: If there is no one of that name or number.
        """
        column, value = ("id", who) if isinstance(who, int) else ("name", composed(who).strip())
        rows = self._all(
            "SELECT id, name, (SELECT count(*) FROM photo WHERE person = person.id) "
            f"FROM person WHERE {column} = ?",
            value,
        )
        if not rows:
            import difflib

            names = [row[0] for row in self._all("SELECT name FROM person")]
            near = difflib.get_close_matches(str(who), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"there is no person {who!r} in {str(self.path)!r}{hint}")
        return Person(*rows[0])

    def names(self, people: IntArray) -> dict[int, str]:
        """Returns the names of people by their numbers, for those who are there."""
        wanted = json.dumps(np.unique(people).tolist())
        query = "SELECT id, name FROM person WHERE id IN (SELECT value FROM json_each(?))"
        return dict(self._all(query, wanted))

    def photos(self, person: int | None = None) -> Iterator[Photo]:
        """Yields the photos of one person or of all, in the order in which they were enrolled."""
        last = 0
        while True:
            rows = self._all(
                "SELECT id, person, place, hex(digest), face, added, facts FROM photo "
                "WHERE id > ? AND (? IS NULL OR person = ?) ORDER BY id LIMIT ?",
                *(last, person, person, _READ),
            )
            for number, owner, place, digest, face, added, facts in rows:
                yield Photo(number, owner, place, digest.lower(), face, added, json.loads(facts))
            if len(rows) < _READ:
                return
            last = rows[-1][0]

    def holder(self, digest: bytes) -> str | None:
        """Returns the name of the person whose photo has these bytes; None if there is none."""
        found: str | None = self._value(
            "SELECT name FROM photo JOIN person ON person.id = photo.person WHERE digest = ?",
            digest,
        )
        return found

    def add(self, photos: Sequence[tuple[str, NewPhoto]]) -> list[str]:
        """Enrols faces in one transaction; people who are not there are made.

        Args:
            photos: The name of the person and the face, each.

        Returns:
            For each of them "" if it was enrolled, else the name of the person of whom the same
            face of the same photo is there already.
        """
        size = int(self.facts["size"])
        for _, new in photos:
            if new.embedding.shape != (size,) or new.embedding.dtype != np.float32:
                raise ValueError(
                    f"embedding must be float32 of shape ({size},), got {new.embedding.dtype} "
                    f"{new.embedding.shape}"
                )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        names = {name: person_name(name) for name, _ in photos}
        kept = json.dumps([*dict.fromkeys(names.values())])
        with self._changing() as change:
            last = change.execute("SELECT max(id) FROM person").fetchone()[0] or 0
            change.execute(
                "INSERT INTO person (name) SELECT value FROM json_each(?) "
                "WHERE value NOT IN (SELECT name FROM person)",
                (kept,),
            )
            listed = "SELECT name, id FROM person WHERE name IN (SELECT value FROM json_each(?))"
            numbers = dict(change.execute(listed, (kept,)).fetchall())
            before = change.execute("SELECT max(id) FROM photo").fetchone()[0] or 0
            done = change.executemany(
                "INSERT OR IGNORE INTO photo (person, digest, face, place, added, facts, "
                "embedding) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        *(numbers[names[name]], new.digest, new.face, new.place, now),
                        *(
                            json.dumps(dict(new.facts)) if new.facts else "{}",
                            new.embedding.tobytes(),
                        ),
                    )
                    for name, new in photos
                ),
            )
            if done.rowcount == len(photos):
                return [""] * len(photos)
            # Of people of whom nothing new came, none is made.
            change.execute(
                "DELETE FROM person WHERE id > ? AND id NOT IN (SELECT person FROM photo)", (last,)
            )
            said, new_here = [], set()
            for _, new in photos:
                holder, number = change.execute(
                    "SELECT name, photo.id FROM photo JOIN person ON person.id = photo.person "
                    "WHERE digest = ? AND face = ?",
                    (new.digest, new.face),
                ).fetchone()
                said.append(holder if number <= before or number in new_here else "")
                new_here.add(number)
        return said

    def rename(self, person: int, name: str) -> None:
        """Gives a person another name.

        Raises:
            ValueError: If someone else has it.
        """
        kept = person_name(name)
        with self._changing() as change:
            taken = change.execute(
                "SELECT id FROM person WHERE name = ? AND id != ?", (kept, person)
            ).fetchone()
            if taken:
                raise ValueError(f"name must be no one else's, but {kept!r} is person {taken[0]}")
            change.execute("UPDATE person SET name = ? WHERE id = ?", (kept, person))

    def remove(self, *, people: Sequence[int] = (), photos: Sequence[int] = ()) -> int:
        """Removes people with all their photos, and photos; returns how many photos went.

        The bytes are overwritten in the file, and the file of rows is deleted. People stay without
        photos.
        """
        with self._changing() as change:
            before = change.execute("SELECT count(*) FROM photo").fetchone()[0]
            change.executemany("DELETE FROM photo WHERE id = ?", [(one,) for one in photos])
            change.executemany("DELETE FROM person WHERE id = ?", [(one,) for one in people])
            gone: int = before - change.execute("SELECT count(*) FROM photo").fetchone()[0]
            change.execute(
                "UPDATE fact SET value = CAST(value AS INTEGER) + 1 WHERE key = 'removals'"
            )
        with self._lock, self._errors():
            self._search = None
            self._rows_path.unlink(missing_ok=True)
            # What was there before is in the log of changes until that is emptied.
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return gone

    # Search.

    @property
    def _rows_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}-rows")

    def rows(self, after: int = 0) -> Rows:
        """Returns the embeddings of photos with numbers above one."""
        with self._lock, self._errors():
            size = int(self.facts["size"])
            query = "SELECT id, person, embedding FROM photo WHERE id > ? ORDER BY id"
            count = self._value("SELECT count(*) FROM photo WHERE id > ?", after)
            photo, person = np.empty(count, np.int64), np.empty(count, np.int64)
            embedding = np.empty((count, size), np.float32)
            at = 0
            cursor = self._connection.execute(query, (after,))
            while at < count and (found := cursor.fetchmany(min(_READ, count - at))):
                part = slice(at, at + len(found))
                photo[part], person[part] = zip(*((row[0], row[1]) for row in found), strict=True)
                blob = b"".join(row[2] for row in found)
                if len(blob) != len(found) * size * 4:
                    raise ValueError(
                        f"{str(self.path)!r} is damaged: a photo has an embedding of another size"
                    )
                embedding[part] = np.frombuffer(blob, "<f4").reshape(len(found), size)
                at = part.stop
        return Rows(photo[:at], person[:at], embedding[:at])

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
            self._connection.execute("BEGIN")  # one state of the file for all that is read
            try:
                state = (self.facts["removals"], self._value("SELECT max(id) FROM photo") or 0)
                if self._search is None or state != self._seen:
                    self._load(state)
            finally:
                self._connection.execute("ROLLBACK")
        assert self._search is not None
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
        head = self._all("SELECT id, person FROM photo WHERE id <= ? ORDER BY id", last)
        rest = self.rows(after=last)
        old = np.array(head, np.int64).reshape(-1, 2)
        photos, person = (np.concatenate(both) for both in zip(old.T, rest[:2], strict=True))
        if len(rest.photo) >= _MAPPED_FROM:
            # A folder that cannot be written to is no hindrance.
            with suppress(OSError):
                self._write_rows(state, [*mapped, rest.embedding])
                mapped, last = self._mapped(state[0])
                rest = rest._replace(embedding=rest.embedding[:0])
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
        except (OSError, ValueError, KeyError, TypeError):
            pass  # it is not there, or of another state
        return [], 0

    def _write_rows(self, state: tuple[str, int], parts: Sequence[Float32Array]) -> None:
        facts = self.facts
        head = {"uuid": facts["uuid"], "removals": state[0], "size": int(facts["size"])}
        head |= {"rows": sum(map(len, parts)), "last": state[1]}
        with atomic_path(self._rows_path) as temporary, open(temporary, "wb") as file:
            file.write(json.dumps(head).encode().ljust(_HEADER))
            for part in parts:
                np.ascontiguousarray(part, "<f4").tofile(file)

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the file, in words; nothing if all is well."""
        for (said,) in self._all("PRAGMA integrity_check"):
            if said != "ok":
                yield f"the file is damaged: {said}"
        for _ in self._all("PRAGMA foreign_key_check"):
            yield "a photo belongs to no person"
        rows = self.rows()
        lengths = np.linalg.norm(rows.embedding.astype(np.float64), axis=1)
        bad = ~(np.abs(lengths - 1) < 1e-3)
        for number in rows.photo[bad].tolist():
            yield f"the embedding of photo {number} does not have the length 1"
        mapped, last = self._mapped(self.facts["removals"])
        if mapped:
            held = rows.embedding[rows.photo <= last]
            if held.tobytes() != mapped[0].tobytes():
                yield f"{str(self._rows_path)!r} differs from the gallery; delete it"

"""Where a gallery is kept: its people, photos and embeddings in tables, changed by transactions."""

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from centerarc.data.source import composed
from centerarc.gallery.search import Float32Array, IntArray, Nearest

if TYPE_CHECKING:
    from centerarc.gallery.hnsw import Hnsw
    from centerarc.gallery.postgres import PostgresStore

# Photos that are listed at once, and values that one statement compares with.
_READ, _VALUES = 4096, 500
# They join or part letters, as names in Persian or Sinhala are written.
_JOINERS = {0x200C: None, 0x200D: None}
# What the databases can give people and photos.
_NUMBERS = range(1, 1 << 63)


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


class PhotoRow(NamedTuple):
    """A face to enrol as the tables have it, but for its number."""

    person: int
    digest: bytes
    face: int
    place: str
    added: str
    facts: str
    embedding: Float32Array


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
    shown = kept.translate(_JOINERS)
    if not shown or not shown.isprintable():
        raise ValueError(f"name must be printable text, got {name!r}")
    if re.fullmatch(r"id:\d+", kept):
        raise ValueError(f"name must not be as {name!r}, which stands for a person's number")
    return kept


def _text(place: str) -> str:
    """A path as text that can be kept, whatever bytes its name has."""
    return place.encode("utf-8", "backslashreplace").decode()


class Store(ABC):
    """A gallery's tables: facts, people and photos.

    Every change is one transaction, which is there as a whole or not at all, wherever a process
    is killed. Several processes may read and change a gallery at the same time.

    What both databases understand is said here, with `?` where a value goes; a store says how it
    is asked, and does by itself what depends on the database.

    Args:
        place: Where the gallery is, as messages name it.
        name: What it is called there.
    """

    def __init__(self, place: str, name: str) -> None:
        self.place, self.name = place, name

    @abstractmethod
    def close(self) -> None:
        """Closes the gallery."""

    @abstractmethod
    def _all(self, query: str, *values: Any) -> list[Any]:
        """The rows that a query returns."""

    @abstractmethod
    def _change(self, statement: str, *values: Any) -> int:
        """How many rows a statement changed."""

    @abstractmethod
    def _changing(self) -> AbstractContextManager[object]:
        """A transaction that excludes other changes; nothing stays if the block fails."""

    @abstractmethod
    def _insert(self, rows: Sequence[PhotoRow]) -> None:
        """Adds photos, none of which is there, in their order."""

    @abstractmethod
    def rows(self) -> Rows:
        """Returns all embeddings."""

    @abstractmethod
    def search(self, queries: Float32Array, count: int) -> Nearest:
        """Returns the nearest people of `(Q, D)` queries of unit length, as they are now.

        `row` of the result holds numbers of photos.
        """

    @property
    @abstractmethod
    def index(self) -> "Hnsw | None":
        """What the search looks into before it compares; None where it compares with all."""

    @abstractmethod
    def make_index(self, recall: float) -> "Hnsw":
        """Makes an index, so that a search compares only those with whom it finds.

        Args:
            recall: The share of the nearest people that is to be found, from 0 to 1.

        Raises:
            ValueError: If that cannot be had here.
        """

    @abstractmethod
    def drop_index(self) -> None:
        """Drops the index: the search compares with all."""

    @abstractmethod
    def remove(self, *, people: Sequence[int] = (), photos: Sequence[int] = ()) -> int:
        """Removes people with all their photos, and photos; returns how many photos went.

        People stay without photos.
        """

    @abstractmethod
    def _damage(self) -> Iterator[str]:
        """What is wrong beyond the embeddings, in words."""

    def _value(self, query: str, *values: Any) -> Any:
        found = self._all(query, *values)
        return found[0][0] if found else None

    # What it knows of itself.

    @property
    def facts(self) -> dict[str, str]:
        """What was kept under each name, texts."""
        return dict(self._all("SELECT key, value FROM fact"))

    @contextmanager
    def undamaged(self, what: str) -> Iterator[None]:
        """Says in a `ValueError` what is damaged, where the block cannot read what was kept."""
        try:
            yield
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.place!r} is damaged: {what} cannot be read; take a copy of it from before"
            ) from error

    def readable(self) -> bool:
        """Returns whether the gallery is there and answers."""
        try:
            return "size" in self.facts
        except (OSError, ValueError):
            return False

    def keep(self, **facts: str) -> None:
        """Keeps texts under names, for those that are there instead."""
        with self._changing():
            self._keep(facts)

    def _keep(self, facts: Mapping[str, str]) -> None:
        for fact in facts.items():
            self._change(
                "INSERT INTO fact VALUES (?, ?) ON CONFLICT (key) DO UPDATE "
                "SET value = excluded.value",
                *fact,
            )

    # People and their photos.

    def people(self) -> list[Person]:
        """Returns everybody, by name."""
        rows = self._all(
            "SELECT person.id, name, count(photo.id) FROM person LEFT JOIN photo "
            "ON photo.person = person.id GROUP BY person.id, name ORDER BY name"
        )
        return [Person(*row) for row in rows]

    def person(self, who: str | int) -> Person:
        """Returns somebody by name, or by number.

        Raises:
            ValueError: If there is no one of that name or number.
        """
        column, value = ("id", who) if isinstance(who, int) else ("name", composed(who).strip())
        query = (
            "SELECT id, name, (SELECT count(*) FROM photo WHERE person = person.id) "
            f"FROM person WHERE {column} = ?"
        )
        none = isinstance(who, int) and who not in _NUMBERS
        rows = [] if none else self._all(query, value)
        if not rows:
            import difflib

            names = [row[0] for row in self._all("SELECT name FROM person")]
            near = difflib.get_close_matches(str(who), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"there is no person {who!r} in {self.place!r}{hint}")
        return Person(*rows[0])

    def names(self, people: IntArray) -> dict[int, str]:
        """Returns the names of people by their numbers, for those who are there."""
        wanted = np.unique(people).tolist()
        return dict(self._among("SELECT id, name FROM person WHERE id IN", wanted))

    def _among(self, query: str, values: Sequence[Any]) -> Iterator[Any]:
        """The rows of a query that ends in IN, whose brackets get the values."""
        for some, marks in _blocks(values, "?"):
            yield from self._all(f"{query} ({marks})", *some)

    def photos(self, person: int | None = None) -> Iterator[Photo]:
        """Yields the photos of one person or of all, in the order in which they were enrolled."""
        last = 0
        whose, values = ("", ()) if person is None else ("AND person = ?", (person,))
        while rows := self._all(
            "SELECT id, person, place, digest, face, added, facts FROM photo "
            f"WHERE id > ? {whose} ORDER BY id LIMIT {_READ}",
            *(last, *values),
        ):
            for number, owner, place, digest, face, added, facts in rows:
                with self.undamaged(f"what is kept of photo {number}"):
                    about, sha256 = json.loads(facts), digest.hex()
                yield Photo(number, owner, place, sha256, face, added, about)
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
        texts = [json.dumps(dict(new.facts)) if new.facts else "{}" for _, new in photos]
        said, fresh = [], []
        with self._changing():
            held = self._holders([new.digest for _, new in photos])
            for (name, new), facts in zip(photos, texts, strict=True):
                key = (new.digest, new.face)
                said.append(held.get(key, ""))
                if key not in held:
                    held[key] = names[name]
                    fresh.append((names[name], new, facts))
            numbers = self._numbers([name for name, _, _ in fresh])
            self._insert(
                [
                    PhotoRow(
                        *(numbers[name], new.digest, new.face, _text(new.place), now, facts),
                        embedding=new.embedding,
                    )
                    for name, new, facts in fresh
                ]
            )
        return said

    def _holders(self, digests: Sequence[bytes]) -> dict[tuple[bytes, int], str]:
        """Whose the faces of photos are that are there."""
        query = (
            "SELECT digest, face, name FROM photo JOIN person ON person.id = photo.person "
            "WHERE digest IN"
        )
        found = self._among(query, [*dict.fromkeys(digests)])
        return {(digest, face): name for digest, face, name in found}

    def _numbers(self, names: Sequence[str]) -> dict[str, int]:
        """The numbers of people, who are made where they are not there."""
        wanted = [*dict.fromkeys(names)]
        listed = "SELECT name, id FROM person WHERE name IN"
        numbers = dict(self._among(listed, wanted))
        new = [name for name in wanted if name not in numbers]
        for some, marks in _blocks(new, "(?)"):
            self._change(f"INSERT INTO person (name) VALUES {marks}", *some)
        return numbers | dict(self._among(listed, new))

    def rename(self, person: int, name: str) -> None:
        """Gives a person another name.

        Raises:
            ValueError: If someone else has it.
        """
        kept = person_name(name)
        with self._changing():
            taken = self._value("SELECT id FROM person WHERE name = ?", kept)
            if taken not in (None, person):
                raise ValueError(f"name must be no one else's, but {kept!r} is person {taken}")
            self._change("UPDATE person SET name = ? WHERE id = ?", kept, person)

    def _delete(self, people: Sequence[int], photos: Sequence[int]) -> int:
        people, photos = ([one for one in each if one in _NUMBERS] for each in (people, photos))
        gone = 0
        for statement, values in (
            ("DELETE FROM photo WHERE id IN", photos),
            ("DELETE FROM photo WHERE person IN", people),
        ):
            for some, marks in _blocks(values, "?"):
                gone += self._change(f"{statement} ({marks})", *some)
        for some, marks in _blocks(people, "?"):
            self._change(f"DELETE FROM person WHERE id IN ({marks})", *some)
        return gone

    def whole(self) -> tuple[Float32Array, tuple[Photo, ...], dict[int, str]]:
        """Returns all that is there, also while others change the gallery.

        Returns:
            `(N, D)` embeddings, their photos, and the names of people by their numbers.
        """
        rows = self.rows()
        photos = {photo.id: photo for photo in self.photos()}
        names = {person.id: person.name for person in self.people()}
        known = [
            photo in photos and person in names
            for photo, person in zip(rows.photo.tolist(), rows.person.tolist(), strict=True)
        ]
        here = rows.photo[known].tolist() if known else []
        return rows.embedding[np.array(known, np.bool_)], tuple(photos[n] for n in here), names

    def problems(self) -> Iterator[str]:
        """Yields what is wrong with the gallery, in words; nothing if all is well."""
        yield from self._damage()
        try:
            for _ in self.photos():
                pass
            rows = self.rows()
        except ValueError as error:
            yield str(error)
            return
        lengths = np.linalg.norm(rows.embedding.astype(np.float64), axis=1)
        bad = ~(np.abs(lengths - 1) < 1e-3)
        for number in rows.photo[bad].tolist():
            yield f"the embedding of photo {number} does not have the length 1"


def _blocks(values: Sequence[Any], mark: str) -> Iterator[tuple[Sequence[Any], str]]:
    """Few enough values for one statement, and marks for them."""
    for first in range(0, len(values), _VALUES):
        some = values[first : first + _VALUES]
        yield some, ", ".join([mark] * len(some))


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether a gallery's place is a database and no file."""
    return isinstance(place, str) and place.startswith(("postgresql://", "postgres://"))


def _database() -> "type[PostgresStore]":
    try:
        from centerarc.gallery.postgres import PostgresStore
    except ImportError as error:
        raise ValueError(
            "a gallery in PostgreSQL needs psycopg; install it with: "
            f"pip install 'centerarc[postgres]' ({error})"
        ) from None
    return PostgresStore


def open_store(place: str | os.PathLike[str]) -> Store:
    """Opens the gallery in a file, or at a URL such as postgresql://host/database?gallery=people.

    Raises:
        ValueError: If there is none, or it is something else.
        OSError: If it cannot be reached.
    """
    if is_url(place):
        return _database()(str(place))
    from centerarc.gallery.sqlite import SqliteStore

    return SqliteStore(_file(place))


def create_store(place: str | os.PathLike[str], facts: Mapping[str, str]) -> Store:
    """Makes an empty gallery in a file or at a URL; see `open_store`.

    Args:
        place: Where no gallery is.
        facts: What it is to know of itself; "size" is the length of its embeddings.

    Raises:
        ValueError: If there is something already.
        OSError: If it cannot be written or reached.
    """
    if is_url(place):
        return _database().create(str(place), facts)
    from centerarc.gallery.sqlite import SqliteStore

    return SqliteStore.create(_file(place), facts)


def _file(place: str | os.PathLike[str]) -> str | os.PathLike[str]:
    scheme, separator, _ = str(place).partition("://")
    if separator and not os.path.exists(place):
        raise ValueError(f"a gallery is a file or a postgresql:// URL, got one of {scheme!r}")
    return place

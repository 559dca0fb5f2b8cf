"""A gallery in a schema of a PostgreSQL database, searched by pgvector."""

import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Self

import numpy as np
import psycopg
from psycopg import errors, sql

from centerarc.gallery import hnsw
from centerarc.gallery.search import Float32Array, Nearest, RowSearch
from centerarc.gallery.store import PhotoRow, Rows, Store
from centerarc.gallery.url import GalleryUrl

_VERSION = "1"
# Of pgvector: the most numbers of a vector that a table holds.
_MOST = 16_000
# The largest tuples that PostgreSQL keeps whole on its pages: others would be read by an index.
_TABLES = """
CREATE TABLE {schema}.fact (key text PRIMARY KEY, value text NOT NULL);
CREATE TABLE {schema}.person (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE CHECK (name IS NFC NORMALIZED)
);
CREATE TABLE {schema}.photo (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    person bigint NOT NULL REFERENCES {schema}.person (id) ON DELETE CASCADE,
    digest bytea NOT NULL,
    face integer NOT NULL,
    place text NOT NULL,
    added text NOT NULL,
    facts text NOT NULL,
    embedding {vectors}.vector({size}) NOT NULL,
    UNIQUE (digest, face)
) WITH (toast_tuple_target = 8160);
CREATE INDEX photo_of_person ON {schema}.photo (person);
"""
# All rows of the people whose best row is among the nearest, up to what rounding may decide.
_NEAREST = """
WITH score AS MATERIALIZED (
    SELECT id, person, embedding <#> {query} AS far FROM photo WHERE {which}
), best AS (
    SELECT min(far) AS far FROM score GROUP BY person ORDER BY 1 LIMIT {count}
)
SELECT id, person, embedding FROM photo WHERE id = ANY (ARRAY (
    SELECT id FROM score WHERE far <= (SELECT max(far) FROM best) + {slack}
))
"""
_EVERYONE = sql.SQL("true")
# Seconds that a change waits for one of another process.
_PATIENCE = 30.0
# From so many queries on all rows are read once and searched here, instead of once for each.
_MANY = 64
# The first bytes of what COPY writes in binary.
_MAGIC = b"PGCOPY\n\xff\r\n\0"


class PostgresStore(Store):
    """A gallery in one schema of a PostgreSQL database with the extension vector.

    The search is exact: pgvector computes the scores of all photos, and those that may be among the
    best are computed again here in float64, so that people, scores and order are those of a
    gallery in a file.

    Args:
        place: A URL such as `postgresql://user@host/database?gallery=people`. What it leaves out
            comes from the environment and ~/.pgpass, as for all programs of PostgreSQL.

    Raises:
        ValueError: If there is no such gallery.
        OSError: If the database cannot be reached, or refuses something.
    """

    def __init__(self, place: str) -> None:
        self._url = GalleryUrl.of(place)
        super().__init__(self._url.shown, self._url.gallery)
        self._lock = threading.RLock()
        self._inside = False
        with self._errors():
            self._connection = self._connected()
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, place: str, facts: Mapping[str, str]) -> Self:
        """Makes an empty gallery; see `PostgresStore`.

        The database must be there, in UTF-8. The schema and the extension vector are made if they
        are not.

        Args:
            place: A URL of a schema that is not there or empty.
            facts: What it is to know of itself; "size" is the length of its embeddings.

        Raises:
            ValueError: If there is something already, or embeddings are too long.
            OSError: If the database cannot be reached, or refuses something.
        """
        url = GalleryUrl.of(place)
        size = int(facts["size"])
        if size > _MOST:
            raise ValueError(
                f"embeddings must have at most {_MOST:,} numbers in PostgreSQL, as pgvector holds "
                f"no longer ones, got {size:,}; keep the gallery in a file"
            )
        with _errors(url.shown), psycopg.connect(**url.connection) as connection:
            _create(connection, url, size)
            connection.cursor().executemany(
                sql.SQL("INSERT INTO {}.fact VALUES (%s, %s)").format(sql.Identifier(url.gallery)),
                [*facts.items(), ("format", _VERSION)],
            )
        return cls(place)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def _connected(self) -> psycopg.Connection[Any]:
        connection = psycopg.connect(**self._url.connection, autocommit=True)
        path = sql.SQL(", ").join(map(sql.Identifier, self._schemas(connection)))
        connection.execute(sql.SQL("SET search_path TO {}").format(path))
        connection.execute(f"SET lock_timeout TO '{_PATIENCE:g}s'")
        return connection

    def _schemas(self, connection: psycopg.Connection[Any]) -> list[str]:
        vectors = _extension_schema(connection)
        return [self._url.gallery, *([vectors] if vectors else [])]

    def _check(self) -> None:
        if self._value("SELECT to_regclass(?)::text", f"{self._url.gallery}.fact") is None:
            raise ValueError(
                f"there is no gallery {self.place!r}; make one with centerarc gallery create"
            )
        with self._errors():
            try:
                version = dict(self._run("SELECT key, value FROM fact").fetchall()).get("format")
            except errors.UndefinedColumn:
                version = None
        if version is None:
            raise ValueError(f"{self.place!r} is not a gallery of centerarc")
        if version != _VERSION:
            raise ValueError(
                f"{self.place!r} was made by another version of centerarc (format {version}, here "
                f"{_VERSION})"
            )

    # Statements.

    def _errors(self) -> Any:
        return _errors(self.place)

    def _run(self, statement: Any, values: Any = ()) -> psycopg.Cursor[Any]:
        """A statement, on another connection where the last one has ended since."""
        try:
            return self._connection.execute(statement, values)
        except psycopg.OperationalError:
            if self._inside or not self._connection.closed:
                raise
            self._connection = self._connected()
            return self._connection.execute(statement, values)

    def _all(self, query: str, *values: Any) -> list[Any]:
        with self._lock, self._errors():
            return self._run(query.replace("?", "%s"), values).fetchall()

    def _change(self, statement: str, *values: Any) -> int:
        return self._run(statement.replace("?", "%s"), values).rowcount

    @contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        with self._lock, self._errors():
            self._run(f"BEGIN {kind}")
            self._inside = True
            try:
                yield
                self._run("COMMIT")
            except BaseException:
                with suppress(psycopg.Error):  # the connection may have ended
                    self._run("ROLLBACK")
                raise
            finally:
                self._inside = False

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with self._transaction("READ WRITE"):
            # One change after the other, as in a file; those who read do not wait.
            self._run("LOCK TABLE person IN SHARE ROW EXCLUSIVE MODE")
            yield

    # Photos.

    def _insert(self, rows: Sequence[PhotoRow]) -> None:
        types = ("int8", "bytea", "int4", "text", "text", "text")
        with self._connection.cursor().copy(
            "COPY photo (person, digest, face, place, added, facts, embedding) "
            "FROM STDIN (FORMAT BINARY)"
        ) as copy:
            copy.set_types([*types, "bytea"])  # bytes are sent as they are
            for row in rows:
                head = struct.pack(">hh", row.embedding.size, 0)
                copy.write_row((*row[:-1], head + row.embedding.astype(">f4").tobytes()))

    def remove(self, *, people: Sequence[int] = (), photos: Sequence[int] = ()) -> int:
        """Removes people with all their photos, and photos; returns how many photos went.

        Then VACUUM frees their place, where the user may: their bytes are in the database's files
        until others are written over them. People stay without photos.
        """
        # To mend an index takes minutes; the server does that by itself, later.
        kind = "SKIP_LOCKED" if self.index is None else "SKIP_LOCKED, INDEX_CLEANUP OFF"
        with self._changing():
            gone = self._delete(people, photos)
        if gone or people:
            with self._lock, self._errors():
                self._run(f"VACUUM ({kind}) person, photo")
        return gone

    # Search.

    def rows(self) -> Rows:
        """Returns all embeddings."""
        with self._lock, self._errors():
            return self._rows(sql.SQL("SELECT id, person, embedding FROM photo ORDER BY id"))

    def _rows(self, query: sql.Composable) -> Rows:
        """Numbers of photos and people, and embeddings, as one block of bytes."""
        size = int(self.facts["size"])
        statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(query)
        content = bytearray()
        with self._connection.cursor().copy(statement) as copy:
            for part in copy:
                content += part
        heads = {"columns": ">i2", "of_photo": ">i4", "photo": ">i8", "of_person": ">i4"}
        kinds = {"person": ">i8", "bytes": ">i4", "size": ">i2", "zero": ">i2"}
        row = np.dtype([*heads.items(), *kinds.items(), ("embedding", ">f4", (size,))])
        start = len(_MAGIC) + 8
        found = np.frombuffer(content, row, (len(content) - start - 2) // row.itemsize, start)
        if (found["photo"][1:] < found["photo"][:-1]).any():
            found = found[np.argsort(found["photo"])]
        return Rows(
            found["photo"].astype(np.int64),
            found["person"].astype(np.int64),
            found["embedding"].astype(np.float32),
        )

    def search(self, queries: Float32Array, count: int) -> Nearest:
        """Returns the nearest people of `(Q, D)` queries of unit length, as they are now.

        `row` of the result holds numbers of photos.
        """
        index = self.index
        if len(queries) >= _MANY and index is None:
            return _nearest(self.rows(), queries, count)
        with self._transaction("ISOLATION LEVEL REPEATABLE READ READ ONLY"):
            which: list[sql.Composable] = [_EVERYONE] * len(queries)
            if index is not None:
                which = self._indexed(queries, count, index.ef_search)
            found = [
                _nearest(self._near(query, count, some), query[None], count)
                for query, some in zip(queries, which, strict=True)
            ]
        if not found:
            return RowSearch([], np.empty(0, np.int64)).nearest(queries, count)
        return Nearest(*(np.concatenate(column) for column in zip(*found, strict=True)))

    def _near(self, query: Float32Array, count: int, which: sql.Composable) -> Rows:
        slack = 4 * (query.size + 4) * 2.0**-24  # of float32 sums, on both sides
        return self._rows(
            sql.SQL(_NEAREST).format(
                query=sql.SQL("{}::vector").format(sql.Literal(_text(query))),
                which=which,
                count=sql.Literal(count),
                slack=sql.Literal(slack),
            )
        )

    # The index.

    @property
    def index(self) -> hnsw.Hnsw | None:
        """What is known of the index; None without one."""
        kept = self._value("SELECT value FROM fact WHERE key = 'index'")
        return None if kept is None else hnsw.Hnsw.of(kept)

    def make_index(self, recall: float) -> hnsw.Hnsw:
        """Makes an index for the search, or makes it again, and measures what it finds.

        From then on a search compares people exactly whom the index finds: scores are right, but
        somebody may be missed. The index follows changes; its recall is that of when it was made.
        Changes wait until it is there.

        Args:
            recall: The share of the 10 nearest people that is to be found, from 0 to 1.

        Raises:
            ValueError: If embeddings are too long for an index, or `recall` is out of range.
        """
        if not 0 <= recall <= 1:
            raise ValueError(f"recall must be between 0 and 1, got {recall}")
        size = int(self.facts["size"])
        hnsw.check_size(size)
        self.drop_index()  # by itself: until its end those who search wait
        with self._changing():
            self._run(_memory(self._value("SELECT count(*) FROM photo"), size))
            try:
                self._run("SAVEPOINT building")
                self._run(hnsw.making(size))
            except (
                errors.DiskFull
            ):  # workers share memory in /dev/shm, of which containers have little
                self._run("ROLLBACK TO SAVEPOINT building")
                self._run("SET LOCAL max_parallel_maintenance_workers TO 0")
                self._run(hnsw.making(size))
            made = self._measured(recall)
            self._keep({"index": made.text()})
        return made

    def drop_index(self) -> None:
        """Drops the index: the search is exact again."""
        with self._changing():
            self._run(f"DROP INDEX IF EXISTS {self.name}.photo_hnsw")
            self._change("DELETE FROM fact WHERE key = 'index'")

    def _measured(self, recall: float) -> hnsw.Hnsw:
        count = self._value("SELECT count(*) FROM photo")
        drawn = self._all(f"SELECT id FROM photo ORDER BY random() LIMIT {hnsw.PROBES}")
        chosen = sql.SQL("SELECT id, person, embedding FROM photo WHERE id = ANY({})").format(
            sql.Literal([row[0] for row in drawn])
        )
        probes = self._rows(chosen)
        both = list(zip(probes.photo.tolist(), probes.embedding, strict=True))
        exact = []
        for photo, query in both:
            others = sql.SQL("id <> {}").format(sql.Literal(photo))
            near = _nearest(self._near(query, hnsw.NEAREST, others), query[None], hnsw.NEAREST)
            exact.append([person for person in near.person[0].tolist() if person >= 0])

        def found(ef_search: int) -> list[set[int]]:
            with self._looking(ef_search):
                near = [self._people(query, ef_search, photo) for photo, query in both]
            return [set(people[: hnsw.COMPARED]) for people in near]

        return hnsw.measured(exact, found, recall, count)

    def _indexed(self, queries: Float32Array, count: int, ef_search: int) -> list[sql.Composable]:
        """Conditions on photos: those of people whom the index finds; all if it finds too few."""
        which: list[sql.Composable] = [_EVERYONE] * len(queries)
        left = list(range(len(queries)))
        for looked_at in (ef_search, hnsw.EF_SEARCH[-1]):
            with self._looking(looked_at):
                for at in tuple(left):
                    people = self._people(queries[at], looked_at)
                    if len(people) >= count:
                        first = people[: max(count, hnsw.COMPARED)]
                        which[at] = sql.SQL("person = ANY({})").format(sql.Literal(first))
                        left.remove(at)
        return which

    @contextmanager
    def _looking(self, ef_search: int) -> Iterator[None]:
        """In a transaction: the index is used, and looks at so many photos."""
        setting = (
            "SELECT set_config('hnsw.ef_search', %s, true), set_config('enable_seqscan', %s, true),"
            " set_config('enable_sort', %s, true)"
        )
        self._run(setting, (str(ef_search), "off", "off"))
        yield
        self._run(setting, (str(ef_search), "on", "on"))

    def _people(self, query: Float32Array, ef_search: int, without: int = 0) -> list[int]:
        """Those whose photos the index finds, the nearest first."""
        near = hnsw.near(query.size, _text(query), ef_search, without)
        return [*dict.fromkeys(row[0] for row in self._run(near))]

    def _damage(self) -> Iterator[str]:
        valid = self._value(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(?)",
            f"{self.name}.photo_hnsw",
        )
        if self.index is not None and not valid:
            yield "the index is missing or broken; make it again with centerarc gallery index"


def _nearest(rows: Rows, queries: Float32Array, count: int) -> Nearest:
    found = RowSearch([rows.embedding], rows.person).nearest(queries, count)
    inside = found.row >= 0
    found.row[inside] = rows.photo[found.row[inside]]
    return found


def _text(query: Float32Array) -> str:
    return str(query.tolist())


def _memory(photos: int, size: int) -> str:
    """Lets the graph be built in memory, which takes a tenth of the time."""
    needed = max(64, min(2048, (photos * (size * 4 + 512) >> 20) + 16))
    return f"SET LOCAL maintenance_work_mem TO '{needed}MB'"


def _extension_schema(connection: psycopg.Connection[Any]) -> str | None:
    found = connection.execute(
        "SELECT nspname FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace "
        "WHERE extname = 'vector'"
    ).fetchone()
    return None if found is None else str(found[0])


def _create(connection: psycopg.Connection[Any], url: GalleryUrl, size: int) -> None:
    """The tables of a gallery, in the transaction that the connection is in."""
    schema = sql.Identifier(url.gallery)
    # Of several who make a gallery at once one is first.
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('centerarc', 0))")
    encoding = connection.execute("SHOW server_encoding").fetchone()
    if encoding != ("UTF8",):
        raise ValueError(f"{url.shown!r} must be a database in UTF8, got another encoding")
    if (vectors := _extension_schema(connection)) is None:
        try:
            connection.execute("CREATE EXTENSION vector SCHEMA public")
        except (errors.InsufficientPrivilege, errors.UndefinedFile, errors.FeatureNotSupported):
            raise ValueError(
                f"{url.shown!r} needs pgvector: install it on the server, and let an administrator "
                "run in this database: CREATE EXTENSION vector"
            ) from None
        vectors = "public"
    held = connection.execute(
        "SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
        "WHERE nspname = %s LIMIT 1",
        (url.gallery,),
    ).fetchone()
    if held is not None:
        raise ValueError(f"{url.shown!r} is there already; a new gallery needs a new name")
    there = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (url.gallery,))
    if there.fetchone() is None:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
    connection.execute(
        sql.SQL(_TABLES).format(schema=schema, vectors=sql.Identifier(vectors), size=size)
    )


@contextmanager
def _errors(place: str) -> Iterator[None]:
    """Errors of the database as the messages of one line that a gallery's are."""
    try:
        yield
    except errors.LockNotAvailable as error:
        raise OSError(
            f"{place!r} is being changed by another process for more than {_PATIENCE:g} seconds; "
            "try again when it has ended"
        ) from error
    except psycopg.Error as error:
        said = error.diag.message_primary or str(error)
        raise OSError(f"{place!r}: {' '.join(said.split())}") from error

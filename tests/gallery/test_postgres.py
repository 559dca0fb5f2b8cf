"""A gallery in PostgreSQL: its URL, passwords, what the server refuses, the index."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest

psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
# ruff: noqa: E402

from centerarc.gallery import Gallery, hnsw
from centerarc.gallery import postgres as postgres_module
from centerarc.gallery.hnsw import Hnsw, measured
from centerarc.gallery.postgres import PostgresStore
from centerarc.gallery.store import NewPhoto, open_store
from centerarc.gallery.url import GalleryUrl
from tests.gallery.test_search import drawn, expected
from tests.gallery.test_store import filled, photo
from tests.postgres import Server


@pytest.fixture
def store(postgres: Server) -> Iterator[PostgresStore]:
    made = PostgresStore.create(postgres.new(), {"size": "24"})
    yield made
    made.close()


# Places.


def test_a_url_names_database_and_gallery_and_hides_the_password() -> None:
    found = GalleryUrl.of("postgresql://ann:se%40cret@db:6000/faces?gallery=people&sslmode=require")
    assert found.gallery == "people"
    assert found.connection["password"] == "se@cret"
    assert found.shown == "postgresql://ann@db:6000/faces?sslmode=require&gallery=people"
    found = GalleryUrl.of("postgres:///faces?host=/run/pg&password=secret&sslpassword=secret")
    assert found.shown == "postgresql:///faces?host=/run/pg&gallery=centerarc"
    assert found.connection["password"] == "secret"
    assert found.connection["connect_timeout"] == "10"
    assert GalleryUrl.of(found.shown).connection["host"] == "/run/pg"
    found = GalleryUrl.of("postgresql://u:hu?sh#@db/faces?gallery=people")
    assert found.connection["password"] == "hu?sh#"
    assert found.shown == "postgresql://u@db/faces?gallery=people"
    several = GalleryUrl.of("postgresql://u@a:1,b:2/faces?connect_timeout=3")
    assert several.shown == "postgresql://u@a:1,b:2/faces?connect_timeout=3&gallery=centerarc"
    assert several.connection["connect_timeout"] == "3"
    plain = GalleryUrl.of("postgresql://")
    assert plain.shown == "postgresql:///?gallery=centerarc"
    assert "dbname" not in plain.connection
    assert GalleryUrl.of("postgresql://u@[::1]:5/d").shown.startswith("postgresql://u@[::1]:5/d?")


@pytest.mark.parametrize("name", ["", "Über", "a b", "1a", "pg_x", "a" * 64, 'a"b', "a;b"])
def test_names_of_galleries_are_plain(name: str) -> None:
    with pytest.raises(ValueError, match="gallery must be a name of small letters"):
        GalleryUrl.of(f"postgresql://db/faces?gallery={name}")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hush/hush@db/f",
        "postgresql://u:hush@db/f?nonsense",
        "postgresql://[x",
    ],
)
def test_a_wrong_url_is_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="gallery must be a URL such as") as error:
        GalleryUrl.of(url)
    assert "hush" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_password_is_nowhere(postgres: Server) -> None:
    url = postgres.new().replace("postgres@", "postgres:hush-hush@")
    with pytest.raises(ValueError, match="there is no gallery") as missing:
        PostgresStore(url)
    with Gallery.create(url, embedding_size=3) as gallery:
        assert "hush" not in str(gallery.store.facts)
        assert "hush" not in gallery.store.place
        open_store(gallery.store.place).close()
    with pytest.raises(ValueError, match="is there already") as there:
        Gallery.create(url, embedding_size=3)
    with pytest.raises(OSError, match=r'role "nobody_here" does not exist') as refused:
        open_store(url.replace("postgres:", "nobody_here:"))
    for error in (missing, there, refused):
        assert "hush" not in str(error.value)
        assert "\n" not in str(error.value)


def test_without_psycopg_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "centerarc.gallery.postgres")
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ValueError, match=r"needs psycopg; install it with: pip install .*postgres"):
        open_store("postgresql://ann:hush@db/faces")


def test_galleries_of_one_database_are_apart(postgres: Server) -> None:
    urls = [postgres.new(), postgres.new()]
    galleries = [
        Gallery.create(url, embedding_size=size) for url, size in zip(urls, (2, 3), strict=True)
    ]
    galleries[0].add_embeddings(["Ann"], np.eye(2)[:1])
    galleries[1].add_embeddings(["Bob"], np.eye(3)[:1])
    for url, name, gallery in zip(urls, ("Ann", "Bob"), galleries, strict=True):
        gallery.close()
        with Gallery(url) as opened:
            assert [one.name for one in opened.people()] == [name]
            assert opened.store.name in url


def test_what_is_no_gallery_is_named(postgres: Server) -> None:
    url = postgres.new()
    name = GalleryUrl.of(url).gallery
    with pytest.raises(ValueError, match=r"there is no gallery .*gallery create"):
        open_store(url)
    postgres.sql(f"CREATE SCHEMA {name}", "CREATE TABLE IF NOT EXISTS public.fact (a int)")
    with pytest.raises(ValueError, match="there is no gallery"):
        open_store(url)
    postgres.sql(f"CREATE TABLE {name}.fact (a int)", "DROP TABLE public.fact")
    with pytest.raises(ValueError, match="is not a gallery of centerarc"):
        open_store(url)
    with pytest.raises(ValueError, match="is there already"):
        PostgresStore.create(url, {"size": "24"})
    postgres.sql(f"DROP TABLE {name}.fact")
    PostgresStore.create(url, {"size": "24"}).close()  # into a schema that an administrator made
    postgres.sql(f"UPDATE {name}.fact SET value = '9' WHERE key = 'format'")
    with pytest.raises(ValueError, match=r"another version of centerarc \(format 9, here 1\)"):
        open_store(url)


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(OSError, match=r"postgresql:///x\?host=/nowhere&gallery=centerarc.*No such"):
        open_store("postgresql:///x?host=/nowhere")


def test_who_may_not_change_a_gallery_is_told(postgres: Server, store: PostgresStore) -> None:
    rows = filled(store)
    postgres.sql(
        "DROP ROLE IF EXISTS reader",
        "CREATE ROLE reader LOGIN",
        f"GRANT USAGE ON SCHEMA {store.name} TO reader",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {store.name} TO reader",
    )
    reader = open_store(postgres.url(store.name, "reader"))
    assert reader.search(rows[:1], 1).row.tolist() == [[1]]
    with pytest.raises(OSError, match="permission denied for table person"):
        reader.remove(people=[1])
    reader.close()
    assert len(store.people()) == 3
    with pytest.raises(OSError, match="permission denied for database"):
        PostgresStore.create(postgres.url("readers_own", "reader"), {"size": "3"})


def test_a_database_without_pgvector_or_utf8_is_named(postgres: Server) -> None:
    postgres.sql(
        "CREATE DATABASE plain",
        "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0",
        "DROP ROLE IF EXISTS owner",
        "CREATE ROLE owner LOGIN",
        "GRANT CREATE ON DATABASE plain TO owner",
    )
    with pytest.raises(ValueError, match=r"needs pgvector: .* CREATE EXTENSION vector"):
        PostgresStore.create(
            postgres.url("x", "owner").replace("/postgres?", "/plain?"), {"size": "3"}
        )
    with pytest.raises(ValueError, match="must be a database in UTF8"):
        PostgresStore.create(postgres.url("x").replace("/postgres?", "/latin?"), {"size": "3"})


# Changes.


def test_another_one_that_changes_for_long_is_named(
    postgres: Server, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_module, "_PATIENCE", 0.1)
    waiting = PostgresStore(store.place)
    with psycopg.connect(postgres.conninfo) as other:
        other.execute(f"INSERT INTO {store.name}.person (name) VALUES ('B')")
        with pytest.raises(OSError, match="is being changed by another process"):
            waiting.add([("A", photo(drawn(1)[0]))])
        assert waiting.people() == []  # those who read do not wait
        other.rollback()
    assert waiting.add([("A", photo(drawn(1)[0]))]) == [""]
    waiting.close()


def test_a_connection_that_ended_is_made_again(postgres: Server, store: PostgresStore) -> None:
    rows = filled(store)
    for use in (
        lambda: store.add([("D", photo(drawn(7)[6]))]),
        lambda: store.search(rows[:1], 1),
        store.people,
        store.rows,
    ):
        postgres.sql(
            "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity "
            "WHERE application_name = 'centerarc'"
        )
        assert use() is not None
    assert len(store.people()) == 4


def test_names_that_are_not_composed_are_refused_by_the_database(
    postgres: Server, store: PostgresStore
) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        postgres.sql(f"INSERT INTO {store.name}.person (name) VALUES (U&'Zoe\\0308')")


def test_long_embeddings(postgres: Server) -> None:
    with pytest.raises(ValueError, match=r"at most 16,000 numbers in PostgreSQL.*got 16,001"):
        Gallery.create(postgres.new(), embedding_size=16_001)
    for size in (2_500, 5_000):
        with Gallery.create(postgres.new(), embedding_size=size) as gallery:
            rows = drawn(30, size)
            gallery.add_embeddings([f"P{n // 2}" for n in range(30)], rows)
            assert gallery.identify_embeddings(rows[3:4])[0].candidates[0].photo == 4
            if size > 4_000:
                with pytest.raises(ValueError, match="at most 4,000 numbers for an index"):
                    gallery.store.make_index(0.9)
            else:
                assert gallery.store.make_index(0.9).recall > 0.9
                assert gallery.identify_embeddings(rows[3:4])[0].candidates[0].photo == 4
            assert not list(gallery.check())


def test_problems_are_found(postgres: Server, store: PostgresStore) -> None:
    filled(store)
    store.make_index(0.9)
    assert not list(store.problems())
    short = "[" + ",".join(["0.1"] * 24) + "]"
    postgres.sql(
        f"UPDATE {store.name}.photo SET embedding = '{short}' WHERE id = 2",
        f"DROP INDEX {store.name}.photo_hnsw",
    )
    assert list(store.problems()) == [
        "the index is missing or broken; make it again with centerarc gallery index",
        "the embedding of photo 2 does not have the length 1",
    ]


def test_removal_frees_the_rows(postgres: Server, store: PostgresStore) -> None:
    filled(store)
    store.remove(people=[1, 2])
    (dead,) = postgres.sql(
        f"SELECT n_dead_tup FROM pg_stat_all_tables WHERE relid = '{store.name}.photo'::regclass",
    )
    assert dead == (0,)


# The index.


def test_the_index_is_used_and_scores_stay_exact(postgres: Server, store: PostgresStore) -> None:
    rows = drawn(3000)
    store.add([(f"P{at // 3}", NewPhoto(at.to_bytes(32), row)) for at, row in enumerate(rows)])
    made = store.make_index(0.95)
    assert made == store.index
    assert made.photos == 3000
    assert made.recall >= 0.95
    assert made.probes == 200
    queries, kept = drawn(100, seed=7), store.rows()
    before = _scans(postgres, store)
    found = store.search(queries, 5)
    assert _scans(postgres, store) >= before + 100
    hits = 0
    for at, answer in enumerate(expected(kept.embedding, kept.person, queries, 5)):
        truth = {person: (score, kept.photo[row]) for score, person, row in answer}
        for score, person, row in zip(
            found.score[at], found.person[at], found.row[at], strict=True
        ):
            if int(person) in truth:
                hits += 1
                assert truth[int(person)] == (pytest.approx(score, abs=1e-12), row)
        assert (np.diff(found.score[at]) <= 0).all()
    assert hits > 0.85 * 500
    other = open_store(store.place)  # whoever opens it searches by the index
    assert other.index == made
    other.close()
    store.drop_index()
    assert store.index is None
    exact = store.search(queries[:3], 5)
    answers = expected(kept.embedding, kept.person, queries[:3], 5)
    assert [row.tolist() for row in exact.person] == [[p for _, p, _ in one] for one in answers]


def _scans(postgres: Server, store: PostgresStore) -> int:
    store._all("SELECT pg_stat_force_next_flush()::text")
    ((count,),) = postgres.sql(
        f"SELECT idx_scan FROM pg_stat_all_indexes WHERE schemaname = '{store.name}' "
        "AND indexrelname = 'photo_hnsw'"
    )
    return int(count)


def test_an_index_is_that_of_its_gallery(postgres: Server, store: PostgresStore) -> None:
    with Gallery.create(postgres.url("public"), embedding_size=24) as public:
        public.add_embeddings(["A", "B"], drawn(2))
        made = public.store.make_index(0.9)
        assert store.index is None
        store.drop_index()
        assert public.store.index == made
        assert not list(public.check())
    postgres.sql("DROP TABLE public.photo, public.person, public.fact")


def test_searches_do_not_wait_for_an_index(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = filled(store)
    store.make_index(0.9)
    monkeypatch.setattr(postgres_module, "_PATIENCE", 0.1)
    other = PostgresStore(store.place)
    measured_here = store._measured

    def measuring(recall: float) -> Hnsw:
        assert other.search(rows[:1], 1).row.tolist() == [[1]]
        with pytest.raises(OSError, match="is being changed by another process"):
            other.rename(1, "Ann")
        return measured_here(recall)

    monkeypatch.setattr(store, "_measured", measuring)
    store.make_index(0.9)
    other.close()


def test_an_index_is_made_where_workers_have_no_memory(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(store)
    whole = hnsw.making(24)
    said = iter(["DO $$ BEGIN RAISE EXCEPTION SQLSTATE '53100'; END $$", whole])
    monkeypatch.setattr(hnsw, "making", lambda _: next(said))
    assert store.make_index(0.9).photos == 5
    assert not list(store.problems())
    assert store._value("SHOW max_parallel_maintenance_workers") == "2"  # for that index alone


def test_people_with_many_photos_do_not_hide_others(store: PostgresStore) -> None:
    base = drawn(1)[0]
    rows = base + 0.01 * drawn(1500)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    new = [("A", NewPhoto(at.to_bytes(32), row)) for at, row in enumerate(rows)]
    new += [("B", photo(drawn(2)[1])), ("C", photo(-base))]
    store.add(new)
    store.make_index(0.5)
    found = store.search(base[None], 4)
    assert found.person.tolist() == [[1, 2, 3, -1]]


def test_the_fewest_photos_that_reach_the_recall_are_looked_at() -> None:
    exact = [[1, 2], [3, 4]]

    def found(ef_search: int) -> list[set[int]]:
        return [{1, 2}, {3, 4} if ef_search >= 160 else {4}]

    assert measured(exact, found, 0.75, 9) == Hnsw(40, 0.5, 0.75, 2, 9)
    assert measured(exact, found, 0.99, 9) == Hnsw(160, 1.0, 1.0, 2, 9)
    never = measured(exact, lambda _: [{1}, set()], 0.99, 9)
    assert never == Hnsw(1000, 0.5, 0.25, 2, 9)
    assert "90" not in never.words()
    assert measured([], lambda _: [], 0.99, 0).words().endswith("the gallery was empty")
    with pytest.raises(ValueError, match="recall must be between 0 and 1, got 2"):
        PostgresStore.make_index(None, 2)  # type: ignore[arg-type]

"""A gallery over HTTP: what it answers, what it refuses, and what is left when it is killed."""

import contextlib
import logging
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("httpx2")

from starlette.testclient import TestClient

from centerarc.cli import main
from centerarc.cli.gallery import opened_gallery
from centerarc.gallery import Gallery, Thresholds
from centerarc.gallery.guard import Limits, Rates, check_token
from centerarc.gallery.server import GalleryServer
from centerarc.gallery.serving import serve
from centerarc.gallery.worker import enroll as enroll_in
from tests.curate.drawn_photos import drawn_photo, needs_carrier
from tests.gallery.serving import face, made_gallery, served

TOKEN = "an-example-token-of-32-characters"


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_gallery(tmp_path_factory.mktemp("served"))


@pytest.fixture
def path(empty: Path, tmp_path: Path) -> Path:
    Path(tmp_path / "people.db").write_bytes(empty.read_bytes())
    return tmp_path / "people.db"


Open = Callable[..., TestClient]


@pytest.fixture
def open_client(path: Path) -> Iterator[Open]:
    with contextlib.ExitStack() as stack:

        def make(limits: Limits | None = None, **options: Any) -> TestClient:
            gallery = opened_gallery(path, photos=True)
            limits = limits or Limits(rate=0)
            made = GalleryServer(gallery, limits, **options)
            return stack.enter_context(
                TestClient(made.app, base_url="http://localhost:8000")  # type: ignore[arg-type]
            )

        yield make


@pytest.fixture
def client(open_client: Open) -> TestClient:
    return open_client(thresholds=Thresholds(0.99, 0.5))


def enroll(client: TestClient, name: str, *numbers: int) -> Any:
    files = [("photo", (f"{number}.png", face(number), "image/png")) for number in numbers]
    return client.post(f"/people/{name}/photos", files=files)


# What it answers.


def test_people_are_enrolled_and_identified(client: TestClient) -> None:
    made = enroll(client, "Ann Lee", 1, 2)
    assert made.status_code == 201
    assert made.json() == {
        "person": {"id": 1, "name": "Ann Lee", "photos": 2},
        "photos": 2 * [{"status": "added", "reason": None}],
    }
    assert client.post("/people/Bob/photos", content=face(3)).status_code == 201
    found = client.post("/identify", content=face(2), params={"candidates": 1})
    assert found.status_code == 200
    answer = found.json()
    assert (answer["width"], answer["height"]) == (32, 32)
    assert answer["reason"] is None
    assert answer["thresholds"] == {"accept": 0.99, "reject": 0.5, "margin": 0}
    [one] = answer["faces"]
    assert one["box"] == {"x": 0, "y": 0, "width": 32, "height": 32}
    assert (one["name"], one["person"], one["verdict"]) == ("Ann Lee", 1, "accepted")
    assert one["score"] == pytest.approx(1, abs=1e-5)
    assert [who["name"] for who in one["candidates"]] == ["Ann Lee"]
    assert one["refused"] is one["strangers"] is None


def test_the_scores_are_those_of_the_gallery(client: TestClient, path: Path) -> None:
    for number in range(6):
        enroll(client, f"P{number}", number)
    answer = client.post("/identify", files={"photo": face(40)}).json()["faces"][0]
    with contextlib.closing(opened_gallery(path, photos=True)) as gallery:
        [[expected]] = gallery.identify([face(40)], Thresholds(0.99, 0.5))
    assert [(who["name"], who["score"]) for who in answer["candidates"]] == [
        (who.name, pytest.approx(who.score, abs=1e-5)) for who in expected.candidates
    ]
    assert answer["verdict"] == expected.verdict


def test_what_is_known_or_no_photo_is_said(client: TestClient) -> None:
    enroll(client, "Ann", 1)
    again = enroll(client, "Bob", 1)
    assert again.status_code == 200
    assert again.json() == {
        "person": None,
        "photos": [{"status": "known", "reason": "the same photo is there as Ann's"}],
    }
    both = client.post(
        "/people/Bob/photos", files=[("photo", b"no photo"), ("photo", face(2)), ("photo", face(2))]
    )
    assert both.status_code == 201
    assert [one["status"] for one in both.json()["photos"]] == ["refused", "added", "known"]
    assert both.json()["photos"][0]["reason"].startswith("unreadable: ")
    refused = client.post("/people/Cyd/photos", content=b"no photo")
    assert refused.status_code == 422
    assert refused.json()["person"] is None
    assert [one["name"] for one in client.get("/people").json()["people"]] == ["Ann", "Bob"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 422, "there is no photo"),
        (b"no photo", 422, "image"),
        (face(1)[:600], 422, ""),
        (cv2.imencode(".png", np.zeros((9, 12, 3), np.uint8))[1].tobytes(), 422, "12 x 9 pixels"),
    ],
)
def test_what_cannot_be_identified_is_one_line(
    client: TestClient, body: bytes, status: int, said: str
) -> None:
    answer = client.post("/identify", content=body)
    assert answer.status_code == status
    assert said in answer.json()["detail"]
    assert len(answer.json()["detail"].splitlines()) == 1
    assert client.post("/identify", content=face(1)).status_code == 200


def test_a_picture_of_too_many_pixels_is_413(client: TestClient) -> None:
    bomb = cv2.imencode(".png", np.zeros((8001, 8000), np.uint8))[1].tobytes()
    for path in ("/identify", "/people/Ann/photos"):
        answer = client.post(path, content=bomb)
        assert answer.status_code == 413
        assert "at most 64000000 are decoded" in answer.text


def test_people_are_listed_renamed_and_removed(client: TestClient) -> None:
    for number, name in enumerate(["Cyd", "Ann", "Bob"]):
        enroll(client, name, number)
    listed = client.get("/people", params={"offset": 1, "limit": 1}).json()
    assert listed == {"total": 3, "people": [{"id": 3, "name": "Bob", "photos": 1}]}
    shown = client.get("/people/2").json()
    assert (shown["name"], shown["photos"], shown["photo_list"][0]["file"]) == ("Ann", 1, "")
    assert client.patch("/people/2", json={"name": "Bob"}).status_code == 409
    assert client.patch("/people/2", json={"name": "\n"}).status_code == 422
    assert client.patch("/people/2", json={"name": "Zoë"}).json()["name"] == "Zoë"
    assert client.patch("/people/9", json={"name": "x"}).status_code == 404
    assert client.delete("/people/3").json() == {"photos": 1}
    assert client.delete("/people/3").status_code == 404
    assert client.delete(f"/photos/{shown['photo_list'][0]['id']}").json() == {"photos": 1}
    assert client.delete("/photos/99").status_code == 404
    assert client.get("/people/2").json()["photos"] == 0
    assert client.get("/people/none").status_code == 422
    assert len(client.get("/people/none").json()["detail"].splitlines()) == 1


def test_names_may_hold_slashes(client: TestClient) -> None:
    assert client.post("/people/A%2FB/photos", content=face(1)).json()["person"]["name"] == "A/B"


def test_what_is_removed_is_in_no_file_any_more(client: TestClient, path: Path) -> None:
    enroll(client, "Removed Person", 1)
    enroll(client, "Another", 2)
    connection = sqlite3.connect(path)
    [(row,)] = connection.execute("SELECT embedding FROM photo WHERE person = 1").fetchall()
    connection.close()

    def kept(what: bytes) -> bool:
        return any(what in file.read_bytes() for file in path.parent.glob("people.db*"))

    assert kept(row)
    assert kept(b"Removed Person")
    assert client.delete("/people/1").status_code == 200
    assert not kept(row)
    assert not kept(b"Removed Person")


def test_changes_that_others_make_are_seen(client: TestClient, path: Path) -> None:
    enroll(client, "Ann", 1)
    client.post("/identify", content=face(1))
    with contextlib.closing(opened_gallery(path, photos=True)) as other:
        enroll_in(other, "Bob", [face(2)], [""])
        other.remove("Ann")
    [one] = client.post("/identify", content=face(2)).json()["faces"]
    assert [who["name"] for who in one["candidates"]] == ["Bob"]


def test_photos_are_kept_only_where_that_is_asked_for(
    open_client: Open, path: Path, tmp_path: Path
) -> None:
    enroll(open_client(), "Ann", 1)
    before = {file.name for file in tmp_path.rglob("*")}
    assert before <= {"people.db", "people.db-wal", "people.db-shm"}
    client = open_client(keep_photos=tmp_path / "kept")
    client.post("/identify", content=face(7))
    assert not (tmp_path / "kept").exists()
    enroll(client, "Bob", 2, 3)
    shown = client.get("/people/2").json()["photo_list"]
    kept = [tmp_path / "kept" / one["file"] for one in shown]
    assert [file.read_bytes() for file in kept] == [face(2), face(3)]
    client.delete(f"/photos/{shown[0]['id']}")
    assert [file.read_bytes() for file in (tmp_path / "kept").iterdir()] == [face(3)]
    client.delete("/people/2")
    assert not list((tmp_path / "kept").iterdir())


@needs_carrier
def test_the_faces_of_a_photo_have_boxes_and_reasons(empty: Path, tmp_path: Path) -> None:
    from centerarc.cli.gallery import create

    path = tmp_path / "found.db"
    create(path, model=str(empty.with_name("w.safetensors")))
    photo, blank = drawn_photo((20, 30), (180, 90)), np.zeros((64, 64, 3), np.uint8)
    encoded = cv2.imencode(".png", photo[:, :, ::-1])[1].tobytes()
    tiny = cv2.resize(photo, None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA)
    server = GalleryServer(opened_gallery(path, photos=True), Limits())
    with TestClient(server.app, base_url="http://localhost") as client:  # type: ignore[arg-type]
        answer = client.post("/identify", content=encoded).json()
        height, width = photo.shape[:2]
        assert (answer["width"], answer["height"]) == (width, height)
        for one in answer["faces"]:
            assert 0 < one["detection"] <= 1
            assert one["box"]["width"] > 20
        assert {one["verdict"] for one in answer["faces"]} <= {"no threshold", "unknown"}
        assert answer["faces"]
        small = cv2.imencode(".png", tiny[:, :, ::-1])[1].tobytes()
        for one in client.post("/identify", content=small).json()["faces"]:
            assert one["refused"] in ("too small", "blurred", "bad landmarks")
            assert one["detail"]
        none = client.post("/identify", content=cv2.imencode(".png", blank)[1].tobytes()).json()
        assert none["faces"] == []
        assert none["reason"].startswith("none: no face")


def test_health_metrics_and_the_schema(client: TestClient, path: Path) -> None:
    assert client.get("/health").json() == {"ready": True, "gallery": True}
    enroll(client, "Ann Lee", 1)
    client.get("/nowhere/Ann")
    client.request("MADEUP", "/people")
    text = client.get("/metrics").text
    assert 'requests_total{method="POST",route="/people/{name:path}/photos",status="201"} 1' in text
    assert 'requests_total{method="any",route="none",status="404"} 1' in text
    assert "centerarc_photos 1" in text.splitlines()
    assert "centerarc_queue 0" in text.splitlines()
    assert "Ann" not in text
    assert "MADEUP" not in text
    schema = client.get("/openapi.json").json()
    operations = [one for item in schema["paths"].values() for one in item.values()]
    assert all(one["summary"] and one["description"] for one in operations)
    body = schema["paths"]["/identify"]["post"]["requestBody"]["content"]
    assert set(body) == {"image/*", "application/octet-stream", "multipart/form-data"}
    path.rename(path.with_name("moved.db"))
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["gallery"]) == (503, False)


# What it refuses.


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401),
        ({"Authorization": "Bearer \xe4".encode("latin-1")}, 401),
        ({"Authorization": f"Bearer {TOKEN}"}, 200),
        ({"Authorization": f"bearer {TOKEN}", "Host": "faces.example.org"}, 200),
    ],
)
def test_a_token_is_wanted(open_client: Open, headers: Any, status: int) -> None:
    client = open_client(token=TOKEN)
    for path in ("/people", "/metrics", "/openapi.json"):
        answer = client.get(path, headers=headers)
        assert answer.status_code == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.post("/identify", content=face(1), headers=headers).status_code == status
    assert client.delete("/people/1", headers=headers).status_code in (status, 404)
    assert client.get("/health").status_code == 200
    assert "wanted" in client.get("/").text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example:8000"}, 403),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "[::1"}, 403),
        ({"Host": "127.0.0.1:9"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:9000"}, 403),
        ({"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200),
    ],
)
def test_pages_of_other_sites_reach_nothing(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    assert client.get("/people", headers=headers).status_code == status
    answer = client.post("/identify", content=face(1), headers=headers)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_no_site_may_read_answers(client: TestClient) -> None:
    asked = {"Origin": "http://localhost:8000", "Access-Control-Request-Method": "DELETE"}
    answer = client.options("/people/1", headers=asked)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


def test_a_client_s_rate_is_bounded(open_client: Open) -> None:
    client = open_client(Limits(rate=1))
    said = [client.get("/people") for _ in range(8)]
    assert [one.status_code for one in said[:2]] == 2 * [200]
    assert said[-1].status_code == 429
    assert int(said[-1].headers["retry-after"]) >= 1
    assert client.get("/health").status_code == 200
    time.sleep(1.1)
    assert client.get("/people").status_code == 200


def test_rates_are_kept_of_few_clients() -> None:
    rates = Rates(1.0)
    assert not any(rates.wait(str(number), 0) for number in range(20_000))
    assert len(rates._left) == 10_000
    assert not any(Rates(0).wait("a", 0) for _ in range(100))


def test_nothing_of_a_request_is_logged(
    client: TestClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "centerarc")

    def broken(self: Gallery) -> None:
        raise RuntimeError("about Ann Lee")

    monkeypatch.setattr(Gallery, "people", broken)
    enroll(client, "Ann Lee", 1)
    answer = client.get("/people")
    assert answer.status_code == 500
    assert "Ann" not in answer.text
    assert "Ann" not in caplog.text
    assert "RuntimeError at " in caplog.text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"max_bytes": 3}, "max_bytes must be between 1024 and"),
        ({"rate": -1.0}, "rate must be between 0"),
        ({"rate": float("nan")}, "rate must be between 0"),
        ({"queue": 0}, "queue must be between 1 and"),
        ({"timeout": 0.0}, "timeout must be between 0.1 and"),
    ],
)
def test_limits_have_limits(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Limits(**values)


def test_tokens_are_long_and_printable() -> None:
    assert check_token(f" {TOKEN}\n") == TOKEN
    for wrong in ("short", "with a space in between", "ümlaut-of-sufficient-length", ""):
        with pytest.raises(ValueError, match="at least 16 printable") as caught:
            check_token(wrong)
        assert not wrong or wrong not in str(caught.value)


def test_wrong_words_are_one_line(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CENTERARC_TOKEN", raising=False)
    (tmp_path / "token").write_text("short")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for words, said in (
            (["none.db"], "there is no gallery 'none.db'"),
            ([str(path), "--host", "0.0.0.0"], "--token-file FILE or set CENTERARC_TOKEN"),
            ([str(path), "--port", "65536"], "--port must be between 0 and 65535"),
            ([str(path), "--token-file", str(tmp_path / "token")], "at least 16 printable"),
            ([str(path), "--queue", "0"], "--queue must be between"),
            ([str(path), "--reject", "0.1"], "--reject must be given with --accept"),
            ([str(path), "--port", str(taken.getsockname()[1])], "cannot listen at 127.0.0.1"),
        ):
            with pytest.raises(SystemExit) as stop:
                main(["serve", *words])
            told = capsys.readouterr().err
            assert (stop.value.code, said in told) == (2, True), told
            assert len(told.strip().splitlines()) == 1


def test_without_the_extra_it_is_one_line(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from centerarc.cli import serve as command

    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main(["serve", str(path)])
    told = capsys.readouterr().err.strip()
    assert told.endswith("pip install 'centerarc[serve]'")
    assert len(told.splitlines()) == 1


def test_a_gallery_of_numbers_is_not_served(tmp_path: Path) -> None:
    with (
        Gallery.create(tmp_path / "n.db", embedding_size=3) as gallery,
        pytest.raises(ValueError, match="needs a recognizer"),
    ):
        serve(gallery, port=0)


# As a process.


def test_uploads_are_bounded_whatever_they_say(path: Path) -> None:
    with served(path, "--max-bytes", 4000, "--rate", 0) as server:
        for headers in ({}, {"Transfer-Encoding": "chunked"}):
            connection = server.connection()
            connection.putrequest("POST", "/identify")
            if headers:
                connection.putheader("Transfer-Encoding", "chunked")
                connection.endheaders()
                for _ in range(5):  # and it never ends
                    connection.send(b"3e8\r\n" + 1000 * b"x" + b"\r\n")
            else:
                connection.putheader("Content-Length", "5000")
                connection.endheaders()  # refused before anything came
            answer = connection.getresponse()
            assert answer.status == 413
            assert b"4000 bytes at most" in answer.read()
            connection.close()
        assert server.ask("POST", "/identify", face(1))[0] == 200


def test_uploads_together_are_bounded_and_slow_ones_that_hold_little_hinder_no_one(
    path: Path,
) -> None:
    head = b"POST /identify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4500\r\n\r\n"
    with served(path, "--queue", 1, "--max-bytes", 5000, "--rate", 0) as server:
        with contextlib.ExitStack() as stack:
            slow = [
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                for _ in range(20)
            ]
            for one in slow:
                one.sendall(head + b"x")
            time.sleep(0.3)
            assert server.ask("POST", "/identify", face(1))[0] == 200
            for one in slow[:2]:
                one.sendall(3000 * b"x")
            said = [_first(one, 2) for one in slow[:2]]
            assert sorted(said) == [b"", b"HTTP/1.1 503"]
        time.sleep(0.3)
        assert server.ask("POST", "/identify", face(1))[0] == 200


def _first(connection: socket.socket, seconds: float) -> bytes:
    connection.settimeout(seconds)
    try:
        return connection.recv(4000)[:12]
    except TimeoutError:
        return b""


def test_slow_clients_are_not_waited_for(path: Path) -> None:
    with served(path, "--timeout", 0.5) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            slow.sendall(
                b"POST /identify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n"
            )
            slow.settimeout(20)
            assert slow.recv(4000).startswith(b"HTTP/1.1 408")
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            slow.sendall(b"GET /health HTTP/1.1\r\nHost: lo")  # the head never ends
            slow.settimeout(20)
            assert slow.recv(4000) == b""
        assert server.ask("GET", "/health")[0] == 200


def test_overload_is_503_and_passes(path: Path) -> None:
    with served(path, "--queue", 1, "--rate", 0) as server:
        said: list[tuple[int, Any, Any]] = []

        def ask() -> None:
            for number in range(6):
                said.append(server.ask("POST", "/identify", face(number)))  # noqa: PERF401

        askers = [threading.Thread(target=ask) for _ in range(12)]
        for one in askers:
            one.start()
        for one in askers:
            one.join()
        assert {status for status, _, _ in said} == {200, 503}
        assert all(headers["retry-after"] for status, _, headers in said if status == 503)
        assert server.ask("POST", "/identify", face(1))[0] == 200


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_what_is_in_hand_is_finished_before_it_stops(path: Path, name: str) -> None:
    with served(path) as server:
        connection = server.connection()
        photo = face(5)
        connection.putrequest("POST", "/people/Ann/photos")
        connection.putheader("Content-Length", str(len(photo)))
        connection.endheaders()
        connection.send(photo[:100])
        time.sleep(0.3)
        server.process.send_signal(getattr(signal, name))
        time.sleep(0.3)
        connection.send(photo[100:])
        assert connection.getresponse().status == 201
        assert server.process.wait(20) == 0
        assert server.process.stderr is not None
        assert "Ann" not in server.process.stderr.read()


def test_a_token_file_opens_it_to_others(path: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    with served(path, "--host", "0.0.0.0", "--token-file", tmp_path / "token") as server:
        assert server.ask("GET", "/people")[0] == 401
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert server.ask("GET", "/people", headers=headers)[0] == 200


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_kill_during_enrolment_leaves_nothing_half(path: Path) -> None:
    rng = np.random.default_rng(0)
    for turn in range(3):
        with served(path, "--rate", 0) as server:
            threads = [
                threading.Thread(target=_enroll_until_killed, args=(server, 1000 * turn + 100 * n))
                for n in range(3)
            ]
            for thread in threads:
                thread.start()
            time.sleep(0.1 + 0.4 * rng.random())
            server.process.kill()
            for thread in threads:
                thread.join()
    with contextlib.closing(opened_gallery(path, photos=False)) as gallery:
        assert not list(gallery.check())
        assert {one.photos for one in gallery.people()} == {2}


def _enroll_until_killed(server: Any, first: int) -> None:
    # Two photos in one request are there both or not at all.
    for number in range(first, first + 100, 2):
        parts = b"".join(
            b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a"\r\n\r\n'
            + face(each)
            + b"\r\n"
            for each in (number, number + 1)
        )
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        try:
            server.ask("POST", f"/people/P{number}/photos", parts + b"--x--\r\n", headers)
        except OSError:
            return
        except Exception:  # the answer was cut off
            return

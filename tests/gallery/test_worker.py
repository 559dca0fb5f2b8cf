"""The thread that has the model: batches, a bounded queue, and an end that loses nothing."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from centerarc.cli.gallery import opened_gallery
from centerarc.gallery import Gallery
from centerarc.gallery.worker import PhotoError, QueueFullError, Worker
from tests.gallery.serving import face, made_gallery


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    path = made_gallery(tmp_path_factory.mktemp("worker"))
    with contextlib.closing(opened_gallery(path, photos=True)) as gallery:
        yield gallery


class Held:
    """Holds a worker's model until it is let go, and counts the photos that it is given at once."""

    def __init__(self, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.begun = threading.Event(), threading.Event()
        self.counts: list[int] = []
        stream = worker.recognizer.stream

        def held(photos: Any, **options: Any) -> Any:
            given = list(photos)
            self.counts.append(len(given))
            self.begun.set()
            assert self.go.wait(30)
            return stream(given, **options)

        monkeypatch.setattr(worker.recognizer, "stream", held)


def test_what_waits_together_is_taken_together_in_order(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(gallery, queue=20, batch=4)
    held = Held(worker, monkeypatch)
    first = worker.identify(face(0))
    assert held.begun.wait(30)
    before = [worker.identify(face(number)) for number in range(1, 7)]
    enrolled = worker.enroll("Ann", [face(9)], [""], "largest")
    after = worker.identify(face(9))
    assert worker.waiting == 8
    held.go.set()
    assert first.result(30).faces[0].candidates == ()
    assert all(not one.result(30).faces[0].candidates for one in before)
    assert enrolled.result(30)[0].status == "added"
    assert after.result(30).faces[0].candidates[0].name == "Ann"
    assert held.counts == [1, 4, 2, 1, 1]
    worker.close()


def test_one_bad_photo_costs_no_other(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(gallery, batch=8)
    held = Held(worker, monkeypatch)
    worker.identify(face(0))
    assert held.begun.wait(30)
    good, bad, other = (worker.identify(one) for one in (face(1), b"no photo", face(2)))
    held.go.set()
    with pytest.raises(PhotoError, match="not an image"):
        bad.result(30)
    assert good.result(30).width == other.result(30).width == 32
    worker.close()


def test_a_fault_in_a_batch_is_its_photo_s_alone(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(gallery, batch=8)
    held = Held(worker, monkeypatch)
    first = worker.identify(face(0))
    assert held.begun.wait(30)
    whole = worker.recognizer.stream

    def broken(photos: Any, **options: Any) -> Any:
        given = list(photos)
        if len(given) > 1 or int(given[0][0, 0, 0]) == int(bad[0, 0, 0]):
            raise RuntimeError("a fault")
        return whole(given, **options)

    from centerarc.data.decode import decode_image

    bad = decode_image(face(2))
    monkeypatch.setattr(worker.recognizer, "stream", broken)
    others = [worker.identify(face(number)) for number in (1, 2, 3)]
    held.go.set()
    first.result(30)
    with pytest.raises(RuntimeError, match="a fault"):
        others[1].result(30)
    assert others[0].result(30).faces
    assert others[2].result(30).faces
    worker.close()


def test_the_queue_is_bounded_and_its_end_finishes_it(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(gallery, queue=2, batch=1)
    held = Held(worker, monkeypatch)
    wanted = [worker.identify(face(0))]
    assert held.begun.wait(30)
    wanted += [worker.identify(face(number)) for number in (1, 2)]
    assert worker.is_full
    assert worker.patience >= 1
    for refused in (
        lambda: worker.identify(face(3)),
        lambda: worker.enroll("B", [b""], [""], "only"),
    ):
        with pytest.raises(QueueFullError):
            refused()
    left_off = wanted.pop()
    assert left_off.cancel()
    ending = threading.Thread(target=worker.close)
    ending.start()
    held.go.set()
    ending.join(30)
    assert all(one.result(0).faces for one in wanted)
    assert held.counts == [1, 1]
    assert not worker.alive
    with pytest.raises(QueueFullError):
        worker.identify(face(4))

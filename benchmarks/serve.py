"""A gallery that is served: requests per second, waiting, memory, overload, and kills.

    python -m benchmarks.serve [load] [batch] [overload] [kills] [--page docs/results/gallery.md]

The server is `centerarc serve` as a process, with 100,000 drawn embeddings and a MobileFaceNet that
has learned nothing, which costs as much as one that has. Clients are threads of this process, each
with one connection, which send a photo of 640 x 480 pixels with one drawn face. Clients and server
share the machine. Of the server, processor time is told too, which other programs change less.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from benchmarks.common.machine import machine_facts, machine_words
from benchmarks.common.page import Record, Table, filled_regions, markdown_table, write_regions

PEOPLE, PHOTOS_EACH, SIZE = 20_000, 5, 512
CLIENTS = (1, 8, 32)


def drawn_photo(number: int) -> bytes:
    """A JPEG of 640 x 480 pixels with one face."""
    from centerarc.data.synthetic import SyntheticFaces

    photo = np.full((480, 640, 3), 128, np.uint8)
    face = cv2.resize(SyntheticFaces(1, 1, first_identity=number).image(0), (200, 200))
    x, y = 20 + 37 * number % 380, 30 + 23 * number % 220
    photo[y : y + 200, x : x + 200] = face
    return cv2.imencode(".jpg", photo[:, :, ::-1])[1].tobytes()


def make_gallery(folder: Path, people: int = PEOPLE, *, aligned: bool = False) -> Path:
    from centerarc.cli.gallery import create, opened_gallery
    from centerarc.models import create_model, save_weights

    weights, path = folder / "model.safetensors", folder / "people.db"
    if aligned:
        model = create_model("mobilefacenet_small", embedding_size=8, image_size=32)
    else:
        model = create_model("mobilefacenet", embedding_size=SIZE)
    save_weights(weights, model.eval())
    create(path, model=str(weights), aligned=aligned, min_sharpness=0.0)
    rng = np.random.default_rng(0)
    with opened_gallery(path, photos=False) as gallery:
        for first in range(0, people, 5000):
            count = min(5000, people - first)
            rows = rng.standard_normal((count * PHOTOS_EACH, SIZE), dtype=np.float32)
            names = [f"Person {first + at // PHOTOS_EACH}" for at in range(len(rows))]
            gallery.add_embeddings(names, rows)
    return path


class Server:
    """`centerarc serve` as a process, at a free port."""

    def __init__(self, gallery: Path, *words: object) -> None:
        command = [sys.executable, "-m", "centerarc", "serve", str(gallery), "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--rate", "0", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])
        self.seen = psutil.Process(self.process.pid)

    def processor(self) -> float:
        times = self.seen.cpu_times()
        return float(times.user + times.system)

    def peak_bytes(self) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) << 10
        return 0


@contextmanager
def running(gallery: Path, *words: object) -> Iterator[Server]:
    server = Server(gallery, *words)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def asked(
    server: Server, clients: int, seconds: float, photos: list[bytes], pause: float = 0.0
) -> list[tuple[int, float]]:
    """Status and seconds of all requests of clients that each wait for their answer."""
    found: list[tuple[int, float]] = []
    end = time.perf_counter() + seconds

    def ask(number: int) -> None:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=120)
        while (begun := time.perf_counter()) < end:
            connection.request("POST", "/identify", photos[number % len(photos)])
            answer = connection.getresponse()
            answer.read()
            found.append((answer.status, time.perf_counter() - begun))
            if answer.status != 200:
                time.sleep(pause)
            number += 1
        connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def load(gallery: Path, photos: list[bytes], seconds: float) -> list[Record]:
    rows = []
    with running(gallery, "--queue", 64) as server:
        asked(server, 4, 3, photos)
        for clients in CLIENTS:
            others = others_processor(server)
            before, begun = server.processor(), time.perf_counter()
            found = asked(server, clients, seconds, photos)
            took = time.perf_counter() - begun
            spent = server.processor() - before
            times = np.array([each for status, each in found if status == 200])
            rows.append(
                {
                    "clients": clients,
                    "requests": len(found),
                    "failed": sum(status != 200 for status, _ in found),
                    "per_second": len(times) / took,
                    "p50": float(np.quantile(times, 0.5)),
                    "p99": float(np.quantile(times, 0.99)),
                    "processor": spent / max(len(times), 1),
                    "peak": server.peak_bytes(),
                    "others": others() / took,
                }
            )
            print(rows[-1], flush=True)
    return rows


def others_processor(server: Server) -> Callable[[], float]:
    """Processor seconds since now of all but the server and its clients."""

    def busy() -> float:
        times = psutil.cpu_times()
        return float(sum(times) - times.idle - times.iowait)

    def ours() -> float:
        return server.processor() + sum(psutil.Process().cpu_times()[:2])

    total, own = busy(), ours()
    return lambda: busy() - total - (ours() - own)


def batch(gallery: Path, photos: list[bytes]) -> list[Record]:
    """Processor and other time of a photo by how many are taken together, in turns."""
    from centerarc.cli.gallery import opened_gallery
    from centerarc.gallery.worker import Worker

    taken: dict[int, list[tuple[float, float]]] = {1: [], 4: [], 8: [], 16: []}
    opened = opened_gallery(gallery, photos=True)
    for turn in range(4):
        for size, found in taken.items():
            worker = Worker(opened, queue=1000, batch=size)
            worker.identify(photos[0]).result()
            begun, spent = time.perf_counter(), time.process_time()
            wanted = [worker.identify(photos[at % len(photos)]) for at in range(32)]
            for one in wanted:
                one.result()
            both = (time.process_time() - spent) / 32, (time.perf_counter() - begun) / 32
            if turn:
                found.append(both)
            worker.close()
    opened.close()
    rows = [
        {"batch": size, "processor": min(a for a, _ in found), "seconds": min(b for _, b in found)}
        for size, found in taken.items()
    ]
    print(rows, flush=True)
    return rows


def overload(gallery: Path, photos: list[bytes], seconds: float) -> Record:
    with running(gallery, "--queue", 8) as server:
        asked(server, 1, 2, photos)
        # Clients that mind no Retry-After, but for a tenth of a second.
        found = asked(server, 64, seconds, photos, pause=0.1)
        statuses = Counter(status for status, _ in found)
        answered = np.array([each for status, each in found if status == 200])
        refused = np.array([each for status, each in found if status == 503])
        after = asked(server, 1, 3, photos)
        record = {
            "statuses": dict(statuses),
            "p99": float(np.quantile(answered, 0.99)),
            "refused_p50": float(np.quantile(refused, 0.5)) if len(refused) else None,
            "after": dict(Counter(status for status, _ in after)),
            "after_p50": float(np.median([each for _, each in after])),
            "peak": server.peak_bytes(),
        }
    print(record, flush=True)
    return record


def kills(folder: Path, count: int) -> Record:
    """Kills a server while two clients enroll pairs of photos, and looks at the gallery."""
    from centerarc.cli.gallery import opened_gallery

    path = make_gallery(folder, 0, aligned=True)
    rng = np.random.default_rng(0)
    problems: list[str] = []
    lost = answered = 0
    for turn in range(count):
        server = Server(path)
        sent: list[str] = []

        def enroll(client: int, server: Server = server, sent: list[str] = sent) -> None:
            number = 0
            while True:
                name = f"{server.port}-{server.process.pid}-{client}-{number}"
                seed = abs(hash(name)) % (1 << 32)
                try:
                    if _enroll_pair(server.port, name, seed) == 201:
                        sent.append(name)
                except (OSError, HTTPException):
                    return
                number += 1

        threads = [threading.Thread(target=enroll, args=(client,)) for client in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.05 + rng.random() * 0.6)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        for thread in threads:
            thread.join()
        with opened_gallery(path, photos=False) as gallery:
            problems += gallery.check()
            people = {one.name: one.photos for one in gallery.people()}
        problems += [f"{name} has {held} photos" for name, held in people.items() if held != 2]
        lost += sum(name not in people for name in sent)
        answered += len(sent)
        print(f"kill {turn + 1}: {len(people)} people, {len(problems)} problems", flush=True)
    return {
        "kills": count,
        "people": len(people),
        "answered": answered,
        "lost": lost,
        "problems": problems,
    }


def _enroll_pair(port: int, name: str, seed: int) -> int:
    rng = np.random.default_rng(seed)
    body = b""
    for _ in range(2):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        body += b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a"\r\n\r\n'
        body += cv2.imencode(".png", pixels)[1].tobytes() + b"\r\n"
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        connection.request("POST", f"/people/{name}/photos", body + b"--x--\r\n", headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


# On the page.


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f} ms"


def load_table(record: Record) -> Table | None:
    if "load" not in record:
        return None
    head = ["clients", "requests/s", "p50", "p99", "processor time of the server a request"]
    head += ["its peak memory", "processors that others used"]
    return head, [
        [
            str(row["clients"]),
            f"{row['per_second']:.1f}",
            _milliseconds(row["p50"]),
            _milliseconds(row["p99"]),
            _milliseconds(row["processor"]),
            f"{row['peak'] / (1 << 20):,.0f} MiB",
            f"{max(row['others'], 0.0):.1f}",
        ]
        for row in record["load"]
    ]


def batch_table(record: Record) -> Table | None:
    if "batch" not in record:
        return None
    return ["photos taken together, at most", "processor time a photo", "time a photo"], [
        [str(row["batch"]), f"{1e3 * row['processor']:.1f} ms", f"{1e3 * row['seconds']:.1f} ms"]
        for row in record["batch"]
    ]


def overload_table(record: Record) -> Table | None:
    if "overload" not in record:
        return None
    row = record["overload"]
    return ["64 clients, 8 places in the queue", ""], [
        ["answered (200)", f"{row['statuses'].get(200, 0):,}"],
        ["refused (503)", f"{row['statuses'].get(503, 0):,}"],
        ["anything else", f"{sum(n for s, n in row['statuses'].items() if s not in (200, 503)):,}"],
        ["p99 of what is answered", _milliseconds(row["p99"])],
        ["p50 of a refusal", _milliseconds(row["refused_p50"] or 0)],
        [
            "one client right after: answers",
            ", ".join(f"{n} x {s}" for s, n in row["after"].items()),
        ],
        ["their p50", _milliseconds(row["after_p50"])],
        ["peak memory", f"{row['peak'] / (1 << 20):,.0f} MiB"],
    ]


def kills_table(record: Record) -> Table | None:
    if "kills" not in record:
        return None
    row = record["kills"]
    return ["kills", "people enrolled, two photos in a request", "acknowledged and lost", "half"], [
        [str(row["kills"]), f"{row['people']:,}", str(row["lost"]), str(len(row["problems"]))]
    ]


TABLES = {
    "serving": load_table,
    "serving-batch": batch_table,
    "serving-overload": overload_table,
    "serving-kills": kills_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], "load", "batch", "overload", "kills"])
    parser.add_argument("--seconds", type=float, default=15.0, help="for each number of clients")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--page", type=Path)
    wanted = parser.parse_args()
    parts = wanted.parts or ["load", "batch", "overload", "kills"]
    record: dict[str, Any] = {"machine": machine_facts()}
    with tempfile.TemporaryDirectory() as folder:
        photos = [drawn_photo(number) for number in range(16)]
        if set(parts) & {"load", "batch", "overload"}:
            gallery = make_gallery(Path(folder))
        if "load" in parts:
            record["load"] = load(gallery, photos, wanted.seconds)
        if "batch" in parts:
            record["batch"] = batch(gallery, photos)
        if "overload" in parts:
            record["overload"] = overload(gallery, photos, wanted.seconds)
        if "kills" in parts:
            (Path(folder) / "kills").mkdir()
            record["kills"] = kills(Path(folder) / "kills", wanted.kills)
    print(json.dumps(record, indent=1))
    busy = os.getloadavg()[0]
    command = " ".join(["python -m benchmarks.serve", *parts, f"--seconds {wanted.seconds:g}"])
    caption = (
        f"`{command}`, {time.strftime('%Y-%m-%d')}, {machine_words(record)[:-1]}; load average at "
        f"the end {busy:.0f}."
    )
    for name, table in TABLES.items():
        if (found := table(record)) is not None:
            print(name, markdown_table(*found), sep="\n")
    if wanted.page is not None:
        write_regions(filled_regions(record, TABLES, caption), wanted.page)


if __name__ == "__main__":
    main()

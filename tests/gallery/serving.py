"""A tiny gallery to serve, and the server as a process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from centerarc.cli.gallery import create
from centerarc.models import create_model, save_weights


def face(number: int) -> bytes:
    """A PNG of 32 x 32 pixels of noise: an aligned face, as far as the tiny model knows."""
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def made_gallery(folder: Path) -> Path:
    """An empty gallery of aligned faces, with its model."""
    model = create_model("mobilefacenet_small", embedding_size=8, image_size=32)
    save_weights(folder / "w.safetensors", model)
    path = folder / "people.db"
    create(path, model=str(folder / "w.safetensors"), aligned=True, min_sharpness=0.0)
    return path


class Served:
    """A server that runs as a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process = process
        self.port = port

    def connection(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Any = None
    ) -> tuple[int, Any, Any]:
        """Status, answer and headers."""
        connection = self.connection()
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            text = answer.read()
            kind = answer.headers.get("content-type", "")
            said = json.loads(text) if "json" in kind else text.decode()
            return answer.status, said, answer.headers
        finally:
            connection.close()


@contextmanager
def served(
    gallery: Path, *words: object, env: dict[str, str] | None = None, kill: bool = True
) -> Iterator[Served]:
    """`centerarc serve` at a free port; killed at the end."""
    command: Sequence[str] = [sys.executable, "-m", "centerarc", "serve", str(gallery)]
    command = [*command, "--port", "0", *(str(word) for word in words)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            if " at http" not in line:
                _, said = process.communicate(timeout=60)
                raise AssertionError(f"the server did not start: {line}{said}")
            yield Served(process, int(line.rsplit(":", 1)[1]))
        finally:
            process.kill()

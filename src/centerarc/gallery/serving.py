"""Runs a gallery's server until it is asked to stop."""

import asyncio
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from centerarc.gallery.calibration import Thresholds
from centerarc.gallery.gallery import Gallery
from centerarc.gallery.guard import Limits, check_token, is_loopback
from centerarc.gallery.server import GalleryServer

# Connections at once; each may hold an open file.
_CONNECTIONS = 512
_SECONDS_IDLE = 15


def serve(
    gallery: Gallery,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: Limits | None = None,
    thresholds: Thresholds | None = None,
    keep_photos: Path | None = None,
    on_ready: Callable[[str], Any] = print,
) -> None:
    """Serves a gallery over HTTP until SIGTERM or SIGINT; what is in hand then is finished.

    Args:
        gallery: With a recognizer; it is closed at the end.
        host: Where to listen.
        port: 0 for any that is free.
        token: What clients must say in `Authorization: Bearer`; needed if `host` is no loopback.
        limits: What the server bears.
        thresholds: When a face has a name; by default those of the gallery's calibration.
        keep_photos: A folder for the photos that are enrolled; None keeps none.
        on_ready: Called with the address when the server answers.

    Raises:
        ValueError: If a value is wrong, or other machines could ask without a token.
        OSError: If the address cannot be had.
    """
    if token is not None:
        token = check_token(token)
    elif not is_loopback(host):
        raise ValueError(
            f"host {host!r} can be reached from other machines, which needs a token: give "
            "--token-file FILE or set CENTERARC_TOKEN"
        )
    if not 0 <= port < 1 << 16:
        raise ValueError(f"port must be between 0 and 65535, got {port}")
    limits = limits or Limits()
    listening = _listening(host, port)
    where = f"[{host}]" if ":" in host else host
    address = f"http://{where}:{listening.getsockname()[1]}"
    server = GalleryServer(
        gallery, limits, token=token, thresholds=thresholds, keep_photos=keep_photos
    )
    config = uvicorn.Config(
        server.app,
        log_level="warning",
        access_log=False,  # paths hold names
        proxy_headers=False,  # whose rate it is nobody else says
        server_header=False,
        http=_with_patience(limits.timeout),
        ws="none",
        loop="asyncio",
        lifespan="on",
        timeout_keep_alive=_SECONDS_IDLE,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=int(limits.timeout) + 5,
    )
    # uvicorn ends by the signal that stopped it, once its own work is done; this is an orderly end.
    before = {one: signal.signal(one, _ignore) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        _Announced(config, lambda: on_ready(address)).run(sockets=[listening])
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        listening.close()


def _ignore(*_: object) -> None:
    pass


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except socket.gaierror as error:
        raise ValueError(f"host must be an address of this machine, got {host!r}") from error
    except OSError as error:
        raise OSError(f"cannot listen at {host}:{port}: {error.strerror}") from error


class _Announced(uvicorn.Server):
    """Says when it answers."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], Any]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def _with_patience(seconds: float) -> type[asyncio.Protocol]:
    """The protocol, which closes connections whose next request's head does not come in time."""

    class Patient(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override, unused-ignore]
            super().connection_made(transport)
            self._late = self.loop.call_later(seconds, self._check)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            idle = self.cycle is None or self.cycle.response_complete
            if idle and self._late is None:
                self._late = self.loop.call_later(seconds, self._check)
            elif not idle:
                self._stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _stop_waiting(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _check(self) -> None:
            self._late = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Patient

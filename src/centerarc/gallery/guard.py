"""What stands before a server: who may ask, how often, how much, and how slowly."""

import asyncio
import hmac
import ipaddress
import json
import logging
import time
import traceback
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from centerarc.gallery.metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("centerarc.serve")
# Answered to anyone: the page has nobody's data, and a probe has no token.
_OPEN = ("/", "/health")
_METHODS = ("GET", "POST", "PATCH", "DELETE")
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
# Clients whose rate is kept; who is forgotten begins again.
_MOST_CLIENTS = 10_000
# After a refusal, so much is read and dropped so that the client sees the answer.
_DROPPED_SECONDS = 1.0
_SHORTEST_TOKEN = 16
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


@dataclass(frozen=True)
class Limits:
    """What a server bears.

    Args:
        max_bytes: Of one request, at most; several photos of a request count together.
        rate: Requests per second of one client, at most, in the long run; 0 for no limit.
        queue: Photos that wait for the model, at most. Uploads hold `queue * max_bytes` of memory,
            at most, all together.
        timeout: Seconds in which a request must have come.

    Raises:
        ValueError: If a number is out of range.
    """

    max_bytes: int = 16 << 20
    rate: float = 20.0
    queue: int = 32
    timeout: float = 30.0

    def __post_init__(self) -> None:
        if not 1024 <= self.max_bytes <= 1 << 30:
            raise ValueError(f"max_bytes must be between 1024 and {1 << 30}, got {self.max_bytes}")
        if not 0 <= self.rate <= 1e6:
            raise ValueError(f"rate must be between 0 (no limit) and 1000000, got {self.rate}")
        if not 1 <= self.queue <= 10_000:
            raise ValueError(f"queue must be between 1 and 10000, got {self.queue}")
        if not 0.1 <= self.timeout <= 3600:
            raise ValueError(f"timeout must be between 0.1 and 3600 seconds, got {self.timeout}")


def check_token(token: str) -> str:
    """Returns a token without surrounding space.

    Raises:
        ValueError: If it is short, or has characters that a header cannot have.
    """
    kept = token.strip()
    if len(kept) < _SHORTEST_TOKEN or not kept.isascii() or not kept.isprintable() or " " in kept:
        raise ValueError(
            f"the token must be at least {_SHORTEST_TOKEN} printable ASCII characters without "
            "spaces; openssl rand -hex 32 makes one"
        )
    return kept


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host.

    Example:
        >>> [is_loopback(host) for host in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "box")]
        [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Rates:
    """How many requests each client may still make: a bucket that fills at a rate.

    Args:
        rate: Per second; 0 for no limit. Two seconds' worth may come at once.

    Example:
        >>> rates = Rates(1.0)
        >>> [rates.wait("a", now) for now in (0, 0, 0, 1)]
        [0.0, 0.0, 1.0, 0.0]
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.most = max(2 * rate, 1.0)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, now: float) -> float:
        """Counts a request of a client; returns 0, or the seconds after which it is allowed."""
        if not self.rate:
            return 0.0
        left, then = self._left.pop(client, (self.most, now))
        left = min(self.most, left + (now - then) * self.rate)
        allowed = left >= 1
        self._left[client] = (left - allowed, now)
        while len(self._left) > _MOST_CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self.rate


def _client(scope: Scope) -> str:
    """Whose rate it is: the address, of IPv6 the network of 64 bits that one customer has."""
    host = str((scope.get("client") or ("unknown",))[0])
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host


class Guard:
    """Refuses what may not be answered, and counts everything.

    Args:
        app: What answers.
        limits: See `Limits`.
        metrics: Where requests are counted.
        token: What `Authorization: Bearer` must say; None for a server that this machine alone
            reaches, which then wants a local name in `Host`, so that no foreign name that points
            here (DNS rebinding) is answered.
    """

    def __init__(self, app: App, limits: Limits, metrics: Metrics, token: str | None) -> None:
        self.app = app
        self.limits = limits
        self.metrics = metrics
        self.token = token
        self.rates = Rates(limits.rate)
        self.held = 0  # bytes of all uploads that are in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, as ASGI has it."""
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).run()
        elif scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        else:  # there are no WebSockets here
            await send({"type": "websocket.close", "code": 1008})

    def refused(self, scope: Scope) -> HTTPException | None:
        """Why a request is not answered, as far as its head tells."""
        headers = _headers(scope)
        path = scope["path"]
        if path != "/health" and (wait := self.rates.wait(_client(scope), time.monotonic())):
            after = {"Retry-After": str(1 + int(wait))}
            said = f"more than {self.limits.rate:g} requests per second; try again later"
            return HTTPException(429, said, after)
        if problem := self._foreign(headers):
            return HTTPException(403, problem)
        if self.token is not None and path not in _OPEN:
            given = headers.get("authorization", "").encode("latin-1")
            scheme, _, word = given.partition(b" ")
            same = hmac.compare_digest(word.strip(), self.token.encode())
            if not same or scheme.lower() != b"bearer":
                said = "this needs the header Authorization: Bearer TOKEN with the server's token"
                return HTTPException(401, said, {"WWW-Authenticate": "Bearer"})
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.limits.max_bytes:
            return self.too_long()
        return None

    def too_long(self) -> HTTPException:
        """The refusal of a request that is too long."""
        return HTTPException(413, f"a request may have {self.limits.max_bytes} bytes at most")

    def _foreign(self, headers: dict[str, str]) -> str:
        host = headers.get("host", "")
        if self.token is None:
            try:
                named = urlsplit(f"//{host}").hostname
            except ValueError:
                named = None
            if named not in _LOCAL_NAMES:
                return "without a token the header Host must be localhost or 127.0.0.1"
        # Another site's page may send requests here from a browser, though it reads no answers.
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return "requests from pages of other sites are not answered"
        site = headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") and headers.get("sec-fetch-mode") != "navigate":
            return "requests from pages of other sites are not answered"
        return ""


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self.guard = guard
        self.scope = scope
        self.receive_next = receive
        self.send_next = send
        self.status = 0
        self.read = 0
        self.complete = False
        self.begun = time.monotonic()

    async def run(self) -> None:
        guard = self.guard
        try:
            if refusal := guard.refused(self.scope):
                await self._refuse(refusal)
            else:
                await guard.app(self.scope, self.receive, self.send)
        except ClientDisconnect:
            self.status = self.status or 499
        except Exception as error:
            # Its text may hold a name.
            where = traceback.extract_tb(error.__traceback__)[-1]
            logger.error("%s at %s:%s", type(error).__name__, where.filename, where.lineno)
            if not self.status:
                await self._refuse(HTTPException(500, "the server has failed; its log says where"))
        finally:
            guard.held -= self.read
            route = getattr(self.scope.get("route"), "path", "none")
            method = self.scope["method"]
            if route == "none" or method not in _METHODS:
                method = "any"  # clients may make up as many as they like
            took = time.monotonic() - self.begun
            guard.metrics.count(method, route, self.status or 499, took)

    async def receive(self) -> Message:
        """The next part of the request, as long as it is neither too long nor too slow."""
        if self.complete:
            return await self.receive_next()
        guard, limits = self.guard, self.guard.limits
        left = self.begun + limits.timeout - time.monotonic()
        try:
            message = await asyncio.wait_for(self.receive_next(), max(left, 0))
        except TimeoutError:
            raise HTTPException(
                408, f"the request has not come within {limits.timeout:g} seconds"
            ) from None
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.read += size
            guard.held += size
            self.complete = not message.get("more_body", False)
            if self.read > limits.max_bytes:
                raise guard.too_long()
            if guard.held > limits.queue * limits.max_bytes:
                raise HTTPException(503, "too much is being uploaded", {"Retry-After": "1"})
        return message

    async def send(self, message: Message) -> None:
        """A part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), *_HEADERS]
            if not self.complete and self._has_body():
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif not message.get("more_body", False) and not self.complete and self._has_body():
            # If the connection were closed at once, the client might not see the answer.
            await self.send_next({**message, "more_body": True})
            await self._drop()
            message = {"type": "http.response.body", "body": b""}
        await self.send_next(message)

    def _has_body(self) -> bool:
        headers = _headers(self.scope)
        return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers

    async def _drop(self) -> None:
        try:
            async with asyncio.timeout(_DROPPED_SECONDS):
                while not self.complete:
                    message = await self.receive_next()
                    self.complete = not message.get("more_body", False)
        except TimeoutError:
            pass

    async def _refuse(self, why: HTTPException) -> None:
        body = json.dumps({"detail": why.detail}).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        headers |= why.headers or {}
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send(
            {"type": "http.response.start", "status": why.status_code, "headers": pairs}
        )
        await self.send({"type": "http.response.body", "body": body})

"""A gallery over HTTP: who is on a photo, who is in it, and a page to try it."""

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from centerarc import __version__
from centerarc.gallery.answers import (
    EnrolAnswer,
    HealthAnswer,
    IdentifyAnswer,
    NewName,
    PeopleAnswer,
    PersonAnswer,
    PersonPhotosAnswer,
    PhotoAnswer,
    Problem,
    RemovedAnswer,
)
from centerarc.gallery.calibration import Thresholds
from centerarc.gallery.gallery import EnrolRule, Gallery
from centerarc.gallery.guard import App, Guard, Limits
from centerarc.gallery.metrics import Metrics
from centerarc.gallery.store import Person, person_name
from centerarc.gallery.worker import MOST_CANDIDATES, PhotoError, QueueFullError, Worker
from centerarc.io.files import atomic_path

_T = TypeVar("_T")
_MOST_PHOTOS = 1000  # of a person that are listed
_MOST_PEOPLE = 1000
_MOST_PARTS = 100  # of a form
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ABOUT = """
Who is on a photo, and who is in the gallery. Photos are the body of a request, or the files of a
form (multipart/form-data); several photos of one request count together for its length. Errors are
JSON with one line, `detail`.
"""
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"type": "object", "properties": {"photo": {"type": "array", "items": _BINARY["schema"]}}}
_PHOTO_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A photo, or a form with photos.",
        "content": {
            "image/*": _BINARY,
            "application/octet-stream": _BINARY,
            "multipart/form-data": {"schema": _FORM},
        },
    }
}
_WORK = {
    408: "It came too slowly.",
    413: "It is too long, or has too many pixels.",
    422: "It is no photo that can be read.",
    503: "Too many photos wait; see Retry-After.",
}
_COMMON = {
    401: "The token is missing or wrong.",
    403: "It comes from another site's page.",
    429: "Too many requests; see Retry-After.",
}
_PersonId = Annotated[int, InPath(ge=1, lt=1 << 63, description="The person's number.")]
_PhotoId = Annotated[int, InPath(ge=1, lt=1 << 63, description="The photo's number.")]


def _problems(more: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    every = sorted((_COMMON | more).items())
    return {status: {"model": Problem, "description": said} for status, said in every}


class GalleryServer:
    """The routes of a gallery's server, and what they need.

    Args:
        gallery: With a recognizer. It is closed when the server ends.
        limits: What the server bears.
        token: What clients must say; None where only this machine reaches the server.
        thresholds: When a face has a name; by default those of the gallery's calibration.
        keep_photos: A folder for the photos that are enrolled; None keeps none.
        batch: Photos that the model takes at once, at most.
    """

    def __init__(
        self,
        gallery: Gallery,
        limits: Limits,
        *,
        token: str | None = None,
        thresholds: Thresholds | None = None,
        keep_photos: Path | None = None,
        batch: int = 8,
    ) -> None:
        self.gallery = gallery
        self.limits = limits
        self.keep_photos = keep_photos
        self.metrics = Metrics()
        self.worker = Worker(gallery, queue=limits.queue, batch=batch, thresholds=thresholds)
        # Lists and changes do not wait behind photos.
        self.books = ThreadPoolExecutor(1, "books")
        self.page, self._policy = _page(token is not None)
        self.app: App = Guard(self._routes(), limits, self.metrics, token)

    def _routes(self) -> FastAPI:
        api = FastAPI(
            title="centerarc gallery",
            description=_ABOUT,
            version=__version__,
            docs_url=None,  # these load scripts from elsewhere
            redoc_url=None,
            lifespan=self._life,
        )
        to = APIRouter()
        to.add_api_route("/", self.show_page, include_in_schema=False)
        for path, method, answer, more in (
            ("/identify", "POST", self.identify, _WORK),
            ("/people/{name:path}/photos", "POST", self.enroll, _WORK),
            ("/people", "GET", self.people, {}),
            ("/people/{person}", "GET", self.person, {404: "There is no such person."}),
            (
                "/people/{person}",
                "PATCH",
                self.rename,
                {404: "There is no such person.", 409: "The name is another person's."},
            ),
            ("/people/{person}", "DELETE", self.remove, {404: "There is no such person."}),
            ("/photos/{photo}", "DELETE", self.remove_photo, {404: "There is no such photo."}),
        ):
            to.add_api_route(
                path,
                answer,
                methods=[method],
                responses=_problems(more),
                openapi_extra=_PHOTO_BODY if more is _WORK else None,
            )
        health: dict[int | str, dict[str, Any]] = {
            503: {"model": HealthAnswer, "description": "It is not ready."}
        }
        to.add_api_route("/health", self.health, responses=health)
        to.add_api_route("/metrics", self.show_metrics, response_class=PlainTextResponse)
        api.include_router(to)
        api.add_exception_handler(RequestValidationError, _said_in_one_line)
        api.add_exception_handler(OSError, _unavailable)
        return api

    @asynccontextmanager
    async def _life(self, _: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Finishes what is in hand, and closes the gallery."""
        self.worker.close()
        self.books.shutdown()
        self.gallery.close()

    async def _booked(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self.books, work)

    # Photos.

    async def identify(
        self,
        request: Request,
        candidates: Annotated[
            int, Query(ge=1, le=MOST_CANDIDATES, description="People to name for each face.")
        ] = 3,
    ) -> IdentifyAnswer:
        """Say who is on a photo: all faces, the largest first."""
        self._check_queue()
        photos = await self._photos(request)
        if len(photos) != 1:
            raise HTTPException(422, f"one photo is identified at a time, got {len(photos)}")
        try:
            found = await asyncio.wrap_future(self.worker.identify(photos[0]))
        except QueueFullError:
            raise self._busy() from None
        except PhotoError as error:
            raise HTTPException(413 if error.too_large else 422, str(error)) from None
        face = found.faces[0].face
        if face is not None and face.refused == "unreadable":
            raise HTTPException(422, face.detail)
        limits = await self._booked(lambda: self.worker.thresholds)
        return IdentifyAnswer.of(found, limits, candidates)

    async def enroll(
        self,
        request: Request,
        response: Response,
        name: Annotated[str, InPath(max_length=500, description="Who is not there is made.")],
        rule: Annotated[
            EnrolRule, Query(description="Which face of a photo is the person's.")
        ] = "largest",
    ) -> EnrolAnswer:
        """Enroll photos of one person, all in one transaction.

        201 where any photo is new, 200 where all are there already, 422 where the rest is refused.
        """
        kept = _name(name)
        self._check_queue()
        photos = await self._photos(request)
        places = [self._place(photo) for photo in photos]
        try:
            enrolled = self.worker.enroll(kept, photos, places, rule)
            found = await asyncio.wrap_future(enrolled)
        except QueueFullError:
            raise self._busy() from None
        except PhotoError as error:
            raise HTTPException(413 if error.too_large else 422, str(error)) from None
        if self.keep_photos is not None:
            new = [at for at, one in enumerate(found) if one.status == "added"]
            await self._booked(lambda: _write([(places[at], photos[at]) for at in new]))
        said = {one.status for one in found}
        response.status_code = 201 if "added" in said else 200 if "known" in said else 422
        if all(PhotoError(one.reason).too_large for one in found):
            response.status_code = 413
        return EnrolAnswer.of(await self._booked(lambda: self._named(kept)), found)

    def _check_queue(self) -> None:
        """Before a photo is read that could only be refused."""
        if self.worker.is_full:
            raise self._busy()

    def _busy(self) -> HTTPException:
        after = {"Retry-After": str(self.worker.patience)}
        return HTTPException(503, "too many photos wait; try again later", after)

    async def _photos(self, request: Request) -> list[bytes]:
        """The photos of a request, which never touch a disk."""
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            photos = [await request.body()]
        else:
            parser = _FormInMemory(
                request.headers,
                request.stream(),
                max_files=_MOST_PARTS,
                max_fields=_MOST_PARTS,
                max_part_size=self.limits.max_bytes,
            )
            try:
                form = await parser.parse()
            except MultiPartException as error:
                raise HTTPException(422, f"the form is damaged: {error.message}") from None
            parts = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            photos = [await part.read() for part in parts]
            await form.close()
        if not photos or not all(photos):
            raise HTTPException(422, "there is no photo in the request, or an empty one")
        return photos

    def _place(self, photo: bytes) -> str:
        """Where a photo that is enrolled is kept."""
        if self.keep_photos is None:
            return ""
        return str(self.keep_photos / hashlib.sha256(photo).hexdigest())

    # People.

    async def people(
        self,
        offset: Annotated[int, Query(ge=0, description="As many are left out.")] = 0,
        limit: Annotated[int, Query(ge=1, le=_MOST_PEOPLE, description="As many at most.")] = 100,
    ) -> PeopleAnswer:
        """List the people, by name."""
        every = await self._booked(self.gallery.people)
        part = every[offset : offset + limit]
        return PeopleAnswer(total=len(every), people=[PersonAnswer.of(one) for one in part])

    async def person(self, person: _PersonId) -> PersonPhotosAnswer:
        """Show one person with the photos."""

        def look() -> PersonPhotosAnswer:
            one = self._there(person)
            photos = []
            for photo in self.gallery.store.photos(person):
                photos.append(PhotoAnswer.of(photo))
                if len(photos) == _MOST_PHOTOS:
                    break
            return PersonPhotosAnswer(**one._asdict(), photo_list=photos)

        return await self._booked(look)

    async def rename(self, person: _PersonId, new: NewName) -> PersonAnswer:
        """Give somebody another name; the number stays."""
        name = _name(new.name)

        def change() -> PersonAnswer:
            self._there(person)
            try:
                self.gallery.rename(person, name)
            except ValueError as error:
                raise HTTPException(409, str(error)) from None
            return PersonAnswer.of(self._there(person))

        return await self._booked(change)

    async def remove(self, person: _PersonId) -> RemovedAnswer:
        """Remove somebody with all photos for good: their rows are overwritten in the file."""

        def change() -> RemovedAnswer:
            self._there(person)
            places = [photo.place for photo in self.gallery.store.photos(person)]
            gone = self.gallery.remove(person)
            self._unkeep(places)
            return RemovedAnswer(photos=gone)

        return await self._booked(change)

    async def remove_photo(self, photo: _PhotoId) -> RemovedAnswer:
        """Remove one photo for good; the person stays."""

        def change() -> RemovedAnswer:
            places: list[str] = []
            if self.keep_photos is not None:
                places = [one.place for one in self.gallery.photos() if one.id == photo]
            gone = self.gallery.remove_photos([photo])
            if not gone:
                raise HTTPException(404, f"there is no photo {photo}")
            self._unkeep(places)
            return RemovedAnswer(photos=gone)

        return await self._booked(change)

    def _there(self, person: int) -> Person:
        try:
            return self.gallery.person(person)
        except ValueError:
            raise HTTPException(404, f"there is no person {person}") from None

    def _named(self, name: str) -> Person | None:
        with suppress(ValueError):
            return self.gallery.person(name)
        return None

    def _unkeep(self, places: list[str]) -> None:
        """Removes photos that this server keeps, and no other file."""
        for place in map(Path, places):
            if place.parent == self.keep_photos and _DIGEST.fullmatch(place.name):
                place.unlink(missing_ok=True)

    # The server itself.

    async def health(self, response: Response) -> HealthAnswer:
        """Say whether photos can be answered."""
        readable = await self._booked(self.gallery.store.readable)
        ready = readable and self.worker.alive
        if not ready:
            response.status_code = 503
        return HealthAnswer(ready=ready, gallery=readable)

    async def show_metrics(self) -> PlainTextResponse:
        """Show counts of requests, times and the gallery's size as Prometheus reads them."""
        people = await self._booked(self.gallery.people)
        gauges = {
            "centerarc_queue": ("Photos that wait for the model.", self.worker.waiting),
            "centerarc_queue_limit": ("Photos that may wait.", self.limits.queue),
            "centerarc_people": ("People in the gallery.", len(people)),
            "centerarc_photos": ("Photos in the gallery.", sum(one.photos for one in people)),
        }
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return PlainTextResponse(self.metrics.text(gauges), media_type=kind)

    async def show_page(self) -> HTMLResponse:
        """Show the page to try it."""
        return HTMLResponse(self.page, headers={"Content-Security-Policy": self._policy})


class _FormInMemory(MultiPartParser):
    spool_max_size = 1 << 40  # a photo is never written to a temporary file


def _name(name: str) -> str:
    try:
        return person_name(name)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


def _write(photos: list[tuple[str, bytes]]) -> None:
    for place, photo in photos:
        target = Path(place)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with atomic_path(target) as temporary:
            temporary.write_bytes(photo)


async def _said_in_one_line(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    said = [
        f"{'.'.join(str(part) for part in one['loc'][1:]) or 'the body'}: {one['msg']}"
        for one in error.errors()
    ]
    return JSONResponse({"detail": "; ".join(said)}, 422)


async def _unavailable(_: Request, error: Exception) -> JSONResponse:
    said = "the gallery cannot be read or changed now"
    return JSONResponse({"detail": said}, 503, {"Retry-After": "5"})


def _page(with_token: bool) -> tuple[str, str]:
    """The page and its policy: it runs its own script, and asks this server alone."""
    text = files("centerarc.gallery").joinpath("assets/identify.html").read_text("utf-8")
    text = text.replace('data-token=""', f'data-token="{"wanted" if with_token else ""}"')
    allowed = {
        kind: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"
            for body in re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        )
        for kind in ("script", "style")
    }
    policy = (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; "
        "img-src blob: data:; media-src blob:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy

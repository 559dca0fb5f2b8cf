"""`centerarc serve`: a gallery over HTTP."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from centerarc.cli.flags import MODEL, by_flags

ADDRESS = Group("Address", sort_key=3)
LIMITS = Group("Limits", sort_key=4)
_NEEDED = {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}


@by_flags
def serve(
    gallery: str,
    /,
    *,
    host: Annotated[str, Parameter(group=ADDRESS)] = "127.0.0.1",
    port: Annotated[int, Parameter(group=ADDRESS)] = 8000,
    token_file: Annotated[Path | None, Parameter(group=ADDRESS)] = None,
    max_bytes: Annotated[int, Parameter(group=LIMITS)] = 16 << 20,
    rate: Annotated[float, Parameter(group=LIMITS)] = 20.0,
    queue: Annotated[int, Parameter(group=LIMITS)] = 32,
    timeout: Annotated[float, Parameter(group=LIMITS)] = 30.0,
    accept: float | None = None,
    reject: float | None = None,
    margin: float = 0.0,
    keep_photos: Path | None = None,
    model: Annotated[str, Parameter(group=MODEL, show_default=False)] = "",
    device: Annotated[str, Parameter(group=MODEL)] = "auto",
) -> int:
    """Answer over HTTP who is on photos, with a page to try it.

    It listens on this machine alone, unless --host says otherwise, and then wants a token. Changes
    that other commands make to the gallery are seen. Neither photos nor names are logged. Ctrl-C
    and SIGTERM end it when what is in hand is finished.

    Exit code: 0 stopped, 2 wrong input.

    Parameters
    ----------
    gallery
        The gallery's file or URL, which centerarc gallery create makes.
    host
        Where to listen; 0.0.0.0 for other machines too, which needs a token.
    port
        Where to listen; 0 for any port that is free.
    token_file
        A file with the token that clients must send as Authorization: Bearer TOKEN; else that in
        CENTERARC_TOKEN, if it is set.
    max_bytes
        Length of a request, at most.
    rate
        Requests per second of one client, at most; 0 for no limit.
    queue
        Photos that may wait for the model; more are refused with status 503.
    timeout
        Seconds in which a request must have come.
    accept
        Least score, a cosine from -1 to 1, of a face that has a name; else that of centerarc
        gallery calibrate.
    reject
        Scores from here to --accept are unsure, lower ones strangers.
    margin
        How much higher than the second person's the score must be.
    keep_photos
        A folder in which photos that are enrolled are kept; else none is kept.
    model
        Where the gallery's model is, if it was moved.
    device
        Where the model computes: auto, cpu, cuda or mps.
    """
    if missing := [name for module, name in _NEEDED.items() if find_spec(module) is None]:
        raise ImportError(
            f"centerarc serve needs {' and '.join(missing)}: pip install 'centerarc[serve]'"
        )
    from centerarc.cli.gallery import opened_gallery
    from centerarc.gallery import Thresholds
    from centerarc.gallery.guard import Limits, is_loopback
    from centerarc.gallery.serving import serve as run

    limits = Limits(max_bytes, rate, queue, timeout)
    thresholds = None
    if accept is not None:
        thresholds = Thresholds(accept, reject, margin)
    elif reject is not None or margin:
        name = "reject" if reject is not None else "margin"
        raise ValueError(f"{name} must be given with --accept, the score from which a name is said")
    token = os.environ.get("CENTERARC_TOKEN") or None
    if token_file is not None:
        token = token_file.read_text(encoding="utf-8")
    if token is None and not is_loopback(host):  # before a large model is loaded
        raise ValueError(
            f"host {host!r} can be reached from other machines, which needs a token: give "
            "--token-file FILE or set CENTERARC_TOKEN"
        )
    kept = None if keep_photos is None else keep_photos.resolve()
    opened = opened_gallery(gallery, model, device, photos=True)

    def ready(address: str) -> None:
        print(f"serving {opened.store.place} at {address}", flush=True)
        print("Ctrl-C stops it", file=sys.stderr, flush=True)

    run(
        opened,
        host=host,
        port=port,
        token=token,
        limits=limits,
        thresholds=thresholds,
        keep_photos=kept,
        on_ready=ready,
    )
    return 0

"""A process that has imported PyTorch and `centerarc` once and forks for each command.

A forked command begins at once, so that hundreds of runs that are killed and resumed take minutes.
Started with another build's `src` before ours on `PYTHONPATH`, it runs that build's commands: all
that it knows of `centerarc` is the command line. One line of JSON comes in for each command, the
ids of its processes and then their exit codes go out.
"""

import atexit
import contextlib
import ctypes
import errno
import faulthandler
import gc
import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

# What the command line imports when it runs; another user may not be able to.
_MODULES = (
    "centerarc.cli.commands",
    "centerarc.training",
    "centerarc.training.loop",
    "centerarc.training.settings",
    "torch.distributed.checkpoint",
    "torch._dynamo",
    "PIL.PngImagePlugin",
    "PIL.JpegImagePlugin",
    "encodings.utf_8_sig",
    "numpy.ctypeslib",
    "numpy.ma",
    "zipfile",
    "encodings.cp437",  # of names in a .npz
)
# Events of Python that precede a change of a file or folder.
_CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.chmod")


def serve() -> None:
    """Answers until stdin ends."""
    for name in _MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # forked processes share what they do not touch
    answer = os.dup(1)
    _write(answer, {"ready": True})
    for line in sys.stdin:
        asked = json.loads(line)
        pids = []
        for rank, words in enumerate(asked["commands"]):
            pid = os.fork()
            if pid == 0:
                os.close(answer)
                _become(asked, rank, words)
            pids.append(pid)
        _write(answer, {"pids": pids})
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        _write(answer, {"codes": codes})


def _write(descriptor: int, content: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(content).encode() + b"\n")


def _become(asked: dict[str, Any], rank: int, words: list[str]) -> NoReturn:
    """Turns a forked process into the command, and ends it as an interpreter ends."""
    faulthandler.register(signal.SIGUSR1)  # says where it hangs
    os.setsid()  # what it starts is killed with its group
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # and it does not outlive this server
    output = os.open(asked["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for place in (1, 2):
        os.dup2(output, place)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.environ.update(asked.get("environment", {}))
    if len(asked["commands"]) > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        os.environ.update(WORLD_SIZE=str(len(asked["commands"])))
    os.chdir(asked["folder"])
    if asked.get("rank", 0) == rank:
        _hinder(asked)
    code = 1
    try:
        if words[0] == "train":
            from centerarc.cli import main

            main(words)
        else:
            _read(words)
            code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]  # waits for its threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without the second that the modules would take to be torn down


def _hinder(asked: dict[str, Any]) -> None:
    for name, value in asked.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if (user := asked.get("user")) is not None:
        os.setgid(user)
        os.setuid(user)
    if kill := asked.get("kill"):
        _watch(kill["below"], kill["event"], lambda path: _end(kill["signal"], kill["delay"]))
    if fail := asked.get("fail"):
        name, always = fail["error"], fail["always"]
        _watch(fail["below"], fail["event"], lambda path: _fail(name, path), always=always)


def _watch(below: str, number: int, act: Callable[[str], None], *, always: bool = False) -> None:
    """Acts before the change of a number, counted from 0, in a folder; or before all from then."""
    seen = 0
    inside = threading.local()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in _CHANGES or getattr(inside, "it", False):
            return
        if event == "open" and not _writes(arguments[2]):
            return
        names = [str(word) for word in arguments[:2] if isinstance(word, (str, os.PathLike))]
        if not any(below in name for name in names):
            return
        seen += 1
        if seen == number + 1 or (always and seen > number):
            inside.it = True
            try:
                act(names[0])
            finally:
                inside.it = False

    sys.addaudithook(hook)


def _writes(flags: Any) -> bool:
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _end(number: int, delay: float) -> None:
    def end() -> None:
        time.sleep(delay)
        os.kill(os.getpid(), number)

    if delay:
        threading.Thread(target=end, daemon=True).start()
    else:
        os.kill(os.getpid(), number)


def _fail(name: str, path: str) -> None:
    number = getattr(errno, name)
    raise OSError(number, os.strerror(number), path)


def _read(words: list[str]) -> None:
    """Reads files of settings and prints what each says, or the error, a line of JSON each."""
    from centerarc.training import load_config

    for path in words[1:]:
        said: dict[str, Any]
        try:
            loaded = load_config(path)
            said = {"value": loaded.model_dump(mode="json")}
            # Which may hold anything, and JSON no infinity.
            said["value"]["model"]["options"] = loaded.model.options
        except (ValueError, OSError) as error:
            said = {"error": str(error)}
        except Exception as error:
            said = {"broken": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    serve()

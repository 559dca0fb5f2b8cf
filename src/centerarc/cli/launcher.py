"""What torchrun and the other processes that it started are told of an error.

torchrun gives each process a file for its error, `attempt_0/<local rank>/error.json`, and ends its
own report with the earliest of them. The folder above is also where the processes of a machine see
what the others have said.
"""

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path

_VARIABLE = "TORCHELASTIC_ERROR_FILE"
# Seconds that another process may take from its end to its line, and of which torchrun takes it.
_PATIENCE, _LATER = 3.0, 60
# Before what another rank says.
_RANK = re.compile(r"\brank \d+: ")


def first_to_say(line: str, *, lost: bool = False) -> bool:
    """Whether this process should print a line: not where another on this machine did.

    Args:
        line: What it has to say.
        lost: It is only that another process ended, which that one will say better.
    """
    path = os.environ.get(_VARIABLE)
    if not path:
        return True
    folder = Path(path).parent.parent
    if lost:
        end = time.monotonic() + _PATIENCE
        while not any(folder.glob("said-*")):
            if time.monotonic() > end:
                break
            time.sleep(0.1)
        else:
            return False
    said = hashlib.sha256(_RANK.sub("", line).encode()).hexdigest()
    try:
        (folder / f"said-{said[:16]}").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True
    return True


def tell_launcher(line: str, *, lost: bool = False) -> None:
    """Leaves a line where torchrun looks for it, to end its own report with.

    Else that report, which is long and comes last, only says that a process failed.

    Args:
        line: How this process ends.
        lost: It is only that another process ended, whose line torchrun should take.
    """
    if path := os.environ.get(_VARIABLE):
        at = str(int(time.time()) + (_LATER if lost else 0))
        extra = {"py_callstack": line, "timestamp": at}
        with suppress(OSError), open(path, "w", encoding="utf-8") as file:
            json.dump({"message": {"message": line, "extraInfo": extra}}, file)


def is_restarted() -> bool:
    """Whether torchrun started this process again after a failure, by its `--max-restarts`."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")

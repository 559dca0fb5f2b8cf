"""Work divided among processes: how many, how they start, what their death means, and signals."""

import math
import multiprocessing
import multiprocessing.queues
import os
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import connection
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

import cv2

# Processes that read images.

# Seconds that a batch of images may take; one on a share that hangs never comes.
READ_TIMEOUT = 300.0


def default_workers() -> int:
    """Returns one process for each core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def workers_for_a_model() -> int:
    """Returns one process for each core, but no more than one model keeps busy."""
    return min(default_workers(), 16)


def check_workers(workers: int) -> None:
    """Raises `ValueError` for a number of processes that must be a slip of the keyboard.

    Each takes a few hundred megabytes, so too many would take the machine down.
    """
    cores = os.cpu_count() or 1
    most = max(16, 4 * cores)
    if not 0 <= workers <= most:
        raise ValueError(
            f"workers must be between 0 and {most} on this machine ({cores} cores), got {workers}"
        )


@contextmanager
def signals_held_back(*signals: signal.Signals) -> Iterator[None]:
    """Lets signals wait until the block ends; processes started in it never get them.

    A terminal and many job systems signal a whole group, and a process may be hit before it has
    learned to ignore that.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield  # Windows has no signal masks
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def starting_workers() -> Iterator[None]:
    """Makes it safe to start processes in the block, which then run `start_worker`."""
    threads = cv2.getNumThreads()
    # A forked process hangs or crashes when it touches OpenCV's threads, which it does not have.
    cv2.setNumThreads(1)
    try:
        with signals_held_back(signal.SIGINT):
            yield
    finally:
        cv2.setNumThreads(threads)


def start_worker(_: int) -> None:
    """Runs first in each process, in those of a `DataLoader` too."""
    # Ctrl-C reaches the whole process group; the main process ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # As PyTorch does with its own threads: the workers are the parallelism.
    cv2.setNumThreads(1)
    cv2.ocl.setUseOpenCL(False)
    # A thread sends what a worker has read. Where it cannot, as for lack of descriptors, it would
    # leave that out, and whoever waits for it would wait forever.
    multiprocessing.queues.Queue._on_queue_feeder_error = _end_worker  # type: ignore[attr-defined]
    # Another one hands memory over: it prints a traceback where whoever takes it is killed, and
    # where it cannot, for lack of descriptors, it prints them for ever and no one gets anything.
    sys.excepthook = _end_unless_no_one_receives
    # PyTorch's workers look for their parent every few seconds, and take whoever has adopted them
    # for it where it was killed before their first look. Meanwhile they hold its sockets open, so
    # that ranks wait for one that is dead; and at their end they wait until all is sent.
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def shared_memory_left() -> float:
    """Returns how many bytes of shared memory processes may still take; infinity if unknown.

    To ask for more would leave an empty file there each time.
    """
    try:
        place = os.statvfs("/dev/shm")
    except (OSError, AttributeError):  # of another system
        return math.inf
    return place.f_bavail * place.f_frsize


_NO_ONE_RECEIVES = (ConnectionError, EOFError)


def _end_unless_no_one_receives(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, _NO_ONE_RECEIVES):
        _end_worker(None, error, None)


def _end_worker(_: object, error: BaseException, result: object) -> None:
    if not isinstance(error, _NO_ONE_RECEIVES):
        os.write(2, f"a worker cannot send what it has read: {error}\n".encode(errors="replace"))
    os._exit(1)


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


_DEAD = "DataLoader worker (pid"


class _HeldBack:
    """A handler of SIGCHLD around PyTorch's, which raises an error when a worker died.

    With loaders that it knows of, that is only while this process waits for a batch.
    """

    def __init__(self, report: Callable[[int, FrameType | None], object]) -> None:
        self.report = report
        self.loaders: weakref.WeakSet[Any] = weakref.WeakSet()
        self.waiting = False
        self.missed = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.missed = bool(self.loaders) and not self.waiting
        if not self.missed:
            self.report(number, frame)


def _held_back() -> _HeldBack | None:
    handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    return handler if isinstance(handler, _HeldBack) else None


def hold_back_deaths(loader: object) -> None:
    """Lets the death of a worker be reported only within `awaiting_batch`, so between two steps.

    PyTorch raises it from a signal handler: without this anywhere in the main thread, such as in
    the middle of an optimizer step, whose weights are then those of no step.

    Args:
        loader: A `DataLoader`, once PyTorch has its handler; as long as it is there, this holds.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return  # where PyTorch has no handler either
    held = _held_back()
    if held is None and callable(report := signal.getsignal(signal.SIGCHLD)):
        signal.signal(signal.SIGCHLD, held := _HeldBack(report))
    if held is not None:
        held.loaders.add(loader)


@contextmanager
def awaiting_batch(workers: int, seconds: float, *, starts: bool = False) -> Iterator[None]:
    """Waits for a batch of images in the block: not forever, and not for a worker that died.

    Args:
        workers: The number of processes that read.
        seconds: How long that may take, where `has_alarm`; 0 is any time.
        starts: Whether the workers only start. They are not waited for then, and what ends their
            start in the middle would leave them where no one can end them.

    Raises:
        TimeoutError: If it took longer.
        OSError: If a worker died, now or since the last batch, or descriptors are lacking.
    """
    held = _held_back()
    try:
        with _alarm(0 if starts else seconds):
            if held is not None and not starts:
                held.waiting = True
                if held.missed:
                    held.missed = False
                    held.report(signal.SIGCHLD, None)
            yield
    except _Late:
        raise _late(seconds) from None
    except (RuntimeError, OSError, EOFError) as error:
        text = str(error)
        if "DataLoader timed out" in text:
            raise _late(seconds) from None
        if "Too many open files" in text or "ancdata" in text:
            raise OSError(
                "too many open files: the workers cannot send batches of images; raise the limit "
                f"(ulimit -n), or try fewer workers than {workers}"
            ) from error
        # Whatever else a worker's images fail at comes as a value; this is of the way from it.
        if _DEAD in text or (workers and not isinstance(error, RuntimeError)):
            raise OSError(f"{_death('memory or shared memory', workers)} ({text})") from error
        raise
    finally:
        if held is not None:
            held.waiting = False


class _Late(BaseException):
    """Comes through whatever takes an exception for a damaged image."""


def _late(seconds: float) -> TimeoutError:
    return TimeoutError(
        f"no batch of images came within {seconds:g} seconds (read_timeout): the storage or a "
        "worker process hangs"
    )


def has_alarm() -> bool:
    """Whether `awaiting_batch` limits a wait here: in the main thread, with SIGALRM unused."""
    return (
        hasattr(signal, "setitimer")
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    )


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises `_Late` in a block that takes longer, where this thread gets an alarm."""
    if not seconds or not has_alarm():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _Late

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


# Seconds in which workers end on their own when they are asked to.
_PATIENCE = 5.0


def end_workers(batches: Any, patience: float | None = None) -> None:
    """Ends the workers of an iterator, in some seconds also ones that are stopped or hang."""
    if not hasattr(batches, "_shutdown_workers"):
        return

    # It waits for one after the other, and for a lock that one which was killed may have held.
    ending = threading.Thread(target=batches._shutdown_workers, daemon=True)
    ending.start()
    ending.join(_PATIENCE if patience is None else patience)
    for worker in batches._workers:
        worker.kill()
    ending.join(_PATIENCE)


@contextmanager
def explain_dead_workers(workers: int) -> Iterator[None]:
    """Turns PyTorch's report of a dead worker into an `OSError` that says what to do.

    Args:
        workers: The number of processes that read.

    Raises:
        OSError: If one of them died within the block.
    """
    try:
        yield
    except RuntimeError as error:
        if _DEAD not in str(error):
            raise
        raise OSError(f"{_death('memory or shared memory', workers)} ({error})") from error


def _death(lacking: str, workers: int) -> str:
    return (
        f"a worker process that reads images died, most often for lack of {lacking}; try fewer "
        f"workers than {workers}"
    )


# Tasks divided among processes, with the same results for any number of them.

Tick = Callable[[], None]
Context = TypeVar("Context")
Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Context, Task, Tick], Result]

# Tasks handed out for each process: enough that none waits, few enough that results in order do
# not pile up behind a slow one.
_TASKS_EACH = 3
# Often enough for a progress bar, seldom enough to cost nothing.
_LOOK_SECONDS = 0.2
_MOST_ON_WINDOWS = 61  # it waits for no more


def in_chunks(count: int, size: int) -> list[range]:
    """Returns the numbers from 0 to `count` - 1 in ranges of `size`; the last may be shorter.

    Example:
        >>> in_chunks(5, 2)
        [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def run_tasks(
    work: Work[Context, Task, Result],
    context: Context,
    tasks: Sequence[Task],
    *,
    ordered: bool = True,
    workers: int | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Generator[Result, None, None]:
    """Runs tasks in several processes and yields their results.

    When the loop over the results is left, or fails, the tasks under way end at their next tick.
    No process outlives this one, even if it is killed, and Ctrl-C reaches this one alone.

    Args:
        work: A function of a module: gets the context, a task, and what to call once for each
            image.
        context: What every task needs; goes to each process once.
        tasks: What to do.
        ordered: Yield results in the order of the tasks; otherwise as soon as they are there.
        workers: Number of processes; 0 works in this one, None takes one for each core.
        progress: Called now and then with the number of ticks since its last call.

    Returns:
        What `work` returns, a generator; close it where the loop may be left.

    Raises:
        ValueError: If `workers` is out of range.
        OSError: If a process died.

    Example:
        >>> def add(context, task, tick):
        ...     return context + task
        >>> list(run_tasks(add, 10, [1, 2], workers=0))
        [11, 12]
    """
    workers = default_workers() if workers is None else workers
    check_workers(workers)
    report = progress if progress is not None else lambda images: None
    if workers == 0 or len(tasks) <= 1:
        return (work(context, task, lambda: report(1)) for task in tasks)
    workers = min(workers, len(tasks), _MOST_ON_WINDOWS if sys.platform == "win32" else workers)
    return _in_processes(work, context, tasks, ordered, workers, report)


def _in_processes(
    work: Work[Context, Task, Result],
    context: Context,
    tasks: Sequence[Task],
    ordered: bool,
    workers: int,
    progress: Callable[[int], Any],
) -> Generator[Result, None, None]:
    start = multiprocessing.get_context(_start_method())
    # Shared without locks, which a process that is killed might hold: each counts for itself.
    stop, ticks, started = start.RawValue("b", 0), start.RawArray("q", workers), start.Value("i", 0)
    rest = iter(tasks)
    waiting: deque[Future[Result]] = deque()
    seen = 0
    with ProcessPoolExecutor(
        workers, start, initializer=_start, initargs=(work, context, stop, ticks, started)
    ) as pool:
        try:
            while True:
                with starting_workers():
                    room = _TASKS_EACH * workers - len(waiting)
                    waiting.extend(pool.submit(_run, task) for task in islice(rest, room))
                if not waiting:
                    return
                wanted = [waiting[0]] if ordered else waiting
                # Ctrl-C in there could leave a lock taken for good, and the pool waiting for it.
                with signals_held_back(signal.SIGINT):
                    done = wait(wanted, _LOOK_SECONDS, FIRST_COMPLETED).done
                if (now := sum(ticks)) > seen:
                    progress(now - seen)
                    seen = now
                for future in done:
                    waiting.remove(future)
                    with signals_held_back(signal.SIGINT):
                        result = future.result()
                    yield result
        except BrokenProcessPool as error:
            raise OSError(_death("memory", workers)) from error
        finally:
            stop.value = 1
            pool.shutdown(cancel_futures=True)


def _start_method() -> str:
    """A fork is quick, shares what is in memory, and passes a held lock of a file on.

    But a lock that another thread holds stays locked in the child, and Apple's libraries do not
    survive it at all.
    """
    if sys.platform.startswith("linux") and threading.active_count() == 1:
        return "fork"
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods else "spawn"


class _Stopped(Exception):
    """The result is not wanted any more, so the task ends where it is."""


_work: Callable[[Any], Any]  # what a process does with a task; set when it starts


def _start(work: Work[Any, Any, Any], context: Any, stop: Any, ticks: Any, started: Any) -> None:
    start_worker(0)
    with started.get_lock():
        number = started.value
        started.value += 1

    def tick() -> None:
        if stop.value:
            raise _Stopped
        ticks[number] += 1

    def run(task: Any) -> Any:
        if stop.value:
            raise _Stopped
        return work(context, task, tick)

    global _work
    _work = run


def _run(task: Any) -> Any:
    return _work(task)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Within the block, the first SIGINT or SIGTERM only sets `requested`; a second one kills.

    Outside the main thread, where Python allows no signal handlers, it does nothing.

    Example:
        >>> with StopRequest() as stop:
        ...     stop.requested
        False
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Delays signals until the block ends; processes started in it never get them.

        A terminal and many job systems signal a whole group, and a data loader whose workers die
        takes the training process with it in the middle of a step.
        """
        with signals_held_back(*(_SIGNALS if self._previous else ())):
            yield

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.requested = True
        if os.environ.get("RANK", "0") == "0":
            # A step may take long. Not print: the signal may have come in the middle of one.
            os.write(2, b"\nstopping after this step; press again to stop at once\n")

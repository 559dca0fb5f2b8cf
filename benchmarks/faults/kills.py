"""Processes of a run that are killed at random instants, and within the writing of a state."""

import signal
import time
from random import Random

from benchmarks.faults.runs import LOST, TAIL, UNCLEAR, VARIANTS, Fault, Lab, Outcome, drawn

KIND = "kills"
_SIGNALS = (signal.SIGKILL, signal.SIGTERM)
# Changes of files and folders that a run makes in its folder for its states: it is killed before
# one of them, drawn, or a moment after.
_CHANGES, _MOMENT = 60, 0.01


def faults(seed: int, amount: int) -> list[Fault]:
    """So many kills, of each manner in turn."""
    rng = drawn(seed, KIND)
    manners = (_one, _in_a_save, _of_ranks, _one, _in_a_save, _worker)
    killed = [manners[number % len(manners)](rng, number) for number in range(amount)]
    stopped = [_stopped_workers(rows) for rows in range(1, 9)]  # validations are after 4 and 9
    return killed + stopped * (amount >= len(manners))


def _variant(rng: Random) -> str:
    return rng.choice(sorted(VARIANTS))


def _one(rng: Random, number: int) -> Fault:
    variant, how, instant = _variant(rng), rng.choice(_SIGNALS), rng.random()
    again = rng.random() if rng.random() < 0.3 else None

    def act(lab: Lab) -> Outcome | None:
        _, life = lab.reference(variant)
        share = instant
        for _ in range(6):
            lab.fresh(variant)
            lab.start()
            if (found := _kill_after(lab, share * life, how)) is not None:
                break
            share *= 0.6  # it had ended already
        else:
            return None
        if found:
            return Outcome(UNCLEAR, found)
        if again is not None:  # in the resumed run too
            lab.start("--resume")
            if problem := _kill_after(lab, again * life, how):
                return Outcome(UNCLEAR, problem)
        return lab.proceed()[1]

    twice = ", and the resumed run again" if again is not None else ""
    return Fault(KIND, f"{how.name} of a lone process{twice}", act)


def _kill_after(lab: Lab, seconds: float, how: signal.Signals) -> str | None:
    """Kills all ranks after a while; None if they had ended, else what is wrong with their end."""
    time.sleep(seconds)
    lab.server.signal(how, *range(lab.ranks))
    ended = lab.server.wait()
    if ended.done:
        return None
    if not ended.codes:
        return f"hung: {ended.said[-TAIL:]}"
    return f"traceback: {ended.said[-TAIL:]}" if ended.traceback else ""


def _in_a_save(rng: Random, number: int) -> Fault:
    variant, event = _variant(rng), rng.randrange(_CHANGES)
    delay = rng.choice((0.0, rng.random() * _MOMENT))

    def act(lab: Lab) -> Outcome | None:
        lab.reference(variant)
        before = event
        while True:
            lab.fresh(variant)
            kill = {"below": "/run/state", "event": before, "signal": 9, "delay": delay}
            ended = lab.train(kill=kill)
            if not ended.done:
                break
            before //= 2  # there were fewer
        return lab.proceed()[1]

    return Fault(KIND, "SIGKILL within the writing of a state", act)


def _worker(rng: Random, number: int) -> Fault:
    rows = rng.randrange(1, 9)

    def act(lab: Lab) -> Outcome | None:
        lab.reference("validated")
        for wanted in (rows, 2, 1):
            lab.fresh("validated", workers=2)
            lab.start()
            lab.await_rows(wanted)
            workers = lab.server.children()
            if workers:
                lab.server.signal_pid(signal.SIGKILL, workers[number % len(workers)])
            ended = lab.server.wait()
            if not ended.done:
                return lab.ended_or_said(ended, ["worker"])
        return None

    return Fault(KIND, "SIGKILL of a worker that reads images", act)


def _stopped_workers(rows: int) -> Fault:
    """Workers that do not die but are stopped, as those that wait for storage that hangs."""

    def act(lab: Lab) -> Outcome | None:
        lab.reference("validated")
        for wanted in (rows, 2, 1):
            lab.fresh("validated", workers=2, read_timeout=2.0)
            lab.start()
            lab.await_rows(wanted)
            for worker in lab.server.children():
                lab.server.signal_pid(signal.SIGSTOP, worker)
            ended = lab.server.wait()
            if "read_timeout" in ended.error and "within" not in ended.error:
                return None  # a build without this setting
            if not ended.done:
                return lab.ended_or_said(ended, ["2 seconds (read_timeout)"])
        return None

    return Fault(KIND, "SIGSTOP of the workers that read images", act)


def _of_ranks(rng: Random, number: int) -> Fault:
    variant, how, instant = _variant(rng), rng.choice(_SIGNALS), rng.random()
    ranks = 2
    victims = rng.choice(((0,), (1,), (0, 1)))
    save = rng.randrange(_CHANGES) if rng.random() < 0.3 else None

    def act(lab: Lab) -> Outcome | None:
        _, life = lab.reference(variant, ranks)
        share, event = instant, save
        for _ in range(6):
            lab.fresh(variant, ranks)
            if event is not None:
                kill = {"below": "/run/state", "event": event, "signal": 9, "delay": 0.0}
                ended = lab.train(kill=kill, rank=victims[0])
                event //= 2
            else:
                lab.start()
                time.sleep(share * life)
                if len(victims) < ranks:
                    lab.await_words()
                lab.server.signal(how, *victims)
                ended = lab.server.wait()
                share *= 0.6
            if not ended.done:
                break
        else:
            return None
        if not ended.codes:
            return Outcome(LOST, f"the others hung: {ended.said[-TAIL:]}")
        if ended.traceback:
            return Outcome(UNCLEAR, f"another one's traceback: {ended.said[-TAIL:]}")
        return lab.proceed()[1]

    who = "all ranks" if len(victims) == ranks else f"rank {victims[0]} of {ranks}"
    what = "SIGKILL within the writing of a state" if save is not None else how.name
    return Fault(KIND, f"{what} of {who}", act)

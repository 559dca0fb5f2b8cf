"""Two hosts of one run lose each other: what ends, what resumes, and with what weights.

    python scripts/two_hosts.py

Each host is a network namespace of this machine, with one process of the run; a pair of virtual
network cards is the cable between them, and the folder of the run is shared. Linux, as root. Prints
rows of docs/results/faults.md; `python scripts/two_hosts.py 4 6` only two of its rows.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

HOSTS = {"a": "10.77.0.1", "b": "10.77.0.2"}
TIMEOUT_MINUTES = 0.5
# Two hosts that share a folder would have it by NFS; a run that is lost ends long before this.
PATIENCE_SECONDS = 400
# A host that does not come back is waited for as long as join_timeout, 600 seconds by default.
RENDEZVOUS = "join_timeout=60,last_call_timeout=10"


def ip(*words: str) -> str:
    """What `ip` answers."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def cable(state: str) -> None:
    """Takes the link of both hosts `down`, or `up`."""
    for host in HOSTS:
        ip("-n", f"host-{host}", "link", "set", f"wire-{host}", state)


def of_host(host: str, *, training: bool = False) -> list[int]:
    """The processes of a host; of those only the one that is training, a rank of torchrun's."""
    pids = [int(pid) for pid in ip("netns", "pids", f"host-{host}").split()]
    if not training:
        return pids
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in pids}
    ranks = [pid for pid, words in commands.items() if "torch.distributed.run" not in words]
    return [min(pid for pid in ranks if "centerarc" in commands[pid])]


def kill(pids: list[int]) -> None:
    """Kills processes as `kill -9` does."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def hosts() -> Iterator[None]:
    """Two network namespaces and the cable between them, gone with their processes at the end."""
    ip("netns", "add", "host-a")
    ip("netns", "add", "host-b")
    try:
        ends = ("wire-a", "netns", "host-a", "type", "veth", "peer", "wire-b", "netns", "host-b")
        ip("link", "add", *ends)
        for host, address in HOSTS.items():
            ip("-n", f"host-{host}", "link", "set", "lo", "up")
            ip("-n", f"host-{host}", "address", "add", f"{address}/24", "dev", f"wire-{host}")
        cable("up")
        yield
    finally:
        for host in HOSTS:
            kill(of_host(host))
            ip("netns", "delete", f"host-{host}")


@dataclass
class Run:
    """One run on both hosts, started by variables, or by torchrun with `nodes`."""

    folder: Path
    nodes: str | None = None
    started: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self) -> None:
        """Starts the run, or resumes it."""
        cable("up")
        for rank, host in enumerate(HOSTS):
            self.started[host] = self._popen(rank, host)

    def _popen(self, rank: int, host: str) -> "subprocess.Popen[bytes]":
        path = self.folder.parent / "config.yaml"
        command = ["-m", "centerarc", "train", str(path), "--run-dir", str(self.folder)]
        command += ["--resume", "auto"]
        variables = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": f"wire-{host}"}
        if self.nodes is None:
            variables |= {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
            variables |= {"MASTER_ADDR": HOSTS["a"], "MASTER_PORT": "29400"}
        else:
            # An address is taken for that of this host only if its name has it, and no namespace
            # has a name: which host has the store is said, and each its own address.
            here = "true" if host == "a" else "false"
            launcher = ["-m", "torch.distributed.run", "--nnodes", self.nodes]
            launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{HOSTS['a']}:29500"]
            launcher += ["--rdzv-conf", f"is_host={here},{RENDEZVOUS}", "--rdzv-id", "two"]
            launcher += ["--local-addr", HOSTS[host], "--max-restarts", "3"]
            command = [*launcher, "--nproc-per-node", "1", *command]
            variables["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        with self._log(host).open("ab") as log:
            return subprocess.Popen(
                ["ip", "netns", "exec", f"host-{host}", sys.executable, *command],
                env={**os.environ, **variables},
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this script, which ends them
            )

    def _log(self, host: str) -> Path:
        return self.folder.with_suffix(f".{host}.log")

    def until_step(self, step: int) -> None:
        """Waits for a step to be logged."""
        rows, end = self.folder / "metrics.jsonl", time.monotonic() + PATIENCE_SECONDS
        while not rows.exists() or f'"step": {step},' not in rows.read_text():
            if time.monotonic() > end or any(p.poll() is not None for p in self.started.values()):
                raise SystemExit(f"{self.folder} did not come to step {step}: {self.said('a')}")
            time.sleep(0.02)

    def ends(self, hosts: str = "ab") -> str:
        """Waits for hosts to end; returns after how many seconds, and with what exit code."""
        start, ended = time.monotonic(), dict.fromkeys(hosts, "still there")
        while "still there" in ended.values() and time.monotonic() < start + PATIENCE_SECONDS:
            for host in hosts:
                code = self.started[host].poll()
                if code is not None and ended[host] == "still there":
                    ended[host] = f"{time.monotonic() - start:.0f} s, exit code {code}"
            time.sleep(0.1)
        for host in hosts:
            kill(of_host(host))
        return "; ".join(f"{host.upper()} {how}" for host, how in ended.items())

    def said(self, host: str) -> str:
        """What a host said."""
        return self._log(host).read_text()

    def weights(self) -> dict[str, np.ndarray]:
        """The last weights, none if the run did not end."""
        path = self.folder / "last.safetensors"
        return load_file(path) if path.exists() else {}

    def losses(self) -> dict[int, float]:
        """The losses of all steps."""
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return {row["step"]: row["loss"] for row in map(json.loads, lines)}


def undisturbed(run: Run) -> str:
    """Trains."""
    return run.ends()


def killed(run: Run) -> str:
    """Kills the process on host B."""
    kill(of_host("b", training=True))
    return run.ends()


def cut(run: Run) -> str:
    """Takes the cable away."""
    cable("down")
    return run.ends()


def cut_for_a_moment(run: Run) -> str:
    """Takes the cable away for ten seconds."""
    cable("down")
    time.sleep(10)
    cable("up")
    return run.ends()


def gone(run: Run) -> str:
    """Host B is gone for good: no cable, no processes."""
    cable("down")
    kill(of_host("b"))
    return run.ends("a")


CASES: list[tuple[str, str | None, Callable[[Run], str]]] = [
    ("undisturbed", None, undisturbed),
    ("B's process is killed", None, killed),
    ("B's process is killed", "2", killed),
    ("the link is down for 10 s", None, cut_for_a_moment),
    ("the link is down for good", None, cut),
    ("the link is down for good", "2", cut),
    ("B is gone for good", "1:2", gone),
]


def write_config(folder: Path) -> None:
    """A run of 60 steps that is saved every 10."""
    (folder / "config.yaml").write_text(
        "data: {source: synthetic, num_identities: 40, images_per_identity: 12}\n"
        "validation: null\n"
        "model: {name: mobilefacenet_small, embedding_size: 16, image_size: 16}\n"
        "optimizer: {lr: 0.001}\nschedule: {max_steps: 60}\n"
        "batch_size: 12\nsave_every: 10\nlog: {every: 1}\nworkers: 0\ndevice: cpu\n"
        f"timeout_minutes: {TIMEOUT_MINUTES}\n"
    )


def difference(found: Run, expected: Run) -> str:
    """Whether the weights are those of the undisturbed run; else the first loss that is not."""
    weights, right = found.weights(), expected.weights()
    if weights.keys() != right.keys():
        return "none"
    if all(weights[name].tobytes() == right[name].tobytes() for name in right):
        return "the same bits"
    for step, loss in expected.losses().items():
        other = abs(found.losses()[step] / loss - 1)
        if other:
            return f"others: the loss of step {step} by {other:.0e}"
    return "others after the same losses"


def main() -> None:
    """Runs all cases, or those whose numbers are given, and prints a row of each."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the hosts go
    chosen = [0, *map(int, sys.argv[1:])] if sys.argv[1:] else range(len(CASES))
    print("| what happens | started by | both hosts | after that | weights |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary, hosts():
        folder = Path(temporary)
        write_config(folder)
        expected = Run(folder / "run0")
        for number in chosen:
            name, nodes, act = CASES[number]
            run = Run(folder / f"run{number}", nodes)
            run.start()
            run.until_step(25)
            outcome, after = act(run), "-"
            if not (run.folder / "last.safetensors").exists():
                again = Run(run.folder)
                again.start()
                after = f"resumed: {again.ends()}"
            by = "variables" if nodes is None else f"torchrun, {nodes} nodes"
            cells = [name, by, outcome, after, difference(run, expected)]
            print(f"| {' | '.join(cells)} |", flush=True)
            for host in HOSTS:
                for line in run.said(host).splitlines():
                    if line.startswith("error:") or "resum" in line or "processes:" in line:
                        print(f"  {host.upper()}: {line}", file=sys.stderr)


if __name__ == "__main__":
    main()

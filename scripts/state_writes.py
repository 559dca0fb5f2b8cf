"""How long a step waits for a saved state, against how long its write takes.

    OMP_NUM_THREADS=1 python scripts/state_writes.py

A state of 410 MB: a linear backbone, 60,000 people, and the momentum of both. In turns it is copied
to be written in the background, and written while the step waits. As in a run, the memory of the
copy is made in the background before the first save.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from centerarc import CenterArcFaceLoss
from centerarc.distributed.process import Processes
from centerarc.training.checkpoint import StateWriter

ROUNDS = 6


def main() -> None:
    model, criterion = nn.Linear(512, 40_000, bias=False), CenterArcFaceLoss(60_000, 512)
    parameters = [*model.parameters(), *criterion.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for parameter in parameters:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    alone = Processes(0, 1, torch.device("cpu"))
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        writers = {b: StateWriter(Path(folder, str(b)), alone, background=b) for b in (True, False)}
        trained = model, nn.Identity(), criterion, [optimizer]
        writers[True].make_room({}, *trained)
        time.sleep(5)  # steps
        for number in range(ROUNDS):
            seconds = {}
            for background, writer in writers.items():
                state = {"step": number, "sound": True, "settings": {"on_nonfinite": "stop"}}
                start = time.perf_counter()
                writer.save(state, *trained)
                seconds[background] = time.perf_counter() - start
                writer.wait()
            shares.append(seconds[True] / seconds[False])
            print(f"copied in {seconds[True]:.2f} s, written in {seconds[False]:.2f} s", flush=True)
        for writer in writers.values():
            writer.close()
    print(f"first {shares[0]:.1%}, then {statistics.median(shares[1:]):.1%} of the write")


if __name__ == "__main__":
    main()

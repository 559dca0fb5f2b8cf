#!/usr/bin/env bash
# accelerate 1.15.0, torch 2.13.0, two processes on the CPU (gloo).
#
# An object given to `Accelerator.register_for_checkpointing` is asked for its state on every process,
# but `save_state` writes one file, from process 0 only, and `load_state` gives it to all processes.
# What process 1 had is lost: no error, no warning. For an object that holds a part of something (its
# classes of a sharded head, its own queue) the checkpoint is incomplete. The random generators, by
# contrast, are saved for each process.
#
# Seen:
#   files: custom_checkpoint_0.pkl random_states_0.pkl random_states_1.pkl
#   process 0 of 2 saved 0, loaded 0
#   process 1 of 2 saved 1, loaded 0
#
# Exits with 0 while this is so, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 accelerate==1.15.0
cd "$work"
cat > part.py <<'PY'
import os

import torch
import torch.distributed as dist
from accelerate import Accelerator


class Part:
    def __init__(self, number):
        self.rows = torch.tensor([number])

    def state_dict(self):
        return {"rows": self.rows}

    def load_state_dict(self, state):
        self.rows = state["rows"]


accelerator = Accelerator(cpu=True)
process, count = accelerator.process_index, accelerator.num_processes
part = Part(process)
accelerator.register_for_checkpointing(part)
accelerator.save_state("state")
accelerator.wait_for_everyone()
part.rows = torch.tensor([-1])
accelerator.load_state("state")
lines = [None] * count
dist.all_gather_object(lines, f"process {process} of {count} saved {process}, loaded {int(part.rows)}")
if accelerator.is_main_process:
    print("files:", *sorted(os.listdir("state")))
    print(*lines, sep="\n")
accelerator.end_training()
PY
OMP_NUM_THREADS=1 "$work/venv/bin/torchrun" --standalone --nproc-per-node 2 part.py | tee seen
diff seen - <<'SEEN'
files: custom_checkpoint_0.pkl random_states_0.pkl random_states_1.pkl
process 0 of 2 saved 0, loaded 0
process 1 of 2 saved 1, loaded 0
SEEN

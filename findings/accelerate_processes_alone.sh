#!/usr/bin/env bash
# accelerate 1.15.0, torch 2.13.0, a machine without a GPU.
#
# Two ways to ask for two processes on the CPU, both without an error or a warning that it failed:
# - `torchrun --nproc-per-node 2` of a script with `Accelerator()`: RANK and WORLD_SIZE are set, but
#   each process takes itself for the only one and for the main one. Two models train side by side,
#   each on all the data, and both write the same checkpoint. `Accelerator(cpu=True)` sees both.
# - `accelerate launch --cpu --num_processes 2` starts one process.
#
# Seen:
#   torchrun: WORLD_SIZE 2, process 0 of 1, main True
#   torchrun: WORLD_SIZE 2, process 0 of 1, main True
#   launch: WORLD_SIZE None, process 0 of 1, main True
#
# Exits with 0 while this is so, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 accelerate==1.15.0
cd "$work"
cat > who.py <<'PY'
import os
import sys

from accelerate import Accelerator

accelerator = Accelerator()
seen = f"WORLD_SIZE {os.environ.get('WORLD_SIZE')}"
who = f"process {accelerator.process_index} of {accelerator.num_processes}"
print(f"{sys.argv[1]}: {seen}, {who}, main {accelerator.is_main_process}\n", end="", flush=True)
PY
export CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 HF_HOME="$work"
"$work/venv/bin/torchrun" --standalone --nproc-per-node 2 who.py torchrun | tee seen
"$work/venv/bin/accelerate" launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no \
    --dynamo_backend no who.py launch | tee -a seen
diff seen - <<'SEEN'
torchrun: WORLD_SIZE 2, process 0 of 1, main True
torchrun: WORLD_SIZE 2, process 0 of 1, main True
launch: WORLD_SIZE None, process 0 of 1, main True
SEEN

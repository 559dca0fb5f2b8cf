#!/usr/bin/env bash
# torch 2.13.0 on Linux.
#
# A tensor in shared memory that the system refuses, as /dev/shm is used up (64 MB in a container by
# default), raises RuntimeError: unable to allocate shared memory(shm). Its file in /dev/shm is made
# before the memory is asked for, and is not deleted then. It takes no room, but stays after the
# process has ended, and each attempt leaves another: a loop that goes on without shared memory,
# batch after batch, leaves a file for every batch of the night.
#
# Seen: 5 attempts to share a tensor of twice the size of /dev/shm, 5 errors, 5 new files without
# blocks, also after the process had ended.
#
# Exits with 0 while this is so, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
cat > refused.py <<'PY'
import os

import torch

place = os.statvfs("/dev/shm")
size = 2 * place.f_blocks * place.f_frsize
print(os.getpid(), flush=True)
for _ in range(5):
    try:
        torch.UntypedStorage._new_shared(size, device="cpu")
    except RuntimeError as error:
        print(str(error).partition(" for file")[0])
PY
"$work/venv/bin/python" refused.py > said
pid=$(head -n 1 said)
refused=$(grep -c "unable to allocate shared memory" said || true)
left=$(find /dev/shm -maxdepth 1 -name "torch_${pid}_*" | wc -l)
find /dev/shm -maxdepth 1 -name "torch_${pid}_*" -delete
echo "attempts refused: $refused, files left: $left"
[[ $refused -eq 5 && $left -eq 5 ]]

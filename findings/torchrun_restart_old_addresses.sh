#!/usr/bin/env bash
# torch 2.13.0.
#
# torchrun --max-restarts starts all ranks again after one of them failed, but with gloo they find
# each other only by luck: torchrun keeps its key-value store over restarts, in which the ranks of
# the first start left their addresses. A rank that is there sooner than another reads the other's
# old address, and ends with "connection refused", unless it is the one of the two that is called,
# which the addresses decide. With a store of its own for each start (a PrefixStore with
# TORCHELASTIC_RESTART_COUNT) a rank waits for the new address. Here five ranks come a second apart
# and join, and again; all but 1 of the 120 orders of their addresses fail.
#
# Seen:
#   without a prefix: the second start fails
#   with a prefix: the second start joins
#
# Exits with 0 while this is so, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
cat > rank.py <<'PY'
import datetime
import os
import sys
import time

import torch.distributed as dist

start, rank = os.environ["TORCHELASTIC_RESTART_COUNT"], int(os.environ["RANK"])
timeout = datetime.timedelta(seconds=20)
own = {}
if sys.argv[1] == "with":
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.PrefixStore(start, dist.TCPStore(*place, is_master=False, timeout=timeout))
    own = {"store": store, "rank": rank, "world_size": 5}
time.sleep(rank)
dist.init_process_group("gloo", timeout=timeout, **own)
dist.barrier()
print("start", start, "joined", flush=True)
time.sleep(1)
sys.exit(start == "0")
PY
for how in without with; do
    "$work/venv/bin/torchrun" --standalone --nproc-per-node 5 --max-restarts 1 rank.py "$how" \
        >log 2>&1 && ended=joins || ended=fails
    grep -q "start 0 joined" log || { cat log; exit 1; }
    echo "$how a prefix: the second start $ended"
done | tee seen
diff seen - <<'SEEN'
without a prefix: the second start fails
with a prefix: the second start joins
SEEN

#!/usr/bin/env bash
# torch 2.13.0.
#
# torch.save writes a zip file with a CRC-32 of each tensor, and torch.load does not look at it. One
# flipped bit, which a disk or a copy over a network may leave behind, loads without an error or a
# warning: here a weight of -1.2 becomes one of 1e38. Python's zipfile refuses the same member.
# The files of torch.distributed.checkpoint are of the same kind.
#
# Seen:
#   torch.load: 1 weight differs, largest difference above 1e38
#   zipfile: Bad CRC-32
#   torch.distributed.checkpoint: 1 weight differs
#
# Exits with 0 while this is so, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$work"
cat > flip.py <<'PY'
import pathlib
import zipfile

import torch
import torch.distributed.checkpoint as dcp

weights = torch.randn(1_000, 512, generator=torch.Generator().manual_seed(0))
start = weights.numpy().tobytes()[:64]


def flip(path):
    data = bytearray(path.read_bytes())
    data[data.index(start) + 1_003] ^= 0x40
    path.write_bytes(data)


path = pathlib.Path("weights.pt")
torch.save({"weights": weights}, path)
flip(path)
loaded = torch.load(path, weights_only=True)["weights"]
error = (loaded - weights).abs()
assert error.max() > 1e38
print(f"torch.load: {int((error > 0).sum())} weight differs, largest difference above 1e38")
try:
    zipfile.ZipFile(path).read("weights/data/0")
except zipfile.BadZipFile as refused:
    print("zipfile:", str(refused).split(" for")[0])

dcp.save({"weights": weights}, checkpoint_id="state")
(shard,) = pathlib.Path("state").glob("*.distcp")
flip(shard)
into = {"weights": torch.zeros_like(weights)}
dcp.load(into, checkpoint_id="state")
print(f"torch.distributed.checkpoint: {int((into['weights'] != weights).sum())} weight differs")
PY
"$work/venv/bin/python" flip.py 2>errors | tee seen || { cat errors; exit 1; }
diff seen - <<'SEEN'
torch.load: 1 weight differs, largest difference above 1e38
zipfile: Bad CRC-32
torch.distributed.checkpoint: 1 weight differs
SEEN

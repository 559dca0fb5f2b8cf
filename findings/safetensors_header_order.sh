#!/usr/bin/env bash
# safetensors 0.8.0, torch 2.13.0.
#
# The same tensors with the same metadata give files of different bytes: safetensors writes the
# entries of the metadata in an order that changes from call to call, even within one process. With
# two entries there are two files, with eight hardly ever the same one twice, so that a checksum or
# a cache by content takes equal weights for different ones. With one entry, or none, the bytes are
# always the same.
#
# Seen:
#   0 entries: 1 file in 100 calls
#   1 entry: 1 file in 100 calls
#   2 entries: 2 files in 100 calls
#   8 entries: more than 50 files in 100 calls
#
# Exits with 0 while this is so, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 safetensors==0.8.0
cd "$work"
cat > order.py <<'PY'
import torch
from safetensors.torch import save

weights = {"weight": torch.zeros(2)}
for count, words in ((0, "0 entries"), (1, "1 entry"), (2, "2 entries"), (8, "8 entries")):
    metadata = {f"key{i}": str(i) for i in range(count)}
    files = len({save(weights, metadata=metadata) for _ in range(100)})
    said = "more than 50" if files > 50 else files
    print(f"{words}: {said} file{'s' * (files > 1)} in 100 calls")
PY
"$work/venv/bin/python" order.py 2>errors | tee seen || { cat errors; exit 1; }
diff seen - <<'SEEN'
0 entries: 1 file in 100 calls
1 entry: 1 file in 100 calls
2 entries: 2 files in 100 calls
8 entries: more than 50 files in 100 calls
SEEN

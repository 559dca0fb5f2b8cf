#!/usr/bin/env bash
# torch 2.13.0, safetensors 0.8.0.
#
# torch.load reads a path by its ending: a file of torch.save whose name ends in .safetensors is
# handed to safetensors, which takes the first bytes of the zip file for the length of a header. The
# same file, opened by the caller, is read. torch.save asks no question about the name.
#
# Seen:
#   torch.save to weights.safetensors: written
#   torch.load of the path: SafetensorError
#   torch.load of the opened file: {'weight': tensor([1., 1.])}
#
# Exits with 0 while this is so, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 safetensors==0.8.0 numpy==2.4.6
cd "$work"
cat > by_name.py <<'PY'
import torch

torch.save({"weight": torch.ones(2)}, "weights.safetensors")
print("torch.save to weights.safetensors: written")
try:
    print("torch.load of the path:", torch.load("weights.safetensors"))
except Exception as error:
    print("torch.load of the path:", type(error).__name__)
with open("weights.safetensors", "rb") as file:
    print("torch.load of the opened file:", torch.load(file))
PY
"$work/venv/bin/python" by_name.py | tee seen
diff seen - <<'SEEN'
torch.save to weights.safetensors: written
torch.load of the path: SafetensorError
torch.load of the opened file: {'weight': tensor([1., 1.])}
SEEN

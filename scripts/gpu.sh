#!/usr/bin/env bash
# Everything that needs a CUDA device, in under 8 minutes: tests, then the head's benchmark, whose
# tables go into docs/results/head-gpu.md. Needs PyTorch 2.11 or newer with Triton; installs nothing.
#   scripts/gpu.sh          tests and benchmark
#   scripts/gpu.sh lfw      the experiment of docs/results/lfw.md at 112 px; data as for lfw.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH=src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

"$python" - <<'PY'
import sys
import torch
if not torch.cuda.is_available():
    sys.exit("scripts/gpu.sh needs a CUDA device, and PyTorch sees none")
print(torch.cuda.get_device_name(), "torch", torch.__version__)
PY

if [ "${1:-}" = lfw ]; then
    for run in "softmax --loss.m 0 --loss.center-weight 0" "softmax-center --loss.m 0" \
        "arcface --loss.center-weight 0" "joint"; do
        read -r name flags <<<"$run"
        # shellcheck disable=SC2086
        "$python" -m centerarc train configs/lfw.yaml --run-dir "runs/lfw-gpu-$name" \
            --model.image-size 112 --precision bf16 --device cuda $flags
        "$python" -m centerarc evaluate "runs/lfw-gpu-$name" --images data/lfw112 \
            --pairs data/pairs.txt --folds 7,8 --mirror --json "runs/lfw-gpu-$name/folds-7-8.json"
    done
    exit
fi

failed=0
if "$python" -c "import pytest" 2>/dev/null; then
    timeout 150 "$python" -m pytest -m gpu -q tests/losses tests/data || failed=1
else
    echo "pytest is not there: the tests are left out"
fi
timeout 330 "$python" -m benchmarks.head --device cuda --page docs/results/head-gpu.md || failed=1
exit $failed

#!/usr/bin/env bash
# The experiment of docs/results/lfw.md: four criteria, one recipe, two at a time on two cores.
# Needs data/lfw112/<Name>/<Name>_<NNNN>.jpg and data/pairs.txt; takes about 50 minutes on 2 cores.
#   SEED=0 scripts/lfw.sh
set -euo pipefail
cd "$(dirname "$0")/.."
seed=${SEED:-0}
bin=${BIN:-.venv/bin}
# One thread a run, and an allocator that keeps its memory: the fastest way to use a small CPU.
export OMP_NUM_THREADS=1
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=30000000000 MALLOC_TOP_PAD_=200000000

run() { # name, flags
    local name=$1
    shift
    "$bin/centerarc" train configs/lfw.yaml --run-dir "runs/lfw-$name-$seed" --seed "$seed" "$@"
    "$bin/centerarc" evaluate "runs/lfw-$name-$seed" --images data/lfw112 --pairs data/pairs.txt \
        --folds 7,8 --mirror --json "runs/lfw-$name-$seed/folds-7-8.json"
}

(
    run softmax --loss.m 0 --loss.center-weight 0
    run softmax-center --loss.m 0
) &
(
    run arcface --loss.center-weight 0
    run joint
) &
wait

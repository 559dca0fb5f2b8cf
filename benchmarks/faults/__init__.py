"""What becomes of training runs that are killed, damaged and hindered.

`python -m benchmarks.faults` tries every fault, `--help` tells how to try some of them. The results
are in docs/results/faults.md.
"""

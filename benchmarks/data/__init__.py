"""What reading and augmenting faces costs, beside a bare decode loop and beside the usual way.

``python -m benchmarks.data`` runs it, ``--help`` tells how to run parts of it. The results are in
docs/results/data.md.
"""

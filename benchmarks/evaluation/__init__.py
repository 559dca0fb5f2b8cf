"""What curves, intervals and template scores cost, beside scikit-learn and the plain formulas.

``python -m benchmarks.evaluation`` runs it, ``--help`` tells how to run parts of it. The results
are in docs/results/evaluation.md.
"""

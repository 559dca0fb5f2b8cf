"""What users wait for, on this build, on one of before, and against a bound or a peer.

``python -m benchmarks.speed TASK`` runs a task.
"""

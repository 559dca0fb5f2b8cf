"""The random numbers of a step."""

import hashlib

import torch


def seed_step(seed: int, rank: int, step: int) -> None:
    """Seeds torch's global generators, which dropout draws from, for one optimiser step.

    What a step draws is a function of these three numbers alone. So a run that goes on needs no
    saved generator, and what else draws from the global ones (a data loader does when it starts)
    changes nothing. Ranks draw differently.

    Args:
        seed: The run's seed.
        rank: This process's number.
        step: Number of the optimiser step.
    """
    digest = hashlib.sha256(f"{seed}/{rank}/{step}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)

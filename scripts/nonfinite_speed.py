"""Measures what the checks for numbers that are not finite take of a step and of a save.

    python scripts/nonfinite_speed.py [--model mobilefacenet] [--people 1000] [--size 112]

One thread, a batch of 32 images; milliseconds of processor time, the best of five.
"""

import argparse
import tempfile
import time
from collections.abc import Callable

import torch

from centerarc.distributed import Processes
from centerarc.training import Trainer, check_config


def best(action: Callable[[], object], times: int = 5) -> float:
    """The least processor time that an action takes, in milliseconds."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        action()
        taken.append(time.process_time() - start)
    return 1e3 * min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mobilefacenet")
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--size", type=int, default=112)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    alone = Processes(0, 1, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        config = check_config(
            {
                "run_dir": f"{folder}/run",
                "data": {"source": "synthetic", "num_identities": flags.people},
                "model": {"name": flags.model, "image_size": flags.size},
                "batch_size": 32,
                "workers": 0,
                "device": "cpu",
                "ema_decay": 0.999,
                "on_nonfinite": "skip",
            }
        )
        trainer = Trainer(config, alone, resume=False, overwrite=False)
        step, parts = trainer.parts.train_step, trainer.parts
        images = torch.randint(0, 256, (32, flags.size, flags.size, 3), dtype=torch.uint8)
        whole = best(lambda: step(images, torch.arange(32) % flags.people), 3)
        copies = best(lambda: [buffer.clone() for buffer in step._moving])
        for parameter in (*trainer.model.parameters(), *trainer.criterion.parameters()):
            parameter.grad = torch.zeros_like(parameter)
        norm = best(step._gradient_norm)
        save = best(trainer._write_state)
        check = best(lambda: parts.check_finite(alone))
        norms = best(lambda: parts.norms(alone))
    print(f"step {whole:.0f}: norm of the gradients {norm:.1f}, copies of statistics {copies:.1f}")
    print(f"save {save:.0f}: check {check:.1f}, norms of the weights {norms:.1f}")


if __name__ == "__main__":
    main()

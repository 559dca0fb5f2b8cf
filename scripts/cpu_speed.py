"""Images a second of training steps on this CPU, without the loader: the figures of training.md.

    python scripts/cpu_speed.py [--model NAME] [--size 64] [--threads 2] [--compile] [--bf16]

Each figure in its own process, so that allocator and OpenMP settings can be given as environment
variables: OMP_WAIT_POLICY, MALLOC_MMAP_MAX_ and so on. ``--busy`` keeps one core occupied.
"""

import argparse
import multiprocessing
import statistics
import time

import torch

from centerarc.models.backbone import create_model


def occupy() -> None:
    """Keep one core busy until stopped."""
    while True:
        pass


def main() -> None:
    """Time the steps and print the median."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mobilefacenet_small")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--busy", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = create_model(options.model, embedding_size=128, image_size=options.size).train()
    torch.nn.Module.to(model, memory_format=torch.channels_last)
    images = torch.randn(options.batch, 3, options.size, options.size)
    images = images.contiguous(memory_format=torch.channels_last)
    forward = torch.compile(model) if options.compile else model

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bf16):
            embeddings = forward(images)
        embeddings.float().square().sum().backward()
        return time.perf_counter() - start

    step()
    other = multiprocessing.Process(target=occupy, daemon=True)
    if options.busy:
        other.start()
    median = statistics.median(step() for _ in range(options.steps))
    print(f"{options.batch / median:.0f} images/s, median of {options.steps} steps; {options}")
    if options.busy:
        other.terminate()


if __name__ == "__main__":
    main()

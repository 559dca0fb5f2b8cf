"""Images a second of embedding a folder, decoding included, beside two loops written by hand.

The peers decode by simplejpeg in the worker processes of a `DataLoader` and embed 16 images at a
time, at which onnxruntime was faster than at 64: the same network in PyTorch, and as ONNX in
onnxruntime's default session. All have two cores, and have opened the network; each embeds the same
images. Where the processor has instructions for bfloat16, `--precision bf16` is compared with two
such loops in PyTorch.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import simplejpeg
import torch
from benchmarks.common.machine import machine_words
from benchmarks.common.page import Record, Table, filled_regions
from benchmarks.common.runner import new_record, publish
from benchmarks.common.spread import Spread, shown
from benchmarks.common.turns import take_turns
from benchmarks.data.images import draw
from benchmarks.speed.builds import Build, Work, builds, play_round, serve
from torch import nn
from torch.utils.data import DataLoader

from centerarc.curate import embed_to_file
from centerarc.data import FolderSource
from centerarc.evaluation.protocols import ModelSubject
from centerarc.io.parallel import workers_for_a_model
from centerarc.losses.head.products import CPU_HAS_BFLOAT16
from centerarc.models import (
    OpenedModel,
    create_model,
    export_onnx,
    load_weights,
    open_model,
    save_weights,
)

# Network -> images of a turn.
AMOUNTS = {"mobilefacenet": 640, "iresnet50": 128}
QUICK = {"mobilefacenet": 48, "iresnet50": 16}
PEERS = {"plain": "a plain PyTorch loop", "onnxruntime": "onnxruntime's default session"}
OURS = ("embed", "evaluate")
OURS_HALF = "embed bf16"
PEERS_HALF = ("module bf16", "autocast bf16")
BATCH, THREADS = 16, 2
OVER_ONNXRUNTIME, OVER_PLAIN, OVER_HALF = 1.2, 1.0, 1.1
COSINE = 0.99999
CHANNELS_LAST = torch.channels_last

Embedding = npt.NDArray[np.float32]


def prepare(room: Path, amounts: dict[str, int]) -> None:
    """Draws faces, and writes each network as weights and as ONNX, with norms as after training."""
    for name, count in amounts.items():
        draw(room / name, count)
        source = FolderSource(room / name)
        samples = np.stack([source.image(number) for number in range(16)])
        model = create_model(name, generator=torch.Generator().manual_seed(0))
        inputs = (torch.from_numpy(samples).permute(0, 3, 1, 2).float() - 127.5) / 127.5
        for part in model.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.momentum = 1.0
        with torch.no_grad():
            model.train()(inputs)  # statistics become those of the images
        save_weights(room / f"{name}.safetensors", model)
        export_onnx(model.eval(), room / f"{name}.onnx", samples=samples)


class Decoded(torch.utils.data.Dataset[torch.Tensor]):
    """Images of some files, each `(H, W, 3)` uint8."""

    def __init__(self, files: list[str]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(simplejpeg.decode_jpeg(Path(self.files[index]).read_bytes()))


def batches(files: list[str]) -> Iterator[torch.Tensor]:
    """The peers' loop: `(N, 3, H, W)` float32 in [-1, 1]."""
    for images in DataLoader(Decoded(files), batch_size=BATCH, num_workers=THREADS):
        yield (images.permute(0, 3, 1, 2).float() - 127.5) / 127.5


def plain(network: nn.Module, files: list[str]) -> Embedding:
    """A loop in PyTorch."""
    with torch.inference_mode():
        return torch.cat([network(inputs) for inputs in batches(files)]).float().numpy()


def module_in_half(network: nn.Module, files: list[str]) -> Embedding:
    """A loop with weights in bfloat16, in channels_last, which is faster."""
    with torch.inference_mode():
        inputs = (given.to(torch.bfloat16, memory_format=CHANNELS_LAST) for given in batches(files))
        return torch.cat([network(given) for given in inputs]).float().numpy()


def autocast(network: nn.Module, files: list[str]) -> Embedding:
    """A loop under autocast, with a network in channels_last."""
    with torch.autocast("cpu", torch.bfloat16):
        return plain(network, files)


def onnx(session: Any, files: list[str]) -> Embedding:
    """A loop in onnxruntime."""
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: inputs.numpy()})[0] for inputs in batches(files)]
    return np.concatenate(parts)


@cache
def as_commands_do() -> None:
    """Keeps memory, where the build has that."""
    try:
        from centerarc.io.memory import keep_memory
    except ImportError:  # an earlier build
        return
    keep_memory()


@cache
def opened(model: Path, **how: Any) -> OpenedModel:
    """A model as commands open it, once."""
    as_commands_do()
    return open_model(model, **how)


def command(model: Path, source: FolderSource, out: Path, **how: Any) -> Embedding:
    """What `centerarc embed` does with its defaults, once it has opened the model."""
    found = opened(model, **how)
    embed_to_file(found, source, out, workers=workers_for_a_model(), overwrite=True)
    return np.asarray(np.load(out)["embedding"])


def evaluated(model: Path, source: FolderSource) -> Embedding:
    """What `centerarc evaluate` does with its defaults before it compares."""
    return ModelSubject(opened(model), workers=workers_for_a_model()).embed(source).embedding


def works_of(room: Path, names: list[str]) -> dict[str, Work]:
    """What a process plays: seconds, and by `<name> to` the file that its embeddings are in."""
    works: dict[str, Work] = {}
    for name in names:
        source, model = FolderSource(room / name), room / f"{name}.safetensors"
        files = [str(room / name / source.place(number)) for number in range(len(source))]
        network = load_weights(model).eval()
        session = onnxruntime.InferenceSession(room / f"{name}.onnx")
        ready = deepcopy(network).to(memory_format=CHANNELS_LAST)
        out = room / f"{os.getpid()}.npz"
        found: dict[str, Callable[[], Embedding]] = {
            "embed": partial(command, model, source, out),
            "evaluate": partial(evaluated, model, source),
            "plain": partial(plain, network, files),
            "onnxruntime": partial(onnx, session, files),
            OURS_HALF: partial(command, model, source, out, precision="bf16"),
            "module bf16": partial(module_in_half, deepcopy(ready).bfloat16(), files),
            "autocast bf16": partial(autocast, ready, files),
        }
        for way, work in found.items():
            works[f"{name} {way}"] = partial(_seconds, work)
            path = room / f"{name} {way} {os.getpid()}.npy"
            works[f"{name} {way} to"] = partial(_written, work, path)
    return works


def _seconds(work: Callable[[], Embedding], _: int) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _written(work: Callable[[], Embedding], path: Path, _: int) -> str:
    np.save(path, work())
    return str(path)


def compared(playing: dict[str, Build], names: list[tuple[str, str]]) -> dict[str, float]:
    """The smallest cosine of an image's embeddings by now's command and by another way."""

    def unit(build: str, name: str) -> npt.NDArray[np.float64]:
        found = np.load(playing[build].play(f"{name} to", 0)).astype(np.float64)
        return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True))

    networks = {name.split()[0] for _, name in names}
    ours = {network: unit("now", f"{network} embed") for network in networks}
    return {
        f"{build} {name}": float((unit(build, name) * ours[name.split()[0]]).sum(1).min())
        for build, name in names
    }


def table(record: Record) -> Table:
    """What was to be reached, and what was."""

    def row(ours: str, other: str, words: str, least: float) -> list[str]:
        rounds = [r for r in record["rounds"] if ours in r and other in r]
        found = Spread.of(r[other] / r[ours] for r in rounds)
        cosine = record["cosines"].get(other)
        return [
            words,
            f"{least:.2f}x" if least > 1 else "over 1x",
            shown(found, lambda value: f"{value:.2f}x"),
            "" if cosine is None else f"1 - {max(1 - cosine, 0):.0e}",
        ]

    rows = []
    for name in AMOUNTS:
        ours = f"now {name} embed"
        for peer, words in PEERS.items():
            least = OVER_ONNXRUNTIME if peer == "onnxruntime" else OVER_PLAIN
            rows.append(row(ours, f"peers {name} {peer}", f"`embed`, {name}, over {words}", least))
        for way in OURS:
            words = f"`{way}`, {name}, over the build before"
            rows.append(row(f"now {name} {way}", f"before {name} {way}", words, OVER_PLAIN))
        half = [f"peers {name} {peer}" for peer in PEERS_HALF]
        if half[0] in record["cosines"]:
            fastest = min(half, key=lambda peer: median(r[peer] for r in record["rounds"]))
            words = f"`embed --precision bf16`, {name}, over the faster loop in bfloat16"
            rows.append(row(f"now {name} {OURS_HALF}", fastest, words, OVER_HALF))
            cosines = [
                f"{record['cosines'][way]:.4f}" for way in (f"now {name} {OURS_HALF}", fastest)
            ]
            rows[-1][-1] = f"{cosines[0]}; the loop's {cosines[1]}"
    return ["images/s", "target", "reached", "smallest cosine"], rows


def main(chosen: argparse.Namespace) -> int:
    """Measures and writes."""
    amounts = QUICK if chosen.quick else AMOUNTS
    record = new_record("benchmarks.speed", None)
    record.update(torch=torch.__version__, threads=THREADS, rounds=[], cosines={})
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), amounts)
        given = [folder, *amounts]
        with builds(__name__, chosen.before, *given, threads=THREADS, peers=True) as playing:
            ways = {build: PEERS if build == "peers" else OURS for build in playing}
            if CPU_HAS_BFLOAT16:
                ways["peers"], ways["now"] = (*PEERS, *PEERS_HALF), (*OURS, OURS_HALF)
            names = [(b, f"{n} {way}") for b in playing for n in amounts for way in ways[b]]
            record["cosines"] = compared(playing, names)
            exact = [found for way, found in record["cosines"].items() if "bf16" not in way]
            if min(exact) < COSINE:
                raise AssertionError(f"embeddings differ: {record['cosines']}")
            rounds = chosen.rounds or (1 if chosen.quick else 5)
            take_turns("embed", rounds, partial(play_round, names, playing), record["rounds"])
    size = ", ".join(f"{count} for {name}" for name, count in amounts.items())
    words = f"Drawn faces of 112 x 112 pixels: {size}; onnxruntime {onnxruntime.__version__}"
    caption = f"{record['date']}, `{record['command']}`. {words}. {machine_words(record)}"
    publish("speed-embed", record, filled_regions(record, {"embed": table}, caption), chosen)
    return 0


if __name__ == "__main__":
    serve(works_of(Path(sys.argv[1]), sys.argv[2:]))

"""The demonstration: train on drawn faces, judge on people never seen, write a page about it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from centerarc.data.source import FaceSource
from centerarc.data.synthetic.source import SyntheticFaces
from centerarc.distributed.process import choose_device
from centerarc.evaluation.embedding import ImagePairs, embed, make_pairs, pair_scores
from centerarc.evaluation.verification import VerificationReport, evaluate_verification
from centerarc.io.files import check_place
from centerarc.io.tables import counted
from centerarc.models.opened import load_weights
from centerarc.report.evaluation_page import ReportData, write_report
from centerarc.report.people import FaceSample
from centerarc.report.rendering import require_report_extra
from centerarc.training.config import TrainConfig
from centerarc.training.data_config import SyntheticData
from centerarc.training.logging import read_metrics
from centerarc.training.loop import train
from centerarc.training.rehearsal import DryRun, dry_run
from centerarc.training.rundir import progress_of
from centerarc.training.settings import check_config
from centerarc.training.step import fast_bf16

PAGE = "report.html"

# People neither trained on nor used to choose the weights: drawn from beyond the training range.
_TEST_PEOPLE, _TEST_IMAGES = 120, 10
_TEST_PAIRS, _TEST_FOLDS = 4000, 5
_MAP_PEOPLE = 25
# For how long each part of a training is timed before it starts.
_TIMED_SECONDS = 1.0
# People who choose the best weights.
_HELD_OUT, _VALIDATION_PAIRS = 40, 1000
_TRAIN_IMAGES, _BATCH = 20, 16
# Of the networks tried, the most accurate for the time that it takes on two cores.
_MODEL = {
    "name": "iresnet10",
    "embedding_size": 128,
    "image_size": 48,
    "options": {"width": 0.25},
}


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration leaves.

    Args:
        page: The HTML page.
        verification: The numbers on unseen people.
    """

    page: Path
    verification: VerificationReport


def demo_config(
    run_dir: str | Path, *, people: int = 400, epochs: int = 4, seed: int = 0
) -> TrainConfig:
    """The recipe of the demonstration: `people` to train on, and 40 more to choose the weights."""
    return check_config(
        {
            "run_dir": run_dir,
            "seed": seed,
            "model": _MODEL,
            "data": {
                "source": "synthetic",
                "num_identities": people + _HELD_OUT,
                "images_per_identity": _TRAIN_IMAGES,
                "cache_gb": 1.0,
                # The drawings vary enough; more would only need more epochs.
                "augmentation": dict.fromkeys(
                    ("move", "light", "grey", "low_resolution", "occlusion"), 0.0
                ),
            },
            "validation": {"identities": _HELD_OUT, "num_pairs": _VALIDATION_PAIRS},
            "loss": {"s": 30.0, "m": 0.2, "center_weight": 1.0},
            "optimizer": {"lr": 0.1},
            "schedule": {"epochs": epochs, "warmup_epochs": 0.5, "shape": "cosine"},
            "batch_size": _BATCH,
            "precision": "bf16" if fast_bf16(choose_device("auto")) else "fp32",
            "clip_norm": 5.0,
        }
    )


def run_demo(
    config: TrainConfig,
    *,
    overwrite: bool = False,
    say: Callable[[str], Any] = print,
) -> DemoResult:
    """Trains, evaluates on unseen people, and writes the page; resumes the same demonstration.

    Of one that is finished, nothing is trained and its page stays; the numbers are those of its
    weights.

    Args:
        config: From `demo_config`; its data must be synthetic.
        overwrite: Replace another or a finished demonstration in `run_dir`.
        say: Called with a line for each stage; before the first, with how long all will take.

    Returns:
        The page and the numbers on it.

    Raises:
        ImportError: If the extra `report` is not installed; said before training starts.
        ValueError: If an argument does not fit, or the run folder holds something else.
    """
    require_report_extra()
    if not isinstance(config.data, SyntheticData):
        raise ValueError(f"data.source must be synthetic, got {config.data.source!r}")
    folder, page = config.run_dir, config.run_dir / PAGE
    stage = progress_of(config)
    if stage == "finished" and not overwrite:
        say(f"{str(folder)!r} holds this demonstration, finished; --overwrite trains it again")
    elif stage == "saved" and not overwrite:
        _train(config, say, resume=True)
    elif overwrite or stage in ("none", "begun"):
        check_place("page", page, overwrite=overwrite)
        page.unlink(missing_ok=True)
        _train(config, say, overwrite=stage != "none")
    else:
        raise ValueError(
            f"run_dir is {str(folder)!r}, which holds another run; --overwrite replaces it, or "
            "give another --run-dir"
        )
    say(f"judging on {_TEST_PEOPLE} people that the model has never seen")
    test = SyntheticFaces(
        _TEST_PEOPLE,
        _TEST_IMAGES,
        seed=config.data.seed,
        image_size=config.model.image_size,
        first_identity=config.data.num_identities,
    )
    embeddings = embed(load_weights(config.run_dir), test, mirror=True, workers=config.workers)
    pairs = make_pairs(test.labels, _TEST_PAIRS, seed=config.seed, folds=_TEST_FOLDS)
    scores = pair_scores(embeddings, pairs.index_a, pairs.index_b)
    people = (test.labels[pairs.index_a], test.labels[pairs.index_b])
    report = evaluate_verification(scores, pairs.same, pairs.fold, people)
    if not page.exists():
        say("drawing the page")
        write_report(page, _page(config, report, scores, pairs, test, embeddings))
    return DemoResult(page, report)


def _train(
    config: TrainConfig,
    say: Callable[[str], Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> None:
    """Trains, after saying how long that and what follows will take.

    In one thread: threads wait for each other longer than they save with so small a network, and
    much longer where other programs run.
    """
    say("taking a few steps, to see how long the whole will take")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = dry_run(config, resume=resume, overwrite=overwrite, seconds=_TIMED_SECONDS)
        _say_minutes(found, say)
        train(config, resume=resume, overwrite=overwrite)
    finally:
        torch.set_num_threads(threads)


def _say_minutes(found: DryRun, say: Callable[[str], Any]) -> None:
    # The features of an image and its mirror image are computed one after the other.
    judged = 2 * _TEST_PEOPLE * _TEST_IMAGES / max(found.judged, 1)
    seconds = found.opening_seconds + found.seconds + judged * found.validation_seconds
    minutes = counted(max(1, round(seconds / 60)), "minute")
    say(f"this will take about {minutes} on this machine")


def _page(
    config: TrainConfig,
    report: VerificationReport,
    scores: np.ndarray[Any, np.dtype[np.float64]],
    pairs: ImagePairs,
    test: SyntheticFaces,
    embeddings: np.ndarray[Any, np.dtype[np.float32]],
) -> ReportData:
    assert isinstance(config.data, SyntheticData)
    assert config.validation is not None
    held_out = int(config.validation.identities or 0)
    trained_on = (
        f"{config.data.num_identities - held_out} drawn people, "
        f"{config.data.images_per_identity} images of each; {held_out} further people chose the "
        "best weights. The people judged here are of neither group."
    )
    # The same faces, drawn larger than the model sees them.
    shown: FaceSource = SyntheticFaces(
        _TEST_PEOPLE,
        _TEST_IMAGES,
        seed=config.data.seed,
        first_identity=config.data.num_identities,
    )
    rows = read_metrics(config.run_dir)
    mapped = np.flatnonzero(test.labels < _MAP_PEOPLE)
    size = config.model.image_size
    return ReportData(
        title="Center + ArcFace on drawn faces",
        verification=report,
        scores=scores,
        same=pairs.same,
        dataset=f"drawn faces of {_TEST_PEOPLE} people who were not in the training",
        pair_names=[
            (test.identities[a], test.identities[b])
            for a, b in zip(test.labels[pairs.index_a], test.labels[pairs.index_b], strict=True)
        ],
        pair_images=lambda i: (
            shown.image(int(pairs.index_a[i])),
            shown.image(int(pairs.index_b[i])),
        ),
        history=[row for row in rows if row["kind"] == "train"],
        validation=[row for row in rows if row["kind"] == "validation"],
        faces=FaceSample(
            images=[shown.image(int(i)) for i in mapped],
            labels=test.labels[mapped],
            names=test.identities,
            embeddings=embeddings[mapped],
        ),
        protocol=[
            ("Trained on", trained_on),
            ("Weights", "Those of the epoch with the best AUC on the validation people."),
            ("Input", f"{size} x {size} pixels; features of image and mirror image summed."),
        ],
        config=(config.run_dir / "config.yaml").read_text(encoding="utf-8"),
        command=f"centerarc demo --run-dir {config.run_dir} --people "
        f"{config.data.num_identities - _HELD_OUT} --epochs {config.schedule.epochs} "
        f"--seed {config.seed}",
    )

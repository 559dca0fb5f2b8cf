"""``centerarc evaluate``: how well a trained model verifies the pairs of a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.table import Table

    from centerarc.evaluation import Estimate, VerificationReport
    from centerarc.models import Backbone


def evaluate(
    run_or_weights: Path,
    /,
    *,
    images: Path,
    pairs: Path,
    folds: str = "",
    mirror: Annotated[bool, Parameter(negative="")] = False,
    model: str = "",
    batch_size: int = 64,
    workers: int = 0,
    device: str = "auto",
    json: Path | None = None,
) -> None:
    """Measure how well a model tells people apart, on the pairs of an LFW-style file.

    Parameters
    ----------
    run_or_weights
        A run folder (best.safetensors, else last.safetensors) or a weights file.
    images
        Folder of aligned faces: <Name>/<Name>_<NNNN>.jpg.
    pairs
        Pairs in the format of LFW's pairs.txt.
    folds
        Use these folds only, e.g. 7,8; all of them by default.
    mirror
        Sum the features of each image and its mirror image.
    model
        Backbone of a public checkpoint that does not name it, e.g. iresnet50.
    batch_size
        Images at once.
    workers
        Processes that read images; 0 reads in this one.
    device
        auto, cpu, cuda or mps.
    json
        Also write the result to this file.
    """
    from rich.console import Console
    from rich.progress import Progress

    from centerarc.data import explain_dead_workers
    from centerarc.distributed import choose_device
    from centerarc.evaluation import (
        PairImages,
        embed,
        evaluate_verification,
        pair_scores,
        read_pairs,
    )

    chosen = read_pairs(pairs)
    if folds:
        chosen = chosen.select_folds(_fold_numbers(folds))
    network = _load(run_or_weights, model)
    source = PairImages(chosen, images, image_size=network.image_size)
    target = choose_device(device)
    errors = Console(stderr=True)
    bar = Progress(console=errors, transient=True, disable=not errors.is_terminal)
    with bar as progress, explain_dead_workers(workers):
        task = progress.add_task("embedding", total=len(source))
        embeddings = embed(
            network,
            source,
            batch_size=batch_size,
            mirror=mirror,
            device=target,
            workers=workers,
            progress=lambda count: progress.advance(task, count),
        )
    scores = pair_scores(embeddings, source.index_a, source.index_b)
    report = evaluate_verification(scores, chosen.same, chosen.fold, (chosen.name_a, chosen.name_b))
    title = f"{run_or_weights}, {len(chosen):,} pairs of {pairs}"
    console = Console()
    console.print(_table(report, title))
    console.print(report.interval_method, style="dim")
    if json is not None:
        facts = {
            "weights": str(run_or_weights),
            "pairs": str(pairs),
            "folds": chosen.folds,
            "images": str(images),
            "distinct_images": len(source),
            "mirror": mirror,
        }
        _write_json(json, {**facts, **report.to_dict()})


def _fold_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"folds must be numbers with commas between, e.g. 7,8; got {text!r}"
        ) from None


def _load(path: Path, name: str) -> "Backbone":
    from centerarc.models import create_model, load_pretrained, load_weights

    if not name:
        return load_weights(path)
    network = create_model(name)
    load_pretrained(network, path)
    return network


def _table(report: "VerificationReport", title: str) -> "Table":
    from rich.table import Table
    from rich.text import Text

    # Text, not str: a path may hold what rich takes for markup.
    table = Table(title=Text(title), title_justify="left")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_column("note")
    if report.fold_std is not None:
        note = f"{len(report.fold_accuracy)} folds, ± {100 * report.fold_std:.2f} between folds"
        _add(table, "accuracy", report.accuracy, note)
    else:
        _add(table, "best accuracy", report.accuracy, "threshold chosen on these pairs: optimistic")
    _add(table, "AUC", report.auc)
    _add(table, "EER", report.eer)
    for far, tar in report.tar_at_far.items():
        _add(table, f"TAR at FAR {far:g}", tar, tar.reason or "")
    return table


def _add(table: "Table", name: str, estimate: "Estimate", note: str = "") -> None:
    value = "-" if estimate.value is None else f"{100 * estimate.value:.2f} %"
    interval = ""
    if estimate.interval is not None:
        interval = f"{100 * estimate.interval.low:.2f} to {100 * estimate.interval.high:.2f}"
    table.add_row(name, value, interval, note)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    from json import dumps

    from centerarc.data import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")

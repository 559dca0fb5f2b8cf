"""The card of a shared model: how to use it, how it was trained, what was measured, its limits."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from centerarc.io.yaml_file import dump_yaml
from centerarc.losses.margins import MARGINS, margin_parameters

# Of the files of `centerarc evaluate --json` that a card can show.
EVALUATION_FORMAT = "centerarc evaluation 2"
_TASK = "image-feature-extraction"
_TAGS = ["face-recognition", "face-verification", "arcface", "center-loss"]
SOURCES = {
    "folder": "a folder of images",
    "list": "a list of images",
    "parquet": "Parquet files",
    "recordio": "a RecordIO file",
    "shards": "WebDataset shards",
    "synthetic": "drawn faces",
    "mixed": "several sources",
}
_MARGINS = {
    "arcface": "ArcFace",
    "cosface": "CosFace",
    "sphereface_r": "SphereFace-R",
    "adaface": "AdaFace",
    "magface": "MagFace",
    "elastic_arcface": "ElasticFace-Arc",
    "elastic_cosface": "ElasticFace-Cos",
    "ldam": "LDAM",
    "dynamic_arcface": "ArcFace with dynamic margins",
    "curricularface": "CurricularFace",
    "mv_softmax": "MV-Softmax",
    "uniface": "UniFace",
}
# What a validation calls its numbers.
_VALIDATED = {
    "auc": "AUC",
    "eer": "EER",
    "accuracy": "accuracy, each fold at the threshold of the others",
    "best_accuracy": "accuracy at the best threshold of the same pairs (optimistic)",
    "pairs": "pairs",
}
_TAR = "tar_at_far_"
# Notes of an evaluation that take worth from its numbers; others may name files.
_SEEN = ("also in the gallery", "the same picture", "of the gallery or the probes")
_ELSEWHERE = " (--json has examples)"


@dataclass(frozen=True)
class Facts:
    """What is known of a model.

    Args:
        model: What loads it, `hf://owner/name`.
        recipe: As of `read_metadata`.
        config: Settings of the run; empty if unknown.
        results: Its `results.json`; empty if unknown.
        own_backbone: The backbone is none of the library's: who uses it needs its code.
        evaluations: What `centerarc evaluate --json` wrote.
        license: In the Hub's spelling; None if none is given.
    """

    model: str
    recipe: Mapping[str, Any]
    config: Mapping[str, Any]
    results: Mapping[str, Any]
    own_backbone: bool
    evaluations: Sequence[Mapping[str, Any]]
    license: str | None

    def of(self, name: str) -> Any:
        """The setting with a dotted name; None where it is not known."""
        value: Any = self.config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    @property
    def loss(self) -> Mapping[str, Any]:
        """Settings of the loss, which the weights have too."""
        found = self.of("loss") or self.recipe["metadata"].get("loss")
        return found if isinstance(found, Mapping) else {}

    @property
    def drawn(self) -> bool:
        """Whether it was trained on drawn faces alone."""
        return bool(self.of("data.source") == "synthetic")


def model_card(facts: Facts) -> str:
    """Returns the `README.md` of a model's repository."""
    name = facts.model.rpartition("/")[2]
    header: dict[str, Any] = {
        "library_name": "centerarc",
        "pipeline_tag": _TASK,
        **({} if facts.license is None else {"license": facts.license}),
        "tags": _TAGS,
    }
    if results := [found for shown in facts.evaluations if (found := _indexed(shown))["metrics"]]:
        header["model-index"] = [{"name": name, "results": results}]
    parts = [
        f"# {_plain(name)}",
        _summary(facts),
        *_use(facts),
        *_training(facts),
        *_validation(facts),
        *(line for shown in facts.evaluations for line in evaluation_part(shown)),
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(facts)),
    ]
    head = dump_yaml(header)
    return f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"


def _summary(facts: Facts) -> str:
    recipe = facts.recipe
    trained = f" with {loss}" if (loss := _loss_name(facts.loss)) else ""
    text = (
        f"A face recognition model ({recipe['name']}): it maps the image of an aligned face to an "
        f"embedding of {recipe['embedding_size']} numbers. Embeddings of one person have a high "
        f"cosine. Trained{trained} by the library centerarc."
    )
    if facts.drawn:
        text += (
            "\n\n**It was trained on drawn faces, to try things out. It does not recognize people "
            "in photos.**"
        )
    return text


def _use(facts: Facts) -> Iterator[str]:
    recipe = facts.recipe
    size, length = recipe["image_size"], recipe["embedding_size"]
    yield "## Use"
    yield 'In a clone of centerarc:\n\n```bash\npip install ".[hub]"\n```'
    yield f"""```python
import numpy as np
from centerarc.models import open_model

faces = np.zeros((2, {size}, {size}, 3), np.uint8)  # in their place: aligned faces, RGB
a, b = open_model("{facts.model}").embedder.embed(faces)  # {length} numbers each
similarity = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))  # cosine, -1 to 1
```"""
    if facts.own_backbone:
        yield (
            f"The backbone {_plain(recipe['name'])} is not part of centerarc: import the code that "
            "registers it first. It is not in this repository."
        )
    yield (
        f'`from_pretrained("{facts.model}")` of `centerarc.models` gives the PyTorch module, and '
        f"`centerarc evaluate {facts.model} --pairs pairs.csv --images faces` measures it on your "
        "own people."
    )
    yield "How images must be prepared:"
    rows = [
        ("size", f"{size} x {size} pixels"),
        (
            "alignment",
            "five points (eyes, nose, corners of the mouth) moved to the places that ArcFace models"
            " use; `centerarc data align` does it",
        ),
        ("colors", "RGB; images that OpenCV reads are BGR: `image[..., ::-1]`"),
        ("values", f"(x - 127.5) / 127.5, float32, N x 3 x {size} x {size}; `embed` does it"),
        ("result", f"{length} numbers, not normalized; compare by cosine"),
    ]
    yield _table(("input", ""), rows)


def _loss_name(loss: Mapping[str, Any]) -> str:
    if not loss:
        return ""
    name = _margin_name(loss)
    return f"the joint Center + {name} loss" if loss.get("center_weight") else f"the {name} loss"


def _margin_name(loss: Mapping[str, Any]) -> str:
    margin = str(loss.get("margin", "margin softmax"))
    return _MARGINS.get(margin, margin)


def _takes_m(margin: Any) -> bool:
    """Whether the setting `m` is a margin's; of one from elsewhere that is not known here."""
    return margin not in MARGINS or "m" in margin_parameters(margin)


def _training(facts: Facts) -> Iterator[str]:
    recipe, metadata, loss = facts.recipe, facts.recipe["metadata"], facts.loss
    options = "".join(f", {name} {value}" for name, value in recipe["options"].items())
    rows = [
        ("backbone", f"{recipe['name']}{options}"),
        ("people, images", _people(facts)),
    ]
    if loss:
        rows.append(("loss", _formula(loss)))
    if isinstance(threshold := metadata.get("threshold"), int | float):
        rows.append(("learned threshold", f"{threshold:.3f}, a cosine, on training images"))
    if isinstance(optimizer := facts.of("optimizer"), Mapping):
        named = {"lr": "learning rate", "momentum": "momentum", "weight_decay": "weight decay"}
        values = [
            f"{words} {_short(optimizer[key])}" for key, words in named.items() if key in optimizer
        ]
        rows.append(("optimizer", ", ".join([str(optimizer.get("name", "")), *values])))
    if isinstance(schedule := facts.of("schedule"), Mapping):
        power = (
            f" of power {_short(schedule.get('power'))}"
            if schedule.get("shape") == "polynomial"
            else ""
        )
        warmup = f"{_short(schedule.get('warmup_epochs', 0))} of warm-up"
        epochs = _several(schedule.get("epochs"), "epoch")
        decay = f"then {schedule.get('shape')} decay{power} to 0"
        rows.append(("schedule", f"{epochs}: {warmup}, {decay}"))
    if facts.of("batch_size"):
        rows.append(("batch", f"{facts.of('batch_size')} images, {facts.of('precision')}"))
    if "epoch" in metadata:
        text = f"of epoch {metadata['epoch']}"
        if "step" in metadata:
            text += f", after {_several(metadata['step'], 'step')}"
        if facts.config and metadata.get("metrics"):
            text += ", chosen by the validation"
        if decay := metadata.get("ema_decay"):
            text += f"; their running average, which decays by {_short(decay)} a step"
        rows.append(("weights", text))
    yield "## Training"
    yield _table(("setting", ""), rows)
    if facts.config:
        yield "All settings are in [config.yaml](config.yaml)."


def _people(facts: Facts) -> str:
    people, images = (facts.results.get(f"train_{name}") for name in ("identities", "images"))
    source = SOURCES.get(str(facts.of("data.source")), "")
    source = f", from {source}" if source else ""
    if not isinstance(people, int) or not isinstance(images, int):
        return f"unknown{source}"
    return f"{people:,} people, {images:,} images{source}"


def _formula(loss: Mapping[str, Any]) -> str:
    options = loss.get("margin_options") or {}
    if not options and _takes_m(loss.get("margin")):
        options = {"m": loss.get("m")}
    values = {**options, "s": loss.get("s")}
    if loss.get("sub_centers", 1) != 1:
        values["sub-centers"] = loss["sub_centers"]
    if loss.get("label_smoothing"):
        values["label smoothing"] = loss["label_smoothing"]
    shown = ", ".join(f"{name} = {_short(v)}" for name, v in values.items() if v is not None)
    text = f"{_margin_name(loss)} ({shown})"
    for name in ("center", "threshold", "separation"):
        if weight := loss.get(f"{name}_weight"):
            text += f" + {_short(weight)} x {name}"
    return text


def _validation(facts: Facts) -> Iterator[str]:
    found = facts.recipe["metadata"].get("metrics")
    if not isinstance(found, Mapping) or not found:
        return
    # Of one set, or of several by their names.
    sets = {name: values for name, values in found.items() if isinstance(values, Mapping)}
    yield "## Validation"
    if facts.config:
        yield _validated_on(facts, list(sets))
    else:
        yield "Recorded when the weights were saved."
    names, columns = (list(sets), list(sets.values())) if sets else (["value"], [found])
    measures = dict.fromkeys(key for values in columns for key in values)
    rows = [
        (_measure_name(key), *(_measured_value(key, values.get(key)) for values in columns))
        for key in measures
    ]
    yield _table(("measure", *map(_plain, names)), rows)


def _validated_on(facts: Facts, sets: Sequence[str]) -> str:
    """Whose pairs they were, and which number chose the weights."""
    whose = (
        "People who were held out, or whom a set names, were left out of the training. A .bin set "
        "names no one, so its people may have been trained on."
    )
    if facts.of("validation.identities") is not None and len(sets) < 2:
        whose = "On pairs of people of the same source who were held out of the training."
    measure = str(facts.of("validation.measure") or "auc")
    best = facts.of("validation.best_set") or (sets[0] if len(sets) > 1 else "")
    chosen = f"{measure if measure == 'accuracy' else measure.upper()}"
    if best:
        chosen += f" of {_plain(best)}"
    return f"{whose} The {chosen} chose the weights, so expect a little less on others."


def _measure_name(key: str) -> str:
    if key.startswith(_TAR):
        return f"TAR at FAR {_rate(key.removeprefix(_TAR))}"
    return _VALIDATED.get(key, _plain(key))


def _measured_value(key: str, value: Any) -> str:
    if isinstance(value, float) and (key in _VALIDATED or key.startswith(_TAR)):
        return _percent(value)
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
    return ""


# Evaluations.


def evaluation_part(content: Mapping[str, Any]) -> Iterator[str]:
    """The part of a card about one evaluation, as paragraphs.

    Raises:
        LookupError, TypeError, ValueError: If a number is missing or is none.
    """
    yield f"## Evaluation on {_plain(content['data']['name'])}"
    pairs, search = content.get("verification"), content.get("identification")
    summed = content["model"].get("mirror")
    summed = (
        " Features of each image and its mirror image were summed: `embed(faces, mirror=True)`."
        if summed
        else ""
    )
    protocol = str(content["data"].get("protocol", ""))
    yield f"Protocol: {_plain(protocol)}.{summed}"
    if pairs is not None:
        people = pairs.get("num_people")
        yield (
            f"{pairs['num_genuine']:,} pairs of one person and {pairs['num_impostor']:,} of two; "
            f"{_several(people, 'person', 'people') if people else 'people unknown'}. Threshold "
            f"of the accuracy, {_plain(pairs['convention'])}."
        )
        yield from _measured(_pair_rows(pairs))
        yield f"Intervals: {_plain(pairs['intervals'])}"
        for column, found in pairs.get("breakdowns", {}).items():
            yield f"By {_plain(column)}, at the threshold {found['threshold']:.4f} of all:"
            yield _table((_plain(column), "accuracy", "TAR", "FAR", "pairs"), _group_rows(found))
    if search is not None:
        mated, others = (sum(search[f"{kind}_probes"]) for kind in ("mated", "nonmated"))
        yield (
            f"{mated:,} probes of people in the gallery and {others:,} of others. "
            f"{_plain(search['convention'])}"
        )
        yield from _measured(_search_rows(search))
        yield f"Intervals: {_plain(search['intervals'])}"
    for note in content.get("notes", ()):
        if any(words in note for words in _SEEN):
            yield f"**{_plain(note.replace(_ELSEWHERE, ''))}.**"
    if (apart := content.get("separability")) is not None:
        yield (
            f"Cosines between {apart['num_images']:,} images of {apart['num_people']:,} people, "
            "which the center term is for:"
        )
        yield _table(_MEASURES, _separability_rows(apart))


_MEASURES = ("measure", "value", "95% interval")
_Measure = tuple[str, str, Mapping[str, Any]]


def _pair_rows(pairs: Mapping[str, Any]) -> Iterator[_Measure]:
    """Name, type in a model index, and value of each number."""
    if "kfold_accuracy" in pairs:
        folds = len(pairs.get("fold_accuracy") or ())
        name = f"accuracy, {folds} folds, each at the threshold of the others"
        yield name, "accuracy", pairs["kfold_accuracy"]
    if "best_accuracy" in pairs:
        name = "accuracy at the best threshold of the same pairs (optimistic)"
        yield name, "best_accuracy", pairs["best_accuracy"]
    yield "AUC", "auc", pairs["auc"]
    yield "EER", "eer", pairs["eer"]
    for far, value in pairs["tar_at_far"].items():
        yield f"TAR at FAR {_rate(far)}", f"{_TAR}{far}", value


def _search_rows(search: Mapping[str, Any]) -> Iterator[_Measure]:
    for rank, value in search["cmc"].items():
        yield f"rank {rank}", f"rank_{rank}", value
    for fpir, value in search["tpir_at_fpir"].items():
        name = f"TPIR (rank {search['tpir_rank']}) at FPIR {_rate(fpir)}"
        yield name, f"tpir_at_fpir_{fpir}", value


def _measured(measures: Iterable[_Measure]) -> Iterator[str]:
    """A table of what could be measured, and why the rest could not."""
    rows, reasons = [], []
    for name, _, estimate in measures:
        if estimate["value"] is None:
            reasons.append(_plain(estimate.get("reason", name)))
        else:
            rows.append((name, *_estimate(estimate)))
    yield _table(_MEASURES, rows)
    if reasons:
        yield f"Not measurable: {'; '.join(reasons)}."


def _estimate(found: Mapping[str, Any], factor: float = 100, digits: int = 2) -> tuple[str, str]:
    value, interval = found["value"], found.get("interval95")
    if value is None:
        return "not measurable", ""
    sign = "%" if factor == 100 else ""
    ends = "" if interval is None else " to ".join(f"{factor * v:.{digits}f}" for v in interval)
    return f"{factor * value:.{digits}f}{sign}", f"{ends}{sign}" if ends else ""


def _group_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for group in found["groups"]:
        cells = []
        for rate in ("accuracy", "tar", "far"):
            value, interval = _estimate(group[rate])
            cells.append(f"{value} ({interval})" if interval else value)
        pairs = f"{group['num_genuine']:,} of one person, {group['num_impostor']:,} of two"
        yield _plain(group["name"]) or "(empty)", *cells, pairs


def _separability_rows(apart: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, name in (
        ("compactness", "compactness: an image and its person's other images"),
        ("separation", "separation: a person and the nearest other person (less is better)"),
        ("margin", "margin: compactness minus the cosine to the nearest other person"),
    ):
        yield name, *_estimate(apart[key]["mean"], 1, 3)
    name = "images whose nearest center is that of their own person"
    yield name, *_estimate(apart["nearest_center_accuracy"])


def _indexed(content: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation as an entry of a model index, which the Hub shows beside a card."""
    rows: list[_Measure] = []
    if (pairs := content.get("verification")) is not None:
        rows += _pair_rows(pairs)
    if (search := content.get("identification")) is not None:
        rows += _search_rows(search)
    name = str(content["data"]["name"])
    return {
        "task": {"type": _TASK, "name": "Face recognition"},
        "dataset": {"name": name, "type": "".join(c if c.isalnum() else "-" for c in name.lower())},
        "metrics": [
            {"type": kind, "value": round(estimate["value"], 6), "name": title}
            for title, kind, estimate in rows
            if estimate["value"] is not None
        ],
    }


def _limits(facts: Facts) -> Iterator[str]:
    results, evaluations = facts.results, facts.evaluations
    people = results.get("train_identities")
    if facts.drawn:
        yield "Trained on drawn faces only: of no use on photos of people."
    elif isinstance(people, int):
        yield (
            f"Trained on {people:,} people. Expect more errors on people and pictures unlike "
            "theirs: other ages, origins, cameras, light, poses, masks."
        )
    else:
        yield "How many people it was trained on is not recorded here, nor who they are like."
    if not evaluations:
        yield "Not evaluated beyond the validation of its training."
    both = [(e["data"]["name"], len(e["data"].get("people_trained_on") or ())) for e in evaluations]
    for name, count in both:
        if count:
            yield (
                f"In {_plain(name)}, {count:,} of the people {'has' if count == 1 else 'have'} the "
                "name of someone in the training set: if they are the same people, its numbers are "
                "too good."
            )
    yield (
        "It comes with no threshold. Choose yours on pairs of your own people and pictures, at the "
        "false accept rate that you can bear; `centerarc evaluate` gives it with an interval."
    )
    groups = [
        column
        for shown in evaluations
        for column in (shown.get("verification") or {}).get("breakdowns", {})
    ]
    if groups:
        shown = ", ".join(_plain(column) for column in dict.fromkeys(groups))
        yield f"Measured by {shown} above; differences between other groups were not measured."
    else:
        yield (
            "Not measured by group (age, sex, skin tone, ...): error rates may differ between "
            "groups of people, and no number here says by how much."
        )
    yield (
        "It embeds any image, a face or not, and cannot tell a person from a picture of one "
        "(no liveness detection)."
    )
    yield "Embeddings of faces are biometric data, which laws in many places protect."


# Text.


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _plain(text: object) -> str:
    """A text that came from elsewhere, as Markdown shows it and in one line."""
    words = " ".join(str(text).split())
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in words)


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f}%"


def _rate(text: str) -> str:
    """A rate that may be tiny, in per cent: "0.0001" is 0.01%."""
    return f"{100 * float(text):.6f}".rstrip("0").rstrip(".") + "%"


def _short(value: Any) -> str:
    """A number without needless digits; anything else, from a file changed by hand, as it is."""
    return f"{value:g}" if isinstance(value, int | float) else _plain(value)


def _several(count: Any, one: str, many: str = "") -> str:
    number = f"{count:,}" if isinstance(count, int) else _plain(count)
    return f"{number} {one if count == 1 else many or one + 's'}"

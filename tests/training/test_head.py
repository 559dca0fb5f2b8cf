"""The head of a run: the weights of its classes, what it is refused with, and what it costs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from centerarc.distributed import Processes, head_costs
from centerarc.io.yaml_file import parse_yaml
from centerarc.losses import Chunked
from centerarc.training import TrainConfig, check_config
from centerarc.training.config import HeadConfig
from centerarc.training.head import class_weights, describe_head, make_criterion
from centerarc.training.loss_config import LossConfig
from tests.training.helpers import make_config

CPU = torch.device("cpu")


class Named:
    """Three people with 4, 1 and 2 images."""

    identities = ("Ann", "Bob", "Cy")
    labels = np.array([0, 0, 0, 0, 1, 2, 2])


def weights_of(value: Any) -> torch.Tensor | None:
    return class_weights(LossConfig(class_weights=value), Named())  # type: ignore[arg-type]


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    found = weights_of("balanced")
    expected = compute_class_weight("balanced", classes=np.arange(3), y=Named.labels)
    assert found is not None
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    assert found[torch.from_numpy(Named.labels)].mean().item() == pytest.approx(1)
    assert weights_of("off") is None


def test_weights_of_a_file_go_by_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.csv"
    path.write_text("weight;identity\n2;Cy\n0.5;Ann\n9;Zoe\n1e1;Bob\n")
    assert torch.equal(weights_of(path), torch.tensor([0.5, 10.0, 2.0]))  # type: ignore[arg-type]
    for text, message in (
        ("identity,weight\nAnn,1\nCy,1\n", r"no weight for 1 person of the training, first 'Bob'"),
        ("identity,weight\nAnn,1\nCy,1\nbob,1\n", r"first 'Bob'; 'bob' in it differs in case"),
        (
            "identity,weight\nAnn,0\n",
            r"weight is '0'; it must be a number from 1e-6 to 1e6",
        ),
        ("identity,weight\nAnn,1e39\n", r"line 2: weight is '1e39'"),
        ("identity,weight\nAnn,nan\n", r"line 2: weight is 'nan'"),
        ("identity,weight\nAnn,x\n", r"line 2: weight is 'x'"),
        ("identity,weight\nAnn,1\nAnn,2\n", r"line 3: 'Ann' has a weight already"),
        ("name,weight\nAnn,1\n", r"there is no column 'identity'"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            weights_of(path)


def test_weights_of_a_file_go_by_name_in_any_unicode_form(tmp_path: Path) -> None:
    path = tmp_path / "weights.csv"
    path.write_text("identity,weight\nZo\u00eb,2\nBob,3\n", encoding="utf-8")

    class Decomposed(Named):
        identities = ("Bob", "Zoe\u0308")

    found = class_weights(LossConfig(class_weights=path), Decomposed())  # type: ignore[arg-type]
    assert found is not None
    assert found.tolist() == [3, 2]


def test_the_criterion_has_the_configured_options() -> None:
    config = LossConfig(sample_rate=0.25, conflict_threshold=0.4, sub_centers=2)
    generator = torch.Generator().manual_seed(0)
    head = HeadConfig(workspace_mb=0.5)
    weight = torch.ones(6)
    criterion = make_criterion(config, 6, 4, generator, head=head, weight=weight)
    arcface = criterion.arcface
    assert (arcface.sample_rate, arcface.conflict_threshold) == (0.25, 0.4)
    assert arcface.implementation == Chunked(workspace=1 << 19)
    assert arcface.weight is not None
    assert torch.equal(arcface.weight, weight)


def content(**changes: Any) -> dict[str, Any]:
    return {"run_dir": "runs/a", "data": {"source": "synthetic"}, **changes}


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (
            {"head": {"fused": True}, "clip_norm": 5},
            ("head.fused is true", "clip_norm is 5", "use clip_norm: 0 or head.fused: false"),
        ),
        (
            {"head": {"fused": True}, "precision": "fp16"},
            ("head.fused", "precision is fp16", "precision: bf16"),
        ),
        (
            {"head": {"fused": True}, "accumulate": 2},
            ("head.fused", "accumulate is 2", "accumulate: 1"),
        ),
        (
            {"head": {"fused": True}, "optimizer": {"name": "adamw"}},
            ("head.fused", "optimizer.name is adamw", "optimizer.name: sgd or head.fused: false"),
        ),
        (
            {"head": {"fused": True}, "loss": {"separation_weight": 0.5}},
            ("head.fused", "loss.separation_weight is 0.5"),
        ),
        (
            {"loss": {"sample_rate": 0.1}, "optimizer": {"name": "adamw"}},
            ("loss.sample_rate is 0.1", "optimizer.name is adamw", "or loss.sample_rate: 1"),
        ),
        (
            {"loss": {"sample_rate": 0.1, "separation_weight": 1}},
            ("loss.sample_rate is 0.1", "loss.separation_weight is 1"),
        ),
        (
            {"loss": {"sample_rate": 0.1, "label_smoothing": 0.1}},
            ("label_smoothing is 0.1", "sample_rate: 0.1"),
        ),
        (
            {"loss": {"sub_centers": 3, "label_smoothing": 0.1}},
            ("label_smoothing is 0.1", "sub_centers: 3"),
        ),
        (
            {"loss": {"conflict_threshold": 0.3, "label_smoothing": 0.1}},
            ("label_smoothing is 0.1", "conflict_threshold: 0.3"),
        ),
        (
            {"loss": {"centers": "mean", "center_weight": 0}},
            ("centers is mean, but no term has a weight", "threshold_over: centers"),
        ),
        (
            {"loss": {"sub_centers": 2, "threshold_weight": 1, "threshold_over": "both"}},
            ("threshold_over is both", "sub_centers is 2", "centers: mean"),
        ),
        (
            {
                "loss": {"threshold_weight": 1},
                "data": {"source": "synthetic", "sampler": {"distinct": True}},
            },
            ("loss.threshold_over is pairs", "data.sampler.distinct is true", "kind: identities"),
        ),
        (
            {
                "loss": {"threshold_weight": "auto"},
                "data": {
                    "source": "synthetic",
                    "sampler": {"kind": "identities", "images_per_identity": 1},
                },
            },
            ("loss.threshold_over is pairs", "images_per_identity is 1"),
        ),
        ({"loss": {"sample_rate": 0}}, ("loss.sample_rate is 0", "greater than 0")),
        ({"loss": {"conflict_threshold": 1.5}}, ("loss.conflict_threshold is 1.5",)),
        ({"head": {"workspace_mb": 0}}, ("head.workspace_mb is 0",)),
    ],
)
def test_what_excludes_each_other_is_refused_by_name_when_it_is_read(
    changes: dict[str, Any], names: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=names[0]) as error:
        check_config(content(**changes))
    message = str(error.value)
    assert "\n" not in message
    for name in names:
        assert name in message, message


def test_what_goes_together_is_accepted() -> None:
    own = {"centers": "separate", "center_update": "gradient", "separation_weight": 0.5}
    check_config(content(head={"fused": True}, loss={**own, "sample_rate": 0.5}))
    over = {"threshold_weight": 1, "threshold_over": "centers", "sub_centers": 2}
    check_config(content(loss={**over, "centers": "mean", "center_weight": 0}))
    check_config(content(loss={"sample_rate": 0.5}, clip_norm=5, accumulate=2, precision="fp16"))


def test_yamls_word_for_off_is_not_a_truth_value(tmp_path: Path) -> None:
    for text, expected in (("off", "off"), ("balanced", "balanced"), ("w.csv", Path("w.csv"))):
        loss = parse_yaml(f"class_weights: {text}")
        assert check_config(content(loss=loss)).loss.class_weights == expected


def test_the_line_at_the_start_is_the_formula(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"model": {"embedding_size": 512}, "batch_size": 256}
    config = make_config(tmp_path, tmp_path, **changes, head={"fused": True})
    line = describe_head(config, 1_000_000, Processes(1, 2, CPU))
    found = head_costs(1_000_000, 512, 128, 2, fused=True, equal_batches=True)
    assert line.startswith("head: 1,000,000 people, 500,000 a process, ")
    assert f"{found.memory / 1e6:,.0f} MB (prototypes 1,024, momentum 1,024, else" in line
    assert line.endswith(f"{found.wire_sent / 1e6:,.1f} MB sent a step")
    alone = make_config(tmp_path, tmp_path, **changes, optimizer={"name": "adamw"})
    line = describe_head(alone, 100_000, Processes(0, 1, CPU))
    assert "moments 410" in line
    assert "sent" not in line
    copied = make_config(tmp_path, tmp_path, **changes, head={"sharded": False})
    line = describe_head(copied, 100_000, Processes(0, 4, CPU))
    # A ring all-reduce of the dense gradient.
    assert line.endswith(f"{1.5 * 100_000 * 512 * 4 / 1e6:,.1f} MB sent a step")


def test_the_cost_of_a_batch_is_the_share_of_a_process() -> None:
    config = TrainConfig(**content(batch_size=256, accumulate=2))
    two = describe_head(config, 1000, Processes(0, 2, CPU))
    assert f"{2 * head_costs(1000, 512, 64, 2, equal_batches=True).wire_sent / 1e6:.1f} MB" in two

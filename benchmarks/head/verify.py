"""That the implementations do the work they are timed for: loss, gradients and step, in float64.

``python -m benchmarks.head.verify cpu ours textbook`` prints the errors and, in the last line, who
has a large one, as JSON: [[implementation, task, mode], ...].
"""

import json
import sys
import warnings

import torch
import torch.nn.functional as F
from benchmarks.head.cases import MODES, TASKS
from benchmarks.head.implementations import (
    BUILDERS,
    MARGIN,
    MEAN_SCALE,
    MOMENTUM,
    SCALE,
    WEIGHT_DECAY,
    Absent,
    Head,
)
from benchmarks.head.problem import Problem, draw_near
from torch import Tensor

# Sizes that divide by nothing, and large enough that no one takes a shortcut.
N, C, D = 50, 3001, 72
# A learning rate at which a step is far above the rounding of the prototypes.
RATE = 0.5
# The momentum before it, everywhere.
SPEED = 0.01
# Largest error allowed, over the largest entry. Reduced precision is another's choice in some of
# the peers (bfloat16 logits): held only to be the same computation.
TOLERANCE = {"float32": 1e-4, "reduced": 0.1}


def arcface_loss(features: Tensor, weight: Tensor, labels: Tensor, margin: float) -> Tensor:
    """The mean loss in plain autograd; angles below pi - margin."""
    cosines = F.normalize(features) @ F.normalize(weight).T
    index = labels.unsqueeze(1)
    target = torch.cos(torch.acos(cosines.gather(1, index)) + margin)
    return F.cross_entropy(SCALE * cosines.scatter(1, index, target), labels)


def reference(name: str, problem: Problem, sample: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, features' gradient and (C, D) gradient that implementation ``name`` ought to find."""
    x = problem.features.detach().double().requires_grad_()
    w = problem.weight.detach().double().requires_grad_()
    if name == "products":
        z = x @ w.T
        return torch.zeros(()), (z @ w).detach(), (z.T @ x).detach()
    rows, labels = w, problem.labels
    if sample is not None:
        rows, labels = w[sample], torch.searchsorted(sample, labels)
    if name in ("pass", "means", "means_textbook"):
        cosines = MEAN_SCALE * F.normalize(x) @ F.normalize(w.detach()).T
        if name == "pass":
            own = torch.arange(len(w), device=x.device) == labels.unsqueeze(1)
            loss = cosines.masked_fill(own, -torch.inf).logsumexp(1).mean()
        else:
            loss = F.cross_entropy(cosines, labels)
        (to_x,) = torch.autograd.grad(loss, x)
        return loss.detach(), to_x, torch.zeros_like(w)
    if name.startswith("center"):
        loss = (x - w[labels]).square().sum() / (2 * len(labels))
    else:
        loss = arcface_loss(x, rows, labels, 0.0 if name == "torch_chunked" else MARGIN)
    to_x, to_w = torch.autograd.grad(loss, [x, w])
    return loss.detach(), to_x, to_w


def moved_centers(centers: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """The paper's update with step 0.5, class by class."""
    moved = centers.double().clone()
    for label in set(labels.tolist()):
        points = features[labels == label].double()
        delta = (centers[label].double() - points).sum(0) / (1 + len(points))
        moved[label] -= 0.5 * delta
    return moved


def moved_means(centers: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """The mean of one earlier embedding and the batch's, class by class."""
    moved = centers.double().clone()
    for label in set(labels.tolist()):
        points = F.normalize(features[labels == label].double())
        share = len(points) / (1 + len(points))
        moved[label] += share * (points.mean(0) - moved[label])
    return moved


def error(found: Tensor, right: Tensor) -> float:
    """The largest difference over the largest entry."""
    found, right = found.detach().double(), right.detach().double()
    return float((found - right).abs().max() / right.abs().max().clamp_min(1e-30))


def errors(name: str, task: str, mode: str, device: str) -> dict[str, float]:
    """How far one implementation is from the reference, part by part."""
    problem = draw_near(N, C, D, device)
    problem.reduced = mode == "reduced"
    if name in ("arcface_torch_sampled", "ours_sampled"):
        # No more labels than a tenth of the classes holds.
        assert len(problem.labels) < 0.1 * C
    before = problem.weight.clone()
    head: Head = BUILDERS[name](problem)
    optimizer = momentum = None
    if task in ("step", "sampled"):
        optimizer = head.optimizer(RATE)
        # Before the backward pass, which may be the step.
        momentum = optimizer.state[head.parameters[0]]["momentum_buffer"].fill_(SPEED)
    with torch.autocast(device, torch.bfloat16, enabled=problem.reduced and name != "products"):
        loss = head(problem.features, problem.labels)
    loss.backward()
    gradient = head.weight_gradient() if head.parameters else None
    sample = getattr(head, "sample", None)
    if gradient is not None and gradient.is_sparse:
        sample, gradient = gradient.coalesce().indices()[0], gradient.to_dense()
    given = Problem(problem.features, before, problem.labels)
    right_loss, right_x, right_w = reference(name, given, sample)
    to_features = problem.features.grad
    assert to_features is not None
    found = {"features": error(to_features, right_x)}
    if name != "products":
        found["loss"] = abs(loss.item() - float(right_loss)) / float(right_loss)
    if gradient is not None:
        found["weight"] = error(gradient, right_w)
    if name == "center":
        found["centers"] = error(
            problem.weight, moved_centers(before, given.features.detach(), given.labels)
        )
    if name.startswith("means"):
        found["centers"] = error(
            problem.weight, moved_means(before, given.features.detach(), given.labels)
        )
    if optimizer is not None and momentum is not None:
        optimizer.step()
        speed = MOMENTUM * SPEED + right_w + WEIGHT_DECAY * before.double()
        step = -RATE * speed
        if name == "ours_sampled":
            # Only here are the rows left out of the sample left alone.
            assert sample is not None
            left = torch.ones(C, 1, dtype=torch.bool, device=device)
            left[sample] = False
            speed, step = speed.where(~left, SPEED), step.where(~left, 0.0)
        found["momentum"] = error(momentum.T if name == "pml" else momentum, speed)
        found["step"] = error(problem.weight.double() - before.double(), step)
    return found


def main(device: str, names: list[str]) -> None:
    """Check the implementations named and print what was found."""
    warnings.simplefilter("ignore")
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device")
    failed = []
    for task in ("loss", "step", "sampled", "center", "means"):
        for name in TASKS[task]:
            for mode in MODES:
                if name not in names or (task in ("sampled", "center") and mode == "reduced"):
                    continue
                where = f"{name}, {task}, {mode}"
                try:
                    found = errors(name, task, mode, device)
                except Absent as reason:
                    print(f"  {where}: left out, {reason}", flush=True)
                    continue
                except Exception as problem:
                    line = (str(problem).strip() or "no message").splitlines()[0][:160]
                    print(f"  {where}: FAILS, {type(problem).__name__}: {line}", flush=True)
                    failed.append([name, task, mode])
                    continue
                right = all(value <= TOLERANCE[mode] for value in found.values())
                shown = ", ".join(f"{part} {value:.0e}" for part, value in found.items())
                print(f"  {where}: {'' if right else 'WRONG, '}{shown}", flush=True)
                if not right:
                    failed.append([name, task, mode])
    print(json.dumps(failed))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

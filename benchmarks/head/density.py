"""How few negatives hold a row's softmax mass late in training.

    python -m benchmarks.head.density --classes 100000

The first trains a small network and an ArcFace head (s = 64, m = 0.5) on made identities, and says
at some steps where the mass of the negatives lies. An identity is a point of a latent space; an
image is the point with noise, seen through a fixed random network. The first 10 000 people are
trained on with all classes; then the prototypes of all people start from mean embeddings, and a
sample of 10 000 classes takes part in each step.
"""

import argparse
import time

import torch
from torch import Tensor, nn

from centerarc import ArcFace, MarginSoftmaxLoss, PrototypeSGD

N, D, SCALE, MARGIN = 256, 512, 64.0, 0.5
FIRST = 10_000
TOLERANCES = (1e-2, 1e-3)


class Identities:
    """Images of C people, as many as are asked for."""

    def __init__(self, classes: int, latent: int, noise: float) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._people = torch.randn(classes, latent, generator=self._generator)
        self._noise = noise
        self._first = torch.randn(latent, D, generator=self._generator) / latent**0.5
        self._second = torch.randn(D, D, generator=self._generator) / D**0.5

    def images(self, labels: Tensor) -> Tensor:
        """(N, D)."""
        people = self._people[labels]
        people = people + self._noise * torch.randn(people.shape, generator=self._generator)
        return (people @ self._first).tanh() @ self._second

    def batch(self, classes: int) -> tuple[Tensor, Tensor]:
        """Images and labels of people drawn at random among the first C."""
        labels = torch.randint(classes, (N,), generator=self._generator)
        return self.images(labels), labels


def state(x: Tensor, w: Tensor, labels: Tensor) -> str:
    """Cells of a row of the table: where a batch stands, and where its negatives' mass lies."""
    x, w = nn.functional.normalize(x), nn.functional.normalize(w)
    own = torch.arange(len(labels)), labels
    logits = SCALE * (x @ w.T)
    target = logits[own] / SCALE
    spread = float(logits.std())
    logits[own] = -torch.inf
    hardest = float(logits.amax(1).mean()) / SCALE
    lse = logits.logsumexp(1)
    psi = (target.clamp(-1 + 1e-6, 1 - 1e-6).acos() + MARGIN).clamp(max=torch.pi).cos()
    loss = nn.functional.softplus(lse - SCALE * psi)
    # The gradient of every logit: a row's share of its negatives times the row's own factor.
    shares = (logits - lse.unsqueeze(1)).exp_()
    factors = torch.sigmoid(lse - SCALE * psi).unsqueeze(1)
    del logits
    cells = [f"{float(loss.mean()):.1f}", f"{float(target.mean()):.2f}", f"{hardest:.2f}"]
    cells.append(f"{spread:.1f}")
    ordered = shares.sort(1, descending=True).values
    sums = ordered.cumsum(1)
    whole = shares * factors
    whole[own] = -factors.squeeze(1)
    right = whole @ w, whole.T @ x
    for tolerance in TOLERANCES:
        counts = (sums < 1 - tolerance).sum(1, keepdim=True).clamp(max=len(w) - 2)
        kept = shares >= ordered.gather(1, counts)
        # What a pass can decide without a sort: shares below t / C sum to less than t.
        simple = shares > tolerance / len(w)
        wrong = (shares * factors).masked_fill_(kept, 0.0)
        errors = [
            float(error.norm() / found.norm())
            for error, found in zip((wrong @ w, wrong.T @ x), right, strict=True)
        ]
        shown = (kept, simple, kept.any(0))
        cells += [f"{float(f'{100 * float(share.float().mean()):.2g}'):g}%" for share in shown]
        cells.append(f"{max(errors):.0e}")
    return " | ".join(cells)


def train(
    people: Identities, network: nn.Module, weight: Tensor, steps: int, rate: float, end: float
) -> Tensor:
    """Print a row of the table at some steps; the trained prototypes."""
    criterion = MarginSoftmaxLoss(len(weight), D, ArcFace(MARGIN), s=SCALE, sample_rate=rate)
    criterion.prototypes = nn.Parameter(weight)
    optimizers = [
        torch.optim.AdamW(network.parameters(), lr=1e-3),
        PrototypeSGD(criterion.parameters(), lr=0.5, momentum=0.9, fused=rate == 1.0),
    ]
    for step in range(steps + 1):
        late = time.monotonic() > end
        if step in (0, steps // 8, steps // 4, steps // 2, steps) or late:
            with torch.no_grad():
                images, labels = people.batch(len(weight))
                found = state(network(images), weight, labels)
            print(f"| {len(weight):,} | {step} | {found} |", flush=True)
        if late or step == steps:
            break
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                peak = group.setdefault("peak", group["lr"])
                group["lr"] = peak * min(1.0, (step + 1) / 20) * (1 - step / steps)
            optimizer.zero_grad()
        images, labels = people.batch(len(weight))
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = network(images)
        criterion(embeddings.float(), labels).backward()
        for optimizer in optimizers:
            optimizer.step()
    return weight


@torch.no_grad()
def imprinted(people: Identities, network: nn.Module, weight: Tensor, classes: int) -> Tensor:
    """Prototypes of more people: mean embeddings, as long as the trained ones."""
    network.eval()
    rows = []
    for labels in torch.arange(classes).split(1000):
        images = people.images(labels.repeat(4))
        rows.append(nn.functional.normalize(network(images)).view(4, -1, D).mean(0))
    network.train()
    return nn.functional.normalize(torch.cat(rows)) * weight.norm(dim=1).mean()


def states(chosen: argparse.Namespace) -> None:
    """Print a Markdown table of states."""
    torch.manual_seed(0)
    people = Identities(chosen.classes, chosen.latent, chosen.noise)
    network = nn.Sequential(nn.Linear(D, 1024), nn.ReLU(), nn.Linear(1024, D), nn.BatchNorm1d(D))
    print("| C | step | loss | own cosine | hardest other | spread of logits |", end="")
    for tolerance in TOLERANCES:
        print(f" t = {tolerance:g}: entries | shares above t/C | classes | error |", end="")
    print("\n|" + "---|" * (6 + 4 * len(TOLERANCES)))
    end = time.monotonic() + 60 * chosen.minutes
    weight = 0.01 * torch.randn(min(FIRST, chosen.classes), D)
    weight = train(people, network, weight, chosen.steps, 1.0, end)
    if chosen.classes > FIRST:
        weight = imprinted(people, network, weight, chosen.classes)
        again = time.monotonic() + 60 * chosen.minutes
        train(people, network, weight, chosen.steps, FIRST / chosen.classes, again)


def main() -> None:
    """Train, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.head.density")
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--noise", type=float, default=0.5, help="over the spread of the people")
    parser.add_argument("--latent", type=int, default=32, help="dimensions of the latent space")
    parser.add_argument("--minutes", type=float, default=15.0, help="stop training then")
    chosen = parser.parse_args()
    states(chosen)


if __name__ == "__main__":
    main()

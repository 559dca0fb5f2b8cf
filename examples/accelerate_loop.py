"""Accelerate (`pip install accelerate`): python examples/accelerate_loop.py, or with torchrun"""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from centerarc import CenterArcFaceLoss
from centerarc.data import CachedSource, TrainLoader, create_source, to_input
from centerarc.evaluation import auc, embed, make_pairs, pair_scores

PEOPLE, SIZE, DIM = 80, 32, 64  # people to train on, pixels, numbers in an embedding
options = {"images_per_identity": 6, "image_size": SIZE}
faces = create_source("synthetic", num_identities=PEOPLE, **options)
others = create_source("synthetic", num_identities=40, first_identity=PEOPLE, **options)


def verify(model: nn.Module) -> str:
    pairs = make_pairs(others.labels, 1000)
    scores = pair_scores(embed(model, others), pairs.index_a, pairs.index_b)
    return f"AUC {auc(scores, pairs.same):.3f}"


# Without cpu=True, processes on a machine that has no GPU would each train alone, and not say so.
accelerator = Accelerator(cpu=not torch.cuda.is_available())
set_seed(0)
layers = []
for width, wider in [(3, 32), (32, 64), (64, 128)]:
    layers += [nn.Conv2d(width, wider, 3, 2, 1), nn.BatchNorm2d(wider), nn.PReLU(wider)]
model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, DIM), nn.BatchNorm1d(DIM))
criterion = CenterArcFaceLoss(PEOPLE, DIM, s=16.0, m=0.3)
accelerator.print("untrained", verify(model))
parameters = [*model.parameters(), *criterion.parameters()]
optimizer = torch.optim.AdamW(parameters, lr=3e-3)
# The criterion too: else each process would train prototypes of its own, on its part of the data.
# With mixed_precision both run under autocast; the loss stays float32.
model, criterion, optimizer = accelerator.prepare(model, criterion, optimizer)
# This loader gives each process its part of a batch; a DataLoader has to be prepared for that.
cached = CachedSource(faces, limit_bytes=10**8)
part = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
loader = TrainLoader(cached, batch_size=40, augmentation=None, seed=0, **part)

for epoch in range(4):
    loader.set_epoch(epoch)
    total = torch.zeros((), device=accelerator.device)
    for images, labels in loader:
        features = model(to_input(images.to(accelerator.device)))
        arcface_loss, center_loss = criterion(features, labels.to(accelerator.device))
        loss = arcface_loss + 1.0 * center_loss
        optimizer.zero_grad()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, 5.0)  # one norm over model and prototypes
        optimizer.step()
        total += loss.detach()
    total = accelerator.reduce(total, "mean")
    accelerator.print(f"epoch {epoch}  loss {total / len(loader):.3f}")
accelerator.print("trained", verify(accelerator.unwrap_model(model)))
accelerator.end_training()

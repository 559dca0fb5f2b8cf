"""A plain PyTorch loop with the joint Center + ArcFace loss: python examples/own_loop.py"""

import torch
from torch import nn

from centerarc import CenterArcFaceLoss
from centerarc.data import CachedSource, TrainLoader, create_source, to_input
from centerarc.evaluation import embed, evaluate_verification, make_pairs, pair_scores

PEOPLE, SIZE, DIM = 80, 32, 64  # people to train on, pixels, numbers in an embedding
# Drawn faces, to train on and of other people. Your own: create_source("folder", root="faces").
options = {"images_per_identity": 6, "image_size": SIZE}
faces = create_source("synthetic", num_identities=PEOPLE, **options)
others = create_source("synthetic", num_identities=40, first_identity=PEOPLE, **options)


def verify(model: nn.Module) -> str:
    """Do two images show one person? The threshold comes from the pairs of other people."""
    pairs = make_pairs(others.labels, 1000)
    scores = pair_scores(embed(model, others), pairs.index_a, pairs.index_b)
    report = evaluate_verification(scores, pairs.same, pairs.fold)
    return f"AUC {report.auc.value:.3f}  accuracy {report.accuracy.value:.3f}"


torch.manual_seed(0)
# Any network from images to (N, DIM) will do. It need not normalize: the criterion does.
layers = []
for width, wider in [(3, 32), (32, 64), (64, 128)]:
    layers += [nn.Conv2d(width, wider, 3, 2, 1), nn.BatchNorm2d(wider), nn.PReLU(wider)]
model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, DIM), nn.BatchNorm1d(DIM))
criterion = CenterArcFaceLoss(PEOPLE, DIM, s=16.0, m=0.3)  # for many people s=64.0, m=0.5
# The criterion learns too: without its parameters here, the prototypes would stay random.
parameters = [*model.parameters(), *criterion.parameters()]
optimizer = torch.optim.AdamW(parameters, lr=3e-3)
cached = CachedSource(faces, limit_bytes=10**8)
loader = TrainLoader(cached, batch_size=40, augmentation=None, seed=0)

print("untrained", verify(model))
for epoch in range(4):
    loader.set_epoch(epoch)  # each epoch has an order of its own
    total = 0.0
    for images, labels in loader:  # (N, H, W, 3) uint8 and (N,) integers in [0, PEOPLE)
        # Autocast, if you use it, belongs around the model; the loss is float32 in any case.
        arcface_loss, center_loss = criterion(model(to_input(images)), labels)
        loss = arcface_loss + 1.0 * center_loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)  # one norm over model and prototypes
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch}  loss {total / len(loader):.3f}")
print("trained", verify(model))

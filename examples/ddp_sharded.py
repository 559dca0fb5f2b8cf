"""DDP and a head in shards: torchrun --nproc-per-node 2 examples/ddp_sharded.py"""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from centerarc import CenterArcFaceLoss, PrototypeSGD
from centerarc.data import TrainLoader, create_source, to_input
from centerarc.distributed import ClassShards, class_state, convert_batchnorm
from centerarc.evaluation import auc, embed, make_pairs, pair_scores

PEOPLE, SIZE, DIM = 80, 32, 64  # people to train on, pixels, numbers in an embedding
options = {"images_per_identity": 6, "image_size": SIZE}
faces = create_source("synthetic", num_identities=PEOPLE, **options)
others = create_source("synthetic", num_identities=40, first_identity=PEOPLE, **options)

dist.init_process_group("gloo")
say = print if dist.get_rank() == 0 else lambda _: None
torch.manual_seed(0)  # every rank starts from the same weights
layers = []
for width, wider in [(3, 32), (32, 64), (64, 128)]:
    layers += [nn.Conv2d(width, wider, 3, 2, 1), nn.BatchNorm2d(wider), nn.PReLU(wider)]
model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, DIM), nn.BatchNorm1d(DIM))
replica = DistributedDataParallel(convert_batchnorm(model))  # statistics over all ranks
# Outside DDP: each rank holds other classes, and their gradient is complete already.
criterion = CenterArcFaceLoss(PEOPLE, DIM, s=16.0, m=0.3, shards=ClassShards(PEOPLE))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
head = PrototypeSGD(criterion.parameters(), lr=0.05, momentum=0.9, fused=True)
part = {"rank": dist.get_rank(), "world_size": dist.get_world_size()}
loader = TrainLoader(faces, batch_size=40, augmentation=None, seed=0, **part)

# Each start trains three epochs more than the last one saved, on any number of ranks.
folder = Path("runs/ddp_sharded")
state = {"model": class_state(model, optimizer), "head": class_state(criterion, head)}
saved = sorted(folder.glob("epoch-*/.metadata"))  # the file that a save writes last
if saved:
    dcp.load(state, checkpoint_id=saved[-1].parent)
for epoch in range(len(saved), len(saved) + 3):
    loader.set_epoch(epoch)
    total = 0.0
    for images, labels in loader:  # this rank's part of the batch
        arcface_loss, center_loss = criterion(replica(to_input(images)), labels)
        loss = arcface_loss + 1.0 * center_loss  # of the whole batch, the same on every rank
        optimizer.zero_grad()
        loss.backward()  # steps the prototypes too: they have no gradient that could be clipped
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        head.step()
        total += loss.item()
    dcp.save(state, checkpoint_id=folder / f"epoch-{epoch:03d}")
    say(f"epoch {epoch}  loss {total / len(loader):.3f}")
pairs = make_pairs(others.labels, 1000)
scores = pair_scores(embed(model, others), pairs.index_a, pairs.index_b)
say(f"trained AUC {auc(scores, pairs.same):.3f}")
dist.destroy_process_group()

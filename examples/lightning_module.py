"""Lightning (`pip install lightning`): python examples/lightning_module.py [processes]"""

import sys

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from centerarc import CenterArcFaceLoss
from centerarc.data import create_source, to_input
from centerarc.evaluation import auc, embed, make_pairs, pair_scores

PEOPLE, SIZE, DIM = 80, 32, 64  # people to train on, pixels, numbers in an embedding
options = {"images_per_identity": 6, "image_size": SIZE}
faces = create_source("synthetic", num_identities=PEOPLE, **options)
others = create_source("synthetic", num_identities=40, first_identity=PEOPLE, **options)


class FaceModule(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        layers = []
        for width, wider in [(3, 32), (32, 64), (64, 128)]:
            layers += [nn.Conv2d(width, wider, 3, 2, 1), nn.BatchNorm2d(wider), nn.PReLU(wider)]
        self.model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, DIM), nn.BatchNorm1d(DIM))
        # As a submodule it moves, clips and saves with the model, and DDP averages its gradients
        # over the processes. A head in shards must not be averaged: see ddp_sharded.py.
        self.criterion = CenterArcFaceLoss(PEOPLE, DIM, s=16.0, m=0.3)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        arcface_loss, center_loss = self.criterion(self.model(to_input(batch[0])), batch[1])
        loss = arcface_loss + 1.0 * center_loss
        self.log("loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.print(f"epoch {self.current_epoch}  loss {self.trainer.callback_metrics['loss']:.3f}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)  # the criterion's are among them

    def verify(self) -> str:  # a test loop over several processes would repeat some images
        pairs = make_pairs(others.labels, 1000)
        scores = pair_scores(embed(self.model, others), pairs.index_a, pairs.index_b)
        return f"AUC {auc(scores, pairs.same):.3f}"


processes = int(sys.argv[1]) if len(sys.argv) > 1 else 1
data = [(faces.image(index), label) for index, label in enumerate(faces.labels)]
loader = DataLoader(data, 40 // processes, shuffle=True, drop_last=True)  # Lightning deals it out
lightning.seed_everything(0)
module = FaceModule()
# precision="bf16-mixed" is fine, "bf16-true" is not: it rounds the prototypes to bfloat16 as well.
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
trainer = lightning.Trainer(devices=processes, max_epochs=4, gradient_clip_val=5.0, **quiet)
trainer.print("untrained", module.verify())
trainer.fit(module, loader)
trainer.print("trained", module.verify())

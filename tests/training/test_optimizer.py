import torch

from centerarc.losses import CenterArcFaceLoss
from centerarc.training.config import OptimizerConfig
from centerarc.training.optimizer import make_optimizer
from tests.training.helpers import SIZE, Tiny


def test_norms_biases_and_slopes_are_not_decayed_and_the_head_has_its_own_decay() -> None:
    model = Tiny(embedding_size=8, image_size=SIZE, norm=True)
    criterion = CenterArcFaceLoss(5, 8)
    config = OptimizerConfig(weight_decay=0.01, head_decay=3)
    optimizer = make_optimizer(model, criterion, config)
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        plain = name.endswith("bias") or name.startswith(("layers.1", "layers.2"))
        assert decay.pop(id(parameter)) == (0 if plain else 0.01), name
    for parameter in criterion.parameters():
        assert decay.pop(id(parameter)) == 0.03
    assert not decay


def test_kinds() -> None:
    model, criterion = torch.nn.Linear(2, 2), CenterArcFaceLoss(2, 2)
    sgd = make_optimizer(model, criterion, OptimizerConfig(nesterov=True, momentum=0.8))
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["nesterov"]
    assert sgd.defaults["momentum"] == 0.8
    adamw = make_optimizer(model, criterion, OptimizerConfig(name="adamw", lr=1e-3))
    assert isinstance(adamw, torch.optim.AdamW)

"""Batch-norm statistics taken anew."""

import torch

from conftest import randomise
from models import Darknet
from utils.batch_norm import recalibrate


def test_recalibration_takes_plain_averages_over_the_batches(tiny_cfg):
    torch.manual_seed(0)
    model = Darknet(tiny_cfg)
    randomise(model)
    batches = [(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8), None) for _ in range(3)]
    weights = model.module_list[0][0].weight.clone()
    recalibrate(model, batches)
    with torch.no_grad():
        outputs = [model.module_list[0][0](images / 255) for images, _ in batches]
    mean = torch.stack([x.mean((0, 2, 3)) for x in outputs]).mean(0)
    var = torch.stack([x.var((0, 2, 3)) for x in outputs]).mean(0)
    bn = model.module_list[0][1]
    assert torch.allclose(bn.running_mean, mean, atol=1e-5) and torch.allclose(bn.running_var, var, rtol=1e-4)
    assert not model.training and bn.momentum == 0.1 and torch.equal(weights, model.module_list[0][0].weight)
    before = bn.running_mean.clone()
    recalibrate(model, [])
    assert torch.equal(bn.running_mean, before)

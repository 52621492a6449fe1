"""Names that other people's code may import: they stay where they are."""

import importlib

import pytest
import torch

from models import Darknet
from nets import TINY_YOLO

PUBLIC = {
    "models": ("Darknet", "load"),
    "utils.parse_config": ("parse_model_config", "write_model_config"),
    "utils.pruning.compact": ("prune_and_eval",),
    "utils.pruning.job": ("eval_model",),
    "utils.pruning.selection": ("obtain_bn_mask", "obtain_filters_mask"),
    "utils.pruning.surgery": ("init_weights_from_loose_model",),
}


@pytest.mark.parametrize("module, name", [(module, name) for module, names in PUBLIC.items() for name in names])
def test_a_public_name_is_a_documented_part_of_its_module(module, name):
    found = getattr(importlib.import_module(module), name)
    assert callable(found) and found.__doc__ and found.__module__ == module


def test_a_net_is_made_of_a_path_and_of_module_defs_and_keeps_its_keys_and_weights(tmp_path):
    path, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    path.write_text(TINY_YOLO)
    net = Darknet(path).eval()
    twin = Darknet(net.module_defs).eval()
    net.save_darknet_weights(weights)
    twin.load_darknet_weights(weights)
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        rows = net(image)
        assert torch.equal(rows, twin(image)) and rows.shape == (2, 3 * (8 * 8 + 16 * 16), 6)
        assert [raw.shape for raw in net.train()(image)] == [(2, 18, 8, 8), (2, 18, 16, 16)]
    for key in ("module_list.0.conv_0.weight", "module_list.0.batch_norm_0.running_var", "module_list.7.conv_7.bias"):
        assert key in net.state_dict()
    assert all(bn.eps == 1e-6 for _, _, bn in net.convolutions() if bn is not None)

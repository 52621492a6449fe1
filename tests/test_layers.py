"""What a new layer type needs: an entry in each of four tables, and nothing else."""

import pytest
import torch

from conftest import trained, worst
from models import MODULE_OF, Darknet
from nets import TINY, cfg_text, place, with_layer
from utils import shapes
from utils.batch_norm import rescale_gammas, rescale_obstacles
from utils.cfg_keys import SECTION_KEYS
from utils.layers import LAYER_TYPES, LayerType
from utils.parse_config import parse_model_config
from utils.pruning.channel_graph import channel_graph
from utils.pruning.selection import Cut
from utils.pruning.surgery import compact_net, masked_state


class Affine(torch.nn.Module):
    """factor x + offset, as [affine] asks for."""

    def __init__(self, section):
        super().__init__()
        self.factor, self.offset = float(section["factor"]), float(section.get("offset", 0))

    def forward(self, x):
        return self.factor * x + self.offset


AFFINE = with_layer(TINY, "deep", affine="[affine]\nfactor=0.5\noffset=0.25\n")
DEEP = place(AFFINE, "deep")


@pytest.fixture
def affine_cfg(monkeypatch, tmp_path):
    """A net with [affine] behind `deep`; the type is declared as docs/architecture.md says, but for what
    pruning may assume of it."""
    monkeypatch.setitem(SECTION_KEYS, "affine", {"factor": "float", "offset": "float"})
    monkeypatch.setitem(shapes._SHAPE_OF, "affine", lambda section, inputs, place: inputs[0])
    monkeypatch.setitem(MODULE_OF, "affine", Affine)
    path = tmp_path / "affine.cfg"
    path.write_text(cfg_text(AFFINE))
    return path


def cut_half(model):
    """(masked net, compact net, graph) without every second group that may go."""
    graph = channel_graph(model.module_defs)
    keep = graph.frozen | (torch.arange(len(graph.frozen)) % 2 == 0)
    surgery = compact_net(model.module_defs, model.state_dict(), graph, keep)
    masked, compact = (Darknet(defs).double().eval() for defs in (model.module_defs, surgery.module_defs))
    masked.load_state_dict(masked_state(model.state_dict(), Cut(keep, 0.0, []).masks(graph)))
    compact.load_state_dict(surgery.state)
    return masked, compact, graph


def test_around_a_type_of_which_nothing_is_said_nothing_is_cut_and_the_rest_exactly(affine_cfg):
    model = trained(affine_cfg)
    masked, compact, graph = cut_half(model)
    assert "feeds a [affine], through which pruning does not follow channels" in graph.reasons[DEEP]
    assert DEEP not in graph.prunable and place(AFFINE, "neck") in graph.prunable and worst(masked, compact) < 1e-12
    obstacle = f"layer {DEEP + 1} [affine] is not known to pass a common factor on"
    assert rescale_obstacles(model.module_defs) == [obstacle]


def test_what_is_said_of_a_type_lets_channels_and_factors_through_it(affine_cfg, monkeypatch):
    constant = lambda section, values: float(section["factor"]) * values + float(section["offset"])  # noqa: E731
    monkeypatch.setitem(LAYER_TYPES, "affine", LayerType(homogeneous=True, constant=constant))
    masked, compact, graph = cut_half(trained(affine_cfg))
    assert DEEP in graph.prunable and worst(masked, compact) < 1e-12
    affine_cfg.write_text(affine_cfg.read_text().replace("offset=0.25", "offset=0"))  # homogeneous indeed
    plain, rescaled = trained(affine_cfg), trained(affine_cfg)
    rescale_gammas(rescaled, 0.1)
    assert worst(plain, rescaled) < 1e-9
    assert [section["type"] for section in parse_model_config(affine_cfg)].count("affine") == 1

"""Torch-Pruning as a contestant of benchmarks.tradeoff."""

import pytest
import torch

from benchmarks.tradeoff import TorchPruning
from models import Darknet
from utils.shapes import total_cost


@pytest.mark.parametrize("importance", ["BNScaleImportance", "GroupMagnitudeImportance"])
def test_the_contestant_of_the_tradeoff_cuts_to_the_size_that_was_asked_for(job_of, importance):
    pytest.importorskip("torch_pruning")
    job = job_of()
    dense = total_cost(job.dense.module_defs, *job.size).macs
    before = {key: value.clone() for key, value in job.dense.state_dict().items()}
    contestant = TorchPruning(job, importance)
    for share in (0.6, 0.3):
        defs, state = contestant(share * dense)
        net = Darknet(defs)
        net.load_state_dict(state)  # widths in the cfg are those of the tensors
        cost = total_cost(defs, *job.size)
        assert 0.7 * share * dense < cost.macs <= share * dense and cost.parameters == sum(
            p.numel() for p in net.parameters()
        )
        assert [defs[1 + i]["filters"] for i in (7, 14)] == ["18", "18"]  # heads stay
    assert contestant(1) is None
    assert all(torch.equal(value, before[key]) for key, value in job.dense.state_dict().items())

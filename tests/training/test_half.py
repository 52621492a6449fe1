"""--bf16 says where it makes a run slower."""

import math
from dataclasses import replace

import pytest
import torch

from utils import cli
from utils.training import half
from utils.training.args import StepOptions, parse_train_args

CPU = torch.device("cpu")


def steps(*words) -> StepOptions:
    return cli.options_of(StepOptions, parse_train_args("", list(words)))


@pytest.mark.parametrize("gain, says", [(0.5, True), (0.99, True), (1.0, False), (2.2, False)])
def test_a_run_in_bfloat16_says_where_this_processor_is_slower_in_it(monkeypatch, gain, says):
    monkeypatch.setattr(half, "bf16_gain", lambda: gain)
    lines = half.bf16_words(steps("--bf16"), CPU)
    assert bool(lines) == says
    assert all(f"at {gain:.2f} times the speed of float32" in line for line in lines)


def test_nothing_is_measured_without_bf16_or_on_a_gpu(monkeypatch):
    monkeypatch.setattr(half, "bf16_gain", lambda: pytest.fail("measured"))
    assert half.bf16_words(steps(), CPU) == half.bf16_words(steps("--bf16"), torch.device("cuda")) == []


def test_the_pictures_that_are_timed_in_two_precisions_are_no_leaf_of_either():
    images = torch.rand(1, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    for dtype in (torch.float32, torch.bfloat16):
        half._training_step(images, dtype)(None)
    assert not images.requires_grad and images.grad is None


def test_the_gain_is_a_ratio_of_times_and_takes_no_random_number(monkeypatch):
    before = torch.random.get_rng_state()
    assert 0.01 < half.bf16_gain(1) < 100
    assert torch.equal(torch.random.get_rng_state(), before)
    times = iter((0.3, 0.1))  # of float32, of bfloat16
    real = half.measured_alternately
    monkeypatch.setattr(half, "measured_alternately", lambda *given: [replace(latency, median=next(times))
                                                                      for latency in real(*given)])
    assert math.isclose(half.bf16_gain(1), 3)

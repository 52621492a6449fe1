"""-sr --target-flops, --target-params, --target-latency: s finds itself, for a cut that is planned."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import train
from conftest import conv_law, options_of, trained
from models import Darknet
from utils.batch_norm import gammas_by_layer, gammas_of
from utils.checkpoint import read_checkpoint
from utils.deploy.layer_time import LayerClock
from utils.pruning import plan
from utils.pruning.blocks import residual_blocks
from utils.pruning.compact import compact_and_verify
from utils.pruning.job import load
from utils.pruning.plan import remove_layers
from utils.pruning.prospect import Prospect
from utils.training.args import train_options
from utils.training.resume import resumed_options
from utils.training.schedule import learning_rate
from utils.training.sparsity import proximal_amount, soft_threshold
from utils.training.strength import (
    RELEASE_UNTIL,
    DECIDED,
    FREE,
    LEAST_THRESHOLD,
    LOOKS,
    LOST,
    FALL_LOOKS,
    S_RANGE,
    MOST_LOG_STEP,
    UNUSED,
    Aim,
    Course,
    PlannedCut,
    Seen,
    Strength,
    first_strength,
    follow,
    needed_fall,
    share_of_staying,
    verdict,
)
from utils.training.trainer import Trainer

ENERGIES = st.floats(0, 1)
SHARES = st.floats(0, 1)
LOSSES = st.one_of(st.just(math.nan), st.floats(0, 1e6))


@pytest.fixture
def words(tiny_cfg, tiny_data, tmp_path, monkeypatch):
    """Flags of a small sparse run in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    trained(tiny_cfg, zero_share=0.0).float().save_darknet_weights(tmp_path / "dense.weights")
    return ["--cfg", str(tiny_cfg), "--weights", "dense.weights", "--data", str(tiny_data), "--batch_size", "4",
            "--n_cpu", "0", "--threads", "1", "--device", "cpu", "--epochs", "20", "--lr", "2e-3", "--name", "run",
            "--ema", "0", "-sr", "--evaluation_interval", "20", "--rescale", "none"]


def trainer_of(*flags):
    return Trainer(train_options(vars(train.parse_args([*flags]))), Darknet, Prospect)


def resumed_trainer():
    """That of logs/run, in its last saved state."""
    words = ["--resume", "logs/run", "--device", "cpu", "--n_cpu", "0", "--threads", "1"]
    return Trainer(resumed_options(train_options(vars(train.parse_args(words)))), Darknet, Prospect)


def train_to(trainer, last):
    for epoch in range(trainer.state.epoch + 1, last + 1):
        losses = trainer.train_one_epoch(epoch)
        result = trainer.evaluate(epoch)
        trainer.record(epoch, losses, result)
        trainer.save(epoch, result)
    return trainer


def cut(energy, threshold=1.0):
    return PlannedCut({0: torch.tensor([True, False, False])}, energy, threshold, threshold, 0.0, "30.0% of the FLOPs")


def after(energies, progress=0.2):
    """The course after looks that saw these energies, the last at `progress`."""
    course = Course(1.0, 1.0)
    for i, energy in enumerate(energies):
        course = follow(course, Seen(energy, 1.0, 0.0, progress - (len(energies) - 1 - i) / LOOKS, math.nan))
    return course


@given(st.lists(st.builds(Seen, ENERGIES, st.floats(0, 10), SHARES, SHARES, LOSSES), min_size=1, max_size=150))
@settings(max_examples=100, deadline=None)
def test_whatever_is_seen_s_stays_in_its_range_and_moves_little_at_a_look(seen):
    course = Course(0.02, 0.02)
    for look in seen:
        now = follow(course, look)
        assert 0.02 / S_RANGE <= now.s <= 0.02 * S_RANGE and 0 <= now.share <= 1
        assert abs(math.log(now.s / course.s)) <= MOST_LOG_STEP + 1e-9
        assert len(now.energies) <= FALL_LOOKS + 1
        course = now


@given(SHARES, ENERGIES, ENERGIES, ENERGIES)
@settings(deadline=None)
def test_the_less_the_energy_has_fallen_the_higher_is_s(progress, now, one, other):
    slow, fast = sorted((one, other))  # what it was: the higher, the more it fell
    assert after([slow, now], progress).s >= after([fast, now], progress).s


@given(st.tuples(SHARES, SHARES), st.tuples(ENERGIES, ENERGIES), st.tuples(SHARES, SHARES))
def test_channels_that_stay_are_pulled_less_the_later_it_is_the_freer_the_cut_and_the_smaller_they_are(
    progress, energy, threshold
):
    (early, late), (low, high), (small, large) = map(sorted, (progress, energy, threshold))
    share_of = lambda energy, threshold, progress: share_of_staying(Seen(energy, threshold, 0.0, progress, 1.0))
    shares = [share_of(high, large, early), share_of(low, large, early), share_of(low, small, early),
              share_of(low, small, late)]
    assert shares == sorted(shares, reverse=True)
    assert share_of(FREE, large, early) == share_of(high, 0.0, early) == 0
    assert share_of(high, large, max(RELEASE_UNTIL, late)) == 0
    assert share_of(max(DECIDED, high), max(LEAST_THRESHOLD, large), 0.0) == 1


def test_s_rises_where_the_energy_stands_still_stays_at_the_needed_pace_and_falls_beyond_it():
    assert after([0.3, 0.3]).s == pytest.approx(math.exp(MOST_LOG_STEP))
    pace = needed_fall(0.3, 0.2)
    assert after([0.3 * math.exp(pace), 0.3]).s == pytest.approx(1)
    assert after([0.3 * math.exp(2 * pace), 0.3]).s == pytest.approx(math.exp(-MOST_LOG_STEP))
    assert after([0.3 * math.exp(9 * pace), 0.3]).s == pytest.approx(math.exp(-MOST_LOG_STEP))
    assert needed_fall(0.3, 0.4) > pace  # less time is left


def test_s_stays_as_it_is_once_the_cut_is_free_and_while_the_learning_rate_warms_up():
    assert after([FREE, FREE, FREE]).s == 1 and after([FREE, FREE, FREE]).free_since == pytest.approx(0.18)
    assert follow(after([FREE]), Seen(0.1, 1.0, 0.0, 0.21, math.nan)).free_since is None
    warming = follow(Course(1.0, 1.0), Seen(0.3, 1.0, 0.0, 0.01, math.nan), warm=0.05)
    assert follow(warming, Seen(0.3, 1.0, 0.0, 0.02, math.nan), warm=0.05).s == 1
    assert follow(warming, Seen(0.3, 1.0, 0.0, 0.05, math.nan), warm=0.05).s > 1


@pytest.mark.parametrize("steps, taken", [(600, 60), (100_000, 80), (3, 1)])
def test_the_first_s_takes_a_gamma_at_the_threshold_to_zero_in_a_tenth_of_the_run_or_80_steps(steps, taken):
    s = first_strength(0.06, [0.01] * steps, 0.9)
    assert taken * proximal_amount(s, 0.01, 0.9) == pytest.approx(0.06)


def aim_of(flops=None, params=None, latency=None, runtime=None):
    """The aim of these targets, as typed."""
    return Aim.of(SimpleNamespace(sr=True, target_flops=flops, target_params=params, target_latency=latency,
                                  latency_backend=runtime))


def run_of_gammas(scale, hold, steps, spread=0.2, noise=0.0, sparse=False):
    """200 gammas that a quadratic loss of curvature `hold` pulls to where it wants them, and 120 of which are to go.
    Returns Strength, the last cut, and what staying gammas are of what the loss wants (median)."""
    generator = torch.Generator().manual_seed(0)
    wanted = scale * torch.randn(200, generator=generator).mul(0.7).exp()
    gammas = scale * torch.randn(200, generator=generator).mul(spread).exp()
    if sparse:
        gammas[wanted.argsort()[:130]] = 0
    velocity, rates = torch.zeros(200), [learning_rate(i, steps, 3e-3, steps // 20) for i in range(steps)]

    def planned():
        order, zeros = gammas.abs().argsort(), int((gammas == 0).sum())
        gone = torch.zeros(200, dtype=torch.bool)
        gone[order[:max(120, zeros)]] = True
        energy = gammas[gone].square().sum() / gammas.square().sum()
        return PlannedCut({0: gone}, energy.item(), gammas[order[120]].abs().item(),
                          gammas[~gone].abs().median().item(), max(0, zeros - 120) / 80, "")

    strength = Strength(planned(), rates, 0.9)
    for i, rate in enumerate(rates):
        if strength.due(i / steps):
            strength.look(planned(), i / steps, math.nan)
        velocity = 0.9 * velocity + hold * (gammas - wanted) + noise * torch.randn(200, generator=generator)
        pull = strength.course.s * strength.factors([0], gammas.device)
        gammas = soft_threshold(gammas - rate * velocity, proximal_amount(pull, rate, 0.9))
    last = planned()
    stays = ~last.gone[0]
    return strength, last, (gammas[stays] / wanted[stays]).median().item()


@pytest.mark.parametrize("scale", [0.05, 1.0])
@pytest.mark.parametrize("steps", [100, 500, 3000])
@pytest.mark.parametrize("hold", [1.0, 3.0, 10.0])
def test_gammas_of_any_size_held_with_any_force_end_in_a_free_cut_and_those_that_stay_recover(scale, steps, hold):
    strength, last, recovered = run_of_gammas(scale, hold, steps)
    assert last.energy <= FREE and strength.course.share == 0
    assert recovered > 0.7


@pytest.mark.parametrize("hold, least", [(0.01, 0.1), (0.1, 0.4), (1.0, 0.9)])
def test_no_more_goes_than_was_planned_where_gammas_are_all_alike_and_the_loss_hardly_holds_them(hold, least):
    _, last, recovered = run_of_gammas(1.0, hold, 500, spread=0.05, noise=0.3)
    assert last.energy <= FREE and last.unused == 0 and recovered > least


def test_a_net_that_is_sparse_already_stays_so():
    _, last, recovered = run_of_gammas(0.05, 1.0, 500, noise=0.003, sparse=True)
    assert last.energy <= FREE and last.unused < UNUSED and recovered > 0.9


def test_a_net_that_has_lost_its_way_is_left_alone_until_it_is_back_and_the_end_says_so():
    look = lambda course, loss: follow(course, Seen(0.3, 1.0, 0.0, 0.2, loss))
    calm = look(look(Course(1.0, 1.0), 25.0), 40.0)
    lost = look(look(calm, 25.0 * LOST + 1), math.nan)
    assert calm.pull == calm.share == 1 and calm.s > 1
    assert lost.pull == lost.share == 0 and lost.s == calm.s and lost.waited == 2
    back = look(lost, 25.0 * LOST - 1)
    assert back.pull == back.share == 1 and back.s > lost.s and back.waited == 2
    assert "lower --lr" in verdict(replace(back, waited=LOOKS // 5), cut(0.3), 10)
    assert "lower --lr" not in verdict(back, cut(0.3), 10)


def test_where_more_gammas_are_0_than_need_be_none_is_pulled_until_some_came_back():
    too_many, enough = (follow(after([0.0]), Seen(0.0, 0.0, unused, 0.4, math.nan)) for unused in (0.3, UNUSED))
    assert (too_many.pull, too_many.share) == (0, 0) and enough.pull == 1
    strength = Strength(cut(0.3), [0.01] * 100, 0.9)
    strength.look(replace(cut(0.0), unused=0.3), 0.4, math.nan)
    assert not strength.factors([0], torch.device("cpu")).any()
    assert "free" in verdict(enough, cut(0.0), 10) and "stronger" not in verdict(enough, cut(0.0), 10)
    assert "stronger than asked for" in verdict(too_many, replace(cut(0.0), unused=0.3), 10)


@pytest.mark.parametrize("flags", [("0.5", None), (None, "0.5")])
def test_gammas_that_are_0_beyond_the_target_are_told_from_those_that_it_takes(tiny_cfg, flags):
    model = trained(tiny_cfg, zero_share=0.0).float()
    prospect = Prospect(model.module_defs, "group")
    planner = prospect.planner(model, (64, 64), aim_of(flops=flags[0], params=flags[1]))
    assert planner.planned(model).unused == 0
    with torch.no_grad():
        for gamma in gammas_of(model, prospect.layers):
            gamma[gamma.abs() < gamma.abs().quantile(0.8)] = 0
    found = planner.planned(model)
    share = float(found.leaves.split("%")[0]) / 100
    assert found.unused == pytest.approx(1 - share / 0.5, abs=0.01) and found.unused > 0.3 and found.energy == 0


def test_a_target_out_of_reach_is_refused_at_the_start_and_planned_as_far_as_may_be_once_carriers_came(tiny_cfg):
    """Kept constants of removed channels have to be carried through shortcuts: betas are 0 at first, and grow."""
    model = trained(tiny_cfg, zero_share=0.0).float()
    prospect = Prospect(model.module_defs, "group")
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.zeros_(norm.bias)
    floor = next(share / 1000 for share in range(1, 1000) if reaches(prospect, model, share / 1000))
    planner = prospect.planner(model, (64, 64), aim_of(flops=str(floor)))
    for norm in norms:
        torch.nn.init.ones_(norm.bias)
    assert not reaches(prospect, model, floor)
    planned = planner.planned(model)
    assert float(planned.leaves.split("%")[0]) / 100 > floor and planned.unused == 0
    resumed = prospect.planner(model, (64, 64), aim_of(flops=str(floor)), measured={})
    assert resumed.planned(model).leaves == planned.leaves


def reaches(prospect, model, share):
    try:
        prospect.planner(model, (64, 64), aim_of(flops=str(share)))
    except ValueError as error:
        assert "no cut gets there; the strongest leaves" in str(error) and "ask for less" in str(error)
        return False
    return True


def test_a_noisy_loss_changes_nothing_about_that():
    _, last, recovered = run_of_gammas(0.05, 3.0, 1000, noise=0.03)
    assert last.energy <= FREE and recovered > 0.8


def test_a_course_goes_on_from_its_state_as_if_it_had_not_stopped():
    whole, other = (Strength(cut(0.3), [0.01] * 100, 0.9) for _ in range(2))
    looks = [(cut(0.3 * math.exp(-i / 9)), i / LOOKS, 20.0 + 50 * (i // 10 == 2)) for i in range(60)]
    for look in looks[:30]:
        whole.look(*look)
    other.restore(whole.state())
    for look in looks[30:]:
        whole.look(*look)
        other.look(*look)
    assert other.course == whole.course and torch.equal(*(s.factors([0], torch.device("cpu")) for s in (whole, other)))


@pytest.mark.parametrize("flags, score", [({"flops": "0.5"}, "gamma-norm"), ({"params": "0.3"}, "gamma"),
                                          ({"flops": "0.6", "params": "0.4"}, "gamma")])
def test_the_plan_is_the_cut_that_test_prune_finds(job_of, flags, score):
    job = job_of(" ".join(f"--target-{name} {value}" for name, value in flags.items()) + f" --score {score}")
    found = plan.plan_cut(job)
    planned = Prospect(job.model.module_defs, "group").planner(job.model, job.size, aim_of(**flags)).planned(job.model)
    gammas = gammas_by_layer(job.model)
    sizes = torch.cat([gammas[i][gone] for i, gone in planned.gone.items()])
    if score == "gamma":
        assert planned.threshold == found.cut.threshold > sizes.max()
    else:
        assert planned.threshold == pytest.approx(np.quantile(sizes.numpy(), 0.9)) and planned.typical > 0
    for layer, gone in planned.gone.items():
        assert torch.equal(~gone, found.masks[layer].cpu()), (flags, layer)
    dense, left = plan.total_cost(job.dense.module_defs, *job.size), plan.cost_of(job, found.cut)
    assert ("FLOPs" in planned.leaves) == ("flops" in flags) and ("parameters" in planned.leaves) == ("params" in flags)
    if "flops" in flags:
        assert planned.leaves.startswith(f"{left.macs / dense.macs:.1%} of the FLOPs")


@pytest.mark.parametrize("flags", [{"latency": "0.6"}, {"latency": "0.7", "params": "0.5"}])
def test_the_plan_for_a_time_is_what_test_prune_finds_but_for_a_little_less_time(job_of, clock, flags):
    whole = clock(conv_law(overhead=1e-4))
    words = [word for name, value in flags.items() for word in (f"--target-{name}", value)]
    job = remove_layers(job_of(" ".join(words)))
    found = plan.plan_cut(job)
    planner = Prospect(job.dense.module_defs, "group").planner(job.dense, job.size, aim_of(**flags, runtime="torch"))
    planned = planner.planned(job.dense)
    removed = {i for block in job.blocks for i in range(block.stream + 1, block.shortcut)}
    assert {i for i, gone in planned.gone.items() if gone.all()} == removed & planned.gone.keys()
    share = float(planned.leaves.split("%")[0]) / 100
    target = float(flags["latency"])
    assert 0.8 * target < share <= target and planned.leaves.endswith("% of the time in torch")
    reached = whole(compact_and_verify(job, found).model, job.size) / whole(job.dense, job.size)
    assert share == pytest.approx(reached, abs=0.1)
    # plain values alone: what a checkpoint holds
    assert json.loads(json.dumps(planner.measured)) == planner.measured


def test_a_residual_block_whose_time_is_worth_more_elsewhere_is_pulled_as_a_whole(job_of, clock):
    clock(conv_law(overhead=1e-3))
    job = job_of("--target-latency 0.85")
    planned = Prospect(job.dense.module_defs, "group").planner(
        job.dense, job.size, aim_of(latency="0.85", runtime="torch")).planned(job.dense)
    (block,) = [block for block in residual_blocks(job.dense.module_defs) if planned.gone[block.last].all()]
    inside = [i for i in planned.gone if block.stream < i < block.shortcut]
    assert len(inside) > 1 and all(planned.gone[i].all() for i in inside)


def test_s_finds_itself_for_a_time_and_a_resumed_run_measures_nothing(words, clock, monkeypatch):
    whole = clock(conv_law(unit=4, overhead=1e-5))
    flags = ["--target-latency", "0.6", "--latency-backend", "torch"]
    done = train_to(trainer_of(*words, *flags, "--name", "whole"), 20)
    train_to(trainer_of(*words, *flags), 5)
    monkeypatch.setattr(LayerClock, "of", None)  # whoever measures calls it
    again = resumed_trainer()
    train_to(again, 20)
    assert all(torch.equal(one, other) for one, other in zip(done.model.state_dict().values(),
                                                            again.model.state_dict().values()))
    clock(conv_law(unit=4, overhead=1e-5))
    job = remove_layers(load(options_of([*words[:2], "--weights", "logs/run/best.pth", *words[4:6], *flags, "--n_cpu",
                                         0, "--recalibrate", 0]), Darknet))
    cut = plan.plan_cut(job)
    squared = {i: gamma.square() for i, gamma in gammas_by_layer(job.model).items() if i in cut.masks}
    taken = sum(own[~cut.masks[i].bool()].sum() for i, own in squared.items())
    assert taken / sum(own.sum() for own in squared.values()) <= FREE
    assert whole(compact_and_verify(job, cut).model, job.size) <= 0.6 * whole(job.dense, job.size) * (1 + 1e-9)


def test_a_time_that_no_cut_reaches_ends_the_run_before_its_first_step(words, clock):
    clock(conv_law())
    with pytest.raises(ValueError, match="--target-latency 0.01: found no cut that takes .*; ask for less"):
        trainer_of(*words, "--target-latency", "0.01", "--latency-backend", "torch")


def test_a_target_that_no_cut_reaches_ends_the_run_before_its_first_step(words):
    with pytest.raises(ValueError, match="--target-params 0.0001: no cut gets there; the strongest leaves .*ask for"):
        trainer_of(*words, "--target-params", "0.0001")


def test_a_target_beside_frozen_layers_is_refused_by_name(words):
    with pytest.raises(ValueError, match="--target-params 0.4: found --freeze 3 .*leave --freeze out"):
        trainer_of(*words, "--target-params", "0.4", "--freeze", "3")


@pytest.mark.parametrize("flag, target, kind", [("--target-params", 0.4, "prox"), ("--target-flops", 0.5, "polarize")])
def test_s_finds_itself_and_the_planned_cut_is_free_and_of_its_size(words, capsys, flag, target, kind):
    trainer = train_to(trainer_of(*words, flag, str(target), "--sparsity", kind), 20)
    trainer.announce()
    out = capsys.readouterr().out
    assert f"for {flag} {target}; s begins at" in out and "is free since epoch" in out
    job = load(options_of([*words[:2], "--weights", "logs/run/best.pth", *words[4:6], flag, target, "--n_cpu", 0,
                           "--recalibrate", 0]), Darknet)
    found = plan.cost_of(job, plan.plan_cut(job).cut)
    dense = plan.total_cost(job.dense.module_defs, *job.size)
    share = found.parameters / dense.parameters if flag == "--target-params" else found.macs / dense.macs
    assert 0.85 * target < share <= target  # 8 to 24 channels per layer: steps are coarse
    assert f"the planned cut to {share:.1%} of the {'FLOPs' if 'flops' in flag else 'parameters'} is free" in out


def test_a_run_that_is_too_short_says_so_and_how_much_longer_it_would_take():
    energies = [0.3 * math.exp(-i / 25) for i in range(LOOKS)]  # by e in 25 looks, 2.5 epochs
    words = verdict(after(energies, 0.99), cut(energies[-1]), 10)
    assert "30.0% of the FLOPs is not free" in words and "still falling" in words
    more = int(words.split("--epochs ")[1]) - 10
    assert more == pytest.approx(2.5 * math.log(energies[-1] / FREE), abs=1.5)


def test_a_cut_that_the_loss_does_not_give_says_so():
    assert "the loss holds these channels: ask for less" in verdict(after([0.3] * 9, 0.99), cut(0.3), 10)
    held = verdict(after([0.3] * LOOKS, 0.99), cut(0.3), 10)
    assert f"the loss holds these channels against {S_RANGE:g} times the first s: ask for less" in held


def test_a_resumed_run_goes_on_with_its_s_bit_for_bit(words):
    whole = train_to(trainer_of(*words, "--target-params", "0.4", "--name", "whole"), 9)
    train_to(trainer_of(*words, "--target-params", "0.4"), 5)
    again = resumed_trainer()
    assert again.sparsifier.strength.course.s != again.sparsifier.strength.course.first
    train_to(again, 9)
    assert again.sparsifier.strength.course == whole.sparsifier.strength.course
    states = [trainer.model.state_dict() for trainer in (whole, again)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert read_checkpoint("logs/run/last.pth")["args"]["target_params"] == "0.4"


@pytest.mark.parametrize("flags, complaint", [
    (["--target-flops", "0.3"], "found --target-flops without -sr"),
    (["-sr", "--target-flops", "0.3", "--s", "0.01"], "found --s beside --target-flops"),
    (["-sr", "--target-params", "1M", "--s-schedule", "ease"], "found --s-schedule beside --target-params"),
    (["-sr", "--target-flops", "0.3", "--sparsity", "l1"], "found --sparsity l1 beside --target-flops, expected prox"),
    (["-sr", "--target-flops", "-1"], "found -1, expected a ratio"),
    (["--target-latency", "5ms"], "found --target-latency without -sr"),
    (["-sr", "--target-latency", "fast"], "found fast, expected a ratio (0.5) or a time (12ms)"),
    (["-sr", "--latency-backend", "openvino"], "found --latency-backend without --target-latency"),
])
def test_flags_that_contradict_each_other_are_one_line(capsys, flags, complaint):
    with pytest.raises(SystemExit):
        train.parse_args(flags)
    assert complaint in capsys.readouterr().err

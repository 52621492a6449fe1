"""The training run: exact resume, sparsity steps, averages, schedule, rescaling, refusals."""

import copy
import csv
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train
from conftest import ROOT, randomise, without_labels, worst
from models import Darknet
from nets import ADD, FOREIGN, ODD, TINY, cfg_text, place
from utils.batch_norm import RescaleError, rescale_gammas, rescale_obstacles, restoring_factor, zero_share
from utils.checkpoint import CheckpointError, load_weights, read_checkpoint, save_checkpoint, weights_content
from utils.darknet_weights import file_bytes
from utils.data.datasets import DataError
from utils.deploy.darknet_export import export_darknet
from utils.deploy.detector import Detector
from utils.loss import LossOptions, LossParts
from utils.origin import PUBLIC_CLASSES, PUBLIC_WEIGHTS
from utils.parse_config import parse_model_config, rebuild_heads
from utils.text import CfgError
from utils.pruning.channel_graph import channel_graph, prunable_layers
from utils.pruning.importance import saved_macs
from utils.pruning.prospect import Prospect
from utils.pruning.selection import COSTLY, describe_sparsity
from utils.training import run_state, sparsity
from utils.training import trainer as trainer_module
from utils.training.args import TrainOptions, train_options
from utils.training.distillation import distillation_loss
from utils.training.divergence import TrainingError
from utils.training.ema import ModelEma
from utils.training.optimisation import optimiser_step
from utils.training.resume import resumed_options
from utils.training.schedule import learning_rate


def Trainer(options):
    """A run of the real network, by options or parsed arguments."""
    options = options if isinstance(options, TrainOptions) else train_options(vars(options))
    return trainer_module.Trainer(options, Darknet, Prospect)


def resuming(*flags):
    """Options of a command line that resumes a run."""
    return resumed_options(train_options(vars(train.parse_args([*flags]))))


@pytest.fixture
def arguments(tiny_cfg, tiny_data, tmp_path, monkeypatch):
    """Arguments of a small run in a folder of its own; more flags can be added."""
    monkeypatch.chdir(tmp_path)

    def make(*flags):
        return train.parse_args(
            [
                "--cfg",
                str(tiny_cfg),
                "--data",
                str(tiny_data),
                "--batch_size",
                "4",
                "--n_cpu",
                "0",
                "--epochs",
                "3",
                "--name",
                "run",
                *flags,
            ]
        )
    return make


def run_epochs(trainer, last):
    for epoch in range(trainer.state.epoch + 1, last + 1):
        losses = trainer.train_one_epoch(epoch)
        result = trainer.evaluate(epoch)
        trainer.record(epoch, losses, result)
        trainer.save(epoch, result)
    return trainer


@pytest.mark.parametrize(
    "flags",
    [(), ("-sr", "--s", "0.05", "--sparsity", "prox", "--rescale", "auto", "--accumulate", "2", "--mosaic", "0.5")],
)
def test_a_resumed_run_ends_where_an_unbroken_one_does(arguments, flags):
    whole = run_epochs(Trainer(arguments("--name", "whole", *flags)), 3)
    run_epochs(Trainer(arguments("--name", "broken", *flags)), 1)
    torch.manual_seed(99)  # whatever happened in between
    resumed = run_epochs(Trainer(resuming("--resume", "logs/broken", "--n_cpu", "0")), 3)
    for (key, one), other in zip(whole.model.state_dict().items(), resumed.model.state_dict().values()):
        assert torch.equal(one, other), key
    averages = [trainer.state.averaged.state_dict().values() for trainer in (whole, resumed)]
    assert all(torch.equal(a, b) for a, b in zip(*averages))
    rows = [list(csv.DictReader(open(f"logs/{name}/metrics.csv"))) for name in ("whole", "broken")]
    timed = ("seconds", "images_per_s")
    strip = lambda table: [{key: value for key, value in row.items() if key not in timed} for row in table]
    assert strip(rows[0]) == strip(rows[1]) and len(rows[0]) == 3


@pytest.mark.parametrize("act", ["leaky", "h_swish"])
def test_a_net_of_foreign_layers_trains_with_sparsity(arguments, tmp_path, act):
    """Shortcuts of unequal widths, dilation, [reorg3d], [se], [Gaussian_yolo], under prox with the rescaling that
    fits."""
    (tmp_path / "foreign.cfg").write_text(cfg_text(FOREIGN, act=act))
    trainer = Trainer(arguments("--cfg", str(tmp_path / "foreign.cfg"), "-sr", "--s", "0.05", "--sparsity", "prox",
                                "--rescale", "auto"))
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    run_epochs(trainer, 1)
    after = trainer.model.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert {key for key in after if "conv" in key and key.endswith("weight")} <= moved


@pytest.mark.parametrize("act, reasons", [
    ("leaky", ["layer 13 [scale_channels] multiplies two maps", "layer 12 [convolutional] has activation h_sigmoid"]),
    ("h_swish", ["layer 0 [convolutional] has activation h_swish"])])
def test_what_stands_in_the_way_of_rescaling_is_named(tmp_path, act, reasons):
    (tmp_path / "foreign.cfg").write_text(cfg_text(FOREIGN, act=act))
    assert set(reasons) <= set(rescale_obstacles(parse_model_config(tmp_path / "foreign.cfg")))


def test_foreign_layers_that_are_homogeneous_are_rescaled_exactly(tmp_path):
    (tmp_path / "foreign.cfg").write_text(cfg_text({**FOREIGN, "attention": "[dropout]\n"}, act="ramp"))
    torch.manual_seed(0)
    model = Darknet(tmp_path / "foreign.cfg").double().eval()
    randomise(model)
    twin = copy.deepcopy(model)
    rescale_gammas(twin, 0.05)
    assert worst(model, twin, (64, 64)) < 1e-9


def test_field_cases_of_training_keys_and_unequal_shortcuts_train(shared, tmp_path, monkeypatch):
    for name in (
        "net_training_keys/twice",
        "net_training_keys/step",
        "net_training_keys/adam",
        "partial_residual/partial",
    ):
        case = shared / "field_cases" / name
        shutil.copytree(case.parent, tmp_path / case.name)
        monkeypatch.chdir(tmp_path / case.name)  # the data file's names are relative to it
        trainer = Trainer(train.parse_args(["--cfg", f"{case.name}.cfg", "--data", "d/my.data", "--weights", "none",
                                            "--epochs", "1", "--n_cpu", "0", "--no-publish"]))
        before = [weight.clone() for weight in trainer.model.parameters()]
        run_epochs(trainer, 1)
        after = list(trainer.model.parameters())
        assert all(weight.isfinite().all() for weight in after)
        assert any(not torch.equal(one, other) for one, other in zip(before, after))


def test_the_same_seed_gives_the_same_weights_and_another_does_not(arguments):
    states = [
        run_epochs(Trainer(arguments("--name", f"r{i}", "--seed", seed)), 1).model.state_dict()[
            "module_list.0.conv_0.weight"
        ]
        for i, seed in enumerate("003")
    ]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_training_learns_the_bright_boxes(arguments):
    trainer = Trainer(arguments("--epochs", "60", "--lr", "5e-3", "--augment", "flip", "--evaluation_interval", "60"))
    assert run_epochs(trainer, 60).state.best > 0.5


def test_accumulating_two_batches_takes_half_the_steps(arguments):
    assert run_epochs(Trainer(arguments("--accumulate", "2")), 1).state.step == 1
    assert run_epochs(Trainer(arguments("--name", "b")), 1).state.step == 2


def test_a_non_finite_loss_stops_and_names_its_parts(arguments):
    trainer = Trainer(arguments())
    trainer.model.module_list[place(TINY, "coarse")][0].bias.data[:] = float("nan")
    with pytest.raises(TrainingError, match=r"not finite \(box nan, objectness nan"):
        trainer.train_one_epoch(1)


def test_frozen_layers_stay_as_they_are(arguments):
    trainer = Trainer(arguments("--freeze", "3"))
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    run_epochs(trainer, 1)
    for key, value in trainer.model.state_dict().items():
        frozen = int(key.split(".")[1]) < 3
        if frozen or key.endswith("weight") and value.ndim > 1:
            assert torch.equal(value, before[key]) == frozen, key


def test_bfloat16_runs_the_net_in_it_and_keeps_weights_and_penalty_in_single_precision(arguments):
    kinds, gammas = [], []
    for name, flags in (("single", ()), ("half", ("--bf16",))):
        trainer = Trainer(arguments("--name", name, "-sr", "--s", "0.05", *flags))
        trainer.model.module_list[place(TINY, "squeeze")].register_forward_hook(
            lambda module, inputs, output: kinds.append(output.dtype))
        gammas.append(torch.cat([gamma.detach() for gamma in run_epochs(trainer, 1).sparsifier.gammas]))
    assert kinds[0] == torch.float32 and kinds[-1] == torch.bfloat16
    assert gammas[1].dtype == torch.float32 and not torch.equal(*gammas)
    assert torch.allclose(*gammas, rtol=0.02, atol=1e-4)


def test_multi_scale_training_runs(arguments):
    assert run_epochs(Trainer(arguments("--multiscale_training", "--mosaic", "1")), 1).state.step == 2


def test_a_list_shorter_than_a_batch_trains(arguments):
    assert run_epochs(Trainer(arguments("--batch_size", "64")), 1).state.step == 1


def test_a_run_is_not_written_over(arguments):
    run_epochs(Trainer(arguments()), 1)
    with pytest.raises(ValueError, match="--resume"):
        Trainer(arguments())


def test_tensorboard_gets_the_numbers_of_metrics_csv_and_the_gammas(arguments):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_epochs(Trainer(arguments("--tensorboard", "-sr", "--s", "0.01")), 2)
    events = EventAccumulator("logs/run", size_guidance={"histograms": 0}).Reload()
    with open("logs/run/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    for key in ("loss", "map50", "gamma_zero"):
        assert [(event.step, event.value) for event in events.Scalars(key)] == [
            (i, pytest.approx(float(row[key]), rel=1e-5)) for i, row in enumerate(rows, start=1)
        ]
    assert [event.step for event in events.Histograms("bn_weights/hist")] == [1, 2]


def test_named_weights_that_are_missing_stop_and_the_default_only_warns(arguments):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        Trainer(arguments("--weights", "nowhere.pth"))
    # no word of a download that would not fit this cfg either
    assert Trainer(arguments()).start.words == "from scratch"


def test_the_public_start_is_advised_where_it_fits_the_cfg():
    for name in ("yolov3", "yolov3-hand", "yolov3-hand-w25", "yolov3-tiny-hand"):
        defs = rebuild_heads(parse_model_config(ROOT / "config" / f"{name}.cfg"), PUBLIC_CLASSES)
        assert (file_bytes(defs) == PUBLIC_WEIGHTS["yolov3.weights"]) == (name in ("yolov3", "yolov3-hand")), name


def test_a_default_start_of_another_net_only_warns_and_none_is_none(arguments):
    Path("weights").mkdir()
    Path("weights/yolov3.weights").write_bytes(bytes(20 + 4 * 1000))
    words = Trainer(arguments("--name", "a")).start.words
    assert "does not fit" in words and "from scratch" in words
    assert Trainer(arguments("--name", "b", "-pre", "none")).start.words == "from scratch"
    with pytest.raises(ValueError, match="yolov3.weights"):
        Trainer(arguments("--name", "c", "-pre", "weights/yolov3.weights"))


def test_a_run_resumes_after_its_cfg_was_replaced(arguments, tiny_cfg):
    run_epochs(Trainer(arguments()), 1)
    tiny_cfg.write_text(tiny_cfg.read_text().replace("filters=8", "filters=4"))
    resumed = Trainer(resuming("--resume", "logs/run", "--n_cpu", "0"))
    assert resumed.state.epoch == 1 and run_epochs(resumed, 2).state.epoch == 2


def test_a_net_without_batch_norm_trains_but_not_with_sr(arguments, tiny_cfg):
    tiny_cfg.write_text(tiny_cfg.read_text().replace("batch_normalize=1", "batch_normalize=0"))
    assert run_epochs(Trainer(arguments("--name", "plain")), 1).state.epoch == 1
    with pytest.raises(ValueError, match="no batch norm"):
        Trainer(arguments("--name", "sr", "-sr"))
    assert not Path("logs/sr").exists()


def test_under_sr_the_best_is_the_last(arguments):
    run_epochs(Trainer(arguments("-sr")), 3)
    assert read_checkpoint("logs/run/best.pth")["epoch"] == 3


def test_flag_s_is_not_read_as_sr(capsys):
    assert not train.parse_args(["-s", "0.02"]).sr and train.parse_args(["-s", "0.02"]).s == 0.02
    assert "warning: -s without -sr: this run will not push any gamma to zero" in capsys.readouterr().out
    assert train.parse_args(["-sr", "--s", "0.03"]).sr and not capsys.readouterr().out
    train.parse_args(["--percent", "0.5", "--rescale", "none"])
    assert "warning: --rescale and --percent without -sr" in capsys.readouterr().out


def test_of_several_processes_the_first_alone_warns(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, times in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        train.parse_args(["--s", "0.02"])
        assert capsys.readouterr().out.count("without -sr") == times


# ---- sparsity

L1 = ("-sr", "--sparsity", "l1", "--rescale", "none")


def test_sr_alone_is_l1_at_001_by_its_proximal_step_on_rescaled_gammas(arguments):
    args = train.parse_args(["-sr"])
    assert (args.s, args.sparsity, args.rescale) == (0.01, "prox", "auto")
    trainer = Trainer(arguments("-sr", "--augment", "none", "--warmup", "0", "--schedule", "constant"))
    before = trainer.sparsifier.gammas[0].detach().clone()
    with torch.no_grad():
        trainer.sparsifier.after_step(0.0, trainer.options.steps.lr, trainer.options.steps.momentum)
    assert trainer.state.rescale == 0.05 and torch.allclose(
        before - trainer.sparsifier.gammas[0], torch.full_like(before, 1e-3 * 0.01 / 0.1), atol=1e-8
    )


def test_l1_adds_s_times_sign_once_whatever_the_accumulation(arguments, monkeypatch):
    calls = []
    original = sparsity.Penalty.add_gradient
    monkeypatch.setattr(
        sparsity.Penalty,
        "add_gradient",
        lambda self, gammas, progress: calls.append(self.s) or original(self, gammas, progress),
    )
    run_epochs(Trainer(arguments(*L1, "--s", "0.02", "--accumulate", "2")), 1)
    assert calls == [0.02]


@pytest.mark.parametrize("kind", ["l1", "prox", "polarize"])
def test_a_step_left_out_for_infinite_gradients_moves_no_gamma(arguments, kind):
    trainer = Trainer(arguments("-sr", "--sparsity", kind, "--s", "1", "--rescale", "none"))
    before = [gamma.detach().clone() for gamma in trainer.sparsifier.gammas]
    # the first steps of float16 training overflow like this
    trainer.state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0 ** 127)
    images, targets = next(iter(trainer.batches.loader))
    trainer._backward(images, targets, 1, True)
    optimiser_step(trainer.state, trainer.schedule, trainer.sparsifier, lambda norm: None, lambda: math.nan)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.sparsifier.gammas))
    assert trainer.state.scaler.get_scale() < 2.0 ** 127
    momentum = [state["momentum_buffer"] for state in trainer.state.optimizer.state.values()]
    assert len(momentum) == len(list(trainer.model.parameters())) and not any(own.any() for own in momentum)


def test_the_sparsity_sees_the_mean_loss_of_the_batches_so_far(arguments, monkeypatch):
    monkeypatch.setattr(run_state, "FEW", 1)
    trainer, seen = Trainer(arguments("-sr", "--accumulate", "3", "--batch_size", "2")), []
    monkeypatch.setattr(trainer.sparsifier, "before_step", lambda progress, mean_loss: seen.append(mean_loss()))
    losses = trainer.train_one_epoch(1)
    assert len(trainer.batches) % 3 and len(seen) > 1  # the last step is of fewer batches
    assert seen[-1] == pytest.approx(losses["loss"], rel=1e-6)


def test_a_run_goes_on_with_as_many_processes_as_it_began_with(arguments):
    run_epochs(Trainer(arguments()), 1)
    last = Path("logs/run/last.pth")
    torch.save({**torch.load(last, weights_only=False), "processes": 2}, last)
    with pytest.raises(ValueError, match="found 1 process, expected 2.*by torchrun with 2"):
        Trainer(resuming("--resume", "logs/run"))


def test_schedule_and_weight_flags_reach_the_penalty(arguments):
    trainer = Trainer(arguments("-sr", "--s-schedule", "decay", "--sparsity-weight", "flops", "--s", "0.02"))
    gammas = torch.cat([gamma.detach() for gamma in trainer.sparsifier.gammas])
    pull = trainer.sparsifier.penalty.pull(gammas, 0.25)
    assert torch.allclose(pull, 0.02 * 0.75 * trainer.sparsifier.penalty.weights)
    weights = trainer.sparsifier.penalty.weights
    assert weights.mean().item() == pytest.approx(1) and weights.std() > 0.1


@pytest.mark.parametrize("schedule", ["constant", "decay", "ease"])
@pytest.mark.parametrize("rates", ["constant", "cosine"])
def test_the_s_that_would_fit_takes_a_gamma_to_zero_at_the_end_of_the_run(schedule, rates):
    args = train.parse_args(["-sr", "--s", "0.01", "--s-schedule", schedule, "--epochs", "20"])
    steps = [learning_rate(step, 400, args.lr, 40, rates) for step in range(400)]
    options = train_options(vars(args))
    line = sparsity.describe_budget([torch.ones(5)], options.sparsity, options.steps, steps)[0]
    assert "at lr 0.001 it moves a gamma from 1 to 0 in 500.0 epochs" in line  # 1e-4 a step, 20 steps an epoch
    s = float(re.search(r"s = ([0-9.]+) would fit", line)[1])

    def end(s):
        gamma = torch.nn.Parameter(torch.ones(1))
        for step, rate in enumerate(steps):
            sparsity.Penalty("prox", s, schedule).shrink([gamma], step / 400, rate, args.momentum)
        return gamma.item()
    assert end(1.06 * s) == 0 and end(0.9 * s) > 0.05


def test_the_budget_is_of_this_runs_rates_and_of_the_gammas_that_are_left(arguments, capsys):
    flags = ("-sr", "--s", "0.001", "--rescale", "none", "--warmup", "0", "--lr", "1e-2", "--schedule")
    fitting = []
    for schedule in ("constant", "cosine"):
        trainer = Trainer(arguments("--name", schedule, *flags, schedule))
        for gamma in trainer.sparsifier.gammas:  # most are gone: they have no way to go
            gamma.data[: 2 * len(gamma) // 3] = 0
        trainer.announce()
        out = capsys.readouterr().out
        assert "moves a gamma from 1 to 0 in" in out
        fitting.append(float(re.search(r"s = ([0-9.]+) would fit", out)[1]))
    # 6 steps at 1e-2, threshold x 10 by momentum; a cosine gives about half of it
    assert fitting[0] == pytest.approx(1 / (6 * 0.1), abs=0.05) and 1.5 < fitting[1] / fitting[0] < 2.1


def parameter(*values):
    gamma = torch.nn.Parameter(torch.tensor(values))
    gamma.grad = torch.ones(len(values))
    return gamma


def test_subgradient_is_s_times_sign_and_nothing_at_zero():
    gamma = parameter(0.5, -0.5, 0.0)
    sparsity.Penalty("l1", 0.1).add_gradient([gamma], 0.0)
    assert gamma.grad.tolist() == pytest.approx([1.1, 0.9, 1.0])


def test_soft_threshold_stops_at_zero():
    assert sparsity.soft_threshold(torch.tensor([0.5, -0.5, 0.05, 0.0]), 0.1).tolist() == pytest.approx(
        [0.4, -0.4, 0.0, 0.0]
    )


def test_prox_drifts_as_far_as_the_subgradient_with_momentum():
    for s, lr, momentum in ((0.01, 1e-3, 0.9), (0.1, 1e-2, 0.5)):
        moved = {}
        for kind in ("l1", "prox"):
            gamma, penalty = torch.nn.Parameter(torch.ones(1)), sparsity.Penalty(kind, s)
            optimiser = torch.optim.SGD([gamma], lr, momentum=momentum)
            for _ in range(400):
                gamma.grad = torch.zeros(1)
                penalty.add_gradient([gamma], 0.0)
                optimiser.step()
                penalty.shrink([gamma], 0.0, lr, momentum)
            moved[kind] = 1 - gamma.item()
        assert moved["prox"] == pytest.approx(moved["l1"], rel=0.05)


def test_polarize_pulls_the_small_and_leaves_the_large_almost_alone():
    gammas = torch.tensor([0.1, 0.1, 0.9, 0.9])
    pull = sparsity.Penalty("polarize", 0.5).pull(gammas, 0.0)
    assert pull[:2].tolist() == pytest.approx([0.5 * (sparsity.POLARIZE_T + 1)] * 2)
    assert pull[2:].tolist() == pytest.approx([0.5 * (sparsity.POLARIZE_T - 1)] * 2)


def test_polarize_is_the_derivative_of_the_published_penalty():
    torch.manual_seed(0)
    gammas = (torch.rand(7, dtype=torch.float64) + 0.1).requires_grad_()
    value = sparsity.POLARIZE_T * gammas.abs().sum() - (gammas - gammas.mean()).abs().sum()  # Zhuang et al. 2020, eq. 3
    value.backward()
    assert torch.allclose(sparsity.Penalty("polarize", 1.0).pull(gammas.detach(), 0.0), gammas.grad)


def test_schedules_of_s():
    gammas = torch.tensor([0.0, 0.001, 1.0])  # gone, as good as gone, alive
    pull = {(kind, progress): sparsity.Penalty("prox", 1.0, kind).pull(gammas, progress).tolist()
            for kind in ("constant", "decay", "ease") for progress in (0.25, 0.75, 1.0)}
    assert pull["constant", 1.0] == [1, 1, 1]
    assert pull["decay", 0.25] == [0.75] * 3 and pull["decay", 1.0] == [0] * 3
    assert pull["ease", 0.25] == [1, 1, 1] and pull["ease", 0.75] == [1, 1, 0.5] and pull["ease", 1.0] == [1, 1, 0]


def test_prox_gives_exact_zeros_that_the_average_keeps(arguments):
    trainer = run_epochs(Trainer(arguments("-sr", "--s", "60", "--rescale", "none", "--warmup", "0")), 2)
    for gammas in (trainer.sparsifier.gammas_of(net) for net in (trainer.model, trainer.state.averaged)):
        assert zero_share(gammas) == 1.0


def test_skip_penalises_only_the_layers_of_the_reference_rule(arguments):
    trainer = Trainer(arguments("-sr", "--strategy", "skip"))
    assert trainer.sparsifier.prospect.layers == prunable_layers(trainer.model.module_defs, "skip") == [0, 2, 5, 6, 13]


def test_training_lets_kernels_decay_and_no_gamma(arguments):
    """Steps without any gradient: what moves then is moved by the optimiser's decay."""
    trainer = Trainer(arguments("-sr", "--weight_decay", "0.1", "--momentum", "0", "--warmup", "0", "--clip", "0"))
    before = {key: value.clone() for key, value in trainer.model.named_parameters()}
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.state.optimizer.step()
    for key, value in trainer.model.named_parameters():
        assert torch.equal(value, before[key]) == (value.ndim == 1), key
        assert value.ndim == 1 or torch.allclose(value, before[key] * (1 - 1e-3 * 0.1), atol=1e-7)


def test_gammas_and_betas_do_not_decay(tiny_cfg):
    kernels, others = sparsity.parameter_groups(Darknet(tiny_cfg), 5e-4)
    assert all(p.ndim == 4 for p in kernels["params"]) and kernels["weight_decay"] == 5e-4
    assert all(p.ndim == 1 for p in others["params"]) and others["weight_decay"] == 0


def line_of(model, percent):
    return describe_sparsity(
        channel_graph(model.module_defs), {i: bn.weight for i, _, bn in model.convolutions() if bn is not None}, percent
    )


def test_the_sparsity_line_says_in_words_how_far_it_is(tiny_cfg):
    model = Darknet(tiny_cfg)
    randomise(model, 0.0)
    energy, line = line_of(model, 0.6)
    assert energy > COSTLY and "would cost mAP" in line
    for _, _, bn in model.convolutions():
        if bn is not None:
            bn.weight.data[: len(bn.weight) * 3 // 4] = 0
    energy, line = line_of(model, 0.6)
    assert energy == 0 and "should cost nothing" in line and "75% exactly 0" in line


def test_the_sparsity_line_counts_what_a_group_cut_really_takes(tiny_cfg):
    """Two tied layers whose zeros lie at different channels: no group is free, though half of their gammas are 0."""
    model = Darknet(tiny_cfg)
    for _, _, bn in model.convolutions():
        if bn is not None:
            bn.weight.data[:] = 1.0
    half, expand = (model.module_list[place(TINY, name)][1].weight.data for name in ("half", "expand"))
    half[:8] = 0.0
    expand[:8] = torch.linspace(0.8, 0.9, 8)
    expand[8:] = 0.0
    assert line_of(model, 0.1)[0] > 0.02


def test_frozen_gammas_are_not_penalised(arguments):
    trainer = Trainer(arguments("--freeze", "3", "-sr", "--s", "5", "--rescale", "none"))
    half, neck = (trainer.model.module_list[place(TINY, name)][1] for name in ("half", "neck"))
    before = half.weight.clone()
    run_epochs(trainer, 1)
    assert torch.equal(half.weight, before) and neck.weight.max() < 1


@pytest.mark.parametrize("part", ["train", "valid"])
def test_training_without_any_label_stops_and_says_where_labels_were_looked_for(arguments, tiny_data, part):
    place = without_labels(tiny_data, part)
    with pytest.raises(DataError, match=re.escape(str(place))):
        Trainer(arguments())
    assert not Path("logs").exists()


def test_of_epochs_with_equal_scores_the_later_is_the_best(arguments, monkeypatch):
    monkeypatch.setattr(
        trainer_module,
        "evaluate",
        lambda *args, **options: SimpleNamespace(map50=0.0, map=0.0, precision=0.0, recall=0.0, f1=0.0),
    )
    run_epochs(Trainer(arguments()), 3)
    assert read_checkpoint("logs/run/best.pth")["epoch"] == 3


# ---- average, schedule

def test_average_ramps_up_copies_buffers_and_keeps_zeros(tiny_cfg):
    model = Darknet(tiny_cfg)
    ema = ModelEma(model, 0.9, ramp=10)
    first = model.module_list[0][0].weight.detach().clone()
    model.module_list[0][0].weight.data += 1
    model.module_list[0][1].running_mean += 5
    model.module_list[0][1].weight.data[2] = 0
    ema.update(model)
    decay = 0.9 * (1 - math.exp(-0.1))
    assert torch.allclose(ema.model.module_list[0][0].weight, first + 1 - decay, atol=1e-6)
    assert torch.equal(ema.model.module_list[0][1].running_mean, model.module_list[0][1].running_mean)
    assert ema.model.module_list[0][1].weight[2] == 0


def test_schedule_warms_up_then_falls():
    rates = [learning_rate(step, 100, 1.0, warmup=10) for step in range(100)]
    assert rates[0] == 0.1 and max(rates) == 1.0 and rates[9] == 1.0 and rates[-1] < 0.02
    assert all(a >= b for a, b in zip(rates[10:], rates[11:]))
    assert [learning_rate(s, 100, 1.0, kind="steps") for s in (0, 79, 80, 90)] == pytest.approx([1, 1, 0.1, 0.01])


# ---- rescaling

@pytest.mark.parametrize("base", ["yolov3", "yolov3-tiny", "yolov3-spp", "yolov4-tiny"])
def test_rescaling_changes_every_gamma_and_no_output(families, base):
    assert rescaling_error(Darknet(families[base])) < 1e-9


def test_rescaling_is_exact_on_odd_nets(tmp_path):
    (tmp_path / "m.cfg").write_text(cfg_text(ODD, act="relu", joins=ADD))
    assert rescaling_error(Darknet(tmp_path / "m.cfg")) < 1e-9


def test_rescaling_is_exact_on_nets_that_others_made(shared):
    errors = [rescaling_error(Darknet(path)) for path in (shared / "darknet_pairs").glob("*/*.cfg")]
    assert len(errors) == 3 and max(errors) < 1e-9


def rescaling_error(model):
    """Rescale a copy by 0.05 and back: the largest deviation of the raw maps after either, and of the gammas from 0.05
    times what they were."""
    model = model.double().eval()
    randomise(model)
    twin = copy.deepcopy(model)
    rescale_gammas(twin, 0.05)
    pairs = [
        (scaled, bn) for (_, _, scaled), (_, _, bn) in zip(twin.convolutions(), model.convolutions()) if bn is not None
    ]
    errors = [worst(model, twin), max((scaled.weight - 0.05 * bn.weight).abs().max().item() for scaled, bn in pairs)]
    rescale_gammas(twin, 20)
    return max(*errors, worst(model, twin))


def test_a_cfg_for_neither_colour_nor_grey_pictures_is_refused_in_one_line(arguments, tiny_cfg):
    tiny_cfg.write_text(tiny_cfg.read_text().replace("channels=3", "channels=2"))
    with pytest.raises(CfgError, match="found channels=2 .*expected 3 .* or 1"):
        Trainer(arguments())


def test_a_net_for_grey_pictures_trains_and_sees_no_colour(arguments, tiny_cfg):
    tiny_cfg.write_text(tiny_cfg.read_text().replace("channels=3", "channels=1"))
    trainer = run_epochs(Trainer(arguments("-sr", "--s", "0.01")), 1)
    assert trainer.model.module_list[0][0].in_channels == 1
    detector = Detector(trainer.model, ["hand"], (64, 64), conf_thres=1e-4)
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    grey = np.rint(picture @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    found, grey_found = detector(picture), detector(np.dstack([grey] * 3))
    assert len(found) and np.abs(found[:5] - grey_found[:5]).max() < 0.5  # but for rounding of the grey levels


def test_rescaling_leaves_nets_that_read_a_heads_raw_map_alone_or_says_why(tmp_path):
    head = "[convolutional]\nfilters=6\nsize=1\nactivation=linear\n[yolo]\nmask=0\nanchors=9,9\nclasses=1\nnum=1\n"
    normed = "[convolutional]\nbatch_normalize=1\nfilters=4\nsize=3\npad=1\nactivation=leaky\n"
    cfg = tmp_path / "reader.cfg"
    cfg.write_text("[net]\nwidth=32\nheight=32\n" + normed + head + "[route]\nlayers=1\n" + normed + head)
    model = Darknet(cfg).double().eval()
    randomise(model)
    image = torch.rand(1, 3, 32, 32).double()
    with torch.no_grad():
        before = model.raw_maps(image)
        rescale_gammas(model, 0.05)
        assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(before, model.raw_maps(image)))
    cfg.write_text("[net]\nwidth=32\nheight=32\n" + normed + head + "[route]\nlayers=0,1\n" + normed + head)
    with pytest.raises(RescaleError, match="joins rescaled and unscaled maps"):
        rescale_gammas(Darknet(cfg), 0.05)


def test_rescaling_is_refused_where_activations_do_not_allow_it(tiny_cfg, families):
    with pytest.raises(RescaleError, match="has activation mish.*and 69 more"):
        rescale_gammas(Darknet(families["yolov4"]), 0.05)
    tiny_cfg.write_text(tiny_cfg.read_text().replace("activation=leaky", "activation=mish", 1))
    with pytest.raises(RescaleError, match=r"layer 0 \[convolutional\] has activation mish"):
        rescale_gammas(Darknet(tiny_cfg), 0.05)


def test_auto_rescaling_says_where_it_cannot_and_goes_on_a_factor_stops(arguments, tiny_cfg, capsys):
    tiny_cfg.write_text(tiny_cfg.read_text().replace("activation=leaky", "activation=mish"))
    trainer = Trainer(arguments("-sr", "--rescale", "auto"))
    trainer.announce()
    out = capsys.readouterr().out
    assert (
        trainer.state.rescale == 1.0
        and "gammas not rescaled: layer 0 [convolutional] has activation mish" in out
        and "selects nothing" in out
    )
    with pytest.raises(RescaleError, match="activation mish"):
        Trainer(arguments("--name", "next", "-sr", "--rescale", "0.05"))


def test_gammas_stay_as_trained_where_s_is_found_unless_told_otherwise(arguments, capsys):
    largest = lambda trainer: max(gamma.abs().max().item() for gamma in trainer.sparsifier.gammas)
    aimed = Trainer(arguments("-sr", "--target-flops", "0.5"))
    aimed.announce()
    assert aimed.state.rescale == 1.0 and "rescaled" not in capsys.readouterr().out
    told = Trainer(arguments("-sr", "--target-flops", "0.5", "--rescale", "0.05", "--name", "told"))
    assert told.state.rescale == 0.05 and largest(told) == pytest.approx(0.05 * largest(aimed))
    run_epochs(told, 1)
    again = Trainer(arguments("-sr", "--target-flops", "0.5", "--name", "again", "-pre", "logs/told/last.pth"))
    assert again.state.rescale == 1.0 and largest(again) == pytest.approx(20 * largest(told), rel=0.2)


def test_rescaling_happens_once_and_is_recorded(arguments):
    trainer = Trainer(arguments("-sr", "--rescale", "0.1"))
    assert trainer.state.rescale == 0.1 and trainer.model.module_list[0][1].weight.max().item() == pytest.approx(0.1)
    run_epochs(trainer, 1)
    assert read_checkpoint("logs/run/last.pth")["rescale"] == 0.1
    again = Trainer(arguments("--name", "next", "-sr", "--rescale", "0.1", "-pre", "logs/run/last.pth"))
    assert again.state.rescale == 0.1 and again.model.module_list[0][1].weight.max() < 0.12
    resumed = Trainer(resuming("--resume", "logs/run", "--n_cpu", "0"))
    assert resumed.model.module_list[0][1].weight.max() < 0.12


# ---- checkpoints

def test_a_checkpoint_with_another_cfg_names_the_right_one(tiny_cfg, tmp_path):
    save_checkpoint(tmp_path / "a.pth", weights_content(Darknet(tiny_cfg), "config/right.cfg", "r"))
    defs = parse_model_config(tiny_cfg)
    defs[3]["filters"] = "12"
    with pytest.raises(CheckpointError, match="found filters=8 in layer 2.*use --cfg config/right.cfg"):
        load_weights(Darknet(defs), tmp_path / "a.pth")


def test_a_bare_state_dict_of_the_peers_loads(tiny_cfg, tmp_path):
    model, other = Darknet(tiny_cfg), Darknet(tiny_cfg)
    torch.save(model.state_dict(), tmp_path / "peer.pth")
    load_weights(other, tmp_path / "peer.pth")
    assert torch.equal(model.module_list[0][0].weight, other.module_list[0][0].weight)


def test_other_heads_start_from_scratch_in_training_and_stop_elsewhere(tiny_cfg, tmp_path):
    defs = parse_model_config(tiny_cfg)
    source, target = Darknet(rebuild_heads(defs, 5)), Darknet(defs)
    save_checkpoint(tmp_path / "a.pth", weights_content(source, "config/x.cfg", "r"))
    report, _ = load_weights(target, tmp_path / "a.pth", strict=False)
    assert "all but the heads" in str(report) and torch.equal(
        target.module_list[place(TINY, "mixed")][0].weight, source.module_list[place(TINY, "mixed")][0].weight
    )
    with pytest.raises(CheckpointError):
        load_weights(Darknet(defs), tmp_path / "a.pth")


@pytest.mark.parametrize("content", [b"PK\x03\x04 broken", b"\x80\x02 broken"])
def test_a_damaged_checkpoint_is_one_line(tiny_cfg, tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(Darknet(tiny_cfg), tmp_path / "a.pth")


def test_kind_of_file_is_told_by_content_not_by_name(tiny_cfg, tmp_path):
    model, other = Darknet(tiny_cfg), Darknet(tiny_cfg)
    randomise(model)
    model.save_darknet_weights(tmp_path / "darknet.pth")
    load_weights(other, tmp_path / "darknet.pth")
    assert torch.equal(model.module_list[0][0].weight, other.module_list[0][0].weight)


# ---- several processes

ONE_STEP = (
    "--epochs",
    "1",
    "--augment",
    "none",
    "--warmup",
    "0",
    "--schedule",
    "constant",
    "--clip",
    "0",
    "--no-publish",
)


def live_gammas(state):
    return torch.cat([value for key, value in state.items() if key.endswith("weight") and value.ndim == 1])


@pytest.mark.parametrize("kind, expected", [("l1", -1e-3 * 1.9 * 0.5), ("prox", -1e-3 * 0.5 / 0.1)])
@pytest.mark.parametrize("batch, accumulate", [(8, 1), (4, 2), (2, 4)])
def test_the_penalty_of_a_step_is_the_same_for_any_batches(arguments, kind, expected, batch, accumulate):
    """What -sr adds to one step on gammas near 1 (Nesterov's first step: 1 + momentum), however its 8 images are
    cut."""
    gammas = []
    for name, flags in (("plain", ()), ("sr", ("-sr", "--s", "0.5", "--sparsity", kind, "--rescale", "none"))):
        trainer = Trainer(
            arguments(*ONE_STEP, "--batch_size", str(batch), "--accumulate", str(accumulate), "--name", name, *flags)
        )
        trainer.train_one_epoch(1)
        assert trainer.state.step == 1
        gammas.append(live_gammas(trainer.model.state_dict()).clone())
    assert torch.allclose(gammas[1] - gammas[0], torch.full_like(gammas[0], expected), atol=1e-6)


@pytest.mark.parametrize("kind, expected", [("l1", -1e-3 * 1.9 * 0.5), ("prox", -1e-3 * 0.5 / 0.1)])
def test_the_penalty_of_a_step_is_the_same_in_bfloat16(arguments, kind, expected):
    gammas = []
    for name, flags in (("plain", ()), ("sr", ("-sr", "--s", "0.5", "--sparsity", kind, "--rescale", "none"))):
        trainer = Trainer(arguments(*ONE_STEP, "--batch_size", "8", "--bf16", "--name", name, *flags))
        trainer.train_one_epoch(1)
        gammas.append(live_gammas(trainer.model.state_dict()).clone())
    assert torch.allclose(gammas[1] - gammas[0], torch.full_like(gammas[0], expected), atol=1e-6)


def test_the_penalty_is_added_after_the_loss_scale_is_taken_off(arguments):
    """Half precision multiplies the loss by a large factor; the sub-gradient must not be divided by it."""
    gammas = {}
    for scaled in (False, True):
        trainer = Trainer(arguments(*L1, "--s", "0.5", "--name", f"scaled{scaled}", "--clip", "0"))
        if scaled:
            trainer.state.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        trainer.train_one_epoch(1)
        gammas[scaled] = torch.cat([gamma.detach() for gamma in trainer.sparsifier.gammas])
    assert torch.allclose(gammas[False], gammas[True], atol=1e-5)


def test_the_penalty_can_weigh_channels_by_cost_and_resumes_with_its_weights(arguments):
    flags = ("-sr", "--sparsity-weight", "flops", "--freeze", "1")
    trainer = run_epochs(Trainer(arguments(*flags)), 1)
    weights = trainer.sparsifier.penalty.weights
    assert (
        weights.mean().item() == pytest.approx(1)
        and len(weights) == sum(len(g) for g in trainer.sparsifier.gammas)
        and weights.std() > 0
    )
    graph = trainer.sparsifier.prospect.graph
    cost = saved_macs(trainer.model.module_defs, graph, trainer.size)
    root = torch.cat([cost[graph.outputs[i]] for i in graph.prunable if i >= 1]).sqrt()
    assert torch.allclose(weights, (root / root.mean()).float())
    args = resuming("--resume", "logs/run", "--device", "cpu", "--n_cpu", "0")
    assert torch.equal(Trainer(args).sparsifier.penalty.weights, weights)


# ---- recovery

def test_distillation_is_least_at_the_teacher_and_its_gradient_is_right(tiny_cfg):
    torch.manual_seed(0)
    teacher, student = Darknet(tiny_cfg).double().eval(), Darknet(tiny_cfg).double().eval()
    randomise(teacher)
    randomise(student)
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        taught = [raw + 1 for raw in teacher.raw_maps(image)]  # surer, so that boxes count
    total = lambda raws: distillation_loss(raws, taught, student.heads(), (64, 64)).total()
    least = total(taught)
    box, _, _ = distillation_loss(taught, taught, student.heads(), (64, 64))
    assert box.item() == pytest.approx(0, abs=1e-6) and least < total([raw + 0.1 for raw in taught]) < total(
        [raw + 0.5 for raw in taught]
    )
    raws = [raw.detach().requires_grad_() for raw in student.raw_maps(image)]
    total(raws).backward()
    direction = [torch.randn_like(raw) for raw in raws]
    h = 1e-3  # the loss computes in float32
    slope = (
        total([raw + h * d for raw, d in zip(raws, direction)])
        - total([raw - h * d for raw, d in zip(raws, direction)])
    ) / (2 * h)
    assert slope.item() == pytest.approx(sum((raw.grad * d).sum().item() for raw, d in zip(raws, direction)), rel=0.02)


@pytest.mark.parametrize("flags, dtype", [((), torch.float32), (("--bf16",), torch.bfloat16)])
def test_the_teacher_computes_in_the_precision_of_the_student(arguments, tiny_cfg, flags, dtype):
    run_epochs(Trainer(arguments("--name", "teacher")), 1)
    taught = Trainer(arguments("--name", "taught", *flags, "--teacher-cfg", str(tiny_cfg), "--teacher-weights",
                               "logs/teacher/last.pth"))
    seen = []
    taught.objective.teacher.module_list[0].register_forward_hook(lambda *given: seen.append(given[-1].dtype))
    run_epochs(taught, 1)
    assert set(seen) == {dtype}


def test_the_losses_of_train_and_of_taylor_scores_are_one():
    options = train_options(vars(train.parse_args([]))).loss
    usual = LossOptions()
    assert options.box_loss == usual.box
    assert (options.several_iou, options.ignore_iou) == (usual.several_iou, usual.ignore_iou)


def test_each_term_of_the_teacher_teaches_what_it_is_about(tiny_cfg):
    """One cell of one head, sure of what it says: its box, its objectness and its class are learnt from it, each by its
    own term."""
    torch.manual_seed(0)
    net = Darknet(tiny_cfg).eval()
    head = net.heads()[0]
    raw = net.raw_maps(torch.rand(1, 3, 64, 64))[0].detach()
    taught = raw.clone().view(1, 3, 6, *raw.shape[2:])
    taught[0, 1, :, 2, 3] = torch.tensor([0.4, -0.3, 0.8, 0.2, 4.0, 2.0])  # x, y, w, h, objectness, class
    taught = taught.view_as(raw)

    def terms(**changes):
        """Loss parts when the student agrees but for these numbers of that cell."""
        own = taught.clone().view(1, 3, 6, *raw.shape[2:])
        for place, value in zip(map(int, (key[1:] for key in changes)), changes.values()):
            own[0, 1, place, 2, 3] = value
        return distillation_loss([own.view_as(raw)], [taught], [head], (64, 64))

    same = terms()
    for place, part in ((0, "box"), (2, "box"), (4, "objectness"), (5, "classes")):
        other = terms(**{f"n{place}": -1.5})
        for name in same._fields:
            assert (getattr(other, name) > getattr(same, name) + 0.05) == (name == part), (place, name)


def test_distill_gain_weighs_the_teacher(arguments, tiny_cfg, tmp_path):
    teacher = Darknet(tiny_cfg)
    randomise(teacher)
    teacher.save_darknet_weights(tmp_path / "teacher.weights")
    flags = ("--teacher-cfg", str(tiny_cfg), "--teacher-weights", str(tmp_path / "teacher.weights"))
    losses = [
        Trainer(arguments(*ONE_STEP, "--batch_size", "8", "--name", f"gain{i}", *more)).train_one_epoch(1)[
            "loss_objectness"
        ]
        for i, more in enumerate(((), flags, (*flags, "--distill-gain", "3")))
    ]
    taught = 2 * losses[1] - losses[0]  # the loss with a teacher is the weighted mean of the labels' and the teacher's
    assert losses[2] == pytest.approx((losses[0] + 3 * taught) / 4, rel=1e-4) and losses[1] > losses[0]


def test_a_teacher_pulls_its_student_and_must_have_the_same_heads(arguments, tiny_cfg, tmp_path):
    torch.manual_seed(5)
    teacher = Darknet(tiny_cfg)
    randomise(teacher)
    teacher.save_darknet_weights(tmp_path / "teacher.weights")
    flags = ("--teacher-cfg", str(tiny_cfg), "--teacher-weights", str(tmp_path / "teacher.weights"))
    alone = Trainer(arguments("--name", "alone")).train_one_epoch(1)
    taught = Trainer(arguments("--name", "taught", *flags)).train_one_epoch(1)
    assert taught["loss_objectness"] > alone["loss_objectness"] and math.isfinite(taught["loss"])
    other = tmp_path / "other.cfg"
    other.write_text(tiny_cfg.read_text().replace("48,50", "48,51"))
    with pytest.raises(ValueError, match="the net that it was pruned from"):
        Trainer(arguments("--name", "wrong", "--teacher-cfg", str(other), *flags[2:]))
    with pytest.raises(SystemExit):
        arguments("--teacher-cfg", str(tiny_cfg))


def test_rewinding_trains_with_the_rates_of_the_last_epochs_of_a_longer_run(arguments):
    rates = {}
    for name, flags in (("long", ("--epochs", "6")), ("rewound", ("--epochs", "2", "--rewind", "6"))):
        trainer = Trainer(arguments("--name", name, *flags))
        rates[name] = [trainer.train_one_epoch(epoch)["lr"] for epoch in range(1, trainer.options.steps.epochs + 1)]
    assert rates["rewound"] == pytest.approx(rates["long"][-2:])


@pytest.mark.parametrize("spoil", [
    lambda text: text.replace(",", ";"),
    lambda text: text[:-30],
    lambda text: text.replace("map50", "mAP"),
    lambda text: text.replace("\n1,", "\n1,often"),
    lambda text: "epoch,note\n1,good\n",
])
def test_metrics_that_a_spreadsheet_has_saved_or_that_end_in_half_a_line_are_set_aside(arguments, capsys, spoil):
    run_epochs(Trainer(arguments()), 1)
    metrics = Path("logs/run/metrics.csv")
    Path("logs/run/metrics-unreadable.csv").write_text("of an earlier time")
    metrics.write_text(spoilt := spoil(metrics.read_text()))
    run_epochs(Trainer(resuming("--resume", "logs/run", "--n_cpu", "0")), 3)
    assert "metrics-unreadable1.csv" in capsys.readouterr().out
    assert Path("logs/run/metrics-unreadable1.csv").read_text() == spoilt
    assert Path("logs/run/metrics-unreadable.csv").read_text() == "of an earlier time"
    assert [row["epoch"] for row in csv.DictReader(metrics.open())] == ["2", "3"]


def test_a_byte_order_mark_before_metrics_is_no_matter(arguments):
    run_epochs(Trainer(arguments()), 1)
    metrics = Path("logs/run/metrics.csv")
    metrics.write_bytes(b"\xef\xbb\xbf" + metrics.read_bytes())
    run_epochs(Trainer(resuming("--resume", "logs/run", "--n_cpu", "0")), 3)
    assert [row["epoch"] for row in csv.DictReader(metrics.open())] == ["1", "2", "3"]


def test_a_run_goes_on_where_its_cfg_and_its_data_lie_elsewhere_by_now(arguments, tiny_cfg, tiny_data, tmp_path):
    run_epochs(Trainer(arguments()), 1)
    (tmp_path / "moved").mkdir()
    cfg, data = (path.rename(tmp_path / "moved" / path.name) for path in (tiny_cfg, tiny_data))
    with pytest.raises(FileNotFoundError, match="no such"):
        Trainer(resuming("--resume", "logs/run", "--n_cpu", "0"))
    there = resuming("--resume", "logs/run", "--n_cpu", "0", "--cfg", str(cfg), "--data", str(data))
    assert run_epochs(Trainer(there), 2).state.epoch == 2


def test_arguments_survive_a_checkpoint(arguments):
    run_epochs(Trainer(arguments("--lr", "0.004")), 1)
    options = resuming("--resume", "logs/run", "--n_cpu", "0", "--threads", "1")
    assert options.steps.lr == 0.004 and options.source.threads == 1
    assert options.output.resume == "logs/run/last.pth" and options.given["lr"] == 0.004


def test_a_restored_net_has_gammas_of_root_mean_square_one_and_the_same_output(tiny_cfg):
    model = Darknet(tiny_cfg).double().eval()
    randomise(model)
    image = torch.rand(1, 3, 64, 64).double()
    with torch.no_grad():
        rescale_gammas(model, 0.05)
        before = model.raw_maps(image)
        rescale_gammas(model, restoring_factor(model))
        assert all(torch.allclose(a, b, atol=1e-9 * a.abs().max()) for a, b in zip(before, model.raw_maps(image)))
    alive = torch.cat([bn.weight[bn.weight != 0] for _, _, bn in model.convolutions() if bn is not None])
    assert alive.square().mean().sqrt().item() == pytest.approx(1.0)


def typed(*flags):
    return resuming("--resume", "logs/run", "--n_cpu", "0", *flags)


def test_a_finished_run_that_is_resumed_says_so_and_how_to_go_on(arguments):
    run_epochs(Trainer(arguments("--no-publish")), 3)
    with pytest.raises(ValueError, match=r"finished \(3 of 3 epochs\).*--epochs 6.*-pre .*last\.pth"):
        typed()


def test_a_finished_run_whose_publishing_was_cut_off_is_published_on_resume(arguments, capsys):
    run_epochs(Trainer(arguments()), 3)
    Trainer(typed()).finish(export_darknet)
    assert "written: checkpoints/" in capsys.readouterr().out
    with pytest.raises(ValueError, match="finished"):
        typed()


def test_more_epochs_go_on_by_a_schedule_that_is_said(arguments, capsys):
    run_epochs(Trainer(arguments("--no-publish")), 3)
    resumed = Trainer(typed("--epochs", "5"))
    assert (
        "--epochs 3 -> 5: from epoch 4 on, the learning rate is that of a cosine schedule over 5 epochs"
        in capsys.readouterr().out
    )
    assert resumed.schedule.total == 5 * resumed.schedule.steps_per_epoch and run_epochs(resumed, 5).state.epoch == 5
    assert json.loads(Path("logs/run/args.json").read_text())["epochs"] == 5
    with pytest.raises(ValueError, match="--epochs 2 .begun with 5.: a run can be made longer, not shorter"):
        typed("--epochs", "2")


def test_a_run_made_longer_that_stops_before_it_is_published_again_is_not_finished(arguments, capsys):
    run_epochs(Trainer(arguments("--epochs", "1")), 1).finish(export_darknet)
    run_epochs(Trainer(typed("--epochs", "2")), 2)  # and stops
    run_epochs(Trainer(typed()), 2).finish(export_darknet)
    assert read_checkpoint("checkpoints/tiny_ckpt.pth")["epoch"] == 2
    with pytest.raises(ValueError, match="finished"):
        typed()


def test_a_name_that_is_taken_says_how_to_go_on_with_its_run(arguments):
    run_epochs(Trainer(arguments()), 1)
    with pytest.raises(ValueError, match=r"another --name, or go on with it: --resume logs/run$"):
        Trainer(arguments())
    run_epochs(Trainer(typed()), 3)
    with pytest.raises(ValueError, match=r"--resume logs/run --epochs 6$"):
        Trainer(arguments())


def test_flags_that_were_typed_are_known_under_the_name_that_was_typed():
    words = ["--weights=none", "-lr", "0.1", "--batch-size", "3", "--no-amp", "--epochs", "100", "-sr"]
    assert train.parse_args(words).typed == {
        "weights": "--weights",
        "lr": "-lr",
        "batch_size": "--batch_size",
        "amp": "--no-amp",
        "epochs": "--epochs",
        "sr": "-sr",
    }
    assert train.parse_args([]).typed == {}


def test_flags_that_a_resumed_run_cannot_take_are_refused_by_name(arguments):
    run_epochs(Trainer(arguments("--no-publish")), 1)
    with pytest.raises(ValueError, match=r"--lr 0\.5 \(begun with 0\.001\), --mosaic 0\.5"):
        typed("--lr", "0.5", "--mosaic", "0.5")
    with pytest.raises(ValueError, match=r"--no-amp False \(begun with True\), -sr True .*-pre logs/run/last.pth"):
        typed("-sr", "--no-amp", "--epochs", "9")
    # the value it has, and flags of the machine, are no change
    assert typed("--lr", "0.001", "--threads", "1").source.threads == 1
    assert typed("--cache-gb", "1").read.cache_gb == 1 and typed("--epochs", "3").read.cache_gb == 0.5


@pytest.mark.parametrize("name, value, words", [
    ("sparsity_weight", "latency", r"--sparsity-weight latency \(expected none or flops\)"),
    ("compile", True, "--compile True"), ("momentum", 1.0, r"--momentum 1.0 \(expected another value\)")])
def test_a_run_begun_with_a_flag_or_a_value_that_is_no_longer_there_is_not_resumed_as_another_one(
    arguments, name, value, words
):
    run_epochs(Trainer(arguments("--no-publish")), 1)
    content = torch.load("logs/run/last.pth", weights_only=True)
    torch.save(content | {"args": content["args"] | {"compile": False, "cost": "none"}}, "logs/run/last.pth")
    assert typed("--epochs", "3").steps.epochs == 3  # what was off changes nothing
    torch.save(content | {"args": content["args"] | {name: value}}, "logs/run/last.pth")
    with pytest.raises(ValueError, match=f"logs/run/last.pth: this run was begun with {words}, which .*-pre logs/run"):
        typed("--epochs", "3")


def published(arguments, capsys, *flags):
    """Train one epoch and publish; the lines printed about what was replaced."""
    trainer = run_epochs(Trainer(arguments("--epochs", "1", *flags)), 1)
    capsys.readouterr()
    trainer.finish(export_darknet)
    return [line for line in capsys.readouterr().out.splitlines() if ": replaces" in line]


NAMES = ("checkpoints/tiny_ckpt.pth", "weights/tiny_ckpt.pth", "weights/best.pt")


def test_a_published_file_of_another_run_is_named_with_its_cfg_and_data_and_where_it_is(
    arguments, capsys, tiny_cfg, tiny_data
):
    assert published(arguments, capsys) == []
    lines = published(arguments, capsys, "--name", "second", "--seed", "1")
    assert lines == [f"{name}: replaces that of run run (cfg {tiny_cfg}, data {tiny_data}), which is in "
                     "logs/run/best.pth" for name in NAMES]
    assert published(arguments, capsys, "--name", "third", "--no-publish") == []


def test_a_published_file_whose_run_folder_is_gone_is_kept_under_a_name_of_its_own_each_time(arguments, capsys):
    weights = []
    for i, name in enumerate(("run", "second", "third")):
        lines = published(arguments, capsys, "--name", name, "--seed", str(i))
        assert len(lines) == (0 if i == 0 else 3)
        weights.append(read_checkpoint("weights/best.pt")["model"])
        shutil.rmtree(Path("logs") / name)
    assert "kept as checkpoints/tiny_ckpt-before2.pth" in lines[0]
    for number, model in zip(("", "2"), weights):
        kept = read_checkpoint(f"checkpoints/tiny_ckpt-before{number}.pth")["model"]
        assert all(torch.equal(kept[key], value) for key, value in model.items())
    assert not list(Path("weights").glob("*-before*"))  # the same nets, kept once


def test_a_run_of_the_same_name_begun_anew_with_another_cfg_loses_nothing(arguments, capsys, tiny_cfg):
    published(arguments, capsys)
    shutil.rmtree("logs/run")
    wider = tiny_cfg.with_name("wider") / tiny_cfg.name  # another net of the same STEM
    wider.parent.mkdir()
    wider.write_text(tiny_cfg.read_text().replace("filters=24", "filters=32"))
    lines = published(arguments, capsys, "--cfg", str(wider), "--weights", "none")
    assert len(lines) == 3 and all(
        str(tiny_cfg) in line and "kept as checkpoints/tiny_ckpt-before.pth" in line for line in lines
    )


def test_a_longer_run_replaces_its_own_files_without_a_word_and_foreign_files_are_kept(arguments, capsys):
    published(arguments, capsys)
    longer = run_epochs(Trainer(typed("--epochs", "2")), 2)
    capsys.readouterr()
    longer.finish(export_darknet)
    assert ": replaces" not in capsys.readouterr().out
    Path("weights/best.pt").write_bytes(b"no checkpoint")
    line = next(
        line for line in published(arguments, capsys, "--name", "second") if line.startswith("weights/best.pt:")
    )
    assert "a file that is no checkpoint, which is kept as weights/best-before.pt" in line
    assert Path("weights/best-before.pt").read_bytes() == b"no checkpoint"


def test_weights_that_were_never_finite_are_named_with_the_start_they_came_from(arguments):
    trainer = Trainer(arguments("-pre", "none"))
    next(trainer.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"module_list.0.conv_0.weight is not finite before the "
                                            r"first step: begin from another"):
        trainer.train_one_epoch(1)


def test_weights_that_left_the_range_in_training_are_told_from_those_and_a_new_run_is_advised(arguments):
    trainer = run_epochs(Trainer(arguments()), 1)
    next(trainer.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"training diverged.*--lr below 0.001.*last sound epoch, 1: -pre "
                                            r"logs/run/last.pth") as error:
        trainer.train_one_epoch(2)
    assert "label" not in str(error.value)


def test_fine_tuning_whose_steps_undo_its_start_is_told_to_take_smaller_ones(arguments, capsys):
    fast = ("--batch_size", "1", "--augment", "none", "--warmup", "2", "--evaluation_interval", "60")
    run_epochs(Trainer(arguments(*fast, "--epochs", "30", "--lr", "2e-3", "--name", "first")), 30)
    start = ("-pre", "logs/first/last.pth", *fast, "--epochs", "3")
    capsys.readouterr()
    run_epochs(Trainer(arguments(*start, "--lr", "1e-4", "--name", "gentle")), 3)
    assert "warning" not in capsys.readouterr().out
    run_epochs(Trainer(arguments(*start, "--lr", "0.05", "--name", "rough")), 3)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("warning"))
    assert "--lr 0.05 undoes what logs/first/last.pth brought" in line and "(--lr 0.0125)" in line
    run_epochs(Trainer(arguments(*start, "--lr", "0.05", "-sr", "--name", "sparse")), 3)
    assert "undoes" not in capsys.readouterr().out


def saved(folder="logs/run"):
    return Path(folder, "last.pth").read_bytes()


def test_weights_that_are_not_finite_never_replace_the_last_sound_ones(arguments):
    trainer = run_epochs(Trainer(arguments("--evaluation_interval", "1")), 1)
    sound = saved()
    trainer.state.begin_epoch(2)
    next(trainer.state.averaged.parameters()).data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="predicted values are not finite.*last sound epoch, 1: -pre logs/run/last"):
        trainer.evaluate(2)
    with pytest.raises(TrainingError, match="2: the weights cannot be saved; .*is not finite.*last sound epoch, 1"):
        trainer.save(2, None)
    assert saved() == sound


def test_finite_weights_whose_predictions_are_not_finite_do_not_replace_the_last_sound_ones(arguments):
    trainer = run_epochs(Trainer(arguments("--evaluation_interval", "1")), 1)
    sound = saved()
    for value in trainer.state.averaged.parameters():
        value.data *= 1e20
    with pytest.raises(TrainingError, match="are not finite.*training diverged.*last sound epoch, 1"):
        trainer.evaluate(2)
    assert saved() == sound


@pytest.mark.parametrize("scaled", [True, False])
def test_an_output_out_of_range_is_blamed_on_half_precision_only_where_it_runs(arguments, monkeypatch, scaled):
    trainer = Trainer(arguments())
    if scaled:
        trainer.state.scaler = torch.amp.GradScaler("cpu")
    monkeypatch.setattr(
        "utils.training.objective.yolo_loss",
        lambda *args: LossParts(*(torch.tensor(float("inf"), requires_grad=True) for _ in range(3))),
    )
    with pytest.raises(
        TrainingError, match="in half precision: --no-amp, or --bf16" if scaled else "training diverged"
    ):
        trainer.train_one_epoch(1)


@pytest.mark.parametrize("clip", ["0", "500"])
def test_a_gradient_that_is_not_finite_under_a_finite_loss_changes_no_weight(arguments, monkeypatch, clip):
    trainer = Trainer(arguments("--clip", clip))
    before = {key: value.clone() for key, value in trainer.model.named_parameters()}
    backward = trainer._backward

    def spoilt(*batch):
        parts = backward(*batch)
        next(trainer.model.parameters()).grad[0] = float("inf")
        return parts
    monkeypatch.setattr(trainer, "_backward", spoilt)
    with pytest.raises(TrainingError, match="epoch 1, batch 1: a gradient is not finite"):
        trainer.train_one_epoch(1)
    assert all(torch.equal(value, before[key]) for key, value in trainer.model.named_parameters())

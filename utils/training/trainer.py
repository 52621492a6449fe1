"""The training run behind train.py: one object that holds its state, and the steps of an epoch."""

import argparse
import contextlib
import dataclasses
import math
import time
from pathlib import Path
from typing import Callable, NoReturn

import torch
from torch import nn

from utils import cli
from utils import processes
from utils.batch_norm import QUANTILES, gamma_quantiles, gammas_of, rescale_gammas, rescale_obstacles, zero_share
from utils.checkpoint import CheckpointError, load_weights, read_checkpoint, save_checkpoint, weights_content
from utils.darknet_weights import WeightsError, file_bytes
from utils.data.args import ReadOptions
from utils.data.augmentations import AUGMENTATIONS, Augmentation
from utils.data.datasets import TrainSampler, evaluation_loader, training_loader
from utils.data.prepare import dataset, given_names, labelled_dataset, model_and_data
from utils.evaluation.evaluate import ScoreOptions, evaluate
from utils.evaluation.metrics import EvalResult
from utils.letterbox import to_input
from utils.loading import checked_size, select_device, stem
from utils.loss import LossOptions, LossParts, yolo_loss
from utils.origin import PUBLIC_CLASSES, PUBLIC_WEIGHTS, origin
from utils.parse_config import rebuild_heads
from utils.plots import plot_training
from utils.progress import Progress
from utils.pruning.channel_graph import channel_graph
from utils.pruning.importance import saved_macs
from utils.pruning.selection import describe_sparsity
from utils.shapes import largest_stride, total_cost
from utils.training import distributed, restart, sparsity
from utils.training.distillation import distillation_loss, load_teacher
from utils.training.ema import ModelEma
from utils.training.resume import refuse_existing
from utils.training.run_folder import MARK, RunFolder, new_run_path, publish, require_tensorboard
from utils.training.schedule import learning_rate
from utils.training.unlabelled import by_teacher_alone

AUTO_RESCALE = 0.05


class TrainingError(ValueError):
    """Training cannot go on."""


class Trainer:
    """State of one run: model, optimiser, average, schedule, data, folder.

    Everything that --resume needs is in `state()`; batches and augmentations depend on (seed, epoch) alone.
    """

    def __init__(self, args: argparse.Namespace, build: Callable[[list[dict]], nn.Module]):
        self.args, self.build = args, build  # build: module_defs -> Darknet
        self.rank, self.world_size, self.device = processes.start(select_device(args.device, args.threads))
        self.main = self.rank == 0
        torch.manual_seed(args.seed)
        quiet, keep = not self.main, args.keep_classes
        self.cfg, defs, self.data = model_and_data(args.cfg, args.data, args.class_path, quiet, keep)
        if args.resume:  # the cfg's name may belong to another pruning by now
            defs = read_checkpoint(args.resume)["module_defs"]
        self.size = checked_size(args.img_size, defs)
        self.model = build(defs).to(self.device, memory_format=torch.channels_last)
        self.rescale = 1.0  # the factor that gammas carry, see utils.batch_norm
        self.start_words = self._load_start()
        self._build_data(defs)
        if args.sync_bn:
            distributed.synchronise_batch_norms(self.model)
        self.graph = channel_graph(self.model.module_defs, args.strategy)
        self.prunable = self.graph.prunable
        self.optimizer = torch.optim.SGD(sparsity.parameter_groups(self.model, args.weight_decay), lr=args.lr,
                                         momentum=args.momentum, nesterov=args.momentum > 0, fused=True)
        self.ema = ModelEma(self.model, args.ema) if args.ema else None
        self.amp = args.bf16 or args.amp and self.device.type == "cuda"
        # bfloat16 has the range of float32
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp and not args.bf16)
        self.epoch, self.step, self.best = 0, 0, -1.0
        self._freeze()
        gammas = gammas_of(self.model, self.prunable) if args.sr else []
        self.penalised = [gamma for gamma in gammas if gamma.requires_grad]
        if args.sr and not self.penalised:
            raise ValueError(f"{self.cfg}: -sr found no batch norm to penalise (of prunable layers that --freeze "
                             "leaves free), expected one or more")
        self._restore()
        if self.main:
            restart.remember(self.folder.path)
        self.penalty = sparsity.Penalty(args.sparsity, args.s, args.s_schedule, self._channel_weights())
        self._load_teacher()
        self.forward = distributed.wrap(self.model, self.device)
        self.loss_options = LossOptions(box=args.box_loss, several_iou=args.several_iou, ignore_iou=args.ignore_iou)
        self.score_options = cli.options_of(ScoreOptions, args)

    # ---- building

    def _load_start(self) -> str:
        """Load --weights, rescale gammas when asked; returns what was done in words."""
        args = self.args
        if args.resume:
            return f"resumed from {args.resume}"
        words, loaded = "from scratch", {}
        if args.weights and (args.weights_named or Path(args.weights).is_file()):
            try:
                detail, loaded = load_weights(self.model, args.weights, strict=False)
                words = f"{args.weights}: {detail}"
            except (WeightsError, CheckpointError) as error:
                if args.weights_named:
                    raise
                words = f"warning: the default start does not fit this cfg ({error}): from scratch"
        elif args.weights:
            words = "from scratch"
            if self._default_start_fits():
                words = f"warning: {args.weights} is not there{origin(args.weights)}: from scratch"
        self.rescale = float(loaded.get("rescale", 1.0))
        if args.sr and args.rescale != "none":
            words += self._rescale()
        return words

    def _default_start_fits(self) -> bool:
        """Whether the public weights, which are of 80 classes, are those of this net."""
        defs = rebuild_heads(self.model.module_defs, PUBLIC_CLASSES)
        return file_bytes(defs) == PUBLIC_WEIGHTS.get(Path(self.args.weights).name)

    def _rescale(self) -> str:
        """Shrink the gammas as --rescale says; where "auto" cannot, say why and leave them. Returns the words."""
        alpha = AUTO_RESCALE if self.args.rescale == "auto" else self.args.rescale
        obstacles = rescale_obstacles(self.model.module_defs)
        if obstacles and self.args.rescale == "auto":
            return f"; gammas not rescaled: {obstacles[0]}" + (
                f" (and {len(obstacles) - 1} more)" if len(obstacles) > 1 else ""
            )
        rescale_gammas(self.model, alpha / self.rescale)
        self.rescale = alpha
        return f"; gammas rescaled by {alpha:g}, same function"

    def _build_data(self, defs: list[dict]) -> None:
        args = self.args
        if args.tensorboard and self.main:
            require_tensorboard()
        read = cli.options_of(ReadOptions, args)
        images = dataset if args.teacher_weights else labelled_dataset
        self.train_set = images(read, self.data, "train", self.size, seed=args.seed, augmentation=self._augmentation(),
                                labelled=not args.unlabelled)
        self.valid_set = images(read, self.data, "valid", self.size, labelled=not args.unlabelled)
        self.sampler = TrainSampler(len(self.train_set), args.batch_size, self.size, args.seed,
                                    largest_stride(defs) if args.multiscale_training else None,
                                    (self.rank, self.world_size))
        self.loader = training_loader(self.train_set, self.sampler, args.n_cpu)
        self.valid_loader = evaluation_loader(self.valid_set, args.batch_size, args.n_cpu)
        self.steps_per_epoch = math.ceil(len(self.sampler) / args.accumulate)
        self.total_steps = self.steps_per_epoch * args.epochs

    def _load_teacher(self) -> None:
        args, self.teacher = self.args, None
        if args.teacher_weights:
            self.teacher = load_teacher(args.teacher_cfg, args.teacher_weights, self.model, self.build, self.data)
        self.by_teacher = by_teacher_alone(args.unlabelled, self.teacher, self.train_set, self.valid_set, not self.main)

    def _augmentation(self) -> Augmentation:
        return dataclasses.replace(AUGMENTATIONS[self.args.augment], mosaic=self.args.mosaic)

    def _restore(self) -> None:
        """Open the run folder; on --resume put back every state."""
        args = self.args
        if not args.resume:
            path = Path("logs") / args.name if args.name else new_run_path(stem(self.cfg), "sr" if args.sr else "train")
            if self.main:
                refuse_existing(path)
            self.folder = RunFolder(path) if self.main else None
            if self.main:
                self.folder.write_arguments(args)
            return
        state = read_checkpoint(args.resume)
        self.model.load_state_dict(state["live"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty when the run was not in half precision so far
            self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.model.load_state_dict(state["model"])
            self.ema.updates = state["ema_updates"]
        self.epoch, self.step, self.best, self.rescale = state["epoch"], state["step"], state["best"], state["rescale"]
        self.model.seen = state["seen"]
        torch.set_rng_state(state["rng"])
        self.folder = RunFolder(Path(args.resume).parent, self.epoch) if self.main else None
        if self.main and self.epoch < args.epochs:  # perhaps more than it was begun with
            self.folder.write_arguments(args)
            (self.folder.path / MARK).unlink(missing_ok=True)  # what was published is no longer its last epoch

    def _freeze(self) -> None:
        if self.args.freeze >= len(self.model.module_list):
            raise ValueError(f"--freeze: found {self.args.freeze}, expected less than {len(self.model.module_list)}, "
                             f"the layers of {self.cfg}")
        for module in self.model.module_list[:self.args.freeze]:
            module.requires_grad_(False)

    def _channel_weights(self) -> torch.Tensor | None:
        """--sparsity-weight: (C,) factors of all penalised channels, mean 1, the root of what each channel costs."""
        if self.args.sparsity_weight == "none" or not self.penalised:
            return None
        cost = saved_macs(self.model.module_defs, self.graph, self.size)
        layers = [i for i, gamma in zip(self.prunable, gammas_of(self.model, self.prunable)) if gamma.requires_grad]
        weights = torch.cat([cost[self.graph.outputs[i]] for i in layers]).sqrt()
        return (weights / weights.mean()).float().to(self.device)

    def announce(self) -> None:
        """Print what is about to be trained, on what, and with -sr how long the sparsity needs."""
        if not self.main:
            return
        args, cost = self.args, total_cost(self.model.module_defs, *self.size)
        print(f"{self.cfg}: {cost.parameters:,} parameters, {cost.macs / 1e9:.2f} GMACs at "
              f"{self.size[0]}x{self.size[1]}; {self.start_words}")
        print(f"{self.data.path}: {self.train_set.describe()} for training, {self.valid_set.describe()} for "
              f"validation; {args.epochs} "
              f"epochs of {self.steps_per_epoch} steps on {self.device}, {self.world_size} process(es), "
              f"{torch.get_num_threads()} threads; run {self.folder.path}")
        if args.sr:
            gammas = gammas_of(self.model, self.prunable)
            print(
                "\n".join(
                    sparsity.describe_budget(gammas, args, [self._rate(step) for step in range(self.total_steps)])
                )
            )

    # ---- an epoch

    def train_one_epoch(self, epoch: int) -> dict:
        """One pass over the training images. Returns the mean loss parts, the last learning rate and the speed."""
        self.sampler.epoch = epoch
        self._train_mode()
        sums, batches, started = None, len(self.sampler), time.perf_counter()
        bar = Progress(
            self.loader, batches, f"epoch {epoch}/{self.args.epochs}", self.args.batch_size * self.world_size, self.main
        )
        for batch_i, (images, targets) in enumerate(bar):
            last = (batch_i + 1) % self.args.accumulate == 0 or batch_i + 1 == batches
            # batches of the last, possibly shorter, accumulation share one step
            share = min(self.args.accumulate, batches - batch_i // self.args.accumulate * self.args.accumulate)
            parts = self._backward(images, targets, share, last)
            sums = parts if sums is None else LossParts(*(a + b for a, b in zip(sums, parts)))
            if self.device.type == "cpu" or batch_i % 10 == 9 or batch_i + 1 == batches:
                # reads the loss, which makes a GPU wait: not every step
                self._check_finite(sums, parts, epoch, batch_i)
            if last:
                rate = self._optimiser_step(lambda: self._stop(epoch, batch_i, "a gradient is not finite"))
            self.model.seen += self.sampler.images_per_step
            if batch_i % 10 == 9:
                bar.note = f"loss {sum(float(part) for part in sums) / (batch_i + 1):.3f}"
        seconds = time.perf_counter() - started
        box, objectness, classes = (processes.summed(torch.stack(sums)) / (batches * self.world_size)).tolist()
        return {"lr": rate, "loss": box + objectness + classes, "loss_box": box, "loss_objectness": objectness,
                "loss_class": classes, "seconds": seconds,
                "images_per_s": batches * self.args.batch_size * self.world_size / seconds}

    def _train_mode(self) -> None:
        self.forward.train()
        for module in self.model.module_list[:self.args.freeze]:
            module.eval()

    def _backward(self, images, targets, share: int, last: bool) -> LossParts:
        """Forward and backward pass of one batch, its loss divided by `share`; returns detached parts."""
        images = to_input(images, self.device, self.model.channels)
        sync = contextlib.nullcontext() if last or self.world_size == 1 else self.forward.no_sync()
        with sync:
            with torch.autocast(
                self.device.type, torch.bfloat16 if self.args.bf16 else torch.float16, enabled=self.amp
            ):
                raws = self.forward(images)
            size = images.shape[3], images.shape[2]
            parts = yolo_loss(raws, self.model.heads(), targets, size, self.loss_options)
            if self.teacher is not None:
                with torch.no_grad():
                    taught = self.teacher.raw_maps(images)
                soft = distillation_loss(raws, taught, self.model.heads(), size, self.loss_options)
                # a mean, not a sum: gradients twice as large would be another learning rate
                gain = self.args.distill_gain
                parts = soft if self.by_teacher else LossParts(
                    *((hard + gain * term) / (1 + gain) for hard, term in zip(parts, soft)))
            # processes are averaged: one with fewer images counts less
            own_share = len(images) * self.world_size / self.sampler.images_per_step
            parts = LossParts(*(part * own_share for part in parts))
            self.scaler.scale(parts.total() / share).backward()
        return LossParts(*(part.detach() for part in parts))

    def _check_finite(self, sums: LossParts, parts: LossParts, epoch: int, batch_i: int) -> None:
        if not math.isfinite(float(sums.total())):
            found = ", ".join(f"{name} {float(value):g}" for name, value in parts._asdict().items())
            self._stop(epoch, batch_i, f"the loss is not finite ({found})")

    def _stop(self, epoch: int, batch_i: int, found: str) -> NoReturn:
        """Raise TrainingError with the cause as far as it can be told. The loss is finite for any finite output."""
        args, start = self.args, self.args.weights or "its start"
        broken = [name for name, value in self.model.named_parameters() if not value.isfinite().all()]
        state = "the net's output left the range of floats"
        if broken:
            state = f"{broken[0]} and {len(broken) - 1} more weights are not finite"
        if broken and self.step == 0:
            cause = f"{state} before the first step: begin from another file than {start}, or from scratch (-pre none)"
        elif not broken and self.scaler.is_enabled():
            cause = f"{state} in half precision: --no-amp, or --bf16, has a larger range"
        else:
            cause = (f"{state}: training diverged, which smaller steps prevent (--lr below {args.lr:g}, "
                     f"--clip below {args.clip or 500:g})")
        if self.epoch and self.main:
            cause += f"; begin a new run from the last sound epoch, {self.epoch}: -pre {self.folder.path / 'last.pth'}"
        raise TrainingError(f"epoch {epoch}, batch {batch_i + 1}: {found}; {cause}")

    def _rate(self, step: int) -> float:
        """Learning rate of an optimiser step of this run."""
        args = self.args
        # steps that the rewound run is taken to have behind it
        before = max(args.rewind - args.epochs, 0) * self.steps_per_epoch
        return learning_rate(
            before + step, before + self.total_steps, args.lr, int(args.warmup * self.steps_per_epoch), args.schedule
        )

    def _optimiser_step(self, stop: Callable[[], NoReturn] = lambda: None) -> float:
        """Clip, step, sparsify, average. Returns the learning rate used. stop: what to do, before any weight is
        changed, where a gradient is not finite; half precision leaves such a step out, and a GPU is not asked, since
        reading a number makes it wait."""
        args, rate = self.args, self._rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), args.clip or math.inf)
        if self.device.type == "cpu" and not self.scaler.is_enabled() and not norm.isfinite():
            stop()
        self.penalty.add_gradient(self.penalised, self.step / self.total_steps)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        # it falls when a gradient was infinite and the step left out: no penalty without a step
        if self.scaler.get_scale() >= scale:
            self.penalty.shrink(self.penalised, self.step / self.total_steps, rate, args.momentum)
        self.step += 1
        if self.ema:
            self.ema.update(self.model)
        return rate

    @property
    def averaged(self) -> nn.Module:
        """The weights to evaluate, save and prune: the average where there is one."""
        return self.ema.model if self.ema else self.model

    def evaluate(self, epoch: int) -> EvalResult | None:
        """Score the averaged weights on the validation images when this epoch's turn has come; the main process has the
        result."""
        if epoch % self.args.evaluation_interval and epoch != self.args.epochs:
            return None
        return evaluate(self.averaged, self.valid_loader, self.data.names, self.score_options)

    # ---- after an epoch

    def record(self, epoch: int, losses: dict, result: EvalResult | None) -> None:
        """One line on the screen, one row in metrics.csv, curves redrawn."""
        if not self.main:
            return
        scores = {key: getattr(result, key) if result else "" for key in ("map50", "map", "precision", "recall", "f1")}
        gammas = gammas_of(self.averaged, self.prunable)
        quantiles = dict(zip([f"gamma_q{int(100 * q)}" for q in QUANTILES], gamma_quantiles(gammas)))
        row = {"epoch": epoch, **losses, **scores, **quantiles, "gamma_zero": zero_share(gammas)}
        self.folder.add_row(row)
        shown = (
            f"mAP {result.map50:.4f}  AP {result.map:.4f}  P {result.precision:.3f}  R {result.recall:.3f}"
            if result
            else "mAP -"
        )
        print(f"epoch {epoch}/{self.args.epochs}  loss {losses['loss']:.3f} (box {losses['loss_box']:.3f} obj "
              f"{losses['loss_objectness']:.3f} cls {losses['loss_class']:.3f})  {shown}  lr {losses['lr']:.2g}  "
              f"{losses['seconds']:.0f} s  {losses['images_per_s']:.1f} images/s", flush=True)
        if self.args.sr:
            print("  |gamma| " + "  ".join(f"{key[7:]}% {value:.3g}" for key, value in quantiles.items()))
            by_layer = dict(zip(self.graph.normalised, gammas_of(self.averaged, self.graph.normalised)))
            print(f"  {describe_sparsity(self.graph, by_layer, self.args.percent)[1]}", flush=True)
        if result:
            plot_training(self.folder.rows(), self.folder.path / "curves.png")
        if self.args.tensorboard:
            self.folder.write_tensorboard(row, torch.cat([gamma.detach().cpu() for gamma in gammas]))

    def state(self) -> dict:
        """Everything that --resume needs."""
        return {
            "live": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema_updates": self.ema.updates if self.ema else 0,
            "step": self.step,
            "best": self.best,
            "rng": torch.get_rng_state(),
            "args": dict(vars(self.args)),
        }

    def save(self, epoch: int, result: EvalResult | None) -> None:
        """last.pth, and best.pth when this epoch's mAP is the best (under -sr: the last is, being the sparsest)."""
        self.epoch = epoch
        if self.main:
            # of equals the later, longer trained
            better = result is not None and (self.args.sr or result.map50 >= self.best)
            self.best = result.map50 if better else self.best
            # the average carries no count of images; the header of a .weights file should
            self.averaged.seen = self.model.seen
            content = weights_content(
                self.averaged,
                str(self.cfg),
                self.folder.name,
                epoch=epoch,
                rescale=self.rescale,
                map50=result.map50 if result else None,
                names=given_names(self.data),
                size=self.size,
                data=str(self.data.path),
            )
            if better:  # before last.pth, which says that this epoch is done
                save_checkpoint(self.folder.path / "best.pth", content)
            save_checkpoint(self.folder.path / "last.pth", content | self.state())
            if self.args.checkpoint_interval and epoch % self.args.checkpoint_interval == 0:
                save_checkpoint(self.folder.path / f"epoch_{epoch}.pth", content)
        processes.barrier()

    def finish(self) -> None:
        """Publish the run's weights under the fixed names and say where they are."""
        if self.main:
            if self.args.no_publish:
                print(f"{self.folder.path}: best.pth (mAP {self.best:.4f}), last.pth")
            else:
                publish(self.folder.path, self.cfg, self.args.weights, self.best, self.build)
        processes.stop()

"""The training run behind train.py, from its options to its last epoch."""

import contextlib
import math
import time
from typing import Callable, NoReturn

import torch
from torch import Tensor, nn

from utils import processes, signals
from utils.checkpoint import read_checkpoint
from utils.data.net_classes import given_names
from utils.data.prepare import model_and_data
from utils.evaluation.evaluate import evaluate
from utils.evaluation.metrics import EvalResult
from utils.evaluation.nms import NotFinite
from utils.letterbox import to_input
from utils.loading import checked_size, select_device
from utils.loss import LossParts
from utils.memory import keep_freed
from utils.progress import Progress
from utils.training import distributed, divergence, summary
from utils.training.args import TrainOptions
from utils.training.batches import Batches
from utils.training.half import bf16_words, half_precision
from utils.training.objective import Objective
from utils.training.optimisation import optimiser_step
from utils.training.resume import require_same_batches
from utils.training.room import require_room
from utils.training.run_folder import RunFolder, publish
from utils.training.run_state import RunState
from utils.training.schedule import Schedule
from utils.training.sparsity import Prospect, Sparsifier
from utils.training.start import Start, freeze, load_start


class Trainer:
    """One run. `state` holds all that training changes; what a batch is depends on (seed, epoch) alone."""

    def __init__(self, options: TrainOptions, net: type[nn.Module], prospect: type[Prospect]):
        """net: models.Darknet; prospect: utils.pruning.prospect.Prospect."""
        self.options, source, resumed = options, options.source, options.output.resume
        self.rank, self.world_size, self.device = processes.start(select_device(source.device, source.threads))
        if self.device.type == "cpu":
            keep_freed()
        torch.backends.cudnn.benchmark = True  # a net sees few input sizes, and each of them often
        self.main = self.rank == 0
        torch.manual_seed(options.seed)
        named = source.cfg, source.data, source.class_path, not self.main, source.keep_classes
        self.cfg, defs, self.data = model_and_data(*named, start=resumed or source.weights)
        checkpoint = read_checkpoint(resumed) if resumed else None
        if checkpoint:  # the cfg's name may belong to another pruning by now
            defs = checkpoint["module_defs"]
        self.size = checked_size(source.img_size, defs)
        self.model = net(defs).to(self.device, memory_format=torch.channels_last)
        self.start = Start.resumed(resumed) if resumed else load_start(self.model, source, options.sparsity)
        self.batches = Batches(options, self.data, defs, self.size)
        require_room(options, defs, self.batches.sampler, self.device)
        self.frozen = freeze(self.model, options.steps.freeze, self.cfg)
        if options.steps.sync_bn:
            distributed.synchronise_batch_norms(self.model)
        self.schedule = Schedule(options.steps, math.ceil(len(self.batches) / options.steps.accumulate))
        self.sparsifier = Sparsifier(self.model, prospect, options.sparsity, self.size, self.schedule, checkpoint)
        self.objective = Objective(self.model, options, self.data, self.batches)
        self.state = RunState.of(self.model, options.steps, self.start.rescale, self.sparsifier.strength)
        if checkpoint:
            require_same_batches(checkpoint, self.data, self.batches.train_set)
            self.state.restore(checkpoint)
        self.folder = RunFolder.of_run(options, self.cfg, self.state.epoch) if self.main else None
        self.forward = distributed.wrap(self.model, self.device)
        self.opening = math.nan  # loss of the first batches, known from then on

    def announce(self) -> None:
        """Print what is about to be trained, on what, and with -sr how long the sparsity needs."""
        if self.main:
            print(f"{self.cfg}: {summary.describe_net(self.model, self.size)}; {self.start.words}")
            print(f"{self.data.path}: {self.batches.describe()}; {self.schedule.describe()} on "
                  f"{summary.describe_machine(self.device, self.world_size)}; run {self.folder.path}",
                  *self.sparsifier.describe_budget(), *bf16_words(self.options.steps, self.device), sep="\n")

    def train_one_epoch(self, epoch: int) -> dict:
        """What is left of an epoch; returns its mean losses, rate and speed. Told to end, it saves after a step."""
        state, batches, output = self.state, len(self.batches), self.options.output
        state.begin_epoch(epoch)
        first, seconds, started, saved = state.batch, state.seconds, time.perf_counter(), time.perf_counter()
        self.forward.train()
        self.frozen.eval()
        bar = Progress(self.batches.of_epoch(epoch, first), batches - first,
                       f"epoch {epoch}/{self.options.steps.epochs}", self.batches.images_per_batch, self.main)
        with signals.held(output.save_on_signal) as ending:
            for batch_i, batch in enumerate(bar, start=first):
                whole_step = self._train_batch(epoch, batch_i, *batch)
                if batch_i % 10 == 9:
                    bar.note = f"loss {float(state.sums.sum()) / (batch_i + 1):.3f}"
                if whole_step:
                    state.batch, state.seconds = batch_i + 1, seconds + time.perf_counter() - started
                    if ending.number or 0 < 60 * output.save_minutes < time.perf_counter() - saved:
                        self._save_under_way(epoch)
                        saved = time.perf_counter()
                    if ending.number:
                        break
        return summary.epoch_row((state.sums / batches).tolist(), self.schedule.rate(state.step - 1), state.seconds,
                                 batches * self.batches.images_per_batch)

    def _train_batch(self, epoch: int, batch_i: int, images: Tensor, targets: Tensor) -> bool:
        """Learn from a batch; returns whether that ended with a step of the optimiser."""
        batches, accumulate = len(self.batches), self.options.steps.accumulate
        torch.manual_seed(self.batches.seed_of(epoch, batch_i))
        last = (batch_i + 1) % accumulate == 0 or batch_i + 1 == batches
        share = min(accumulate, batches - batch_i // accumulate * accumulate)  # the last step may be of fewer batches
        parts = self._backward(images, targets, share, last)
        self.state.sums += processes.summed(torch.stack(parts)) / self.world_size
        if epoch == 1 and batch_i + 1 == divergence.OPENING:
            self.opening = float(self.state.sums.sum()) / divergence.OPENING
        self.model.seen += self.batches.sampler.images_per_step
        # reads the loss, which makes a GPU wait: not every step
        if self.device.type == "cpu" or batch_i % 10 == 9 or batch_i + 1 == batches:
            self._check_finite(self.state.sums.sum(), epoch, batch_i, f"the loss is not finite ({parts.describe()})")
        if last:
            check = lambda norm: self._check_finite(norm, epoch, batch_i, "a gradient is not finite")
            optimiser_step(self.state, self.schedule, self.sparsifier, check, lambda: self.state.mean_loss(batch_i + 1))
        return last

    def _backward(self, images: Tensor, targets: Tensor, share: int, last: bool) -> LossParts:
        """Forward and backward pass of one batch, its loss divided by `share`; returns detached parts."""
        images = to_input(images, self.device, self.model.channels)
        sync = contextlib.nullcontext() if last or self.world_size == 1 else self.forward.no_sync()
        with sync:
            with half_precision(self.options.steps, self.device):
                raws = self.forward(images)
            parts = self.objective(raws, images, targets)
            # processes are averaged: one with fewer images counts less
            own = len(images) * self.world_size / self.batches.sampler.images_per_step
            parts = LossParts(*(part * own for part in parts))
            self.state.scaler.scale(parts.total() / share).backward()
        return LossParts(*(part.detach() for part in parts))

    def _check_finite(self, value: Tensor, epoch: int, batch_i: int, complaint: str) -> None:
        if not math.isfinite(float(value)):
            self._stop(f"epoch {epoch}, batch {batch_i + 1}: {complaint}")

    def _stop(self, found: str) -> NoReturn:
        divergence.stop(found, self.state, self.options, self.folder and self.folder.path)

    def evaluate(self, epoch: int) -> EvalResult | None:
        """Score the averaged weights when this epoch's turn has come; the main process has the result."""
        if epoch % self.options.output.evaluation_interval and epoch != self.options.steps.epochs:
            return None
        processes.share_buffers(self.state.averaged)  # statistics that each process took of its own images
        try:
            return evaluate(self.state.averaged, self.batches.valid_loader, self.data.names, self.options.scoring)
        except NotFinite as error:
            self._stop(f"epoch {epoch}: {error}")
        except BaseException as error:  # a picture that cannot be read shall not cost the epoch
            if self.options.output.save_on_signal or not isinstance(error, KeyboardInterrupt):
                self._save_under_way(epoch)
            raise

    def record(self, epoch: int, losses: dict, result: EvalResult | None) -> None:
        """One line on the screen, one row in metrics.csv, curves redrawn."""
        if self.main:
            gammas = self.sparsifier.gammas_of(self.state.averaged)
            row = {"epoch": epoch, **losses, **summary.score_row(result), **summary.gamma_row(gammas)}
            self.folder.add_row(row, curves=result is not None)
            print(f"epoch {epoch}/{self.options.steps.epochs}  {summary.describe_epoch(row)}",
                  *self.sparsifier.describe(self.state.averaged, row),
                  *divergence.forgetting(self.opening, losses["loss"], epoch, self.options), sep="\n", flush=True)
            if self.options.output.tensorboard:
                self.folder.write_tensorboard(row, torch.cat([gamma.detach().cpu() for gamma in gammas]))

    def save(self, epoch: int, result: EvalResult | None) -> None:
        """last.pth, and best.pth when this epoch's mAP is the best (under -sr: the last is, being the sparsest)."""
        state, output = self.state, self.options.output
        every = output.checkpoint_interval
        self._require_finite(epoch)
        state.epoch = epoch
        # of equals the later, longer trained
        better = result is not None and (self.options.sparsity.sr or result.map50 >= state.best)
        state.best = result.map50 if better else state.best
        numbered = bool(every) and epoch % every == 0
        if better or numbered or epoch % output.save_interval == 0 or epoch == self.options.steps.epochs:
            self._write_state(result.map50 if result else None, better, numbered)
        processes.barrier()

    def _save_under_way(self, epoch: int) -> None:
        self._require_finite(epoch)
        self._write_state()

    def _require_finite(self, epoch: int) -> None:
        """Raise TrainingError before weights that are not finite replace the last sound ones: a GPU is not asked for
        the loss of every batch."""
        if divergence.broken_weights(self.state):
            self._stop(f"epoch {epoch}: the weights cannot be saved")

    def _write_state(self, map50: float | None = None, better: bool = False, numbered: bool = False) -> None:
        if self.main:
            with signals.held():
                content = self.state.weights(str(self.cfg), self.folder.name, map50=map50, size=self.size,
                                             names=given_names(self.data), data=str(self.data.path),
                                             images=len(self.batches.train_set))
                self.folder.save(content, {**self.state.to_checkpoint(), "args": self.options.given}, better, numbered)

    def finish(self, export: Callable[..., str]) -> None:
        """Publish the run's weights under the fixed names and say where they are. export:
        utils.deploy.darknet_export.export_darknet."""
        self.batches.close()
        if self.main:
            here = f"{self.folder.path}: best.pth (mAP {self.state.best:.4f}), last.pth"
            print(here if self.options.output.no_publish else
                  publish(self.folder.path, self.cfg, self.options.source.weights, type(self.model), export))
            self.folder.lock.release()
        processes.stop()

"""Everything that training changes, and so what --resume restores."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from utils import processes
from utils.checkpoint import weights_content
from utils.training.args import StepOptions
from utils.training.ema import ModelEma
from utils.training.half import is_half
from utils.training.sparsity import parameter_groups
from utils.training.strength import Strength

FEW = 20  # batches: the mean loss of fewer says little


@dataclass
class RunState:
    """The net, what its optimiser remembers, and how far the run has come."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of the loss, in half precision; passes everything through where it is not enabled
    ema: ModelEma | None
    rescale: float  # the factor that the gammas carry, see utils.batch_norm
    strength: Strength | None = None  # of -sr, where it is found on the way
    epoch: int = 0  # that were trained, scored and saved as a whole
    step: int = 0  # of the optimiser
    best: float = -1.0  # mAP
    under_way: int = 0  # the epoch that the next three are of
    batch: int = 0  # how many of its batches are behind
    sums: Tensor = field(default_factory=lambda: torch.zeros(3))  # of their loss parts, means over all processes
    seconds: float = 0.0  # that these batches took

    @classmethod
    def of(cls, model: nn.Module, options: StepOptions, rescale: float,
           strength: Strength | None = None) -> "RunState":
        """The state that a run begins with."""
        device = next(model.parameters()).device
        optimizer = torch.optim.SGD(parameter_groups(model, options.weight_decay), lr=options.lr,
                                    momentum=options.momentum, nesterov=options.momentum > 0, fused=True)
        if options.momentum:
            _begin_momentum(optimizer)
        # bfloat16 has the range of float32
        scaler = torch.amp.GradScaler(device.type, enabled=is_half(options, device) and not options.bf16)
        ema = ModelEma(model, options.ema) if options.ema else None
        return cls(model, optimizer, scaler, ema, rescale, strength, sums=torch.zeros(3, device=device))

    @property
    def averaged(self) -> nn.Module:
        """The weights to evaluate, save and prune: the average where there is one."""
        return self.ema.model if self.ema else self.model

    def mean_loss(self, batches: int) -> float:
        """Of the epoch's first so many batches, which are all that were seen of it; NaN while they are few."""
        return self.sums.sum().item() / batches if batches >= FEW else math.nan

    def weights(self, cfg: str, run: str, **about) -> dict:
        """Content of a checkpoint of the averaged weights. about: what else it says of them."""
        # the average carries no count of images; the header of a .weights file should
        self.averaged.seen = self.model.seen
        return weights_content(self.averaged, cfg, run, epoch=self.epoch, rescale=self.rescale, **about)

    def to_checkpoint(self) -> dict:
        """What `restore` needs, besides the averaged weights that every checkpoint holds."""
        return {
            "live": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema_updates": self.ema.updates if self.ema else 0,
            "strength": self.strength and self.strength.state(),
            "step": self.step,
            "best": self.best,
            "under_way": self.under_way,
            "batch": self.batch,
            "sums": self.sums.cpu(),
            "processes": processes.world_size(),
            "seconds": self.seconds,
        }

    def begin_epoch(self, epoch: int) -> None:
        """Set out on an epoch, unless it is under way."""
        if self.under_way != epoch:
            self.under_way, self.batch, self.seconds, self.sums = epoch, 0, 0.0, torch.zeros_like(self.sums)

    def restore(self, checkpoint: dict) -> None:
        """Put back every state from the content of a last.pth."""
        self.model.load_state_dict(checkpoint["live"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if checkpoint["scaler"]:  # empty when the run was not in half precision so far
            self.scaler.load_state_dict(checkpoint["scaler"])
        if self.ema:
            self.ema.model.load_state_dict(checkpoint["model"])
            self.ema.updates = checkpoint["ema_updates"]
        self.epoch, self.step, self.best = checkpoint["epoch"], checkpoint["step"], checkpoint["best"]
        self.rescale, self.model.seen = checkpoint["rescale"], checkpoint["seen"]
        if self.strength:
            self.strength.restore(checkpoint["strength"])
        if "batch" in checkpoint:  # of versions that saved between epochs alone there is none
            self.under_way, self.batch, self.seconds = (checkpoint[key] for key in ("under_way", "batch", "seconds"))
            self.sums = checkpoint["sums"].to(self.sums.device)


def _begin_momentum(optimizer: torch.optim.SGD) -> None:
    """Momentum of 0. A fused SGD leaves what it would begin with as it lies in memory where its first step is left out,
    as float16 often asks for."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

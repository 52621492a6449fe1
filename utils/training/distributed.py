"""Training by several processes that amounts to training by one at their common batch size.

Gradients are averaged (DistributedDataParallel), and batch norms take mean and variance over the images of all
processes (Peng et al. 2018, MegDet, section 3.3), so that weights differ from those of one process by rounding alone.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm

from utils import processes


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """The model whose backward pass averages gradients over processes."""
    if processes.world_size() == 1:
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def synchronise_batch_norms(model: nn.Module) -> None:
    """Make every BatchNorm2d of `model` a SyncBatchNorm2d, in place: parameters, buffers and names stay."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, SyncBatchNorm2d.of(child))


class SyncBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm2d whose batch, while it trains, is that of all processes together. On a GPU it computes as torch's
    SyncBatchNorm, which is no BatchNorm2d and refuses the CPU."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> "SyncBatchNorm2d":
        """One with the very parameters and buffers of `norm`."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made.train(norm.training)
        for name, parameter in norm.named_parameters():
            setattr(made, name, parameter)
        for name, buffer in norm.named_buffers():
            setattr(made, name, buffer)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, normalised per channel."""
        if not self.training or processes.world_size() == 1:
            return super().forward(x)
        self.num_batches_tracked.add_(1)
        if x.device.type == "cpu":
            return _normalise(x, self)
        return SyncBatchNorm.apply(x, self.weight, self.bias, self.running_mean, self.running_var, self.eps,
                                   self.momentum, dist.group.WORLD, processes.world_size())


def _normalise(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    mean, var, count = _common_moments(x.detach())
    unbiased = var * (count / max(count - 1, 1))
    norm.running_mean.lerp_(mean.to(norm.running_mean), norm.momentum)
    norm.running_var.lerp_(unbiased.to(norm.running_var), norm.momentum)
    return _Normalise.apply(x, norm.weight, norm.bias, (mean, var, count), norm.eps)


def _common_moments(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """(C,) mean and biased variance over all processes' (B, C, H, W), and how many values a channel has."""
    # bfloat16 has too few digits for a mean; double precision makes the difference of squares safe
    var, mean = torch.var_mean(x if x.dtype == torch.float64 else x.float(), dim=(0, 2, 3), unbiased=False)
    var, mean, own = var.double(), mean.double(), x.numel() / x.shape[1]
    sums = processes.summed(torch.cat([mean * own, (var + mean * mean) * own, mean.new_tensor([own])]))
    count = sums[-1].item()
    mean, square = (sums[:-1] / count).chunk(2)
    return mean, (square - mean * mean).clamp(min=0), count


class _Normalise(torch.autograd.Function):
    """Batch normalisation by statistics that depend on the inputs of all processes."""

    @staticmethod
    def forward(ctx, x, weight, bias, moments, eps):
        """x: (B, C, H, W), the images of this process; moments: (C,) mean and (C,) variance of the values of all
        processes, and how many these are."""
        mean, var, count = moments
        mean, var = mean.to(weight), var.to(weight)
        ctx.save_for_backward(x, weight, mean, var)
        ctx.count, ctx.eps = count, eps
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx, grad):
        """Gradients of x, weight and bias; the latter two are this process's share of a sum, as in any layer."""
        x, weight, mean, var = ctx.saved_tensors
        # as if mean and variance were constants; then what flows through them, from the outputs of all processes
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True])
        all_weight, all_bias = processes.summed(torch.stack([grad_weight, grad_bias]).double())
        invstd = (var.double() + ctx.eps).rsqrt()
        slope = weight.double() * invstd * invstd * all_weight / ctx.count
        offset = weight.double() * invstd * all_bias / ctx.count - slope * mean.double()
        per_channel = (1, -1, 1, 1)
        grad_x = grad_x - (x * slope.to(weight).view(per_channel) + offset.to(weight).view(per_channel))
        return grad_x.to(x.dtype), grad_weight, grad_bias, None, None

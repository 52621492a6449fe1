"""torchrun: one process a GPU (or several on a CPU). Without it every function is a no-op for one process."""

import os

import torch
import torch.distributed as dist
from torch import nn


def start(device: torch.device) -> tuple[int, int, torch.device]:
    """Join the process group that torchrun announces. Returns (rank, world size, this process's device)."""
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        return 0, 1, device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return dist.get_rank(), world_size, device


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """The model whose backward pass averages gradients over processes."""
    if not dist.is_initialized():
        return model
    return nn.parallel.DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def barrier() -> None:
    """Wait for the other processes."""
    if dist.is_initialized():
        dist.barrier()


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()

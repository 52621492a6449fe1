"""The group of processes that torchrun starts: one per GPU, or several on a CPU. Without torchrun every function is a
no-op for one process."""

import datetime

import torch
import torch.distributed as dist

from utils import torchrun
from utils.output import counted

# how long one process waits for the others: process 0 scores and writes alone meanwhile
PATIENCE = datetime.timedelta(hours=1)


def start(device: torch.device) -> tuple[int, int, torch.device]:
    """Join the process group that torchrun announces. Returns (rank, world size, this process's device). Raises
    ValueError where a machine has more processes than GPUs."""
    if torchrun.world_size() == 1:
        return 0, 1, device
    if device.type == "cuda":
        device = torch.device("cuda", _own_gpu(torch.cuda.device_count()))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        _join(device)
    return dist.get_rank(), dist.get_world_size(), device


def _join(device: torch.device) -> None:
    options = {"backend": "gloo"} if device.type == "cpu" else {"backend": "nccl", "device_id": device}
    if store := torchrun.launcher_store():
        # torchrun keeps one store over restarts: processes started anew would look for each other where the first were
        options |= {"store": dist.PrefixStore(torchrun.attempt(), store), "rank": torchrun.rank(),
                    "world_size": torchrun.world_size()}
    dist.init_process_group(timeout=PATIENCE, **options)


def _own_gpu(gpus: int) -> int:
    if torchrun.local_world_size() > gpus:
        raise ValueError(f"torchrun started {torchrun.local_world_size()} processes on a machine of "
                         f"{counted(gpus, 'GPU')}, expected one per GPU: --nproc_per_node={gpus}, or --device cpu")
    return torchrun.local_rank()


def rank() -> int:
    """Number of this process in the group; 0 where there is none."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes are in the group; 1 where there is none."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share_of(length: int, batch_size: int) -> list[int]:
    """The indices out of range(length) that this process takes: whole batches in turn, so that every batch is the one
    that a single process would make."""
    batches = range(rank() * batch_size, length, world_size() * batch_size)
    return [i for first in batches for i in range(first, min(first + batch_size, length))]


def gather_shares(own: list, batch_size: int) -> list | None:
    """The results for the indices of `share_of` of every process, put back in order, in process 0; None in others."""
    if world_size() == 1:
        return own
    shares = [None] * world_size() if rank() == 0 else None
    dist.gather_object(own, shares)
    if shares is None:
        return None
    starts = range(0, max(map(len, shares)), batch_size)
    return [result for first in starts for share in shares for result in share[first:first + batch_size]]


def from_first(value):
    """`value` of process 0 (any object that pickles) in every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def summed(values: torch.Tensor) -> torch.Tensor:
    """The sum of `values` over all processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def share_buffers(module: torch.nn.Module) -> None:
    """Give every process the buffers of process 0, such as batch-norm statistics, in place."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)


def barrier() -> None:
    """Wait for the other processes."""
    if dist.is_initialized():
        dist.barrier()


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()

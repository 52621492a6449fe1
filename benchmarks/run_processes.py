"""A contestant that trains by several processes which share one batch. It runs in a worker process, in a folder of its
own, and starts the processes itself, so that each epoch can be timed."""

import functools
import itertools
import os
from pathlib import Path

import torch.distributed as dist
import torch.multiprocessing as multiprocessing


def shared_training(cfg: str, data: str, count: int, threads: int, flags: tuple[str, ...] = (), **batches):
    """Training as train.py runs it by `count` processes of `threads` threads. batches: size, batch (images per step of
    all together) and steps; with loader=True each process reads and augments its own, without, the same batches again
    and again."""
    size, batch, steps, loader = (batches[key] for key in ("size", "batch", "steps", "loader"))
    from benchmarks.run_processes import train_when_told  # by a name that the processes can import too

    words = ["--cfg", cfg, "--data", data, "--img_size", str(size), "--batch_size", str(batch // count), "--n_cpu", "0",
             "--device", "cpu", "--threads", str(threads), "--name", "step", "--no-publish", *flags]
    context = multiprocessing.get_context("spawn")
    pipes, work = [], functools.partial(train_when_told, words, None if loader else steps, count)
    for rank in range(count):
        ours, theirs = context.Pipe()
        context.Process(target=work, args=(rank, theirs), daemon=True).start()
        theirs.close()  # so that the end of a process is an end of input
        pipes.append(ours)
    epochs = itertools.count(1)

    def run() -> None:
        """One epoch of so many steps, by all processes."""
        epoch = next(epochs)
        for pipe in pipes:
            pipe.send(epoch)
        for pipe in pipes:
            pipe.recv()

    for pipe in pipes:
        pipe.recv()
    return run, {"processes": count, "threads each": threads}


def train_when_told(words: list[str], fixed_steps: int | None, count: int, rank: int, pipe) -> None:
    """Process `rank` of `count`: an epoch whenever the pipe brings its number. fixed_steps: how many batches are made
    once, in place of a loader."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count)}
    if count > 1:
        dist.init_process_group("gloo", init_method=f"file://{Path.cwd() / 'group'}", rank=rank, world_size=count)
    from benchmarks.run_training import fixed_batches
    from models import Darknet
    from utils.pruning.prospect import Prospect
    from utils.training.args import parse_train_args, train_options
    from utils.training.trainer import Trainer

    args = parse_train_args(__doc__, words)
    trainer = Trainer(train_options(vars(args)), Darknet, Prospect)
    if fixed_steps:
        trainer.batches.loader = fixed_batches(trainer.data.train, args.img_size, args.batch_size, fixed_steps)
    pipe.send("ready")
    while True:
        try:
            epoch = pipe.recv()
        except EOFError:
            os._exit(0)  # the contest is over; the others end as well
        trainer.train_one_epoch(epoch)
        pipe.send(epoch)

"""Contestants of data loading and of a training step. They run in worker processes, in a folder of their own."""

import itertools
import random
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import Darknet
from utils.boxes import wh_iou
from utils.data.augmentations import Augmentation
from utils.data.datasets import Draw, ListDataset, TrainSampler, collate, training_loader
from utils.data.image_files import read_image_list
from utils.data.yolo_labels import label_path
from utils.memory import keep_freed
from utils.pruning.prospect import Prospect
from utils.training.args import parse_train_args, train_options
from utils.training.trainer import Trainer

# B images, A anchors of a head, G cells a side, K classes, T targets


# ---- loading

def our_loader(train_list: str, size: int, batch: int, cache_gb: float):
    """Ours: decode, one warp, colour, flip, collate; in this process."""
    pictures = ListDataset(train_list, (size, size), 1, Augmentation(), cache_gb=cache_gb)
    sampler = TrainSampler(len(pictures), batch, (size, size))
    loader = training_loader(pictures, sampler, 0)

    def run() -> None:
        """One epoch."""
        sampler.epoch += 1
        for _ in loader:
            pass

    return run


def plain_loader(train_list: str, size: int, batch: int):
    """The classic way, a stand-in of the reference implementation: decode at full size, float, pad to a square, flip,
    then resize."""
    paths = read_image_list(train_list)
    rng = random.Random(0)

    def run() -> None:
        """One epoch."""
        rng.shuffle(paths)
        for first in range(0, len(paths) - batch + 1, batch):
            samples = [_plain_sample(path, rng) for path in paths[first:first + batch]]
            torch.stack([F.interpolate(image[None], size=size, mode="nearest")[0] for image, _ in samples])
            torch.cat([F.pad(boxes, (1, 0), value=i) for i, (_, boxes) in enumerate(samples)])

    return run


def _plain_sample(path: Path, rng: random.Random) -> tuple[Tensor, Tensor]:
    image = torch.from_numpy(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)).permute(2, 0, 1).float() / 255
    height, width = image.shape[1:]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    image = F.pad(image, (left, side - width - left, top, side - height - top), value=0)
    boxes = torch.from_numpy(np.loadtxt(label_path(path), ndmin=2, dtype=np.float32)).reshape(-1, 5)
    boxes[:, 1:] = boxes[:, 1:] * torch.tensor([width, height] * 2) + torch.tensor([left, top, 0, 0])
    boxes[:, 1:] /= side
    if rng.random() < 0.5:
        image, boxes[:, 1] = image.flip(-1), 1 - boxes[:, 1]
    return image, boxes


# ---- a training step

def nothing_in_place(model: nn.Module) -> nn.Module:
    """The same network with activations that write new tensors, as they are by default."""
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model


def fixed_batches(train_list: str, size: int, batch: int, steps: int) -> list[tuple[Tensor, Tensor]]:
    """So many batches of images (B, 3, H, W) uint8 and targets (T, 6), made once."""
    pictures = ListDataset(train_list, (size, size), 1, Augmentation())
    draws = itertools.cycle(Draw(0, i, size, size) for i in range(len(pictures)))
    return [collate([pictures[draw] for draw in itertools.islice(draws, batch)]) for _ in range(steps)]


def our_training(cfg: str, data: str, loader: bool, change: str = "", **batches):
    """Ours as train.py runs it: loss, clipping, optimiser, average of weights, and with `loader` reading and augmenting
    by its default number of processes; without, the same batches again and again. batches: size, batch and steps, see
    fixed_batches; change: something that was tried instead, see CHANGES, or --bf16."""
    words = ["--model_def", cfg, "--data", data, "--device", "cpu", "--img_size", str(batches["size"]), "--batch_size",
             str(batches["batch"]), "--name", "step", "--no-publish", *["--bf16"] * (change == "bfloat16")]
    trainer = Trainer(train_options(vars(parse_train_args(__doc__, words))), Darknet, Prospect)
    if not loader:
        trainer.batches.loader = fixed_batches(trainer.data.train, **batches)
    if change in CHANGES:
        CHANGES[change](trainer)
    epochs, facts = itertools.count(1), {"loader processes": trainer.batches.loader.num_workers if loader else 0}

    def run() -> None:
        """One epoch of so many steps."""
        trainer.train_one_epoch(next(epochs))

    return run, facts


def _contiguous(trainer: Trainer) -> None:
    trainer.model.to(memory_format=torch.contiguous_format)


def _unfused(trainer: Trainer) -> None:
    for group in trainer.state.optimizer.param_groups:
        group.update(fused=False, foreach=True)


def _compiled(trainer: Trainer) -> None:
    trainer.forward = torch.compile(trainer.model)


def _freed_memory_returned(trainer: Trainer) -> None:
    keep_freed(False)


CHANGES = {"contiguous": _contiguous, "foreach": _unfused, "compiled": _compiled, "returned": _freed_memory_returned}


def plain_training(cfg: str, train_list: str, size: int, batch: int, steps: int):
    """A stand-in of the reference implementation: contiguous float32, no activation in place, a dense target tensor a
    head filled by a loop, MSE and BCE, SGD; no loader, no average of weights."""
    torch.manual_seed(0)
    model = nothing_in_place(Darknet(cfg).train())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    batches = [(images.float() / 255, targets) for images, targets in fixed_batches(train_list, size, batch, steps)]

    def run() -> None:
        """So many steps."""
        for images, targets in batches:
            raws = model(images)
            loss = sum(_plain_loss(raw, head.anchors, targets, size) for raw, head in zip(raws, model.heads()))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return run


def _plain_loss(raw: Tensor, anchors: Tensor, targets: Tensor, size: int) -> Tensor:
    B, channels, G, _ = raw.shape
    A, stride = len(anchors), size / G
    t = raw.view(B, A, channels // A, G, G).permute(0, 1, 3, 4, 2).contiguous()
    wanted, there, empty = _plain_targets(t.detach(), targets, anchors / stride)
    x, y, w, h = t[..., 0].sigmoid(), t[..., 1].sigmoid(), t[..., 2], t[..., 3]
    mse, bce = nn.MSELoss(), nn.BCELoss()
    objectness, classes = t[..., 4].sigmoid(), t[..., 5:].sigmoid()
    loss = 100 * bce(objectness[empty], wanted[..., 4][empty])
    if there.any():
        loss = loss + sum(mse(found[there], wanted[..., k][there]) for k, found in enumerate((x, y, w, h)))
        loss = loss + bce(objectness[there], wanted[..., 4][there]) + bce(classes[there], wanted[..., 5:][there])
    return loss


def _plain_targets(t: Tensor, targets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, A, G, G, 5 + K) dense targets, and masks (B, A, G, G) of cells with an object and of cells that count as
    empty."""
    B, A, G = t.shape[:3]
    wanted = torch.zeros_like(t)
    there, empty = torch.zeros(B, A, G, G, dtype=torch.bool), torch.ones(B, A, G, G, dtype=torch.bool)
    boxes = targets[:, 2:6] * G
    overlap = wh_iou(boxes[:, 2:], anchors)
    for row, box, iou in zip(targets, boxes, overlap):
        image, label, (i, j) = int(row[0]), int(row[1]), (int(min(value, G - 1)) for value in box[:2])
        empty[image, iou > 0.5, j, i] = False
        best = int(iou.argmax())
        there[image, best, j, i], empty[image, best, j, i] = True, False
        wanted[image, best, j, i, :2] = box[:2] - box[:2].floor()
        wanted[image, best, j, i, 2:4] = (box[2:] / anchors[best] + 1e-16).log()
        wanted[image, best, j, i, 4] = 1
        wanted[image, best, j, i, 5 + label] = 1
    return wanted, there, empty

"""Images and YOLO labels from a list file or a folder, as letterboxed batches.

Targets are (T, 6) float32: image index in the batch, class, cx, cy, w, h relative to the network input (0..1).
"""

import os
from dataclasses import dataclass, field
from typing import Callable, Iterator, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from utils import processes, signals, torchrun
from utils.data.augmentations import Augmentation, augment_mosaic, augment_one, degrade, flip_horizontal, jitter_colour
from utils.data.image_files import Source, read_image, read_image_list
from utils.data.yolo_labels import DataError, Doubtful, LabelFinder, label_places, read_labels
from utils.letterbox import letterbox, planes
from utils.output import counted
from utils.text import TextError

MULTI_SCALE = (0.7, 1.3)  # range of the input size under --multiscale_training, relative to the nominal one


class Draw(NamedTuple):
    """One training example to make: the sampler decides everything random about a batch, so any worker makes the
    same."""

    epoch: int
    index: int
    width: int
    height: int


@dataclass
class ListDataset(Dataset):
    """Images and boxes of a list file or folder, letterboxed to (width, height) `size`, augmented when told to.

    Index with a Draw (training) or an int (evaluation). Returns (image (3, H, W) uint8 tensor, boxes (n, 5) tensor).
    With skip_bad, an unreadable image or label is dropped at start and counted in `skipped`, else it stops. `notes` are
    lines about what else was left out or looks wrong.
    """

    source: Source
    size: tuple[int, int]
    classes: int
    augmentation: Augmentation | None = None
    seed: int = 0
    skip_bad: bool = False
    cache_gb: float = 0.0
    to_canvas: Callable = letterbox  # for what is not augmented: (image, size) -> (input, its `to_input` for boxes)
    labelled: bool = True  # False: what lies there as labels is not read
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.images, self.labels, self.left_out = [], [], 0  # left_out: boxes of classes that are not kept
        finder, doubtful = LabelFinder(), Doubtful()
        for path in read_image_list(self.source, self.notes):
            try:
                labels = (read_labels(finder.find(path), self.classes, doubtful) if self.labelled else
                          np.zeros((0, 5), np.float32))
                if self.skip_bad:
                    read_image(path)
            except (DataError, TextError) as error:
                if not self.skip_bad:
                    raise
                self.skipped.append(str(error))
                continue
            self.images.append(path)
            self.labels.append(labels)
        if not self.images:
            raise DataError(f"{self.name}: found no usable image ({len(self.skipped)} skipped), expected at least one")
        if doubtful.describe():
            self.notes.append(f"{self.name}: {doubtful.describe()}")
        self._cache: dict = {}
        self._cache_bytes = 0

    def __len__(self) -> int:
        return len(self.images)

    @property
    def name(self) -> str:
        """Its lists and folders, as a message may name them."""
        return ", ".join(map(str, self.source)) if isinstance(self.source, (list, tuple)) else str(self.source)

    def keep_classes(self, kept: list[int]) -> None:
        """Leave out the boxes of other classes; class kept[i] becomes class i."""
        number = {label: i for i, label in enumerate(kept)}
        for image_i, rows in enumerate(self.labels):
            own = np.isin(rows[:, 0], kept)
            self.left_out += int((~own).sum())
            rows = rows[own]
            rows[:, 0] = [number[int(label)] for label in rows[:, 0]]
            self.labels[image_i] = rows
        self.classes = len(kept)

    def describe(self) -> str:
        """How many images and boxes there are, in words."""
        empty = sum(not len(labels) for labels in self.labels)
        boxes = sum(map(len, self.labels))
        without = f" ({counted(empty, 'image')} without)" if empty else ""
        return f"{counted(len(self), 'image')} with {counted(boxes, 'box', 'boxes')}{without}"

    def require_boxes(self) -> None:
        """Raise DataError when no image has a box, naming all places where labels were looked for, or the boxes that
        are there of classes that are not kept."""
        if any(map(len, self.labels)):
            return
        if self.left_out:
            raise DataError(f"{self.name}: found {counted(self.left_out, 'box', 'boxes')} of other classes and none of "
                            f"those that are kept in {counted(len(self), 'image')}, expected at least one")
        places = " or ".join(map(str, label_places(self.images[0])))
        raise DataError(f"{self.name}: found no box in {counted(len(self), 'image')}, expected labels such as {places}")

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(RGB image, boxes (n, 5) class, x1, y1, x2, y2 in its pixels), for augmentation alone.

        A large picture comes shrunk to what the largest input needs: it will be warped anyway, and less is warped and
        kept. What is not augmented never comes through here, since shrinking twice gives other pixels (see `plain`).
        """
        largest = int(max(self.size) * MULTI_SCALE[1])
        image, _ = self._kept(index, lambda: (read_image(self.images[index], largest), None))
        return image, self._boxes(index, image.shape[1], image.shape[0])

    def plain(self, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """(RGB input of (width, height) `size`, boxes (n, 5) class, x1, y1, x2, y2 in its pixels), as detect.py sees
        it."""
        canvas, fit = self._kept((index, size), lambda: self.to_canvas(read_image(self.images[index]), size))
        boxes = torch.from_numpy(self._boxes(index, fit.width, fit.height))
        return canvas, torch.cat([boxes[:, :1], fit.to_input(boxes[:, 1:])], dim=1).numpy()

    def _kept(self, key, make: Callable[[], tuple]) -> tuple:
        """What `make` gives for `key`, an image first; kept in memory up to cache_gb per process."""
        if key in self._cache:
            return self._cache[key]
        made = make()
        if self._cache_bytes + made[0].nbytes <= self.cache_gb * 2**30:
            self._cache[key] = made
            self._cache_bytes += made[0].nbytes
        return made

    def _boxes(self, index: int, width: int, height: int) -> np.ndarray:
        label, cx, cy, w, h = self.labels[index].T
        boxes = [label, (cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
        return np.stack(boxes, 1).astype(np.float32)

    def __getitem__(self, draw: Draw | int) -> tuple[Tensor, Tensor]:
        if not isinstance(draw, Draw):
            image, boxes = self.plain(draw, self.size)
        elif self.augmentation is None:
            image, boxes = self.plain(draw.index, (draw.width, draw.height))
        else:
            image, boxes = self._augmented(draw)
        return planes(image), _relative(boxes, image.shape[:2])

    def _augmented(self, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
        aug, size = self.augmentation, (draw.width, draw.height)
        rng = np.random.default_rng((self.seed, draw.epoch, draw.index))
        if rng.uniform() < aug.mosaic:
            others = rng.integers(len(self), size=3)
            image, boxes = augment_mosaic([self.load(i) for i in (draw.index, *others)], size, rng, aug)
        elif aug.warps:
            image, boxes = augment_one(*self.load(draw.index), size, rng, aug)
        else:
            image, boxes = self.plain(draw.index, size)
        if rng.uniform() < aug.flip:
            image, boxes = flip_horizontal(image, boxes)
        image = jitter_colour(image, rng, aug.hsv) if any(aug.hsv) else image
        return degrade(image, rng, aug), boxes


def _relative(boxes: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """class, x1, y1, x2, y2 in pixels -> class, cx, cy, w, h relative to the image."""
    height, width = shape
    label, x1, y1, x2, y2 = boxes.astype(np.float32).T
    return torch.from_numpy(np.stack([label, (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width,
                                      (y2 - y1) / height], 1))


def collate(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) uint8 and targets (T, 6): image index, class, cx, cy, w, h relative."""
    images = torch.stack([image for image, _ in batch])
    targets = [torch.cat([torch.full((len(boxes), 1), float(i)), boxes], 1) for i, (_, boxes) in enumerate(batch)]
    return images, torch.cat(targets)


class TrainSampler(Sampler):
    """Batches of Draws for one epoch: a permutation by (seed, epoch), cut among processes, one input size a batch.

    Everything depends on (seed, epoch) alone, so a resumed run sees the batches that an unbroken one would have seen.
    size: (width, height) of the input; scale_stride: for every batch a random size instead, in multiples of so many
    pixels; process: (rank, world size).
    """

    def __init__(self, length: int, batch_size: int, size: tuple[int, int], seed: int = 0,
                 scale_stride: int | None = None, process: tuple[int, int] = (0, 1)):
        self.length, self.batch_size, self.size, self.seed = length, batch_size, size, seed
        self.scale_stride, (self.rank, self.world_size) = scale_stride, process
        self.epoch, self.first = 0, 0  # first: batches of the epoch that are left out, being behind

    def __len__(self) -> int:
        return max(self.length // (self.batch_size * self.world_size), 1)

    @property
    def images_per_step(self) -> int:
        """How many images the batches of one step hold, those of all processes together."""
        per_step = self.batch_size * self.world_size
        return per_step if self.length >= per_step else max(self.length, self.world_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.length)
        per_step = self.batch_size * self.world_size
        if len(order) < per_step:  # fewer images than a batch: one short batch, shared out as evenly as can be
            order = np.resize(order, self.images_per_step)
        for step in range(len(self)):
            width, height = self._size(rng)
            batch = order[step * per_step:(step + 1) * per_step][self.rank::self.world_size]
            if step >= self.first:
                yield [Draw(self.epoch, int(i), width, height) for i in batch]

    def _size(self, rng: np.random.Generator) -> tuple[int, int]:
        return self.size if self.scale_stride is None else self._scaled(rng.uniform(*MULTI_SCALE))

    @property
    def least(self) -> tuple[int, tuple[int, int]]:
        """How many images the smallest batch of this process holds, and their smallest (width, height)."""
        images = self.images_per_step // self.world_size
        return images, self.size if self.scale_stride is None else self._scaled(MULTI_SCALE[0])

    def _scaled(self, factor: float) -> tuple[int, int]:
        return tuple(max(round(side * factor / self.scale_stride), 1) * self.scale_stride for side in self.size)


def worker_count(requested: int, images: int) -> int:
    """Loader processes worth having: no more than this process's share of the cores or a handful of images can feed."""
    cores = max((os.cpu_count() or 1) // torchrun.local_world_size(), 1)
    return min(requested, cores, images // 32)


def _start_worker(_worker: int) -> None:
    signals.leave_to_parent()
    cv2.setNumThreads(0)  # a worker is one process a core already
    torch.set_num_threads(1)


def training_loader(dataset: ListDataset, sampler: TrainSampler, n_cpu: int) -> DataLoader:
    """Loader of training batches; set `sampler.epoch` before iterating."""
    workers = worker_count(n_cpu, len(dataset))
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def evaluation_loader(dataset: ListDataset, batch_size: int, n_cpu: int) -> DataLoader:
    """Loader that passes once over the data in order; of several processes each has its share of the batches
    (`evaluate` puts the results together)."""
    share = Subset(dataset, processes.share_of(len(dataset), batch_size)) if processes.world_size() > 1 else dataset
    return DataLoader(share, batch_size, shuffle=False, num_workers=worker_count(n_cpu, len(share)),
                      collate_fn=collate, worker_init_fn=_start_worker, pin_memory=torch.cuda.is_available())

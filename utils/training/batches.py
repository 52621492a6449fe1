"""The images of a run: those it learns from, varied and in batches, and those it is scored on."""

import dataclasses

import numpy as np

from utils import processes
from utils.data.augmentations import AUGMENTATIONS
from utils.data.data_config import DataConfig
from utils.data.datasets import TrainSampler, evaluation_loader, training_loader
from utils.data.prepare import dataset, labelled_dataset
from utils.shapes import largest_stride
from utils.training.args import TrainOptions


class Batches:
    """Training and validation images of `config`, (width, height) `size`, for the net of `defs`. The order of images
    and what becomes of each depend on (seed, epoch) alone, and the net's dice on (seed, epoch, batch)."""

    def __init__(self, options: TrainOptions, config: DataConfig, defs: list[dict], size: tuple[int, int]):
        source, images = options.source, options.images
        augmentation = dataclasses.replace(AUGMENTATIONS[images.augment], mosaic=images.mosaic)
        made = dataset if options.loss.teacher_weights else labelled_dataset  # a teacher needs no labels
        labelled = not options.loss.unlabelled
        self.train_set = made(options.read, config, "train", size, seed=options.seed, augmentation=augmentation,
                              labelled=labelled)
        self.valid_set = made(options.read, config, "valid", size, labelled=labelled)
        stride = largest_stride(defs) if images.multiscale_training else None
        self.sampler = TrainSampler(len(self.train_set), source.batch_size, size, options.seed, stride,
                                    (processes.rank(), processes.world_size()))
        self.loader = training_loader(self.train_set, self.sampler, source.n_cpu)
        self.valid_loader = evaluation_loader(self.valid_set, source.batch_size, source.n_cpu)
        # speed is of whole batches, that of all processes together
        self.images_per_batch = source.batch_size * processes.world_size()

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.sampler)

    def of_epoch(self, epoch: int, first: int = 0):
        """The loader of this epoch's training batches, images (B, 3, H, W) uint8 and targets (T, 6), from the `first`
        on."""
        self.sampler.epoch, self.sampler.first = epoch, first
        return self.loader

    def seed_of(self, epoch: int, batch_i: int) -> int:
        """What the net's own dice (dropout) begin a batch with, another one in each process."""
        entropy = (self.sampler.seed, epoch, batch_i, self.sampler.rank)
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])

    def close(self) -> None:
        """End the processes that load images."""
        self.loader = self.valid_loader = None  # the last reference ends them

    def describe(self) -> str:
        """How many images and boxes there are, in words."""
        return f"{self.train_set.describe()} for training, {self.valid_set.describe()} for validation"

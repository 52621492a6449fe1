"""What a batch is trained to lessen: the loss on its labels, and a teacher's where there is one."""

import torch
from torch import Tensor, nn

from utils import processes
from utils.data.data_config import DataConfig
from utils.loss import LossOptions, LossParts, yolo_loss
from utils.training.args import TrainOptions
from utils.training.batches import Batches
from utils.training.distillation import distillation_loss, load_teacher
from utils.training.half import half_precision
from utils.training.unlabelled import settle_labels


class Objective:
    """The loss of a batch for the heads of one net."""

    def __init__(self, model: nn.Module, options: TrainOptions, data: DataConfig, batches: Batches):
        """model: the net that learns, whose class the teacher's is as well; batches: its images, which the teacher may
        label. Raises what load_teacher and settle_labels raise."""
        choices, self.steps = options.loss, options.steps
        self.heads, self.gain, self.teacher = model.heads(), choices.distill_gain, None
        self.options = LossOptions(box=choices.box_loss, several_iou=choices.several_iou,
                                   ignore_iou=choices.ignore_iou)
        if choices.teacher_weights:
            self.teacher = load_teacher(choices.teacher_cfg, choices.teacher_weights, model, data)
        self.by_teacher = settle_labels(choices.unlabelled, self.teacher, batches.train_set, batches.valid_set,
                                        quiet=processes.rank() > 0)

    def __call__(self, raws: list[Tensor], images: Tensor, targets: Tensor) -> LossParts:
        """Loss terms per image of the net's raw maps. images: (B, C, H, W) as the net saw them; targets: (T, 6)."""
        size = images.shape[3], images.shape[2]
        labelled = lambda: yolo_loss(raws, self.heads, targets, size, self.options)
        if self.teacher is None:
            return labelled()
        with torch.no_grad(), half_precision(self.steps, images.device):
            taught = self.teacher.raw_maps(images)
        soft = distillation_loss(raws, taught, self.heads, size, self.options)
        if self.by_teacher:
            return soft
        # a mean, not a sum: gradients twice as large would be another learning rate
        return LossParts(*((hard + self.gain * term) / (1 + self.gain) for hard, term in zip(labelled(), soft)))

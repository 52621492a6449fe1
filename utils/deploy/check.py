"""Whether an exported file does what the net does: its predictions on random images, then its boxes on sample
pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import torch
from torch import Tensor, nn

from utils.boxes import box_iou, cxcywh_to_xyxy, pair_iou
from utils.deploy.metadata import BuiltInNms
from utils.deploy.onnx_runtimes import Predict
from utils.evaluation.nms import non_max_suppression
from utils.letterbox import input_channels, letterbox, planes, to_input

THRESHOLDS = BuiltInNms()  # of the boxes that are compared
LEAST_SCORE = 1e-3  # a sigmoid is exact to about 1e-7 of 1 in some runtimes: of a class never seen that is all there is
SAMPLES = Path(__file__).resolve().parent.parent.parent / "data" / "samples"


class ExportError(ValueError):
    """An exported file does not do what the network does."""


@dataclass(frozen=True)
class Tolerance:
    """How far a file may be from the net."""

    predictions: float  # largest difference, relative to `_largest` of its column; sizes by their logarithm
    iou: float  # least IoU of a box with its twin
    score: float  # largest difference of their scores


# int8 is judged by its score
TOLERANCES = {"float32": Tolerance(1e-3, 0.99, 0.01), "float16": Tolerance(3e-2, 0.95, 0.03)}


def with_log_sizes(predictions: Tensor) -> Tensor:
    """(..., 5 + K) with log sizes: an exponential would magnify the rounding of large boxes, and hide errors of all
    others behind them."""
    return torch.cat([predictions[..., :2], predictions[..., 2:4].clamp(min=1e-3).log(), predictions[..., 4:]], dim=-1)


@torch.inference_mode()
def compare_predictions(
    model: nn.Module, predict: Predict, size: tuple[int, int], batches: Sequence[int], where: str
) -> float:
    """Largest deviation of a file's predictions from the net's (eval mode, on the CPU, float32) on random images,
    relative to the largest value of their column. Raises ExportError on another shape."""
    deviations = []
    for batch in batches:
        images = torch.rand(
            batch, input_channels(model), size[1], size[0], generator=torch.Generator().manual_seed(batch)
        )
        expected, found = model(images), predict(images)
        require_shape(found, expected, where)
        found, expected = with_log_sizes(found), with_log_sizes(expected)
        deviations.append(float(((found - expected).abs() / _largest(expected)).max()))
    return max(deviations, key=lambda value: (value != value, value))  # NaN is the worst


def _largest(predictions: Tensor) -> Tensor:
    """(5 + K) the largest value of each column of (B, N, 5 + K), or LEAST_SCORE where no objectness or probability of a
    column is as large."""
    largest = predictions.abs().amax(dim=(0, 1)).clamp(min=1e-9)
    return torch.cat([largest[:4], largest[4:].clamp(min=LEAST_SCORE)])


def require_shape(found: Tensor, expected: Tensor, where: str) -> None:
    """Raise ExportError when a file's output is not of the shape of the net's."""
    if found.shape != expected.shape:
        raise ExportError(f"{where}: found an output of {tuple(found.shape)}, expected {tuple(expected.shape)}; it was "
                          "not written")


def require_close(deviation: float, limit: float, where: str) -> None:
    """Raise ExportError when a deviation is over its limit, or NaN."""
    if not deviation <= limit:
        raise ExportError(f"{where}: the exported net is off by {deviation:.1e} of its output's range, expected at "
                          f"most {limit:g}; it was not written")


def sample_images(size: tuple[int, int], channels: int = 3, limit: int = 4) -> Tensor:
    """(n, channels, height, width) the project's sample pictures as the net sees them; none where they are missing."""
    from utils.data.image_files import read_image

    canvases = [letterbox(read_image(path), size)[0] for path in sorted(SAMPLES.glob("*.jpg"))[:limit]]
    if not canvases:
        return torch.zeros(0, channels, size[1], size[0])
    return to_input(torch.stack([planes(canvas) for canvas in canvases]), torch.device("cpu"), channels)


@torch.inference_mode()
def compare_boxes(
    model: nn.Module, predict: Predict, images: Tensor, nms: BuiltInNms | None, tolerance: Tolerance, where: str
) -> int:
    """How many boxes the net finds in `images` (B, 3, H, W), a file the same, or it raises ExportError.

    nms: the suppression inside the file. Without one, where what suppression leaves differs, every candidate is
    compared: of two boxes with nearly the same score rounding decides which one suppresses the other.
    """
    if not len(images):
        return 0
    limits, expected, found = nms or THRESHOLDS, model(images), predict(images)
    ours = non_max_suppression(expected, limits.conf_thres, limits.nms_thres, limits.max_det)
    # the file's own suppression is over; of its scores, which hold the class as well, none is dropped
    least, most = (1e-9, 1.0) if nms else (limits.conf_thres, limits.nms_thres)
    try:
        _require_same_boxes(ours, non_max_suppression(found, least, most, limits.max_det), limits, tolerance, where)
    except ExportError:
        if nms:
            raise
        _require_same_candidates(expected, found, tolerance, where)
    return sum(map(len, ours))


def _require_same_candidates(expected: Tensor, found: Tensor, tolerance: Tolerance, where: str) -> None:
    """Raise ExportError unless each row of (B, N, 5 + K) predictions that is a box in one is the same box, of the same
    scores, in the other."""
    require_shape(found, expected, where)
    sure = torch.maximum(expected[..., 4], found[..., 4]) >= THRESHOLDS.conf_thres + tolerance.score
    ours, theirs = expected[sure].float(), found[sure].float()
    iou = pair_iou(cxcywh_to_xyxy(ours[:, :4]), cxcywh_to_xyxy(theirs[:, :4]))
    off = (ours[:, 4:5] * ours[:, 5:] - theirs[:, 4:5] * theirs[:, 5:]).abs().amax(dim=1)
    wrong = ~((iou > tolerance.iou) & (off <= tolerance.score))
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ExportError(f"{where}: sample picture {int(sure.nonzero()[row, 0])}: the net finds {_words(ours[row])}, "
                          f"the file {_words(theirs[row])}, expected an IoU over {tolerance.iou:g} and scores within "
                          f"{tolerance.score:g}; it was not written")


def _words(row: Tensor) -> str:
    """A row (5 + K) of predictions."""
    box = ", ".join(f"{value:.0f}" for value in cxcywh_to_xyxy(row[None, :4])[0].tolist())
    return f"the box {box} of score {float(row[4] * row[5:].max()):.2f}"


def _require_same_boxes(
    ours: list[Tensor], theirs: list[Tensor], limits: BuiltInNms, tolerance: Tolerance, where: str
) -> None:
    """Raise ExportError unless each of the detections of either has a twin among the other's. A box may be missing
    whose score or overlap is within the tolerance of a threshold, or that another one of its score suppresses."""
    for image_i, (one, other) in enumerate(zip(ours, theirs)):
        for rows, twins, who in ((one, other, "the file does not find"), (other, one, "the net does not find")):
            if len(lost := _without_twin(rows, twins, limits, tolerance)):
                box = ", ".join(f"{value:.0f}" for value in lost[0, :4].tolist())
                raise ExportError(f"{where}: sample picture {image_i}: {who} the box {box} of score {lost[0, 4]:.2f} "
                                  "(or with an IoU of "
                                  f"{tolerance.iou:g} or less, or a score off by more than {tolerance.score:g}); "
                                  "it was not written")


def _without_twin(rows: Tensor, twins: Tensor, limits: BuiltInNms, tolerance: Tolerance) -> Tensor:
    """The detections (n, 7) that have no twin of their class among the (m, 7) others, those at a threshold left out."""
    rows = rows[(rows[:, 6] >= limits.conf_thres + tolerance.score) & (rows[:, 4] > tolerance.score)]
    iou = box_iou(rows[:, :4], twins[:, :4])
    alike = (rows[:, 4:5] - twins[:, 4]).abs() <= tolerance.score
    own = rows[:, 5:6] == twins[:, 5]
    same = own & (iou > tolerance.iou) & alike
    on_edge = own & ((iou - limits.nms_thres).abs() <= 1 - tolerance.iou)  # suppressed by one, just not by the other
    # of two boxes, or two classes of one, with the same score either may stay; without suppression in the file
    # candidates decide
    tied = alike & (iou > limits.nms_thres) & (limits is not THRESHOLDS)
    return rows[~(same | on_edge | tied).any(dim=1)] if len(twins) else rows

"""What a run says of itself: in words on the screen, and as numbers in metrics.csv."""

import torch
from torch import Tensor, nn

from utils.batch_norm import QUANTILES, gamma_quantiles, zero_share
from utils.evaluation.metrics import EvalResult
from utils.output import counted
from utils.shapes import total_cost
from utils.text import is_whole

SCORES = ("map50", "map", "precision", "recall", "f1")


def describe_net(model: nn.Module, size: tuple[int, int]) -> str:
    """Parameters and multiply-adds for an image of (width, height) `size`."""
    cost = total_cost(model.module_defs, *size)
    return f"{cost.parameters:,} parameters, {cost.macs / 1e9:.2f} GMACs at {size[0]}x{size[1]}"


def describe_machine(device: torch.device, world_size: int) -> str:
    """What computes."""
    return f"{device}, {counted(world_size, 'process', 'processes')}, {counted(torch.get_num_threads(), 'thread')}"


def epoch_row(means: list[float], rate: float, seconds: float, images: int) -> dict:
    """What was learnt in an epoch and how fast. means: of the loss parts; rate: the last learning rate."""
    box, objectness, classes = means
    return {"lr": rate, "loss": box + objectness + classes, "loss_box": box, "loss_objectness": objectness,
            "loss_class": classes, "seconds": seconds, "images_per_s": images / seconds}


def score_row(result: EvalResult | None) -> dict:
    """Scores by their names; empty where the epoch was not scored."""
    return {key: getattr(result, key) if result else "" for key in SCORES}


def gamma_row(gammas: list[Tensor]) -> dict:
    """Quantiles of |gamma|, and the share that is exactly 0."""
    quantiles = zip([f"gamma_q{int(100 * q)}" for q in QUANTILES], gamma_quantiles(gammas))
    return {**dict(quantiles), "gamma_zero": zero_share(gammas)}


def is_row(row: dict) -> bool:
    """Whether a line of metrics.csv, values as text or None, is as train.py writes them; scores may be empty."""
    scores = score_row(None)
    columns = ["epoch", *epoch_row([0.0] * 3, 0.0, 1.0, 0), *scores, *gamma_row([])]
    if list(row) != columns or not is_whole(row["epoch"] or ""):
        return False
    try:
        for name, text in row.items():
            float(0 if name in scores and text == "" else text)
    except (TypeError, ValueError):
        return False
    return True


def describe_epoch(row: dict) -> str:
    """Losses, scores, learning rate and speed of a row, in a line."""
    shown = "mAP -"
    if row["map50"] != "":
        shown = (f"mAP {row['map50']:.4f}  AP {row['map']:.4f}  P {row['precision']:.3f}  R {row['recall']:.3f}")
    return (f"loss {row['loss']:.3f} (box {row['loss_box']:.3f} obj {row['loss_objectness']:.3f} cls "
            f"{row['loss_class']:.3f})  {shown}  lr {row['lr']:.2g}  {row['seconds']:.0f} s  "
            f"{row['images_per_s']:.1f} images/s")


def describe_gammas(row: dict) -> str:
    """The quantiles of a row, in a line."""
    return "  |gamma| " + "  ".join(f"{key[7:]}% {value:.3g}" for key, value in row.items() if key[:7] == "gamma_q")

"""From a cfg and a file of weights to a net that is ready: paths, heads, input size, class names, device."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from utils.checkpoint import CheckpointError, is_torch_file, load_weights, read_checkpoint, weights_classes
from utils.class_names import read_names
from utils.darknet_weights import file_classes
from utils.parse_config import class_count, integer, parse_model_config, rebuild_heads, resized
from utils.text import CfgError, TextError, first_line, is_whole


def picture_defs(cfg: Path) -> list[dict]:
    """module_defs of `cfg`. Raises CfgError when it is made for neither colour nor grey pictures."""
    defs = parse_model_config(cfg)
    if (channels := integer(defs[0], "channels", 3)) not in (1, 3):
        raise CfgError(f"{cfg}: found channels={channels} in [net], expected 3 (red, green and blue) or 1 (brightness)")
    return defs


def defs_for_weights(cfg: Path, weights: str | os.PathLike) -> list[dict]:
    """module_defs of `cfg` for a net that is not trained further: with the heads that the file `weights` holds (said
    where they are not the cfg's) and the input size that it was trained at."""
    defs = picture_defs(cfg)
    if not Path(weights).is_file():
        return defs  # said when it is loaded
    trained = weights_classes(weights, defs)
    if trained is not None and trained != class_count(defs):
        print(f"{cfg}: made for {class_count(defs)} classes, {weights} for {trained}: heads rebuilt for {trained}")
        defs = rebuild_heads(defs, trained)
    size = trained_size(weights)
    return resized(defs, *size) if size else defs


def trained_size(weights: str | os.PathLike) -> tuple[int, int] | None:
    """(width, height) of the input that the checkpoint `weights` was trained at; None where the file does not say."""
    size = read_checkpoint(weights, mapped=True).get("size") if is_torch_file(weights) else None
    return tuple(size) if size else None


@dataclass(frozen=True)
class TrainedNet:
    """A net with its weights, and what its files say about it."""

    model: nn.Module  # a Darknet
    names: tuple[str, ...] | None  # of its classes, where a file says
    size: tuple[int, int]  # (width, height) of its input in pixels
    content: dict  # the checkpoint without its weights
    words: str  # what was loaded


def load_net(cfg: Path, weights: str | os.PathLike, net: type[nn.Module],
             img_size: int | None = None) -> TrainedNet:
    """The net of `cfg` with all of `weights`, heads and input size being those of the weights (img_size: another square
    one).

    net: models.Darknet. Raises CfgError, CheckpointError, WeightsError, FileNotFoundError.
    """
    defs = defs_for_weights(cfg, weights)
    size = checked_size(img_size, defs)
    if Path(weights).is_file() and not is_torch_file(weights):
        file_classes(weights, defs)  # raises where its size does not fit, before memory is reserved for the net
    model = net(defs)
    report, content = load_weights(model, weights)
    return TrainedNet(model, names_of(cfg, weights, content, class_count(defs)), size, content, str(report))


def names_of(cfg: Path, weights: str | os.PathLike, content: dict, classes: int) -> tuple[str, ...] | None:
    """Class names that the checkpoint `content` holds, else those of the .names file beside the weights or the cfg;
    None without any.

    Raises ValueError when there are not as many as the net has classes.
    """
    names, source = _names_and_source(cfg, weights, content)
    if names and len(names) != classes:
        raise ValueError(f"{source}: found {len(names)} names, expected {classes}, the classes of {weights}")
    return names


def stored_names(cfg: Path, weights: str | os.PathLike) -> tuple[str, ...] | None:
    """The names of `names_of`, of weights that are not loaded yet; None where they cannot be read, which is said when
    they are."""
    try:
        content = read_checkpoint(weights, mapped=True) if is_torch_file(weights) else {}
        return _names_and_source(cfg, weights, content)[0]
    except (CheckpointError, CfgError, TextError, OSError):
        return None


def _names_and_source(cfg: Path, weights: str | os.PathLike,
                      content: dict) -> tuple[tuple[str, ...] | None, str | os.PathLike]:
    source, names = weights, content.get("names")
    for path in (Path(weights), Path(cfg)):
        if not names and path.with_suffix(".names").is_file():
            source = path.with_suffix(".names")
            names = read_names(source)
    return tuple(str(name) for name in names) if names else None, source


def resolve_cfg(path: str) -> Path:
    """`path`, or config/NAME where cfg/NAME is not there (and says so)."""
    found = Path(path)
    twin = Path("config") / found.name
    if not found.exists() and found.parent.name == "cfg" and twin.exists():
        print(f"{path}: not there, using {twin}")
        return twin
    return found


def stem(cfg: str | os.PathLike) -> str:
    """Name that a cfg's files carry: its file name without .cfg and without -hand, which ends it or stands before
    another -part."""
    return re.sub(r"-hand(?=-|$)", "", Path(cfg).stem)


def pruned_name(cfg: str | os.PathLike) -> tuple[str, int]:
    """(file name of the net that was pruned first, how often it was pruned): prune2_yolov3-hand.cfg -> (yolov3-hand,
    2)."""
    name, times = Path(cfg).stem, 0
    if match := re.fullmatch(r"prune(\d*)_(.+)", name):
        name, times = match[2], int(match[1] or 1)
    elif match := re.fullmatch(r"(.+)-pruned(\d*)", name):
        name, times = match[1], int(match[2] or 1)
    return name, times


def select_device(name: str, threads: int = 0):
    """torch.device of a --device value. Raises ValueError when the machine has no such device."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(f"cuda:{name}" if is_whole(name) else name)
        if device.type == "meta":
            raise ValueError("it holds no numbers")
        # sums of scores and rescaling are in double precision, which mps has not
        torch.empty(1, dtype=torch.float64, device=device)
    except Exception as error:  # torch raises many kinds
        raise ValueError(f"--device {name}: not usable here ({first_line(error)}); use --device cpu") from None
    return device


def checked_size(img_size: int | None, defs: list[dict]) -> tuple[int, int]:
    """(width, height) of a square input of img_size pixels, or of the cfg's. Raises ValueError when the net cannot take
    it."""
    from utils.parse_config import input_size as cfg_size
    from utils.parse_config import where
    from utils.shapes import largest_stride, layer_shapes

    size = (img_size, img_size) if img_size else cfg_size(defs)
    stride = largest_stride(defs)
    if any(side % stride for side in size):
        source = "--img_size" if img_size else where(defs[0])
        raise ValueError(f"{source}: found an input of {size[0]}x{size[1]}, expected multiples of {stride}")
    layer_shapes(defs, *size)  # raises where maps that are joined differ in size
    return size


def default_weights(cfg: str | os.PathLike, folder: str = "weights") -> str:
    """Where train.py and test_prune.py leave the weights of `cfg`: the best in weights/, the last in checkpoints/."""
    return f"{folder}/{stem(cfg)}_ckpt.pth"

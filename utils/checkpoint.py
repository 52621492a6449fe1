"""Checkpoints, and one loader for every kind of weights file.

A checkpoint is a dict: "model" (the weights to use: EMA's where there is one), "module_defs", "cfg", "run", "epoch", "map50",
"rescale" (the factor the gammas still carry, see utils.rescale), and in a run's last.pth all that --resume needs besides.
"""

import os
import shutil
from pathlib import Path

import torch
from torch import nn

from utils.darknet_weights import WeightsError
from utils.parse_config import head_indices, rebuild_heads, class_count
from utils.writing import replacing

# keys of a cfg section that change nothing in what the net computes
_TRAINING_KEYS = {"dontload", "stopbackward", "map", "focal_loss", "resize", "label_smooth_eps", "jitter", "random", "truth_thresh", "ignore_thresh", "iou_loss", "iou_thresh", "cls_normalizer", "classes",
                  "iou_normalizer", "obj_normalizer", "nms_kind", "beta_nms", "max_delta", "max", "probability", "num"}


ALL_LAYERS = "all layers"  # load_weights' words when nothing starts from scratch
# what a missing key of a section means
_DEFAULTS = {"stride": "1", "groups": "1", "group_id": "0", "pad": "0", "padding": "0", "batch_normalize": "0", "scale_x_y": "1",
             "new_coords": "0", "scale_wh": "0", "reverse": "0", "softmax": "0"}


class CheckpointError(ValueError):
    """A checkpoint cannot be used here; the message says with which cfg it can."""


def save_checkpoint(path: str | os.PathLike, content: dict) -> None:
    """torch.save by way of utils.writing."""
    with replacing(path) as temporary:
        torch.save(content, temporary)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file by way of utils.writing."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def weights_content(model: nn.Module, cfg: str, run: str, **more) -> dict:
    """Content of a checkpoint that holds weights and their architecture (sections as plain dicts, loadable without pickle)."""
    return {"model": {key: value.detach().cpu().clone() for key, value in model.state_dict().items()},
            "module_defs": [dict(section) for section in model.module_defs], "cfg": cfg, "run": run, "seen": model.seen, **more}


def is_torch_file(path: str | os.PathLike) -> bool:
    """Whether a file was written by torch.save (told by its first bytes, not by its name)."""
    with open(path, "rb") as file:
        head = file.read(2)
    return head == b"PK" or head[:1] == b"\x80"


def read_checkpoint(path: str | os.PathLike) -> dict:
    """Content of a torch file as a checkpoint; a bare state_dict (the peers' files) becomes {"model": ...}.

    Raises CheckpointError, FileNotFoundError.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({reason})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: found a {type(content).__name__}, expected a checkpoint or a state_dict")
    return content if isinstance(content.get("model"), dict) else {"model": content}


def load_weights(model: nn.Module, path: str | os.PathLike, strict: bool = True) -> tuple[str, dict]:
    """Load a .weights file or a checkpoint into `model` (a Darknet), by its content.

    strict: a checkpoint must have been made with this very cfg; otherwise (a start for training) anchors and the class
    count may differ, and heads of another class count start from scratch. Returns (what was loaded in words, the
    checkpoint without its weights). Raises CheckpointError, WeightsError, FileNotFoundError.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    if not is_torch_file(path):
        report = model.load_darknet_weights(path)
        if strict and report.kind != "full":
            raise WeightsError(f"{path}: holds {report.detail}; expected weights of the whole net: train it first "
                               f"(train.py --weights {path})")
        return ALL_LAYERS if report.kind == "full" else report.detail, {}
    content = read_checkpoint(path)
    state, rest = content["model"], {key: value for key, value in content.items() if key != "model"}
    _check_architecture(model, path, content, strict)
    own = model.state_dict()
    heads = {key for key in own if int(key.split(".")[1]) + 1 in head_indices(model.module_defs)}
    wrong = [key for key in own if key not in state or state[key].shape != own[key].shape]
    if wrong and (strict or not set(wrong) <= heads):
        found = tuple(state[wrong[0]].shape) if wrong[0] in state else "nothing"
        raise CheckpointError(f"{path}: found {found} for {wrong[0]}, expected {tuple(own[wrong[0]].shape)}"
                              f"{_right_cfg(content)}")
    model.load_state_dict({key: state[key] for key in own if key not in wrong}, strict=not wrong)
    model.seen = int(content.get("seen", 0))
    return (ALL_LAYERS if not wrong else "all but the heads, which start from scratch for "
            f"{class_count(model.module_defs)} classes"), rest


def _right_cfg(content: dict) -> str:
    return f"; these weights were made with {content['cfg']}: use --cfg {content['cfg']}" if content.get("cfg") else \
        "; use the cfg that these weights were trained with"


def _check_architecture(model: nn.Module, path: Path, content: dict, strict: bool) -> None:
    """Raise CheckpointError when the checkpoint's module_defs describe another net than the model's."""
    saved = content.get("module_defs")
    if saved is None:
        return
    if class_count(saved) != class_count(model.module_defs) and not strict:
        saved = rebuild_heads([dict(section) for section in saved], class_count(model.module_defs))
    own = model.module_defs
    if len(saved) != len(own):
        raise CheckpointError(f"{path}: found weights of a net of {len(saved) - 1} layers, expected {len(own) - 1}{_right_cfg(content)}")
    for layer_i, (theirs, ours) in enumerate(zip(saved[1:], own[1:])):
        for key in sorted((theirs.keys() | ours.keys()) - _TRAINING_KEYS):
            if _value(theirs, key) != _value(ours, key) and (strict or key not in ("anchors", "mask")):
                raise CheckpointError(f"{path}: found {key}={theirs.get(key)} in layer {layer_i} [{ours['type']}], expected "
                                      f"{key}={ours.get(key)}{_right_cfg(content)}")


def _value(section: dict, key: str):
    """A section's value as it counts: numbers as numbers, lists without their spacing, defaults filled in."""
    parts = str(section.get(key, _DEFAULTS.get(key, ""))).split(",")
    try:
        return [float(part) for part in parts if part.strip()]
    except ValueError:
        return [part.strip() for part in parts]

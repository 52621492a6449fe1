"""Checkpoints, and one loader for every kind of weights file.

A checkpoint is a dict: "model" (the weights to use: EMA's where there is one), "module_defs", "cfg", "run", "epoch",
"map50", "rescale" (the factor the gammas still carry, see utils.batch_norm), "names" (of the classes), "size" (width
and height of the input), "data" (what it was trained on), and in a run's last.pth all that --resume needs besides.

Checkpoints of other Darknet ports load as well: state_dicts whose keys say the layer and whether it is a convolution or
a batch norm, under any prefix (DataParallel) and in any wrappers, in files of torch.save, safetensors or numpy.savez.
Nothing is unpickled but tensors, numbers and plain containers.
"""

import argparse
import math
import os
import re
import shutil
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from utils import torch_archive
from utils.cfg_keys import SECTION_KEYS
from utils.darknet_weights import LoadReport, WeightsError, file_classes
from utils.layers import split_key, state_key
from utils.limits import MOST_SIDE_PX
from utils.origin import missing
from utils.output import replacing
from utils.parse_config import (
    checked_defs,
    class_count,
    explicit,
    head_anchors,
    head_entries,
    head_indices,
    rebuild_heads,
    section_of,
)
from utils.tensor_files import is_npz, is_safetensors, read_npz, read_safetensors
from utils.text import CfgError, first_line, shown

# keys of heads and dropout that change nothing in the function of the layers before; those of kind "any" never do
_TRAINING_KEYS = {"truth_thresh", "ignore_thresh", "classes", "probability", "num"}
# what a missing key of a section means, besides those of utils.parse_config.explicit
_DEFAULTS = {"size": "1", "dilation": "1", "scale": "1", "groups": "1", "group_id": "0", "pad": "0", "padding": "0",
             "batch_normalize": "0", "scale_x_y": "1", "new_coords": "0", "scale_wh": "0", "reverse": "0",
             "softmax": "0"}


# where other programs keep a state_dict, the likeliest first; under other names it is found as well
_WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "module", "weights")
_AVERAGE = re.compile(r"(?:^|_)(?:ema|swa|shadow)(?:_|$)", re.IGNORECASE)  # a wrapper of the weights for inference
_MOST_WRAPPERS = 8  # around each other
# module_list.3.conv_3.weight; others: module_list.3.Conv2d.weight, module.model.module_list.3.BatchNorm2d.bias,
# models.3.bn2.running_var
_KEY = re.compile(r"(?:^|\.)(?:module_list|models|layers)\.(\d+)\.(conv|batch|bn|norm|0(?=\.)|1(?=\.))\w*\."
                  r"(weight|bias|running_mean|running_var|num_batches_tracked)$", re.IGNORECASE)
# what a checkpoint of ours may hold beside weights, and its type
_TYPES = {"cfg": str, "run": str, "seen": int, "rescale": (int, float), "names": (list, tuple), "size": (list, tuple),
          "data": str, "epoch": int, "map50": (int, float), "args": dict}
# what such a value has to be, besides
_VALUES = {"seen": ("a count of images", lambda seen: 0 <= seen < 1 << 63),
           "rescale": ("a factor over 0", lambda factor: 0 < factor < math.inf),
           "names": ("class names", lambda names: all(isinstance(name, str) for name in names)),
           "size": ("width and height in pixels", lambda size: len(size) == 2 and all(
               type(side) is int and 0 < side <= MOST_SIDE_PX for side in size))}
# of weights; a complex one, or one of a type that not every machine computes with, is another program's
_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int32, torch.int16,
           torch.int8, torch.uint8}


# endings of what export.py writes for a runtime
EXPORTED = (".onnx", ".xml", ".param", ".torchscript", ".tflite")


class CheckpointError(ValueError):
    """A checkpoint cannot be used here; the message says with which cfg it can."""


def save_checkpoint(path: str | os.PathLike, content: dict) -> None:
    """torch.save by way of utils.output."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        noting = _NotingErrors(file)
        try:
            torch.save(content, noting)
        except RuntimeError:
            if noting.error:  # torch's own words are "unexpected pos 1620"
                raise noting.error from None
            raise
        file.flush()
        os.fsync(file.fileno())  # else a machine that goes down may have the new name on its disk, and nothing in it


class _NotingErrors:
    """A file that remembers why it could not be written."""

    def __init__(self, file: BinaryIO):
        self.file, self.error = file, None

    def write(self, data) -> int:
        """As a file's."""
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """As a file's."""
        self.file.flush()


def copy_file(source: Path, target: Path) -> None:
    """Copy a file by way of utils.output."""
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def weights_content(model: nn.Module, cfg: str, run: str, **more) -> dict:
    """Content of a checkpoint that holds weights and their architecture (sections as plain dicts, loadable without
    pickle)."""
    return {"model": {key: value.detach().cpu().clone() for key, value in model.state_dict().items()},
            "module_defs": [dict(section) for section in model.module_defs], "cfg": cfg, "run": run, "seen": model.seen,
            **more}


def is_exported(path: str | os.PathLike | None) -> bool:
    """Whether a --weights file is one that export.py wrote for a runtime, by its ending."""
    return path is not None and Path(path).suffix.lower() in EXPORTED


def is_torch_file(path: str | os.PathLike) -> bool:
    """Whether a file holds tensors by name, as torch.save, safetensors and numpy.savez write them (told by its first
    bytes, not by its name). Raises CheckpointError for one that export.py wrote, which holds no weights to go on
    with."""
    _require_weights(path)
    with open(path, "rb") as file:
        head = file.read(2)
    return head == b"PK" or head[:1] == b"\x80" or is_safetensors(path)


def _require_weights(path: str | os.PathLike) -> None:
    if is_exported(path):
        raise CheckpointError(f"{path}: found a file for a runtime, expected a checkpoint (.pth) or Darknet .weights: "
                              "what export.py wrote can be run by detect.py and test.py, without a cfg, but not be "
                              "trained, pruned or exported again")


def read_checkpoint(path: str | os.PathLike, mapped: bool = False) -> dict:
    """Content of a file of named tensors (`is_torch_file`) as a checkpoint, its weights under "model" by our names. Of
    another program's file the weights and the class names alone are taken. mapped: what torch.save wrote is not read
    but mapped into memory, for who asks for little of it and soon lets go.

    Raises CheckpointError, FileNotFoundError.
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, "checkpoint")
    _require_weights(path)
    content = _content(path, mapped and torch_archive.is_zip(path))
    if "module_defs" in content:
        _check_own(path, content)
        return content | {"model": _named_state(path, content["model"])}
    names = content.get("names")
    named = isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names)
    return {"model": _named_state(path, _unwrapped(path, content))} | ({"names": names} if named else {})


def _content(path: Path, mapped: bool) -> Mapping:
    """What a file of named tensors holds, whichever program wrote it."""
    try:
        torch_archive.check(path)
        if is_safetensors(path):
            return read_safetensors(path)
        if is_npz(path):
            return read_npz(path)
    except torch_archive.ArchiveError as error:
        raise CheckpointError(f"{path}: {error}; the file is damaged") from None
    return _unpickled(path, mapped)


def _unpickled(path: Path, mapped: bool) -> Mapping:
    """torch.load of tensors, numbers and plain containers."""
    try:
        with torch.serialization.safe_globals(_plain_types()):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises many kinds for a damaged file
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(f"{path}: holds a pickled object of the class {found[1]}, expected a state_dict: "
                                  "nothing but tensors is unpickled; save it with torch.save(model.state_dict(), FILE) "
                                  "where that class is at hand") from None
        raise CheckpointError(f"{path}: cannot be read as a checkpoint ({_reason(path, error)}), expected a state_dict "
                              "saved by torch.save") from None
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: found a {type(content).__name__}, expected a checkpoint or a state_dict")
    return content


def _reason(path: Path, error: Exception) -> str:
    """Why torch.load did not read a file, in words; never its own advice to unpickle whatever there is."""
    if "TorchScript" in str(error):
        return "a TorchScript archive"
    names = torch_archive.zip_names(path)
    if names and not torch_archive.is_torch_zip(path):
        return f"a zip archive of {', '.join(names[:3])[:200]}{', ...' * (len(names) > 3)}: unpack it"
    if "Weights only load failed" in str(error):
        return "a pickle of something else than tensors, or one that torch.save did not write"
    return first_line(error)


def _plain_types() -> list:
    """What torch.load may make besides its own: numpy's numbers and arrays (under numpy 1's names and 2's), parsed
    arguments and the paths among them (of any system, as names alone)."""
    paths = [(PureWindowsPath if "Windows" in name else PurePosixPath, f"{module}.{name}")
             for module in ("pathlib", "pathlib._local")  # Python before 3.13, and that one
             for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")]
    scalar, rebuild = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    dtypes = {type(np.dtype(code)) for code in "?bhilqBHILQefdU"}
    return [np.ndarray, np.dtype, *dtypes, argparse.Namespace, *paths] + [
        (function, f"{module}.multiarray.{name}") for module in ("numpy.core", "numpy._core")
        for function, name in ((scalar, "scalar"), (rebuild, "_reconstruct"))]


def _check_own(path: Path, content: Mapping) -> None:
    """Raise CheckpointError where a checkpoint with module_defs is not what weights_content makes."""
    try:
        checked_defs(content["module_defs"], str(path))
    except CfgError as error:
        raise CheckpointError(str(error)) from None
    for key, kind in _TYPES.items():
        if content.get(key) is not None and not isinstance(content[key], kind):
            raise CheckpointError(f"{path}: found {key} of type {type(content[key]).__name__}, "
                                  f"expected {_kind_name(kind)}")
    for key, (words, right) in _VALUES.items():
        if content.get(key) is not None and not right(content[key]):
            raise CheckpointError(f"{path}: found {key} {shown(content[key])}, expected {words}")
    if not isinstance(content.get("model"), Mapping):
        raise CheckpointError(f"{path}: found model of type {type(content.get('model')).__name__}, expected a "
                              "state_dict")


def _kind_name(kind: type | tuple[type, ...]) -> str:
    return " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))


def _unwrapped(path: Path, content: Mapping) -> Mapping:
    """The state_dict in another program's checkpoint, which may lie in wrappers in wrappers."""
    if (state := _state_dict(content)) is not None:
        return state
    found = ", ".join(str(key) for key in list(content)[:3]) or "nothing"
    raise CheckpointError(f"{path}: found the keys {found}, expected a state_dict of a Darknet cfg's net, its keys "
                          "like module_list.0.conv_0.weight or module_list.0.Conv2d.weight")


def _state_dict(content: Mapping, depth: int = 0) -> Mapping | None:
    """`content` or the first state_dict within it, averaged weights before others; None without one. A wrapper that
    holds none, such as the settings of an average, hides nothing."""
    if any(isinstance(key, str) and _KEY.search(key) for key in content):
        return content
    wrappers = [key for key, value in content.items() if isinstance(value, Mapping)] if depth < _MOST_WRAPPERS else []
    for key in sorted(wrappers, key=_wrapper_rank):
        if (state := _state_dict(content[key], depth + 1)) is not None:
            return state
    return None


def _wrapper_rank(key: object) -> tuple[bool, int]:
    """A key that sorts the names of wrappers, the likeliest first."""
    known = _WRAPPERS.index(key) if key in _WRAPPERS else len(_WRAPPERS)
    return _AVERAGE.search(str(key)) is None, known


def _named_state(path: Path, state: Mapping) -> dict[str, Tensor]:
    """The tensors of convolutions and batch norms by our names; other entries (operation counts, buffers of other
    heads) are left out."""
    named = {}
    for key in sorted(state, key=lambda key: len(str(key))):  # of two copies of a net in one file the outer one counts
        match = _KEY.search(str(key))
        if match is None:
            continue
        layer_i, kind, name = match[1], "conv" if match[2].lower() in ("conv", "0") else "batch_norm", match[3].lower()
        value = torch.from_numpy(state[key]) if isinstance(state[key], np.ndarray) else state[key]
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.dtype not in _DTYPES or (
                value.device.type == "meta"):
            what = f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(f"{path}: found a {what} as {str(key)[-100:]}, expected a tensor of plain numbers")
        named.setdefault(state_key(int(layer_i), f"{kind}.{name}"), value)
    return named


def weights_classes(path: str | os.PathLike, defs: list[dict]) -> int | None:
    """The class count that the weights file `path`, of the net `defs`, was made for; None where its size or shapes do
    not tell (a backbone, another net). Raises CheckpointError, FileNotFoundError."""
    if not is_torch_file(path):
        try:
            return file_classes(path, defs)
        except WeightsError:  # said when it is loaded
            return None
    content = read_checkpoint(path, mapped=True)
    if "module_defs" in content:
        return class_count(content["module_defs"])
    counts = set()
    for head_i in head_indices(defs):
        kernel = content["model"].get(state_key(head_i - 1, "conv.weight"))
        rows = len(kernel) if kernel is not None and kernel.ndim else 0
        section = section_of(defs, head_i)
        entries, rest = divmod(rows, len(head_anchors(section)))
        counts.add(entries - head_entries({**section, "classes": 0}) if not rest else 0)
    return counts.pop() if len(counts) == 1 and min(counts) > 0 else None


def load_weights(model: nn.Module, path: str | os.PathLike, strict: bool = True) -> tuple[LoadReport, dict]:
    """Load a .weights file or a checkpoint into `model` (a Darknet), by its content.

    strict: a checkpoint must have been made with this very cfg; otherwise (a start for training) anchors and the class
    count may differ, and heads of another class count start from scratch. Returns (what was loaded, the
    checkpoint without its weights). Raises CheckpointError, WeightsError, FileNotFoundError.
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, "weights file")
    if not is_torch_file(path):
        report = model.load_darknet_weights(path)
        if strict and not report.complete:
            raise WeightsError(f"{path}: holds {report.detail}; expected weights of the whole net: train it first "
                               f"(train.py --weights {path})")
        return report, {}
    content = read_checkpoint(path)
    state, rest = content["model"], {key: value for key, value in content.items() if key != "model"}
    _check_architecture(model, path, content, strict)
    own = model.state_dict()
    heads = {key for key in own if split_key(key)[0] + 1 in head_indices(model.module_defs)}
    # a count that old files lack
    state = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")} | state
    wrong = {key for key in own.keys() | state.keys()
             if key not in own or key not in state or state[key].shape != own[key].shape}
    if wrong and (strict or not wrong <= heads):
        raise CheckpointError(f"{path}: {_mismatch(own, state, wrong, content)}")
    _check_finite(path, {key: value for key, value in state.items() if key not in wrong})
    model.load_state_dict({key: state[key] for key in own if key not in wrong}, strict=not wrong)
    model.seen = int(content.get("seen") or 0)
    loaded = len({split_key(key)[0] for key in own if key not in wrong})
    if not wrong:
        return LoadReport("full", loaded, f"all {loaded} layers with weights"), rest
    return LoadReport("no heads", loaded, "all but the heads, which start from scratch for "
                      f"{class_count(model.module_defs)} classes"), rest


def _mismatch(own: dict[str, Tensor], state: dict[str, Tensor], wrong: set[str], content: dict) -> str:
    """What is wrong in the first layer that is; the cfg is to blame where a shape differs."""
    key = min(wrong, key=lambda key: (split_key(key)[0], "batch_norm" in key, key not in state, key))
    layer_i = split_key(key)[0]
    if key not in state:
        return (f"found nothing for layer {layer_i} ({key}), expected {tuple(own[key].shape)}: the file does not hold "
                "the whole net")
    if key not in own:
        return (f"found {key} of shape {tuple(state[key].shape)}, expected no such tensor in layer {layer_i}"
                f"{_right_cfg(content)}")
    return (f"found {tuple(state[key].shape)} in layer {layer_i} ({key}), expected {tuple(own[key].shape)}"
            f"{_right_cfg(content)}")


def _check_finite(path: Path, state: dict[str, Tensor]) -> None:
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value.sum(dtype=torch.float64)):
            raise CheckpointError(f"{path}: found a weight that is not a finite number in layer {split_key(key)[0]} "
                                  f"({key}), expected finite ones: these weights are damaged, or those of a training "
                                  "that diverged")


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
    saved, own = explicit(saved), explicit(model.module_defs)
    if len(saved) != len(own):
        raise CheckpointError(f"{path}: found weights of a net of {len(saved) - 1} layers, expected {len(own) - 1}"
                              f"{_right_cfg(content)}")
    for layer_i, (theirs, ours) in enumerate(zip(saved[1:], own[1:])):
        decides = {"type"} | {key for key, kind in SECTION_KEYS[ours["type"]].items() if kind != "any"} - _TRAINING_KEYS
        for key in sorted((theirs.keys() | ours.keys()) & decides):
            if _value(theirs, key) != _value(ours, key) and (strict or key not in ("anchors", "mask")):
                raise CheckpointError(f"{path}: found {key}={theirs.get(key)} in layer {layer_i} [{ours['type']}], "
                                      f"expected {key}={ours.get(key)}{_right_cfg(content)}")


def _value(section: dict, key: str):
    """A section's value as it counts: numbers as numbers, lists without their spacing, defaults filled in."""
    parts = str(section.get(key, _DEFAULTS.get(key, ""))).split(",")
    try:
        return [float(part) for part in parts if part.strip()]
    except ValueError:
        return [part.strip() for part in parts]

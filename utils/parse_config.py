"""Darknet .cfg files as lists of dicts.

A parsed cfg is `module_defs`: `[net]` first, then one dict a layer, in file order. Every dict has the key `type`; all
other values stay the strings that the file holds (so a file survives a round trip); `integer`, `number`, `integers` and
`numbers` turn them into values where they are needed. The parser has already checked that they can.
"""

import os
import re
from difflib import get_close_matches
from pathlib import Path

from utils.writing import write_text

ACTIVATIONS = ("linear", "leaky", "relu", "relu6", "mish", "swish", "logistic")

# The keys each section may have and the kind of their value. Darknet's training-only keys are accepted and kept, so that
# a cfg downloaded from anywhere loads and is written back whole.
_CONV = {"batch_normalize": "int", "filters": "int", "size": "int", "stride": "int", "pad": "int", "padding": "int",
         "groups": "int", "activation": "activation", "dontload": "int", "stopbackward": "int"}
_DETECT = {"classes": "int", "num": "int", "jitter": "float", "random": "float", "anchors": "floats",
           "truth_thresh": "float", "ignore_thresh": "float"}
SECTION_KEYS = {
    "net": {key: "any" for key in (
        "batch subdivisions momentum decay angle saturation exposure hue learning_rate burn_in max_batches policy steps "
        "scales power mosaic cutmix flip letter_box max_crop min_crop gamma optimized_memory label_smooth_eps resize blur "
        "mixup workspace_size_limit_MB ema_alpha try_fix_nan dynamic_minibatch").split()}
    | {"width": "int", "height": "int", "channels": "int"},
    "convolutional": _CONV,
    "maxpool": {"size": "int", "stride": "int", "padding": "int"},
    "avgpool": {},
    "upsample": {"stride": "int", "scale": "float"},
    "route": {"layers": "ints", "groups": "int", "group_id": "int"},
    "shortcut": {"from": "ints", "activation": "activation", "weights_type": "any", "weights_normalization": "any"},
    "scale_channels": {"from": "ints", "activation": "activation", "scale_wh": "int"},
    "sam": {"from": "ints", "activation": "activation"},
    "dropout": {"probability": "float", "dropblock": "int"},
    "reorg": {"stride": "int", "reverse": "int"},
    "region": _DETECT | {key: "float" for key in (
        "bias_match coords softmax rescore object_scale noobject_scale class_scale coord_scale absolute thresh log "
        "background").split()},
    "yolo": _DETECT | {"mask": "ints", "scale_x_y": "float", "new_coords": "int", "iou_loss": "any", "nms_kind": "any",
             "map": "any", "counters_per_class": "any"}
    | {key: "float" for key in (
        "iou_thresh cls_normalizer iou_normalizer obj_normalizer beta_nms max_delta max focal_loss label_smooth_eps "
        "objectness_smooth delta_normalizer resize show_details track_history_size sim_thresh "
        "dets_for_track dets_for_show embedding_layer").split()},
}
REQUIRED_KEYS = {"convolutional": ("filters", "size"), "route": ("layers",), "shortcut": ("from",),
                 "scale_channels": ("from",), "sam": ("from",), "yolo": ("mask", "anchors", "classes"),
                 "region": ("anchors", "classes"), "net": ()}
_SPELLINGS = {"conv": "convolutional", "network": "net", "max": "maxpool", "avg": "avgpool"}  # darknet's short names
_KIND_WORDS = {"int": "a whole number", "float": "a number", "ints": "whole numbers separated by commas",
               "floats": "numbers separated by commas"}


class CfgError(ValueError):
    """A cfg or data file says something that cannot be built; the message starts with `file:line:`."""


class Section(dict):
    """One section of a cfg: a plain dict that remembers its place in the file (`where`, "file:line") for error messages."""

    where = ""

    def copy(self) -> "Section":
        """A copy that keeps `where`."""
        twin = Section(self)
        twin.where = self.where
        return twin


def integer(section: dict, key: str, default: int = 0) -> int:
    """section[key] as int, or `default` when the key is absent."""
    return int(float(section.get(key, default)))


def number(section: dict, key: str, default: float = 0.0) -> float:
    """section[key] as float, or `default` when the key is absent."""
    return float(section.get(key, default))


def numbers(section: dict, key: str) -> list[float]:
    """section[key], a comma-separated list, as floats; empty when the key is absent."""
    return [float(part) for part in str(section.get(key, "")).split(",") if part.strip()]


def integers(section: dict, key: str) -> list[int]:
    """section[key], a comma-separated list, as ints; empty when the key is absent."""
    return [int(part) for part in numbers(section, key)]


def where(section: dict, layer_i: int | None = None) -> str:
    """The place a message about `section` should start with."""
    place = getattr(section, "where", "") or "module_defs"
    return place if layer_i is None else f"{place}: layer {layer_i} [{section['type']}]"


def resolve(layer_i: int, ref: int) -> int:
    """Absolute index of the layer that `ref` names in layer `layer_i`: negative counts back, otherwise absolute."""
    return layer_i + ref if ref < 0 else ref


def layer_inputs(layer_i: int, section: dict) -> list[int]:
    """Absolute indices of the layers whose output layer `layer_i` reads (-1 is the image). The one place that knows the
    wiring of a cfg. scale_channels lists the per-channel scale first, the map it scales second."""
    kind = section["type"]
    if kind == "route":
        return [resolve(layer_i, ref) for ref in integers(section, "layers")]
    if kind in ("shortcut", "scale_channels", "sam"):
        return [layer_i - 1] + [resolve(layer_i, ref) for ref in integers(section, "from")]
    return [layer_i - 1]


def parse_model_config(path: str | os.PathLike) -> list[dict]:
    """Read a Darknet cfg: `[net]` first, then one dict a layer, values as strings.

    `#` and `;` start a comment anywhere on a line. Raises CfgError ("file:line: found, expected") for anything that
    could not be built, FileNotFoundError when there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such cfg file")
    defs: list[dict] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise CfgError(f"{path}:1: found bytes that are not text ({error.reason}), expected a Darknet cfg") from None
    for line_i, raw in enumerate(lines, start=1):
        line = re.split(r"[#;]", raw, maxsplit=1)[0].strip()
        if line:
            _read_line(line, f"{path}:{line_i}", defs)
    if not defs:
        raise CfgError(f"{path}:1: found no section, expected [net] and layers")
    if len(defs) == 1:
        raise CfgError(f"{path}:{len(lines)}: found [net] alone, expected layers after it")
    _check_sections(defs)
    return defs


def _read_line(line: str, place: str, defs: list[dict]) -> None:
    """Add one stripped, non-empty cfg line to `defs`."""
    if line.startswith("["):
        if not line.endswith("]"):
            raise CfgError(f"{place}: found {line!r}, expected a section name like [convolutional]")
        kind = line[1:-1].strip()
        kind = _SPELLINGS.get(kind, kind)
        if kind not in SECTION_KEYS:
            raise CfgError(f"{place}: found section [{kind}], expected one of {', '.join(SECTION_KEYS)}{_hint(kind, SECTION_KEYS)}")
        if (kind == "net") != (not defs):
            raise CfgError(f"{place}: found [{kind}], expected [net] as the first section and only there")
        section = Section(type=kind)
        section.where = place
        defs.append(section)
        return
    key, equals, value = (part.strip() for part in line.partition("="))
    if not defs:
        raise CfgError(f"{place}: found {line!r}, expected [net] first")
    if not equals or not key or not value:
        raise CfgError(f"{place}: found {line!r}, expected key=value")
    kind = defs[-1]["type"]
    hint = _hint(key, SECTION_KEYS[kind])
    # [net] holds training options of many Darknet versions; only a misspelt name of a known one is an error there
    if key == "type" or (key not in SECTION_KEYS[kind] and (kind != "net" or hint)):
        raise CfgError(f"{place}: found unknown key {key!r} in [{kind}], expected one of "
                       f"{', '.join(SECTION_KEYS[kind])}{hint}")
    if key in defs[-1]:
        raise CfgError(f"{place}: found a second {key!r} in this [{kind}], expected it once")
    _check_value(SECTION_KEYS[kind].get(key, "any"), key, value, place)
    defs[-1][key] = value


def _hint(word: str, known) -> str:
    close = get_close_matches(word, known, n=1, cutoff=0.75)
    return f"; did you mean {close[0]!r}?" if close else ""


def _check_value(kind: str, key: str, value: str, place: str) -> None:
    if kind == "activation" and value not in ACTIVATIONS:
        raise CfgError(f"{place}: found {key}={value}, expected one of {', '.join(ACTIVATIONS)}{_hint(value, ACTIVATIONS)}")
    if kind not in _KIND_WORDS:
        return
    try:
        # a trailing comma is common in published cfgs; an empty item between two commas is not
        parts = [float(part) for part in (value.rstrip(", ").split(",") if kind.endswith("s") else [value])]
    except ValueError:
        parts = None
    whole = kind.startswith("int")
    if parts is None or any(part != part or abs(part) == float("inf") or (whole and part % 1) for part in parts):
        raise CfgError(f"{place}: found {key}={value}, expected {_KIND_WORDS[kind]}")


def _check_sections(defs: list[dict]) -> None:
    """Checks that need the whole section or the layers before it."""
    for layer_i, section in enumerate(defs[1:]):
        kind = section["type"]
        for key in REQUIRED_KEYS.get(kind, ()):
            if key not in section:
                raise CfgError(f"{section.where}: found [{kind}] without {key!r}, expected {key}=...")
        for key in ("filters", "size", "stride", "groups", "classes"):
            if key in section and integer(section, key) < 1:
                raise CfgError(f"{section.where}: found {key}={section[key]} in [{kind}], expected 1 or more")
        for source in layer_inputs(layer_i, section):
            if not (-1 if source == layer_i - 1 else 0) <= source < layer_i:
                raise CfgError(f"{section.where}: found a reference to layer {source} in layer {layer_i} [{kind}], "
                               f"expected a layer from 0 to {layer_i - 1}")
        if kind in ("yolo", "region"):
            _check_anchors(section)


def _check_anchors(section: Section) -> None:
    count = len(numbers(section, "anchors"))
    if count % 2 or count != 2 * integer(section, "num", count // 2):
        raise CfgError(f"{section.where}: found {count} anchor numbers, expected {2 * integer(section, 'num', count // 2)} "
                       f"(width,height for each of num={section.get('num', count // 2)})")
    for index in integers(section, "mask"):
        if not 0 <= index < count // 2:
            raise CfgError(f"{section.where}: found mask index {index}, expected 0 to {count // 2 - 1}")


def format_model_config(defs: list[dict]) -> str:
    """The cfg text of module_defs: `[type]`, key=value in order, a blank line between sections."""
    blocks = []
    for section in defs:
        lines = [f"[{section['type']}]"] + [f"{key}={value}" for key, value in section.items() if key != "type"]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def write_model_config(path: str | os.PathLike, defs: list[dict]) -> None:
    """Write module_defs as a cfg that parse_model_config reads back equal."""
    write_text(path, format_model_config(defs))


def input_size(defs: list[dict]) -> tuple[int, int]:
    """(width, height) in pixels that the cfg was made for; 416 where it does not say."""
    return integer(defs[0], "width", 416), integer(defs[0], "height", 416)


def head_indices(defs: list[dict]) -> list[int]:
    """Layer indices of the detection layers ([yolo], [region]), in cfg order."""
    return [i for i, section in enumerate(defs[1:]) if section["type"] in ("yolo", "region")]


def class_count(defs: list[dict]) -> int:
    """Number of classes of the detection layers. Raises CfgError when there is none or they differ."""
    counts = {integer(defs[1 + i], "classes") for i in head_indices(defs)}
    if len(counts) != 1:
        raise CfgError(f"{where(defs[0])}: found class counts {sorted(counts)} in the [yolo] layers, expected one number")
    return counts.pop()


def head_anchors(section: dict) -> list[tuple[float, float]]:
    """(width, height) of the anchors a detection layer uses: pixels for [yolo], grid cells for [region]."""
    flat = numbers(section, "anchors")
    pairs = list(zip(flat[::2], flat[1::2]))
    return [pairs[i] for i in integers(section, "mask")] if "mask" in section else pairs


def rebuild_heads(defs: list[dict], classes: int) -> list[dict]:
    """Copies of module_defs whose detection layers have `classes` classes and whose head convolutions fit them."""
    fresh = [section.copy() for section in defs]
    for i in head_indices(defs):
        yolo, conv = fresh[1 + i], fresh[i]
        if conv["type"] != "convolutional":
            raise CfgError(f"{where(yolo)}: found [{conv['type']}] before [{yolo['type']}], expected [convolutional]")
        yolo["classes"] = str(classes)
        conv["filters"] = str(len(head_anchors(yolo)) * (5 + classes))
    return fresh

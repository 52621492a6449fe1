"""Darknet .cfg files as lists of dicts.

A parsed cfg is `module_defs`: `[net]` first, then one dict a layer, in file order. Every dict has the key `type`; all
other values stay the strings that the file holds (so a file survives a round trip); `integer`, `number`, `integers` and
`numbers` turn them into values where they are needed. The parser has already checked that they can.
"""

import os
import re
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Iterable, Mapping

from utils.cfg_keys import (
    FORKS,
    KIND_WORDS,
    NOT_COMPUTED,
    NOT_SUPPORTED,
    ONE_REFERENCE,
    RANGES,
    REQUIRED_KEYS,
    SECTION_KEYS,
    SPELLINGS,
)
from utils.layers import ACTIVATIONS, MIXING, default_activation
from utils.limits import MOST_ANCHOR_PX, MOST_CFG_BYTES, MOST_LAYERS
from utils.origin import missing
from utils.output import write_text
from utils.text import MARK_ANYWHERE, CfgError, TextError, read_lines, shown

HEADS = ("yolo", "region", "Gaussian_yolo")
# the key that names other layers
REFERENCES = {"route": "layers", "shortcut": "from", "scale_channels": "from", "sam": "from"}
DEFAULT_CLASSES = 20  # of a detection layer that does not say, as in Darknet
SE_REDUCTION = 4  # of a [se] section that does not say (MobileNetV3's, Howard et al. 2019, section 5.3)


class Section(dict):
    """One section of a cfg: a plain dict that remembers its place in the file (`where`, "file:line") for error messages
    and, if only forks know it, its name there (`fork`)."""

    where = ""
    fork = ""

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
    if kind in REFERENCES:
        return [layer_i - 1] + [resolve(layer_i, ref) for ref in integers(section, REFERENCES[kind])]
    return [layer_i - 1]


def parse_model_config(path: str | os.PathLike) -> list[dict]:
    """Read a Darknet cfg: `[net]` first, then one dict a layer, values as strings.

    `#` and `;` start a comment anywhere on a line. Sections that only PyTorch forks know ([se], [depthwise],
    [route_lhalf]) come back as the layers of Darknet that compute the same. Raises CfgError ("file:line: found,
    expected") for anything that could not be built, FileNotFoundError when there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, "cfg file")
    try:
        lines = read_lines(path, "a Darknet cfg", MARK_ANYWHERE, MOST_CFG_BYTES)
    except TextError as error:
        raise CfgError(str(error)) from None
    return _defs_of([(f"{path}:{line_i}", line) for line_i, line in enumerate(lines, start=1)], path)


def checked_defs(sections: object, place: str) -> list[dict]:
    """module_defs that a file holds as a list of dicts, after all checks of parse_model_config.

    place: the file, for messages. Raises CfgError where they are no such list, or no net that can be built.
    """
    listed = isinstance(sections, (list, tuple))
    if not listed or not sections or not all(isinstance(one, Mapping) and "type" in one for one in sections):
        kinds = sorted({type(section).__name__ for section in sections}) if listed else type(sections).__name__
        raise CfgError(f"{place}: found module_defs of {str(kinds)[:100]}, expected a list of cfg sections (dicts with "
                       "a type)")
    return _defs_of([line for section_i, section in enumerate(sections)
                     for line in _lines_of(section, f"{place}: module_defs[{section_i}]")], place)


def _lines_of(section: Mapping, place: str) -> list[tuple[str, str]]:
    """(place, line)s of a cfg that hold a section, without what decides nothing: that was noted when it was read."""
    for key, value in section.items():
        if not isinstance(key, str) or not isinstance(value, str) or re.search(r"[\r\n#;]", key + value):
            raise CfgError(f"{place}: found {shown(key)}: {shown(value)}, expected text of a cfg")
    kind = section["type"]
    decides = {**SECTION_KEYS.get(kind, {}), **NOT_COMPUTED.get(kind, {})}
    return [(place, f"[{kind}]")] + [(place, f"{key}={value}") for key, value in section.items() if key in decides]


def _defs_of(lines: Iterable[tuple[str, str]], path: str | os.PathLike) -> list[dict]:
    """module_defs of (place, line)s of a cfg."""
    defs: list[Section] = []
    for place, raw in lines:
        line = re.split(r"[#;]", raw, maxsplit=1)[0].strip()
        if line:
            _read_line(line, place, defs)
    if not defs:
        raise CfgError(f"{path}:1: found no section, expected [net] and layers")
    if len(defs) == 1:
        raise CfgError(f"{defs[0].where}: found [net] alone, expected layers after it")
    for section in defs:
        _check_section(section)
    _check_references(defs)
    return _expanded(defs)


def _read_line(line: str, place: str, defs: list[Section]) -> None:
    """Add one stripped, non-empty cfg line to `defs`."""
    if line.startswith("["):
        if len(defs) > MOST_LAYERS:
            raise CfgError(f"{place}: found more than {MOST_LAYERS:,} layers, expected at most as many")
        defs.append(_read_header(line, place, first=not defs))
        return
    key, equals, value = (part.strip() for part in line.partition("="))
    if not defs:
        raise CfgError(f"{place}: found {line!r}, expected [net] first")
    if key and not value and _decides_nothing(defs[-1], key, bool(equals)):
        note(f"{place}: {line!r} has no value: as if it were not there, as in Darknet")
        return
    if not equals or not key or not value:
        raise CfgError(f"{place}: found {line!r}, expected key=value, a list on one line")
    _read_key(defs[-1], key, value, place)


def _read_header(line: str, place: str, first: bool) -> Section:
    """The empty section that a line like [convolutional] opens."""
    if not line.endswith("]"):
        raise CfgError(f"{place}: found {line!r}, expected a section name like [convolutional]")
    kind = line[1:-1].strip()
    kind = SPELLINGS.get(kind, kind)
    if kind in NOT_SUPPORTED:
        raise CfgError(f"{place}: found section [{kind}], expected a layer that can be built: {NOT_SUPPORTED[kind]}")
    if kind not in SECTION_KEYS and kind not in FORKS:
        raise CfgError(f"{place}: found section [{kind}], expected one of {', '.join(SECTION_KEYS)}"
                       f"{_hint(kind, SECTION_KEYS)}")
    if (kind == "net") != first:
        raise CfgError(f"{place}: found [{kind}], expected [net] as the first section and only there")
    section = Section(type=FORKS.get(kind, kind))
    section.where, section.fork = place, kind if kind in FORKS else ""
    return section


def _read_key(section: Section, key: str, value: str, place: str) -> None:
    """Add key=value to `section`, or say why it cannot be there."""
    kind = section["type"]
    known = SECTION_KEYS[kind]
    if key in section and key != "type":
        if value != section[key] and known.get(key, "any") != "any":
            raise CfgError(f"{place}: found a second {key!r} in this [{kind}], {value} after {section[key]}, "
                           "expected it once")
        note(f"{place}: a second {key!r} in this [{kind}]: the first counts, {section[key]}, as in Darknet")
        return
    if key in NOT_COMPUTED.get(kind, {}):
        _check_allowed(kind, key, value, place)
    elif key not in known or key == "type":
        _check_stray(kind, key, place)
    else:
        _check_value(known[key], key, value, place)
    section[key] = value


def _decides_nothing(section: Section, key: str, is_key: bool) -> bool:
    """Whether a key says nothing of what the net computes; is_key: whether it is one for certain, whatever its name, as
    an = behind it says."""
    kind = section["type"]
    return SECTION_KEYS[kind].get(key, "any" if kind == "net" and is_key else "") == "any"


def _check_allowed(kind: str, key: str, value: str, place: str) -> None:
    """`key` asks for something that is not computed here, unless it has its one harmless value."""
    allowed, words = NOT_COMPUTED[kind][key]
    try:
        harmless = value == allowed or float(value) == float(allowed)
    except (TypeError, ValueError):
        harmless = False
    if not harmless:
        expected = f"{key}={allowed}" if allowed else f"no {key!r}"
        raise CfgError(f"{place}: found {key}={value} in [{kind}], expected {expected}: it asks for {words}, "
                       "which this program does not compute")


def _check_stray(kind: str, key: str, place: str) -> None:
    """A key that Darknet does not read in this section: kept where it is a key of another one, else an error."""
    hint = _hint(key, SECTION_KEYS[kind])
    elsewhere = kind != "net" and any(key in keys for keys in SECTION_KEYS.values())
    # [net] and the heads hold training options of many programs; only a misspelt name of a known one is an error there
    if key != "type" and (elsewhere or (kind in ("net", *HEADS) and not hint)):
        note(f"{place}: {key!r} means nothing in [{kind}], as in Darknet")
        return
    raise CfgError(f"{place}: found unknown key {key!r} in [{kind}], expected one of "
                   f"{', '.join(SECTION_KEYS[kind])}{hint}")


@lru_cache(maxsize=None)
def note(text: str) -> None:
    """Say something about a cfg, once, however often it is read."""
    print(f"note: {text}")


def _hint(word: str, known) -> str:
    close = get_close_matches(word, known, n=1, cutoff=0.75)
    return f"; did you mean {close[0]!r}?" if close else ""


def _check_value(kind: str, key: str, value: str, place: str) -> None:
    if kind == "activation" and value not in ACTIVATIONS:
        mixed = ", not one that mixes channels" if value in MIXING else ""
        raise CfgError(f"{place}: found {key}={value}, expected one of {', '.join(ACTIVATIONS)}{mixed}"
                       f"{_hint(value, ACTIVATIONS)}")
    if kind not in KIND_WORDS:
        return
    try:
        plain = value.isascii() and "_" not in value  # Python reads 1_6, and the digits of all scripts
        parts = [float(part) for part in _items(kind, value)] if plain else []
    except ValueError:
        parts = None
    whole = kind.startswith("int")
    if not parts or any(part != part or abs(part) == float("inf") or (whole and part % 1) for part in parts):
        raise CfgError(f"{place}: found {key}={value}, expected {KIND_WORDS[kind]}")


def _items(kind: str, value: str) -> list[str]:
    """The numbers in a value, as text. Published cfgs have commas at the end; nothing between two commas is an
    error."""
    if not kind.endswith("s"):
        return [value]
    items = value.strip(", \t").split(",")
    return [part for item in items for part in item.split() or [""]] if kind == "anchors" else items


def _check_section(section: Section) -> None:
    """Checks that need the whole section."""
    kind = section["type"]
    if section.fork == "depthwise":
        section["groups"] = section.get("filters", "1")
    elif section.fork == "route_lhalf":
        section.update(groups="2", group_id="0")
    for key in REQUIRED_KEYS.get(kind, ()):
        if key not in section:
            raise CfgError(f"{section.where}: found [{kind}] without {key!r}, expected {key}=...")
    for key, (least, most, words) in RANGES.items():
        if key in section and SECTION_KEYS[kind].get(key, "any") != "any" and not (
                least <= number(section, key) <= most):
            raise CfgError(f"{section.where}: found {key}={section[key]} in [{kind}], expected {words}")
    if kind in ONE_REFERENCE and len(integers(section, "from")) != 1:
        raise CfgError(f"{section.where}: found from={section['from']} in [{kind}], expected one layer")
    if integer(section, "cbn") and not integer(section, "batch_normalize"):
        raise CfgError(f"{section.where}: found cbn=1 without batch_normalize=1, expected both")
    if kind in HEADS:
        _check_anchors(section)


def _check_references(defs: list[Section]) -> None:
    for layer_i, section in enumerate(defs[1:]):
        for source in layer_inputs(layer_i, section):
            if not (-1 if source == layer_i - 1 else 0) <= source < layer_i:
                raise CfgError(f"{section.where}: found a reference to layer {source} in layer {layer_i} "
                               f"[{section['type']}], expected a layer from 0 to {layer_i - 1}")
            if source >= 0 and (head := section_of(defs, source)["type"]) in HEADS:
                raise CfgError(f"{section.where}: found layer {layer_i} [{section['type']}] reading layer {source} "
                               f"[{head}], expected a layer that is no detection head: Darknet hands on decoded values "
                               "there; put a [route] to another layer before it")


def _check_anchors(section: Section) -> None:
    """Darknet reads the first 2 x num anchors. It takes blanks out of a line; here they divide where nothing else
    does."""
    text = section["anchors"]
    divided = _items("anchors", text)
    joined = ["".join(item.split()) for item in text.strip(", \t").split(",")]
    needed = 2 * integer(section, "num", len(divided) // 2)
    items = joined if len(joined) >= needed and len(divided) != needed else divided
    if len(items) < needed or needed < 2 or ("num" not in section and len(items) % 2):
        raise CfgError(f"{section.where}: found {len(items)} anchor numbers, expected {max(needed, 2)} "
                       f"(width,height for each of num={section.get('num', max(1, needed // 2))})")
    if items != joined:
        note(f"{section.where}: anchors divided by blanks are read as if by commas; Darknet reads them otherwise")
    if divided != joined:
        section["anchors"] = ",".join(items)
    if len(items) > needed:
        note(f"{section.where}: {len(items)} anchor numbers: the first {needed} count, width,height for each of "
             f"num={needed // 2}, as in Darknet")
    for item in items[:needed]:
        if not 0 < float(item) <= MOST_ANCHOR_PX:
            raise CfgError(f"{section.where}: found an anchor of {item}, expected widths and heights over 0 and up to "
                           f"{MOST_ANCHOR_PX:,}")
    for index in integers(section, "mask"):
        if not 0 <= index < needed // 2:
            raise CfgError(f"{section.where}: found mask index {index}, expected 0 to {needed // 2 - 1}")


def _expanded(defs: list[Section]) -> list[Section]:
    """module_defs in which a [se] section is written out as Darknet's layers, references moved on."""
    place, fresh = {-1: -1}, [defs[0]]
    for old_i, section in enumerate(defs[1:]):
        if section["type"] == "se":
            fresh += _squeeze_and_excitation(section, defs[:1 + old_i])
        else:
            moved = len(fresh) - 1 != old_i
            fresh.append(renumbered(section, old_i, len(fresh) - 1, place) if moved else section)
        place[old_i] = len(fresh) - 2
    return fresh


def renumbered(section: Section, old_i: int, new_i: int, place: dict[int, int]) -> Section:
    """A copy of layer `old_i`, now layer `new_i`, its references moved by `place`, old index -> new index; relative
    ones stay relative."""
    twin = section.copy()
    if key := REFERENCES.get(section["type"]):
        refs = integers(section, key)
        moved = [place[resolve(old_i, ref)] for ref in refs]
        twin[key] = ",".join(str(new - new_i if ref < 0 else new) for ref, new in zip(refs, moved))
    return twin


def _squeeze_and_excitation(section: Section, before: list[Section]) -> list[Section]:
    """The layers of a [se] section (Hu et al. 2018; the hard sigmoid of Howard et al. 2019, section 5.3): mean over the
    map, two 1x1 convolutions, the second as wide as the map, product."""
    widths = [other["filters"] for other in before if other["type"] == "convolutional"]
    if "filters" not in section and not widths:
        raise CfgError(f"{section.where}: found [se] without 'filters' and no convolution before it, "
                       "expected filters=...")
    channels = integer(section, "filters", int(widths[-1]) if widths else 0)
    hidden = max(1, channels // integer(section, "reduction", SE_REDUCTION))
    dense = {"type": "convolutional", "size": "1", "stride": "1", "pad": "1"}
    layers = [Section(layer) for layer in (
        {"type": "avgpool"}, {**dense, "filters": str(hidden), "activation": "relu"},
        {**dense, "filters": str(channels), "activation": "h_sigmoid"}, {"type": "scale_channels", "from": "-4"})]
    for layer in layers:
        layer.where = section.where
    return layers


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


def resized(defs: list[dict], width: int, height: int) -> list[dict]:
    """module_defs made for images of that size in pixels; the layers are not copied."""
    net = defs[0].copy()
    net["width"], net["height"] = str(width), str(height)
    return [net, *defs[1:]]


def explicit(defs: list[dict]) -> list[dict]:
    """Copies of module_defs with the keys written out for which Darknet, OpenCV and others assume different values
    where a cfg leaves them out (parser.c, darknet_io.cpp): a missing activation is linear to OpenCV, logistic to
    Darknet."""
    return [_explicit(section) for section in defs]


def _explicit(section: dict) -> dict:
    stride = section.get("stride", "1")
    pool = {"size": section.get("size", stride), "stride": stride}
    head = {"classes": str(DEFAULT_CLASSES), "num": str(len(numbers(section, "anchors")) // 2)}
    defaults = {"net": {"width": "416", "height": "416", "channels": "3"},
                "convolutional": {"size": "1", "stride": "1", "activation": default_activation("convolutional")},
                "maxpool": pool | {"padding": str(integer(pool, "size") - 1)},
                "upsample": {"stride": "2"}, "reorg": {"stride": "1"}, "reorg3d": {"stride": "1"},
                "yolo": head, "Gaussian_yolo": head,
                "region": head | {"coords": "4"}}
    defaults["local_avgpool"] = defaults["maxpool"]
    defaults |= {kind: {"activation": default_activation(kind)} for kind in ("shortcut", "scale_channels", "sam")}
    full = section.copy()
    for key, value in defaults.get(section["type"], {}).items():
        full.setdefault(key, value)
    if full.get("activation") == "silu":  # PyTorch's name of what Darknet calls swish
        full["activation"] = "swish"
    return full


def section_of(defs: list[dict], layer_i: int) -> dict:
    """The section of a layer; layers are counted from 0 after [net]."""
    return defs[1 + layer_i]


def head_indices(defs: list[dict]) -> list[int]:
    """Layer indices of the detection layers ([yolo], [region]), in cfg order."""
    return [i for i, section in enumerate(defs[1:]) if section["type"] in HEADS]


def class_count(defs: list[dict]) -> int:
    """Number of classes of the detection layers. Raises CfgError when there is none or they differ."""
    counts = {integer(section_of(defs, i), "classes", DEFAULT_CLASSES) for i in head_indices(defs)}
    if len(counts) != 1:
        raise CfgError(f"{where(defs[0])}: found class counts {sorted(counts)} in the [yolo] layers, expected one "
                       "number")
    return counts.pop()


def head_anchors(section: dict) -> list[tuple[float, float]]:
    """(width, height) of the anchors a detection layer uses: pixels for [yolo], grid cells for [region]."""
    flat = numbers(section, "anchors")
    pairs = list(zip(flat[::2], flat[1::2]))[:integer(section, "num", len(flat))]
    return [pairs[i] for i in integers(section, "mask")] if "mask" in section else pairs


def head_entries(section: dict) -> int:
    """Channels per anchor of a detection layer: box, objectness, classes; of [Gaussian_yolo] also four
    uncertainties."""
    return (9 if section["type"] == "Gaussian_yolo" else 5) + integer(section, "classes", DEFAULT_CLASSES)


def rebuild_heads(defs: list[dict], classes: int) -> list[dict]:
    """Copies of module_defs whose detection layers have `classes` classes and whose head convolutions fit them."""
    fresh = [section.copy() for section in defs]
    for i in head_indices(defs):
        yolo, conv = fresh[1 + i], fresh[i]
        if conv["type"] != "convolutional":
            raise CfgError(f"{where(yolo)}: found [{conv['type']}] before [{yolo['type']}], expected [convolutional]")
        yolo["classes"] = str(classes)
        conv["filters"] = str(len(head_anchors(yolo)) * head_entries(yolo))
    return fresh

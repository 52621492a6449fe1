"""What an exported file says about itself: all that a program needs besides the file to find objects in a picture."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from utils.class_names import numbered_names
from utils.letterbox import input_channels
from utils.limits import MOST_CLASSES, MOST_SIDE_PX
from utils.parse_config import class_count
from utils.shapes import largest_stride


@dataclass(frozen=True)
class BuiltInNms:
    """Thresholds of a non-maximum suppression that is part of the file."""

    conf_thres: float = 0.25  # on objectness
    nms_thres: float = 0.5  # IoU over which the weaker of two boxes of one class goes
    max_det: int = 300  # per image


@dataclass(frozen=True)
class Metadata:
    """Of an exported net. Pixels: RGB (or brightness) / 255, letterboxed on grey (utils.letterbox)."""

    names: tuple[str, ...]  # of the classes
    size: tuple[int, int]  # (width, height) of the input in pixels
    stride: int  # of which sides must be multiples where the size is free
    anchors: tuple[tuple[tuple[float, float], ...], ...]  # per head (width, height) in pixels; [region]: in cells
    channels: int = 3  # of its images; 1: brightness
    precision: str = "float32"
    free_size: bool = False  # whether inputs of other sizes are taken
    nms: BuiltInNms | None = None
    made_from: str = ""  # net_hash of the net; empty: not known, or not to be taken by --backend auto

    def to_text(self) -> dict[str, str]:
        """Every field as JSON text, as ONNX and OpenVINO keep it."""
        return {key: json.dumps(value, ensure_ascii=False) for key, value in asdict(self).items()}

    @classmethod
    def from_text(cls, fields: dict[str, str], path: Path) -> "Metadata":
        """The inverse of to_text. Raises ValueError, naming the file, when a field is missing or wrong."""
        try:
            fields = {"made_from": '""', **fields}  # files of earlier versions have none
            found = {key: json.loads(fields[key]) for key in cls.__dataclass_fields__}
            nms = BuiltInNms(**found["nms"]) if found["nms"] else None
            anchors = tuple(tuple((float(w), float(h)) for w, h in head) for head in found["anchors"])
            width, height = (int(side) for side in found["size"])
            bounds = ((width, MOST_SIDE_PX), (height, MOST_SIDE_PX), (int(found["stride"]), MOST_SIDE_PX),
                      (int(found["channels"]), 3), (len(found["names"]), MOST_CLASSES))
            if not all(1 <= value <= most for value, most in bounds):
                raise ValueError(f"width, height, stride, channels, classes: {[value for value, _ in bounds]}")
            return cls(tuple(str(name) for name in found["names"]), (width, height), int(found["stride"]), anchors,
                       int(found["channels"]), str(found["precision"]), bool(found["free_size"]), nms,
                       str(found["made_from"]))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path}: found no usable names, size and stride in it ({type(error).__name__}: "
                             f"{str(error)[:200]}), "
                             "expected a file that export.py wrote") from None

    def require_size(self, size: tuple[int, int], path: Path) -> None:
        """Raise ValueError, in words, unless the file takes images of (width, height) `size`."""
        if self.free_size and all(side > 0 and side % self.stride == 0 for side in size):
            return
        if size != self.size:
            expected = (
                f"multiples of {self.stride}"
                if self.free_size
                else f"{self.size[0]}x{self.size[1]}, the size it was exported for"
            )
            raise ValueError(f"{path}: found images of {size[0]}x{size[1]}, expected {expected}; leave --img_size out, "
                             "or export again with it")


def net_hash(model: nn.Module) -> str:
    """SHA-256 of what a Darknet computes: its layers and its weights, of whatever device; neither the input size nor
    the training settings of [net]."""
    digest = hashlib.sha256()
    for section in model.module_defs[1:]:
        digest.update(json.dumps(sorted(section.items()), default=str).encode())
    for key, value in sorted(model.state_dict().items()):
        if not key.endswith("num_batches_tracked"):
            digest.update(key.encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def metadata_of(model: nn.Module, names: tuple[str, ...] | None, size: tuple[int, int], precision: str) -> Metadata:
    """Of a Darknet; classes without names are called class0, class1, ..."""
    defs = model.module_defs
    names = tuple(names or numbered_names(class_count(defs)))
    anchors = tuple(tuple((float(w), float(h)) for w, h in head.anchors.tolist()) for head in model.heads())
    return Metadata(names, size, largest_stride(defs), anchors, input_channels(model), precision,
                    made_from=net_hash(model))

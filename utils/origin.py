"""Where a file that is missing comes from."""

import os
import re
from pathlib import Path

PUBLIC_WEIGHTS = {"yolov3.weights": 248_007_048, "darknet53.conv.74": 162_482_580}  # bytes
PUBLIC_CLASSES = 80  # of yolov3.weights: COCO's
RECIPES = {  # pattern of the path's end -> what makes such a file
    r"(prune\d*_[^/]+|[^/]+-pruned\d*)(-init)?\.(cfg|pth|weights)": "python test_prune.py makes it",
    r"([^/]+_ckpt\.pth|best\.pt|(best|last)\.pth)": "python train.py makes it",
    r"data/(train|valid)\.txt": "python data/converter.py makes it of the Oxford hand release, which python "
                                "data/download_oxford.py fetches",
    r"[^/]+-hand(-w\d+)?\.cfg": "python config/create_hand_model.py makes such cfgs",
} | {re.escape(name): f"python weights/download_weights.py {name} fetches it" for name in PUBLIC_WEIGHTS}


def origin(path: str | os.PathLike) -> str:
    """The end of an error: "; what makes or fetches a file of this name", or "" where the project does not."""
    name = Path(path).as_posix()
    return next((f"; {words}" for pattern, words in RECIPES.items() if re.search(rf"(^|/){pattern}$", name)), "")


def missing(path: str | os.PathLike, kind: str) -> FileNotFoundError:
    """The error to raise where `path`, a file of that kind, is not there."""
    return FileNotFoundError(f"{path}: no such {kind}{origin(path)}")

"""Names in the new set: one folder for all pictures, no two labels of one name, nothing that a list cannot hold."""

import hashlib
import re
from collections import Counter
from pathlib import Path

MAX_BYTES = 200  # file systems take 255, with room for endings
_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\/]|[\ud800-\udfff]')  # refused by Windows, by lists or by UTF-8


def unique_names(images: list[Path]) -> list[str]:
    """A file name for each picture: its own, with as many of its folders before it as tell it from the others.

    Unique by what precedes the ending, whatever its case: a.jpg and A.png would share the label a.txt.
    """
    tails = [[_safe(part) for part in image.absolute().parts[1:]] for image in images]
    depth, names = [1] * len(images), [""] * len(images)
    while True:
        names = ["_".join(tail[-n:]) for tail, n in zip(tails, depth)]
        taken = Counter(map(_label_key, names))
        clashes = [i for i, name in enumerate(names) if taken[_label_key(name)] > 1 and depth[i] < len(tails[i])]
        if not clashes:
            break
        for i in clashes:
            depth[i] += 1
    return [_numbered(name, image, taken[_label_key(name)] > 1) for name, image in zip(names, images)]


def _safe(text: str) -> str:
    return _UNSAFE.sub("_", text)


def _label_key(name: str) -> str:
    return name.rpartition(".")[0].casefold() or name.casefold()


def _numbered(name: str, image: Path, clashes: bool) -> str:
    """`name`, cut where it is too long; with a digest of its path where that, or nothing else, tells it from others."""
    stem, dot, suffix = name.rpartition(".")
    if not clashes and len(name.encode()) <= MAX_BYTES:
        return name
    digest = hashlib.sha1(str(image.absolute()).encode(errors="surrogatepass")).hexdigest()[:8]
    kept = stem.encode()[:MAX_BYTES - 20].decode(errors="ignore")
    return f"{kept}-{digest}{dot}{suffix}"

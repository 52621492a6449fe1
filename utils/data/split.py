"""Training and validation sides: the source's own, or by group, so that frames of one film stay together."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from utils.data.annotations import Sample
from utils.data.yolo_labels import DataError
from utils.text import is_whole

# IMG_7_jpg.rf.0f1e2d: Roboflow's name of each augmented copy of IMG_7.jpg
_EXPORTED = re.compile(r"_(jpg|jpeg|png|bmp|webp|tiff?)\.rf\.[0-9a-z]+$", re.IGNORECASE)
_NUMBER = re.compile(r"[\s_.#-]*\(?\d+\)?$")


def original_stem(path: Path) -> str:
    """A picture's name without ending and without what an export added."""
    return _EXPORTED.sub("", path.stem)


def group_of(sample: Sample, by: str) -> str:
    """What has to stay on one side: by film (names of one folder that differ in a trailing number), folder, or none."""
    folder = str(sample.image.parent)
    if by == "none":
        return f"{folder}/{original_stem(sample.image)}"
    if sample.group is not None:
        return sample.group
    return folder if by == "folder" else f"{folder}/{_NUMBER.sub('', original_stem(sample.image))}"


def source_parts(samples: list[Sample]) -> list[str] | None:
    """The source's own split; None where it has none. A test side serves for validation where there is no other."""
    said = {sample.part for sample in samples} - {None}
    if len(said) < 2 or not said & {"valid", "test"}:
        return None
    swap = {"test": "valid"} if "valid" not in said else {}
    parts = [swap.get(sample.part, sample.part) or "train" for sample in samples]
    return parts if "train" in parts else None


def split_parts(samples: list[Sample], by: str, share: float, seed: int) -> tuple[list[str], str]:
    """train or valid for each sample, `share` of them valid as nearly as whole groups allow; and how, in words."""
    groups = defaultdict(list)
    for i, sample in enumerate(samples):
        groups[group_of(sample, by)].append(i)
    if share == 0:
        return ["train"] * len(samples), "no validation side (--valid 0)"
    if len(groups) == 1:
        valid = _block([sample.image for sample in samples], share, seed)
        how = f"one {by} only: a block of consecutive names is for validation; near-duplicates at its ends are likely"
    else:
        chosen = choose_groups({name: len(members) for name, members in groups.items()}, share, seed)
        valid = {i for name in chosen for i in groups[name]}
        how = f"by {by}: {len(chosen):,} of {len(groups):,} groups, seed {seed}"
    return ["valid" if i in valid else "train" for i in range(len(samples))], how


def choose_groups(sizes: dict[str, int], share: float, seed: int) -> set[str]:
    """Groups whose sizes add up to `share` of all as nearly as a seeded order finds them; never none, never all."""
    order = sorted(sizes)
    np.random.default_rng(seed).shuffle(order)
    target, total, chosen = share * sum(sizes.values()), 0, set()
    for name in order:
        if abs(total + sizes[name] - target) < abs(total - target) and len(chosen) < len(order) - 1:
            chosen.add(name)
            total += sizes[name]
    return chosen or {min(order, key=lambda name: (sizes[name], order.index(name)))}


def named_parts(samples: list[Sample], by: str, named: dict[str, list[str]]) -> tuple[list[str], str]:
    """The part under which a sample's group is named in `named` (part -> groups, their folders left away), else train.

    Raises DataError on a name that is no group or is named for both, and where none is left to train.
    """
    flags = " and ".join(f"--{part}-groups" for part, names in named.items() if names)
    sides = Counter(name for names in named.values() for name in set(names))
    both = sorted(name for name, count in sides.items() if count > 1)
    if both:
        raise DataError(f"{flags}: found {', '.join(both)} in both, expected each group on one side")
    groups = [Path(group_of(sample, by)).name for sample in samples]
    part_of = {name: part for part, names in named.items() for name in names}
    missing = sorted(set(part_of) - set(groups))
    if missing:
        raise DataError(f"--{part_of[missing[0]]}-groups: found {', '.join(missing)}, expected groups by {by}: "
                        f"{', '.join(sorted(set(groups))[:12])}")
    if set(groups) == set(part_of):
        raise DataError(f"{flags}: found all {len(part_of):,} groups by {by}, expected some to be left to train")
    said = "; ".join(f"{part}: {', '.join(names)}" for part, names in named.items() if names)
    return [part_of.get(group, "train") for group in groups], f"by {by}: {said}; train: the others"


def _block(images: list[Path], share: float, seed: int) -> set[int]:
    """Indices of one block of consecutive names, at a seeded place."""
    order = sorted(range(len(images)), key=lambda i: _natural(images[i]))
    length = min(max(round(share * len(order)), 1), max(len(order) - 1, 0))
    start = int(np.random.default_rng(seed).integers(len(order) - length + 1))
    return set(order[start:start + length])


def _natural(path: Path) -> list:
    """A key that puts frame_9 before frame_10."""
    return [(0, int(word), "") if is_whole(word) else (1, 0, word) for word in re.findall(r"[0-9]+|[^0-9]+", str(path))]

"""Classes renamed, chosen, merged; flagged boxes left out; a picture that is listed twice is one."""

import re
from collections import Counter, defaultdict

from utils.data.annotations import Annotations, Faults
from utils.data.yolo_labels import DataError


def one_line(name: str) -> str:
    """A class name as a file of names can hold it: without line ends and control characters, in Unicode."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", name).encode("utf-8", "replace").decode().split())


def rename(annotations: Annotations, renamed: dict[str, str]) -> None:
    """Give classes new names; several of one new name become one class. Raises DataError on an unknown one."""
    _check_names(renamed, annotations.names, "--map")
    annotations.names = list(dict.fromkeys(renamed.get(name, name) for name in annotations.names))
    for sample in annotations.samples:
        sample.boxes = [box._replace(name=renamed.get(box.name, box.name)) for box in sample.boxes]


def choose(annotations: Annotations, names: list[str]) -> Counter:
    """Keep these classes alone, in this order. Returns how many boxes of each other class went."""
    _check_names(names, annotations.names, "--classes")
    chosen = set(names)
    left_out = Counter(box.name for sample in annotations.samples for box in sample.boxes if box.name not in chosen)
    annotations.names = list(dict.fromkeys(names))
    for sample in annotations.samples:
        sample.boxes = [box for box in sample.boxes if box.name in chosen]
    return left_out


def drop_flagged(annotations: Annotations, flags: set[str]) -> Counter:
    """Leave out boxes that the source flags so. Returns how many went, by flag (by the first that tells)."""
    gone = Counter()
    for sample in annotations.samples:
        kept = []
        for box in sample.boxes:
            flag = next((flag for flag in box.flags if flag in flags), None)
            if flag is None:
                kept.append(box)
            else:
                gone[flag] += 1
        sample.boxes = kept
    return gone


def join_repeated(annotations: Annotations, faults: Faults) -> int:
    """One sample per picture, none of a picture whose samples differ, which is a fault. Returns how many pictures were
    there more than once and alike."""
    samples = defaultdict(list)
    for sample in annotations.samples:
        samples[sample.path].append(sample)
    annotations.samples, repeated = [], 0
    for first, *others in samples.values():
        other = next((other for other in others if sorted(other.boxes) != sorted(first.boxes)), None)
        if other is not None:
            faults.add(f"{other.place}: found {first.image} again, with other boxes than in "
                       f"{first.place}; expected it once")
        else:
            annotations.samples.append(first)
            repeated += bool(others)
    faults.stop()
    return repeated


def _check_names(wanted, names: list[str], flag: str) -> None:
    known = set(names)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise DataError(f"{flag}: found {', '.join(unknown)}, expected classes of the source: "
                        f"{', '.join(names)[:300] or 'none'}")

"""Files at fixed names that another run's are about to replace: what they are, and where they are afterwards."""

from itertools import count
from pathlib import Path
from typing import Callable, Iterable

import torch

from utils.checkpoint import CheckpointError, copy_file, is_torch_file, read_checkpoint


def keep_replaced(paths: Iterable[Path], own: Callable[[dict], bool], others: Iterable[Path] = ()) -> list[str]:
    """Make sure that the checkpoints `paths`, about to be written, lose nothing: a line for each that holds another
    net.

    own: content of a checkpoint -> whether it is what is written now, or an earlier state of it. A net that its run
    folder, or an *-init file beside one of them, holds stays there; any other is copied to *-before, *-before2, ... .
    others: files that belong to the checkpoints, such as their cfg, copied beside them when one of those is another's.
    """
    lines, kept = [], {}
    old = {path: _content(path) for path in paths if path.is_file()}
    foreign = {path: content for path, content in old.items() if content is None or not own(content)}
    for path, content in foreign.items():
        place = _holder(content, old) if content else None
        twin = next((other for other in kept if content and foreign[other] and same_weights(content, foreign[other])),
                    None)
        if place is None and twin is None:
            kept[path] = keep(path)
        place = f"in {place}" if place else f"kept as {kept[twin or path]}"
        lines.append(f"{path}: replaces {_about(content)}, which is {place}")
    if foreign or not old:
        lines += [f"{path}: replaces an older file, which is kept as {keep(path)}" for path in others if path.is_file()]
    return lines


def keep(path: Path) -> Path:
    """Copy a file to a name beside it that is free: *-before, *-before2, ...; returns that."""
    names = (path.with_name(f"{path.stem}-before{number if number > 1 else ''}{path.suffix}") for number in count(1))
    kept = next(name for name in names if not name.exists())
    copy_file(path, kept)
    return kept


def same_weights(one: dict, other: dict) -> bool:
    """Whether two checkpoints hold equal tensors."""
    a, b = one["model"], other["model"]
    return a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a)


def _content(path: Path) -> dict | None:
    """A checkpoint's content; None for what is none."""
    try:
        return read_checkpoint(path) if is_torch_file(path) else None
    except CheckpointError:
        return None


def _holder(content: dict, replaced: Iterable[Path]) -> Path | None:
    """The file of its run folder, or the *-init beside one of `replaced`, that holds the net of `content` as well."""
    folder = Path("logs") / str(content.get("run"))
    inits = [path.with_name(f"{path.stem}-init{path.suffix}") for path in replaced]
    held = {place: _content(place) for place in (folder / "best.pth", folder / "last.pth", *inits) if place.is_file()}
    return next((place for place, other in held.items() if other and same_weights(content, other)), None)


def _about(content: dict | None) -> str:
    """Run, cfg and data of a checkpoint, as far as it says."""
    if content is None:
        return "a file that is no checkpoint"
    said = [f"{key} {content[key]}" for key in ("cfg", "data") if content.get(key)]
    run = f"run {content['run']}" if content.get("run") else "an unknown run"
    return f"that of {run}" + (f" ({', '.join(said)})" if said else "")

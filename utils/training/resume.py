"""--resume: which arguments a run goes on with, and which of the command line's it cannot take."""

import argparse
from pathlib import Path

from utils.checkpoint import read_checkpoint
from utils.training.run_folder import is_published

# about the machine, which may be another one by now: the command line's, typed or not
MACHINE = ("device", "n_cpu", "threads")
FREE = (*MACHINE, "cache_gb", "resume")  # what a resumed run may be given


def resumed_arguments(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments that the run named by --resume was begun with; flags of the machine, and more --epochs, are the
    command line's.

    args.typed: {name: flag} of what the user typed; a default is no change. Raises ValueError when the run is finished
    and published, and where another flag was typed with a value that is not the run's.
    """
    path = Path(args.resume)
    last = path if path.is_file() else path / "last.pth"
    state = read_checkpoint(last)
    if (stored := state.get("args")) is None:
        raise ValueError(f"{last}: holds no state of a run, expected the last.pth of a run folder")
    _check_state(args, state, last)
    typed, begun = getattr(args, "typed", {}), stored["epochs"]
    if "epochs" in typed and args.epochs > begun:
        stored = {**stored, "epochs": args.epochs}
    _refuse_changes(args, typed, stored, last)
    epochs = stored["epochs"]
    if state["epoch"] >= epochs and (stored.get("no_publish") or is_published(last.parent)):
        raise ValueError(f"{last}: this run is finished ({state['epoch']} of {epochs} epochs); --resume {last.parent} "
                         f"--epochs {2 * epochs} makes it longer, -pre {last} begins another run from its weights")
    if epochs > begun:
        print(f"--epochs {begun} -> {epochs}: from epoch {state['epoch'] + 1} on, the learning rate is that of a "
              f"{stored['schedule']} schedule over {epochs} epochs")
    here = {name: getattr(args, name) for name in {*MACHINE, *(name for name in typed if name in FREE)}}
    return argparse.Namespace(**{**vars(args), **stored, **here, "resume": str(last), "typed": typed})


def _check_state(args: argparse.Namespace, state: dict, last: Path) -> None:
    """Raise ValueError where the arguments or the epoch that `last` holds are not those of a run."""
    stored = state["args"]
    wrong = [name for name in ("epochs", "schedule", "seed", "batch_size")
             if type(stored.get(name)) is not type(getattr(args, name, stored.get(name)))]
    if wrong or "epoch" not in state:
        raise ValueError(f"{last}: found no usable {', '.join(wrong) or 'epoch'}, expected the last.pth of a run "
                         "folder: the file is damaged")


def _refuse_changes(args: argparse.Namespace, typed: dict[str, str], stored: dict, last: Path) -> None:
    """Raise ValueError that names every typed flag whose value is not the run's."""
    changed = {name: flag for name, flag in typed.items()
               if name not in FREE and name in stored and getattr(args, name) != stored[name]}
    if not changed:
        return
    found = ", ".join(f"{flag} {getattr(args, name)} (begun with {stored[name]})" for name, flag in changed.items())
    way_out = "a run can be made longer, not shorter" if list(changed) == ["epochs"] else (
        "a resumed run keeps its flags; leave them out, or begin another run from its weights: "
        f"-pre {last} instead of --resume")
    raise ValueError(f"{last}: found {found}: {way_out}")


def refuse_existing(path: Path) -> None:
    """Raise ValueError when there is a run in the folder `path`, saying how to go on with it."""
    if not (path / "last.pth").exists():
        return
    state = read_checkpoint(path / "last.pth")
    longer = f" --epochs {2 * state['epoch']}" if state["epoch"] >= state.get("args", {}).get("epochs", 0) else ""
    raise ValueError(f"{path}: there is a run of this name; take another --name, or go on with it: "
                     f"--resume {path}{longer}")

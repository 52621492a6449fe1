"""--resume: which options a run goes on with, and which of the command line's it cannot take."""

from contextlib import nullcontext
from pathlib import Path
from typing import ContextManager

from utils import processes, torchrun
from utils.checkpoint import read_checkpoint
from utils.data.data_config import DataConfig
from utils.data.datasets import ListDataset
from utils.lock import Lock
from utils.output import counted
from utils.parse_config import class_count
from utils.training.args import TrainOptions, train_options, train_parser
from utils.training.run_folder import is_published

# about the machine, which may be another one by now: the command line's, typed or not
MACHINE = ("device", "n_cpu", "threads")
# what a resumed run may be given; files may lie elsewhere by now, and last.pth knows the net and what the data were
FREE = (*MACHINE, "cfg", "data", "class_path", "cache_gb", "resume", "save_interval", "save_minutes", "save_on_signal")


def locked(options: TrainOptions) -> ContextManager:
    """Keeps other programs out of the run that --resume names, if it names one: to be held before its last.pth is read.
    Raises LockError where one is at work."""
    folder = _last(options).parent
    mine = options.output.resume and folder.is_dir() and torchrun.rank() == 0
    return Lock(folder / ".lock", str(folder)) if mine else nullcontext()


def _last(options: TrainOptions) -> Path:
    """The last.pth of the run that --resume names, by its folder or by that file."""
    path = Path(options.output.resume or "")
    return path if path.is_file() else path / "last.pth"


def resumed_options(options: TrainOptions) -> TrainOptions:
    """The options that the run named by --resume was begun with; flags of the machine, and more --epochs, are the
    command line's; a default is no change. Raises ValueError when the run is finished and published, and where another
    flag was typed with a value that is not the run's."""
    last, given, typed = _last(options), options.given, options.typed
    state = read_checkpoint(last)
    if (stored := state.get("args")) is None:
        raise ValueError(f"{last}: holds no state of a run, expected the last.pth of a run folder")
    _check_state(given, state, last)
    _refuse_former(given, stored, last)
    begun = stored["epochs"]
    if "epochs" in typed and given["epochs"] > begun:
        stored = {**stored, "epochs": given["epochs"]}
    _refuse_changes(given, typed, stored, last)
    epochs = stored["epochs"]
    if state["epoch"] >= epochs and (stored.get("no_publish") or is_published(last.parent)):
        raise ValueError(f"{last}: this run is finished ({state['epoch']} of {counted(epochs, 'epoch')}); --resume "
                         f"{last.parent} --epochs {2 * epochs} makes it longer, -pre {last} begins another run from "
                         "its weights")
    if epochs > begun:
        print(f"--epochs {begun} -> {epochs}: from epoch {state['epoch'] + 1} on, the learning rate is that of a "
              f"{stored['schedule']} schedule over {epochs} epochs")
    here = {name: given[name] for name in {*MACHINE, *(name for name in typed if name in FREE)}}
    return train_options({**given, **stored, **here, "resume": str(last), "typed": typed})


def _check_state(given: dict, state: dict, last: Path) -> None:
    """Raise ValueError where the arguments or the epoch that `last` holds are not those of a run."""
    stored = state["args"]
    wrong = [name for name in ("epochs", "schedule", "seed", "batch_size")
             if type(stored.get(name)) is not type(given.get(name, stored.get(name)))]
    if wrong or "epoch" not in state:
        raise ValueError(f"{last}: found no usable {', '.join(wrong) or 'epoch'}, expected the last.pth of a run "
                         "folder: the file is damaged")


def _refuse_former(given: dict, stored: dict, last: Path) -> None:
    """Raise ValueError that names every flag, and every value of one, that the run was begun with and that there is no
    longer: without it the run would go on as another one."""
    ours = {name: value for name, value in stored.items() if name not in FREE}
    former = [f"{flag} {ours[name]} (expected {expected})" for flag, (name, expected) in
              train_parser().no_longer_taken(ours).items()]
    former += [f"--{name.replace('_', '-')} {value}" for name, value in ours.items()
               if name not in given and value not in (None, False, 0, "", "none")]
    if former:
        raise ValueError(f"{last}: this run was begun with {', '.join(former)}, which train.py no longer takes; begin "
                         f"another run from its weights: -pre {last} instead of --resume")


def _refuse_changes(given: dict, typed: dict[str, str], stored: dict, last: Path) -> None:
    """Raise ValueError that names every typed flag whose value is not the run's."""
    changed = {name: flag for name, flag in typed.items()
               if name not in FREE and name in stored and given[name] != stored[name]}
    if not changed:
        return
    found = ", ".join(f"{flag} {given[name]} (begun with {stored[name]})" for name, flag in changed.items())
    way_out = "a run can be made longer, not shorter" if list(changed) == ["epochs"] else (
        "a resumed run keeps its flags; leave them out, or begin another run from its weights: "
        f"-pre {last} instead of --resume")
    raise ValueError(f"{last}: found {found}: {way_out}")


def require_same_batches(checkpoint: dict, data: DataConfig, train_set: ListDataset) -> None:
    """Raise ValueError where `data` has other classes, or other training images by their number, than when the run of
    `checkpoint` began, or as many processes do not share them: its batches would not be those of an unbroken run, its
    heads not those of the data."""
    now = processes.world_size()
    if (then := checkpoint.get("processes", now)) != now:
        start = "without torchrun" if then == 1 else f"by torchrun with {then}"
        raise ValueError(f"found {counted(now, 'process', 'processes')}, expected {then}, as when the run of --resume "
                         f"began: start train.py {start}, or begin another run with its best.pth as -pre")
    names = checkpoint.get("names")
    began = ((", ".join(names) if names else class_count(checkpoint["module_defs"]),
              ", ".join(data.names) if names else data.classes, "classes"),
             (checkpoint.get("images", len(train_set)), len(train_set), "training images"))
    for then, now, what in began:
        if then != now:
            raise ValueError(f"{data.path}: found {what} {now}, expected {then}, as when the run that --resume names "
                             "began; begin another with its best.pth as -pre")

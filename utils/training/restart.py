"""torchrun --max-restarts: when one process ends, torchrun starts all of them anew with the same command line; they go
on with the run that the first ones began."""

import argparse
from pathlib import Path

from utils import torchrun
from utils.checkpoint import read_checkpoint
from utils.training.run_folder import is_published

KEY = "run folder"


def remember(folder: Path) -> None:
    """Tell the processes that torchrun may start in place of these where the run is; called by process 0."""
    if store := torchrun.launcher_store():
        store.set(KEY, str(folder))


def continued(args: argparse.Namespace) -> argparse.Namespace | None:
    """The arguments to go on with: `args` themselves, but in processes that torchrun started anew those that resume the
    run's last checkpoint, or begin again in its folder where there is none yet; None where nothing is left to do."""
    store = torchrun.launcher_store() if torchrun.restarts() else None
    if store is None or not store.check([KEY]):
        return args
    folder = Path(store.get(KEY).decode())
    if not (folder / "last.pth").exists():
        return argparse.Namespace(**vars(args) | {"name": folder.name})
    if _is_finished(folder, args):
        return None
    print(f"restart {torchrun.restarts()} by torchrun: going on with {folder}")
    return argparse.Namespace(**vars(args) | {"resume": str(folder)})


def _is_finished(folder: Path, args: argparse.Namespace) -> bool:
    state = read_checkpoint(folder / "last.pth")
    epochs = max(state["args"]["epochs"], args.epochs if "epochs" in args.typed else 0)
    return state["epoch"] >= epochs and (state["args"]["no_publish"] or is_published(folder))

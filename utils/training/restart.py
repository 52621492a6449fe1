"""torchrun --max-restarts: when one process ends, torchrun starts all of them anew with the same command line; they go
on with the run that the first ones began."""

import argparse
from pathlib import Path

from utils import torchrun
from utils.checkpoint import read_checkpoint
from utils.training.run_folder import is_published

KEY = "run folder"
DONE, GO_ON, BEGIN = "finished", "going on with", "no checkpoint yet, beginning again in"


def remember(folder: Path) -> None:
    """Tell the processes that torchrun may start in place of these where the run is; called by process 0."""
    if store := torchrun.launcher_store():
        store.set(KEY, str(folder))


def continued(args: argparse.Namespace) -> argparse.Namespace | None:
    """The arguments to go on with: `args` themselves, but in processes that torchrun started anew those that resume the
    run's last checkpoint, or begin again in its folder where there is none yet; None where nothing is left to do."""
    store = torchrun.launcher_store()
    if store is None or not store.check([KEY]):
        return args
    folder, key = Path(store.get(KEY).decode()), f"way on of {torchrun.attempt()}"
    if torchrun.rank() == 0:  # for all: another machine may not see the folder, which is an error then
        store.set(key, _way_on(folder, args))
    way = store.get(key).decode()
    if way == DONE:
        return None
    print(f"started anew by torchrun: {way} {folder}")
    changes = {"resume": str(folder)} if way == GO_ON else {"name": folder.name}
    return argparse.Namespace(**vars(args) | changes)


def _way_on(folder: Path, args: argparse.Namespace) -> str:
    if not (folder / "last.pth").exists():
        return BEGIN
    return DONE if _is_finished(folder, args) else GO_ON


def _is_finished(folder: Path, args: argparse.Namespace) -> bool:
    state = read_checkpoint(folder / "last.pth")
    epochs = max(state["args"]["epochs"], args.epochs if "epochs" in args.typed else 0)
    return state["epoch"] >= epochs and (state["args"]["no_publish"] or is_published(folder))

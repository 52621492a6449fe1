"""torchrun --max-restarts: when one process ends, torchrun starts all of them anew with the same command line; they go
on with the run that the first ones began."""

from pathlib import Path

from utils import torchrun
from utils.checkpoint import read_checkpoint
from utils.training.args import TrainOptions, train_options
from utils.training.run_folder import RunFolder, is_published, run_name

KEY = "run folder"
DONE, GO_ON, BEGIN = "finished", "going on with", "no checkpoint yet, beginning again in"


def remember(folder: RunFolder | None) -> None:
    """Tell the processes that torchrun may start in place of these where the run is; process 0 has the folder."""
    if folder and (store := torchrun.launcher_store()):
        store.set(KEY, str(folder.path))


def continued(options: TrainOptions) -> TrainOptions | None:
    """The options to go on with: `options` themselves, but in processes that torchrun started anew those that resume
    the run's last checkpoint, or begin again in its folder where there is none yet; None where nothing is left to
    do."""
    store = torchrun.launcher_store()
    if store is None or not store.check([KEY]):
        return options
    folder, key = Path(store.get(KEY).decode()), f"way on of {torchrun.attempt()}"
    if torchrun.rank() == 0:  # for all: another machine may not see the folder, which is an error then
        store.set(key, _way_on(folder, options))
    way = store.get(key).decode()
    if way == DONE:
        return None
    print(f"started anew by torchrun: {way} {folder}")
    changes = {"resume": str(folder)} if way == GO_ON else {"name": run_name(folder)}
    return train_options(options.given | changes)


def _way_on(folder: Path, options: TrainOptions) -> str:
    if not (folder / "last.pth").exists():
        return BEGIN
    return DONE if _is_finished(folder, options) else GO_ON


def _is_finished(folder: Path, options: TrainOptions) -> bool:
    state = read_checkpoint(folder / "last.pth")
    epochs = max(state["args"]["epochs"], options.steps.epochs if "epochs" in options.typed else 0)
    return state["epoch"] >= epochs and (state["args"]["no_publish"] or is_published(folder))

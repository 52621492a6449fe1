"""Steps that are too large: training that cannot go on, and training that forgets what it began with."""

from pathlib import Path
from typing import NoReturn

from utils.output import counted
from utils.training.args import TrainOptions
from utils.training.run_state import RunState

OPENING = 3  # batches that are seen before much is learnt
EARLY = 3  # epochs in which a start is lost, if it is
ROSE = 1.5  # times the opening's loss, which batches alone do not reach


class TrainingError(ValueError):
    """Training cannot go on."""


def broken_weights(state: RunState) -> list[str]:
    """Names of the weights of a run's net that are not finite; where all are, those of its statistics and of the
    average, which one bad batch breaks."""
    names_in = lambda values: [name for name, value in values if not value.isfinite().all()]
    return (names_in(state.model.named_parameters()) or names_in(state.model.named_buffers())
            or names_in(state.averaged.state_dict().items()))


def stop(found: str, state: RunState, options: TrainOptions, folder: Path | None) -> NoReturn:
    """Raise TrainingError with what was `found` and its cause, as far as that can be told: the loss is finite for any
    finite output of the net. folder: that of the run, None where another process has it."""
    broken = broken_weights(state)
    what = "the net's output left the range of floats"
    if broken:
        others = f" and {counted(len(broken) - 1, 'more weight')}" if len(broken) > 1 else ""
        what = f"{broken[0]}{others} {'are' if others else 'is'} not finite"
    if broken and state.step == 0:
        cause = (f"{what} before the first step: begin from another file than {options.source.weights or 'its start'}, "
                 "or from scratch (-pre none)")
    elif not broken and state.scaler.is_enabled():
        cause = f"{what} in half precision: --no-amp, or --bf16, has a larger range"
    else:
        cause = (f"{what}: training diverged, which smaller steps prevent (--lr below {options.steps.lr:g}, "
                 f"--clip below {options.steps.clip or 500:g})")
    if state.epoch and folder:
        cause += f"; begin a new run from the last sound epoch, {state.epoch}: -pre {folder / 'last.pth'}"
    raise TrainingError(f"{found}; {cause}")


def forgetting(opening: float, mean: float, epoch: int, options: TrainOptions) -> list[str]:
    """A warning where fine-tuning undoes its start: after one of the first epochs the mean loss of `epoch` is far over
    that of the run's first OPENING batches (NaN: not known). A pruned net, whose few gammas have grown large, takes
    smaller steps than the net it was cut from. -sr is no such case: it is to change the net."""
    lost = epoch <= EARLY and mean > ROSE * opening  # False with NaN
    if not lost or options.sparsity.sr or not options.source.weights:
        return []
    return [f"warning: the loss rose from {opening:.4g} in the first {OPENING} batches to {mean:.4g}: --lr "
            f"{options.steps.lr:g} undoes what {options.source.weights} brought; begin again with a lower one (--lr "
            f"{options.steps.lr / 4:g})"]

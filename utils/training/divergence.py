"""Why training cannot go on when a number is no longer finite."""

from pathlib import Path
from typing import NoReturn

from utils.output import counted
from utils.training.args import TrainOptions
from utils.training.run_state import RunState


class TrainingError(ValueError):
    """Training cannot go on."""


def stop(found: str, state: RunState, options: TrainOptions, folder: Path | None) -> NoReturn:
    """Raise TrainingError with what was `found` and its cause, as far as that can be told: the loss is finite for any
    finite output of the net. folder: that of the run, None where another process has it."""
    broken = [name for name, value in state.model.named_parameters() if not value.isfinite().all()]
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

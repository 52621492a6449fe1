"""A step of the optimiser: clip, step, sparsify, average."""

import math
from typing import Callable

from torch import Tensor, nn

from utils.training.run_state import RunState
from utils.training.schedule import Schedule
from utils.training.sparsity import Sparsifier


def optimiser_step(state: RunState, schedule: Schedule, sparsifier: Sparsifier, check: Callable[[Tensor], None],
                   mean_loss: Callable[[], float]) -> None:
    """Take the step that the gradients of `state.model` ask for. check: raises where their norm is not finite, before
    any weight is changed; half precision leaves such a step out, and a GPU is not asked, since reading a number makes
    it wait; mean_loss: of the epoch so far, see Sparsifier.before_step."""
    options, rate, progress = schedule.options, schedule.rate(state.step), schedule.progress(state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.scaler.unscale_(state.optimizer)
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), options.clip or math.inf)
    if norm.device.type == "cpu" and not state.scaler.is_enabled():
        check(norm)
    sparsifier.before_step(progress, mean_loss)
    penalised = bool(sparsifier.gammas)
    scale = state.scaler.get_scale() if penalised else 0.0  # which a GPU waits for
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    # it falls when a gradient was infinite and the step left out: no penalty without a step
    if penalised and state.scaler.get_scale() >= scale:
        sparsifier.after_step(progress, rate, options.momentum)
    state.step += 1
    if state.ema:
        state.ema.update(state.model)

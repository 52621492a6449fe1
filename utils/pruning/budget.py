"""One limit of lost mAP for the cut and for 8-bit numbers together: where the two break it, a milder cut is taken."""

from dataclasses import dataclass

from utils.deploy.quantisation import LosesTooMuch
from utils.evaluation.metrics import EvalResult
from utils.pruning.compact import Compact, compact_and_verify, prune_and_eval, recalibrate_and_eval
from utils.pruning.int8 import int8_path, quantised, refusal
from utils.pruning.job import Job, PruneError
from utils.pruning.plan import Plan, plan_cut, require_something_to_lose, warn_before

ROUNDS = 4  # cuts that are quantised, each milder than the one before; the second is nearly always within the limit
LEAST_ROOM = 1e-4  # of mAP, that each round leaves more


@dataclass(frozen=True)
class Pruned:
    """A cut, the verified net without it, and the scores of the masked and the compact net."""

    plan: Plan
    compact: Compact
    masked: EvalResult | None
    after: EvalResult | None


def within_budget(job: Job, pruned: Pruned) -> Pruned:
    """The pruning with its net in 8 bits (`Compact.int8`); as it is without --int8.

    Where --max-drop chose the cut, and cut and 8 bits together lose more, the strongest cut is looked for that leaves
    8 bits the room they took. Raises PruneError where none does, or where the cut was chosen otherwise.
    """
    if not job.options.int8:
        return pruned
    require_something_to_lose(job)
    room = 0.0
    for round_i in range(ROUNDS):
        try:
            pruned.compact.int8 = quantised(job, pruned.compact.model, job.rescale,
                                            int8_path(job.names.darknet_weights, job.options.int8))
            break
        except LosesTooMuch as error:
            room = room_for(job, error, room)
            if round_i == ROUNDS - 1:
                raise PruneError(refusal(error, ways_to_lose_less(job))) from None
            print(f"{error.finding}: a cut is looked for that leaves 8 bits {room:.4f} of --max-drop")
        pruned = prune_again(job, room)
    return pruned


def room_for(job: Job, error: LosesTooMuch, room: float) -> float:
    """How much of --max-drop the next cut has to leave. Raises PruneError where no milder cut would help."""
    lost = error.scores[0].map50 - error.scores[1].map50
    most = job.options.aims.max_drop
    by_both = job.before.map50 - error.scores[1].map50 if most is not None else 0.0
    if most is None or not by_both > most or lost >= most:  # or it is AP@[.5:.95] that 8 bits alone lose
        raise PruneError(refusal(error, ways_to_lose_less(job))) from None
    return max(lost, room + LEAST_ROOM)


def prune_again(job: Job, room: float) -> Pruned:
    """The pruning by a search that leaves `room` of --max-drop."""
    plan = plan_cut(job, room)
    warn_before(job, plan)
    masked = prune_and_eval(job, plan)[1]
    compact = compact_and_verify(job, plan)
    return Pruned(plan, compact, masked, recalibrate_and_eval(job, compact, masked))


def ways_to_lose_less(job: Job) -> list[str]:
    """What would help where a single cut in 8 bits loses too much."""
    searched = job.options.aims.max_drop is not None
    return [*["cut less (a smaller --percent, a milder --target-...)"] * (not searched),
            "fine-tune the cut (--tune FLAGS)", "calibrate on more images (--calibration)",
            "allow more (--max-drop)"]

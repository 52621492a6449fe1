"""From the channels that go to a compact net, verified against the masked one."""

import copy
from dataclasses import dataclass, field

import torch
from torch import nn

from utils.batch_norm import recalibrate
from utils.compare import TOLERANCE, deviation, probe_image
from utils.evaluation.metrics import EvalResult
from utils.pruning.int8 import Int8
from utils.pruning.job import Job, PruneError, compact_of, eval_model, loaded
from utils.pruning.plan import Plan
from utils.pruning.surgery import Surgery, compact_net, masked_state, narrow_defs
from utils.shapes import total_cost

TOLERANCE_DOUBLE = 1e-9
MANY = 0.05  # of the FLOPs, on carriers, which is worth a word


@dataclass
class Compact:
    """A verified compact net. deviation: largest difference from the masked net, relative to the largest raw value;
    by_layer: the same of each convolution's output, with an inexact --fold; folded: its score before statistics were
    taken anew, in that case; int8: the net in 8-bit numbers, with --int8."""

    model: nn.Module
    surgery: Surgery
    deviation: float
    by_layer: dict[int, float] = field(default_factory=dict)
    folded: EvalResult | None = None
    int8: Int8 | None = None


def masked_model(job: Job, plan: Plan) -> nn.Module:
    """A copy of the net whose removed channels have gamma 0: what the compact one must reproduce."""
    return loaded(job, job.model.module_defs, masked_state(job.model.state_dict(), plan.masks))


def prune_and_eval(job: Job, plan: Plan) -> tuple[EvalResult | None, EvalResult | None]:
    """Score the net as loaded and with its channels masked, before anything is written."""
    before = job.before
    masked = eval_model(job, masked_model(job, plan), "masked") if job.loader else None
    if before and masked and masked.map50 < before.map50 - 0.05:
        milder = "a milder target" if job.options.aims.any else "a smaller --percent"
        sparser = " or more training with -sr" if job.options.rule.importance.startswith("gamma") else ""
        print(f"warning: this cut takes mAP from {before.map50:.4f} to {masked.map50:.4f} before fine-tuning; "
              f"{milder}{sparser} avoids that")
    return before, masked


def compact_and_verify(job: Job, plan: Plan) -> Compact:
    """Build the compact net and compare its raw maps with the masked net's everywhere.

    Raises PruneError when they differ (with --fold exact); with bias the deviation is reported.
    """
    rule = job.options.rule
    model, surgery = compact_of(job, plan.cut)
    worst = deviation(masked_model(job, plan), model, job.size)
    if rule.exact and not worst <= TOLERANCE:  # written so that NaN does not pass
        exact = deviation_in_double(job, plan)  # rounding, or a wrong net? float64 tells
        if not exact <= TOLERANCE_DOUBLE:
            raise PruneError(f"the compact net differs from the masked one by {exact:.3g} of the largest raw value, "
                             f"expected at most {TOLERANCE_DOUBLE:g} in float64; nothing was written")
    print(f"compact net verified: differs from the masked one by at most {worst:.2g} of the largest raw value"
          if rule.exact else
          f"--fold {rule.fold}: the compact net differs from the masked one by up to {worst:.2g} of the largest raw "
          "value")
    if rule.divisor == 1 and (share := carriers_share(job, plan, surgery)) > MANY:
        print(f"note: {sum(surgery.carriers.values())} of its channels are carriers of constants and take {share:.0%} "
              "of its FLOPs; --fold bias does without them, at a small loss before fine-tuning")
    return Compact(model, surgery, worst, {} if rule.exact else layer_deviations(job, plan, model, surgery))


def carriers_share(job: Job, plan: Plan, surgery: Surgery) -> float:
    """Share of the compact net's FLOPs that are there for its carriers alone (utils.pruning.surgery)."""
    bare = narrow_defs(job.model.module_defs, job.graph, plan.cut.keep)
    return 1 - total_cost(bare, *job.size).macs / total_cost(surgery.module_defs, *job.size).macs


def recalibrate_and_eval(job: Job, compact: Compact, masked: EvalResult | None) -> EvalResult | None:
    """--recalibrate: new batch-norm statistics for the compact net, after it was verified, and scored before them where
    its --fold is inexact. Where the flag was not given they are kept only if the net scores more with them than before,
    as the `masked` net did: a cut that is free has nothing to put right. Returns its score, None with --no-eval."""
    options = job.options
    if not (count := options.recalibration_batches):
        return eval_model(job, compact.model, "compact")
    if not options.rule.exact:
        compact.folded = eval_model(job, compact.model, f"compact, --fold {options.rule.fold}")
    earlier, state = compact.folded or masked, copy.deepcopy(compact.model.state_dict())
    batches = list(job.train_batches(count))
    recalibrate(compact.model, batches)
    print(f"batch-norm statistics of the compact net taken anew on {sum(len(images) for images, _ in batches)} "
          "training images")
    after = eval_model(job, compact.model, "compact")
    if options.recalibrate is None and earlier and after.map50 < earlier.map50:
        compact.model.load_state_dict(state)
        print(f"the statistics of before score more ({earlier.map50:.4f}) and stay")
        return earlier
    return after


def deviation_in_double(job: Job, plan: Plan) -> float:
    """`deviation` of the whole removal done again in float64."""
    state = {
        key: value.double() if value.is_floating_point() else value for key, value in job.model.state_dict().items()
    }
    surgery = compact_net(job.model.module_defs, state, job.graph, plan.cut.keep, job.options.rule.fold)
    net = type(job.dense)
    masked, compact = net(job.model.module_defs).double().eval(), net(surgery.module_defs).double().eval()
    masked.load_state_dict(masked_state(state, plan.masks))
    compact.load_state_dict(surgery.state)
    return deviation(masked, compact, job.size)


@torch.inference_mode()
def layer_deviations(job: Job, plan: Plan, compact: nn.Module, surgery: Surgery) -> dict[int, float]:
    """layer -> largest difference between the channels that a convolution kept and the masked net's, relative to the
    latter's largest value: what --fold bias costs, layer by layer."""
    maps = []
    for model in (masked_model(job, plan), compact):
        outputs = {}
        hooks = [
            model.module_list[i].register_forward_hook(
                lambda module, inputs, output, i=i, own=outputs: own.__setitem__(i, output.clone())
            )
            for i in job.graph.normalised
        ]
        model.raw_maps(probe_image(model, job.size))
        for hook in hooks:
            hook.remove()
        maps.append(outputs)
    masked, slim = maps
    found = {}
    for i in job.graph.normalised:
        kept = surgery.kept[i].to(masked[i].device)
        difference = (masked[i][:, kept] - slim[i]).abs().max()
        found[i] = (difference / masked[i].abs().max().clamp(min=1e-12)).item()
    return found

"""By which rules a score was made, in words."""

from utils.evaluation.args import ScoreOptions
from utils.evaluation.average_precision import COCO_MAX_DET

STANDARD = "standard"
PIXELS = {"compat": "on letterboxed images, not on the reference's own input",
          "reference": "on the reference's input (padded with black to a square, nearest neighbour)"}


def map_name(iou: float) -> str:
    """What the field map50 is called in tables: mAP@.5, by the IoU from which a detection is right."""
    return f"mAP@{iou:g}".replace("@0.", "@.")


def scorer_words(options: ScoreOptions) -> str:
    """What is matched and averaged, and how it is ranked."""
    if options.scorer != STANDARD:
        return (f"{options.scorer}: the reference implementation's rules (utils/evaluation/reference_scorer.py), "
                f"ranked by objectness, {PIXELS[options.scorer]}")
    area = "area under all recall steps" if options.method == "all" else "mean of 101 recall points"
    above = "" if options.iou_thres == 0.5 else f" from {options.iou_thres:g} on, not 0.5"
    return f"map50: {area}, standard IoU{above}, ranked by objectness x class; map: COCO's AP@[.5:.95], 101 points"


def cap_words(options: ScoreOptions) -> str:
    """The limits on the number of detections, and of candidates before NMS."""
    before = ("no candidate cap before NMS" if options.max_candidates is None else
              f"{options.max_candidates} candidates per image before NMS")
    if options.scorer != STANDARD:
        return f"no cap on detections; {before}"
    coco = f"{COCO_MAX_DET} detections per image and class"
    ours = f"{options.max_det} detections per image"
    caps = f"{coco} (map50, map)" if options.method == "coco101" else f"{ours} (map50), {coco} (map)"
    return f"at most {caps}; {before}"

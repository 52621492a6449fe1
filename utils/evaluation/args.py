"""How detections are made and scored, as the scripts' flags say it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ScoreOptions:
    """How detections are made and scored. scorer: "compat": the reference's rules; "reference": on its input too, see
    utils.data.prepare."""

    conf_thres: float = 0.01
    nms_thres: float = 0.5
    iou_thres: float = 0.5
    max_det: int = 300
    max_candidates: int | None = 3000  # per image; a trained net stays far below, an untrained one would cost minutes
    scorer: str = "standard"
    method: str = "all"  # of map50: the area under every recall step, or "coco101": the mean of 101 recall points

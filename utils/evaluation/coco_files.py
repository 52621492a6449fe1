"""What was scored, as the two files of COCO: whoever reads these can score it again, pycocotools first of all."""

from pathlib import Path
from typing import Sequence

import numpy as np
from torch import Tensor

from utils.data.datasets import ListDataset
from utils.data.image_files import read_image
from utils.letterbox import Letterbox
from utils.output import one_step, write_json

TRUTH, DETECTIONS = "ground_truth.json", "detections.json"


def write_coco(folder: Path, images: ListDataset, detections: list[Tensor], names: Sequence[str]) -> tuple[Path, Path]:
    """Write COCO's ground truth and results to `folder`: boxes in pixels of the pictures, as they were scored, which is
    not clipped to the picture; images and categories are numbered from 1. detections: (n, 7) of every image, see
    utils.evaluation.metrics, on the letterboxed input. Returns the two files."""
    pictures, annotations, results = [], [], []
    for number, (path, labels, rows) in enumerate(zip(images.images, images.labels, detections, strict=True), start=1):
        height, width = read_image(path).shape[:2]
        pictures.append({"id": number, "file_name": path.as_posix(), "width": width, "height": height})
        sides = np.array([width, height] * 2, float)
        corner = labels[:, 1:3] - labels[:, 3:5] / 2
        boxes = np.concatenate([corner, labels[:, 3:5]], axis=1) * sides
        annotations += [{"image_id": number, "category_id": int(label) + 1, "bbox": box.tolist(),
                         "area": float(box[2] * box[3]), "iscrowd": 0} for label, box in zip(labels[:, 0], boxes)]
        corners = Letterbox.fit(width, height, *images.size).to_image(rows[:, :4].double(), clipped=False).numpy()
        results += [{"image_id": number, "category_id": int(row[5]) + 1, "score": float(row[4]),
                     "bbox": [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]} for row, box in zip(rows, corners)]
    truth = {"images": pictures, "annotations": [one | {"id": i} for i, one in enumerate(annotations, start=1)],
             "categories": [{"id": i, "name": name} for i, name in enumerate(names, start=1)]}
    with one_step():
        write_json(folder / TRUTH, truth)
        write_json(folder / DETECTIONS, results)
    return folder / TRUTH, folder / DETECTIONS

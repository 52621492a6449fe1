"""Contestants from another checkout (--peer) with the interface of the classic PyTorch YOLOv3 repositories:
`models.Darknet(cfg)`, whose eval mode gives (B, N, 5 + K) and whose call with targets gives a loss, and `utils.utils`.
In a worker process whose modules `models` and `utils` are that checkout's; nothing of this project is imported here.
"""

import time

import numpy as np
import torch
from torch import Tensor


def forward(cfg: str, weights: str, images: str, expected: str):
    """Its network as it runs it."""
    from models import Darknet

    model = Darknet(cfg)
    model.load_darknet_weights(weights)
    model.eval()
    batch, wanted = torch.from_numpy(np.load(images)), torch.from_numpy(np.load(expected))

    def run() -> Tensor:
        """One forward pass, decoding included."""
        with torch.no_grad():
            return model(batch)

    return run, {"off_by": ((run() - wanted).abs().max() / wanted.abs().max()).item()}


def nms(predictions: str):
    """Its non-maximum suppression of stored predictions (B, N, 5 + K)."""
    from utils.utils import non_max_suppression

    stored, facts = torch.from_numpy(np.load(predictions)), {}

    def run() -> float:
        """Suppress; the copy is there because some edit what they are given, and is not timed."""
        own = stored.clone()
        started = time.perf_counter()
        with torch.no_grad():
            left = non_max_suppression(own, conf_thres=0.01, nms_thres=0.5)
        seconds = time.perf_counter() - started
        facts["boxes left"] = sum(0 if rows is None else len(rows) for rows in left)
        return seconds

    return run, facts


def training(cfg: str, batches: str, steps: int):
    """Its forward pass with targets, backward pass and an SGD step, on stored batches; no loader."""
    from models import Darknet

    torch.manual_seed(0)
    model = Darknet(cfg).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    with np.load(batches) as stored:
        pairs = [
            (torch.from_numpy(stored[f"images{i}"]).float() / 255, torch.from_numpy(stored[f"targets{i}"]))
            for i in range(steps)
        ]

    def run() -> None:
        """So many steps."""
        for images, targets in pairs:
            made = model(images, targets.clone())
            loss = made[0] if isinstance(made, (tuple, list)) else made
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def average_precision(detections: str):
    """Its matching and AP of stored detections."""
    from utils.utils import ap_per_class, get_batch_statistics

    with np.load(detections) as stored:
        # (images, n, 7); (T, 6) image, class, x1, y1, x2, y2
        rows, truth = stored["detections"], torch.from_numpy(stored["targets"])
    found = [torch.from_numpy(own) for own in rows]

    def run() -> None:
        """Match, then AP."""
        parts = [np.concatenate(part, 0) for part in zip(*get_batch_statistics(found, truth, iou_threshold=0.5))]
        ap_per_class(*parts, truth[:, 1].tolist())

    return run

"""python hand_free.py DATA OUT: every second of the hand-free parts that benchmarks.hands cuts from DATA's training
photographs, as pictures without labels in OUT, and OUT/train.txt, which lists the photographs and these. Run from the
repository root with PYTHONPATH=."""
import sys
from pathlib import Path

import cv2
import torch

from benchmarks.hands import hand_free
from utils.boxes import cxcywh_to_xyxy
from utils.data.data_config import parse_data_config
from utils.data.datasets import ListDataset
from utils.data.image_files import read_image

config, out = parse_data_config(sys.argv[1]), Path(sys.argv[2]).resolve()
photographs = ListDataset(config.train, (256, 256), len(config.names))
for folder in ("images", "labels"):
    (out / folder).mkdir(parents=True, exist_ok=True)
parts = []
for path, labels in zip(photographs.images, photographs.labels):
    image = read_image(path)
    boxes = cxcywh_to_xyxy(torch.from_numpy(labels[:, 1:])).numpy() * (image.shape[1::-1] * 2)
    if len(boxes) and (part := hand_free(image, boxes)) is not None:
        parts.append((path.stem, part))
parts = parts[1::2]
for name, part in parts:
    (out / "labels" / f"{name}.txt").write_text("")
    cv2.imwrite(str(out / "images" / f"{name}.jpg"), part[..., ::-1])
listed = [str(path.resolve()) for path in photographs.images]
listed += [str(out / "images" / f"{name}.jpg") for name, _ in parts]
(out / "train.txt").write_text("\n".join(listed) + "\n")
print(f"{len(photographs)} photographs, {len(parts)} hand-free parts")

"""Sound files of every kind, made on the fly."""

import io
import json
import struct

import cv2
import numpy as np
import scipy.io
import torch
from PIL import Image

from models import Darknet
from utils.checkpoint import weights_content
from utils.parse_config import parse_model_config

NET = """[net]
width=32
height=32
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky
[convolutional]
batch_normalize=1
filters=8
size=3
stride=1
pad=1
groups=2
activation=mish
[shortcut]
from=-2
activation=linear
[maxpool]
size=2
stride=2
[route]
layers=-1
groups=2
group_id=1
[upsample]
stride=2
[route]
layers=-1,-4
[convolutional]
filters=18
size=1
stride=1
pad=1
activation=linear
[yolo]
mask=0,1,2
anchors=10,13, 16,30, 33,23
classes=1
num=3
"""
OTHERS = ("""[net]
width=32
height=32
[depthwise]
filters=3
size=3
stride=2
pad=1
activation=relu6
[convolutional]
filters=8
activation=leaky
[se]
reduction=4
[dropout]
probability=.5
[reorg3d]
stride=2
[local_avgpool]
size=2
stride=2
[convolutional]
filters=30
size=1
activation=linear
[region]
anchors=1,1, 2,2, 3,3, 4,4, 5,5
classes=1
num=5
softmax=1
""", """[net]
channels=1
width=64
height=32
[convolutional]
filters=8
size=3
dilation=2
pad=1
activation=swish
[avgpool]
[convolutional]
filters=8
activation=logistic
[scale_channels]
from=-3
[reorg]
stride=2
[convolutional]
filters=20
activation=linear
[Gaussian_yolo]
mask=0,1
anchors=10,10, 20,20
classes=1
num=2
""")
YAML = b"""path: .
train: images/train
val: [images/valid, more]
nc: 2
names: {0: hand, 1: 'a b'}
"""
DATA = b"classes = 2\ntrain = train.txt\nvalid = valid.txt\nnames = a.names\nbackup = backup/\n# comment\n"
COCO = {"info": {}, "images": [{"id": 1, "file_name": "a.png", "width": 24, "height": 16}],
        "categories": [{"id": 3, "name": "hand", "supercategory": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10, 8], "iscrowd": 0, "area": 80,
                         "segmentation": [[1, 2, 11, 2, 11, 10]]}]}
LABELME = {"version": "5", "imagePath": "a.png", "imageWidth": 24, "imageHeight": 16, "imageData": None,
           "shapes": [{"label": "hand", "points": [[1, 2], [9, 10]], "shape_type": "rectangle", "group_id": None}]}
VOC = b"""<annotation><folder>x</folder><filename>a.png</filename>
<size><width>24</width><height>16</height><depth>3</depth></size>
<object><name>hand</name><difficult>0</difficult>
<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>12</xmax><ymax>14</ymax></bndbox></object></annotation>
"""
CSV = b"filename,width,height,class,xmin,ymin,xmax,ymax\na.png,24,16,hand,1,2,10,12\na.png,24,16,foot,3,2,9,12\n"


def picture() -> np.ndarray:
    """(16, 24, 3) RGB."""
    return np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def pictures() -> dict[str, list[bytes]]:
    """Suffix -> files."""
    found = {suffix: [cv2.imencode(suffix, picture())[1].tobytes()]
             for suffix in (".png", ".jpg", ".bmp", ".webp", ".tiff", ".ppm")}
    frames = [Image.fromarray(picture() + 40 * i) for i in range(2)]
    for suffix, options in ((".gif", {"save_all": True, "append_images": frames[1:]}), (".jpg", {"exif": _turned()}),
                            (".png", {"optimize": True})):
        file = io.BytesIO()
        frames[0].save(file, {".jpg": "JPEG"}.get(suffix, suffix[1:]), **options)
        found.setdefault(suffix, []).append(file.getvalue())
    return found


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def nets(folder) -> tuple[Darknet, bytes, dict]:
    """The tiny net, its .weights and the content of its checkpoint."""
    (folder / "net.cfg").write_text(NET)
    torch.manual_seed(0)
    model = Darknet(parse_model_config(folder / "net.cfg")).eval()
    model.save_darknet_weights(folder / "net.weights")
    content = weights_content(model, "net.cfg", "run", rescale=1.0, names=["hand"], size=[32, 32], data="a.data")
    return model, (folder / "net.weights").read_bytes(), content


def saved(content, **options) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def mats() -> list[bytes]:
    """Annotations of the Oxford release, as versions 5 (plain and compressed) and 4 hold them."""
    point = lambda: np.array([[3.0, 4.0]])
    box = np.empty((1, 2), object)
    box[0, 0] = box[0, 1] = {"a": point(), "b": point(), "c": point(), "d": point()}
    found = []
    for options in ({"boxes": box, "x": np.arange(5)}, False), ({"boxes": box}, True):
        file = io.BytesIO()
        scipy.io.savemat(file, options[0], do_compression=options[1])
        found.append(file.getvalue())
    file = io.BytesIO()
    scipy.io.savemat(file, {"boxes": np.eye(3)}, format="4")
    return [*found, file.getvalue(), struct.pack("<5i", 0, 1 << 30, 1 << 30, 0, 2) + b"a\0"]


def annotations() -> dict[str, list[bytes]]:
    """Suffix -> annotation files."""
    return {".json": [json.dumps(table).encode() for table in (COCO, LABELME)], ".xml": [VOC], ".csv": [CSV]}

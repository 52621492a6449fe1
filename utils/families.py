"""The public YOLO networks as module_defs: any class count, width and input size.

At 80 classes and width 1 every base has the layers of the public cfg of that name, so the public weights load.
"""

COCO_CLASSES = 80
STRIDE = 32  # coarsest grid of every base
SMALL, SMALL_WIDTH = "yolov3-tiny", 0.5  # learns in hours on a CPU, and is there to be pruned

V3_ANCHORS = "10,13,  16,30,  33,23,  30,61,  62,45,  59,119,  116,90,  156,198,  373,326"
V4_ANCHORS = "12,16,  19,36,  40,28,  36,75,  76,55,  72,146,  142,110,  192,243,  459,401"
TINY_ANCHORS = "10,14,  23,27,  37,58,  81,82,  135,169,  344,319"
V4_LOSS = {"iou_thresh": "0.213", "cls_normalizer": "1.0", "iou_normalizer": "0.07", "iou_loss": "ciou",
           "nms_kind": "greedynms", "beta_nms": "0.6", "max_delta": "5"}
V4_TINY_LOSS = {"scale_x_y": "1.05", "cls_normalizer": "1.0", "iou_normalizer": "0.07", "iou_loss": "ciou",
                "nms_kind": "greedynms", "beta_nms": "0.6"}


# Layers: one section each, all values strings, as the parser returns them.

def net(width: int, height: int) -> dict:
    """[net] for an input of width x height pixels, with the training values of the reference yolov3-hand.cfg."""
    return {"type": "net", "batch": "16", "subdivisions": "1", "width": str(width), "height": str(height),
            "channels": "3", "momentum": "0.9", "decay": "0.0005", "angle": "0", "saturation": "1.5",
            "exposure": "1.5", "hue": ".1", "learning_rate": "0.001", "burn_in": "1000", "max_batches": "500200",
            "policy": "steps", "steps": "400000,450000", "scales": ".1,.1"}


def conv(filters: int, size: int, stride: int = 1, activation: str = "leaky") -> dict:
    """Convolution with batch norm, padded to keep the map's size at stride 1."""
    return {"type": "convolutional", "batch_normalize": "1", "filters": str(filters), "size": str(size),
            "stride": str(stride), "pad": "1", "activation": activation}


def maxpool(size: int, stride: int) -> dict:
    """Max pooling; at stride 1 the map keeps its size."""
    return {"type": "maxpool", "size": str(size), "stride": str(stride)}


def upsample() -> dict:
    """Nearest-neighbour upsampling by 2."""
    return {"type": "upsample", "stride": "2"}


def route(*layers: int) -> dict:
    """Concatenation of the layers' channels; negative numbers count back from here."""
    return {"type": "route", "layers": ", ".join(map(str, layers))}


# Blocks: lists of layers.

def residual(filters: int, inner: int, n: int, activation: str = "leaky") -> list[dict]:
    """n times: 1x1 to `inner` channels, 3x3 back to `filters`, added to the block's input."""
    return [section for _ in range(n) for section in (
        conv(inner, 1, activation=activation), conv(filters, 3, activation=activation),
        {"type": "shortcut", "from": "-3", "activation": "linear"})]


def pairs(filters: int, n: int) -> list[dict]:
    """n times: 1x1 to `filters` channels, 3x3 to twice as many."""
    return [section for _ in range(n) for section in (conv(filters, 1), conv(2 * filters, 3))]


def spp() -> list[dict]:
    """Spatial pyramid pooling: the map beside its own 5, 9 and 13 pixel maxima; four times the channels."""
    return [maxpool(5, 1), route(-2), maxpool(9, 1), route(-4), maxpool(13, 1), route(-1, -3, -5, -6)]


def csp_stage(filters: int, split: int, inner: int, n: int) -> list[dict]:
    """Halve the map, then a cross-stage partial block: one `split`-channel branch passes n residuals, one does not."""
    return [conv(filters, 3, 2, "mish"), conv(split, 1, activation="mish"),
            route(-2), conv(split, 1, activation="mish"), *residual(split, inner, n, "mish"),
            conv(split, 1, activation="mish"), route(-1, -(3 * n + 4)), conv(filters, 1, activation="mish")]


def csp_tiny_stage(filters: int) -> list[dict]:
    """The small cross-stage partial block: half of the channels pass two 3x3; ends in a halved map of 2 x filters."""
    second_half = route(-1) | {"groups": "2", "group_id": "1"}
    return [conv(filters, 3), second_half, conv(filters // 2, 3), conv(filters // 2, 3), route(-1, -2),
            conv(filters, 1), route(-6, -1), maxpool(2, 2)]


def head(mask: str, anchors: str, **options: str) -> list[dict]:
    """1x1 convolution without batch norm and the [yolo] layer that reads it, for the 80 COCO classes."""
    n_anchors, n_all = len(mask.split(",")), len(anchors.split(",")) // 2
    return [{"type": "convolutional", "size": "1", "stride": "1", "pad": "1",
             "filters": str(n_anchors * (5 + COCO_CLASSES)), "activation": "linear"},
            {"type": "yolo", "mask": mask, "anchors": anchors, "classes": str(COCO_CLASSES), "num": str(n_all),
             "jitter": ".3", "ignore_thresh": ".7", "truth_thresh": "1", "random": "1"} | options]


def lateral(filters: int, layer_i: int) -> list[dict]:
    """From the layer three before the last head: narrow, double the map and join layer `layer_i`, of the same size."""
    return [route(-4), conv(filters, 1), upsample(), route(-1, layer_i)]


# Bases: all layers after [net]. The numbers in routes are layer indices of the public cfgs.

def darknet53() -> list[dict]:
    """Layers 0 to 74: the backbone of yolov3."""
    stages = ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
    return [conv(32, 3)] + [section for filters, n in stages
                            for section in (conv(filters, 3, 2), *residual(filters, filters // 2, n))]


def yolov3_heads() -> list[dict]:
    """From the first [yolo] convolution to the end: three heads, from the coarse grid to the fine one."""
    return [*head("6,7,8", V3_ANCHORS),
            *lateral(256, 61), *pairs(256, 3), *head("3,4,5", V3_ANCHORS),
            *lateral(128, 36), *pairs(128, 3), *head("0,1,2", V3_ANCHORS)]


def yolov3() -> list[dict]:
    """107 layers (Redmon & Farhadi 2018)."""
    return [*darknet53(), *pairs(512, 3), *yolov3_heads()]


def yolov3_spp() -> list[dict]:
    """114 layers: yolov3 with spatial pyramid pooling before its first head."""
    return [*darknet53(), *pairs(512, 1), conv(512, 1), *spp(), *pairs(512, 2), *yolov3_heads()]


def yolov3_tiny() -> list[dict]:
    """24 layers."""
    backbone = [section for filters in (16, 32, 64, 128, 256) for section in (conv(filters, 3), maxpool(2, 2))]
    return [*backbone, conv(512, 3), maxpool(2, 1), conv(1024, 3),
            conv(256, 1), conv(512, 3), *head("3,4,5", TINY_ANCHORS),
            *lateral(128, 8), conv(256, 3), *head("0,1,2", TINY_ANCHORS)]


def yolov4() -> list[dict]:
    """162 layers (Bochkovskiy et al. 2020): heads from the fine grid to the coarse one."""
    stages = ((64, 64, 32, 1), (128, 64, 64, 2), (256, 128, 128, 8), (512, 256, 256, 8), (1024, 512, 512, 4))
    backbone = [conv(32, 3, activation="mish")] + [section for stage in stages for section in csp_stage(*stage)]
    return [*backbone, *pairs(512, 1), conv(512, 1), *spp(), *pairs(512, 1), conv(512, 1),
            *_top_down(256, 85), *_top_down(128, 54),
            conv(256, 3), *head("0,1,2", V4_ANCHORS, scale_x_y="1.2", **V4_LOSS),
            *_bottom_up(256, -16), conv(512, 3), *head("3,4,5", V4_ANCHORS, scale_x_y="1.1", **V4_LOSS),
            *_bottom_up(512, -37), conv(1024, 3), *head("6,7,8", V4_ANCHORS, scale_x_y="1.05", **V4_LOSS)]


def _top_down(filters: int, layer_i: int) -> list[dict]:
    """Double the map and join backbone layer `layer_i`, both narrowed to `filters`; five convolutions."""
    return [conv(filters, 1), upsample(), route(layer_i), conv(filters, 1), route(-1, -3),
            *pairs(filters, 2), conv(filters, 1)]


def _bottom_up(filters: int, back: int) -> list[dict]:
    """From the layer three before the last head: halve the map and join the layer `back`; five convolutions."""
    return [route(-4), conv(filters, 3, 2), route(-1, back), *pairs(filters, 2), conv(filters, 1)]


def yolov4_tiny() -> list[dict]:
    """38 layers; the published masks share anchor 3 and leave anchor 0 unused."""
    options = V4_TINY_LOSS | {"random": "0"}
    return [conv(32, 3, 2), conv(64, 3, 2), *csp_tiny_stage(64), *csp_tiny_stage(128), *csp_tiny_stage(256),
            conv(512, 3), conv(256, 1), conv(512, 3), *head("3,4,5", TINY_ANCHORS, **options),
            *lateral(128, 23), conv(256, 3), *head("1,2,3", TINY_ANCHORS, **options)]


BASES = {"yolov3": yolov3, "yolov3-tiny": yolov3_tiny, "yolov3-spp": yolov3_spp,
         "yolov4": yolov4, "yolov4-tiny": yolov4_tiny}


def build(base: str, classes: int = 1, width: float = 1.0, size: tuple[int, int] = (416, 416)) -> list[dict]:
    """module_defs of a base: filters times `width`, heads for `classes`, input `size` (width, height) in pixels."""
    from utils.parse_config import rebuild_heads  # not above: command lines list the bases before torch is loaded
    return rebuild_heads(scale_width([net(*size), *BASES[base]()], width), classes)


def scale_width(defs: list[dict], width: float) -> list[dict]:
    """Copies of module_defs, filters of all convolutions but the heads' times `width`: a multiple of 8, at least 8."""
    from utils.parse_config import head_indices, integer
    fresh = [section.copy() for section in defs]
    heads = head_indices(defs)  # defs[i] is the convolution before layer i, as [net] is defs[0]
    for defs_i, section in enumerate(fresh):
        if section["type"] == "convolutional" and defs_i not in heads and width != 1.0:
            section["filters"] = str(max(8, int(integer(section, "filters") * width / 8 + 0.5) * 8))
    return fresh

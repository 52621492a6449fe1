"""The words of a cfg: every section and key that one of the two public Darknets reads, and the few of PyTorch forks.

Source: src/parser.c of pjreddie/darknet (61c9d02) and of AlexeyAB/darknet (0d0144e), the `option_find...` calls of each
parse_... function. A key's kind is that of its value. Kind "any" marks what only training, loading or drawing reads:
such keys are kept and written back, their values are not looked at. All other keys decide what a net computes.
"""

from utils.limits import MOST_CLASSES, MOST_NUMBER, MOST_SIDE_PX


def _any(keys: str) -> dict[str, str]:
    return dict.fromkeys(keys.split(), "any")


_EVERY_LAYER = _any("clip onlyforward dont_update burnin_update stopbackward train_only_bn dontload dontloadscales "
                    "learning_rate smooth truth stream wait_stream")
_HEAD = {"classes": "int", "num": "int", "anchors": "anchors", "truth_thresh": "float",
         "ignore_thresh": "float"} | _any("jitter random resize map max focal_loss thresh")
_YOLO = _HEAD | {"mask": "ints", "scale_x_y": "float", "new_coords": "int"} | _any(
    "show_details max_delta counters_per_class label_smooth_eps objectness_smooth iou_normalizer obj_normalizer "
    "cls_normalizer delta_normalizer uc_normalizer iou_loss iou_thresh_kind beta_nms nms_kind iou_thresh "
    "track_history_size sim_thresh dets_for_track dets_for_show track_ciou_norm embedding_layer track")
_POOL = {"size": "int", "stride": "int", "stride_x": "int", "stride_y": "int", "padding": "int"}

SECTION_KEYS = {
    "net": {"width": "int", "height": "int", "channels": "int"} | _any(
        # training, learning rate, optimiser
        "max_batches batch subdivisions learning_rate learning_rate_min sgdr_cycle sgdr_mult momentum decay policy "
        "burn_in step scale steps scales seq_scales gamma power adam B1 B2 eps loss_scale clip time_steps "
        "sequential_subdivisions track augment_speed try_fix_nan notruth weights_reject_freq equidistant_point "
        "badlabels_rejection_percentage num_sigmas_reject_badlabels ema_alpha max_chart_loss adversarial_lr attention "
        # memory
        "use_cuda_graph dynamic_minibatch optimized_memory workspace_size_limit_MB show_receptive_field "
        # pictures
        "inputs max_crop min_crop max_ratio min_ratio center flip blur gaussian_noise mixup cutmix mosaic mosaic_bound "
        "letter_box contrastive contrastive_jit_flip contrastive_color unsupervised label_smooth_eps resize "
        "resize_step angle aspect saturation exposure hue random"),
    "convolutional": {"batch_normalize": "int", "filters": "int", "size": "int", "stride": "int", "stride_x": "int",
                      "stride_y": "int", "dilation": "int", "pad": "int", "padding": "int", "groups": "int",
                      "activation": "activation", "cbn": "int"}
    | _any("dot angle grad_centr reverse"),
    "maxpool": _POOL | _any("out_channels"),
    "local_avgpool": _POOL,
    "avgpool": {},
    "upsample": {"stride": "int", "scale": "float"},
    "route": {"layers": "ints", "groups": "int", "group_id": "int"},
    "shortcut": {"from": "ints", "activation": "activation", "weights_type": "word", "weights_normalization": "word"},
    "scale_channels": {"from": "ints", "activation": "activation"},
    "sam": {"from": "ints", "activation": "activation"},
    "dropout": {"probability": "float"} | _any("dropblock dropblock_size_rel dropblock_size_abs"),
    "reorg": {"stride": "int"},
    "reorg3d": {"stride": "int"},
    "region": _HEAD | {"coords": "int", "softmax": "int"} | _any(
        "log sqrt rescore classfix absolute coord_scale object_scale noobject_scale mask_scale class_scale bias_match"),
    "yolo": _YOLO,
    "Gaussian_yolo": _YOLO | {"yolo_point": "word"},
    "se": {"filters": "int", "reduction": "int"},
}
for _kind, _keys in SECTION_KEYS.items():
    if _kind != "net":
        _keys.update({_key: "any" for _key in _EVERY_LAYER if _key not in _keys})

# Keys under which a layer computes something that this program does not:
# section -> key -> (the one value that is allowed, what any other asks for)
_BLUR = ("0", "blurred downsampling (anti-aliasing)")
_DEFORMED = ("0", "deformed kernels")
_WEIGHTED = {"weights_type": ("none", "weighted shortcuts"), "alpha": ("1", "scaled shortcuts"),
             "beta": ("1", "scaled shortcuts")}
_SPATIAL = {"reverse": ("0", "the reverse order"), "flatten": ("0", "flattening"), "extra": ("0", "an extra output")}
NOT_COMPUTED = {
    "convolutional": {"xnor": ("0", "binary weights and inputs (XNOR-Net)"), "binary": ("0", "binary weights"),
                      "bin_output": ("0", "binary outputs"), "flipped": ("0", "transposed kernels"),
                      "share_index": (None, "weights shared between layers"), "antialiasing": _BLUR,
                      "assisted_excitation": ("0", "assisted excitation"), "sway": _DEFORMED, "rotate": _DEFORMED,
                      "stretch": _DEFORMED, "stretch_sway": _DEFORMED, "coordconv": ("0", "coordinate channels"),
                      "bflip": ("0", "flipped kernels")},
    "maxpool": {"maxpool_depth": ("0", "pooling over channels"), "antialiasing": _BLUR,
                "maxpool_zero_nonmax": ("0", "zeroed losers of the pooling")},
    "shortcut": _WEIGHTED,
    "scale_channels": {"scale_wh": ("0", "scales per place")},
    "reorg": _SPATIAL,
    "reorg3d": _SPATIAL,
    "region": {"tree": (None, "classes in a tree (YOLO9000)"), "coords": ("4", "another number of box coordinates"),
               "background": ("0", "a background class")},
    "Gaussian_yolo": {"yolo_point": ("center", "boxes given by a corner")},
}
for _kind in SECTION_KEYS.keys() - {"net"}:
    NOT_COMPUTED.setdefault(_kind, {}).update(dontsave=("0", "layers left out of the weights file"),
                                              numload=("0", "kernels read in part"))

# Sections that either Darknet builds and this program does not, and why
_CLASSIFIER = "it belongs to a classifier or to YOLOv1; this program takes detectors with anchors"
_RECURRENT = "it remembers earlier frames; this program takes single pictures"
NOT_SUPPORTED = {
    **dict.fromkeys(("connected", "local", "softmax", "logistic", "cost", "crop", "detection", "normalization",
                     "deconvolutional", "iseg"), _CLASSIFIER),
    **dict.fromkeys(("crnn", "rnn", "gru", "lstm", "conv_lstm", "history"), _RECURRENT),
    "batchnorm": "a batch norm of its own is not supported", "activation": "an activation of its own is not supported",
    "implicit": "learned constants (YOLOR) are not supported", "contrastive": "tracking by embeddings is not supported",
    "l2norm": "normalised maps are not supported", "empty": "empty layers are not supported"}

REQUIRED_KEYS = {
    "convolutional": ("filters",),
    "route": ("layers",),
    "shortcut": ("from",),
    "scale_channels": ("from",),
    "sam": ("from",),
    "yolo": ("anchors",),
    "Gaussian_yolo": ("anchors",),
    "region": ("anchors",),
}
SPELLINGS = {
    "conv": "convolutional",
    "network": "net",
    "max": "maxpool",
    "avg": "avgpool",
    "local_avg": "local_avgpool",
    "soft": "softmax",
    "conn": "connected",
    "lrn": "normalization",
    "deconv": "deconvolutional",
    "silence": "empty",
    "gaussian_yolo": "Gaussian_yolo",
}
# Sections of PyTorch forks that are one of Darknet's with something understood: filters as conv groups; the first half
FORKS = {"depthwise": "convolutional", "route_lhalf": "route"}
_POSITIVE = (1, MOST_NUMBER, f"1 or more, at most {MOST_NUMBER:,}")
_NOT_NEGATIVE = (0, MOST_NUMBER, f"0 or more, at most {MOST_NUMBER:,}")
# key -> (least, most, both in words), of every section in which it decides what is computed
RANGES = {
    **dict.fromkeys("filters size stride stride_x stride_y dilation groups num reduction channels".split(), _POSITIVE),
    **dict.fromkeys("pad padding batch_normalize group_id".split(), _NOT_NEGATIVE),
    **dict.fromkeys(("width", "height"), (1, MOST_SIDE_PX, f"1 or more, at most {MOST_SIDE_PX:,} pixels")),
    "classes": (1, MOST_CLASSES, f"1 or more, at most {MOST_CLASSES:,}"),
    "probability": (0, 1, "a probability, 0 to 1")}
ONE_REFERENCE = ("scale_channels", "sam")  # sections that join the layer before with exactly one other
KIND_WORDS = {"int": "a whole number", "float": "a number", "ints": "whole numbers separated by commas",
              "anchors": "numbers separated by commas"}

"""Non-maximum suppression at the end of an ONNX file, by the standard operators alone: what utils.evaluation.nms does.

Outputs, per image the best D = min(max_det, boxes) detections in descending score, D - count rows of zeros last:
"boxes" (B, D, 4) float32 x1, y1, x2, y2 in input pixels; "scores" (B, D) float32 objectness x class probability;
"classes" (B, D) int64; "count" (B,) int64.
"""

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from utils.deploy.metadata import BuiltInNms

OUTPUTS = ("boxes", "scores", "classes", "count")


def with_nms(model: onnx.ModelProto, nms: BuiltInNms, classes: int) -> onnx.ModelProto:
    """`model`, whose output is "predictions" (B, N, 5 + K), followed by the suppression."""
    tail = helper.make_model(
        _tail(nms, classes),
        opset_imports=[helper.make_opsetid("", model.opset_import[0].version)],
        ir_version=model.ir_version,
    )
    return compose.merge_models(model, tail, io_map=[("predictions", "found")])


def _tail(nms: BuiltInNms, classes: int) -> onnx.GraphProto:
    """predictions -> corners; scores of each box's best class alone (B, K, N) -> kept ones -> the best D of them."""
    nodes = [
        helper.make_node(kind, inputs.split(), outputs.split(), **attributes)
        for kind, inputs, outputs, attributes in _NODES
    ]
    numbers = {
        "half": np.float32(0.5),
        "cut2": np.int64([2]),
        "cut4": np.int64([4]),
        "cut5": np.int64([5]),
        "cut0": np.int64([0]),
        "end": np.int64([2**31 - 1]),
        "axis2": np.int64([2]),
        "axis1": np.int64([1]),
        "confidence": np.float32(nms.conf_thres),
        "overlap": np.float32(nms.nms_thres),
        "limit": np.int64([nms.max_det]),
        "depth": np.int64([classes]),
        "off_on": np.float32([0, 1]),
        "zero": np.float32(0),
        "four": np.int64([1, 1, 4]),
    }
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()]
    types = {"boxes": (TensorProto.FLOAT, ["batch", "D", 4]), "scores": (TensorProto.FLOAT, ["batch", "D"]),
             "classes": (TensorProto.INT64, ["batch", "D"]), "count": (TensorProto.INT64, ["batch"])}
    outputs = [helper.make_tensor_value_info(name, *types[name]) for name in OUTPUTS]
    found = helper.make_tensor_value_info("found", TensorProto.FLOAT, ["batch", "N", 5 + classes])
    return helper.make_graph(nodes, "nms", [found], outputs, constants)


_NODES = [
    # corners
    ("Slice", "found cut0 cut2 axis2", "centre", {}),
    ("Slice", "found cut2 cut4 axis2", "sides", {}),
    ("Mul", "sides half", "halves", {}),
    ("Sub", "centre halves", "low", {}),
    ("Add", "centre halves", "high", {}),
    ("Concat", "low high", "corners", {"axis": 2}),
    # the score of a box in its most probable class, 0 in all others and where objectness is under the threshold
    ("Slice", "found cut4 cut5 axis2", "objectness", {}),
    ("Slice", "found cut5 end axis2", "probabilities", {}),
    ("ArgMax", "probabilities", "label", {"axis": 2, "keepdims": 0}),
    ("OneHot", "label depth off_on", "is_label", {"axis": -1}),
    ("GreaterOrEqual", "objectness confidence", "sure", {}),
    ("Where", "sure objectness zero", "sure_objectness", {}),
    ("Mul", "probabilities sure_objectness", "products", {}),
    ("Mul", "products is_label", "by_box", {}),
    ("Transpose", "by_box", "by_class", {"perm": [0, 2, 1]}),
    # those that are kept, back at their place
    ("NonMaxSuppression", "corners by_class limit overlap zero", "kept", {}),
    ("GatherND", "by_class kept", "kept_scores", {}),
    ("Shape", "by_class", "by_class_shape", {}),
    (
        "ConstantOfShape",
        "by_class_shape",
        "nothing",
        {"value": helper.make_tensor("value", TensorProto.FLOAT, [1], [0])},
    ),
    ("ScatterND", "nothing kept kept_scores", "after", {}),
    ("ReduceMax", "after axis1", "best", {"keepdims": 0}),
    # the best of them
    ("Shape", "best", "boxes_each", {"start": 1, "end": 2}),
    ("Min", "boxes_each limit", "D", {}),
    ("TopK", "best D", "scores index", {"axis": 1}),
    ("GatherElements", "label index", "found_classes", {"axis": 1}),
    ("Greater", "scores zero", "is_found", {}),
    ("Cast", "is_found", "is_found_int", {"to": TensorProto.INT64}),
    ("Mul", "found_classes is_found_int", "classes", {}),
    ("ReduceSum", "is_found_int axis1", "count", {"keepdims": 0}),
    ("Unsqueeze", "index axis2", "index_column", {}),
    ("Tile", "index_column four", "index_four", {}),
    ("GatherElements", "corners index_four", "found_boxes", {"axis": 1}),
    ("Unsqueeze", "is_found_int axis2", "found_column", {}),
    ("Cast", "found_column", "found_float", {"to": TensorProto.FLOAT}),
    ("Mul", "found_boxes found_float", "boxes", {}),
]

"""Put the contract of detectors around the graph of a third-party detector: uint8 pictures in, boxes and scores out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.contract import TensorSpec
from ..core.errors import UsageError
from ..core.geometry import Size
from ..core.yolov3 import ANCHORS, STRIDES
from ..detectors.yolov3 import count_boxes, find_heads, find_rows
from ..detectors.yolox import yolox_cells

if TYPE_CHECKING:
    import onnx

_GRAPH = """
<ir_version: {ir}, opset_import: ["": {opset}]>
part ({inputs}) => ({outputs})
{{
    {nodes}
}}
"""
#: Before YOLOX, which takes BGR planes from 0 to 255, and before YOLOv3, which takes RGB planes from 0 to 1.
_BGR_PLANES = """
    [cast_images] pixels = Cast <to = 1> (images)
    [to_planes] rgb = Transpose <perm = [0, 3, 1, 2]> (pixels)
    [to_bgr] planes = Gather <axis = 1> (rgb, bgr)
"""
_UNIT_PLANES = """
    [cast_images] pixels = Cast <to = 1> (images)
    [to_planes] rgb = Transpose <perm = [0, 3, 1, 2]> (pixels)
    [to_unit] planes = Div (rgb, white)
"""
#: After a network that lists its boxes: centre, size, objectness and class probabilities, the centre and size in pixels
#: or, as YOLOX gives them, the centre in cells from the cell's corner and the logarithm of the size in cells (Ge et al.
#: 2021, arXiv 2107.08430, section 2.1).
_PARTS = "[parts] {centre}, {size}, objectness, person, others = Split <axis = 2> (raw, sides)"
_YOLOX_PIXELS = """
    [offset_pixels] moved = Mul (offset, stride)
    [centre] centre = Add (moved, corner)
    [size_cells] cells = Exp (logarithm)
    [size] size = Mul (cells, stride)
"""
_CORNERS = """
    [half_size] half = Div (size, two)
    [top_left] low = Sub (centre, half)
    [bottom_right] high = Add (centre, half)
    [corners] boxes = Concat <axis = 2> (low, high)
    [certainty] score = Mul (objectness, person)
    [score_of_box] scores = Squeeze (score, last)
"""
#: After one raw head of YOLOv3: anchor by anchor the logits of the centre in its cell, the logarithm of the size in
#: anchors, the logits of objectness and classes. ``@`` is the head's number.
_HEAD = """
    [anchors@] split@ = Reshape (raw@, by_anchor@)
    [parts@] offset@, logarithm@, objectness@, person@, others@ = Split <axis = 2> (split@, sides)
    [offset_cells@] inside@ = Sigmoid (offset@)
    [centre_cells@] cells@ = Add (inside@, corner@)
    [centre@] centre@ = Mul (cells@, stride@)
    [size_anchors@] factor@ = Exp (logarithm@)
    [size@] size@ = Mul (factor@, anchor@)
    [half_size@] half@ = Div (size@, two)
    [top_left@] low@ = Sub (centre@, half@)
    [bottom_right@] high@ = Add (centre@, half@)
    [corners@] both@ = Concat <axis = 2> (low@, high@)
    [corners_last@] ordered@ = Transpose <perm = [0, 1, 3, 4, 2]> (both@)
    [boxes@] boxes@ = Reshape (ordered@, box_shape)
    [certain@] certain@ = Sigmoid (objectness@)
    [likely@] likely@ = Sigmoid (person@)
    [certainty@] score@ = Mul (certain@, likely@)
    [scores@] scores@ = Reshape (score@, score_shape)
"""
_TOGETHER = """
    [all_boxes] boxes = Concat <axis = 1> (boxes0, boxes1, boxes2)
    [all_scores] scores = Concat <axis = 1> (scores0, scores1, scores2)
"""
_TWO = {"two": np.float32(2)}
#: Constants, and shapes of inputs or outputs, by name; None stands for the batch.
_Constants = Mapping[str, Any]
_Shape = tuple[int | None, ...]
_Shapes = Mapping[str, _Shape]


def wrap_yolox(model: onnx.ModelProto, size: Size) -> onnx.ModelProto:
    """Return a YOLOX for pictures of (height, width), in the contract of detectors."""
    (given,) = model.graph.output
    cells = yolox_cells(size)
    constants = {"corner": cells[None, :, :2], "stride": cells[None, :, 2:], **_of_rows(given)}
    nodes = _PARTS.format(centre="offset", size="logarithm") + _YOLOX_PIXELS + _CORNERS
    after = _graph(model, nodes, {"raw": _shape(given)}, _results(len(cells)), constants)
    return _surround(model, size, (_BGR_PLANES, {"bgr": np.array([2, 1, 0])}), after, {given.name: "raw"})


def wrap_yolov3(model: onnx.ModelProto, size: Size) -> onnx.ModelProto:
    """Return a YOLOv3 of decoded boxes or raw heads, for pictures of (height, width), in the contract of detectors."""
    given = {value.name: value for value in model.graph.output}
    specs = [TensorSpec(name, _shape(value), np.dtype(np.float32)) for name, value in given.items()]
    heads, rows = find_heads(specs, size), find_rows(specs)
    if heads:
        joints = {name: f"raw{number}" for number, name in enumerate(heads)}
        after = _after_heads(model, [_shape(given[name]) for name in heads], size)
    elif rows:
        joints = {rows.name: "raw"}
        nodes = _PARTS.format(centre="centre", size="size") + _CORNERS
        after = _graph(model, nodes, {"raw": rows.shape}, _results(count_boxes(size)), _of_rows(given[rows.name]))
    else:
        raise UsageError(f"its outputs {', '.join(given)} are those of no YOLOv3 once their shapes are inferred")
    del model.graph.output[:]
    model.graph.output.extend(given[name] for name in joints)
    return _surround(model, size, (_UNIT_PLANES, {"white": np.float32(255)}), after, joints)


def _after_heads(model: onnx.ModelProto, shapes: list[_Shape], size: Size) -> onnx.ModelProto:
    channels = int(shapes[0][1] or 0)
    values = channels // len(ANCHORS[0])
    constants: dict[str, Any] = {
        **_TWO,
        "sides": np.array([2, 2, 1, 1, values - 6]),
        "box_shape": np.array([0, -1, 4]),
        "score_shape": np.array([0, -1]),
    }
    for number, (stride, anchors) in enumerate(zip(STRIDES, ANCHORS, strict=True)):
        rows, columns = size[0] // stride, size[1] // stride
        y, x = np.mgrid[:rows, :columns]
        constants |= {
            f"by_anchor{number}": np.array([0, len(anchors), values, rows, columns]),
            f"corner{number}": np.stack([x, y]).astype(np.float32)[None, None],
            f"stride{number}": np.float32(stride),
            f"anchor{number}": np.array(anchors, np.float32)[None, :, :, None, None],
        }
    nodes = "".join(_HEAD.replace("@", str(number)) for number in range(len(STRIDES))) + _TOGETHER
    inputs = {f"raw{number}": shape for number, shape in enumerate(shapes)}
    return _graph(model, nodes, inputs, _results(count_boxes(size)), constants)


def _of_rows(given: onnx.ValueInfoProto) -> _Constants:
    """Return the constants that take a list of boxes (N, boxes, 5 + classes) apart."""
    others = int(_shape(given)[2] or 0) - 6
    return {**_TWO, "sides": np.array([2, 2, 1, 1, others]), "last": np.array([2])}


def _results(count: int) -> _Shapes:
    return {"boxes": (None, count, 4), "scores": (None, count)}


def _shape(value: onnx.ValueInfoProto) -> _Shape:
    return tuple(side.dim_value or None for side in value.type.tensor_type.shape.dim)


def _graph(
    model: onnx.ModelProto, nodes: str, inputs: _Shapes, outputs: _Shapes, constants: _Constants, kind: str = "float"
) -> onnx.ModelProto:
    """Return a graph of these nodes, for a model's opset, with inputs of a kind and float outputs."""
    from onnx import numpy_helper, parser

    def listed(shapes: _Shapes, kind: str) -> str:
        return ", ".join(f"{kind}[{', '.join(str(s or 'N') for s in shape)}] {name}" for name, shape in shapes.items())

    version = next(opset.version for opset in model.opset_import if opset.domain == "")
    text = _GRAPH.format(
        ir=model.ir_version,
        opset=version,
        inputs=listed(inputs, kind),
        outputs=listed(outputs, "float"),
        nodes=nodes,
    )
    made = parser.parse_model(text)
    for name, value in constants.items():
        array: NDArray[Any] = np.asarray(value)
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    return made


def _surround(
    model: onnx.ModelProto, size: Size, before: tuple[str, _Constants], after: onnx.ModelProto, joints: dict[str, str]
) -> onnx.ModelProto:
    """Join nodes that make planes of ``images``, a model, and a graph that takes its outputs by ``joints``."""
    from onnx import compose

    (taken,) = model.graph.input
    images, planes = {"images": (None, *size, 3)}, {"planes": (None, 3, *size)}
    first = _graph(model, before[0], images, planes, before[1], kind="uint8")
    model = compose.add_prefix(model, "network/")
    model = compose.merge_models(first, model, [("planes", f"network/{taken.name}")])
    return compose.merge_models(model, after, [(f"network/{name}", to) for name, to in joints.items()])


#: By kind of detector, how its graph is wrapped; any other kind keeps the contract itself.
WRAPS: Mapping[str, Callable[[onnx.ModelProto, Size], onnx.ModelProto]] = {"yolox": wrap_yolox, "yolov3": wrap_yolov3}

"""verify, and what opens bundles, on a tiny detector whose goldens come from a NumPy twin."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, shape_inference

import edgepose
from edgepose.bundle.bundle import Bundle, open_bundle, write_manifest
from edgepose.bundle.goldens import Goldens, compare, read_goldens, verdict
from edgepose.bundle.limits import BOX_LIMITS
from edgepose.bundle.manifest import Manifest
from edgepose.bundle.tasks import PERSONS, POSE
from edgepose.core.errors import CheckError, UsageError
from edgepose.detectors.kinds import open_detector
from edgepose.graphs.sixteen_bit import network_nodes, to_16_bit
from edgepose.verify import verify
from tests.doubles import pose_network
from tests.doubles.pose_network import CPU, change_goldens, parse_graph, put_graph

SIDE, CELL, BOXES = 32, 16, 4
#: Each of four cells holds a box: the more red, the more certain, and the more green, the smaller.
GRAPH = """
<ir_version: 9, opset_import: ["": 18]>
tiny (uint8[N, 32, 32, 3] images) => (float[N, 4, 4] boxes, float[N, 4] scores)
<int64[2] of_scores = {0, 4}, int64[3] of_margins = {0, 4, 1}>
{
    pixels = Cast <to = 1> (images)
    planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
    [stem] features = Conv <strides = [8, 8]> (planes, w1)
    [relu] rectified = Relu (features)
    [certainty] logits = Conv <strides = [2, 2]> (rectified, w2, b2)
    [margin] margins = Conv <strides = [2, 2]> (rectified, w3)
    [sigmoid] certain = Sigmoid (logits)
    [scores] scores = Reshape (certain, of_scores)
    [margins] margin = Reshape (margins, of_margins)
    [low] low = Add (top_left, margin)
    [high] high = Sub (bottom_right, margin)
    [boxes] boxes = Concat <axis = 2> (low, high)
}
"""
#: Red and green of the four cells of each picture: two persons, one, and nobody.
LEVELS = [
    [(255, 0), (0, 0), (0, 51), (200, 102)],
    [(0, 0), (220, 204), (100, 0), (0, 255)],
    [(0, 0), (20, 0), (0, 20), (20, 20)],
]
#: sigmoid(8 red - 4), red from 0 to 1.
SCORES = [
    [0.98201, 0.01799, 0.01799, 0.90674],
    [0.01799, 0.94794, 0.29677, 0.01799],
    [0.01799, 0.03317, 0.01799, 0.03317],
]
#: The last cell of the first picture; each side moved inwards by 4 green px, green from 0 to 1.
PERSON = [17.6, 17.6, 30.4, 30.4]
_CORNERS = np.array([[0, 0], [16, 0], [0, 16], [16, 16]], np.float32)[None]


def make_weights() -> dict[str, np.ndarray]:
    w1 = np.zeros((2, 3, 8, 8), np.float32)
    w1[0, 0] = w1[1, 1] = 1 / (64 * 255)
    w2, w3 = np.zeros((2, 1, 2, 2, 2), np.float32)
    w2[0, 0], w3[0, 1] = 2, 1
    corners = {"top_left": _CORNERS, "bottom_right": _CORNERS + CELL}
    return {"w1": w1, "w2": w2, "b2": np.array([-4], np.float32), "w3": w3, **corners}


def paint(levels: list[list[tuple[int, int]]]) -> np.ndarray:
    """Pictures (N, 32, 32, 3) uint8 of cells."""
    cells = np.array([[(red, green, 0) for red, green in picture] for picture in levels], np.uint8)
    return cells.reshape(-1, 2, 2, 3).repeat(CELL, axis=1).repeat(CELL, axis=2)


def twin(images: np.ndarray) -> dict[str, np.ndarray]:
    """The graph in NumPy."""
    means = images.reshape(-1, 2, CELL, 2, CELL, 3).mean(axis=(2, 4)).reshape(-1, BOXES, 3) / 255
    margin = 4 * means[..., 1:2]
    boxes = np.concatenate([_CORNERS + margin, _CORNERS + CELL - margin], axis=2)
    return {
        "boxes": boxes.astype(np.float32),
        "scores": (1 / (1 + np.exp(4 - 8 * means[..., 0]))).astype(np.float32),
    }


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    path = tmp_path / "finder.edgepose"
    path.mkdir()
    images = paint(LEVELS)
    Goldens(images, twin(images)).save(path / "golden.npz")
    manifest = Manifest("finder", "peaks", "", (SIDE, SIDE), options={"boxes": BOXES}, decode="boxes")
    bundle = put_graph(write_manifest(path, manifest), parse_graph(GRAPH, make_weights()))
    return bundle.with_files(path / "golden.npz")


def change_graph(bundle: Bundle, text: str = GRAPH, **weights: np.ndarray) -> None:
    put_graph(bundle, parse_graph(text, {**make_weights(), **weights}))


# --- verify ---


def test_the_goldens_are_what_was_painted(bundle: Bundle) -> None:
    outputs = read_goldens(bundle).outputs
    np.testing.assert_allclose(outputs["scores"], SCORES, atol=1e-5)
    np.testing.assert_allclose(outputs["boxes"][0], [[0, 0, 16, 16], [16, 0, 32, 16], [0.8, 16.8, 15.2, 31.2], PERSON])


def test_every_engine_finds_the_golden_persons(bundle: Bundle) -> None:
    report = verify(bundle, CPU)
    assert report.passed and not report.skipped and not report.differences
    assert [(c.runner.backend, c.runner.precision, c.batch) for c in report.checks] == [
        (b, "fp32", n) for b in CPU for n in (1, 3)
    ]
    for check in report.checks:
        assert check.figures is not None
        assert check.figures.score < 1e-5 and check.figures.largest < 1e-4


def test_the_table_and_the_page_speak_of_boxes_and_of_the_imported_file(bundle: Bundle) -> None:
    report = verify(bundle, CPU)
    report.save(bundle.reports / "verify.json")
    page = (bundle.reports / "verify.html").read_text()
    assert str(report).splitlines()[0].split()[3:5] == ["score", "error"]
    assert "3 golden pictures replayed and compared with the imported file." in page
    assert "<th>score error</th>" in page and "<th>scores, of range</th>" in page
    assert 'alt="golden picture 0 with the boxes of the imported file and openvino fp32"' in page
    assert page.count("<figure>") == 2 * 3
    for word in ("keypoint", "heat-map", "PyTorch"):
        assert word not in str(report) and word not in page, word
    written = json.loads((bundle.reports / "verify.json").read_text())
    assert written["limits"] == {"fp32": vars(BOX_LIMITS["fp32"])}
    assert (written["passed"], written["goldens"]) == (True, 3)


def test_golden_boxes_that_moved_fail(bundle: Bundle) -> None:
    limit = BOX_LIMITS["fp32"].p50
    change_goldens(bundle, boxes=read_goldens(bundle).outputs["boxes"] + np.float32([2 * limit, 0, 2 * limit, 0]))
    report = verify(bundle, ("onnxruntime",))
    figures, problem = report.checks[1].figures, report.checks[1].problem or ""
    assert figures is not None and figures.p50 == pytest.approx(2 * limit, abs=1e-4) and figures.score < 1e-5
    assert f"the median box error is {2 * limit:.3g} px, the limit is {limit:.3g} px" in problem
    assert "score error" not in problem
    difference = report.differences["onnxruntime fp32"]
    assert difference.startswith("onnxruntime computes every node correctly: the goldens are from another file")
    assert "import it again" in difference
    with pytest.raises(CheckError, match="2 of 2 checks failed; onnxruntime fp32, batch 1: the median box error is"):
        report.require_passed()


def test_golden_scores_that_differ_fail(bundle: Bundle) -> None:
    scores, limit = read_goldens(bundle).outputs["scores"], BOX_LIMITS["fp32"].score
    change_goldens(bundle, scores=scores - np.float32(2 * limit * np.ptp(scores)))
    (check, _) = verify(bundle, ("openvino",)).checks
    sentence = f"the score error as a fraction of the range is {2 * limit:.3g}, the limit is {limit:.3g}"
    assert check.problem == sentence
    assert check.figures is not None and check.figures.largest < 1e-4


def test_a_person_that_a_graph_loses_costs_all_of_its_score(bundle: Bundle) -> None:
    goldens = read_goldens(bundle)
    outputs = {**goldens.outputs, "scores": goldens.outputs["scores"].copy()}
    outputs["scores"][0, 3] = 0.01
    distances, scores = PERSONS.errors(goldens.outputs, outputs)
    # The box is 12.8 px wide and high, and its diagonal 18.1 px.
    assert [d.tolist() for d in distances] == [[0, pytest.approx(12.8 * 2**0.5, abs=1e-4)], [0], []]
    np.testing.assert_allclose(scores, [0.90674, 0, 0], atol=1e-5)
    figures = compare(goldens, outputs)
    assert figures.score_fraction == pytest.approx(0.90674 / (0.98201 - 0.01799), abs=1e-4)
    assert (figures.p50, figures.largest) == (0, pytest.approx(18.102, abs=1e-3))


def test_goldens_without_persons_have_no_distances(bundle: Bundle) -> None:
    last = read_goldens(bundle)
    nobody = replace(last, images=last.images[2:], outputs={name: values[2:] for name, values in last.outputs.items()})
    figures, problem = verdict(nobody, dict(nobody.outputs), "fp32")
    assert problem is None and figures is not None
    assert (figures.score, figures.p50, figures.p99, figures.largest) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("weight", "sentence", "node"),
    [
        ("w2", "scores hold 12 NaN or infinite values, the first in picture 0, box 0", "certainty"),
        ("w3", "boxes hold 48 NaN or infinite values, the first in picture 0, box 0", "margin"),
    ],
)
def test_nan_names_the_output_and_the_node(bundle: Bundle, weight: str, sentence: str, node: str) -> None:
    change_graph(bundle, **{weight: make_weights()[weight] * np.float32(np.nan)})
    report = verify(bundle, ("onnxruntime",))
    assert [check.problem for check in report.checks] == [sentence] * 2
    assert report.checks[0].figures is None
    assert report.differences == {"onnxruntime fp32": f"NaN or infinity first appears at Conv {node}"}
    report.save(bundle.reports / "verify.json")
    json.loads((bundle.reports / "verify.json").read_text(), parse_constant=pytest.fail)


def test_infinity_is_looked_for_in_the_picture_that_has_it(bundle: Bundle) -> None:
    """Nobody is in that picture, so that no person is lost there."""
    images = read_goldens(bundle).images.copy()
    images[2, ..., 2] = 255
    change_goldens(bundle, images=images)
    blue = make_weights()["w1"]
    blue[1, 2] = np.finfo(np.float32).max
    change_graph(bundle, w1=blue)
    report = verify(bundle, ("onnxruntime",))
    assert "NaN or infinite values, the first in picture 2, box 0" in (report.checks[0].problem or "")
    assert report.differences == {"onnxruntime fp32": "NaN or infinity first appears at Conv stem"}


def test_wrong_names_and_shapes_fail(bundle: Bundle) -> None:
    change_graph(bundle, GRAPH.replace("float[N, 4, 4] boxes", "float[N, 4, 2] boxes").replace("(low, high)", "(low)"))
    (check, _) = verify(bundle, ("onnxruntime",)).checks
    assert check.problem == "output boxes has shape (3, 4, 2), expected (3, 4, 4)" and check.outputs is None
    change_graph(bundle, GRAPH.replace("scores)\n<", "certainties)\n<").replace("] scores =", "] certainties ="))
    (check, _) = verify(bundle, ("onnxruntime",)).checks
    assert check.problem == "there is no output scores, only boxes, certainties"


def test_data_of_labelled_keypoints_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="holds a person detector: expected a pose network"):
        verify(bundle, ("onnxruntime",), data="lsp:nowhere")


@pytest.mark.parametrize(
    ("precision", "row"),
    [
        ("fp32", "fp32"),
        ("fp16", "fp16"),
        ("bf16", "bf16"),
        ("int8", "int8"),
        ("int8+fp16", "int8"),
        ("mixed", "int8"),
    ],
)
def test_limits_of_a_detector_are_those_of_its_coarsest_arithmetic(precision: str, row: str) -> None:
    assert PERSONS.limits(precision) is BOX_LIMITS[row]


# --- what is refused ---


def test_goldens_that_are_not_the_detector_s_are_refused(bundle: Bundle) -> None:
    goldens, path = read_goldens(bundle), bundle.path / "golden.npz"
    boxes, scores = goldens.outputs["boxes"], goldens.outputs["scores"]
    for outputs, message in (
        ({"boxes": boxes}, "lacks scores: import the detector again"),
        ({"scores": scores}, "lacks boxes: import the detector again"),
        ({"keypoints": boxes}, "lacks boxes"),
        ({"boxes": boxes, "scores": scores[:, :3]}, r"scores is float32 \(3, 3\), expected finite float32 \(3, 4\)"),
        ({"boxes": boxes[..., :3], "scores": scores}, r"boxes is float32 \(3, 4, 3\), expected .* \(3, 4, 4\)"),
        ({"boxes": boxes, "scores": scores.astype(np.float64)}, r"scores is float64 \(3, 4\)"),
        ({"boxes": boxes + np.float32(np.inf), "scores": scores}, "boxes is float32 .*, expected finite"),
        (
            {"boxes": boxes, "scores": scores / 4},
            r"golden\.npz: no person scores 0\.4 or more, so nothing can be verified: import the detector again$",
        ),
    ):
        Goldens(goldens.images, outputs).save(path)
        with pytest.raises(UsageError, match=message):
            read_goldens(bundle)


@pytest.mark.parametrize("options", [{}, {"boxes": 4.0}, {"boxes": "4"}, {"boxes": True}, {"boxes": None}])
def test_a_manifest_that_does_not_say_how_many_boxes_is_refused(bundle: Bundle, options: dict) -> None:
    write_manifest(bundle.path, replace(bundle.manifest, options=options))
    with pytest.raises(UsageError, match="options of a detector must name a number of boxes"):
        open_bundle(bundle.path)


def test_a_detector_has_boxes_and_no_skeleton(bundle: Bundle) -> None:
    opened = open_bundle(bundle.path)
    assert opened.task is PERSONS and read_goldens(opened).task is PERSONS
    assert {spec.name: spec.sample for spec in opened.contract.outputs} == {"boxes": (4, 4), "scores": (4,)}
    with pytest.raises(UsageError, match=r"finder\.edgepose holds a person detector: expected a pose network"):
        _ = opened.skeleton


def test_a_detector_is_no_pose_network(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"finder\.edgepose holds a person detector: expected a pose network"):
        edgepose.load(bundle.path, "onnxruntime")


def test_a_pose_network_is_no_detector(tmp_path: Path) -> None:
    pose = pose_network.make_bundle(tmp_path / "tiny.edgepose")
    assert pose.task is POSE
    with pytest.raises(UsageError, match=r"tiny\.edgepose holds a pose network: expected a person detector$"):
        open_detector(pose.path)


# --- what runs ---


@pytest.mark.parametrize("backend", ["auto", *CPU])
def test_the_detector_finds_the_person_where_it_was_painted(bundle: Bundle, backend: str) -> None:
    # Twice as large as what the detector takes, so that its boxes grow by two.
    picture = paint([[(0, 0), (0, 0), (0, 0), (200, 102)]])[0].repeat(2, axis=0).repeat(2, axis=1)
    detector = open_detector(bundle.path, backend)
    try:
        found = detector(picture)
    finally:
        detector.close()
    np.testing.assert_allclose(found.boxes, [[35.2, 35.2, 60.8, 60.8]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.90674], atol=1e-5)


def test_a_detector_that_does_not_give_its_goldens_is_not_opened(bundle: Bundle) -> None:
    change_graph(bundle, b2=np.array([-3], np.float32))
    changed = bundle.with_files(bundle.graph)
    with pytest.raises(
        CheckError, match=r"does not give the imported file's boxes of the golden pictures .*score error"
    ):
        open_detector(changed.path, "onnxruntime")
    open_detector(changed.path, "onnxruntime", self_check=False).close()


def test_graphs_are_named_after_the_detector(bundle: Bundle) -> None:
    names = [bundle.manifest.graph_name(precision) for precision in ("fp32", "int8", "int8+fp16", "mixed")]
    assert names == ["detector.onnx", "detector.int8.onnx", "detector.int8+fp16.onnx", "detector.mixed.onnx"]
    assert (bundle.graph.name, bundle.precisions) == ("detector.onnx", ("fp32",))


def test_the_last_convolutions_and_what_follows_them_stay_fp32(bundle: Bundle) -> None:
    model = onnx.load(bundle.graph)
    names = ["stem", "relu", "certainty", "margin", "sigmoid", "scores", "margins", "low", "high", "boxes"]
    assert [node.name for node in network_nodes(model)] == names
    half = to_16_bit(model, "fp16")
    graph = shape_inference.infer_shapes(half, check_type=True, strict_mode=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    assert {name for name, kind in kinds.items() if kind == TensorProto.FLOAT16} == {
        *("planes_16", "features", "rectified")
    }
    for name in ("logits", "margins", "certain", "margin", "low", "high", "boxes", "scores"):
        assert kinds[name] == TensorProto.FLOAT, name
    weights = {weight.name: weight.data_type for weight in graph.initializer}
    assert weights["w1_16"] == TensorProto.FLOAT16 and weights["w2"] == weights["w3"] == TensorProto.FLOAT


def test_a_16_bit_graph_is_verified_by_its_own_limits(bundle: Bundle) -> None:
    path = bundle.path / "detector.fp16.onnx"
    onnx.save(to_16_bit(onnx.load(bundle.graph), "fp16"), path)
    more = bundle.with_files(path)
    assert more.precisions == ("fp32", "fp16") and more.graph_for("fp16") == path
    report = verify(more, ("onnxruntime",), ("fp16",))
    assert report.passed and [check.runner.precision for check in report.checks] == ["fp16", "fp16"]
    assert report.to_json()["limits"] == {"fp16": vars(BOX_LIMITS["fp16"])}

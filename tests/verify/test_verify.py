"""verify and locate, on a tiny network whose goldens come from a NumPy twin."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgepose.backends.openvino import OPENVINO, OpenVinoSession
from edgepose.backends.plan import plan
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.bundle.goldens import Figures, compare, excess, read_goldens
from edgepose.bundle.limits import POSE_LIMITS
from edgepose.bundle.tasks import POSE
from edgepose.core.errors import CheckError, UsageError
from edgepose.core.heatmaps import decode
from edgepose.graphs.probe import Node
from edgepose.verify import locate, verify
from edgepose.verify.locate import first_not_finite, first_unequal, first_unmatched
from tests.doubles.backends import no_gpu, set_unavailable
from tests.doubles.pose_network import (
    CPU,
    DYNAMIC,
    change_goldens,
    make_bundle,
    make_weights,
    pose_model,
    put_graph,
    twin,
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "tiny.edgepose")


@pytest.mark.parametrize("body", ["Conv", DYNAMIC])
def test_every_engine_gives_the_goldens(tmp_path: Path, body: str) -> None:
    report = verify(make_bundle(tmp_path / "tiny.edgepose", body=body), CPU)
    assert report.passed and not report.skipped and not report.differences
    assert [(c.runner.backend, c.runner.precision, c.batch) for c in report.checks] == [
        (b, "fp32", n) for b in CPU for n in (1, 3)
    ]
    for check in report.checks:
        assert check.figures is not None
        assert check.figures.score_fraction < 1e-6 and check.figures.largest == 0
    report.require_passed()
    assert str(report).count("passed") == 4


def test_the_json_says_what_was_checked_against_what(bundle: Bundle) -> None:
    verify(bundle, ("onnxruntime",)).save(bundle.reports / "verify.json")
    written = json.loads((bundle.reports / "verify.json").read_text())
    assert written["passed"] is True and written["goldens"] == 3
    assert [check["batch"] for check in written["checks"]] == [1, 3]
    assert written["limits"] == {"fp32": vars(POSE_LIMITS["fp32"])}
    assert written["files"] == open_bundle(bundle.path).manifest.files
    assert written["environment"]["versions"]["onnxruntime"]


def test_verifying_writes_nothing_and_the_report_goes_where_it_is_told(bundle: Bundle, tmp_path: Path) -> None:
    before = sorted(bundle.path.rglob("*"))
    report = verify(bundle, ("onnxruntime",))
    assert report.passed and sorted(bundle.path.rglob("*")) == before
    report.save(tmp_path / "a" / "b" / "verify.json")
    assert json.loads((tmp_path / "a" / "b" / "verify.json").read_text())["goldens"] == 3
    assert "tiny: verification" in (tmp_path / "a" / "b" / "verify.html").read_text()
    assert sorted(bundle.path.rglob("*")) == before


def test_all_names_what_it_skips(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    set_unavailable(monkeypatch, no_gpu)
    for asked in (None, ["all"]):
        found = plan(bundle, asked)
        assert tuple(runner.backend for runner in found.runners) == CPU
        assert found.skipped == {
            "tensorrt": "no GPU",
            "tensorrt-rtx": "no GPU",
            "torch": "the bundle has no checkpoint.safetensors",
        }


def test_nothing_checked_is_not_passed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    set_unavailable(monkeypatch, lambda _: "not here")
    report = verify(bundle)
    assert not report.passed
    with pytest.raises(CheckError, match="no backend could run: not here"):
        report.require_passed()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["tensorflow"], "unknown backend 'tensorflow'"),
        (["torch"], "backend torch cannot run here: the bundle has no checkpoint"),
        ([], "no backend was named"),
    ],
)
def test_a_named_backend_that_cannot_run_is_refused(bundle: Bundle, asked: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        verify(bundle, asked)


def test_a_backend_that_is_not_installed_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepose.backends.backend.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'edgepose\[openvino\]'"):
        verify(bundle, ["openvino"])


def test_golden_keypoints_moved_by_a_tenth_of_a_pixel_fail(bundle: Bundle) -> None:
    moved = read_goldens(bundle).outputs["keypoints"] + np.float32([0.1, 0, 0])
    change_goldens(bundle, keypoints=moved)
    report = verify(bundle, ("onnxruntime",))
    figures = report.checks[1].figures
    assert figures is not None and figures.p50 == pytest.approx(0.1, abs=1e-5)
    assert figures.largest == pytest.approx(0.1, abs=1e-5) and figures.score_fraction < 1e-6
    problem = report.checks[1].problem or ""
    assert "median keypoint error is 0.1 px, the limit is 0.05 px" in problem and "heat-map" not in problem
    with pytest.raises(CheckError, match="2 of 2 checks failed; onnxruntime fp32, batch 1: the median keypoint error"):
        report.require_passed()


def test_a_score_counts_as_a_heatmap_value(bundle: Bundle) -> None:
    goldens = read_goldens(bundle)
    outputs = {**goldens.outputs, "keypoints": goldens.outputs["keypoints"] + np.float32([0, 0, 0.5])}
    figures = compare(goldens, outputs)
    assert figures.score == pytest.approx(0.5) and figures.largest == 0
    assert figures.score_fraction == pytest.approx(0.5 / float(np.ptp(goldens.outputs["heatmaps"])))


def test_nan_names_the_output_and_the_node(bundle: Bundle) -> None:
    weights = make_weights()
    weights["w_head"][5] = np.nan
    put_graph(bundle, pose_model(weights))
    report = verify(bundle, ("onnxruntime",))
    assert "NaN or infinite values, the first in crop 0, keypoint 5" in (report.checks[0].problem or "")
    assert report.checks[0].figures is None
    assert report.differences == {"onnxruntime fp32": "NaN or infinity first appears at Conv head"}
    report.save(bundle.reports / "verify.json")
    json.loads((bundle.reports / "verify.json").read_text(), parse_constant=pytest.fail)


def test_a_frozen_batch_fails_with_its_size(bundle: Bundle) -> None:
    model = onnx.load(bundle.graph)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, bundle.graph)
    one, three = verify(bundle, ("onnxruntime",)).checks
    assert one.problem is None
    assert (three.problem or "").startswith("a batch of 3 does not run: onnxruntime: input images is uint8 (3, 32")


def test_wrong_names_and_shapes_fail(bundle: Bundle) -> None:
    model = onnx.load(bundle.graph)
    model.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="score"))
    onnx.save(model, bundle.graph)
    (check, _) = verify(bundle, ("onnxruntime",)).checks
    assert check.problem == "there is no output keypoints, only heatmaps, score"


def test_wrong_shapes_fail(bundle: Bundle) -> None:
    model = pose_model()
    model.graph.node[-1].input.remove("kept")
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 1
    put_graph(bundle, model)
    (check, _) = verify(bundle, ("onnxruntime",)).checks
    assert check.problem == "output keypoints has shape (3, 14, 1), expected (3, 14, 3)"


def test_a_graph_that_does_not_load_fails_the_check(bundle: Bundle) -> None:
    bundle.graph.write_bytes(b"no graph")
    (check,) = verify(bundle, ("onnxruntime",)).checks
    assert "not an ONNX graph" in (check.problem or "")


def test_changed_weights_name_the_node_by_pytorch(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph departs from the checkpoint: every engine agrees, and only PyTorch's tensors can tell where."""
    weights = make_weights()
    weights["w_head"][3, 1] += 0.1
    put_graph(bundle, pose_model(weights))
    report = verify(bundle, ("openvino",))
    assert "heat-map error" in (report.checks[0].problem or "")
    assert "the graph itself differs from PyTorch" in report.differences["openvino fp32"]

    (bundle.path / "checkpoint.safetensors").touch()
    monkeypatch.setattr(locate, "pytorch_tensors", lambda _, images: list(twin(images, make_weights()).values()))
    report = verify(bundle, ("openvino",))
    assert "first at Conv head" in report.differences["openvino fp32"]


def test_goldens_of_another_checkpoint_are_told_apart(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    change_goldens(bundle, heatmaps=read_goldens(bundle).outputs["heatmaps"] * np.float32(1.1))
    (bundle.path / "checkpoint.safetensors").touch()
    monkeypatch.setattr(locate, "pytorch_tensors", lambda _, images: list(twin(images, make_weights()).values()))
    assert "the goldens are from another checkpoint" in verify(bundle, ("onnxruntime",)).differences["onnxruntime fp32"]


def test_an_engine_that_computes_otherwise_is_caught_at_its_node(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine with a fault is imitated by OpenVINO on a graph with another weight."""

    def faulty(_: object, graph: Path) -> OpenVinoSession:
        model = onnx.load(graph)
        wrong = next(tensor for tensor in model.graph.initializer if tensor.name == "w_stem")
        wrong.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(wrong) * np.float32(1.01), "w_stem"))
        onnx.save(model, graph.with_name("faulty.onnx"))
        return OpenVinoSession(graph.with_name("faulty.onnx"))

    monkeypatch.setattr(type(OPENVINO), "open_graph", faulty)
    report = verify(bundle, CPU)
    assert report.differences == {"openvino fp32": "openvino first differs from onnxruntime at Conv stem"}


NODES = (Node("A", ("images",), ("a",)), Node("B", ("a",), ("b",)), Node("C", ("b", "k"), ("c",)))


def test_first_not_finite_takes_the_order_of_the_graph() -> None:
    tensors = {"a": np.float32([60000]), "b": np.float32([np.nan]), "c": np.float32([np.inf])}
    assert first_not_finite(NODES, tensors) == "B"
    assert first_not_finite(NODES, {**tensors, "b": tensors["a"]}) == "C"
    assert first_not_finite(NODES[:1], tensors) is None


def test_first_unequal_takes_the_order_of_the_graph() -> None:
    good = {name: np.arange(4, dtype=np.float32) for name in "abc"}
    assert first_unequal(NODES, good, {name: array.copy() for name, array in good.items()}) is None
    assert first_unequal(NODES, good, {**good, "c": good["c"] + 1, "b": good["b"] * 1.01}) == "B"
    assert first_unequal(NODES, good, {**good, "b": good["b"][:2]}) == "B"


def test_first_unmatched_vouches_for_what_leads_to_a_match() -> None:
    arrays = {name: np.random.default_rng(ord(name)).normal(size=(2, 3)).astype(np.float32) for name in "abc"}
    assert first_unmatched(NODES, arrays, [arrays["c"]]) is None, "a and b lead to c, which PyTorch has"
    assert first_unmatched(NODES, arrays, [arrays["a"]]) == "B"
    assert first_unmatched(NODES, arrays, [arrays["a"] + 1]) == "A"
    constant = Node("constant", (), ("k",))
    assert first_unmatched((constant, *NODES), {**arrays, "k": np.zeros(1)}, [arrays["b"]]) == "C"


def test_first_unmatched_is_not_misled_by_a_branch_where_the_fault_fades() -> None:
    """``a`` is wrong, yet one of its two readers still equals PyTorch within the tolerance."""
    nodes = (Node("A", ("images",), ("a",)), Node("faint", ("a",), ("f",)), Node("loud", ("a",), ("l",)))
    arrays = {name: np.random.default_rng(ord(name)).normal(size=(2, 3)).astype(np.float32) for name in "afl"}
    assert first_unmatched(nodes, arrays, [arrays["f"], arrays["l"]]) is None
    assert first_unmatched(nodes, arrays, [arrays["f"]]) == "A"


def test_first_unmatched_does_not_blame_the_good_half_of_a_sum() -> None:
    """PyTorch shows neither ``partial`` nor its sum with the branch; the branch's own tensor is what it lacks."""
    nodes = (
        Node("partial", ("images",), ("p",)),
        Node("branch", ("images",), ("b",)),
        Node("upsample", ("b",), ("u",)),
        Node("sum", ("p", "u"), ("s",)),
    )
    arrays = {name: np.random.default_rng(ord(name)).normal(size=(2, 3)).astype(np.float32) for name in "pbus"}
    assert first_unmatched(nodes, arrays, [arrays["s"]]) is None
    assert first_unmatched(nodes, arrays, []) == "branch"
    assert first_unmatched(nodes, arrays, [arrays["b"], arrays["u"]]) == "partial"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: {"images": g.images[:0]}, "holds no crops"),
        (lambda g: {"heatmaps": g.outputs["heatmaps"] * np.nan}, "expected finite float32"),
        (lambda g: {"keypoints": g.outputs["keypoints"][:, :5]}, r"expected finite float32 \(3, 14, 3\)"),
        (lambda g: {"images": g.images.astype(np.float32)}, "expected finite uint8"),
    ],
)
def test_unusable_goldens_are_refused(bundle: Bundle, change, message: str) -> None:
    change_goldens(bundle, **change(read_goldens(bundle)))
    with pytest.raises(UsageError, match=message):
        read_goldens(bundle)


@pytest.mark.parametrize("keep", [0, 10, 500, -40])
def test_damaged_goldens_are_refused(bundle: Bundle, keep: int) -> None:
    path = bundle.path / "golden.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UsageError, match=r"golden.npz is damaged"):
        read_goldens(bundle)


def test_missing_goldens_are_refused(bundle: Bundle) -> None:
    (bundle.path / "golden.npz").unlink()
    with pytest.raises(UsageError, match=r"has no golden.npz to verify against: export the bundle again"):
        verify(bundle, ("onnxruntime",))


@pytest.mark.parametrize(
    ("precision", "row"),
    [
        ("fp32", "fp32"),
        ("fp16", "fp16"),
        ("bf16", "bf16"),
        ("int8+fp16", "int8"),
        ("fp16+int8", "int8"),
        ("mixed", "int8"),
    ],
)
def test_an_engine_of_several_precisions_is_held_to_the_coarsest(precision: str, row: str) -> None:
    assert POSE.limits(precision) is POSE_LIMITS[row]


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="no limits for precision 'fp8'"):
        POSE.limits("fp8")


def test_the_decode_step_is_what_a_tie_between_neighbours_can_move() -> None:
    maps = np.zeros((2, 1, 8, 8), np.float32)
    maps[0, 0, 4, 3:5] = 1, 1 - 1e-4
    maps[1, 0, 4, 3:5] = 1 - 1e-4, 1
    points = decode(maps)
    assert abs(points[0, 0, 0] - points[1, 0, 0]) == 2
    assert POSE_LIMITS["bf16"].p50 > 2 * 2**0.5


def test_only_fp32_limits_the_tail_of_the_keypoints() -> None:
    """Two peaks of one height: half precision may take the other one, FP32 may not."""
    figures = Figures(score=1e-5, score_fraction=1e-5, p50=0.0, p99=46.0, largest=50.0)
    assert excess(figures, POSE_LIMITS["fp16"]) is None
    assert (
        excess(figures, POSE_LIMITS["fp32"]) == "the 99th percentile of keypoint errors is 46 px, the limit is 0.05 px"
    )
    broken = replace(figures, score_fraction=0.06)
    assert "fraction of the range is 0.06, the limit is 0.05" in (excess(broken, POSE_LIMITS["fp16"]) or "")

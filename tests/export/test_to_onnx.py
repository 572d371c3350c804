"""Exported graphs against PyTorch by value, and the contract they keep."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxsim = pytest.importorskip("onnxsim")
pytest.importorskip("onnxscript")

from onnx import numpy_helper
from torch import nn

from edgepose.backends.plan import open_graph
from edgepose.core.errors import CheckError, UsageError
from edgepose.core.geometry import crop_boxes
from edgepose.core.images import read_image
from edgepose.data import load_data
from edgepose.export.to_onnx import export_graph, run_graph
from edgepose.models import HEATMAP_MODELS, build_model
from edgepose.models.pose_graph import PoseGraph
from edgepose.plugins.torch_op import dynamic_depthwise_conv2d

SIZE, JOINTS = (32, 48), 5
CPU = ("onnxruntime", "openvino")


class Tiny(nn.Module):
    """Four layers with all that matters to the export: modes, buffers, dynamic convolutions of given kernel sizes."""

    def __init__(self, *kernels: tuple[int, int]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.kernels = kernels
        self.stem = nn.Conv2d(3, 6, 4, stride=4)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Conv2d(6, JOINTS, 1)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.drop(torch.relu(self.norm(self.stem(images))))
        for kh, kw in self.kernels:
            features = dynamic_depthwise_conv2d(features, features[..., :kh, :kw])
        return self.head(features)


def random_crops(count: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def run_torch(network: nn.Module, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        keypoints, heatmaps = PoseGraph(network).eval()(torch.from_numpy(crops))
    return keypoints.numpy(), heatmaps.numpy()


def error(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference, as a fraction of the range."""
    return float(np.abs(got - want).max() / np.ptp(want))


class Colours(nn.Module):
    """Heat-maps that are the normalised colours of every fourth pixel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[..., ::4, ::4] * 1.0


def test_a_graph_normalises_with_imagenets_statistics_of_red_green_and_blue(tmp_path: Path) -> None:
    """The constants are those that torchvision documents for its weights."""
    export_graph(Colours().eval(), SIZE, tmp_path / "x.onnx")
    session = open_graph(tmp_path / "x.onnx", "onnxruntime")
    got = session.run({"images": random_crops(2)})["heatmaps"]
    session.close()
    red, green, blue = np.moveaxis(random_crops(2)[:, ::4, ::4] / 255, 3, 0)
    want = np.stack([(red - 0.485) / 0.229, (green - 0.456) / 0.224, (blue - 0.406) / 0.225], axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_batch_of_any_size_gives_pytorchs_numbers_on_every_engine(tmp_path: Path) -> None:
    network = Tiny((3, 5)).eval()
    export_graph(network, SIZE, tmp_path / "x.onnx")
    for backend in CPU:
        session = open_graph(tmp_path / "x.onnx", backend)
        for count in (1, 2, 5):
            keypoints, heatmaps = run_torch(network, random_crops(count))
            got = session.run({"images": random_crops(count)})
            assert error(got["heatmaps"], heatmaps) <= 1e-5, (backend, count)
            np.testing.assert_allclose(got["keypoints"], keypoints, rtol=1e-4, atol=1e-4)
        session.close()


@pytest.fixture(scope="module")
def real_crops(shared: Path) -> np.ndarray:
    """64 real persons, 256x192."""
    samples = load_data(f"lsp:{shared / 'data/lspet14'}", "val").samples[:64]
    return np.concatenate([crop_boxes(read_image(s.image), s.box, (256, 192))[0] for s in samples])


@pytest.fixture(scope="module")
def real_network(real_crops: np.ndarray, liven: Callable[[nn.Module, np.ndarray], nn.Module]) -> nn.Module:
    return liven(build_model("ditn_lite", skeleton="lsp14", input_size=(256, 192)), real_crops[:16])


@pytest.fixture(scope="module")
def real_graph(real_network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("real") / "pose.onnx"
    export_graph(real_network, (256, 192), path)
    return path


@pytest.fixture(scope="module")
def real_answers(real_network: nn.Module, real_crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What PyTorch gives, and that it is worth comparing: peaks all over, moved by the dynamic convolution."""
    keypoints, heatmaps = run_torch(real_network, real_crops)
    assert len(np.unique(keypoints[..., :2].reshape(-1, 2), axis=0)) > 400  # of 896
    adapter = real_network.transfer.adapter.conv3
    weights = adapter.weight.detach().clone()
    with torch.no_grad():
        adapter.weight.zero_()
        without = run_torch(real_network, real_crops[:4])[1]
        adapter.weight.copy_(weights)
    assert np.abs(without - heatmaps[:4]).max() > 0.05 * np.ptp(heatmaps)
    return keypoints, heatmaps


@pytest.mark.slow
@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_64_real_crops_give_pytorchs_keypoints(
    backend: str, batch: int, real_crops: np.ndarray, real_graph: Path, real_answers: tuple[np.ndarray, np.ndarray]
) -> None:
    session = open_graph(real_graph, backend)
    parts = [session.run({"images": real_crops[i : i + batch]}) for i in range(0, len(real_crops), batch)]
    session.close()
    keypoints, heatmaps = (np.concatenate([part[name] for part in parts]) for name in ("keypoints", "heatmaps"))
    distance = np.linalg.norm(keypoints[..., :2] - real_answers[0][..., :2], axis=-1)
    assert error(heatmaps, real_answers[1]) <= 1e-4
    assert np.percentile(distance, 99) <= 0.05
    assert np.abs(keypoints[..., 2] - real_answers[0][..., 2]).max() <= 1e-4 * np.ptp(real_answers[1])


def check_contract(model: onnx.ModelProto, joints: int, height: int, width: int) -> None:
    def describe(value: onnx.ValueInfoProto) -> tuple[str, str, list[int]]:
        tensor = value.type.tensor_type
        return value.name, onnx.TensorProto.DataType.Name(tensor.elem_type), [d.dim_value for d in tensor.shape.dim]

    assert [describe(v) for v in model.graph.input] == [("images", "UINT8", [0, height, width, 3])]
    assert [describe(v) for v in model.graph.output] == [
        ("keypoints", "FLOAT", [0, joints, 3]),
        ("heatmaps", "FLOAT", [0, joints, height // 4, width // 4]),
    ]
    names = {v.type.tensor_type.shape.dim[0].dim_param for v in (*model.graph.input, *model.graph.output)}
    assert len(names) == 1 and names != {""}  # one batch, named alike on both sides
    onnx.checker.check_model(model, full_check=True)


def empty_batch(graph: Path, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """Shapes that the graph itself gives for no crops; sessions do not ask it (``empty_results``)."""
    return [a.shape for a in run_graph(onnx.load(graph), np.zeros((0, *size, 3), np.uint8), ("keypoints", "heatmaps"))]


def test_the_graph_of_ditn_takes_an_empty_batch(exported: Path) -> None:
    assert empty_batch(exported / "pose.onnx", (64, 64)) == [(0, 14, 3), (0, 14, 16, 16)]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in HEATMAP_MODELS if name.endswith("_lite") and name != "ditn_lite"])
def test_graphs_take_an_empty_batch(name: str, tmp_path: Path) -> None:
    export_graph(build_model(name, skeleton="lsp14", input_size=(64, 64)), (64, 64), tmp_path / "x.onnx")
    assert empty_batch(tmp_path / "x.onnx", (64, 64)) == [(0, 14, 3), (0, 14, 16, 16)]
    for backend in CPU:
        assert open_graph(tmp_path / "x.onnx", backend).run({"images": np.zeros((0, 64, 64, 3), np.uint8)})[
            "keypoints"
        ].shape == (0, 14, 3)


def test_the_dynamic_convolution_is_one_node_with_one_body(exported: Path) -> None:
    model = onnx.load(exported / "pose.onnx")
    check_contract(model, 14, 64, 64)
    custom = [node for node in model.graph.node if node.domain]
    assert [(node.domain, node.op_type) for node in custom] == [("edgepose", "DynamicDepthwiseConv2d")]
    (function,) = model.functions
    assert (function.domain, function.name) == ("edgepose", "DynamicDepthwiseConv2d")
    assert {node.domain for node in function.node} == {""}
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 18, "edgepose": 1}
    assert [(opset.domain, opset.version) for opset in function.opset_import] == [("", 18)]


@pytest.mark.slow
def test_a_network_without_it_needs_no_domain_but_onnx(tmp_path: Path) -> None:
    export_graph(Tiny(), SIZE, tmp_path / "x.onnx")
    model = onnx.load(tmp_path / "x.onnx")
    check_contract(model, JOINTS, *SIZE)
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {""}
    assert {opset.domain for opset in model.opset_import} == {""}


@pytest.mark.slow
def test_two_dynamic_convolutions_share_a_body_of_one_size_only(tmp_path: Path) -> None:
    network = Tiny((3, 5), (3, 5)).eval()
    export_graph(network, SIZE, tmp_path / "x.onnx")
    model = onnx.load(tmp_path / "x.onnx")
    assert sum(node.domain == "edgepose" for node in model.graph.node) == 2
    assert len(model.functions) == 1
    heatmaps = open_graph(tmp_path / "x.onnx").run({"images": random_crops(3)})["heatmaps"]
    assert error(heatmaps, run_torch(network, random_crops(3))[1]) <= 1e-5
    with pytest.raises(UsageError, match=r"one size \(C, H, W, kh, kw\), got \[\(6, 8, 12, 3, 3\), \(6, 8, 12, 3, 5\)"):
        export_graph(Tiny((3, 5), (3, 3)), SIZE, tmp_path / "y.onnx")
    assert not (tmp_path / "y.onnx").exists()


@pytest.mark.slow
def test_the_network_given_is_left_as_it_was(tmp_path: Path) -> None:
    network = Tiny((3, 3)).train()
    network.norm.eval()  # a frozen batch norm in a network in training
    before = {key: value.clone() for key, value in network.state_dict().items()}
    export_graph(network, SIZE, tmp_path / "x.onnx")
    assert [module.training for module in network.modules()] == [True, True, False, True, True]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    # Dropout and batch statistics are those of eval mode all the same.
    heatmaps = open_graph(tmp_path / "x.onnx").run({"images": random_crops(2)})["heatmaps"]
    assert error(heatmaps, run_torch(network, random_crops(2))[1]) <= 1e-5


@pytest.mark.slow
def test_weights_in_half_are_exported_in_float32(tmp_path: Path) -> None:
    network = Tiny((3, 3)).eval().half()
    export_graph(network, SIZE, tmp_path / "x.onnx")
    assert next(network.parameters()).dtype == torch.float16
    model = onnx.load(tmp_path / "x.onnx")
    assert not [t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    heatmaps = open_graph(tmp_path / "x.onnx").run({"images": random_crops(2)})["heatmaps"]
    assert error(heatmaps, run_torch(network.float(), random_crops(2))[1]) <= 1e-5


@pytest.mark.slow
def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        export_graph(Tiny((3, 5)), SIZE, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def tamper(model: onnx.ModelProto, change: dict[str, float]) -> onnx.ModelProto:
    """Change the largest weight (``weights``: a factor) or the crop pixels per heat-map pixel (``stride``: a value)."""
    tensors = list(model.graph.initializer)
    if "weights" in change:
        tensor = max(tensors, key=lambda t: numpy_helper.to_array(t).size if t.data_type == 1 else 0)
        value = numpy_helper.to_array(tensor) * np.float32(change["weights"])
    else:
        (tensor,) = [t for t in tensors if t.data_type == 1 and numpy_helper.to_array(t).tolist() in (4.0, [4.0])]
        value = np.full_like(numpy_helper.to_array(tensor), change["stride"])
    tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": 1.01}, r"onnxsim changed the heat-maps by \d\.\de-0\d of their range \(limit 1e-05\)"),
        ({"weights": np.nan}, "onnxsim changed the heat-maps by nan"),
        ({"stride": 4.5}, r"decodes its heat-maps [\d.]+ px off"),
    ],
)
def test_a_simplifier_that_changes_numbers_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, float], message: str
) -> None:
    simplify = onnxsim.simplify
    monkeypatch.setattr(onnxsim, "simplify", lambda model: (tamper(simplify(model)[0], change), True))
    with pytest.raises(CheckError, match=message):
        export_graph(Tiny((3, 5)), SIZE, tmp_path / "x.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxsim"])
def test_a_missing_tool_is_named_with_its_pip_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"'{module}' is not installed: pip install 'edgepose\[export\]'"):
        export_graph(Tiny(), SIZE, tmp_path / "x.onnx")

"""Sessions on small graphs: what fails is said in one sentence, and what is closed stays closed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgepose.backends.plan import open_graph, open_session, plan
from edgepose.backends.session import Session
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.bundle.contract import TensorSpec
from edgepose.bundle.tasks import POSE, pose_contract
from edgepose.core.errors import UsageError
from edgepose.nvidia import device as nvidia_device
from edgepose.nvidia import tensorrt as nvidia_tensorrt
from edgepose.nvidia.device import CudaError
from tests.doubles.backends import set_unavailable
from tests.doubles.pose_network import make_bundle

ONNX_BACKENDS = ("onnxruntime", "openvino")


def write_graph(path: Path, text: str) -> Path:
    onnx = pytest.importorskip("onnx")
    from onnx import parser

    onnx.save(parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> g {text}'), path)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A graph that takes rows but works for two of them only."""
    text = "(float[N, 2] x) => (float[2, 2] y) <int64[2] s = {2, 2}> { y = Reshape (x, s) }"
    return write_graph(tmp_path / "pair.onnx", text)


@pytest.fixture
def torch_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Session:
    """A network whose heat-maps are one joint's per colour channel, and that fails on a batch of three."""
    torch = pytest.importorskip("torch")
    from edgepose.backends.torch import TorchSession

    class Shrink(torch.nn.Module):
        def forward(self, images):
            if len(images) == 3:
                raise RuntimeError("out of memory\nat line 1")
            return images[:, :, ::4, ::4]

    monkeypatch.setattr("edgepose.models.checkpoint.ModelSpec.build", lambda _: Shrink())
    monkeypatch.setattr("edgepose.models.reference.load_weights", lambda *_: None)
    manifest = SimpleNamespace(model="hrnet_w32", skeleton="lsp14", input_size=(32, 24), options={})
    contract = pose_contract(3, (32, 24))
    return TorchSession(SimpleNamespace(manifest=manifest, task=POSE, contract=contract, path=tmp_path))


@pytest.mark.parametrize("backend", ONNX_BACKENDS)
def test_what_an_engine_raises_becomes_one_sentence(pair: Path, backend: str, capfd: pytest.CaptureFixture) -> None:
    pytest.importorskip(backend)
    session = open_graph(pair, backend)
    rows = np.arange(4, dtype=np.float32).reshape(2, 2)
    np.testing.assert_array_equal(session.run({"x": rows})["y"], rows)
    with pytest.raises(UsageError, match=rf"^backend {backend} failed on a batch of 3: .*3.2.*2.2[^\n]*$"):
        session.run({"x": np.zeros((3, 2), np.float32)})
    np.testing.assert_array_equal(session.run({"x": rows})["y"], rows)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("backend", [*ONNX_BACKENDS, "torch"])
@pytest.mark.parametrize("made", ["shipped", "exported"])
def test_no_persons_are_no_keypoints(made: str, backend: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip(backend)
    pytest.importorskip("torch")
    bundle = open_bundle("ditn_lite" if made == "shipped" else request.getfixturevalue("exported"))
    (height, width), session = bundle.manifest.input_size, open_session(bundle, backend)
    for count in (0, 2, 0):
        outputs = session.run({"images": np.zeros((count, height, width, 3), np.uint8)})
        shapes = {name: (array.shape, array.dtype) for name, array in outputs.items()}
        maps = (count, 14, height // 4, width // 4)
        further = {"bones": ((count, 13, height // 4, width // 4), np.float32)} if backend == "torch" else {}
        assert shapes == {"keypoints": ((count, 14, 3), np.float32), "heatmaps": (maps, np.float32), **further}


def test_a_graph_whose_outputs_do_not_depend_on_the_batch_is_run(pair: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(UsageError, match="backend onnxruntime failed on a batch of 0"):
        open_graph(pair).run({"x": np.zeros((0, 2), np.float32)})


def test_what_pytorch_raises_becomes_one_sentence(torch_session: Session) -> None:
    assert torch_session.run({"images": np.zeros((2, 32, 24, 3), np.uint8)})["heatmaps"].shape == (2, 3, 8, 6)
    with pytest.raises(UsageError, match=r"^backend torch failed on a batch of 3: out of memory$"):
        torch_session.run({"images": np.zeros((3, 32, 24, 3), np.uint8)})


@pytest.mark.parametrize("backend", ONNX_BACKENDS)
def test_a_session_may_be_closed_twice_and_then_says_so(pair: Path, backend: str) -> None:
    pytest.importorskip(backend)
    close_twice(open_graph(pair, backend), {"x": np.zeros((2, 2), np.float32)})


def test_a_pytorch_session_may_be_closed_twice_and_then_says_so(torch_session: Session) -> None:
    close_twice(torch_session, {"images": np.zeros((1, 32, 24, 3), np.uint8)})


def close_twice(session: Session, feeds: dict[str, np.ndarray]) -> None:
    session.run(feeds)
    session.close()
    session.close()
    with pytest.raises(RuntimeError, match="the session was closed"):
        session.run(feeds)


@pytest.mark.parametrize("kind", ["bfloat16", "string", "float8e4m3fn"])
def test_types_that_numpy_does_not_know_are_refused(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("onnxruntime")
    graph = write_graph(tmp_path / "t.onnx", f"({kind}[N, 2] x) => ({kind}[N, 2] y) {{ y = Identity (x) }}")
    with pytest.raises(UsageError, match=rf"x in the ONNX graph is tensor\({kind}\), expected a tensor of float, "):
        open_graph(graph)


def test_sequences_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    graph = write_graph(tmp_path / "t.onnx", "(seq(float[N]) x) => (seq(float[N]) y) { y = Identity (x) }")
    with pytest.raises(UsageError, match=r"x in the ONNX graph is seq\(tensor\(float\)\), expected a tensor of"):
        open_graph(graph)


def test_types_keep_their_names(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    for kind, dtype in (("float16", "float16"), ("double", "float64"), ("bool", "bool"), ("uint8", "uint8")):
        text = f"({kind}[N, 2] x) => ({kind}[N, 2] y) {{ y = Identity (x) }}"
        session = open_graph(write_graph(tmp_path / "t.onnx", text))
        assert session.inputs == (TensorSpec("x", (None, 2), np.dtype(dtype)),)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "tiny.edgepose", crops=1)


@pytest.mark.parametrize(
    "error",
    [OSError("libnvinfer.so.10: cannot open\nmore"), ImportError("libcudart.so.12"), UsageError("it is broken")],
)
def test_a_broken_tensorrt_leaves_the_others_alone(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(_: str) -> None:
        raise error

    set_unavailable(monkeypatch, lambda _: None)
    monkeypatch.setattr(nvidia_tensorrt, "load_target", broken)
    found = plan(bundle)
    assert [runner.backend for runner in found.runners] == ["onnxruntime", "openvino"]
    assert str(error).splitlines()[0] in found.skipped["tensorrt"] and "\n" not in found.skipped["tensorrt"]
    assert open_session(bundle).backend == "onnxruntime"
    with pytest.raises(UsageError, match=f"backend tensorrt cannot run here: .*{str(error).splitlines()[0]}$"):
        open_session(bundle, "tensorrt")


def test_a_gpu_that_cannot_be_asked_is_a_reason(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise CudaError("CUDA reported cudaErrorUnknown: unknown error")

    monkeypatch.setattr("edgepose.backends.backend.find_spec", lambda _: True)
    monkeypatch.setattr(nvidia_device, "gpu_missing", fails)
    assert plan(bundle).skipped["tensorrt"] == (
        "tensorrt is installed, but fails with CudaError: CUDA reported cudaErrorUnknown: unknown error"
    )
    with pytest.raises(UsageError, match="unknown backend 'tpu'"):
        plan(bundle, ["tpu"])


def test_idle_threads_of_onnxruntime_leave_the_cores_to_others(pair: Path) -> None:
    pytest.importorskip("onnxruntime")
    session: Any = open_graph(pair)
    options = session._session.get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"

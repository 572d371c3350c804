"""Engines on a real GPU, built and run by the installed TensorRT and TensorRT-RTX, beside ONNX Runtime's values."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

for _module in ("onnx", "onnxruntime"):
    pytest.importorskip(_module)

from edgepose.backends.plan import open_graph
from edgepose.backends.session import Arrays
from edgepose.backends.tensorrt import TensorRtSession, find_engine
from edgepose.build.engine import build_engine
from edgepose.build.options import BuildOptions
from edgepose.bundle.bundle import open_bundle
from edgepose.core.errors import UsageError
from edgepose.nvidia.device import check, gpu_missing, import_cudart
from tests.doubles.pose_network import DYNAMIC, HEIGHT, WIDTH, make_bundle, pictures

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(gpu_missing() is not None, reason=str(gpu_missing()))]

#: The module of each target.
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
#: Largest difference of a heat-map, as a fraction of the range of all: float32 sums in another order.
TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=MODULES)
def target(request: pytest.FixtureRequest) -> str:
    if find_spec(MODULES[request.param]) is None:
        pytest.skip(f"{MODULES[request.param]} is not installed")
    return request.param


@pytest.fixture(scope="module")
def engine(target: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the pose network for batches up to 4, which is built on this GPU."""
    bundle = make_bundle(tmp_path_factory.mktemp("engine") / "small.edgepose", body=DYNAMIC)
    build_engine(bundle, target, options=BuildOptions(batches=(1, 2, 4)))
    return find_engine(open_bundle(bundle.path), target)


@pytest.fixture
def session(engine: Path, target: str) -> Iterator[TensorRtSession]:
    with closing(TensorRtSession(engine, target)) as session:
        yield session


def crops(count: int) -> np.ndarray:
    return pictures(count, seed=count)


def expected(images: np.ndarray, folder: Path) -> Arrays:
    """What ONNX Runtime computes from the same graph."""
    bundle = make_bundle(folder / "reference.edgepose", body=DYNAMIC)
    with closing(open_graph(bundle.graph)) as session:
        return session.run({"images": images})


def assert_same(got: Arrays, want: Arrays) -> None:
    assert got.keys() == want.keys()
    assert {name: array.shape for name, array in got.items()} == {name: array.shape for name, array in want.items()}
    limit = TOLERANCE * float(np.ptp(want["heatmaps"])) if want["heatmaps"].size else 0.0
    np.testing.assert_allclose(got["heatmaps"], want["heatmaps"], rtol=0, atol=limit)
    np.testing.assert_array_equal(got["keypoints"][..., :2], want["keypoints"][..., :2])
    np.testing.assert_allclose(got["keypoints"][..., 2], want["keypoints"][..., 2], rtol=0, atol=limit)


def test_the_tensors_are_those_of_the_graph(session: TensorRtSession) -> None:
    assert [(spec.name, spec.shape, spec.dtype) for spec in session.inputs] == [
        ("images", (None, HEIGHT, WIDTH, 3), np.dtype(np.uint8))
    ]
    assert {spec.name: spec.dtype for spec in session.outputs} == dict.fromkeys(
        ("keypoints", "heatmaps"), np.dtype(np.float32)
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 11])
def test_any_batch_gives_onnx_runtimes_values(count: int, session: TensorRtSession, tmp_path: Path) -> None:
    assert_same(session.run({"images": crops(count)}), expected(crops(count), tmp_path))


def test_no_crops_give_no_values(session: TensorRtSession) -> None:
    assert {name: len(array) for name, array in session.run({"images": crops(0)}).items()} == {
        "keypoints": 0,
        "heatmaps": 0,
    }


def test_earlier_results_stay_as_they_are(session: TensorRtSession, tmp_path: Path) -> None:
    first = session.run({"images": crops(3)})
    session.run({"images": crops(4)})
    assert_same(first, expected(crops(3), tmp_path))


def test_the_values_are_the_same_every_time_and_in_every_thread(session: TensorRtSession) -> None:
    feed = {"images": crops(4)}
    first = session.run(feed)
    with ThreadPoolExecutor(1) as pool:
        others = [session.run(feed), pool.submit(session.run, feed).result()]
    for other in others:
        for name, array in first.items():
            np.testing.assert_array_equal(other[name], array)


def test_two_sessions_do_not_disturb_each_other(engine: Path, target: str, tmp_path: Path) -> None:
    want = expected(crops(4), tmp_path)
    with closing(TensorRtSession(engine, target)) as one, closing(TensorRtSession(engine, target)) as other:
        with ThreadPoolExecutor(2) as pool:
            many = pool.submit(lambda: [one.run({"images": crops(4)}) for _ in range(20)])
            few = pool.submit(lambda: [other.run({"images": crops(4)[:3]}) for _ in range(20)])
        for got in many.result():
            assert_same(got, want)
        for got in few.result():
            assert_same(got, {name: array[:3] for name, array in want.items()})


def test_closing_frees_the_memory(engine: Path, target: str) -> None:
    cudart = import_cudart()
    TensorRtSession(engine, target).close()  # what the library keeps for itself is taken now
    (before, _) = check(cudart, cudart.cudaMemGetInfo())
    for _ in range(10):
        with closing(TensorRtSession(engine, target)) as session:
            session.run({"images": crops(4)})
    (after, _) = check(cudart, cudart.cudaMemGetInfo())
    assert before - after < 64 << 20


def test_a_damaged_engine_is_refused_in_a_sentence(engine: Path, target: str, tmp_path: Path) -> None:
    damaged = tmp_path / "small.edgepose" / "engines" / engine.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(engine.read_bytes()[:1000])
    damaged.with_suffix(".json").write_bytes(engine.with_suffix(".json").read_bytes())
    with pytest.raises(UsageError, match=r"cannot be loaded \(.+\): edgepose build"):
        TensorRtSession(damaged, target)

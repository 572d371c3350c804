"""The benchmarks that need a GPU, without one: what they refuse, and what they make of times and failures.

A stand-in of a CUDA graph calls again what was captured, so that the networks run on the processor.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgepose.backends.session import Arrays
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.bundle.goldens import read_goldens
from edgepose.core.errors import CheckError, UsageError
from edgepose.core.timing import Budget, Latency
from tests.doubles.pose_network import make_bundle

torch = pytest.importorskip("torch")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a benchmark as it imports its neighbours."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


class HostGraph:
    """A replay calls what was captured, and writes to where the capture wrote."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call, self.result = call, call()

    def replay(self) -> None:
        self.result.copy_(self.call())


def capture_on_host(calls: list[Callable[[], Any]]) -> tuple[HostGraph, Any]:
    graph = HostGraph(calls[-1])
    return graph, graph.result


# --- refusing --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["ditn_gpu.py"],
        ["dynamic_conv_gpu.py", "--check-only"],
        ["rtx_on_this_gpu.py", "--bundles", "nowhere"],
    ],
    ids=lambda command: command[0],
)
def test_without_a_gpu_it_is_one_sentence_and_no_file(command: list[str], tmp_path: Path) -> None:
    script, *options = command
    result = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *options, "--json", str(result)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    name = script.removesuffix(".py")
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(rf"{name}: this benchmark needs [^\n]*GPU[^\n]*\n", done.stderr)
    assert done.stdout == ""
    assert not result.exists()


def test_a_batch_below_one_is_refused(load: Callable[[str], ModuleType]) -> None:
    with pytest.raises(UsageError, match="--batches must be 1 or more, got 0"):
        load("ditn_gpu").measure(Namespace(batches=[8, 0]))


def test_check_only_measures_nothing(
    load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dynamic_conv = load("dynamic_conv_gpu")
    monkeypatch.setattr(dynamic_conv, "require_gpu", lambda: None)
    monkeypatch.setattr(dynamic_conv, "check", lambda _: {"torch.float16": 2.5e-4})
    with pytest.raises(SystemExit) as ended:  # before there is a result to write
        dynamic_conv.measure(Namespace(check_only=True, cases="all"))
    assert ended.value.code == 0
    assert capsys.readouterr().out == "largest relative errors: torch.float16 2.5e-04\n"


@pytest.fixture
def kernel_on_host(load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The comparison of the kernel with float64, on the processor: inputs are made there."""
    dynamic_conv = load("dynamic_conv_gpu")
    randn = torch.randn
    monkeypatch.setattr(dynamic_conv.torch, "randn", lambda *sides, **_: randn(*sides))
    return dynamic_conv


SMALL_GRID = {"batch": (2,), "map": ((5, 4),), "kernel": ((3, 3), (1, 7)), "dtype": (torch.float32, torch.float16)}


@pytest.mark.slow
def test_the_comparison_gives_each_types_largest_error(kernel_on_host: ModuleType) -> None:
    errors = kernel_on_host.check(SMALL_GRID)
    assert errors.keys() == {"torch.float32", "torch.float16"}
    assert 1e-9 < errors["torch.float32"] < 1e-6
    assert 5e-5 < errors["torch.float16"] < 5e-4
    assert kernel_on_host.check(kernel_on_host.CASES["none"]) == {}


@pytest.mark.slow
def test_every_wrong_result_is_printed_and_counted(
    kernel_on_host: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = kernel_on_host.dynamic_depthwise_conv2d

    def wrong_in_half(x: Any, kernels: Any) -> Any:
        return right(x, kernels) * (1.25 if x.dtype == torch.float16 else 1.0)

    monkeypatch.setattr(kernel_on_host, "dynamic_depthwise_conv2d", wrong_in_half)
    with pytest.raises(
        CheckError, match=r"^6 results are too far from float64's, the first: y of batch 2, map \(5, 4\)"
    ):
        kernel_on_host.check(SMALL_GRID)  # y, dx and dk of two kernels
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert all(re.search(r"torch.float16: relative error 2\.5e-01, limit 5e-04$", line) for line in lines)


def test_few_cases_reach_every_kernel_that_is_launched(load: Callable[[str], ModuleType]) -> None:
    from edgepose.plugins import launch

    plans: tuple[Callable[..., launch.Launch[int]], ...] = (launch.forward, launch.kernel_gradient)

    def kernels(grid: dict[str, Any]) -> set[str]:
        return {
            plan(3, *size, kernel, str(dtype).removeprefix("torch.")).kernel
            for plan in plans
            for size in grid["map"]
            for kernel in grid["kernel"]
            for dtype in grid["dtype"]
        }

    cases = load("dynamic_conv_gpu").CASES
    assert kernels(cases["few"]) == kernels(cases["all"])
    assert len(kernels(cases["few"])) == 15  # three types of three special ones, one for any size, one gradient


# --- the clock -------------------------------------------------------------------------------------------------------


def test_replays_that_warm_up_do_not_count(load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    timing = load("gpu_timing")
    replays: list[int] = []

    class Event:
        """After n replays the clock stands at n * n milliseconds."""

        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.time = len(replays) ** 2

        def synchronize(self) -> None: ...

        def elapsed_time(self, end: Event) -> float:
            return float(end.time - self.time)

    monkeypatch.setattr(timing.torch.cuda, "Event", Event)
    monkeypatch.setattr(timing, "REPLAYS", 2)
    graph = Namespace(replay=lambda: replays.append(0))
    assert timing.replay_times(graph) == [16 - 9, 25 - 16]  # the fourth and the fifth replay


def test_microseconds_are_those_of_one_call(load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    timing = load("gpu_timing")
    monkeypatch.setattr(timing, "capture", lambda calls: (len(calls), None))
    monkeypatch.setattr(timing, "replay_times", lambda _: [1.0, 2.0, 9.0])
    assert timing.microseconds([torch.zeros] * 4) == 500.0  # the median, 2 ms, over four calls


# --- DITN beside its backbone ----------------------------------------------------------------------------------------


def ditn_row(batch: int, ratio: float) -> dict[str, Any]:
    times = {"hrnet_w32": {"p50": 2.0, "p95": 2.5}, "ditn_hrnet_w32": {"p50": 2 * ratio, "p95": 2.75}}
    return {"batch": batch, "ms": times, "ratio": ratio, "errors": dict.fromkeys(times, 0.0012)}


def test_the_aim_is_four_percent(load: Callable[[str], ModuleType]) -> None:
    rows = [ditn_row(1, 1.0625), ditn_row(8, 1.04), ditn_row(32, 0.99)]
    assert load("ditn_gpu").excess(rows) == ["batch 1: ditn_hrnet_w32 takes 6.2% more than hrnet_w32, aim 4%"]


def test_the_table_of_ditn(load: Callable[[str], ModuleType]) -> None:
    head, line = load("ditn_gpu").table([ditn_row(8, 1.03)]).split("\n")
    assert re.split(r"  +", head) == [
        *("batch", "hrnet_w32 ms", "p95", "FP16 error", "ditn_hrnet_w32 ms", "p95", "FP16 error", "ratio")
    ]
    assert line.split() == ["8", "2.000", "2.500", "1.2e-03", "2.060", "2.750", "1.2e-03", "1.030"]


@pytest.fixture
def ditn_on_host(load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark on the processor: small pictures, and replays of DITN that take twice the backbone's time."""
    ditn = load("ditn_gpu")
    monkeypatch.setattr(ditn, "DEVICE", "cpu")
    monkeypatch.setattr(ditn, "INPUT_SIZE", (64, 64))
    monkeypatch.setattr(ditn, "capture", capture_on_host)
    joined = iter([3.0, 6.0] * ditn.TURNS)
    monkeypatch.setattr(ditn, "replay_times", lambda _: [next(joined)])
    return ditn


@pytest.mark.slow
def test_both_networks_are_compared_and_timed(ditn_on_host: ModuleType) -> None:
    row = ditn_on_host.measure_batch(2)
    assert (row["batch"], row["ratio"]) == (2, 2.0)
    assert row["ms"]["hrnet_w32"] == vars(Latency(3.0, 3.0, 3.0, ditn_on_host.TURNS))
    assert row["ms"]["ditn_hrnet_w32"]["p95"] == 6.0
    assert row["errors"].keys() == {"hrnet_w32", "ditn_hrnet_w32"}
    assert all(1e-5 < error < 5e-3 for error in row["errors"].values())  # FP16 ran, and was right


@pytest.mark.slow
def test_a_replay_that_computes_nothing_is_found(ditn_on_host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HostGraph, "replay", lambda _: None)
    with pytest.raises(CheckError, match=r"hrnet_w32 at batch 1: the relative error of FP16 in a CUDA graph is 1\.\de"):
        ditn_on_host.measure_batch(1)


def test_networks_take_turns(load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    ditn = load("ditn_gpu")
    order: list[str] = []
    monkeypatch.setattr(ditn, "TURNS", 2)
    monkeypatch.setattr(ditn, "replay_times", lambda graph: [float(order.append(graph) or len(order))])
    latency = ditn.take_turns({"a": "graph a", "b": "graph b"})
    assert order == ["graph a", "graph b"] * 2
    assert (latency["a"].p50, latency["b"].p50, latency["a"].count) == (2.0, 3.0, 2)


# --- TensorRT-RTX where it may not run -------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "tiny.edgepose")


def ask(question: str) -> dict[str, Any]:
    """An attempt, for the process that runs it."""
    if question == "crash":
        os._exit(3)
    if question == "refuse":
        raise UsageError("the target GPU\n  is not supported")
    return {"load_ms": 7.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("run", {"stopped": None, "load_ms": 7.0}),
        ("refuse", {"stopped": "UsageError: the target GPU is not supported"}),
        ("crash", {"stopped": "the process died"}),
    ],
)
def test_whatever_stops_an_attempt_is_its_result(
    question: str, answer: dict[str, Any], load: Callable[[str], ModuleType]
) -> None:
    assert load("rtx_on_this_gpu").attempt(ask, question) == answer


@pytest.mark.slow
def test_an_engine_is_tried_without_asking_its_record(
    load: Callable[[str], ModuleType], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    engine = bundle.path / "any.engine"
    engine.write_bytes(b"plan")
    rtx = load("rtx_on_this_gpu")
    assert rtx.attempt(rtx.run_engine, bundle.path, engine, "fp32")["stopped"].startswith("CudaError: CUDA reported")


def test_an_engine_that_runs_is_compared_and_timed(
    load: Callable[[str], ModuleType], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtx, goldens, sizes = load("rtx_on_this_gpu"), read_goldens(bundle), []

    class Executor:
        """Answers with the goldens, heat-maps off by ``off``."""

        off = 0.0

        def __init__(self, trt: str, stream: str, plan: bytes) -> None:
            assert (trt, stream, plan) == ("tensorrt-rtx", "stream", b"plan")

        def run(self, feeds: Arrays) -> Arrays:
            sizes.append(len(feeds["images"]))
            assert np.array_equal(feeds["images"][0], goldens.images[0])
            return {**goldens.outputs, "heatmaps": goldens.outputs["heatmaps"] + np.float32(self.off)}

        def close(self) -> None: ...

    monkeypatch.setattr(rtx.tensorrt, "load_target", str)
    monkeypatch.setattr(rtx, "Executor", Executor)
    monkeypatch.setattr(rtx, "open_stream", lambda: "stream")
    monkeypatch.setattr(rtx, "SETTLE", Budget(calls=1, seconds=1.0, warm_up=0))
    engine = bundle.path / "any.engine"
    engine.write_bytes(b"plan")

    result = rtx.run_engine(bundle.path, engine, "fp32")
    assert (result["wrong"], result["score_fraction"]) == (None, 0.0)
    assert list(result["ms"]) == [1, 8, 32]
    assert sizes[0] == len(goldens.images)
    assert {1, 8, 32} <= set(sizes)

    Executor.off = float(np.ptp(goldens.outputs["heatmaps"]))
    wrong = rtx.run_engine(bundle.path, engine, "fp32")["wrong"]
    assert "heat-map error as a fraction of the range is 1" in wrong

    Executor.off = np.nan
    result = rtx.run_engine(bundle.path, engine, "fp32")
    assert "NaN" in result["wrong"]
    assert result["score_fraction"] is None


def test_a_bundle_without_the_prebuilt_engine_is_refused(load: Callable[[str], ModuleType], bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="no tensorrt-rtx engine in fp16 for the default SMs: CUDA_VISIBLE_DEVICES= "):
        load("rtx_on_this_gpu").find_prebuilt(open_bundle(bundle.path), "fp16")


def test_bundles_are_found_by_their_names(load: Callable[[str], ModuleType], bundle: Bundle) -> None:
    rtx = load("rtx_on_this_gpu")
    assert {name: found.path for name, found in rtx.find_bundles(bundle.path.parent).items()} == {"tiny": bundle.path}
    with pytest.raises(UsageError, match=r"engines holds no folder named NAME\.edgepose"):
        rtx.find_bundles(bundle.path.parent / "engines")


@pytest.mark.slow
def test_the_shipped_bundle_gets_an_engine_with_the_gpu_hidden(
    load: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    rtx = load("rtx_on_this_gpu")
    (shipped,) = rtx.find_bundles(rtx.copy_shipped(tmp_path, "fp32")).values()
    assert rtx.find_prebuilt(shipped, "fp32").parent == shipped.path / "engines"
    assert not list(rtx.SHIPPED.glob("engines"))  # the original is as it was


def test_a_build_that_fails_is_a_sentence(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot be built with the GPU hidden: edgepose: .*int8"):
        load("rtx_on_this_gpu").copy_shipped(tmp_path, "int8")


def test_the_table_of_attempts(load: Callable[[str], ModuleType]) -> None:
    figures = {"score_fraction": 2e-6, "load_ms": 1234.5, "ms": {1: 1.0, 8: 2.375, 32: 6.0}}
    rows = [
        {"model": "a", "engine": "for any SM", "stopped": "UsageError: no"},
        {"model": "a", "engine": "for sm90", "stopped": None, "wrong": None, **figures},
        {"model": "b", "engine": "for sm90", "stopped": None, "wrong": "too far", **figures},
    ]
    lines = [re.split(r"  +", line) for line in load("rtx_on_this_gpu").table(rows).split("\n")]
    assert lines == [
        ["model", "engine", "ms at 1", "ms at 8", "ms at 32", "load ms", "result"],
        ["a", "for any SM", "-", "-", "-", "-", "UsageError: no"],
        ["a", "for sm90", "1.00", "2.38", "6.00", "1234", "runs, heat-map error 2e-06 of the range"],
        ["b", "for sm90", "1.00", "2.38", "6.00", "1234", "too far"],
    ]

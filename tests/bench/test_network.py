"""bench: percentiles and bounds by a fake clock; real engines only for counts and structure."""

import json
import os
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgepose.backends.plan import Runner, choose
from edgepose.bench import network as bench_module
from edgepose.bench.network import BenchReport, Row, bench, measure, plot
from edgepose.bundle.bundle import Bundle
from edgepose.core.errors import UsageError
from edgepose.core.timing import Budget, Latency, summarise, time_calls
from tests.doubles.pose_network import make_bundle

QUICK = Budget(calls=3, seconds=10.0, warm_up=1)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "tiny.edgepose")


class FakeClock:
    """Seconds that a call moves forward."""

    def __init__(self, steps: list[float]) -> None:
        self.now, self.steps, self.calls = 0.0, steps, 0

    def __call__(self) -> float:
        return self.now

    def call(self) -> None:
        self.now += self.steps[self.calls]
        self.calls += 1


def test_percentiles_are_linear_between_samples() -> None:
    assert summarise([float(i) for i in range(101)]) == Latency(50.0, 95.0, 99.0, 101)
    assert summarise([2.5]) == Latency(2.5, 2.5, 2.5, 1)


def test_the_warm_up_is_not_counted() -> None:
    clock = FakeClock([9.0, 9.0, 0.001, 0.002, 0.003])
    samples = time_calls(clock.call, Budget(calls=3, seconds=100.0, warm_up=2), clock)
    assert samples == pytest.approx([1.0, 2.0, 3.0])
    assert clock.calls == 5


def test_time_bounds_the_number_of_calls_but_leaves_one() -> None:
    clock = FakeClock([2.0] * 100)
    assert time_calls(clock.call, Budget(calls=100, seconds=5.0, warm_up=0), clock) == [2000.0] * 3
    clock = FakeClock([60.0] * 100)
    assert time_calls(clock.call, Budget(calls=100, seconds=5.0, warm_up=0), clock) == [60000.0]


@pytest.mark.parametrize("values", [{"calls": 0}, {"seconds": 0.0}, {"warm_up": -1}])
def test_a_budget_that_measures_nothing_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="cannot measure with"):
        Budget(**values)


@pytest.mark.slow
def test_rows_come_from_a_process_per_backend(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepose.backends.backend.find_spec", lambda name: name in ("onnxruntime", "openvino") or None)
    report = bench(bundle, batches=(2, 1, 2), budget=QUICK)
    assert [(row.runner.backend, row.runner.precision, row.batch) for row in report.rows] == [
        *(("onnxruntime", "fp32", 1), ("onnxruntime", "fp32", 2), ("openvino", "fp32", 1), ("openvino", "fp32", 2)),
    ]
    for row in report.rows:
        assert row.latency.count == 3
        assert row.images_per_second == pytest.approx(row.batch * 1e3 / row.latency.p50, rel=1e-2)
    assert set(report.skipped) == {"torch", "tensorrt", "tensorrt-rtx"}
    assert str(report).count("\n") == 4 + 3

    assert not bundle.reports.exists()
    report.save(bundle.reports / "bench.json")
    written = json.loads((bundle.reports / "bench.json").read_text())
    assert [row["batch"] for row in written["rows"]] == [1, 2, 1, 2]
    assert written["budget"] == {"calls": 3, "seconds": 10.0, "warm_up": 1}
    assert written["files"] == bundle.manifest.files and written["environment"]["cpu"]
    assert cv2.imread(str(bundle.reports / "bench.png")).shape == (480, 1200, 3)


@pytest.mark.slow
def test_the_report_goes_where_it_is_told(bundle: Bundle, tmp_path: Path) -> None:
    bench(bundle, ["onnxruntime"], (1,), QUICK).save(tmp_path / "out" / "speed.json")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["speed.json", "speed.png"]
    assert not bundle.reports.exists()


def test_bad_batches_and_backends_are_refused(bundle: Bundle) -> None:
    for batches in ((), (0, 1), (-1,)):
        with pytest.raises(UsageError, match="expected whole numbers from 1 up"):
            bench(bundle, ["onnxruntime"], batches, QUICK)
    with pytest.raises(UsageError, match="unknown backend 'tensorflow'"):
        bench(bundle, ["tensorflow"], (1,), QUICK)


@pytest.mark.slow
def test_a_backend_that_cannot_open_is_named_or_skipped(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle.graph.write_bytes(b"no graph")
    with pytest.raises(UsageError, match="not an ONNX graph"):
        bench(bundle, ["onnxruntime"], (1,), QUICK)
    monkeypatch.setattr("edgepose.backends.backend.find_spec", lambda name: name == "onnxruntime" or None)
    report = bench(bundle, None, (1,), QUICK)
    assert not report.rows and "not an ONNX graph" in report.skipped["onnxruntime fp32"]


def test_a_process_that_dies_is_a_sentence(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "measure", die)
    with pytest.raises(UsageError, match=r"measured onnxruntime in fp32 ended .*: try batches below 4"):
        bench(bundle, ["onnxruntime"], (1, 4), QUICK)


def die(*_: object) -> None:
    os._exit(1)


def test_measure_runs_the_warm_up_and_the_calls(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, closed = [], count()

    class Counting:
        def run(self, feeds: dict[str, np.ndarray]) -> None:
            shapes.append((feeds["images"].shape, feeds["images"].dtype))

        def close(self) -> None:
            next(closed)

    monkeypatch.setattr(Runner, "open", lambda _: Counting())
    rows = measure(choose(bundle, "onnxruntime", "fp32"), (1, 8), QUICK)
    assert shapes == [((1, 32, 24, 3), np.uint8)] * 4 + [((8, 32, 24, 3), np.uint8)] * 4
    assert [row.latency.count for row in rows] == [3, 3] and next(closed) == 1


def test_without_matplotlib_the_numbers_stay(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "find_spec", lambda _: None)
    report = bench(bundle, ["onnxruntime"], (1,), QUICK)
    report.save(bundle.reports / "bench.json")
    assert len(report.rows) == 1 and "pip install 'edgepose[onnx]'" in report.skipped["plot"]
    assert json.loads((bundle.reports / "bench.json").read_text())["skipped"] == report.skipped
    assert [path.name for path in bundle.reports.iterdir()] == ["bench.json"]


def test_the_plot_has_a_line_per_backend(bundle: Bundle, tmp_path: Path) -> None:
    latency = Latency(10.0, 11.0, 12.0, 5)
    rows = tuple(
        Row(Runner(bundle, backend, "fp32", bundle.graph), n, latency, n * 100.0, 1.0, None)
        for backend in ("one", "two")
        for n in (1, 4)
    )
    report = BenchReport(bundle, rows, {}, QUICK)
    plot(report, tmp_path / "plot.png")
    few = cv2.imread(str(tmp_path / "plot.png"))
    assert few.std() > 5
    assert str(report).splitlines()[1].split() == [
        "one",
        "fp32",
        "1",
        *("10.00", "11.00", "12.00", "100.0"),
        "1",
        "-",
        "5",
    ]

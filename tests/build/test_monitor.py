"""The progress of a build, and its end by Ctrl-C."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgepose.build import monitor as progress_module
from edgepose.build.engine import build_engine
from edgepose.build.monitor import Phases, Show, progress_bar
from edgepose.bundle.bundle import open_bundle
from edgepose.nvidia import device as nvidia_device
from tests.doubles.pose_network import DYNAMIC, make_bundle

needs_rtx = pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: "no GPU in this test")


def test_nested_phases_are_one_fraction() -> None:
    phases = Phases()
    phases.start("build", None, 4)
    phases.start("clone", "build", 2)
    phases.step("clone", 0)
    assert phases.fraction == 1 / 8
    phases.step("clone", 1)
    phases.finish("clone")
    phases.step("build", 0)
    assert phases.fraction == 1 / 4
    phases.start("time", "build", 10)
    phases.start("tactics", "time", 5)
    phases.step("tactics", 3)
    assert phases.fraction == pytest.approx((1 + (4 / 5) / 10) / 4)
    phases.step("gone", 1)
    phases.step("build", 2)
    assert phases.fraction == pytest.approx((3 + (4 / 5) / 10) / 4)


def test_a_phase_that_starts_again_does_not_go_back() -> None:
    phases = Phases()
    phases.start("build", None, 2)
    for steps in (2, 100):
        phases.start("clone", "build", steps)
        phases.step("clone", 0)
        phases.finish("clone")
    assert phases.fraction == 1 / 4


def record_shown(monkeypatch: pytest.MonkeyPatch, show: Show) -> None:
    @contextmanager
    def bar() -> Iterator[Show]:
        yield show

    monkeypatch.setattr(progress_module, "progress_bar", bar)


@needs_rtx
def test_a_build_reports_its_phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[float, str]] = []
    record_shown(monkeypatch, lambda fraction, phase: shown.append((fraction, phase)))
    build_engine(make_bundle(tmp_path / "small.edgepose", body=DYNAMIC), "tensorrt-rtx")
    fractions = [fraction for fraction, _ in shown]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < 0.5 < fractions[-1] <= 1
    assert "Building engine" in {phase for _, phase in shown}


@pytest.mark.slow
@needs_rtx
def test_ctrl_c_ends_a_build_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    noticed = threading.Event()

    def interrupt(_: float, phase: str) -> None:
        shown.append(phase)
        if threading.current_thread() is threading.main_thread():
            noticed.set()
        elif len(shown) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            noticed.wait(60)  # the build's thread waits here until the main thread has stopped it

    record_shown(monkeypatch, interrupt)
    bundle = make_bundle(tmp_path / "small.edgepose", body=DYNAMIC)
    with pytest.raises(KeyboardInterrupt):
        build_engine(bundle, "tensorrt-rtx")
    assert shown[1:] == ["stopping at TensorRT's next step"]
    assert open_bundle(bundle.path).engines() == []
    assert sorted(path.name for path in bundle.path.iterdir()) == ["golden.npz", "manifest.json", "pose.onnx"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    for stream, is_shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        with progress_bar() as show:
            show(0.41, "Timing tactics")
        assert ("building:  41%" in stream.getvalue()) is is_shown
        assert (", Timing tactics]" in stream.getvalue()) is is_shown
        assert (stream.getvalue() == "") is not is_shown


def test_without_tqdm_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with progress_bar() as show:
        show(0.5, "Timing tactics")
    assert stream.getvalue() == ""

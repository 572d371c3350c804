"""What reports say about the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from edgepose.backends.environment import environment
from edgepose.core import machine
from edgepose.core.machine import cpu_name, peak_memory_mb, usable_threads
from edgepose.nvidia import device as nvidia_device
from edgepose.nvidia.device import DeviceInfo


def test_environment_holds_what_a_number_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/me/bin/edgepose", "bench", "x.edgepose"])
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: "no driver")
    found = environment()
    assert found["command"] == ["edgepose", "bench", "x.edgepose"]  # nobody's home is in a report
    assert (found["cpu"], found["cpu_threads"]) == (cpu_name(), usable_threads())
    assert (found["gpu"], found["system"]) == (None, platform.platform())
    assert found["versions"]["numpy"] == np.__version__
    assert found["versions"]["python"] == platform.python_version()
    age = datetime.now(timezone.utc) - datetime.fromisoformat(found["time"])
    assert timedelta() <= age < timedelta(minutes=1)


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: None)
    monkeypatch.setattr(nvidia_device, "device_info", lambda: DeviceInfo("Orin", "sm87", 1 << 33))
    assert environment()["gpu"] == "Orin"


def test_the_processor_is_called_what_the_system_calls_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "Path", lambda _: cpuinfo)
    assert cpu_name() == (platform.processor() or platform.machine())
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Cortex: A78AE\nprocessor\t: 1\nmodel name\t: another\n")
    assert cpu_name() == "Cortex: A78AE"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no CPU affinity")
def test_threads_are_those_that_this_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    assert usable_threads() == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepose.backends.environment._PACKAGES", ("numpy", "no-such-package-of-edgepose"))
    assert environment()["versions"] == {"numpy": np.__version__}


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the system has no /proc")
def test_the_peak_counts_what_was_held_and_let_go() -> None:
    code = (
        "from edgepose.core.machine import peak_memory_mb as peak\n"
        "before = peak(); held = b'x' * 50_000_000; during = peak(); del held\n"
        "print(during - before, peak() - during)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown, after = map(float, done.stdout.split())
    assert 49 <= grown < 60
    assert abs(after) < 1  # Linux counts pages a little late


def test_without_proc_the_peak_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "Path", lambda _: tmp_path / "none")
    assert peak_memory_mb() is None

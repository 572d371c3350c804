"""What reports say about the machine."""

import numpy as np
import pytest

from edgepose import machine
from edgepose.machine import environment, peak_memory_mb


def test_environment_holds_what_a_number_depends_on() -> None:
    found = environment()
    assert found["cpu"] and found["cpu_threads"] >= 1
    assert found["versions"]["numpy"] == np.__version__
    assert found["time"].endswith("+00:00")
    assert not any("/" in found["command"][0] for _ in "x")


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_PACKAGES", ("numpy", "no-such-package-of-edgepose"))
    assert list(environment()["versions"]) == ["numpy"]


def test_peak_memory_grows_with_what_is_held() -> None:
    before = peak_memory_mb() or 0
    held = np.ones(400_000_000, np.uint8)
    assert (peak_memory_mb() or 0) >= min(before, 400) and (peak_memory_mb() or 0) >= held.nbytes / 1e6

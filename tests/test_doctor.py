from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgepose import doctor as doctor_module
from edgepose.backends.plan import BACKENDS
from edgepose.doctor import Finding, doctor, examine
from edgepose.nvidia import device as nvidia_device
from edgepose.nvidia.device import DeviceInfo
from edgepose.plugins.library import PluginLibrary


@pytest.fixture(scope="module")
def findings() -> dict[str, Finding]:
    return {finding.item: finding for finding in examine()}


def test_every_part_has_a_row(findings: dict[str, Finding]) -> None:
    expected = ["Python", "platform", "numpy", "OpenCV", *(f"backend {name}" for name in BACKENDS)]
    assert list(findings) == [*expected, "onnx", "onnxscript", "onnxsim", "CUDA GPU", "TensorRT plugin"]


def test_what_is_installed_shows_its_version(findings: dict[str, Finding]) -> None:
    assert findings["numpy"] == Finding("numpy", "ok", np.__version__)
    assert findings["OpenCV"].detail.startswith(f"{cv2.__version__}; FFmpeg ")
    assert findings["backend onnxruntime"].status == "ok"
    assert findings["Python"].detail.startswith(".".join(map(str, sys.version_info[:3])))


def test_what_is_missing_has_its_line(findings: dict[str, Finding]) -> None:
    for finding in findings.values():
        assert bool(finding.install) == (finding.status in ("missing", "broken")), finding


def test_a_module_that_is_missing_or_does_not_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "edgepose_broken_module.py").write_text("raise OSError('libGL.so.1:\\n cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor_module._module("x", "edgepose_no_such_module", "pip install x") == Finding(
        "x", "missing", "the Python module 'edgepose_no_such_module' is not installed", "pip install x"
    )
    assert doctor_module._module("x", "edgepose_broken_module", "pip install x") == Finding(
        "x", "broken", "import edgepose_broken_module fails: OSError: libGL.so.1: cannot open", "pip install x"
    )


def test_the_plugin_library_is_found_where_it_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPOSE_PLUGINS", str(tmp_path))
    monkeypatch.setattr(doctor_module, "_module", lambda *_: Finding("TensorRT", "missing", ""))
    missing = "the plugin library is not built; no TensorRT to register it with"
    assert doctor_module._plugin() == Finding("TensorRT plugin", "missing", missing, "edgepose plugins build")
    (tmp_path / "libedgepose_plugins.so").write_bytes(b"\x7fELF")
    assert (doctor_module._plugin().status, doctor_module._plugin().install) == ("broken", "edgepose plugins build")
    library = PluginLibrary(tmp_path / "p.so", (10, 3), ("sm86", "sm87"))
    monkeypatch.setattr(doctor_module, "find_library", lambda: library)
    found = f"built: {tmp_path / 'p.so'} (TensorRT 10.3, sm86 sm87)"
    assert doctor_module._plugin() == Finding("TensorRT plugin", "ok", f"{found}; no TensorRT to register it with")


@pytest.mark.parametrize(
    ("version", "built", "status", "end"),
    [
        ("10.3.0", True, "ok", "registered with TensorRT 10.3.0 as: library"),
        ("10.3.0", False, "ok", "registered with TensorRT 10.3.0 as: Python class"),
        ("11.1.0", False, "ok", "the plugin library is not built; registered with TensorRT 11.1.0 as: ahead of time"),
        ("8.6.1", False, "cannot run", "TensorRT 8.6.1 is too old for the plugin: expected 10.0 or later"),
    ],
)
def test_the_form_that_tensorrt_gets_is_shown(
    version: str, built: bool, status: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = PluginLibrary(Path("p.so"), (10, 3), ("sm87",)) if built else None
    monkeypatch.setattr(doctor_module, "find_library", lambda: library)
    monkeypatch.setattr(doctor_module, "_module", lambda *_: Finding("TensorRT", "ok", version))
    finding = doctor_module._plugin()
    assert finding.status == status
    assert finding.detail.endswith(end)


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic", "Jetson Linux 36.4.3 (JetPack 6)"),
        ("# R35 (release), REVISION: 6.0, GCID: 1", "Jetson Linux 35.6.0 (JetPack 5)"),
        ("# R99 (release), REVISION: 1.0", "Jetson Linux 99.1.0 (JetPack unknown)"),
        ("", "Jetson, release unknown"),
    ],
)
def test_jetson(release: str, expected: str) -> None:
    assert doctor_module.jetson_release(release) == expected


def test_video_support_reads_opencvs_build_information() -> None:
    build = "Video I/O:\n    FFMPEG:      YES\n      avcodec: YES (62.28.101)\n    GStreamer:   NO\n"
    assert doctor_module._video_support(build) == "FFmpeg yes, GStreamer no"
    assert doctor_module._video_support("    GStreamer:   YES (1.20.3)\n") == "FFmpeg no, GStreamer yes"


def test_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: "no module: pip install cuda-python")
    assert doctor_module._gpu() == Finding("CUDA GPU", "missing", "no module", "pip install cuda-python")
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: None)
    monkeypatch.setattr(nvidia_device, "device_info", lambda: DeviceInfo("Orin", "sm87", 3 << 30))
    assert doctor_module._gpu() == Finding("CUDA GPU", "ok", "Orin, sm87, 3.0 GiB")


def test_table() -> None:
    rows = [Finding("a", "ok", "1.0"), Finding("longer", "missing", "not here", "pip install longer")]
    assert doctor_module._table(rows) == (
        "item    status   detail\n"
        "a       ok       1.0\n"
        "longer  missing  not here\n"
        "\n"
        "to install what is missing:\n"
        "  longer: pip install longer\n"
    )
    assert doctor_module._table(rows[:1]) == "item  status  detail\na     ok      1.0\n"
    assert doctor().startswith("item ")

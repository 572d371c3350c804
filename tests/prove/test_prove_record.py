"""The record of a proof: what is handed on, and what it says of the device."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("onnx")

from edgepose import prove as prove_module
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.core.errors import UsageError
from edgepose.nvidia import device as nvidia_device
from edgepose.prove import device as device_module
from edgepose.prove import prove
from edgepose.prove.anonymous import anonymiser
from tests.doubles.pose_network import make_bundle
from tests.prove.proofs import GPU, ONE, read


def test_nothing_handed_on_tells_whose_machine_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "somewhere" / "ann_of_the_test"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "ann_of_the_test")
    monkeypatch.chdir(home)
    bundle = make_bundle(home / "tiny.edgepose")

    def talkative(opened: Bundle, *_: object, **__: object) -> None:
        raise UsageError(
            f"{opened.path} and {opened.path.resolve()}/engines/a.engine, {home}/b, ~/c, {home}: see "
            "/mnt/ann_of_the_test/venv/d.py, /mnt/ann_of_the_test, ../ann_of_the_test/e"
        )

    monkeypatch.setattr(prove_module, "verify", talkative)
    monkeypatch.setattr(prove_module, "bench", talkative)
    for path in (bundle.path, Path("tiny.edgepose"), Path("../ann_of_the_test/tiny.edgepose"), Path("./tiny.edgepose")):
        monkeypatch.setattr(sys, "argv", [str(home / "bin" / "edgepose"), "prove", str(path)])
        proof = prove(open_bundle(path), ["onnxruntime"], options=ONE, folder=home / "out")
        for text in (proof.record.read_text(), proof.page.read_text()):
            assert "ann_of_the_test" not in text
            assert str(tmp_path) not in text
        problem = read(proof)["cases"][0]["steps"]["verify"]["problem"]
        parts = ("tiny.edgepose and tiny.edgepose/engines/a.engine", "~/b", "~/c", "~: see .../d.py", ".../~", "../~/e")
        assert problem == ", ".join(parts)
    facts = json.dumps([proof.device, proof.versions, proof.power, read(proof)["asked"]])
    assert not re.search(rf"\b{re.escape(platform.node() or 'no name')}\b", facts)


def test_paths_are_shortened_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ann"))
    shorten = anonymiser([Path("/srv/ann/x.edgepose"), Path("../ann/lspet"), Path("plain"), Path("/"), Path()])
    for text, expected in {
        "/srv/ann/x.edgepose/a /srv/ann/x.edgepose2/a": "x.edgepose/a .../a",
        "lsp:../ann/lspet has none": "lsp:lspet has none",
        "/home/ann/a and /home/anna/a": "~/a and .../a",
        "(log: /mnt/my/a.log)": "(log: .../a.log)",
        "file:///home/bob/a": "file://.../a",
        (same := "https://example.org/a/b 3.1 crops/s 1/8/32 a / b, plain."): same,
        "/usr/lib/libnvinfer.so /sys/devices/x /dev/video0": "/usr/lib/libnvinfer.so /sys/devices/x /dev/video0",
    }.items():
        assert shorten(text) == expected
    assert shorten({"a": [1, None, ("/mnt/my/b", True)]}) == {"a": [1, None, [".../b", True]]}
    monkeypatch.setattr(Path, "home", lambda: Path("/"))
    assert anonymiser([])("/a/b in c/d") == ".../b in c/d"


def test_a_jetson_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "_BOARD": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "_RELEASE": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic",
        "_DRIVER": "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build",
        "_MEMORY": "MemTotal:       31298064 kB\nMemFree: 1 kB\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(device_module, name, tmp_path / name)
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: None)
    monkeypatch.setattr(nvidia_device, "device_info", lambda: GPU)
    cuda = {"cudaDriverGetVersion": lambda: (0, 12060), "cudaRuntimeGetVersion": lambda: (0, 12060)}
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", SimpleNamespace(**cuda))
    device = device_module.describe_device()
    assert device["board"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert device["jetson"] == "Jetson Linux 36.4.3 (JetPack 6)"
    assert device["memory_mb"] == 32049
    assert device["gpu"] == {"name": "Orin", "sm": "sm87", "memory_mb": 8590}
    versions = device_module.describe_versions()
    assert (versions["NVIDIA driver"], versions["CUDA of the driver"]) == ("540.4.0", "12.6")
    assert versions["numpy"] == np.__version__


def test_what_is_not_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_BOARD", "_RELEASE", "_DRIVER", "_MEMORY", "_PROCESSORS"):
        monkeypatch.setattr(device_module, name, tmp_path / "none")
    monkeypatch.setattr(nvidia_device, "gpu_missing", lambda: "no driver")
    monkeypatch.setenv("PATH", str(tmp_path))
    device = device_module.describe_device()
    assert {device[name] for name in ("gpu", "board", "jetson", "memory_mb")} == {None}
    assert "NVIDIA driver" not in device_module.describe_versions()
    assert device_module.power_state() == {}


@pytest.mark.skipif(shutil.which("sh") is None, reason="the commands of this test are shell scripts")
def test_power_and_clocks_are_what_the_commands_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {
        "nvpmodel": '[ "$*" = "-q" ] && echo "NV Power Mode: MAXN" && echo 0; echo warning >&2',
        "jetson_clocks": "echo first >&2; echo must be root >&2; exit 1",
        "nvidia-smi": 'sleep 5; echo "power.limit [W]"',
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(f"#!{shutil.which('sh')}\nPATH={os.environ['PATH']}\n{text}\n")
        (tmp_path / name).chmod(0o755)
    for number, governor in enumerate(("schedutil", "performance", "schedutil")):
        folder = tmp_path / f"cpu{number}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(device_module, "_PROCESSORS", tmp_path)
    monkeypatch.setattr(device_module, "_SECONDS", 0.5)
    found = device_module.power_state()
    asked = next(name for name in found if name.startswith("nvidia-smi --query-gpu=power.limit,"))
    assert "timed out" in found.pop(asked)
    assert found == {
        "nvpmodel -q": "NV Power Mode: MAXN\n0",
        "jetson_clocks --show": "exit 1: must be root",
        "scaling governor": "performance, schedutil",
    }


def test_heavy_modules_load_only_when_needed() -> None:
    code = (
        "import sys, edgepose.prove\n"
        "print(sorted({'cuda', 'matplotlib', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'torch'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

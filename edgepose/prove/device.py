"""Describe the device of a proof: hardware, versions, power and clock settings; no host name, no serial number."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ..backends.environment import environment
from ..core.machine import jetson_release
from ..nvidia import device

#: Files with the board's name, such as "NVIDIA Jetson AGX Orin Developer Kit", Jetson Linux's release, NVIDIA's driver.
_BOARD, _RELEASE = Path("/proc/device-tree/model"), Path("/etc/nv_tegra_release")
_DRIVER = Path("/proc/driver/nvidia/version")
_MEMORY, _PROCESSORS = Path("/proc/meminfo"), Path("/sys/devices/system/cpu")

_CLOCKS = "power.limit,pstate,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,temperature.gpu"
#: Commands that print power and clock settings: two of Jetson, and one of desktops and servers.
_COMMANDS = (("nvpmodel", "-q"), ("jetson_clocks", "--show"), ("nvidia-smi", f"--query-gpu={_CLOCKS}", "--format=csv"))
_SECONDS = 20


def describe_device() -> dict[str, Any]:
    """Return processor, memory (in 10^6 bytes), GPU and board as JSON values; None for what is missing or unknown."""
    where, release = environment(), _read(_RELEASE)
    gpu = None if device.gpu_missing() else device.device_info()
    return {
        "cpu": where["cpu"],
        "cpu_threads": where["cpu_threads"],
        "architecture": platform.machine(),
        "memory_mb": _memory_mb(),
        "gpu": gpu and {"name": gpu.name, "sm": gpu.sm, "memory_mb": round(gpu.memory / 1e6)},
        "board": _read(_BOARD),
        "jetson": None if release is None else jetson_release(release),
        "system": where["system"],
    }


def describe_versions() -> dict[str, str]:
    """Return the versions of Python, the packages, NVIDIA's driver and CUDA, by name."""
    found: dict[str, str] = {**environment()["versions"]}
    driver = re.search(r"\b\d+\.\d+(\.\d+)*\b", _read(_DRIVER) or "")
    if driver:
        found["NVIDIA driver"] = driver[0]
    if device.gpu_missing() is None:
        runtime = import_module("cuda.bindings.runtime")
        for name, (_, number) in (
            ("CUDA of the driver", runtime.cudaDriverGetVersion()),
            ("CUDA of cuda-python", runtime.cudaRuntimeGetVersion()),
        ):
            found[name] = f"{number // 1000}.{number % 1000 // 10}"
    return found


def power_state() -> dict[str, str]:
    """Return the system's power and clock settings, by command or name of the setting."""
    found = {" ".join(command): _output(command) for command in _COMMANDS if shutil.which(command[0])}
    governors = {_read(path) for path in _PROCESSORS.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {None}
    return {**found, "scaling governor": ", ".join(sorted(map(str, governors)))} if governors else found


def _memory_mb() -> int | None:
    match = re.search(r"MemTotal:\s+(\d+) kB", _read(_MEMORY) or "")
    return round(int(match[1]) * 1024 / 1e6) if match else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return None


def _output(command: Sequence[str]) -> str:
    """Return a command's output, or a sentence on how it fails; jetson_clocks needs root, for example."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not run: {error}"
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        return f"exit {done.returncode}: {lines[-1]}"
    return done.stdout.strip()

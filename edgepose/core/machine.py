"""Describe this machine, its memory use and the installed versions, for reports."""

from __future__ import annotations

import os
import re
from pathlib import Path


def usable_threads() -> int:
    """Return how many logical processors this process may use; containers and ``taskset`` may limit them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of those packages that are installed; ``python`` stands for the interpreter."""
    import platform  # here, so that import edgepose is fast
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in packages:
        try:
            found[name] = platform.python_version() if name == "python" else version(name)
        except PackageNotFoundError:
            continue
    return found


def version_numbers(version: str, count: int) -> tuple[int, ...]:
    """Return the first ``count`` numbers of a version, for comparing versions.

    >>> version_numbers("10.3.0.26", 2), version_numbers("1.30rc1", 2)
    ((10, 3), (1, 30))
    """
    return tuple(int(number) for number in re.findall(r"\d+", version)[:count])


def peak_memory_mb() -> float | None:
    """Return the peak resident memory of this process in MB (10^6 bytes); None without ``/proc``.

    ``getrusage`` does not serve: on Linux its maximum begins with the parent process's.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii", errors="replace").splitlines() if status.is_file() else []
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]  # in KiB
    return round(peaks[0] * 1024 / 1e6, 1) if peaks else None


def cpu_name() -> str:
    """Return the processor's name from ``/proc/cpuinfo`` or ``platform``, else the architecture."""
    import platform

    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(named), platform.processor() or platform.machine())


#: Major version of Jetson Linux (L4T) to that of JetPack.
_JETPACKS = {35: "5", 36: "6", 38: "7"}


def jetson_release(release: str) -> str:
    """Describe the release of Jetson Linux from the first line of ``/etc/nv_tegra_release``.

    >>> jetson_release("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64")
    'Jetson Linux 36.4.3 (JetPack 6)'
    """
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    if not match:
        return "Jetson, release unknown"
    jetpack = _JETPACKS.get(int(match[1]), "unknown")
    return f"Jetson Linux {match[1]}.{match[2]} (JetPack {jetpack})"

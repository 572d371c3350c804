"""Record the GPU, its driver and clocks, and the versions that the results of a GPU's day hold for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from parts import write_json

#: What nvidia-smi is asked for; it changes nothing.
FIELDS = (
    *("name", "driver_version", "compute_cap", "memory.total", "memory.used", "temperature.gpu", "power.limit"),
    *("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "mig.mode.current"),
)
TOOLS = ("nvcc", "compute-sanitizer", "ncu", "nvidia-smi")


def ask_nvidia_smi() -> dict[str, str] | str:
    """Return the first GPU's :data:`FIELDS` as nvidia-smi prints them, or why it does not."""
    if shutil.which("nvidia-smi") is None:
        return "nvidia-smi is not installed"
    command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        return " ".join((done.stdout + done.stderr).split())
    values = done.stdout.splitlines()[0].split(", ")
    return dict(zip(FIELDS, values, strict=False))


def ask_torch() -> dict[str, Any] | str:
    """Return what PyTorch tells of the GPU that it would use, or why it can use none."""
    if find_spec("torch") is None:
        return "PyTorch is not installed"
    import torch

    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} sees no CUDA GPU"
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "sm": f"sm{properties.major}{properties.minor}",
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def ask_edgepose() -> dict[str, Any]:
    """Return what edgepose tells of the machine and of its GPU, or why it cannot be imported."""
    try:
        from edgepose.backends.environment import environment
        from edgepose.nvidia import device
    except ImportError as error:
        return {"cannot_import": str(error)}
    missing = device.gpu_missing()
    return {"gpu": missing or vars(device.device_info()), "environment": environment()}


def why_no_gpu(torch: dict[str, Any] | str, edgepose: dict[str, Any]) -> str | None:
    """Return a sentence where neither PyTorch nor edgepose can use a GPU, None where one of them can."""
    views = (edgepose.get("cannot_import", edgepose.get("gpu")), torch)
    reasons = [view for view in views if isinstance(view, str)]
    return "; ".join(reasons) if len(reasons) == len(views) else None


def main(result: Path) -> int:
    """Write the record to ``result``; print the GPU's name, or why none can be used."""
    torch, edgepose, smi = ask_torch(), ask_edgepose(), ask_nvidia_smi()
    why = why_no_gpu(torch, edgepose)
    tools = {name: shutil.which(name) is not None for name in TOOLS}
    write_json(result, {"no_gpu": why, "torch": torch, "edgepose": edgepose, "nvidia_smi": smi, "tools": tools})
    named = (view["name"] for view in (torch, edgepose.get("gpu")) if isinstance(view, dict))
    print(f"no GPU: {why}" if why else next(named))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))

"""Build the shipped bundle's TensorRT-RTX engines in every precision, verify and measure them with edgepose's commands.

Usage: ``engines.py OUT WORK``. The bundle is copied to WORK; OUT gets ``engines.json`` from ``edgepose bench``, and the
report of ``edgepose verify``. The ranges of INT8 are those of the goldens. Skipped where ``OUT/rtx.json`` shows that
TensorRT-RTX runs nothing here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from parts import ROOT, SKIPPED

SHIPPED = ROOT / "edgepose" / "assets" / "ditn_lite.edgepose"


def why_nothing_runs(rtx: Path) -> str | None:
    """Return what stopped TensorRT-RTX at every attempt, or None where one ran or none was recorded."""
    rows = json.loads(rtx.read_text()).get("rows", []) if rtx.is_file() else []
    stopped = [row["stopped"] for row in rows]
    return stopped[-1] if stopped and all(stopped) else None


def commands(bundle: Path, out: Path) -> list[list[str]]:
    """Return the arguments of each call of ``edgepose``, in order."""
    rtx = ["--backend", "tensorrt-rtx"]
    return [
        ["build", str(bundle), "--target", "tensorrt-rtx", "--all"],
        ["verify", str(bundle), *rtx, "--report", str(out / "verify")],
        ["bench", str(bundle), *rtx, "--batch", "1,8,32", "--json", str(out / "engines.json")],
    ]


def copy_shipped(bundle: Path) -> None:
    """Copy the shipped bundle to a new folder, and add a graph of every precision."""
    from edgepose.bundle.bundle import open_bundle
    from tests.doubles.variants import with_variants

    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(SHIPPED, bundle)
    with_variants(open_bundle(bundle))


def main(out: Path, work: Path) -> int:
    """Run the commands up to the first that fails, and return its exit code, 0, or the code for "skipped"."""
    stopped = why_nothing_runs(out / "rtx.json")
    if stopped:
        print(f"TensorRT-RTX runs nothing here: {stopped}")
        return SKIPPED
    bundle = work / SHIPPED.name
    copy_shipped(bundle)
    for arguments in commands(bundle, out):
        print("$ edgepose", *arguments, flush=True)
        code = subprocess.run([sys.executable, "-m", "edgepose", *arguments], check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*map(Path, sys.argv[1:])))

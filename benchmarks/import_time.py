"""How long does ``import edgepose`` take?

Every measurement is a new process; the fastest is compared with the limit, because other work only adds time.
Reading the compiled files from disk for the first time is left out.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from common import Outcome, run_benchmark

from edgepose.core.tables import text_table

MODULES = ("edgepose", "edgepose.cli", "numpy")
#: Limits in seconds.
LIMITS = {"edgepose": 0.15}


def seconds(module: str, processes: int) -> list[float]:
    """Return the seconds that each of several new processes takes to import a module, after one that is not counted."""
    code = f"from time import perf_counter; start = perf_counter(); import {module}; print(perf_counter() - start)"
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(processes + 1)]
    return [float(run.stdout) for run in runs[1:]]


def measure(options: argparse.Namespace) -> Outcome:
    """Measure every module of MODULES."""
    fastest = {module: min(seconds(module, options.processes)) for module in MODULES}
    rows = [(module, f"{value:.3f}", f"{LIMITS.get(module, '-')}") for module, value in fastest.items()]
    excess = [
        f"import {module} takes {fastest[module]:.3f} s, limit {limit:g}"
        for module, limit in LIMITS.items()
        if fastest[module] > limit
    ]
    figures = {"processes": options.processes, "fastest_seconds": fastest}
    return Outcome(text_table(("module", "seconds, fastest", "limit"), rows), figures, excess)


def main() -> int:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=11, help="new processes per module; default: %(default)s")
    return run_benchmark(parser, measure)


if __name__ == "__main__":
    sys.exit(main())

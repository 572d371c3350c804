"""Tests compute on one thread: with two beside other work, a test of 13 s took 103 s."""

from __future__ import annotations

import os


def use_one_thread() -> None:
    """Let the libraries of this process and of those that it starts compute on one thread.

    OpenMP, and so PyTorch, obeys the environment. ONNX Runtime and OpenVINO take as many threads as the process has
    cores: each of several workers of pytest-xdist gets one core of its own.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

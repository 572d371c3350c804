"""Tests compute on one thread: with two beside other work, a test of 13 s took 103 s."""

from __future__ import annotations

import os


def use_one_thread() -> None:
    """Let the OpenMP of this process, and of those that it starts, compute on one thread: PyTorch and NumPy obey it.

    ONNX Runtime and OpenVINO take no such variable; their threads do not spin while they wait (see the backends). The
    process keeps all its cores: on a single one OpenVINO 2026.4 gives the outputs of the call before where it should
    raise an error.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"

"""The timing of the GPU benchmarks: replays of a CUDA graph between two events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch

from edgepose.core.errors import UsageError

#: Number of measured replays, and of those before them.
REPLAYS, WARM_UP = 30, 3


def require_gpu() -> None:
    if not torch.cuda.is_available():
        raise UsageError("this benchmark needs a CUDA GPU that PyTorch can use")


def capture(calls: Sequence[Callable[[], Any]]) -> tuple[Any, Any]:
    """Capture calls in order, after one without capture, which compiles and loads what a capture cannot.

    Returns:
        the ``torch.cuda.CUDAGraph``, and the result of the last call, which every replay overwrites. The caller must
        keep the inputs of the calls alive.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())  # which may still be filling the inputs
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    stream.synchronize()
    graph, result = torch.cuda.CUDAGraph(), None
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            result = call()
    return graph, result


def replay_times(graph: Any) -> list[float]:
    """Return the milliseconds of each of :data:`REPLAYS` replays of a CUDA graph, with the launch of the graph."""
    times = []
    for _ in range(WARM_UP + REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return times[WARM_UP:]


def microseconds(calls: Sequence[Callable[[], Any]]) -> float:
    """Return the median microseconds of one call, from replays of a CUDA graph with all calls."""
    graph, _ = capture(calls)
    return median(replay_times(graph)) * 1000 / len(calls)

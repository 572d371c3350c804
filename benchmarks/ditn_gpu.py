"""How much time does DITN add to its backbone on a GPU?

It times ``ditn_hrnet_w32`` and ``hrnet_w32``, 17 joints, 256x192, untrained: the cost depends on the layers. PyTorch
runs them in FP16, channels-last, each captured in a CUDA graph, so that Python costs nothing. First a replay is
compared with eager FP32; then the networks take turns in short blocks. Needs a CUDA GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from common import Outcome, run_benchmark
from gpu_timing import capture, replay_times, require_gpu
from torch import Tensor, nn

from edgepose.core.errors import CheckError, UsageError
from edgepose.core.tables import text_table
from edgepose.core.timing import Latency, summarise
from edgepose.models import build_model

BACKBONE, DITN = "hrnet_w32", "ditn_hrnet_w32"
INPUT_SIZE = (256, 192)
BATCHES = (1, 8, 32)
DEVICE = "cuda"
TURNS = 10
#: The aim: the part of the backbone's time that DITN adds.
AIM = 0.04
#: Relative error (norms) of the heat-maps: on a CPU FP16 gives 1.4e-3, and BF16, whose significands are 3 bits shorter,
#: 1e-2.
TOLERANCE = 5e-3


@dataclass(frozen=True)
class Captured:
    """A network captured in a CUDA graph, which reads ``images`` and the network's weights in place.

    Attributes:
        images: (N, 3, H, W) float16, channels-last; to be filled before a replay.
        heatmaps: (N, J, H/4, W/4) float16, which a replay fills.
    """

    graph: Any
    network: nn.Module
    images: Tensor
    heatmaps: Tensor


def capture_network(model: str, batch: int) -> Captured:
    kind = {"device": DEVICE, "dtype": torch.float16, "memory_format": torch.channels_last}
    network = build_model(model, input_size=INPUT_SIZE).eval().to(**kind)
    images = torch.zeros(batch, 3, *INPUT_SIZE).to(**kind)
    graph, heatmaps = capture([partial(network, images)])
    return Captured(graph, network, images, heatmaps)


def check(captured: Captured, model: str, images: Tensor) -> float:
    """Return the relative error of a replay on ``images`` (N, 3, H, W) float32; the reference is eager FP32.

    Raises:
        CheckError: it is above :data:`TOLERANCE`.
    """
    captured.images.copy_(images)
    captured.graph.replay()
    want = build_model(model, input_size=INPUT_SIZE).eval().to(DEVICE)(images)
    error = float((captured.heatmaps.float() - want).norm() / want.norm())
    if not error <= TOLERANCE:
        raise CheckError(
            f"{model} at batch {len(images)}: the relative error of FP16 in a CUDA graph is {error:.1e}, "
            f"limit {TOLERANCE:.0e}"
        )
    return error


def take_turns(graphs: Mapping[str, Any]) -> dict[str, Latency]:
    """Time replays of each graph, in turns of short blocks, so that a slower GPU slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(TURNS):
        for name, graph in graphs.items():
            times[name] += replay_times(graph)
    return {name: summarise(samples) for name, samples in times.items()}


@torch.inference_mode()
def measure_batch(batch: int) -> dict[str, Any]:
    images = torch.randn(batch, 3, *INPUT_SIZE, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    captured = {model: capture_network(model, batch) for model in (BACKBONE, DITN)}
    errors = {model: check(network, model, images) for model, network in captured.items()}
    latency = take_turns({model: network.graph for model, network in captured.items()})
    return {
        "batch": batch,
        "ms": {model: asdict(times) for model, times in latency.items()},
        "ratio": latency[DITN].p50 / latency[BACKBONE].p50,
        "errors": errors,
    }


def table(rows: list[dict[str, Any]]) -> str:
    head = ["batch"]
    for model in (BACKBONE, DITN):
        head += [f"{model} ms", "p95", "FP16 error"]
    cells = []
    for row in rows:
        line = [str(row["batch"])]
        for model in (BACKBONE, DITN):
            times = row["ms"][model]
            line += [f"{times['p50']:.3f}", f"{times['p95']:.3f}", f"{row['errors'][model]:.1e}"]
        cells.append([*line, f"{row['ratio']:.3f}"])
    return text_table([*head, "ratio"], cells)


def excess(rows: list[dict[str, Any]]) -> list[str]:
    """Return a sentence for each batch at which the aim is missed."""
    return [
        f"batch {row['batch']}: {DITN} takes {row['ratio'] - 1:.1%} more than {BACKBONE}, aim {AIM:.0%}"
        for row in rows
        if row["ratio"] > 1 + AIM
    ]


def measure(options: argparse.Namespace) -> Outcome:
    if min(options.batches) < 1:
        raise UsageError(f"--batches must be 1 or more, got {min(options.batches)}")
    require_gpu()
    torch.backends.cudnn.benchmark = True  # the fastest algorithms for both
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # the reference is FP32
    rows = []
    for batch in options.batches:
        rows.append(measure_batch(batch))
        print(table(rows[-1:]), file=sys.stderr, flush=True)  # an interrupted run leaves these lines
    gpu = torch.cuda.get_device_name()
    figures = {
        "gpu": gpu,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "input_size": INPUT_SIZE,
        "aim": AIM,
        "tolerance": TOLERANCE,
        "rows": rows,
    }
    return Outcome(f"{gpu}\n{table(rows)}", figures, excess(rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="default: 1 8 32")
    return run_benchmark(parser, measure)


if __name__ == "__main__":
    raise SystemExit(main())

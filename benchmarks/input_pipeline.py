"""How many augmented training samples per second does the loader make, and what limits it?

Every sample is read from its JPEG file (no cache), rotated, scaled, mirrored, recoloured and cropped to 256x192,
and gets its joint, bone and segmentation targets. The rates are those of the training's own loader, read by a process
that does nothing else. The stages are timed inside that loader's data set, in CPU time of one thread, which other
programs disturb least; what a batch costs on its way to the training is measured with samples that were made before.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import chain, count, islice
from multiprocessing import active_children
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import torch
from common import Outcome, run_benchmark
from torch.utils.data import DataLoader, Dataset, default_collate

from edgepose.core.tables import text_table
from edgepose.core.timing import Latency, summarise
from edgepose.data import load_data
from edgepose.train import loader as loading
from edgepose.train.augment import Augmentation
from edgepose.train.loader import PoseDataset, make_loader
from edgepose.train.recipes import Recipe, get_recipe

#: Samples per second with two workers on two cores.
PROMISE = 250.0
#: Steps for a sample, and the function of the loader for each.
STAGES: dict[str, tuple[Any, str]] = {
    "read and decode JPEG": (loading, "read_image"),
    "warp": (loading, "warp_crop"),
    "colour": (Augmentation, "recolour"),
    "joint targets": (loading, "encode_joints"),
    "bone targets": (loading, "encode_bones"),
    "segmentation target": (loading, "encode_segmentation"),
}


class ReadyDataset(Dataset):
    """A data set that repeats one sample made before, so that its loader only collates and transports."""

    def __init__(self, sample: dict[str, torch.Tensor], length: int) -> None:
        self.sample, self.length = sample, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, _: int) -> dict[str, torch.Tensor]:
        return self.sample


def stage_times(dataset: PoseDataset, samples: int) -> dict[str, Latency]:
    """Return milliseconds of CPU time per sample, by stage and in total."""
    times: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.thread_time()
            result = function(*arguments)
            times[name].append(1e3 * (time.thread_time() - start))
            return result

        return call

    cv2.setNumThreads(1)
    with ExitStack() as stack:
        for name, (owner, attribute) in STAGES.items():
            stack.enter_context(patch.object(owner, attribute, timed(name, getattr(owner, attribute))))
        whole = timed("in all", dataset.__getitem__)
        for index in range(samples):
            whole((0, index % len(dataset)))
    rest = [all_ - sum(parts) for all_, *parts in zip(times["in all"], *(times[name] for name in STAGES), strict=True)]
    whole_times = times.pop("in all")
    return {name: summarise(values) for name, values in {**times, "the rest": rest, "in all": whole_times}.items()}


@dataclass(frozen=True)
class Rate:
    """The speed of a loader.

    Attributes:
        workers: number of processes that make batches; 0 for this one.
        per_second: samples per second of wall-clock time.
        cpu_ms: milliseconds of CPU time per sample, of the workers and this process together.
        cores: average number of cores that they used.
    """

    workers: int
    per_second: float
    cpu_ms: float
    cores: float


def measure_rate(loader: DataLoader, batch: int, seconds: float) -> Rate:
    """Measure a loader that is read repeatedly, after its workers have started."""
    batches = chain.from_iterable(loader for _ in count())
    for _ in islice(batches, 4 * max(1, loader.num_workers)):  # batches that were made while the workers started
        pass
    start, busy, taken = time.perf_counter(), cpu_seconds(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        taken += batch
    elapsed, busy = time.perf_counter() - start, cpu_seconds() - busy
    return Rate(loader.num_workers, taken / elapsed, 1e3 * busy / taken, busy / elapsed)


def cpu_seconds() -> float:
    """Return the CPU time of this process and its workers so far, in seconds (Linux)."""
    processes = [os.getpid(), *(child.pid for child in active_children())]
    fields = [Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split() for process in processes]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def transport_times(dataset: PoseDataset, recipe: Recipe, seconds: float) -> dict[str, float]:
    """Return milliseconds of CPU time per sample for making a batch, without and with its transport from a worker."""
    sample = dataset[0, 0]
    start, repeats = time.thread_time(), 20
    for _ in range(repeats):
        default_collate([sample] * recipe.batch)
    collate = 1e3 * (time.thread_time() - start) / repeats / recipe.batch
    ready = ReadyDataset(sample, 100 * recipe.batch)
    loader = DataLoader(ready, recipe.batch, num_workers=1, multiprocessing_context="spawn", persistent_workers=True)
    return {"collate": collate, "collate and transport": measure_rate(loader, recipe.batch, seconds).cpu_ms}


def measure(options: argparse.Namespace) -> Outcome:
    data = load_data(options.data, "train")
    recipe = get_recipe("ditn_lite_lsp", {"batch": "32", "skeleton": data.skeleton})
    dataset = PoseDataset(data.samples, recipe)
    stages, transport = stage_times(dataset, options.samples), transport_times(dataset, recipe, options.seconds / 2)
    rates = [
        measure_rate(make_loader(dataset, workers)[0], recipe.batch, options.seconds)
        for workers in sorted({0, 1, options.workers})
    ]
    kilobytes = sum(tensor.nbytes for tensor in dataset[0, 0].values()) / 1e3
    rows = [(name, f"{t.p50:.3f}", f"{t.p95:.3f}", f"{t.p50 / stages['in all'].p50:.0%}") for name, t in stages.items()]
    cells = [(str(r.workers), f"{r.per_second:.0f}", f"{r.cpu_ms:.2f}", f"{r.cores:.2f}") for r in rates]
    text = [
        text_table(("stage, one thread", "p50 ms", "p95 ms", "share"), rows),
        "",
        *(f"{name}: {ms:.3f} ms per sample of {kilobytes:.0f} kB" for name, ms in transport.items()),
        "",
        text_table(("workers", "samples/s", "CPU ms per sample", "cores they got"), cells),
    ]
    got = next(rate for rate in rates if rate.workers == options.workers)
    short = f"{got.per_second:.0f} samples/s with {got.cores:.2f} cores, the promise is {PROMISE:.0f} with 2"
    figures = {
        "rates": [asdict(rate) for rate in rates],
        "promise": PROMISE,
        "stages_ms": {name: asdict(latency) for name, latency in stages.items()},
        "per_sample_ms": transport,
        "sample_kilobytes": kilobytes,
    }
    return Outcome("\n".join(text), figures, [short] if got.per_second < PROMISE else [])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="KIND:ROOT of the training pictures")
    parser.add_argument("--workers", type=int, default=2, help="of the promised rate (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=15.0, help="to measure each rate for (default %(default)s)")
    parser.add_argument("--samples", type=int, default=1000, help="to time the stages of (default %(default)s)")
    return run_benchmark(parser, measure)


if __name__ == "__main__":
    raise SystemExit(main())

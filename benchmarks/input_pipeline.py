"""How many augmented training samples per second does the loader make, and what limits it?

Every sample is read from its JPEG file (no cache), turned, scaled, mirrored, recoloured and cropped to 256x192,
and gets its joint, bone and segmentation targets. The rates are those of the training's own loader, read by a process
that does nothing else. The stages are timed inside that loader's data set, in CPU time of one thread, which other
programs disturb least; what a batch costs on its way to the training is measured with samples that were made before.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from itertools import chain, count, islice
from typing import Any
from unittest.mock import patch

import cv2
import torch
from common import Outcome, run_benchmark
from torch.utils.data import DataLoader, Dataset, default_collate

from edgepose.bench import Latency, summarise
from edgepose.tables import text_table
from edgepose.train.data import load_data
from edgepose.train.data import loader as loading
from edgepose.train.data.augment import Augmentation
from edgepose.train.data.loader import PoseDataset, make_loader
from edgepose.train.recipes import Recipe, get_recipe

#: Samples per second with two workers on two cores.
PROMISE = 250.0
#: What happens to a sample, and the function of the loader that does it.
STAGES: dict[str, tuple[Any, str]] = {
    "read and decode JPEG": (loading, "read_image"),
    "warp": (loading, "warp_crop"),
    "colour": (Augmentation, "recolour"),
    "joint targets": (loading, "encode_joints"),
    "bone targets": (loading, "encode_bones"),
    "segmentation target": (loading, "encode_segmentation"),
}


class ReadyDataset(Dataset):
    """One sample, made before, again and again: its loader only collates and transports."""

    def __init__(self, sample: dict[str, torch.Tensor], length: int) -> None:
        self.sample, self.length = sample, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, _: int) -> dict[str, torch.Tensor]:
        return self.sample


def stage_times(dataset: PoseDataset, samples: int) -> dict[str, Latency]:
    """Milliseconds of CPU time per sample, by stage and in all."""
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


def rate(loader: DataLoader, batch: int, seconds: float) -> float:
    """Samples per second, once the workers run; the loader is read again and again."""
    batches = chain.from_iterable(loader for _ in count())
    for _ in islice(batches, 4 * max(1, loader.num_workers)):  # what was prefetched while the workers started
        pass
    start, taken = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        taken += batch
    return taken / (time.perf_counter() - start)


def transport_times(dataset: PoseDataset, recipe: Recipe, seconds: float) -> dict[str, float]:
    """Milliseconds per sample to make a batch of samples, and to bring it from a worker here (with making it)."""
    sample = dataset[0, 0]
    start, repeats = time.thread_time(), 20
    for _ in range(repeats):
        default_collate([sample] * recipe.batch)
    collate = 1e3 * (time.thread_time() - start) / repeats / recipe.batch
    ready = ReadyDataset(sample, 100 * recipe.batch)
    loader = DataLoader(ready, recipe.batch, num_workers=1, multiprocessing_context="spawn", persistent_workers=True)
    return {"collate": collate, "collate and transport, 1 worker": 1e3 / rate(loader, recipe.batch, seconds)}


def measure(options: argparse.Namespace) -> Outcome:
    data = load_data(options.data, "train")
    recipe = get_recipe("ditn_lite_lsp", {"batch": "32", "skeleton": data.skeleton})
    dataset = PoseDataset(data.samples, recipe)
    stages, transport = stage_times(dataset, options.samples), transport_times(dataset, recipe, options.seconds / 2)
    rates = {
        workers: rate(make_loader(dataset, workers)[0], recipe.batch, options.seconds)
        for workers in sorted({0, 1, options.workers})
    }
    bytes_ = sum(tensor.nbytes for tensor in dataset[0, 0].values())
    rows = [(name, f"{t.p50:.3f}", f"{t.p95:.3f}", f"{t.p50 / stages['in all'].p50:.0%}") for name, t in stages.items()]
    text = [text_table(("stage", "p50 ms", "p95 ms", "share"), rows), ""]
    text += [f"{name}: {ms:.3f} ms per sample of {bytes_ / 1e3:.0f} kB" for name, ms in transport.items()]
    text += [f"{workers} workers: {value:.0f} samples/s" for workers, value in rates.items()]
    got = rates[options.workers]
    excess = [f"{got:.0f} samples/s, the promise is {PROMISE:.0f}"] if got < PROMISE else []
    figures = {
        "samples_per_second": rates,
        "promise": PROMISE,
        "stages_ms": {name: vars(latency) for name, latency in stages.items()},
        "per_sample_ms": transport,
        "sample_bytes": bytes_,
    }
    return Outcome("\n".join(text), figures, excess)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="KIND:ROOT of the training pictures")
    parser.add_argument("--workers", type=int, default=2, help="of the promised rate (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=15.0, help="to measure each rate for (default %(default)s)")
    parser.add_argument("--samples", type=int, default=1000, help="to time the stages of (default %(default)s)")
    return run_benchmark(parser, measure)


if __name__ == "__main__":
    raise SystemExit(main())

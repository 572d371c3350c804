"""Does the exported graph give PyTorch's keypoints on real crops, or boxes on real pictures, at every batch size?

The bundle's checkpoint runs in PyTorch one crop at a time; the bundle's graph runs on the same crops in batches, with a
smaller last one. One file is used for all batches and both engines. A detector gets whole pictures, letterboxed.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
from common import Outcome, run_benchmark
from numpy.typing import NDArray

from edgepose.backends.plan import open_session
from edgepose.backends.session import Session
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.bundle.goldens import Figures, Goldens, compare, excess
from edgepose.bundle.tasks import PERSONS
from edgepose.core.errors import UsageError
from edgepose.core.geometry import crop_boxes
from edgepose.core.images import letterbox, read_image
from edgepose.core.tables import text_table
from edgepose.data import load_data
from edgepose.models.reference import make_goldens, reference_graph

ENGINES = ("onnxruntime", "openvino")
BATCHES = (1, 3, 16)


def read_crops(data: str, count: int, input_size: tuple[int, int], padding: float) -> NDArray[np.uint8]:
    """Return the crops of the first ``count`` persons of the test split, (N, H, W, 3) uint8 RGB."""
    samples = load_data(data, "val").samples[:count]
    if len(samples) < count:
        raise UsageError(f"{data} has {len(samples)} persons in its test split, expected {count} or more (--crops)")
    return np.concatenate([crop_boxes(read_image(s.image), s.box, input_size, padding)[0] for s in samples])


def read_pictures(data: str, count: int, input_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the first ``count`` pictures of the test split, letterboxed, (N, H, W, 3) uint8 RGB."""
    files = list(dict.fromkeys(sample.image for sample in load_data(data, "val").samples))[:count]
    if len(files) < count:
        raise UsageError(f"{data} has {len(files)} pictures in its test split, expected {count} or more (--crops)")
    return np.stack([letterbox(read_image(file), input_size) for file in files])


def pytorch_results(bundle: Bundle, data: str, count: int) -> Goldens:
    size = bundle.manifest.input_size
    if bundle.task is PERSONS:
        images = read_pictures(data, count, size)
    else:
        images = read_crops(data, count, size, bundle.manifest.crop_padding)
    return make_goldens(reference_graph(bundle), images, bundle.task)


def replay(session: Session, goldens: Goldens, batch: int) -> Figures:
    starts = range(0, len(goldens.images), batch)
    parts = [session.run({"images": goldens.images[start : start + batch]}) for start in starts]
    return compare(goldens, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def measure(options: argparse.Namespace) -> Outcome:
    bundle = open_bundle(options.bundle)
    manifest, task, limits = bundle.manifest, bundle.task, bundle.task.limits("fp32")
    goldens = pytorch_results(bundle, options.data, options.crops)
    rows: list[list[str]] = []
    figures, problems = [], []
    for engine in ENGINES:
        with closing(open_session(bundle, engine)) as session:
            for batch in BATCHES:
                found = replay(session, goldens, batch)
                figures.append({"engine": engine, "batch": batch, **asdict(found)})
                pixels = [f"{px:.3f}" for px in (found.p50, found.p99, found.largest)]
                rows.append([engine, str(batch), *pixels, f"{found.score_fraction:.1e}"])
                problem = excess(found, limits, task)
                problems += [f"{engine}, batch {batch}: {problem}"] if problem else []
    head = ("engine", "batch", "p50 px", "p99 px", "max px", f"{task.score} error, of range")
    known = {"bundle": manifest.name, "model": manifest.model, "trained": manifest.trained, "crops": options.crops}
    known |= {"limits": asdict(limits), "files": manifest.files}
    return Outcome(text_table(head, rows), {**known, "rows": figures}, problems)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder NAME.edgepose")
    parser.add_argument("--data", required=True, help="KIND:ROOT; its test split is used, only boxes are read")
    parser.add_argument("--crops", type=int, default=64, help="how many persons, or pictures (default %(default)s)")
    return run_benchmark(parser, measure)


if __name__ == "__main__":
    raise SystemExit(main())

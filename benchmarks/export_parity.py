"""Does the exported graph give PyTorch's keypoints on real crops, or boxes on real pictures, at every batch size?

The bundle's checkpoint runs in PyTorch one crop at a time; the bundle's graph runs on the same crops in batches, with a
smaller last one. One file is used for all batches and both engines. A detector gets whole pictures, letterboxed.

``--networks`` exports networks by name as well. Of most there are no trained weights at hand: theirs are random, as
large as keeps the spread of what passes a layer, with batch norms that know the crops, so that heat-maps have peaks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import RESULTS, Outcome, run_benchmark
from numpy.typing import NDArray

from edgepose.backends.plan import open_session
from edgepose.backends.session import Session
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.bundle.goldens import Figures, Goldens, compare, excess, read_goldens
from edgepose.bundle.limits import Limits
from edgepose.bundle.tasks import PERSONS
from edgepose.core.errors import UsageError
from edgepose.core.geometry import CROP_PADDING, crop_boxes
from edgepose.core.images import letterbox, read_image
from edgepose.core.tables import text_table
from edgepose.data import load_data
from edgepose.export.from_checkpoint import export
from edgepose.models.checkpoint import ModelSpec, save_checkpoint
from edgepose.models.reference import make_goldens, reference_graph

ENGINES = ("onnxruntime", "openvino")
BATCHES = (1, 3, 16)
#: Limit of the heat-maps' error for networks with random weights, of the range. Batch norms that know a few crops,
#: above all DITN's on pooled maps, enlarge rounding: PyTorch's own float32 is up to 1e-4 off its float64 there.
RANDOM_WEIGHTS = 1e-3
#: Joints and (height, width) of the networks of ``--networks``, and how many crops set their batch norms.
JOINTS, SIZE, SEEN = "coco17", (256, 192), 16


def read_crops(data: str, count: int, input_size: tuple[int, int], padding: float) -> NDArray[np.uint8]:
    """Return the crops of the first ``count`` persons of the test split, (N, H, W, 3) uint8 RGB."""
    samples = load_data(data, "val").samples[:count]
    if len(samples) < count:
        raise UsageError(f"{data} has {len(samples)} persons in its test split, expected {count} or more (--crops)")
    return np.concatenate([crop_boxes(read_image(s.image), s.box, input_size, padding)[0] for s in samples])


def with_random_weights(model: str, folder: Path, data: str) -> Bundle:
    """Export a network with the weights that the module's docstring tells of."""
    sys.path.append(str(RESULTS.parents[1]))
    from tests.doubles.lively import liven

    spec, path = ModelSpec(model, JOINTS, SIZE), folder / f"{model}.safetensors"
    crops = read_crops(data, SEEN, SIZE, CROP_PADDING)
    save_checkpoint(path, liven(spec.build(), crops), spec)
    return export(None, folder / f"{model}.edgepose", weights=path)


def bundles(options: argparse.Namespace) -> Iterator[Bundle]:
    if options.bundle is not None:
        yield open_bundle(options.bundle)
    for model in options.networks:
        with TemporaryDirectory() as folder:
            yield with_random_weights(model, Path(folder), options.data)


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
    found = make_goldens(reference_graph(bundle), images, bundle.task)
    given = {name: found.outputs[name] for name in read_goldens(bundle).outputs}  # PyTorch has DITN's bones, too
    return replace(found, outputs=given)


def replay(session: Session, goldens: Goldens, batch: int) -> Figures:
    starts = range(0, len(goldens.images), batch)
    parts = [session.run({"images": goldens.images[start : start + batch]}) for start in starts]
    return compare(goldens, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def compare_bundle(bundle: Bundle, limits: Limits, data: str, count: int) -> list[dict[str, Any]]:
    """Return one row per engine and batch size."""
    manifest = bundle.manifest
    goldens = pytorch_results(bundle, data, count)
    rows = []
    for engine in ENGINES:
        with closing(open_session(bundle, engine)) as session:
            for batch in BATCHES:
                found = replay(session, goldens, batch)
                figures = {**asdict(found), "excess": excess(found, limits, bundle.task)}
                rows.append({"bundle": manifest.name, "engine": engine, "batch": batch, **figures})
    return rows


def measure(options: argparse.Namespace) -> Outcome:
    known, rows = [], []
    for bundle in bundles(options):
        manifest, limits = bundle.manifest, bundle.task.limits("fp32")
        trained = bundle.path == options.bundle and manifest.trained
        if bundle.path != options.bundle:
            limits = replace(limits, score=RANDOM_WEIGHTS, why="random weights")
        about = {"bundle": manifest.name, "model": manifest.model, "files": manifest.files}
        known.append({**about, "trained": trained, "limits": asdict(limits)})
        rows += compare_bundle(bundle, limits, options.data, options.crops)
    cells = [
        [row["bundle"], row["engine"], str(row["batch"])]
        + [f"{row[key]:.3f}" for key in ("p50", "p99", "largest")]
        + [f"{row['score_fraction']:.1e}"]
        for row in rows
    ]
    head = ("bundle", "engine", "batch", "p50 px", "p99 px", "max px", "score error, of range")
    figures = {"bundles": known, "crops": options.crops, "rows": rows}
    problems = [f"{r['bundle']}, {r['engine']}, batch {r['batch']}: {r['excess']}" for r in rows if r["excess"]]
    return Outcome(text_table(head, cells), figures, problems)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="folder NAME.edgepose")
    parser.add_argument("--networks", nargs="*", default=[], metavar="NAME", help="also these, with random weights")
    parser.add_argument("--data", required=True, help="KIND:ROOT; its test split is used, only boxes are read")
    parser.add_argument("--crops", type=int, default=64, help="how many persons, or pictures (default %(default)s)")
    return run_benchmark(parser, measure)


if __name__ == "__main__":
    raise SystemExit(main())

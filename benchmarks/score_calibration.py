"""From which score on should a joint of the shipped model be drawn?

The score of a joint is the maximum of its heat-map. For bands of scores this prints the number of joints, and how
many of them are right (PCK@0.2 of the torso) on the test split. ``edgepose.runtime.track.CONFIDENT`` is based on it.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
from common import Outcome, run_benchmark
from numpy.typing import NDArray

from edgepose.accuracy.metrics import torso_size
from edgepose.accuracy.scoring import predict
from edgepose.backends.plan import open_session
from edgepose.bundle.bundle import open_bundle
from edgepose.core.tables import text_table
from edgepose.data import load_data

EDGES = (-np.inf, 0.2, 0.3, 0.4, 0.5, 0.6, np.inf)


def band_name(low: float, high: float) -> str:
    if np.isinf(low):
        return f"below {high:g}"
    return f"{low:g} and more" if np.isinf(high) else f"{low:g} to {high:g}"


def measure(options: argparse.Namespace) -> Outcome:
    bundle, samples = open_bundle(options.bundle), load_data(options.data, "val").samples
    size, skeleton = bundle.manifest.input_size, bundle.skeleton
    with closing(open_session(bundle, "onnxruntime")) as session:

        def heatmaps(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
            return session.run({"images": crops})["heatmaps"]

        found = predict(heatmaps, samples, skeleton, size, padding=bundle.manifest.crop_padding)
    joints, visible = np.stack([s.joints for s in samples]), np.stack([s.visible for s in samples])
    errors = np.linalg.norm(found[..., :2] - joints, axis=-1)[visible]
    right = errors <= (0.2 * np.repeat(torso_size(joints, skeleton)[:, None], joints.shape[1], 1))[visible]
    scores = found[..., 2][visible]
    bands = []
    for low, high in pairwise(EDGES):
        inside = (scores >= low) & (scores < high)
        share = 100 * float(inside.mean())
        bands.append((band_name(low, high), share, 100 * float(right[inside].mean()) if inside.any() else None))
    rows = [(name, f"{share:.0f}", "-" if hit is None else f"{hit:.0f}") for name, share, hit in bands]
    head = ("score", "share of the joints, %", "right (PCK@0.2), %")
    figures = [{"score": name, "share_percent": share, "right_percent": hit} for name, share, hit in bands]
    return Outcome(text_table(head, rows), {"bundle": bundle.manifest.name, "bands": figures})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder NAME.edgepose")
    parser.add_argument("--data", required=True, help="KIND:ROOT of a data set with a test split, such as lsp:lspet")
    return run_benchmark(parser, measure)


if __name__ == "__main__":
    raise SystemExit(main())

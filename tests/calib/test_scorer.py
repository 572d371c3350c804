"""Graphs are measured where they will run: on a CPU backend, or as an engine that is built for it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edgepose.backends.plan import choose, open_graph
from edgepose.bundle.bundle import Bundle
from edgepose.bundle.manifest import Manifest
from edgepose.calib import scorer as scorer_module
from edgepose.calib.scorer import PoseScorer, open_engine, open_on_cpu
from edgepose.core.errors import CheckError
from edgepose.core.skeletons import get_skeleton
from tests.doubles.pose_network import HEIGHT, JOINTS, WIDTH, pictures
from tests.doubles.quantisable import quantisable_model


def make_scorer(opened, count: int = 3) -> PoseScorer:
    fp32 = np.ones((count, JOINTS, 3), np.float32)
    return PoseScorer(pictures(count), fp32, opened, None, get_skeleton("lsp14"), (HEIGHT, WIDTH), 1.25)


def test_keypoints_are_those_of_the_graph_whatever_the_batch(tmp_path):
    scorer = make_scorer(lambda model: open_on_cpu("onnxruntime", model), count=19)
    onnx.save(quantisable_model(), tmp_path / "graph.onnx")
    session = open_graph(tmp_path / "graph.onnx")
    want = np.concatenate([session.run({"images": crop[None]})["keypoints"] for crop in scorer.crops])
    np.testing.assert_allclose(scorer.find(quantisable_model()), want, atol=1e-5)
    np.testing.assert_allclose(scorer.read(session, scorer.crops), want, atol=1e-5)
    assert scorer.latency(quantisable_model()) > 0


def test_labels_come_before_fp32():
    scorer = make_scorer(None)
    labels = scorer.fp32.copy()
    labels[..., :2] = 10.0
    labelled = replace(scorer, labels=labels)
    assert scorer.accuracy(scorer.fp32) == 100.0 and labelled.accuracy(scorer.fp32) < 100.0
    assert labelled.accuracy(labels) == 100.0 and labelled.agreement(scorer.fp32).ap == 100.0


def test_a_graph_that_gives_nan_is_refused():
    class Broken:
        def run(self, feeds):
            return {"keypoints": np.full((len(feeds["images"]), JOINTS, 3), np.nan, np.float32)}

    @contextmanager
    def opened(_):
        yield Broken()

    with pytest.raises(CheckError, match="NaN or infinity"):
        make_scorer(opened).find(quantisable_model())


def test_an_engine_is_built_of_the_candidate_and_run(tmp_path, monkeypatch):
    built = []

    def build(bundle, target, precision, options):
        model = onnx.load(bundle.graph_for(precision))
        built.append((target, precision, options.batches, len(model.graph.node), bundle.manifest.input_size))

    monkeypatch.setattr(scorer_module, "build_engine", build)
    monkeypatch.setattr(scorer_module, "choose", lambda opened, _, precision: choose(opened, "onnxruntime", precision))
    bundle = Bundle(tmp_path, Manifest("b", "none", "lsp14", (HEIGHT, WIDTH), files={"pose.onnx": "0" * 64}))
    with open_engine(bundle, "tensorrt", quantisable_model()) as session:
        assert session.run({"images": pictures(2)})["keypoints"].shape == (2, JOINTS, 3)
    assert built == [("tensorrt", "mixed", (1, 1, 8), len(quantisable_model().graph.node), (HEIGHT, WIDTH))]

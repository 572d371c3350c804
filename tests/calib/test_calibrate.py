"""``edgepose calibrate`` from crops to graphs, on the shipped bundle."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from edgepose.backends.plan import open_session
from edgepose.bundle.bundle import open_bundle
from edgepose.bundle.goldens import read_goldens
from edgepose.bundle.manifest import CALIBRATION
from edgepose.calib import SearchOptions, calibrate
from edgepose.calib.crops import CropSet
from edgepose.calib.scorer import PoseScorer
from edgepose.cli import main
from edgepose.core.errors import UsageError
from edgepose.demo import SHIPPED
from edgepose.graphs.calibration import Calibration, read_calibration
from edgepose.graphs.quantise import tensors_to_collect
from edgepose.graphs.variants import VARIANTS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def crops():
    """24 crops: the goldens, darker and mirrored ones."""
    images = read_goldens(open_bundle(SHIPPED)).images
    several = np.concatenate([images, images // 2, images[:, :, ::-1]])
    return CropSet(several, tuple(map(str, range(len(several)))))


@pytest.fixture
def bundle(tmp_path):
    return open_bundle(shutil.copytree(SHIPPED, tmp_path / "lite.edgepose"))


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory, crops):
    """The report of a calibration, made once."""
    path = shutil.copytree(SHIPPED, tmp_path_factory.mktemp("calibrated") / "lite.edgepose")
    return calibrate(open_bundle(path), crops, "percentile")


def test_the_bundle_gets_every_precision_and_the_ranges(calibrated):
    bundle = open_bundle(calibrated.bundle.path)
    assert bundle.precisions == ("fp32", *VARIANTS)
    model = onnx.load(bundle.graph)
    ranges = read_calibration(bundle.path / CALIBRATION, bundle.graph).ranges
    assert tuple(sorted(ranges)) == tensors_to_collect(model)
    assert not [path for path in bundle.path.iterdir() if path.name.startswith(".")]


def test_the_report_holds_what_was_measured(calibrated):
    by_precision = {variant.precision: variant for variant in calibrated.variants}
    assert (calibrated.calibrated, calibrated.judged) == (16, 8)
    exact = by_precision["fp32"].agreement
    assert (exact.ap, exact.identical, exact.moved) == (100.0, 100.0, 0.0)
    assert by_precision["fp16"].agreement.identical > 97
    assert 50 < by_precision["int8"].agreement.identical < 100
    assert by_precision["int8"].agreement.ap > 90
    assert by_precision["int8"].int8 == 88 and by_precision["bf16"].int8 == 0
    assert by_precision["int8"].megabytes < 0.4 * by_precision["fp32"].megabytes
    written = json.loads((calibrated.bundle.reports / "calibration.json").read_text())
    assert [row["precision"] for row in written["variants"]] == ["fp32", *VARIANTS]
    assert "int8+fp16" in str(calibrated) and written["search"] is None


def test_the_graphs_run_and_agree_with_the_report(calibrated, crops):
    judged = crops.images[16:]
    found = {}
    for precision in ("fp32", "int8"):
        session = open_session(calibrated.bundle, "onnxruntime", precision)
        found[precision] = session.run({"images": judged})["keypoints"]
        session.close()
    same = np.linalg.norm(found["int8"][..., :2] - found["fp32"][..., :2], axis=-1) < 0.05
    int8 = next(variant for variant in calibrated.variants if variant.precision == "int8")
    assert 100 * same.mean() == pytest.approx(int8.agreement.identical, abs=1)


def test_labels_judge_where_there_are_any(bundle, crops):
    labels = np.random.default_rng(0).uniform(0, 190, (len(crops.images), 14, 3)).astype(np.float32)
    labels[..., 2] = 1
    report = calibrate(bundle, replace(crops, labels=labels), "minmax")
    assert all(variant.accuracy is not None and variant.accuracy < 30 for variant in report.variants)


def test_ranges_are_used_again(calibrated, bundle, crops, monkeypatch):
    ranges = calibrated.bundle.path / CALIBRATION
    monkeypatch.setattr("edgepose.calib.collect", lambda *_, **__: pytest.fail("collected again"))
    report = calibrate(bundle, crops, "minmax", calibration=ranges)
    assert report.method == "percentile"
    name = "pose.int8.onnx"
    assert report.bundle.manifest.files[name] == calibrated.bundle.manifest.files[name]


def test_a_search_makes_the_mixed_graph_and_goes_on_where_it_was(bundle, crops):
    search = SearchOptions(max_drop=100, backend="onnxruntime", minutes=0.05)
    report = calibrate(bundle, crops, "minmax", search=search)
    assert not report.search.finished and report.bundle.precisions[-1] == "mixed"
    first = len(json.loads((bundle.reports / "search-figures.json").read_text())["figures"])
    calibrate(open_bundle(bundle.path), crops, "minmax", search=search)
    assert len(json.loads((bundle.reports / "search-figures.json").read_text())["figures"]) > first
    assert open_session(open_bundle(bundle.path), "onnxruntime").run({"images": crops.images[:1]})["keypoints"].shape


def test_the_command_takes_pictures_and_draws_the_front(bundle, crops, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    cv2 = pytest.importorskip("cv2")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, crop in enumerate(crops.images):
        cv2.imwrite(str(folder / f"{i}.png"), crop)
    options = ["--detector", "none", "--max-drop", "5", "--backend", "onnxruntime", "--time-limit", "0.02"]
    assert main(["calibrate", str(bundle.path), "--images", str(folder), *options]) == 0
    printed = capsys.readouterr().out
    assert "24 crops: 16 set the ranges (mse), accuracy is measured on 8" in printed and "pareto.png" in printed
    assert (bundle.reports / "pareto.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "either --images DIR, or --data KIND:ROOT"),
        (["--images", ".", "--data", "lsp:."], "either --images DIR, or --data KIND:ROOT"),
        (["--images", "nowhere"], "nowhere does not exist"),
        (["--images", ".", "--max-drop", "-1"], "the largest drop is -1 points of accuracy, expected 0 to 100"),
        (["--images", ".", "--max-drop", "nan"], "the largest drop is nan points of accuracy, expected 0 to 100"),
        (["--images", ".", "--max-drop", "1", "--backend", "tpu"], "unknown backend 'tpu'"),
        (
            ["--images", ".", "--max-drop", "1", "--backend", "torch"],
            "a backend that runs graphs or engines, got torch",
        ),
        (["--images", ".", "--max-drop", "1", "--backend", "tensorrt-rtx"], "tensorrt-rtx, which cannot run here: "),
        (
            ["--images", ".", "--max-drop", "1", "--time-limit", "0"],
            "the time limit is 0 minutes, expected more than 0",
        ),
    ],
)
def test_wrong_options_are_one_sentence(bundle, options, sentence, capsys):
    assert main(["calibrate", str(bundle.path), *options]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_a_failure_leaves_the_bundle_as_it_was(bundle, crops, monkeypatch):
    before = {path.name: path.read_bytes() for path in bundle.path.iterdir() if path.is_file()}

    def full(*_):
        raise UsageError("cannot write: No space left on device")

    monkeypatch.setattr("edgepose.calib.replace_files", full)
    with pytest.raises(UsageError, match="No space left"):
        calibrate(bundle, crops, "minmax")
    assert {path.name: path.read_bytes() for path in bundle.path.iterdir() if path.is_file()} == before


def test_a_full_disk_is_one_sentence(bundle, crops, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(onnx, "save", full)
    monkeypatch.setattr("edgepose.calib.scan", lambda *_, **__: {})
    monkeypatch.setattr("edgepose.calib.collect", lambda *_, **__: Calibration({}, "minmax", "", ()))
    monkeypatch.setattr("edgepose.calib.make_graph", lambda model, *_: model)
    monkeypatch.setattr(PoseScorer, "find", lambda scorer, _: scorer.fp32)
    with pytest.raises(UsageError, match=r"cannot write .*pose.fp16.onnx: No space left on device"):
        calibrate(bundle, crops, "minmax")
    assert open_bundle(bundle.path).precisions == ("fp32",)


def test_a_calibration_of_another_graph_is_refused(calibrated, bundle, crops):
    graph = onnx.load(bundle.graph)
    graph.producer_name = "somebody else"
    onnx.save(graph, bundle.graph)
    with pytest.raises(UsageError, match="was made for another graph"):
        calibrate(bundle.with_files(bundle.graph), crops, "minmax", calibration=calibrated.bundle.path / CALIBRATION)

"""A detector's file becomes a bundle that gives what the file gives, and is taken wherever a bundle is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxsim")
pytest.importorskip("skimage")

import cv2
from onnx import numpy_helper, parser

from edgepose.backends.plan import open_session
from edgepose.bundle.bundle import Bundle, open_bundle
from edgepose.bundle.goldens import read_goldens
from edgepose.bundle.manifest import GOLDENS
from edgepose.cli import main
from edgepose.core.boxes import find_persons
from edgepose.core.errors import CheckError, UsageError
from edgepose.core.images import letterbox
from edgepose.demo import SHIPPED
from edgepose.detectors.kinds import open_detector
from edgepose.detectors.yolox import decode_yolox, yolox_cells
from edgepose.export import wrap
from edgepose.export.from_onnx import import_detector
from edgepose.runtime.run import run
from edgepose.verify import verify
from tests.doubles.variants import with_variants

CPU = ("onnxruntime", "openvino")
HEIGHT, WIDTH = 64, 96
#: YOLOX in small, as its authors export it: opset 11, a batch of one that is written into every shape.
YOLOX = """
<ir_version: 7, opset_import: ["": 11]>
yolox (float[1, 3, 64, 96] images) => (float[1, 126, 8] output)
<int64[3] shape = {{{batch}, 8, -1}}>
{{
    [a] eighth = Conv <strides = [8, 8]> (images, kernel_a)
    [b] sixteenth = Conv <strides = [16, 16]> (images, kernel_b)
    [c] thirty_second = Conv <strides = [32, 32]> (images, kernel_c)
    flat_a = Reshape (eighth, shape)
    flat_b = Reshape (sixteenth, shape)
    flat_c = Reshape (thirty_second, shape)
    all = Concat <axis = 2> (flat_a, flat_b, flat_c)
    raw = Transpose <perm = [0, 2, 1]> (all)
    output = Tanh (raw)
}}
"""


def write_yolox(path: Path, batch: int = 1) -> Path:
    random = np.random.default_rng(0)
    model = parser.parse_model(YOLOX.format(batch=batch))
    for name, side in (("kernel_a", 8), ("kernel_b", 16), ("kernel_c", 32)):
        kernel = random.normal(size=(8, 3, side, side)).astype(np.float32) / (60 * side)
        model.graph.initializer.append(numpy_helper.from_array(kernel, name))
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the shipped detector."""
    return import_detector("person_lite", tmp_path_factory.mktemp("imported") / "lite.edgepose").path


@pytest.fixture(scope="module")
def variants(lite: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same, with a graph of every precision."""
    return with_variants(open_bundle(shutil.copytree(lite, tmp_path_factory.mktemp("variants") / "lite.edgepose")))


def test_the_bundle_says_what_it_is(lite: Path) -> None:
    bundle = open_bundle(lite)
    manifest = bundle.manifest
    assert (manifest.name, manifest.model, manifest.decode, manifest.skeleton) == ("lite", "peaks", "boxes", "")
    assert (manifest.input_size, manifest.options) == ((384, 384), {"boxes": 100})
    assert sorted(manifest.files) == ["detector.onnx", GOLDENS]
    assert read_goldens(bundle).images.shape == (8, 384, 384, 3)
    assert sorted(path.name for path in lite.iterdir()) == ["detector.onnx", GOLDENS, "manifest.json"]


def test_the_goldens_are_what_the_file_gives(lite: Path) -> None:
    goldens = read_goldens(open_bundle(lite))
    detector = open_detector("person_lite", threshold=0.4)
    for i in (0, 1, 4, 5):  # in these nobody stands at the border, where the runtime cuts boxes first
        boxes, scores = find_persons(goldens.outputs["boxes"][i], goldens.outputs["scores"][i], 0.4)
        found = detector(goldens.images[i])
        assert len(found.scores) >= 1
        np.testing.assert_allclose(found.scores, scores, atol=1e-6)
        np.testing.assert_allclose(found.boxes, boxes.clip(0, 384), atol=1e-3)
    detector.close()


def test_a_yolox_of_one_picture_becomes_a_graph_of_any_batch(tmp_path: Path) -> None:
    file = write_yolox(tmp_path / "yolox.onnx")
    bundle = import_detector(file, tmp_path / "yolox.edgepose")
    assert (bundle.manifest.model, bundle.manifest.options) == ("yolox", {"boxes": 126})
    pictures = np.random.default_rng(1).integers(0, 256, (5, HEIGHT, WIDTH, 3), dtype=np.uint8)
    session = open_session(bundle, "onnxruntime")
    got = session.run({"images": pictures})
    session.close()
    from onnxruntime import InferenceSession

    original = InferenceSession(file, providers=["CPUExecutionProvider"])
    for i, picture in enumerate(pictures):
        bgr = picture[None, ..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
        (raw,) = original.run(None, {"images": bgr})
        boxes, scores = decode_yolox(raw[0], yolox_cells((HEIGHT, WIDTH)), -np.inf)
        np.testing.assert_allclose(got["scores"][i], scores, atol=1e-6)
        np.testing.assert_allclose(got["boxes"][i], boxes, atol=1e-3)
    # By hand: the first cell of the coarsest grid begins at 0, 0 and is 32 pixels wide.
    x, y, w, h, certain, person = raw[0, 120, :6]
    assert got["scores"][4, 120] == pytest.approx(certain * person, abs=1e-6)
    left, bottom = 32 * (x - np.exp(w) / 2), 32 * (y + np.exp(h) / 2)
    np.testing.assert_allclose(got["boxes"][4, 120, [0, 3]], [left, bottom], atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "int8+fp16"])
def test_every_precision_passes_verify_on_both_cpu_engines(variants: Bundle, precision: str) -> None:
    pytest.importorskip("openvino")
    report = verify(variants, ("openvino",) if precision == "bf16" else CPU, (precision,))
    assert report.passed, str(report)
    # These pictures set the ranges, so INT8 is far from the limit.
    assert max(check.figures.score_fraction for check in report.checks if check.figures) < 0.1


@pytest.mark.slow
def test_decoding_and_the_last_convolutions_stay_fp32(variants: Bundle) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(variants.graph_for("fp16")))
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    exact = {node.name for node in convolutions if kinds[node.output[0]] == onnx.TensorProto.FLOAT}
    assert len(convolutions) == 28 and len(exact) == 6  # score and sides of three grids
    assert all(
        kinds[n.output[0]] == onnx.TensorProto.FLOAT for n in model.graph.node if n.op_type in ("Exp", "Sigmoid")
    )


@pytest.mark.slow
def test_an_engine_is_built_like_any_other(variants: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = shutil.copytree(variants.path, tmp_path / "lite.edgepose")
    assert main(["build", str(path), "--target", "tensorrt-rtx", "--precision", "fp32,int8+fp16"]) == 0
    assert [engine.name.rsplit("-", 1)[1] for engine in open_bundle(path).engines()] == [
        "fp32.engine",
        "int8+fp16.engine",
    ]


def test_the_runtime_takes_the_bundle_for_the_file(lite: Path) -> None:
    picture = read_goldens(open_bundle(lite)).images[4]
    found = []
    for source in ("person_lite", lite):
        detector = open_detector(source)
        found.append(detector(picture))
        detector.close()
    assert len(found[0].boxes) >= 1
    np.testing.assert_allclose(found[1].boxes, found[0].boxes, atol=1e-3)
    np.testing.assert_allclose(found[1].scores, found[0].scores, atol=1e-6)


@pytest.mark.parametrize(
    ("detector", "asked", "engine"),
    [("lite", ("openvino", "auto"), "openvino fp32"), ("person_lite", ("auto", "auto"), "onnxruntime")],
)
def test_a_run_says_what_ran_the_detector(
    lite: Path, tmp_path: Path, detector: str, asked: tuple[str, str], engine: str
) -> None:
    pytest.importorskip("openvino")
    cv2.imwrite(str(tmp_path / "photo.png"), read_goldens(open_bundle(lite)).images[4][..., ::-1])
    backend, precision = asked
    source = lite if detector == "lite" else detector
    options = {"detector": source, "detector_backend": backend, "detector_precision": precision}
    summary = run(SHIPPED, str(tmp_path / "photo.png"), backend="onnxruntime", **options)
    assert (summary.frames, summary.detector) == (1, engine) and summary.people >= 1
    assert str(summary).splitlines()[0].endswith(f", onnxruntime fp32, detector {engine}")


def test_a_precision_that_the_detector_lacks_is_refused(lite: Path) -> None:
    with pytest.raises(UsageError, match=r"lite.edgepose has no int8 graph, only fp32; make it with: edgepose calibr"):
        open_detector(lite, precision="int8")


@pytest.mark.slow
def test_calibrate_judges_by_fp32s_persons(lite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools")
    path, folder = shutil.copytree(lite, tmp_path / "lite.edgepose"), tmp_path / "pictures"
    folder.mkdir()
    for i, picture in enumerate(read_goldens(open_bundle(lite)).images):
        for j, view in enumerate((picture, picture // 2 + 60, picture[:, 40:])):
            cv2.imwrite(str(folder / f"{i}{j}.png"), view[..., ::-1])
    options = ["--max-drop", "50", "--backend", "onnxruntime", "--time-limit", "0.01"]
    assert main(["calibrate", str(path), "--images", str(folder), *options]) == 0
    printed = capsys.readouterr().out
    assert "24 pictures: 16 set the ranges (mse), accuracy is measured on 8" in printed and "chosen: " in printed
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if line.startswith(("fp", "int8"))}
    assert rows["fp32"][3] == "100.00" and float(rows["fp16"][3]) > 99 and float(rows["int8"][3]) > 90
    assert open_bundle(path).precisions == ("fp32", "fp16", "bf16", "int8", "int8+fp16", "mixed")


def test_a_detector_is_calibrated_on_whole_pictures(lite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(lite), "--data", "lsp:nowhere"]) == 2
    assert "holds a detector, which calibrates on whole pictures: give --images DIR" in capsys.readouterr().err


def test_what_wants_a_pose_network_refuses_it(lite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["run", str(lite), "--source", "x.jpg"], ["verify", str(lite), "--data", "lsp:nowhere"]):
        assert main(arguments) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert second == f"edgepose: bundle {lite} holds a person detector: expected a pose network"
    assert first  # the source is looked for first


def test_the_command_says_where_the_bundle_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_yolox(tmp_path / "yolox.onnx")
    assert main(["import", str(file), "--decode", "detector", "-o", str(tmp_path / "y.edgepose")]) == 0
    assert capsys.readouterr().out == f"bundle: {tmp_path / 'y.edgepose'}\n"
    assert verify(open_bundle(tmp_path / "y.edgepose"), ("onnxruntime",)).passed


def test_what_exporters_wrote_in_early_versions_is_read(tmp_path: Path) -> None:
    """Weights listed as inputs, and a constant node that holds its shape as a list."""
    model = onnx.load(write_yolox(tmp_path / "yolox.onnx"))
    model = onnx.version_converter.convert_version(model, 12)
    for weight in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    old = next(weight for weight in model.graph.initializer if weight.name == "shape")
    model.graph.initializer.remove(old)
    inputs = [value for value in model.graph.input if value.name != "shape"]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["shape"], value_ints=[1, 8, -1]))
    onnx.save(model, tmp_path / "old.onnx")
    made = [import_detector(tmp_path / f"{name}.onnx", tmp_path / f"{name}.edgepose") for name in ("yolox", "old")]
    wanted, got = (read_goldens(bundle).outputs for bundle in made)
    np.testing.assert_allclose(got["boxes"], wanted["boxes"], atol=1e-4)


@pytest.mark.parametrize(
    ("scale", "sentence"),
    [
        (np.nan, "gives NaN or infinity: check its weights"),
        (0.0, r"finds no person in photos of two \(best score 0, expected 0.4\): expected a YOLOX of BGR"),
    ],
)
def test_files_that_prove_nothing_are_refused(tmp_path: Path, scale: float, sentence: str) -> None:
    file = write_yolox(tmp_path / "yolox.onnx")
    model = onnx.load(file)
    for weight in model.graph.initializer:
        if weight.name.startswith("kernel"):
            changed = numpy_helper.to_array(weight) * np.float32(scale)
            weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    onnx.save(model, file)
    with pytest.raises(UsageError, match=sentence):
        import_detector(file, tmp_path / "x.edgepose")
    assert not (tmp_path / "x.edgepose").exists()


def test_a_folder_is_no_file(lite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"lite.edgepose is a folder: expected the ONNX file of a detector"):
        import_detector(lite, tmp_path / "x.edgepose")
    (tmp_path / "person_lite").mkdir()  # is not taken for the detector that is shipped
    monkeypatch.chdir(tmp_path)
    open_detector("person_lite").close()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "does not exist"),
        (b"", "is not an ONNX graph"),
        (b"no graph", "is not an ONNX graph"),
    ],
)
def test_files_that_are_no_graphs(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    file = tmp_path / "detector.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        import_detector(file, tmp_path / "x.edgepose")
    assert [path.name for path in tmp_path.iterdir() if path != file] == []


def test_other_networks_are_told_what_is_expected(tmp_path: Path) -> None:
    model = parser.parse_model(
        '<ir_version: 7, opset_import: ["": 13]> net (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) { y = Relu (x) }'
    )
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(UsageError, match=r"expected YOLOX: input float32 \(1, 3, h, w\)"):
        import_detector(tmp_path / "net.onnx", tmp_path / "x.edgepose")


def test_a_batch_that_cannot_be_freed_is_one_sentence(tmp_path: Path) -> None:
    text = YOLOX.format(batch=1).replace(
        "output = Tanh (raw)",
        """bounded = Tanh (raw)
    folded = Reshape (bounded, pairs)
    again = Tanh (folded)
    output = Reshape (again, whole)""",
    )
    model = parser.parse_model(text)
    model.graph.initializer.extend(onnx.load(write_yolox(tmp_path / "yolox.onnx")).graph.initializer)
    for name, value in (("pairs", [63, 16]), ("whole", [1, 126, 8])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    del model.graph.initializer[0]  # the text has a shape of its own
    onnx.save(model, file := tmp_path / "stiff.onnx")
    with pytest.raises(UsageError, match="takes one picture per call, and cannot be changed to take more"):
        import_detector(file, tmp_path / "x.edgepose")
    assert not (tmp_path / "x.edgepose").exists()


def test_only_bundles_are_replaced(tmp_path: Path, lite: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    with pytest.raises(UsageError, match="exists and is not a bundle: give another -o"):
        import_detector("person_lite", tmp_path / "mine")
    (tmp_path / "mine" / "manifest.json").write_text('{"name": "a web app"}')
    with pytest.raises(UsageError, match="exists and is not a bundle: give another -o"):
        import_detector("person_lite", tmp_path / "mine")
    assert (tmp_path / "mine" / "file").read_text() == "precious"
    copy = shutil.copytree(lite, tmp_path / "lite.edgepose")
    (copy / "detector.int8.onnx").write_bytes(b"of another network")
    (copy / "mine.onnx").write_bytes(b"precious")
    import_detector(write_yolox(tmp_path / "yolox.onnx"), copy)
    assert sorted(path.name for path in copy.iterdir()) == ["detector.onnx", GOLDENS, "manifest.json", "mine.onnx"]


def test_a_pose_bundle_is_not_replaced(tmp_path: Path) -> None:
    pose = shutil.copytree(SHIPPED, tmp_path / "pose.edgepose")
    with pytest.raises(UsageError, match="is a bundle of a pose network: give another -o"):
        import_detector("person_lite", pose)
    assert open_bundle(pose).manifest == open_bundle(SHIPPED).manifest


def test_a_graph_that_differs_from_its_file_is_no_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_yolox(tmp_path / "yolox.onnx")
    exchanged = wrap._BGR_PLANES.replace("Gather <axis = 1> (rgb, bgr)", "Identity (rgb)")
    monkeypatch.setattr(wrap, "_BGR_PLANES", exchanged)
    monkeypatch.setattr("edgepose.bundle.tasks.PERSON_SCORE", 0.01)
    with pytest.raises(CheckError, match="does not find the same persons as the file: the score error"):
        import_detector(file, tmp_path / "x.edgepose")
    assert not (tmp_path / "x.edgepose").exists()


@pytest.mark.slow
def test_real_yolox_is_imported(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    bundle = import_detector(shared / "data/models/yolox_nano/yolox_nano.onnx", tmp_path / "nano.edgepose")
    golden = read_goldens(bundle).outputs
    persons = [len(find_persons(*pair, 0.5)[0]) for pair in zip(golden["boxes"], golden["scores"], strict=True)]
    assert persons[0] == persons[2] == 1 and persons[5] == 2 and persons[6] >= 10  # one photo, two, and many
    report = verify(bundle, CPU)
    assert report.passed, str(report)
    picture = letterbox(read_goldens(bundle).images[4], (200, 200))
    assert len(open_detector(bundle.path)(picture).boxes) == 2

"""Bone and segmentation maps as further outputs of a bundle: by value in every engine, in verify, in eval."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
for name in ("onnx", "onnxscript", "onnxsim", "onnxruntime", "skimage"):
    pytest.importorskip(name)

from edgepose.backends.plan import open_session
from edgepose.bundle.bundle import open_bundle, replace_files
from edgepose.bundle.goldens import Goldens, not_finite, read_goldens
from edgepose.core.errors import UsageError
from edgepose.core.geometry import crop_boxes
from edgepose.core.images import read_image
from edgepose.core.pictures import draw_maps
from edgepose.evaluate import evaluate
from edgepose.export.from_checkpoint import export, golden_crops
from edgepose.export.to_onnx import export_graph
from edgepose.models import build_model
from edgepose.models.checkpoint import ModelSpec, load_weights
from edgepose.models.pose_graph import PoseGraph, normalise
from edgepose.runtime.pose import load
from edgepose.verify import verify
from tests.doubles.made_once import made_once
from tests.doubles.small_lsp import make_lsp

SIZE = (64, 64)


@pytest.fixture(scope="module")
def with_bones(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """The bundle of the small checkpoint with bone maps. Read only."""

    def make(folder: Path) -> None:
        export(None, folder / "bones.edgepose", weights=checkpoint, with_bones=True)

    return made_once("with-bones", make, tmp_path_factory, pytestconfig) / "bones.edgepose"


def bone_maps(path: Path, crops: np.ndarray) -> np.ndarray:
    """What the bone decoder makes of the backbone's features, module by module."""
    network = ModelSpec("ditn_lite", "lsp14", SIZE).build().eval()
    load_weights(network, path / "checkpoint.safetensors")
    with torch.inference_mode():
        return network.bone_decoder(network.backbone(normalise(torch.from_numpy(crops)))).numpy()


# --- the graph ---


def test_ditn_s_graph_gives_what_its_bone_decoder_makes(checkpoint: Path) -> None:
    network = ModelSpec("ditn_lite", "lsp14", SIZE).build()
    load_weights(network, checkpoint)
    crops = torch.from_numpy(golden_crops(SIZE))
    plain, graph = PoseGraph(network).eval(), PoseGraph(network, with_maps=True).eval()
    assert (plain.outputs, graph.outputs) == (("keypoints", "heatmaps"), ("keypoints", "heatmaps", "bones"))
    with torch.inference_mode():
        wanted = network.bone_decoder(network.backbone(normalise(crops)))
        keypoints, heatmaps, bones = graph(crops)
        torch.testing.assert_close(bones, wanted)
        assert bones.shape == (8, 13, 16, 16) and float(bones.std()) > 0.01
        for got, same in zip((keypoints, heatmaps), plain(crops), strict=True):
            torch.testing.assert_close(got, same, rtol=0, atol=0)
    assert not any(module.training for module in network.modules())


def test_sg_hrnet_s_graph_gives_the_maps_of_its_guides(liven: Callable) -> None:
    network = liven(build_model("sg_hrnet_lite", skeleton="lsp14", input_size=SIZE), golden_crops(SIZE))
    seen: list[torch.Tensor] = []
    for guide in network.guides:
        guide.register_forward_hook(lambda _, __, output: seen.append(output))
    graph = PoseGraph(network, with_maps=True).eval()
    assert graph.outputs == ("keypoints", "heatmaps", "segmentation")
    with torch.inference_mode():
        maps = graph(torch.from_numpy(golden_crops(SIZE)))[2]
    assert maps.shape == (8, 4, 16, 16) and float(maps.min()) >= 0 and float(maps.max()) <= 1
    torch.testing.assert_close(maps, torch.cat(seen, dim=1))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hrnet_lite", {}),
        ("simplebaseline_lite", {}),
        ("ditn_lite", dict.fromkeys(("mtl", "ditm", "cab", "sab"), False)),
    ],
)
def test_a_network_without_such_maps_is_refused(tmp_path: Path, name: str, options: dict[str, bool]) -> None:
    assert PoseGraph(build_model(name, **options), with_maps=True).outputs == ("keypoints", "heatmaps")
    if not options:
        said = rf"^{name} makes no bone or segmentation maps: leave with_bones \(--with-bones\) out$"
        with pytest.raises(UsageError, match=said):
            export(name, tmp_path / "x.edgepose", input_size=SIZE, with_bones=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_segmentation_graph_runs_as_in_pytorch(liven: Callable, tmp_path: Path) -> None:
    from edgepose.backends.onnxruntime import OnnxRuntimeSession

    crops = golden_crops(SIZE)
    network = liven(build_model("sg_hrnet_lite", skeleton="lsp14", input_size=SIZE), crops)
    export_graph(network, SIZE, tmp_path / "pose.onnx", with_maps=True)
    session = OnnxRuntimeSession(tmp_path / "pose.onnx")
    assert [spec.name for spec in session.outputs] == ["keypoints", "heatmaps", "segmentation"]
    with torch.inference_mode():
        wanted = PoseGraph(network, with_maps=True).eval()(torch.from_numpy(crops))[2].numpy()
    got = session.run({"images": crops})["segmentation"]
    assert np.abs(got - wanted).max() <= 1e-4 * np.ptp(wanted)


# --- the bundle ---


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
def test_every_engine_gives_the_bones_of_the_goldens(with_bones: Path, backend: str) -> None:
    bundle = open_bundle(with_bones)
    goldens = read_goldens(bundle)
    assert list(goldens.outputs) == ["keypoints", "heatmaps", "bones"]
    wanted = bone_maps(with_bones, goldens.images)
    np.testing.assert_allclose(goldens.outputs["bones"], wanted, atol=1e-5 * np.ptp(wanted))
    session = open_session(bundle, backend)
    bundle.contract.refuse(session.inputs, session.outputs, remedy="", exact=backend == "onnxruntime")
    got = session.run({"images": goldens.images})["bones"]
    session.close()
    assert np.abs(got - goldens.outputs["bones"]).max() <= 1e-4 * np.ptp(goldens.outputs["bones"])


def test_poses_are_the_same_with_and_without_bones(with_bones: Path, exported: Path) -> None:
    crops = golden_crops(SIZE)
    found = []
    for path in (with_bones, exported):
        with load(path, "onnxruntime") as estimator:
            found.append(estimator.infer(crops))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    manifests = [json.loads((path / "manifest.json").read_text()) for path in (with_bones, exported)]
    assert manifests[0].keys() == manifests[1].keys() and manifests[0]["options"] == manifests[1]["options"]


def test_the_command_exports_them(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgepose.cli import main
    from edgepose.export import from_checkpoint

    asked = []

    def note(*arguments: Any, with_maps: bool) -> None:
        asked.append(with_maps)
        arguments[2].write_bytes(b"")

    monkeypatch.setattr(from_checkpoint, "export_graph", note)
    for more in ([], ["--with-bones"]):
        command = ["export", "--weights", str(checkpoint), "-o", str(tmp_path / f"{len(more)}.edgepose")]
        assert main([*command, *more]) == 0
    assert asked == [False, True]
    assert [list(read_goldens(open_bundle(tmp_path / f"{i}.edgepose")).outputs)[2:] for i in (0, 1)] == [[], ["bones"]]


@pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.slow
def test_an_engine_with_bones_is_built(with_bones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    from edgepose.build.engine import build_engine
    from edgepose.nvidia import device

    monkeypatch.setattr(device, "gpu_missing", lambda: "no GPU in this test")
    bundle = open_bundle(Path(shutil.copytree(with_bones, tmp_path / "rtx.edgepose")))
    record = build_engine(bundle, "tensorrt-rtx")
    assert (bundle.path / "engines" / record.file_name).stat().st_size > 1_000_000
    (maker,) = (node.name for node in onnx.load(bundle.graph).graph.node if "bones" in node.output)
    assert any(maker in layer.nodes for layer in record.layers)


# --- verify ---


def replaced_goldens(path: Path, tmp_path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    bundle = open_bundle(Path(shutil.copytree(path, tmp_path / "changed.edgepose")))
    goldens = read_goldens(bundle)
    outputs = {name: values.copy() for name, values in goldens.outputs.items()}
    change(outputs)
    Goldens(goldens.images, outputs).save(tmp_path / "golden.npz")
    replace_files(bundle, {"golden.npz": tmp_path / "golden.npz"})
    return bundle.path


def test_bones_that_differ_fail_although_the_poses_are_right(with_bones: Path, tmp_path: Path) -> None:
    def change(outputs: dict[str, np.ndarray]) -> None:
        outputs["bones"][2, 5, 3, 4] += 0.01 * np.ptp(outputs["bones"])

    report = verify(open_bundle(replaced_goldens(with_bones, tmp_path, change)), ["onnxruntime"])
    assert not report.passed
    figures = report.checks[0].figures
    assert figures is not None and figures.largest == 0
    assert figures.score_fraction == pytest.approx(0.01, rel=0.02)  # of the bone maps' own range


def test_verify_passes_and_draws_the_bones_of_both(with_bones: Path, tmp_path: Path) -> None:
    report = verify(open_bundle(with_bones), ["onnxruntime"])
    assert report.passed
    report.save(tmp_path / "verify.json")
    page = (tmp_path / "verify.html").read_text()
    assert "right of each the bones of PyTorch, then of onnxruntime" in page
    assert page.count('width="1152" height="384"') == 8  # three pictures side by side


def test_a_bundle_without_bones_is_drawn_as_before(exported: Path, tmp_path: Path) -> None:
    verify(open_bundle(exported), ["onnxruntime"]).save(tmp_path / "verify.json")
    page = (tmp_path / "verify.html").read_text()
    assert "right of each" not in page and page.count('width="384" height="384"') == 8


def test_nan_in_a_bone_map_is_found_there(with_bones: Path) -> None:
    goldens = read_goldens(open_bundle(with_bones))
    outputs = {name: values.copy() for name, values in goldens.outputs.items()}
    outputs["bones"][2, 5, 3, 4] = np.nan
    assert not_finite(goldens, outputs) == "bones hold 1 NaN or infinite values, the first in crop 2, map 5"


# --- drawing ---


def test_every_map_is_drawn_in_its_colour_over_its_place() -> None:
    crop = np.full((64, 64, 3), 100, np.uint8)
    maps = np.zeros((3, 16, 16), np.float32)
    maps[0, 4, 8] = 1.0  # over pixel (32, 16) of the crop
    maps[1, 4, 2] = 0.5
    maps[2, 12, 12] = np.nan
    picture = draw_maps(crop, maps, [(200, 0, 0), (0, 200, 0), (0, 0, 200)])
    assert picture.shape == (384, 384, 3)  # enlarged six times
    # The centre of pixel (x, y) is between the enlarged pixels 6 x + 2 and 6 x + 3.
    np.testing.assert_allclose(picture[98:100, 194:196].mean(axis=(0, 1)), (200, 0, 0), atol=8)
    np.testing.assert_allclose(picture[98:100, 50:52].mean(axis=(0, 1)), (50, 150, 50), atol=8)
    assert (picture[200:] == 100).all()
    # Halfway to the next cell, 2 pixels further, half of it is left.
    np.testing.assert_allclose(picture[98:100, 206:208].mean(axis=(0, 1)), (150, 50, 50), atol=8)


def test_colours_mix_where_maps_overlap_and_values_are_clipped() -> None:
    maps = np.full((2, 16, 16), 3.0, np.float32)
    picture = draw_maps(np.zeros((64, 64, 3), np.uint8), maps, [(200, 0, 0), (0, 100, 0)])
    assert picture[100, 100].tolist() == [100, 50, 0]
    assert draw_maps(np.full((64, 64, 3), 7, np.uint8), -maps, [(9, 9, 9)] * 2).min() == 7


@pytest.mark.parametrize("kind", ["bundle", "checkpoint", "without"])
def test_the_worst_are_drawn_with_their_bones(
    with_bones: Path, exported: Path, checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    pytest.importorskip("scipy.io")
    data = f"lsp:{make_lsp(tmp_path / 'lsp', persons=6, tests=3)}"
    target = {"bundle": with_bones, "checkpoint": checkpoint, "without": exported}[kind]
    accuracy = evaluate(target, data, backend="torch" if kind == "checkpoint" else "onnxruntime", worst=2)
    assert len(accuracy.maps) == 2 and list(accuracy.maps) == accuracy.scores.worst(2)
    accuracy.draw_worst(tmp_path / "worst.png", count=2)
    width = cv2.imread(str(tmp_path / "worst.png")).shape[1]
    if kind == "without":
        assert width == 2 * 384 and all(not maps for maps in accuracy.maps.values())
        return
    assert width == 2 * 2 * 384
    for index, maps in accuracy.maps.items():
        sample = accuracy.scores.persons[index].sample
        crops, _ = crop_boxes(read_image(sample.image), sample.box[None], SIZE)
        np.testing.assert_allclose(maps["bones"], bone_maps(with_bones, crops)[0], rtol=1e-4, atol=1e-3)
    accuracy.draw_worst(tmp_path / "more.png", count=3)  # of the third none were kept
    assert cv2.imread(str(tmp_path / "more.png")).shape[1] == 3 * 384

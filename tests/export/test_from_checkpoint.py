"""Checkpoint to bundle: everything in it, by value, and nothing of it when something fails."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("skimage")

from safetensors.torch import load_file
from torch import nn

from edgepose.backends.plan import open_session
from edgepose.bundle.bundle import open_bundle
from edgepose.bundle.goldens import read_goldens
from edgepose.bundle.manifest import CHECKPOINT, GOLDENS
from edgepose.bundle.tasks import POSE
from edgepose.core.errors import CheckError, UsageError
from edgepose.core.files import sha256
from edgepose.export import from_checkpoint as bundle_module
from edgepose.export.from_checkpoint import GOLDEN_VIEWS, export, golden_crops
from edgepose.models import build_model
from edgepose.models.checkpoint import ModelSpec, load_weights, read_spec
from edgepose.models.pose_graph import PoseGraph
from tests.doubles.crash import crash_after

SPEC = ModelSpec("ditn_lite", "lsp14", (64, 64))


@pytest.fixture
def quick_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting the graph takes seconds, and its own tests; here it writes the network's first weight."""

    def write(network: nn.Module, input_size: tuple[int, int], path: Path, *, with_maps: bool) -> None:
        assert not with_maps
        path.write_bytes(str(input_size).encode() + next(network.parameters()).detach().numpy().tobytes())

    monkeypatch.setattr(bundle_module, "export_graph", write)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_manifest_says_what_the_bundle_is(exported: Path, checkpoint: Path) -> None:
    manifest = open_bundle(exported).manifest
    assert (manifest.name, manifest.model, manifest.skeleton) == ("lively", "ditn_lite", "lsp14")
    assert (manifest.input_size, manifest.options, manifest.trained) == ((64, 64), {"form": 2}, True)
    assert (manifest.crop_padding, manifest.decode, manifest.schema) == (1.25, "quarter", 1)
    assert manifest.made_with["torch"] == torch.__version__
    assert manifest.made_with["numpy"] == np.__version__
    assert manifest.files == {name: sha256(exported / name) for name in (CHECKPOINT, GOLDENS, POSE.graph)}
    assert sorted(path.name for path in exported.iterdir()) == sorted(
        [CHECKPOINT, GOLDENS, POSE.graph, "manifest.json"]
    )
    assert read_spec(exported / CHECKPOINT) == SPEC
    stored = load_file(exported / CHECKPOINT)
    assert all(torch.equal(value, stored[key]) for key, value in load_file(checkpoint).items())


def test_goldens_are_what_pytorch_gives(exported: Path) -> None:
    goldens = read_goldens(open_bundle(exported))
    np.testing.assert_array_equal(goldens.images, golden_crops((64, 64)))
    network = SPEC.build()
    load_weights(network, exported / CHECKPOINT)
    for i, crop in enumerate(goldens.images):
        with torch.inference_mode():
            keypoints, heatmaps = PoseGraph(network).eval()(torch.from_numpy(crop[None]))
        limit = 1e-6 * float(np.ptp(goldens.outputs["heatmaps"]))
        np.testing.assert_allclose(goldens.outputs["heatmaps"][i], heatmaps[0].numpy(), atol=limit)
        np.testing.assert_allclose(goldens.outputs["keypoints"][i], keypoints[0].numpy(), atol=1e-5)
    assert list(goldens.outputs) == ["keypoints", "heatmaps"]  # bone maps only where they are asked for
    assert [spec.name for spec in open_session(open_bundle(exported), "onnxruntime").outputs] == list(goldens.outputs)
    # They tell networks apart: joints and crops differ.
    assert len(np.unique(goldens.outputs["keypoints"][..., :2].reshape(-1, 2), axis=0)) > 30


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
def test_the_bundle_gives_its_goldens(exported: Path, backend: str) -> None:
    bundle = open_bundle(exported)
    goldens, session = read_goldens(bundle), open_session(bundle, backend)
    results = session.run({"images": goldens.images})
    assert np.abs(results["heatmaps"] - goldens.outputs["heatmaps"]).max() <= 1e-4 * np.ptp(goldens.outputs["heatmaps"])
    distance = np.linalg.norm(results["keypoints"][..., :2] - goldens.outputs["keypoints"][..., :2], axis=-1)
    assert np.percentile(distance, 99) <= 0.05
    session.close()


def test_golden_crops_show_both_persons_in_every_view() -> None:
    crops = golden_crops((256, 192))
    assert crops.shape == (2 * len(GOLDEN_VIEWS), 256, 192, 3) and crops.dtype == np.uint8
    for plain, mirrored, turned in (crops[:3], crops[4:7]):
        assert np.abs(plain[:, ::-1].astype(int) - mirrored).mean() < 1  # the second view is the first's mirror image
        assert np.abs(plain.astype(int) - turned).mean() > 20
    np.testing.assert_array_equal(crops[0][..., 0], crops[0][..., 2])  # camera is grey
    assert np.abs(crops[4][..., 0].astype(int) - crops[4][..., 2]).mean() > 10  # astronaut is not


@pytest.mark.usefixtures("quick_graph")
def test_without_weights_seed_0_is_exported_and_said_to_be_untrained(tmp_path: Path) -> None:
    bundle = export("ditn_lite", tmp_path / "new.edgepose", skeleton="mpii16", input_size=(64, 96))
    manifest = bundle.manifest
    assert (manifest.trained, manifest.skeleton, manifest.input_size) == (False, "mpii16", (64, 96))
    stored = load_file(bundle.path / CHECKPOINT)
    for key, value in build_model("ditn_lite", skeleton="mpii16", input_size=(64, 96), seed=0).state_dict().items():
        assert torch.equal(value, stored[key]), key
    assert bundle_module._decide_spec("ditn_lite", None, None, None) == ModelSpec("ditn_lite", "coco17", (256, 192))


@pytest.mark.usefixtures("quick_graph")
def test_a_pth_of_a_named_model_is_exported_as_it_is_told(tmp_path: Path) -> None:
    network = ModelSpec("ditn_lite", "coco17", (64, 64)).build()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "x.pth")
    before = (tmp_path / "x.pth").read_bytes()
    bundle = export("ditn_lite", tmp_path / "x.edgepose", weights=tmp_path / "x.pth", input_size=(64, 64))
    assert read_spec(bundle.path / CHECKPOINT) == ModelSpec("ditn_lite", "coco17", (64, 64))
    assert bundle.manifest.trained
    assert (tmp_path / "x.pth").read_bytes() == before


@pytest.mark.usefixtures("quick_graph")
def test_exporting_again_replaces_the_parts_and_removes_what_belongs_to_the_old_weights(tmp_path: Path) -> None:
    path = tmp_path / "x.edgepose"
    first = export("ditn_lite", path, skeleton="lsp14", input_size=(64, 64))
    (path / "engines").mkdir()
    (path / "engines" / "old.engine").write_text("of the old graph")
    first.with_files(path / "engines" / "old.engine")
    (path / "reports").mkdir()
    (path / "reports" / "verify.html").write_text("of the old weights")
    second = export("ditn_lite", path, skeleton="lsp14", input_size=(64, 96))
    assert open_bundle(path) == second
    assert second.engines() == []  # it was built from another graph
    assert second.manifest.input_size == (64, 96)
    assert not (path / "engines").exists() and not (path / "reports").exists()
    assert read_goldens(second).images.shape == (8, 64, 96, 3)
    assert not [p.name for p in path.iterdir() if p.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_graph")
def test_an_export_that_is_killed_leaves_the_old_bundle_or_the_new_one(tmp_path: Path) -> None:
    """Here on real files, at some of the calls; all of them are tried on small ones, see ``tests/bundle``."""
    old = export("ditn_lite", tmp_path / "old.edgepose", skeleton="lsp14", input_size=(64, 64))
    seen = []
    for calls in (3, 8, 16, 18, 20, 1000):
        path = Path(shutil.copytree(old.path, tmp_path / f"{calls}.edgepose"))
        with crash_after(calls):
            export("ditn_lite", path, skeleton="lsp14", input_size=(64, 96))
        opened = open_bundle(path)
        seen.append(opened.manifest.input_size)
        assert read_goldens(opened).images.shape == (8, *seen[-1], 3)
        assert read_spec(path / CHECKPOINT) == ModelSpec("ditn_lite", "lsp14", seen[-1])
        assert (opened.manifest == old.manifest) is (seen[-1] == (64, 64))
    assert seen[0] == (64, 64) and seen[-1] == (64, 96) and sorted(seen) == seen
    assert export("ditn_lite", path, skeleton="lsp14", input_size=(64, 96)) == open_bundle(path)


@pytest.mark.parametrize("failure", [CheckError("onnxsim changed"), KeyboardInterrupt()])
def test_an_export_that_fails_leaves_what_was_there(
    tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    shutil.copytree(exported, tmp_path / "old.edgepose")
    before = snapshot(exported)
    monkeypatch.setattr(bundle_module, "export_graph", fail)
    for name in ("old.edgepose", "new.edgepose"):
        with pytest.raises(type(failure)):
            export("ditn_lite", tmp_path / name, skeleton="lsp14", input_size=(64, 64))
    assert snapshot(tmp_path / "old.edgepose") == before
    assert [path.name for path in tmp_path.iterdir()] == ["old.edgepose"]


@pytest.mark.usefixtures("quick_graph")
def test_only_bundles_and_empty_folders_are_written_into(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    for name in ("file", "full"):
        with pytest.raises(UsageError, match=rf"{name} exists and is not a bundle: give another -o"):
            export("ditn_lite", tmp_path / name, input_size=(64, 64))
    with pytest.raises(UsageError, match=r"cannot write to folder .*inside"):
        export("ditn_lite", tmp_path / "file" / "inside", input_size=(64, 64))
    assert snapshot(tmp_path) == {"file": b"mine", "full/thesis.txt": b"mine"}
    assert export("ditn_lite", tmp_path / "empty", input_size=(64, 64)) == open_bundle(tmp_path / "empty")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "hrnet_w32"}, "holds the weights of ditn_lite, got hrnet_w32: leave the model out"),
        ({"skeleton": "coco17"}, "was trained for skeleton lsp14, got coco17: leave --skeleton out"),
        ({"input_size": (256, 192)}, "was trained for input size (64, 64), got (256, 192): leave --size out"),
    ],
)
def test_what_contradicts_the_checkpoint_is_refused(
    checkpoint: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        export(**{"model": None, "output": tmp_path / "x", "weights": checkpoint, **arguments})
    assert not (tmp_path / "x").exists()


def test_weights_of_unknown_origin_need_a_name(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.pth")
    cases: list[tuple[str | None, Path | None, str]] = [
        (None, None, "no model was named: expected edgepose export MODEL"),
        (None, tmp_path / "x.pth", r"x\.pth does not contain the name of its model: expected edgepose export MODEL"),
        (None, tmp_path / "none.pth", r"none\.pth does not exist"),
        ("ditn_lite", tmp_path / "none.safetensors", r"none\.safetensors does not exist"),
        ("ditn_lite", tmp_path / "x.pth", r"another model: \d+ keys missing \(backbone\..*; 1 keys unknown \(a\)"),
        ("hrnet", None, "unknown model 'hrnet': expected one of hrnet_w32"),
    ]
    for model, weights, message in cases:
        with pytest.raises(UsageError, match=message):
            export(model, tmp_path / "x.edgepose", weights=weights)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]

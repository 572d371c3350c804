"""A bundle proves itself once on a machine, and is refused where it gives other keypoints."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgepose.backends import self_check as module
from edgepose.backends.plan import Runner
from edgepose.backends.self_check import IMAGES_CHECKED, proof_of
from edgepose.bundle.bundle import Bundle
from edgepose.bundle.goldens import read_goldens
from edgepose.bundle.manifest import GOLDENS
from edgepose.bundle.tasks import POSE, Task
from edgepose.core.errors import CheckError, UsageError
from edgepose.nvidia import device as nvidia_device
from edgepose.runtime.pose import load
from edgepose.runtime.run import run
from tests.doubles.pose_network import change_goldens, make_bundle, make_weights, pose_model, put_graph

pytest.importorskip("onnx")


class Replays:
    """Counts the crops of each replay."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.crops: list[int] = []
        original = module.verdict

        def counting(goldens, outputs, precision):
            self.crops.append(len(goldens.images))
            return original(goldens, outputs, precision)

        patch.setattr(module, "verdict", counting)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgepose" / "proven"


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> Replays:
    return Replays(monkeypatch)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "tiny.edgepose", crops=IMAGES_CHECKED + 2)


def spoil(bundle: Bundle) -> Bundle:
    """A graph with another weight, hashes and all: what a broken engine of an intact bundle would compute."""
    weights = make_weights()
    weights["w_head"][3] *= 1.5
    return put_graph(bundle, pose_model(weights))


def test_it_is_proven_once(bundle: Bundle, replays: Replays, cache: Path) -> None:
    pytest.importorskip("openvino")
    for _ in range(2):
        load(bundle.path, "onnxruntime").close()
    assert replays.crops == [IMAGES_CHECKED]
    load(bundle.path, "openvino").close()
    assert replays.crops == [IMAGES_CHECKED, IMAGES_CHECKED], "each backend for itself"
    proofs = [json.loads(path.read_text()) for path in cache.iterdir()]
    assert sorted(proof["backend"] for proof in proofs) == ["onnxruntime", "openvino"]
    assert {proof["file"] for proof in proofs} == {bundle.manifest.files["pose.onnx"]}


@pytest.mark.parametrize("what", ["graph", "goldens", "version", "machine", "limits"])
def test_it_is_proven_again_where_something_else_computes(
    bundle: Bundle, replays: Replays, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    load(bundle.path, "onnxruntime").close()
    if what == "graph":
        model = bundle.graph.read_bytes()
        bundle.graph.write_bytes(model + b"\x3a\x00")  # an empty graph merged into it changes nothing but the hash
        bundle.with_files(bundle.graph)
    elif what == "goldens":
        change_goldens(
            bundle,
            images=read_goldens(bundle).images[:4],
            **read_goldens(bundle).first(4).outputs,
        )
        bundle.with_files(bundle.path / GOLDENS)
    elif what == "version":
        monkeypatch.setattr("onnxruntime.__version__", "9.9")
    elif what == "machine":
        monkeypatch.setattr(module, "cpu_name", lambda: "another")
    else:
        limits = replace(POSE.limits("fp32"), p50=0.04)
        monkeypatch.setattr(Task, "limits", lambda *_: limits)
    load(bundle.path, "onnxruntime").close()
    assert replays.crops == [IMAGES_CHECKED, IMAGES_CHECKED]


def test_other_keypoints_are_refused_in_one_sentence(bundle: Bundle, replays: Replays, cache: Path) -> None:
    pytest.importorskip("openvino")
    spoil(bundle)
    for _ in range(2):  # a failure is not remembered
        with pytest.raises(CheckError) as refused:
            load(bundle.path, "openvino")
        assert re.fullmatch(
            r"backend openvino in fp32 does not give PyTorch's keypoints of the golden crops on this machine \(the "
            rf"heat-map error as a fraction of the range is [\d.]+, the limit is 0.0001.*\): run edgepose verify "
            rf"{re.escape(str(bundle.path))}",
            str(refused.value),
        )
    assert replays.crops == [IMAGES_CHECKED, IMAGES_CHECKED + 2] * 2
    assert not cache.exists()
    load(bundle.path, "openvino", self_check=False).close()
    assert len(replays.crops) == 4


def test_nan_is_refused(bundle: Bundle, replays: Replays) -> None:
    weights = make_weights()
    weights["w_head"][5] = np.nan
    put_graph(bundle, pose_model(weights))
    with pytest.raises(
        CheckError, match=r"\(heatmaps hold \d+ NaN or infinite values, the first in crop 0, keypoint 5\)"
    ):
        load(bundle.path, "onnxruntime")
    assert replays.crops


def test_what_verify_passes_is_not_refused(bundle: Bundle, replays: Replays, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the few fail, all are replayed: a median over few keypoints may lie above that over all."""
    counting = module.verdict
    monkeypatch.setattr(
        module, "verdict", lambda g, o, p: (None, "few") if len(g.images) == IMAGES_CHECKED else counting(g, o, p)
    )
    load(bundle.path, "onnxruntime").close()
    assert replays.crops == [IMAGES_CHECKED + 2]


def test_the_session_of_a_refused_bundle_is_closed(
    bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgepose.backends.onnxruntime import OnnxRuntimeSession

    closed = []
    monkeypatch.setattr(OnnxRuntimeSession, "close", lambda self: closed.append(self))
    spoil(bundle)
    with pytest.raises(CheckError):
        load(bundle.path, "onnxruntime")
    assert len(closed) == 1 and not cache.exists()


def test_a_cache_that_cannot_be_used_is_no_error(
    bundle: Bundle, replays: Replays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, whom no permission stops; nobody can write below a file."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        load(bundle.path, "onnxruntime").close()
    assert replays.crops == [IMAGES_CHECKED, IMAGES_CHECKED], "it is proven again"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    load(bundle.path, "onnxruntime").close()
    assert replays.crops == [IMAGES_CHECKED] * 3


def test_a_bundle_without_goldens_has_nothing_to_prove_itself_with_and_is_refused(
    bundle: Bundle, replays: Replays, cache: Path
) -> None:
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    del manifest["files"][GOLDENS]
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=r"does not list golden\.npz, which every bundle needs"):
        load(bundle.path, "onnxruntime")
    assert not replays.crops and not cache.exists()


def test_damaged_goldens_are_refused(bundle: Bundle, replays: Replays) -> None:
    (bundle.path / GOLDENS).write_bytes(b"PK")
    bundle.with_files(bundle.path / GOLDENS)
    with pytest.raises(UsageError, match=r"golden\.npz is damaged .*: export the bundle again$"):
        load(bundle.path, "onnxruntime")
    assert not replays.crops


def test_an_engine_is_known_by_its_own_hash_and_the_gpu(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = bundle.path / "engines" / "tensorrt-rtx-1.7.0-any-fp16.engine"
    engine.parent.mkdir()
    engine.write_bytes(b"plan")
    bundle = bundle.with_files(engine)
    monkeypatch.setattr(module, "import_module", lambda _: type("trt", (), {"__version__": "1.7.0.1"}))
    monkeypatch.setattr(nvidia_device, "device_info", lambda: type("gpu", (), {"name": "RTX 4090"}))
    proof = proof_of(Runner(bundle, "tensorrt-rtx", "fp16", engine))
    assert proof["file"] == bundle.manifest.files["engines/" + engine.name]
    assert (proof["version"], proof["machine"], proof["precision"]) == ("1.7.0.1", "RTX 4090", "fp16")


def test_run_proves_the_bundle_before_any_file(bundle: Bundle, replays: Replays, tmp_path: Path, refuse) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((60, 40, 3), np.uint8))
    out, source = tmp_path / "x.jsonl", str(tmp_path / "a.png")
    summary = run(bundle.path, source, save_json=out, backend="onnxruntime")
    assert (summary.backend, summary.precision) == ("onnxruntime", "fp32")
    assert str(summary).splitlines()[0].endswith("(0 images skipped), onnxruntime fp32")
    assert replays.crops == [IMAGES_CHECKED]
    spoil(bundle)
    old = out.read_text()
    command = ("run", bundle.path, "--source", source, "--save-json", out, "--backend", "onnxruntime")
    assert "run edgepose verify" in refuse(*command, code=1)
    assert out.read_text() == old
    from edgepose.cli import main

    assert main([*map(str, command), "--no-self-check"]) == 0
    assert out.read_text() != old or out.stat().st_size == len(old)


@pytest.mark.slow
def test_precisions_of_the_shipped_network_prove_themselves(
    shipped_variants: Path, replays: Replays, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    precisions = ("fp16", "bf16", "int8")
    for precision in precisions:
        load(shipped_variants, "openvino", precision).close()
    moved = Path(shutil.copytree(shipped_variants, tmp_path / "moved.edgepose"))
    load(moved, "openvino", "int8").close()
    assert replays.crops == [IMAGES_CHECKED] * len(precisions), "a copy of a bundle is the same bundle"

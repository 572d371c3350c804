"""Checkpoints as training scripts of others leave them: what is read, which weights are taken, what is refused."""

from __future__ import annotations

import argparse
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from edgepose.core.errors import UsageError
from edgepose.export.from_checkpoint import export
from edgepose.models import build_model
from edgepose.models.checkpoint import LoadReport, load_pretrained, load_weights
from tests.doubles.networks import fill, state_of
from tests.models.test_hsrnet import authors_name

State = dict[str, Tensor]
NORM = ("weight", "bias", "running_mean", "running_var")
LOADERS: tuple[Callable[[nn.Module, Path], LoadReport], ...] = (load_weights, load_pretrained)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return build_model("hrnet_lite", skeleton="lsp14", seed=1)


@pytest.fixture(scope="module")
def state() -> State:
    """The weights that every file of these tests should give."""
    keys = [[name, value.shape] for name, value in build_model("hrnet_lite", skeleton="lsp14").state_dict().items()]
    return {name: value.clone() for name, value in state_of(keys).items()}


def below(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def other(state: State) -> State:
    """Weights that must not be taken."""
    return {name: value + 1 for name, value in state.items()}


def mmpose(state: State, head: str) -> State:
    return {f"{head if name.startswith('final_layer') else 'backbone'}.{name}": value for name, value in state.items()}


def gives(network: nn.Module, state: State, path: Path) -> list[LoadReport]:
    """Both loaders take every weight from the file, by value; their reports are returned."""
    reports = []
    for load in LOADERS:
        for value in network.state_dict().values():
            value.zero_()
        reports.append(load(network, path))
        assert reports[-1].missing == ()
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, state[name], rtol=0, atol=0)
    return reports


FILES: dict[str, Callable[[State], Any]] = {
    "DataParallel": lambda s: below("module.", s),
    "compile": lambda s: below("_orig_mod.", s),
    "DDP of compile": lambda s: below("module._orig_mod.", s),
    "a compiled part": lambda s: {name.replace("stage2.", "stage2._orig_mod."): value for name, value in s.items()},
    "model": lambda s: {"model": s, "epoch": 1},
    "net": lambda s: {"net": s},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}, "param_groups": []}},
    "one in another": lambda s: {"model": {"state_dict": s}},
    "Lightning": lambda s: {"state_dict": below("model.", s), "epoch": 3, "hyper_parameters": {"lr": 1e-3}},
    "Lightning's net": lambda s: {"state_dict": below("net.", s)},
    "mmpose 0.x": lambda s: {"meta": {"mmpose_version": "0.29.0"}, "state_dict": mmpose(s, "keypoint_head")},
    "mmpose 1.x": lambda s: {
        "meta": {"dataset_meta": {"sigmas": np.ones(17, np.float32), "flips": np.arange(17)}},
        "state_dict": mmpose(s, "head"),
    },
    "official, with a NumPy score": lambda s: {
        "state_dict": below("module.", s),
        "best_state_dict": s,
        "perf": np.float64(0.744),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": np.float32(1e-3)}]},
    },
    "averaged by PyTorch": lambda s: {"n_averaged": torch.tensor(5), **below("module.", s)},
    "Parameters": lambda s: {name: nn.Parameter(v, requires_grad=v.is_floating_point()) for name, v in s.items()},
    "beside an epoch": lambda s: {**s, "epoch": 3},
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_training_scripts_load(name: str, state: State, network: nn.Module, tmp_path: Path) -> None:
    torch.save(FILES[name](state), tmp_path / "x.pth")
    for report in gives(network, state, tmp_path / "x.pth"):
        assert (report.skipped, report.unused, report.choice) == ((), (), "")


def test_the_same_in_safetensors(state: State, network: nn.Module, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for prefix in ("module.", "model.", "_orig_mod."):
        save_file(below(prefix, state), tmp_path / "x.safetensors")
        gives(network, state, tmp_path / "x.safetensors")


def test_numpy_values_of_before_numpy_2_and_after_are_read(state: State, network: nn.Module, tmp_path: Path) -> None:
    """The two differ in the name of a module alone."""
    torch.save({"state_dict": state, "perf": np.float64(0.5), "flips": np.arange(3)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in entries if name.endswith("data.pkl"))
    for module in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        changed, count = re.subn(rb"numpy\._?core\.multiarray", module, entries[pickled])
        assert count == 2  # a scalar and an array
        with zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_STORED) as archive:
            for name, value in {**entries, pickled: changed}.items():
                archive.writestr(name, value)
        gives(network, state, tmp_path / "y.pth")


AVERAGED: dict[str, tuple[Callable[[State], Any], str]] = {
    "timm": (
        lambda s: {"state_dict": other(s), "state_dict_ema": s},
        "the averaged weights (state_dict_ema), not state_dict",
    ),
    "torchvision": (
        lambda s: {"model": other(s), "model_ema": {"n_averaged": torch.tensor(2), **below("module.", s)}},
        "the averaged weights (model_ema), not model",
    ),
    "RT-DETR": (
        lambda s: {"model": other(s), "ema": {"module": s, "updates": 5}},
        "the averaged weights (ema), not model",
    ),
    "another": (
        lambda s: {"state_dict": other(s), "ema_state_dict": below("module.", s)},
        "the averaged weights (ema_state_dict), not state_dict",
    ),
    "mmengine, which swaps them": (
        lambda s: {
            "meta": {"mmengine_version": "0.10.3"},
            "state_dict": s,
            "ema_state_dict": {"steps": torch.tensor(7), **below("module.", other(s))},
        },
        "the averaged weights (state_dict; mmengine keeps the others in ema_state_dict)",
    ),
    "Lightning": (
        lambda s: {"state_dict": {**below("model.", other(s)), **below("ema_model.", s)}},
        "the averaged weights (ema_model)",
    ),
}


@pytest.mark.parametrize("name", AVERAGED)
def test_averaged_weights_are_taken_and_named(name: str, state: State, network: nn.Module, tmp_path: Path) -> None:
    content, choice = AVERAGED[name]
    torch.save(content(state), tmp_path / "x.pth")
    for report in gives(network, state, tmp_path / "x.pth"):
        assert report.choice == choice
        assert str(report).endswith(f"; taken: {choice}")


def test_what_stands_beside_the_network_is_named(state: State, network: nn.Module, tmp_path: Path) -> None:
    torch.save({"state_dict": {**below("model.", state), "loss.weight": torch.ones(14)}}, tmp_path / "x.ckpt")
    for report in gives(network, state, tmp_path / "x.ckpt"):
        assert report.skipped == ("loss.weight",)
        assert str(report).endswith("; left in the file: loss (1)")
    torch.save({"state_dict": below("model.", {**state, "guides.weight": torch.ones(14)})}, tmp_path / "x.ckpt")
    with pytest.raises(UsageError, match=r"another model: 1 keys unknown \(model.guides.weight\)$"):
        load_weights(network, tmp_path / "x.ckpt")


def test_counters_come_with_the_weights(state: State, network: nn.Module, tmp_path: Path) -> None:
    torch.save({**state, "bn1.num_batches_tracked": torch.tensor(9)}, tmp_path / "x.pth")
    load_weights(network, tmp_path / "x.pth")
    assert int(network.bn1.num_batches_tracked) == 9


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("load", LOADERS)
def test_weights_that_are_no_plain_numbers_are_refused(
    load: Callable[[nn.Module, Path], LoadReport], state: State, tmp_path: Path
) -> None:
    weight, network = state["conv1.weight"], build_model("hrnet_lite", skeleton="lsp14", seed=1)
    before = network.conv1.weight.detach().clone()
    kinds = {
        "torch.float32, torch.sparse_coo, on cpu": weight.to_sparse(),
        "torch.qint8, torch.strided, on cpu": torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
        "torch.complex64, torch.strided, on cpu": weight.to(torch.complex64),
        "torch.int32, torch.strided, on cpu": weight.to(torch.int32),
        "torch.float32, torch.strided, on meta": weight.to("meta"),
    }
    for kind, value in kinds.items():
        torch.save({**state, "conv1.weight": value}, tmp_path / "x.pth")
        message = f"x.pth holds conv1.weight as {kind}: expected plain floating-point numbers, save it as such"
        with pytest.raises(UsageError, match=re.escape(message)):
            load(network, tmp_path / "x.pth")
    assert torch.equal(network.conv1.weight, before)
    eight = weight.to(torch.float8_e4m3fn)
    torch.save({**state, "conv1.weight": eight}, tmp_path / "x.pth")
    load(network, tmp_path / "x.pth")
    assert torch.equal(network.conv1.weight, eight.float())


class Runs:
    """An object whose reading would run a function."""

    def __init__(self, function: Callable[..., Any] = print, argument: str = "run") -> None:
        self.call = function, (argument,)

    def __reduce__(self) -> Any:
        return self.call


class History:
    """A class of a training script: with a state of its own, values of NumPy in it, and methods that pickle by name."""

    def __init__(self) -> None:
        self.values, self.methods = np.arange(3.0), {"mean": History.mean}

    def mean(self) -> float:
        return float(self.values.mean())


def test_objects_beside_the_weights_are_passed_over(
    state: State, network: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As mmengine's histories, argparse's options, or a path; nothing of them is run."""
    beside = {
        "message_hub": {"loss": History()},
        "args": argparse.Namespace(lr=1e-3),
        "best": Path("x"),
        "code": Runs(),
    }
    torch.save({**beside, "state_dict": state, "ema_state_dict": below("module.", other(state))}, tmp_path / "x.pth")
    for report in gives(network, state, tmp_path / "x.pth"):
        assert report.choice.startswith("the averaged weights (state_dict; mmengine")
    torch.save({"state_dict": state, "code": Runs()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(UsageError, match=r"reading that could run code: save the state dict alone$"):
        load_weights(network, tmp_path / "old.pth")
    assert capsys.readouterr().out == ""


def test_what_cannot_be_read_is_refused(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    circle: dict[str, Any] = {}
    circle["model"] = circle
    contents: dict[str, tuple[Any, str]] = {
        "code": ({"state_dict": Runs()}, "reading that could run code: save the state dict alone$"),
        "module": (nn.Conv2d(1, 1, 1), "reading that could run code"),
        "system": ({"state_dict": state, "perf": Runs(os.system, "true")}, "reading that could run code"),
        "circle": (circle, "does not hold a state dict"),
        "optimizer": ({"state": {0: {}}, "param_groups": []}, "does not hold a state dict"),
        "numbers": ({3: torch.ones(1)}, "does not hold a state dict"),
        "text": ({"model": "hrnet_w32"}, "does not hold a state dict"),
    }
    for name, (content, message) in contents.items():
        torch.save(content, tmp_path / f"{name}.pth")
        for load in LOADERS:
            network = build_model("hrnet_lite", skeleton="lsp14", seed=1)
            with pytest.raises(UsageError, match=f"{name}.pth .*{message}"):
                load(network, tmp_path / f"{name}.pth")
    assert capsys.readouterr().out == ""


def authors(model: str) -> tuple[State, set[str]]:
    """A checkpoint of HSR-MSNet's authors, and the names that their network stores and never runs.

    Every bottleneck has the 3x3 ``conv2`` and ``conv_split1`` to 3; stride 2 runs the former, stride 1 the latter.
    """
    with torch.device("meta"):
        ours = build_model(model).state_dict()
    shapes = {authors_name(key): tuple(value.shape) for key, value in ours.items()}
    extra: dict[str, tuple[int, ...]] = {}

    def store(block: str, suffix: str, width: int) -> None:
        extra[f"{block}.conv{suffix}.weight"] = (width, width, 3, 3)
        extra.update({f"{block}.bn{suffix}.{part}": (width,) for part in NORM})

    for name, shape in shapes.items():
        if name.endswith(".conv_split1.weight"):
            store(name.removesuffix(".conv_split1.weight"), "2", 4 * shape[0])
    for i in (1, 2, 3):
        store("layer2.0", f"_split{i}", 32)
        store("layer3.0", f"_split{i}", 64)
    counters = {name.replace("running_mean", "num_batches_tracked"): () for name in extra if "running_mean" in name}
    return state_of([[name, shape] for name, shape in (counters | extra | shapes).items()]), set(extra)


def test_checkpoints_of_hsr_msnets_authors_load(tmp_path: Path) -> None:
    stored, unused = authors("hsr_msnet_59")
    count = sum(value.numel() for name, value in stored.items() if not re.search("running|tracked", name))
    assert count == 26_026_529  # what their code stores; 18,839,905 of it runs
    wrapped = {
        "epoch": 140,
        "state_dict": below("module.", stored),
        "optimizer": {"state": {}},
        "perf": np.float64(0.7),
    }
    torch.save(wrapped, tmp_path / "checkpoint.pth.tar")
    network = build_model("hsr_msnet_59")
    for load in LOADERS:
        for value in network.state_dict().values():
            value.zero_()
        report = load(network, tmp_path / "checkpoint.pth.tar")
        assert (report.missing, report.skipped) == ((), ())
        assert set(report.unused) == unused
        dropped = "layer1 (15), layer2 (30), layer3 (40), new_layer4 (15), new_layer5 (15)"
        assert str(report).endswith(f"; dropped, as their own network never runs them: {dropped}")
        for name, value in network.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                assert torch.equal(value, torch.from_numpy(fill(authors_name(name), tuple(value.shape)))), name
    plain = build_model("hsr_msnet_59", multiscale=False)
    with pytest.raises(UsageError, match=r"of another model: 85 keys missing \(layer1.0.bn2.bias, "):
        load_weights(plain, tmp_path / "checkpoint.pth.tar")


def test_the_authors_hsrnet_loads_with_nothing_dropped(tmp_path: Path) -> None:
    network = build_model("hsrnet_59")
    stored = state_of([[authors_name(key), value.shape] for key, value in network.state_dict().items()])
    assert {"new_layer4.0.extra_conv.0.weight", "new_layer5.2.conv2.weight", "layer3.0.downsample.0.weight"} <= set(
        stored
    )
    torch.save(stored, tmp_path / "pose_hsrnet_59.pth.tar")
    report = load_weights(network, tmp_path / "pose_hsrnet_59.pth.tar")
    assert (report.skipped, report.unused) == ((), ())
    projection = network.state_dict()["layer4.0.downsample.0.weight"]
    assert torch.equal(projection, stored["new_layer4.0.extra_conv.0.weight"])


@pytest.mark.parametrize("model", ["hsr_msnet_lite", "simplebaseline_lite"])
def test_the_hsr_msnet_of_before_is_refused(model: str, tmp_path: Path) -> None:
    """Its module stood in layers 1 to 3 as ``scales``, of Res2Net's width, with its SE block as ``attention``."""
    from safetensors.torch import save_file

    network, path = build_model(model), tmp_path / "old.safetensors"
    old = {"layer1.0.scales.0.0.weight": torch.ones(26, 26, 3, 3), "layer1.0.attention.reduce.bias": torch.ones(16)}
    spec = {"model": model, "skeleton": "coco17", "input_size": [256, 192]}
    save_file({**network.state_dict(), **old}, path, metadata={"edgepose": json.dumps(spec)})
    message = (
        f"{path} holds an hsr_msnet of an older edgepose, another network than its paper's authors', which is what "
        "hsr_msnet is now: train it again"
    )
    for load in LOADERS:
        with pytest.raises(UsageError) as caught:
            load(network, path)
        assert str(caught.value) == message
    with pytest.raises(UsageError) as caught:
        export(None, tmp_path / "old.edgepose", weights=path)
    assert str(caught.value) == message
    assert not (tmp_path / "old.edgepose").exists()

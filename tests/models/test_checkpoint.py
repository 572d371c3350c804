"""Starting from checkpoints of other projects and of this one: what loads, what is left, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn

from edgepose.core.errors import UsageError
from edgepose.models import build_model
from edgepose.models.checkpoint import LoadReport, ModelSpec, load_pretrained, load_weights, read_spec, save_checkpoint
from edgepose.models.weight_files import StoredWeights, match_names
from tests.doubles.full_disk import full_disk
from tests.doubles.networks import fill, shapes_only, state_of

State = dict[str, Tensor]
RESNET = ("conv1", "bn1", "layer")


@pytest.fixture(scope="module")
def empty() -> Callable[..., nn.Module]:
    """Networks whose weights are 0 until something is loaded, made once each and emptied for every use."""
    made: dict[tuple[str, str], nn.Module] = {}

    def make(name: str, skeleton: str = "coco17") -> nn.Module:
        if (name, skeleton) not in made:
            with torch.device("meta"):
                made[name, skeleton] = build_model(name, skeleton=skeleton)
            made[name, skeleton].to_empty(device="cpu")
        network = made[name, skeleton]
        for value in network.state_dict().values():
            value.zero_()
        return network

    return make


@pytest.fixture(scope="module")
def official(shared: Path) -> Callable[[str], State]:
    """Checkpoints with the names and shapes of a reference's, values by name."""
    return cache(lambda name: state_of(json.loads((shared / f"goldens/{name}.json").read_text())["keys"]))


@pytest.fixture(scope="module")
def hrnet(official: Callable[[str], State]) -> State:
    """An official HRNet-W32 pose checkpoint."""
    return official("hrnet_w32_256x192")


@pytest.fixture(scope="module")
def resnet(official: Callable[[str], State]) -> State:
    """A ResNet-50 as torchvision saves it."""
    pose = official("simplebaseline_r50_256x192")
    body = {name: value for name, value in pose.items() if name.startswith(RESNET)}
    return {**body, "fc.weight": torch.ones(1000, 2048), "fc.bias": torch.ones(1000)}


def weights(state: State) -> set[str]:
    return {name for name in state if not name.endswith("num_batches_tracked")}


def starting(names: set[str] | tuple[str, ...], *prefixes: str) -> set[str]:
    return {name for name in names if name.startswith(prefixes)}


def check(network: nn.Module, report: LoadReport, rename: Callable[[str], str] = str) -> None:
    """Loaded weights have the values of their names, all others are still 0; the report accounts for every weight."""
    state = network.state_dict()
    assert set(report.loaded) | set(report.missing) == weights(state)
    assert not set(report.loaded) & set(report.missing)
    for name in report.loaded[:: max(1, len(report.loaded) // 40)]:
        expected = fill(rename(name), tuple(state[name].shape))
        assert torch.equal(state[name], torch.from_numpy(expected)), name
    assert all(not bool(state[name].any()) for name in report.missing)


def without_backbone(name: str) -> str:
    return name.removeprefix("backbone.")


@pytest.mark.slow
def test_an_official_pose_checkpoint_loads_whole(hrnet: State, empty: Callable[..., nn.Module], tmp_path: Path) -> None:
    wrapped = {"epoch": 210, "state_dict": {f"module.{name}": value for name, value in hrnet.items()}}
    torch.save(wrapped, tmp_path / "pose_hrnet.pth")
    network = empty("hrnet_w32")
    report = load_pretrained(network, tmp_path / "pose_hrnet.pth")
    assert (report.missing, report.skipped) == ((), ())
    check(network, report)
    assert str(report) == f"loaded {len(weights(hrnet))} of {len(weights(hrnet))} weights"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "reference"), [("hrnet_w32", "hrnet_w32_256x192"), ("simplebaseline_r50", "simplebaseline_r50_256x192")]
)
def test_another_number_of_joints_leaves_the_head_out_and_names_it(
    model: str, reference: str, official: Callable[[str], State], empty: Callable[..., nn.Module], tmp_path: Path
) -> None:
    torch.save(official(reference), tmp_path / "pose.pth")
    network = empty(model, "mpii16")
    report = load_pretrained(network, tmp_path / "pose.pth")
    assert set(report.missing) == set(report.skipped) == {"final_layer.weight", "final_layer.bias"}
    check(network, report)
    count = len(weights(official(reference)))
    loaded = f"loaded {count - 2} of {count} weights"
    assert str(report) == f"{loaded}; still at their start: final_layer (2); left in the file: final_layer (2)"


@pytest.mark.slow
def test_an_imagenet_hrnet_goes_into_every_hrnet(hrnet: State, empty: Callable[..., nn.Module], tmp_path: Path) -> None:
    """The classification network has no heat-map head, and more layers after the ones shared."""
    classifier = {name: value for name, value in hrnet.items() if not name.startswith("final_layer")}
    others = {
        "stage4.2.fuse_layers.1.0.0.0.weight": (64, 32, 3, 3),
        "incre_modules.0.0.conv1.weight": (32, 32, 1, 1),
        "downsamp_modules.0.0.bias": (256,),
        "final_layer.0.weight": (2048, 1024, 1, 1),
        "classifier.bias": (1000,),
    }
    classifier.update({name: torch.ones(shape) for name, shape in others.items()})
    torch.save(classifier, tmp_path / "hrnet_imagenet.pth")
    for name, rename in {"hrnet_w32": str, "sg_hrnet_w32": str, "ditn_hrnet_w32": without_backbone}.items():
        network = empty(name)
        report = load_pretrained(network, tmp_path / "hrnet_imagenet.pth")
        assert set(report.skipped) == set(others)
        assert len(report.loaded) == len(weights(classifier)) - len(others)
        heads = ("final_layer", "guides", "joint_decoder", "bone_decoder", "transfer", "spatial")
        assert set(report.missing) == starting(report.missing, *heads)
        check(network, report, rename)


@pytest.mark.slow
def test_a_torchvision_resnet_goes_into_every_resnet(
    resnet: State, empty: Callable[..., nn.Module], tmp_path: Path
) -> None:
    torch.save(resnet, tmp_path / "resnet50.pth")
    body = weights(resnet) - {"fc.weight", "fc.bias"}
    for name, rename in {"simplebaseline_r50": str, "ditn_resnet50": without_backbone}.items():
        network = empty(name)
        report = load_pretrained(network, tmp_path / "resnet50.pth")
        assert {rename(loaded) for loaded in report.loaded} == body
        assert report.skipped == ("fc.weight", "fc.bias")
        check(network, report, rename)
    network = empty("hsrnet_59")
    report = load_pretrained(network, tmp_path / "resnet50.pth")
    assert set(report.loaded) == body - starting(body, "layer4")
    assert starting(report.missing, "layer4") and starting(report.missing, "layer5")
    check(network, report)
    network = empty("hsr_msnet_59")
    report = load_pretrained(network, tmp_path / "resnet50.pth")
    small = {f"layer{i}.{j}.{part}" for i, count in ((1, 3), (2, 4), (3, 6)) for j in range(count) for part in SPATIAL}
    assert set(report.loaded) == body - starting(body, "layer4") - (small - starting(small, "layer2.0", "layer3.0"))
    check(network, report)


#: A bottleneck's 3x3, in whose place HSR-MSNet has small ones where the stride is 1.
SPATIAL = ("conv2.weight", "bn2.weight", "bn2.bias", "bn2.running_mean", "bn2.running_var")


def detnets_name(name: str) -> str:
    return name.replace("downsample", "extra_conv") if name.startswith(("layer4", "layer5")) else name


@pytest.mark.slow
def test_detnet_goes_into_hsrnet_with_its_own_names(
    official: Callable[[str], State], empty: Callable[..., nn.Module], tmp_path: Path
) -> None:
    torch.save(official("detnet59"), tmp_path / "detnet59.pth")
    network = empty("hsrnet_59")
    report = load_pretrained(network, tmp_path / "detnet59.pth")
    assert len(report.loaded) == 315  # 63 convolutions and their batch norms
    assert report.skipped == ("fc.weight", "fc.bias")
    assert set(report.missing) == starting(report.missing, "deconv_layers", "final_layer")
    check(network, report, detnets_name)


@pytest.mark.slow
def test_detnet_fills_every_place_of_hsr_msnet_that_has_the_shape(
    official: Callable[[str], State], empty: Callable[..., nn.Module], tmp_path: Path
) -> None:
    torch.save(official("detnet59"), tmp_path / "detnet59.pth")
    network = empty("hsr_msnet_59")
    report = load_pretrained(network, tmp_path / "detnet59.pth")
    assert len(report.loaded) == 315 - 17 * 5  # 17 of 19 bottlenecks have stride 1 and no whole 3x3
    assert {"layer2.0.conv2.weight", "layer3.0.bn2.bias", "layer5.0.downsample.0.weight"} <= set(report.loaded)
    assert {name.partition(".")[2].partition(".")[2] for name in report.skipped} == {*SPATIAL, ""}
    new = ("deconv_layers", "final_layer")
    assert all(name.startswith(new) or ".se." in name or ".splits." in name for name in report.missing)
    check(network, report, detnets_name)
    assert "; left in the file: layer1 (15), layer2 (15), layer3 (25), layer4 (15), layer5 (15), fc (2)" in str(report)


@pytest.mark.parametrize(("resnet", "depth", "count"), [(50, 59, 13), (101, 110, 30), (152, 161, 47)])
def test_the_first_stages_of_resnets_have_a_place_in_every_depth(resnet: int, depth: int, count: int) -> None:
    """ResNet's first four stages are HSRNet's; HSR-MSNet has a 3x3 in two of their ``count`` bottlenecks."""
    body = shapes_only(f"simplebaseline_r{resnet}").state_dict()
    stored = StoredWeights(Path("resnet.pth"), {k: v for k, v in body.items() if k.startswith(RESNET)}, (), "")
    first = {name for name in weights(stored.tensors) if not name.startswith("layer4")}
    assert len(first) == 5 * (1 + 3 * count + 3)
    found = {}
    for kind in ("hsrnet", "hsr_msnet"):
        wanted = shapes_only(f"{kind}_{depth}").state_dict()
        names = match_names(stored, wanted).names
        found[kind] = weights({n: wanted[to] for n, to in names.items() if wanted[to].shape == stored.tensors[n].shape})
    top = {name for name in found["hsrnet"] if name.startswith("layer4")}
    assert found["hsrnet"] - top == first
    assert len(found["hsr_msnet"] - top) == len(first) - 5 * (count - 2)


LITE = ModelSpec("ditn_lite", "lsp14", (64, 64))


@pytest.mark.parametrize(
    ("model", "former", "now"),
    [
        ("ditn_lite", {"form": 1}, {"form": 2}),
        ("ditn_hrnet_w32", {"form": 1}, {"form": 2}),
        ("sg_hrnet_lite", {"bilinear": False}, {"bilinear": True}),
        ("hrnet_lite", {}, {}),
    ],
)
def test_a_file_says_which_reading_of_the_paper_it_has(model, former, now, tmp_path):
    """One without the mark was written before the mark was, and has the former reading."""
    assert ModelSpec(model, "lsp14", (64, 64)).options == now
    assert ModelSpec.of_file(model, "lsp14", (64, 64), {}).options == former
    for written, read in ((now, now), (former, former), ({}, former)):
        layers = ModelSpec(model, "lsp14", (64, 64))
        object.__setattr__(layers, "options", written)  # as an earlier edgepose wrote it
        save_checkpoint(tmp_path / "x.safetensors", torch.nn.Linear(1, 1), layers)
        assert read_spec(tmp_path / "x.safetensors").options == read


def test_the_former_mpii_of_ditn_joins_the_shoulders_to_the_thorax():
    ends = {form: build_model("ditn_lite", skeleton="mpii16", form=form).transfer.bone_ends.tolist() for form in (1, 2)}
    shoulders = slice(22, 26)  # bones 11 and 12
    assert ends[1][shoulders] == [12, 7, 13, 7]
    assert ends[2][shoulders] == [12, 8, 13, 8]
    assert ends[1][:22] + ends[1][26:] == ends[2][:22] + ends[2][26:]


@pytest.fixture
def lite(tmp_path: Path) -> Path:
    path = tmp_path / "lite.safetensors"
    save_checkpoint(path, LITE.build(), LITE)
    return path


def test_our_own_checkpoint_goes_to_other_joints_and_to_a_bare_backbone(lite: Path) -> None:
    network = build_model("ditn_lite", skeleton="coco17", seed=1)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    report = load_pretrained(network, lite)
    stored, now = LITE.build().state_dict(), network.state_dict()
    assert all(torch.equal(now[name], stored[name]) for name in report.loaded)
    assert all(torch.equal(now[name], start[name]) for name in report.missing)
    assert starting(weights(now), "backbone") <= set(report.loaded)
    assert set(report.missing) == set(report.skipped)  # of another shape
    assert "joint_decoder.head.0.weight" in report.missing

    backbone = build_model("ditn_lite", skeleton="coco17", seed=1).backbone
    report = load_pretrained(backbone, lite)
    assert report.missing == ()
    assert all(not name.startswith("backbone") for name in report.loaded)
    assert set(report.skipped) == {name for name in weights(stored) if not name.startswith("backbone")}


def test_half_precision_is_widened(tmp_path: Path) -> None:
    half = {name: value.half() for name, value in LITE.build().state_dict().items()}
    torch.save(half, tmp_path / "half.pth")
    network = build_model("ditn_lite", skeleton="lsp14", seed=1)
    assert load_pretrained(network, tmp_path / "half.pth").missing == ()
    weight = network.state_dict()["backbone.conv1.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, half["backbone.conv1.weight"].float())


def test_what_cannot_be_a_start_is_refused(lite: Path, tmp_path: Path) -> None:
    network = build_model("ditn_lite", skeleton="lsp14", seed=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stored = LITE.build().state_dict()
    contents = {
        "other.pth": {"encoder.weight": torch.zeros(3), "encoder.bias": torch.zeros(1)},
        "none.pth": {},
        "list.pth": [1, 2],
        "code.pth": {"path": Path("x")},
        "nan.pth": {**stored, "backbone.bn1.weight": stored["backbone.bn1.weight"] * float("nan")},
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
    (tmp_path / "cut.safetensors").write_bytes(lite.read_bytes()[:5000])
    (tmp_path / "cut.pth").write_bytes((tmp_path / "nan.pth").read_bytes()[:5000])
    (tmp_path / "table.csv").write_text("epoch,loss\n1,0.5\n")
    (tmp_path / "empty.pth").touch()
    (tmp_path / "folder.pth").mkdir()
    for name, message in {
        "other.pth": r"nothing in .* fits this network: it holds encoder.weight \(3,\), encoder.bias \(1,\), expected",
        "none.pth": "nothing in .* fits this network: it holds no weights, expected such as backbone.conv1.weight",
        "list.pth": "does not hold a state dict",
        "nan.pth": "holds NaN or infinity in backbone.bn1.weight",
        "cut.safetensors": "not a readable checkpoint",
        "cut.pth": r"cut.pth is not a readable checkpoint \(truncated or of another format\): ",
        "code.pth": "holds more than tensors, and reading that could run code: save the state dict alone$",
        "table.csv": r"table.csv is not a checkpoint: expected a .safetensors file, or one that torch.save wrote$",
        "empty.pth": "empty.pth is not a checkpoint: expected a",
        "folder.pth": r"checkpoint .*folder.pth is a folder: expected a .safetensors or .pth file",
        "missing.pth": "does not exist",
    }.items():
        with pytest.raises(UsageError, match=message):
            load_pretrained(network, tmp_path / name)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_what_is_left_in_the_file_may_be_anything(tmp_path: Path) -> None:
    state = {**LITE.build().state_dict(), "head.scale": torch.tensor(float("inf"))}
    torch.save(state, tmp_path / "x.pth")
    assert load_pretrained(LITE.build(), tmp_path / "x.pth").skipped == ("head.scale",)


def test_checkpoints_of_before_pytorch_1_6_are_read(tmp_path: Path) -> None:
    stored = LITE.build().state_dict()
    torch.save(stored, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    network = build_model("ditn_lite", skeleton="lsp14", seed=1)
    load_weights(network, tmp_path / "old.pth")
    assert all(torch.equal(stored[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["table.csv", "folder"])
def test_a_spec_is_not_looked_for_in_what_is_no_checkpoint(name: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("epoch,loss\n")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=rf"{name} is (not a checkpoint|a folder): expected a"):
        read_spec(tmp_path / name)


def test_a_full_disk_leaves_the_checkpoint_before(lite: Path) -> None:
    before = lite.read_bytes()
    assert len(before) > 200_000
    with full_disk(200_000), pytest.raises(UsageError) as caught:
        save_checkpoint(lite, LITE.build(), LITE)
    assert str(caught.value) == f"cannot write {lite}: File too large"
    assert lite.read_bytes() == before
    assert list(lite.parent.iterdir()) == [lite], "temporary files are left"


def test_options_of_every_kind_come_back(tmp_path: Path) -> None:
    spec = ModelSpec("hsr_msnet_lite", "coco17", (64, 64), {"deconv_kernel": 3})
    network = spec.build()
    save_checkpoint(tmp_path / "x.safetensors", network, spec)
    assert read_spec(tmp_path / "x.safetensors") == spec
    load_weights(spec.build(), tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match=r"of another shape \(deconv_layers.0.weight \(320, 80, 3, 3\) instead of"):
        load_weights(build_model("hsr_msnet_lite"), tmp_path / "x.safetensors")


@pytest.mark.parametrize("options", ['["deconv_kernel"]', "3", "null"])
def test_options_that_are_no_mapping_are_refused(options: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    text = f'{{"model": "hsrnet_59", "skeleton": "coco17", "input_size": [64, 64], "options": {options}}}'
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"edgepose": text})
    with pytest.raises(UsageError, match=r"has a damaged description of its network \(options are"):
        read_spec(tmp_path / "x.safetensors")

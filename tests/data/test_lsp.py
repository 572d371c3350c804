"""Leeds Sports Pose: both layouts, both ways to split, and files that are broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

scipy_io = pytest.importorskip("scipy.io")

from edgepose.core.errors import UsageError
from edgepose.core.geometry import keypoint_box
from edgepose.data import load_data
from tests.doubles.small_lsp import make_lsp


def to_original_layout(root: Path) -> None:
    """The original LSP stores (3, 14, N), with 0 for a joint that is seen, and four digits in the pictures' names."""
    stored = scipy_io.loadmat(root / "joints.mat")["joints"].transpose(1, 0, 2)
    stored[2] = 1 - stored[2]
    scipy_io.savemat(root / "joints.mat", {"joints": stored})
    for path in (root / "images").iterdir():
        path.rename(path.with_name(path.name.replace("im0", "im")))


def test_both_layouts_read_alike(tmp_path):
    extended, original = make_lsp(tmp_path / "a"), make_lsp(tmp_path / "b")
    to_original_layout(original)
    for split in ("train", "val"):
        pairs = zip(
            load_data(f"lsp:{extended}", split).samples, load_data(f"lsp:{original}", split).samples, strict=True
        )
        for one, other in pairs:
            np.testing.assert_array_equal(one.joints, other.joints)
            np.testing.assert_array_equal(one.visible, other.visible)
            np.testing.assert_array_equal(one.box, other.box)
            assert one.image_id == other.image_id
            assert one.image.name.replace("im0", "im") == other.image.name


def test_persons_are_read_by_value(tmp_path):
    root = make_lsp(tmp_path / "x")
    stored = scipy_io.loadmat(root / "joints.mat")["joints"]
    data = load_data(f"lsp:{root}", "train")
    assert (data.kind, data.skeleton, data.annotations, data.skipped) == ("lsp", "lsp14", root / "joints.mat", {})
    assert [s.image_id for s in data.samples] == list(data.pictures) == [1, 2, 3, 4, 5, 6]
    second = data.samples[1]
    np.testing.assert_array_equal(second.joints, stored[:, :2, 1])
    assert second.visible.tolist() == [joint != 3 for joint in range(14)]
    np.testing.assert_array_equal(second.box, keypoint_box(second.joints[second.visible]))
    assert second.image == root / "images/im00002.jpg"


def test_without_lists_the_first_half_trains(tmp_path):
    root = make_lsp(tmp_path / "x")
    for split in ("train", "test"):
        (root / f"{split}.txt").unlink()
    numbers = [[s.image_id for s in load_data(f"lsp:{root}", split).samples] for split in ("train", "val")]
    assert numbers == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_real_lsp_has_the_documented_split(shared):
    spec = f"lsp:{shared / 'data/lspet14'}"
    train, val = load_data(spec, "train"), load_data(spec, "val")
    assert (len(train.samples), len(val.samples)) == (3500, 445)
    assert not train.skipped | val.skipped
    assert not train.pictures.keys() & val.pictures.keys()


def test_persons_of_no_use_are_named(tmp_path):
    root = make_lsp(tmp_path / "x")
    stored = scipy_io.loadmat(root / "joints.mat")["joints"]
    stored[1:, 2, 2] = 0  # the third has one labelled joint
    stored[5, 0, 3] = np.nan
    stored[:, :2, 4] /= 1000
    scipy_io.savemat(root / "joints.mat", {"joints": stored})
    (root / "images/im00002.jpg").unlink()
    data = load_data(f"lsp:{root}", "train")
    assert [s.image_id for s in data.samples] == [1, 6]
    assert data.skipped == {
        "picture missing": ["im00002.jpg"],
        "fewer than two labelled joints": ["im00003.jpg"],
        "damaged annotation": ["im00004.jpg"],
        "smaller than a pixel": ["im00005.jpg"],
    }


def test_missing_and_damaged_files_are_refused(tmp_path):
    root = make_lsp(tmp_path / "x")
    spec, joints = f"lsp:{root}", root / "joints.mat"
    (root / "images").rename(root / "pictures")
    with pytest.raises(
        UsageError, match=r"none of the 6 pictures .*/images, such as im00001.jpg, .*im00005.jpg, \.\.\."
    ):
        load_data(spec, "train")
    (root / "train.txt").write_text("9")
    with pytest.raises(UsageError, match=r"train.txt: got image 9, expected 1 to 8, the images of joints.mat"):
        load_data(spec, "train")
    (root / "train.txt").write_text("one")
    with pytest.raises(UsageError, match="one image number per line"):
        load_data(spec, "train")
    (root / "train.txt").write_text("")
    with pytest.raises(UsageError, match="no person that can be used with lsp14, it lists none"):
        load_data(spec, "train")
    for shape in ((14, 2, 3), (14, 3)):
        scipy_io.savemat(joints, {"joints": np.zeros(shape)})
        with pytest.raises(UsageError, match="'joints' has shape"):
            load_data(spec, "val")
    joints.write_bytes(joints.read_bytes()[:150])
    with pytest.raises(UsageError, match=r"joints.mat is not a readable annotation file"):
        load_data(spec, "val")
    joints.unlink()
    with pytest.raises(UsageError, match=r"joints.mat is missing"):
        load_data(spec, "val")


@pytest.mark.parametrize(
    ("spec", "split", "message"),
    [
        ("lsp", "train", "expected KIND:ROOT"),
        ("lsp:", "train", "expected KIND:ROOT"),
        ("voc:/x", "train", "KIND one of coco, crowdpose, lsp, mpii"),
        ("coco:/no/such/folder", "train", "/no/such/folder is not a folder"),
        ("lsp:/tmp", "test", "split 'test': expected train, val or test-dev"),
        ("lsp:/tmp", "test-dev", "lsp has no split test-dev, which is COCO's: give coco:ROOT"),
    ],
)
def test_a_wrong_spec_is_refused(spec, split, message):
    with pytest.raises(UsageError, match=message):
        load_data(spec, split)

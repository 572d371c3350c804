"""Tables, pictures and the page of verify, read back with a parser."""

import base64
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np

from edgepose.backends.plan import Runner
from edgepose.bundle.goldens import read_goldens
from edgepose.core.pictures import draw_pair, picture_tag
from edgepose.core.skeletons import LSP14
from edgepose.core.tables import text_table
from edgepose.verify import verify
from edgepose.verify.checks import Check
from edgepose.verify.page import verify_page
from edgepose.verify.report import VerifyReport
from tests.doubles.pose_network import CPU, change_goldens, make_bundle

_VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Collects pictures, text and headings, and insists on balanced tags and on no reference to anything outside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        values = dict(attributes)
        assert "href" not in values and (values.get("src") or "data:").startswith("data:")
        if tag == "img":
            self.pictures.append(values)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def pixels(source: str) -> np.ndarray:
    data = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_the_page_shows_every_crop_of_every_backend(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny.edgepose")
    verify(bundle, CPU).save(bundle.reports / "verify.json")
    page = Page((bundle.reports / "verify.html").read_text(encoding="utf-8"))
    assert len(page.pictures) == 3 * len(CPU)
    assert "tiny: verification passed" in page.text and "FAILED" not in page.text
    for picture in page.pictures:
        image = pixels(picture["src"] or "")
        assert image.shape == (32 * 12, 24 * 12, 3)
        assert (str(image.shape[1]), str(image.shape[0])) == (picture["width"], picture["height"])
    assert [f"crop {i}: largest error 0.00 px" in page.text for i in range(3)] == [True] * 3


def test_the_page_says_where_a_failed_backend_is_wrong(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny.edgepose", crops=2)
    keypoints = read_goldens(bundle).outputs["keypoints"].copy()
    keypoints[1, 6, 0] += 7
    change_goldens(bundle, keypoints=keypoints)
    report = verify(bundle, ["onnxruntime"])
    page = Page(verify_page(report))
    assert "verification failed" in page.text
    assert "99th percentile of keypoint errors is" in page.text
    assert "crop 0: largest error 0.00 px" in page.text
    assert f"crop 1: largest error 7.00 px ({LSP14.joints[6].replace('_', ' ')})" in page.text
    assert "skipped" not in page.text


def test_the_page_escapes_what_it_is_told_and_draws_nan(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny.edgepose", crops=1)
    goldens = read_goldens(bundle)
    nothing = {"keypoints": goldens.outputs["keypoints"] * np.nan, "heatmaps": goldens.outputs["heatmaps"] * np.nan}
    checks = (
        Check(Runner(bundle, "onnxruntime", "fp32", bundle.graph), 1, problem="<b>&", outputs=nothing),
        Check(Runner(bundle, "openvino", "fp32", bundle.graph), 1, problem="x"),
    )
    page = Page(verify_page(VerifyReport(bundle, goldens, checks, {"torch": "<script>"}, {})))
    assert "failed: <b>&" in page.text and "torch skipped: <script>" in page.text
    assert "No keypoints to draw" in page.text and len(page.pictures) == 1


def test_both_skeletons_are_drawn_where_they_are() -> None:
    crop = np.zeros((64, 48, 3), np.uint8)
    pytorch = np.float32([[10, 20, 1]] * 14)
    backend = pytorch + np.float32([20, 30, 0])
    picture = draw_pair(crop, pytorch, backend, LSP14)
    assert picture.shape == (64 * 6, 48 * 6, 3) and not crop.any()
    assert picture[123, 63].tolist() == [0, 200, 255], "centre of pixel (10, 20), six times enlarged"
    assert picture[303, 183].tolist() == [255, 90, 0]
    pytorch[3] = 40, 5, 0
    assert draw_pair(crop, pytorch, backend, LSP14)[:60].max() == 0, "a joint without a score is not drawn"
    pytorch[3] = np.nan, 5, 1
    assert draw_pair(crop, pytorch, backend, LSP14)[:60].max() == 0, "a joint without a place is not drawn"
    overlaid = draw_pair(crop, pytorch, pytorch, LSP14)
    assert overlaid[123, 63].tolist() == [255, 90, 0] and overlaid[123, 68].tolist() == [0, 200, 255]


def test_a_picture_survives_its_tag() -> None:
    picture = np.zeros((40, 30, 3), np.uint8)
    picture[:, :, 0] = 200
    tag = Page(picture_tag(picture, 'a "quoted" name')).pictures[0]
    assert tag["alt"] == 'a "quoted" name'
    assert np.abs(pixels(tag["src"] or "").astype(int) - picture).max() <= 3


def test_text_table_pads_to_the_widest_cell() -> None:
    assert text_table(("a", "b"), [("1", "22"), ("333", "4")]) == "a    b\n1    22\n333  4"
    assert text_table(("a", "b"), []) == "a  b"


def test_the_page_shows_the_crops_that_moved_most_first(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny.edgepose", crops=11)
    goldens = read_goldens(bundle)
    keypoints = goldens.outputs["keypoints"].copy()
    keypoints[7, 2, 0] += 3
    keypoints[4, 1, 1] += 9
    heatmaps = goldens.outputs["heatmaps"].copy()
    heatmaps[9, 0, 0, 0] += 0.5
    outputs = {"keypoints": keypoints, "heatmaps": heatmaps}
    checks = tuple(
        Check(Runner(bundle, "openvino", p, bundle.graph), n, outputs=outputs)
        for p in ("fp32", "int8")
        for n in (1, 11)
    )
    page = verify_page(VerifyReport(bundle, goldens, checks, {}, {}, {"openvino int8": "a <note>"}))
    assert page.index("crop 4: largest error 9.00 px") < page.index("crop 7: largest error 3.00 px")
    assert page.index("crop 7: largest") < page.index("crop 9: largest error 0.00 px") < page.index("crop 0: largest")
    read = Page(page)
    assert len(read.pictures) == 2 * 8, "eight of each backend and precision, once for all batches"
    assert "openvino, int8" in read.text and "8 of 11 crops, those that moved most first" in read.text
    assert "openvino int8: a <note>" in read.text

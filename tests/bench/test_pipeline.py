"""bench --source: the split of a frame's time, by counts, structure and made-up times."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgepose.bench import pipeline as module
from edgepose.bench.pipeline import bench_pipeline
from edgepose.bundle.bundle import Bundle
from edgepose.core.errors import UsageError
from edgepose.core.pose import people_in_boxes
from edgepose.core.timing import Latency
from edgepose.runtime.job import Job
from edgepose.runtime.sinks import Sink
from edgepose.runtime.sources import Source
from tests.doubles.pose_network import make_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "tiny.edgepose")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8))
    return path


def test_a_pipeline_is_split_into_its_stages(bundle: Bundle, photo: Path) -> None:
    report = bench_pipeline(bundle, str(photo), backend="onnxruntime", frames=5)
    assert list(report.stages) == ["decode", "crop", "infer", "keypoints", "draw", "encode"]
    assert {latency.count for latency in (*report.stages.values(), report.own_work, report.total)} == {5}
    assert report.people == 1 and report.detector == "none"
    assert (report.backend, report.precision) == ("onnxruntime", "fp32")
    assert not bundle.reports.exists()
    report.save(bundle.reports / "x.json")
    written = json.loads((bundle.reports / "x.json").read_text())
    assert written["stages"]["infer"] == vars(report.stages["infer"]) and written["total"]["count"] == 5
    assert str(report).splitlines()[-1].endswith("frames/s at the median, 1.0 people per frame, onnxruntime fp32")
    assert report.detector_engine == "" and written["detector_engine"] == ""


def test_own_work_and_total_are_sums_within_a_frame(
    bundle: Bundle, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stages' p99 add up to 6 ms of own work, but no frame has both the slow crop and the slow drawing."""
    warm_up = [{"crop": 100.0}] * 3
    frames = [
        {"decode": 1.0, "crop": 3.0, "infer": 2.0, "draw": 1.0},
        {"decode": 1.0, "crop": 1.0, "infer": 2.0, "draw": 3.0},
    ]
    people = people_in_boxes(np.array([[0.0, 0, 9, 9], [5, 5, 8, 8]]))

    def made_up(source: Source, _: list, sinks: list[Sink], limit: int) -> None:
        assert limit == 3 + 2
        for ms in (*warm_up, *frames):
            sinks[-1].write(Job(next(iter(source)), people=people, ms=ms))

    monkeypatch.setattr(module, "run_inline", made_up)
    report = bench_pipeline(bundle, str(photo), backend="onnxruntime", frames=2)
    assert report.own_work == Latency(4.0, 4.0, 4.0, 2)
    assert report.total == Latency(7.0, 7.0, 7.0, 2)
    assert report.stages["crop"] == Latency(2.0, 2.9, 2.98, 2)
    assert report.people == 2


def test_a_source_that_ends_starts_again(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "two.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for grey in (50, 100):
        writer.write(np.full((48, 64, 3), grey, np.uint8))
    writer.release()
    seen: list[tuple[int, bool, int]] = []
    plain = module.run_inline

    def watched(source: Source, stages: list, sinks: list[Sink], limit: int) -> None:
        class Watch:
            name = "watch"

            def run(self, jobs: list[Job]) -> None:
                seen.extend((job.frame.index, job.frame.follows, round(job.frame.image.mean())) for job in jobs)

            def close(self) -> None: ...

        plain(source, [Watch(), *stages], sinks, limit)

    monkeypatch.setattr(module, "run_inline", watched)
    report = bench_pipeline(bundle, str(path), backend="onnxruntime", frames=4)
    assert report.total.count == 4
    assert [(index, follows) for index, follows, _ in seen] == [(i % 2, i % 2 > 0) for i in range(3 + 4)]
    np.testing.assert_allclose([grey for *_, grey in seen], [50 + 50 * (i % 2) for i in range(7)], atol=3)


def test_bad_pipelines_are_refused(bundle: Bundle, photo: Path) -> None:
    with pytest.raises(UsageError, match="cannot measure 0 frames"):
        bench_pipeline(bundle, str(photo), frames=0)
    with pytest.raises(UsageError, match="does not exist"):
        bench_pipeline(bundle, "nothing.mp4", backend="onnxruntime", frames=1)
    with pytest.raises(UsageError, match="unknown backend"):
        bench_pipeline(bundle, str(photo), backend="tensorflow", frames=1)
    with pytest.raises(UsageError, match="got the detector backend openvino without a detector"):
        bench_pipeline(bundle, str(photo), backend="onnxruntime", detector_backend="openvino", frames=1)
    assert not bundle.reports.exists()

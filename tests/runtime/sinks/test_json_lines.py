"""JSON lines, read back."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from edgepose.core.errors import UsageError
from edgepose.core.pose import People
from edgepose.core.skeletons import LSP14, Skeleton
from edgepose.runtime.sinks import JsonLinesSink

from .jobs import PERSON, job

PAIR = Skeleton("pair", ("head", "foot"), ((0, 1),), ())


def test_the_first_line_names_the_joints_and_each_other_line_is_a_frame(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "new" / "out.jsonl", PAIR, {"bundle": "x.edgepose"})
    sink.write(job(0, people=PERSON))
    sink.write(job(1))
    dropped = job(2, camera="back")
    dropped.dropped = "its deadline passed"
    sink.write(dropped)
    assert not (tmp_path / "new" / "out.jsonl").exists()  # not before it is whole
    sink.close()
    header, *lines = (json.loads(line) for line in (tmp_path / "new" / "out.jsonl").read_text().splitlines())
    assert header == {
        "schema": 1,
        "skeleton": "pair",
        "joints": ["head", "foot"],
        "bones": [[0, 1]],
        "bundle": "x.edgepose",
    }
    person = {"id": 3, "box": [5, 6, 45, 66], "score": 0.8, "keypoints": [[10.123, 20, 0.9], [30, 40.5, 0.7]]}
    assert lines == [
        {"frame": 0, "camera": "front", "name": "a.png", "time": 0.0, "people": [person]},
        {"frame": 1, "camera": "front", "name": "a.png", "time": 0.1, "people": []},
        {
            "frame": 2,
            "camera": "back",
            "name": "a.png",
            "time": 0.2,
            "people": [],
            "dropped": "its deadline passed",
        },
    ]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out.jsonl"]


def test_scores_are_clipped_and_ids_may_be_missing(tmp_path: Path) -> None:
    keypoints = np.array([[[1, 2, 1.3], [3, 4, 1.1]], [[1, 2, -0.5], [3, 4, 0.25]]], np.float32)
    sink = JsonLinesSink(tmp_path / "x", PAIR, {})
    sink.write(job(0, people=People(np.zeros((2, 4)), keypoints)))
    sink.close()
    one, two = json.loads((tmp_path / "x").read_text().splitlines()[1])["people"]
    assert (one["id"], one["score"], [k[2] for k in one["keypoints"]]) == (None, 1.0, [1.0, 1.0])
    assert (two["id"], two["score"], [k[2] for k in two["keypoints"]]) == (None, 0.0, [0.0, 0.25])
    assert keypoints[0, 0, 2] == np.float32(1.3)  # the caller's own numbers stay


def test_without_a_frame_an_older_file_stays(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("older")
    JsonLinesSink(tmp_path / "a.jsonl", LSP14, {}).close()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.jsonl", "older")]


def test_standard_output_gets_each_line_with_its_frame(capfd: pytest.CaptureFixture[str]) -> None:
    sink = JsonLinesSink(Path("-"), PAIR, {})
    assert capfd.readouterr().out == ""
    sink.write(job(0))
    header, line = capfd.readouterr().out.splitlines()
    assert (json.loads(header)["skeleton"], json.loads(line)["frame"]) == ("pair", 0)
    sink.write(job(1))
    assert json.loads(capfd.readouterr().out)["frame"] == 1
    sink.close()
    assert capfd.readouterr().out == ""


def test_a_pipe_gets_all_lines_and_stays_one(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.extend(pipe.read_text().splitlines()))
    reader.start()
    sink = JsonLinesSink(pipe, PAIR, {})
    sink.write(job(0))
    sink.write(job(1))
    sink.close()
    reader.join()
    assert [json.loads(line).get("frame") for line in read] == [None, 0, 1]
    assert pipe.is_fifo()


def test_a_full_device_is_one_sentence() -> None:
    sink = JsonLinesSink(Path("/dev/full"), PAIR, {})
    with pytest.raises(UsageError, match="cannot write /dev/full: No space left on device"):
        sink.write(job(0))
    sink.close()
    assert Path("/dev/full").is_char_device()


def test_places_that_cannot_be_written_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write .*file/out: Not a directory"):
        JsonLinesSink(tmp_path / "file" / "out", PAIR, {})
    with pytest.raises(UsageError, match="it is a folder"):
        JsonLinesSink(tmp_path, PAIR, {})

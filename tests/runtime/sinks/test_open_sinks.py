"""The sinks of one run: every place is tried before any work, and none overwrites another or an input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgepose.core.errors import UsageError
from edgepose.core.skeletons import COCO17, LSP14
from edgepose.runtime.sinks import CocoSink, JsonLinesSink, Sink, VideoSink, open_sinks

from .jobs import FakeSource, job


def opened(
    *,
    video: Path | str | None = None,
    json_lines: Path | str | None = None,
    coco: Path | str | None = None,
    **changes: Any,
) -> list[Sink]:
    options = {"source": FakeSource(), "skeleton": COCO17, "header": {}, **changes}
    return open_sinks(video=video, json_lines=json_lines, coco=coco, **options)


def test_every_output_has_its_sink_and_nothing_is_made_before_the_first_frame(tmp_path: Path) -> None:
    assert opened() == []
    sinks = opened(video=tmp_path / "a" / "v.mp4", json_lines=str(tmp_path / "j"), coco=tmp_path / "c", header={"b": 1})
    assert [type(sink) for sink in sinks] == [VideoSink, JsonLinesSink, CocoSink]
    assert list(tmp_path.iterdir()) == []
    for sink in sinks:
        sink.write(job(0))
        sink.close()
    assert json.loads((tmp_path / "j").read_text().splitlines()[0])["b"] == 1
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == ["a/v.mp4"]


def test_one_place_for_two_outputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("x")
    (tmp_path / "folder").symlink_to(".")
    for one, other in (("x", "x"), ("x", "link"), ("folder/x", "x")):
        with pytest.raises(UsageError, match=r"cannot write two outputs to one place, .*x and .*: give each a name"):
            opened(json_lines=tmp_path / one, coco=tmp_path / other)
    with pytest.raises(UsageError, match="to one place, - and /dev/stdout"):
        opened(json_lines="-", coco="/dev/stdout")
    opened(json_lines=tmp_path / "x", coco=tmp_path / "y", video=tmp_path / "z.mp4")


def test_inputs_are_never_overwritten_also_through_links(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    picture = folder / "a.png"
    picture.touch()
    (tmp_path / "link.png").symlink_to(picture)
    (tmp_path / "out").symlink_to(folder)
    source = FakeSource(inputs=[picture])
    for name, output in (("json_lines", picture), ("coco", tmp_path / "link.png"), ("json_lines", "out/a.png")):
        with pytest.raises(UsageError, match="the source is read from it; name another place"):
            opened(**{name: tmp_path / output}, source=source)
    for output in (folder, tmp_path / "out", picture, tmp_path / "link.png"):
        with pytest.raises(UsageError, match="the source is read from it"):
            opened(video=output, source=source)
    with pytest.raises(UsageError, match="the source is read from it"):
        opened(json_lines=picture, source=FakeSource(inputs=[tmp_path / "link.png"]))
    opened(json_lines=folder / "a.jsonl", video=folder / "b.png", source=source)


def test_coco_results_of_other_joints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="skeleton is lsp14 with 14 joints, expected the joints of coco17"):
        opened(coco=tmp_path / "x", skeleton=LSP14)
    opened(json_lines=tmp_path / "x", skeleton=LSP14)


@pytest.mark.parametrize("output", ["json_lines", "coco", "video"])
def test_a_bad_place_is_refused_whichever_output_it_is(tmp_path: Path, output: str) -> None:
    (tmp_path / "file").touch()
    good = {"json_lines": tmp_path / "j", "coco": tmp_path / "c", "video": tmp_path / "v.mp4"}
    with pytest.raises(UsageError, match="cannot write"):
        opened(**{**good, output: tmp_path / "file" / "x.mp4"})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


#: Frames that do not fit into 40 kB; prints what each sink answers.
FILLING = """
import resource, sys
from pathlib import Path
import numpy as np
from edgepose.core.errors import UsageError
from edgepose.core.pose import People
from edgepose.core.skeletons import COCO17
from edgepose.runtime.job import Frame, Job
from edgepose.runtime.sinks import open_sinks
from edgepose.runtime.sources import Source

class NoFrames(Source):
    def __iter__(self):
        return iter(())

folder = Path(sys.argv[1])
noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
people = People(np.zeros((1, 4)), np.random.default_rng(0).random((1, 17, 3), np.float32), np.array([1]))
outputs = {"video": None, "json_lines": None, "coco": None}
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
for name in sys.argv[2:]:
    kind = {".jsonl": "json_lines", ".json": "coco"}.get(Path(name).suffix, "video")
    sink, = open_sinks(**{**outputs, kind: folder / name}, source=NoFrames(), skeleton=COCO17, header={})
    try:
        try:
            for i in range(100):
                sink.write(Job(Frame("", i, i / 10, "a", noise), people=people))
        finally:
            sink.close()
        print(name, "was written")
    except UsageError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_is_one_sentence_and_older_files_stay(tmp_path: Path) -> None:
    names = ["a.mp4", "b.mov", "c.mkv", "d.avi", "e.jsonl", "f.json"]
    for name in names:
        (tmp_path / name).write_text("older")
    command = [sys.executable, "-c", FILLING, tmp_path, *names, "folder"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == ""
    videos, texts = done.stdout.splitlines()[:4], done.stdout.splitlines()[4:]
    assert videos == [
        f"cannot write {tmp_path / name} to its end: free some space on the disk, or name another place"
        for name in names[:4]
    ]
    assert texts == [f"cannot write {tmp_path / name}: File too large" for name in (*names[4:], "folder/a.jpg")]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*names, "folder"]
    assert {(tmp_path / name).read_text() for name in names} == {"older"}
    assert list((tmp_path / "folder").iterdir()) == []

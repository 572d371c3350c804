"""Where results go: videos, pictures, JSON lines and COCO results.

A sink checks its place before any work, opens a file under a temporary name with the first frame, and gives it its name
in ``close``. Close sinks also when the run failed: what was written until then is a valid file, and nothing is lost.
Without a frame, no file is made or replaced.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TextIO

import cv2
import numpy as np
from numpy.typing import NDArray

from ..core.codecs import silence_codecs, stderr_silenced
from ..core.errors import UsageError
from ..core.files import atomic_path
from ..core.geometry import Size
from ..core.images import fitted_size
from ..core.skeletons import Skeleton
from .job import Job
from .sources import Source

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".avi")
_PERSON = 1  # COCO's category id
#: Seconds that a picture of a live source stays in the video while the next one is awaited: a stream that stood still
#: for an hour does not fill the disk.
LONGEST_HOLD = 5.0


class Sink(Protocol):
    """Takes the frames of one run, in order."""

    def write(self, job: Job) -> None:
        """Add one frame. A sink of pictures writes ``job.frame.image`` as it is: draw on it before."""
        ...

    def close(self) -> None:
        """Finish the file and give it its name."""
        ...


#: Frame rate of a video made from pictures, or from a camera that does not tell its own.
DEFAULT_FPS = 25.0


def open_sinks(
    *,
    video: Path | str | None,
    json_lines: Path | str | None,
    coco: Path | str | None,
    source: Source,
    skeleton: Skeleton,  # noqa: ARG001
    header: dict[str, Any],  # noqa: ARG001
) -> list[Sink]:
    """Open the sinks of a run; a place that cannot be written to is refused here."""
    sinks: list[Sink] = []
    if video is not None:
        sinks.append(open_picture_sink(Path(video), source.fps or DEFAULT_FPS, source.live))
    if json_lines is not None:
        sinks.append(JsonLinesSink(Path(json_lines)))
    if coco is not None:
        sinks.append(CocoSink(Path(coco), source.inputs))
    return sinks


def open_picture_sink(path: Path, fps: float, live: bool = False) -> Sink:
    """A :class:`VideoSink` if ``path`` ends in one of :data:`VIDEO_SUFFIXES`, a folder of pictures if it has no suffix.

    Raises:
        UsageError: another suffix, or a place that cannot be written to.
    """
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoSink(path, fps, live)
    if path.suffix and not path.is_dir():
        raise UsageError(f"cannot write {path}: expected a video ({', '.join(VIDEO_SUFFIXES)}) or a folder")
    return ImageFolderSink(path)


class VideoSink:
    """An MPEG-4 video of the first frame's size; frames of another size are fitted in and centred on black.

    Args:
        path: file ending in one of :data:`VIDEO_SUFFIXES`.
        fps: frames per second.
        live: the source drops frames: each picture stays until the time of the next one, for :data:`LONGEST_HOLD` at
            most, so that the video's clock is the clock on the wall.
    """

    def __init__(self, path: Path, fps: float, live: bool = False) -> None:
        _check_file(path)
        silence_codecs()
        self._path, self._fps, self._live = path, fps, live
        self._file = ExitStack()
        self._writer: Any = None
        self._size: Size = (0, 0)
        self._held: Any = None  # the newest picture; the next one's time tells how long it stays
        self._time = self._owed = 0.0

    def write(self, job: Job) -> None:
        frame = job.frame
        if self._writer is None:
            self._open(frame.image.shape[:2])
        else:
            self._write_held(self._places_until(frame.time) if self._live else 1)
        self._held = cv2.cvtColor(fit_centred(frame.image, self._size), cv2.COLOR_RGB2BGR)
        self._time = frame.time

    def _places_until(self, time: float) -> int:
        """How many of the video's frames lie between the held picture and a time; what rounding leaves is owed."""
        self._owed += min(time - self._time, LONGEST_HOLD) * self._fps
        places = round(self._owed)
        self._owed -= places
        return places

    def _write_held(self, times: int) -> None:
        for _ in range(times):
            self._writer.write(self._held)

    def _open(self, size: Size) -> None:
        # Every build of OpenCV can encode MPEG-4 part 2; H.264 is missing from pip's.
        code = cv2.VideoWriter.fourcc(*"mp4v")
        with ExitStack() as stack:  # kept only if the encoder opens: otherwise an older video stays
            temporary = stack.enter_context(atomic_path(self._path))
            with stderr_silenced():
                writer = cv2.VideoWriter(str(temporary), code, self._fps, size[::-1])
            if not writer.isOpened():
                raise UsageError(f"OpenCV cannot encode {self._path} ({size[1]}x{size[0]}): name a folder for pictures")
            self._writer, self._size, self._file = writer, size, stack.pop_all()

    def close(self) -> None:
        if self._writer is not None:
            self._write_held(1)
            self._writer.release()
            self._writer = None
        self._file.close()


class ImageFolderSink:
    """One JPEG a frame, named after the frame."""

    def __init__(self, folder: Path) -> None:
        _check_folder(folder)
        self._folder = folder
        self._written: set[str] = set()

    def write(self, job: Job) -> None:
        frame = job.frame
        name = Path(frame.name).stem
        if name in self._written:  # a glob over folders, or a.jpg beside a.png
            name = f"{name}_{frame.index:06d}"
        self._written.add(name)
        _, data = cv2.imencode(".jpg", cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
        with atomic_path(self._folder / f"{name}.jpg") as temporary:
            temporary.write_bytes(data.tobytes())

    def close(self) -> None:
        """Every picture has its name already."""


class JsonLinesSink:
    """One JSON object a frame and line: frame, name, time in seconds, people; coordinates in source pixels."""

    def __init__(self, path: Path) -> None:
        self._file = _TextFile(path)

    def write(self, job: Job) -> None:
        frame, poses = job.frame, job.people or ()
        people = [
            {"id": p.track_id, "box": _rounded(p.box), "score": round(p.score, 4), "keypoints": _rounded(p.keypoints)}
            for p in poses
        ]
        line = {"frame": frame.index, "name": frame.name, "time": round(frame.time, 6), "people": people}
        self._file.append(json.dumps(line) + "\n")

    def close(self) -> None:
        self._file.close()


class CocoSink:
    """COCO keypoint results: a JSON list of one object a person.

    ``image_id`` is the number that the image file is named after, such as 139 for ``000000000139.jpg``, if every input
    has a number of its own for a name; otherwise the index of the frame, for all of them.

    Args:
        path: the file.
        inputs: the files of the source.
    """

    def __init__(self, path: Path, inputs: Sequence[Path]) -> None:
        self._file = _TextFile(path, header="[", footer="\n]\n")
        self._numbered = _numbered(inputs)
        self._separator = "\n"

    def write(self, job: Job) -> None:
        frame, poses = job.frame, job.people or ()
        stem = Path(frame.name).stem
        image_id = int(stem) if self._numbered and stem.isdecimal() else frame.index
        self._file.append("")  # a frame without people counts too
        for pose in poses:
            x1, y1, x2, y2 = pose.box
            person = {
                "image_id": image_id,
                "category_id": _PERSON,
                "keypoints": _rounded(pose.keypoints.ravel()),
                "score": round(pose.score, 4),
                "bbox": _rounded(np.array([x1, y1, x2 - x1, y2 - y1])),
            }
            self._file.append(self._separator + json.dumps(person))
            self._separator = ",\n"

    def close(self) -> None:
        self._file.close()


class _TextFile:
    """Text that gets its name in ``close``, and only if something was appended: an older file is kept otherwise."""

    def __init__(self, path: Path, header: str = "", footer: str = "") -> None:
        _check_file(path)
        self._path, self._header, self._footer = path, header, footer
        self._stack = ExitStack()
        self._file: TextIO | None = None

    def append(self, text: str) -> None:
        if self._file is None:
            temporary = self._stack.enter_context(atomic_path(self._path))
            self._file = self._stack.enter_context(temporary.open("w", encoding="utf-8"))
            self._file.write(self._header)
        self._file.write(text)

    def close(self) -> None:
        if self._file is not None:
            self._file.write(self._footer)
        self._stack.close()


def fit_centred(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """A picture (H, W, 3) fitted into ``size`` (height, width), centred on black; itself where it has that size."""
    if image.shape[:2] == size:
        return image
    height, width = fitted_size(image.shape[:2], size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas = np.zeros((*size, 3), dtype=np.uint8)
    canvas[top : top + height, left : left + width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return canvas


def _numbered(files: Sequence[Path]) -> bool:
    """Whether every file is named by a number that no other has: then numbers and indices do not mix and collide."""
    stems = [file.stem for file in files]
    return all(map(str.isdecimal, stems)) and len(set(map(int, stems))) == len(stems)


def _check_file(path: Path) -> None:
    """Refuse an output that could not get its name at the end, before any work is done."""
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder, expected the name of a file")
    _check_folder(path.parent)


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write to folder {folder}: permission denied")


def _rounded(values: NDArray[np.floating]) -> list[Any]:
    """A thousandth of a pixel is far below any network's error, and halves the file."""
    return np.asarray(values, dtype=np.float64).round(3).tolist()

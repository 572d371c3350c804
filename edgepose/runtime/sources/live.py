"""The source for cameras and streams, which reads in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import cv2

from ...core.errors import UsageError
from ..job import Frame
from .source import Source, frame_rate


class LiveSource(Source):
    """A camera or stream. A thread reads all frames and keeps only the newest, so that a slow consumer does not lag.

    The ``capture``, an opened ``cv2.VideoCapture``, is owned by the source.

    Raises:
        UsageError: the capture is not open; while iterating: it stopped by itself.
    """

    live = True

    def __init__(self, capture: Any, camera: str) -> None:
        if not capture.isOpened():
            raise UsageError(f"{camera} cannot be opened: check that it exists and that no other program uses it")
        self.camera, self.fps = camera, frame_rate(capture)
        self._capture = capture
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._running, self._stopped = True, False
        self._thread = threading.Thread(target=self._read, name=camera, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        opened, index = time.monotonic(), 0
        try:
            while self._running:
                ok, image = self._capture.read()
                if not ok:
                    break
                seconds = time.monotonic() - opened
                image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                frame = Frame(self.camera, index, seconds, f"live_{index:06d}", image, follows=index > 0)
                with self._changed:
                    self._newest = frame
                    self._changed.notify()
                index += 1
        finally:  # also after an error, so that no consumer waits forever
            with self._changed:
                self._running = False
                self._changed.notify()

    def __iter__(self) -> Iterator[Frame]:
        taken = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or not self._running)
                frame, self._newest = self._newest, None
            if self._stopped:
                return
            if frame is None:
                raise UsageError(f"{self.camera} stopped after {taken} frames: check the device or the network")
            taken += 1
            yield frame

    def stop(self) -> None:
        with self._changed:
            self._running, self._stopped = False, True
            self._changed.notify_all()

    def close(self) -> None:
        self.stop()
        self._thread.join()
        self._capture.release()

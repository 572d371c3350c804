"""The command ``demo``: export, build, verify and run the shipped networks."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .bundle.bundle import Bundle, open_bundle
from .bundle.manifest import CHECKPOINT, ENGINES
from .core.errors import UsageError
from .core.geometry import Size, crop_regions, region_affine, warp_crop
from .core.sample_photos import load_scene
from .detectors.kinds import SHIPPED_NAME
from .runtime.job import Frame, Job
from .runtime.run import run
from .runtime.sinks import VideoSink
from .runtime.sources import open_source
from .verify import verify

#: The bundle that comes with the package; the demo works on a copy.
SHIPPED = Path(__file__).parent / "assets" / "ditn_lite.edgepose"

CLIP_SIZE = (480, 960)
CLIP_FPS = 25.0
CLIP_FRAMES = 125

Say = Callable[[str], object]


def demo(output: Path, source: str | None = None, *, say: Say) -> None:
    """Take the shipped checkpoint through every step, and report where the results are.

    Steps without their extra are left out. The demo builds an engine of TensorRT-RTX, not of TensorRT. The bundle, the
    overlay video and the JSON lines go to the folder ``output``, and each line of progress to ``say``.

    ``source`` is that of :func:`edgepose.runtime.sources.open_source`; None stands for a clip made from two
    public-domain photos of a person each, which is sharper if scikit-image is installed.

    Raises:
        UsageError: the folder cannot be written, or the source cannot be read.
        CheckError: an engine does not reproduce the goldens.
    """
    if source is not None:
        open_source(source).close()  # refuse a wrong source before any work
    bundle = _export(output / SHIPPED.name, say)
    bundle = _build(bundle, say)
    say("verify: replaying the golden crops on every engine that can run here")
    report = verify(bundle)
    say(str(report))
    report.save(bundle.reports / "verify.json")
    report.require_passed()
    if source is None:
        clip = output / "clip.mp4"
        write_clip(clip)
        source = str(clip)
    overlay, poses = output / "overlay.mp4", output / "poses.jsonl"
    say(f"run: {source}")
    summary = run(bundle.path, source, detector=SHIPPED_NAME, save_video=overlay, save_json=poses)
    say(str(summary))
    for what, path in (
        ("bundle", bundle.path),
        ("report", bundle.reports / "verify.html"),
        ("overlay video", overlay),
        ("poses, one JSON object per frame", poses),
    ):
        say(f"{what}: {path}")


def _export(path: Path, say: Say) -> Bundle:
    if find_spec("torch") is None:
        say(f"export: PyTorch is not installed, so {path} is a copy of the shipped bundle")
        try:
            shutil.copytree(SHIPPED, path, dirs_exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot copy {SHIPPED} to {path}: {error.strerror or error}") from error
        return open_bundle(path)
    from .export.from_checkpoint import export

    say(f"export: the shipped checkpoint to {path}")
    return export(None, path, weights=SHIPPED / CHECKPOINT)


def _build(bundle: Bundle, say: Say) -> Bundle:
    if find_spec("tensorrt_rtx") is None:
        say("build: left out, TensorRT-RTX is not installed: pip install 'edgepose[rtx]'")
        return bundle
    from .build.engine import build_engine

    say("build: a TensorRT-RTX engine")
    try:
        record = build_engine(bundle, "tensorrt-rtx")
    except UsageError as error:  # for example, a GPU that TensorRT-RTX does not support; other backends still run
        say(f"build: left out: {error}")
        return bundle
    say(f"{record}\nengine: {bundle.path / ENGINES / record.file_name}")
    return open_bundle(bundle.path)


def write_clip(path: Path) -> None:
    """Write a short video of a camera that moves over two people; raise UsageError if that fails."""
    scene = load_scene()
    with closing(VideoSink(path, CLIP_FPS)) as sink:
        for index, matrix in enumerate(camera_path(scene.shape[:2])):
            image = warp_crop(scene, matrix, CLIP_SIZE)
            sink.write(Job(Frame("clip", index, index / CLIP_FPS, f"clip_{index:06d}", image)))


def camera_path(scene: Size) -> Iterator[NDArray[np.float64]]:
    """Yield affine matrices (2, 3) from a scene of (height, width) to each frame: a slow zoom with sway and roll."""
    whole = crop_regions((0, 0, scene[1], scene[0]), CLIP_SIZE, padding=1.0)[0]
    for t in np.linspace(0.0, 1.0, CLIP_FRAMES):
        sway, zoom = 0.02 * np.sin(2 * np.pi * t), 1.1 - 0.1 * t
        view = (whole[0] + sway * whole[2], whole[1], whole[2] * zoom, whole[3] * zoom)
        yield region_affine(view, CLIP_SIZE, rotation=2 * np.sin(2 * np.pi * t))

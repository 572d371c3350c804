"""The pose estimator: keypoints for the persons' boxes in a picture, in one batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..backends.plan import choose
from ..backends.self_check import open_checked
from ..backends.session import Session
from ..bundle.bundle import Bundle, open_bundle
from ..bundle.contract import IMAGES, KEYPOINTS
from ..bundle.tasks import pose_contract
from ..core.boxes import check_boxes
from ..core.errors import CheckError
from ..core.geometry import CROP_PADDING, Size
from ..core.images import check_image
from ..core.pose import People, people_from_crops
from ..core.skeletons import Skeleton
from .crop import Cropper, HostCropper


class PoseEstimator:
    """A pose network with cropping and decoding around it; a context manager, for one thread at a time.

    Args:
        session: a network with the graph contract: ``images`` uint8 (N, h, w, 3) RGB to ``keypoints`` float32
            (N, J, 3) in crop pixels and optionally ``heatmaps`` float32 (N, J, h/4, w/4). Owned by the estimator.
        skeleton, input_size: the J joints, and the (height, width) of the crops.
        crop_padding: factor from a person's box to the crop.
        precision: precision of the session, for messages.

    Attributes:
        backend: name of the engine that runs the network.
        cropper: cuts the persons out of a picture; it may be replaced.

    Raises:
        UsageError: the network differs from the contract for this skeleton and size.
    """

    def __init__(
        self,
        session: Session,
        skeleton: Skeleton,
        input_size: Size,
        crop_padding: float = CROP_PADDING,
        precision: str = "fp32",
    ) -> None:
        contract = pose_contract(len(skeleton.joints), input_size)
        remedy = "export or import the model again, so that it keeps the graph contract"
        contract.refuse(session.inputs, session.outputs, remedy=remedy)
        self.skeleton, self.input_size, self.crop_padding = skeleton, input_size, crop_padding
        self.backend, self.precision = session.backend, precision
        self.cropper: Cropper = HostCropper(input_size, crop_padding)
        self._session = session

    def __call__(self, image: NDArray[np.uint8], boxes: ArrayLike) -> People:
        """Estimate the poses of the persons in one picture: one per box, in the same order.

        Args:
            image: (H, W, 3) uint8 RGB; not modified.
            boxes: (N, 4) xyxy in pixels of ``image``; N may be 0. They may extend beyond the picture.

        Raises:
            UsageError: an argument has another shape or dtype.
            CheckError: the network's outputs hold NaN or infinity.
        """
        boxes = check_boxes(boxes)
        check_image(image)
        crops = self.cropper(image, boxes)
        return people_from_crops(self.infer(crops.pixels), crops.inverses, boxes)

    def infer(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return keypoints (N, J, 3) float32 in crop pixels for crops (N, h, w, 3) uint8 RGB; N may be 0.

        Raises:
            CheckError: the network's outputs hold NaN or infinity.
        """
        if len(crops) == 0:
            return np.zeros((0, len(self.skeleton.joints), 3), dtype=np.float32)
        keypoints: NDArray[np.float32] = self._session.run({IMAGES: crops})[KEYPOINTS]
        if not np.isfinite(keypoints).all():
            raise CheckError(
                f"the network gave NaN or infinity on backend {self.backend} in {self.precision}: run edgepose verify"
            )
        return keypoints

    def close(self) -> None:
        """Free the network; the estimator cannot run afterwards."""
        self._session.close()

    def __enter__(self) -> PoseEstimator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(
    bundle: Bundle | Path | str, backend: str = "auto", precision: str = "auto", *, self_check: bool = True
) -> PoseEstimator:
    """Open a model bundle for inference.

    Args:
        bundle: folder ``NAME.edgepose``, name of a shipped bundle, or an opened bundle.
        backend: tensorrt, tensorrt-rtx, onnxruntime, openvino, torch, or ``auto`` for the first that can run here.
        precision: one of :data:`edgepose.bundle.manifest.PRECISIONS` that the bundle has, or ``auto`` for ``mixed`` or
            else the most exact. A CPU without arithmetic for it computes in FP32.
        self_check: replay a few golden crops if that was not done on this machine yet.

    Raises:
        UsageError: the bundle lacks a file or holds a changed one, or backend or precision cannot run here.
        CheckError: the network does not reproduce its goldens here.

    Example::

        with load("person.edgepose") as estimator:
            poses = estimator(image_rgb, [[100, 50, 300, 450]])
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    skeleton, manifest = opened.skeleton, opened.manifest
    runner = choose(opened, backend, precision)

    def estimator(session: Session) -> PoseEstimator:
        return PoseEstimator(session, skeleton, manifest.input_size, manifest.crop_padding, runner.precision)

    return open_checked(runner, estimator, self_check)

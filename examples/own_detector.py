"""Bring your own person detector: own_detector.py PICTURE. Here it takes the middle half of every picture."""

import sys

import numpy as np

import edgepose
from edgepose.core.images import read_image
from edgepose.runtime import Detections


class Middle:
    engine = "none"

    def prepare(self, image: np.ndarray) -> dict:
        return {"image": image}

    def infer(self, feeds: dict) -> dict:
        return feeds  # a network would run here

    def finish(self, outputs: dict, source: tuple[int, int]) -> Detections:  # noqa: ARG002
        height, width = source
        return Detections(np.array([[width / 4, 0, width * 3 / 4, height]]), np.ones(1, np.float32))

    def close(self) -> None: ...


if __name__ == "__main__":
    pipeline = edgepose.Pipeline(edgepose.load("ditn_lite"), Middle())
    print(pipeline.process(read_image(sys.argv[1])).keypoints.shape)

"""Estimate the pose of one person in a picture: estimator.py PICTURE X1 Y1 X2 Y2."""

import sys

import edgepose
from edgepose.core.images import read_image


def main(picture: str, *box: str) -> None:
    image = read_image(picture)  # (H, W, 3) uint8 RGB
    with edgepose.load("ditn_lite") as estimator:
        people = estimator(image, [[float(side) for side in box]])
    for joint, (x, y, score) in zip(estimator.skeleton.joints, people[0].keypoints, strict=True):
        print(f"{joint:<16} {x:7.1f} {y:7.1f}  score {score:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Write the people in every picture of a folder to a CSV file: folder_to_csv.py FOLDER OUT.csv."""

import csv
import sys
from pathlib import Path

import edgepose
from edgepose.runtime import open_source


def main(folder: str, out: str) -> None:
    pipeline = edgepose.Pipeline(edgepose.load("ditn_lite"), edgepose.open_detector("person_lite"))
    joints = pipeline.estimator.skeleton.joints
    with open_source(folder) as pictures, Path(out).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["picture", "score", *(f"{joint}_{axis}" for joint in joints for axis in "xy")])
        for frame in pictures:
            for pose in pipeline.process(frame.image):
                table.writerow([frame.name, f"{pose.score:.3f}", *pose.keypoints[:, :2].ravel().round(1)])


if __name__ == "__main__":
    main(*sys.argv[1:])

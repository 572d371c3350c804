"""Send results where you like: own_sink.py PICTURES_OR_VIDEO. Here a line per person on the terminal."""

import sys

import edgepose
from edgepose.runtime import Job, open_source, person_stages, run_inline


class Printer:
    def write(self, job: Job) -> None:
        for pose in job.people or ():
            x1, y1, x2, y2 = pose.box
            print(f"{job.frame.name}: person {pose.track_id} at {x1:.0f},{y1:.0f} to {x2:.0f},{y2:.0f}")

    def close(self) -> None:
        print("end")


if __name__ == "__main__":
    printer = Printer()
    with edgepose.load("ditn_lite") as estimator, open_source(sys.argv[1]) as source:
        run_inline(source, person_stages(estimator, edgepose.open_detector("person_lite")), [printer])
    printer.close()

"""Take frames from your own program: own_source.py. Here they are noise; a camera's library would give real ones."""

from collections.abc import Iterator

import numpy as np

import edgepose
from edgepose.runtime import Frame, Source, person_stages, run_inline
from edgepose.runtime.tally import Tally


class Noise(Source):
    camera = "noise"

    def __iter__(self) -> Iterator[Frame]:
        random = np.random.default_rng(0)
        for index in range(5):
            image = random.integers(0, 256, (240, 320, 3), dtype=np.uint8)
            yield Frame(self.camera, index, index / 25, f"noise_{index}", image, follows=index > 0)


if __name__ == "__main__":
    tally = Tally()
    with edgepose.load("ditn_lite") as estimator:
        run_inline(Noise(), person_stages(estimator, None), [tally])
    print(f"{tally.frames} frames, {tally.people} people")

"""The grids of YOLOv3, which its network, its detector and its graph share.

Source: Redmon and Farhadi, "YOLOv3: An Incremental Improvement", 2018, sections 2.1 (decoding) and 2.3 (anchors);
pjreddie/darknet, ``cfg/yolov3.cfg``, for which anchors belong to which grid.
"""

from __future__ import annotations

#: Width in pixels of the cells of the three grids, in the order of the network's predictions.
STRIDES = (32, 16, 8)
#: Anchor boxes (width, height) in pixels of the network's input, three for each stride.
ANCHORS = (
    ((116, 90), (156, 198), (373, 326)),
    ((30, 61), (62, 45), (59, 119)),
    ((10, 13), (16, 30), (33, 23)),
)

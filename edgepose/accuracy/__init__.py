"""Accuracy of keypoints and boxes, against labels or against FP32."""

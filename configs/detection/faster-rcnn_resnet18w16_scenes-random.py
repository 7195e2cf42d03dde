"""Faster R-CNN, a small ResNet-18, Fashion-Scenes, random start.

Not from the paper: its Table 4 in minutes on one core. All starts and seeds: python tools/scenes_transfer.py.
First the scenes: python tools/make_fashion_scenes.py
Ours: AP 48.5 ± 0.8 over three seeds, see docs/fashion_scenes.md.
Command: python tools/train.py configs/detection/faster-rcnn_resnet18w16_scenes-random.py
"""

_base_ = '../_base_/detection/faster-rcnn_resnet18w16_scenes.py'

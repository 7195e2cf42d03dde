"""RetinaNet, a small ResNet-18, Fashion-Scenes, random start.

Not from the paper: its Table 4 in minutes on one core. All starts and seeds: python tools/scenes_transfer.py.
First the scenes: python tools/make_fashion_scenes.py
Ours: AP 44.0 with seed 0, see docs/fashion_scenes.md.
Command: python tools/train.py configs/detection/retinanet_resnet18w16_scenes-random.py
"""

_base_ = '../_base_/detection/retinanet_resnet18w16_scenes.py'

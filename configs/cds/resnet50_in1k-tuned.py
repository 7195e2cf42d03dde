"""CDS, tuned preset, ResNet-50, ImageNet-1k.

Not from the paper: cross-entropy on both views, and weight 0.3, as docs/study.md recommends.
Evidence, docs/study.md, small networks, five seeds: beside the official preset +1.0 points (95 %: 0.3 to 1.6) on held-out
grey images. Cross-entropy on both views in place of view 0, beside the contrast, each with its chosen weight: +4.7 (1.8
to 7.6) with 58 classes in colour, where both chose 0.1; no difference found with ten in grey, where they chose 0.3 and 3.
Of four weights the held-out images chose 0.3 at the three points with 100 images of a class or more, 0.1 at the three
with 34 or fewer.
Ours: not run yet. Command: python tools/train.py configs/cds/resnet50_in1k-tuned.py
"""

# Often changed: as in configs/cds/resnet50_in1k.py.
_base_ = './resnet50_in1k.py'
model = dict(ce_views=(0, 1), supervisions=dict(cds=dict(loss=dict(loss_weight=0.3))))

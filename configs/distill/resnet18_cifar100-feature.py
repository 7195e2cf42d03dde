"""Naive feature distillation, ResNet-50 to ResNet-18, CIFAR-100 (Eq. 7, the ablation of Section 5.3).

The backbone's own features are drawn to the teacher's, in place of the contrastive embeddings.
First the teacher: python tools/train.py configs/cds/resnet50_cifar100.py
Ours: not run yet. Command: python tools/train.py configs/distill/resnet18_cifar100-feature.py
The paper gives no weight and no adapter for it; these are ours.
"""

_base_ = './resnet18_cifar100.py'
model = dict(supervisions=dict(
    embedding=None, feature=dict(type='FeatureDistillation', taps=(0, 1, 2, 3), loss_weight=0.1)))

"""Plain training by a modern recipe, ResNet-50, ImageNet-1k: "ResNet strikes back", A3 (timm: 78.05 %, top-1).

The twin of configs/cds/resnet50_in1k-rsb-a3.py: same network, recipe and view 0, cross-entropy alone.
Ours: not run yet. Command: python tools/train.py configs/plain/resnet50_in1k-rsb-a3.py
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root); model.train_cfg (mixing).
_base_ = [
    '../_base_/networks/resnet50_rsb_a3.py', '../_base_/datasets/in1k_rsb_a3.py',
    '../_base_/schedules/rsb_a3_100e.py', '../_base_/runtime.py']
model = dict(head=dict(num_classes={{_base_.num_classes}}))

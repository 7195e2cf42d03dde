"""Plain training, ResNet-50, ImageNet-1k (paper Table 3: 75.30, top-1).

The twin of configs/cds/resnet50_in1k.py: same network, schedule and view 0, cross-entropy alone.
Ours: not run yet. Command: python tools/train.py configs/plain/resnet50_in1k.py
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root); model.ce_views.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/in1k.py',
    '../_base_/schedules/in1k_90e.py', '../_base_/runtime.py']
model = dict(head=dict(num_classes={{_base_.num_classes}}))

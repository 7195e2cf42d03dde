"""Plain training, ResNet-50 from scratch, FGVC Aircraft (Table 5 of the paper).

The twin of configs/cds/resnet50_aircraft.py: same network, schedule and view 0, cross-entropy alone.
Ours: not run yet. Command: python tools/train.py configs/plain/resnet50_aircraft.py
Not in the paper: image size and batch (our choice), schedule (from the released code for CIFAR), views (from the
released code for ImageNet).
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root); model.ce_views.
_base_ = [
    '../_base_/networks/resnet50.py', '../_base_/datasets/aircraft.py',
    '../_base_/schedules/fine_300e.py', '../_base_/runtime.py']
model = dict(head=dict(num_classes={{_base_.num_classes}}))

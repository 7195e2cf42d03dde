"""Plain training of another backbone: Swin-T, ImageNet-1k. Not in the paper.

The twin of configs/cds/swin-tiny_in1k.py: same network, schedule and view 0, cross-entropy alone.
Ours: not run yet. Command: python tools/train.py configs/plain/swin-tiny_in1k.py
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root); model.ce_views.
_base_ = [
    '../_base_/networks/swin_tiny.py', '../_base_/datasets/in1k.py',
    '../_base_/schedules/in1k_300e_adamw.py', '../_base_/runtime.py']

"""Plain training, a small ResNet-10 on the embedded emoji in colour.

The twin of configs/cds/resnet10w16_emoji.py: same network, schedule and view 0, cross-entropy alone.
Command: python tools/train.py configs/plain/resnet10w16_emoji.py
"""

# Often changed: train_dataloader.dataset.classes (with num_classes of head and preprocessor) and held_out, the same in
#   val_ and test_dataloader; train_cfg.max_epochs (with param_scheduler.1.end); train_dataloader.batch_size.
_base_ = [
    '../_base_/networks/resnet10w16_cifar.py', '../_base_/datasets/emoji.py',
    '../_base_/schedules/emoji_50e.py', '../_base_/runtime.py']
model = dict(head=dict(num_classes={{_base_.num_classes}}))

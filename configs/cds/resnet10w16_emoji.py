"""CDS, a small ResNet-10 on the embedded emoji in colour.

Not from the paper: images in colour, which the hue, saturation and grey of the second view need; docs/study.md.
Command: python tools/train.py configs/cds/resnet10w16_emoji.py
"""

# Often changed: train_dataloader.dataset.classes (with num_classes of head and preprocessor) and held_out, the same in
#   val_ and test_dataloader; train_cfg.max_epochs (with param_scheduler.1.end);
#   model.supervisions.cds.loss.temperature and loss_weight (lambda1); cds.taps and cds.neck.head.
_base_ = [
    '../_base_/networks/resnet10w16_cifar.py', '../_base_/datasets/emoji_two_view.py',
    '../_base_/schedules/emoji_50e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    supervisions=dict(cds=dict(
        type='ContrastiveSupervision',
        taps=(0, 1, 2, 3),
        neck=dict(type='CDSNeck', head='sepconv'),
        loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1))))

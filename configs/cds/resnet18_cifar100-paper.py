"""CDS, paper preset, ResNet-18, CIFAR-100 (paper Table 1: 80.84, top-1).

The preset of the text: K-1 heads, convolutions followed by a non-linear projection. Its width (128) is not
in the paper.
Ours: not run yet. Command: python tools/train.py configs/cds/resnet18_cifar100-paper.py
Not in the paper, from the released code: temperature 0.07, loss_weight 0.1, milestones, weight decay, views.
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root);
#   model.supervisions.cds.loss.temperature and loss_weight (lambda1); cds.taps and cds.neck.head; cds.gather=True.
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100_two_view.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    supervisions=dict(cds=dict(
        type='ContrastiveSupervision',
        taps=(0, 1, 2),
        neck=dict(type='CDSNeck', head='sepconv+mlp', out_channels=128),
        loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1))))

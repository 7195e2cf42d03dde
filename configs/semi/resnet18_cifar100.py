"""Semi-supervised CDS, ResNet-18, CIFAR-100 with 10 % of the labels (Eq. 6, Figure 2 of the paper).

The other points of the figure: --cfg-options train_dataloader.dataset.fraction=0.2 (0.3, 0.4).
Ours: not run yet. Command: python tools/train.py configs/semi/resnet18_cifar100.py
Neither paper nor released code: 128 labelled images in a batch, as in the baseline, and 64 unlabelled ones; epochs
as long as with all labels. From the released code for full labels: temperature 0.07, loss_weight 0.1,
milestones, weight decay, views.
"""

# Often changed: train_dataloader.dataset.fraction (or per_class, labelled_file) and seed, the choice of labels;
#   train_dataloader.batch_sampler.num_unlabelled and epoch; train_dataloader.dataset.unlabelled, a second folder;
#   model.supervisions.cds.loss.temperature and loss_weight (lambda1).
_base_ = [
    '../_base_/networks/resnet18_cifar.py', '../_base_/datasets/cifar100_semi.py',
    '../_base_/schedules/cifar_300e.py', '../_base_/runtime.py']
auto_scale_lr = dict(base_batch_size=192)  # 128 labelled, 64 unlabelled
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    supervisions=dict(cds=dict(
        type='ContrastiveSupervision',
        taps=(0, 1, 2, 3),
        neck=dict(type='CDSNeck', head='sepconv'),
        loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1))))

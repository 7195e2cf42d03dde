"""Semi-supervised CDS, a small ResNet-18, the embedded Fashion-MNIST images with 10 % of the labels (Eq. 6).

Not from the paper: one point of its Figure 2 in minutes on two cores. All of it, smaller still: python tools/paper.py
run figure2 --scale mini.
Cross-entropy on both views, so the fair baseline is the same without heads and unlabelled images (model.supervisions=None
train_dataloader.batch_sampler.num_unlabelled=0 train_dataloader.batch_size=64); it does not win against that in this run.
Ours: see docs/semi_and_distill.md. Command: python tools/train.py configs/semi/resnet18w16s_fashion.py
"""

# Often changed: train_dataloader.dataset.fraction (or per_class, labelled_file) and seed, the choice of labels;
#   train_dataloader.batch_sampler.num_unlabelled and epoch; train_dataloader.dataset.unlabelled, a second folder;
#   model.supervisions.cds.loss.temperature and loss_weight (lambda1).
_base_ = [
    '../_base_/networks/resnet18w16s_cifar.py', '../_base_/datasets/fashion_semi.py',
    '../_base_/schedules/fashion_15e.py', '../_base_/runtime.py']
auto_scale_lr = dict(base_batch_size=96)  # 64 labelled, 32 unlabelled
model = dict(
    ce_views=(0, 1),
    supervisions=dict(cds=dict(
        type='ContrastiveSupervision',
        taps=(0, 1, 2, 3),
        neck=dict(type='CDSNeck', head='sepconv'),
        loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1))))

"""Semi-supervised CDS, paper preset, ResNet-18, CIFAR-100 with 10 % of the labels (Eq. 6, Figure 2 of the paper).

The preset of the text: K-1 heads, convolutions followed by a non-linear projection, and two terms over separate sets as
Eq. 6 is written: labelled images with lambda1, unlabelled ones with a weight of 1. Its width (128) is not in the paper.
The other points of the figure: --cfg-options train_dataloader.dataset.fraction=0.2 (0.3, 0.4).
Ours: not run yet. Command: python tools/train.py configs/semi/resnet18_cifar100-paper.py
Neither paper nor released code: 128 labelled images in a batch, as in the baseline, and 64 unlabelled ones; epochs
as long as with all labels. From the released code for full labels: temperature 0.07, loss_weight 0.1,
milestones, weight decay, views.
"""

# Often changed: train_dataloader.dataset.fraction (or per_class, labelled_file) and seed, the choice of labels;
#   train_dataloader.batch_sampler.num_unlabelled and epoch; train_dataloader.dataset.unlabelled, a second folder;
#   model.supervisions.cds.loss.temperature and loss_weight (lambda1); cds.unlabelled_weight.
_base_ = './resnet18_cifar100.py'
model = dict(
    supervisions=dict(cds=dict(
        taps=(0, 1, 2),
        neck=dict(head='sepconv+mlp', out_channels=128),
        unlabelled_weight=1.0)))

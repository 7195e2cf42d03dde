"""The embedded Fashion-MNIST images, 10 % of the labels, two views: 64 labelled and 32 unlabelled images in a batch."""

_base_ = './fashion_two_view.py'
train_dataloader = dict(
    batch_size=96,
    drop_last=False,  # the batch sampler makes full batches only
    batch_sampler=dict(type='SemiBatchSampler', num_unlabelled=32, epoch='all'),
    dataset=dict(
        _delete_=True,  # the labelled data set goes into the wrapper
        type='PartiallyLabelledDataset', fraction=0.1, seed=0, dataset={{_base_.train_dataloader.dataset}}))

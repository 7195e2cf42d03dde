"""The embedded Fashion-MNIST images, 10 % of the labels, one view: 64 labelled images in a batch, as many steps."""

_base_ = './fashion.py'
train_dataloader = dict(
    drop_last=False,  # the batch sampler makes full batches only
    batch_sampler=dict(type='SemiBatchSampler', num_unlabelled=0, epoch='all'),
    dataset=dict(
        _delete_=True,  # the labelled data set goes into the wrapper
        type='PartiallyLabelledDataset', fraction=0.1, seed=0, dataset={{_base_.train_dataloader.dataset}}))

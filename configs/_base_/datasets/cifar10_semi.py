"""CIFAR-10 with the labels of 10 %, two views: batches of 128 labelled and 64 unlabelled images."""

_base_ = './cifar10_two_view.py'
train_dataloader = dict(
    batch_size=192,
    drop_last=False,  # the batch sampler makes full batches only
    batch_sampler=dict(type='SemiBatchSampler', num_unlabelled=64, epoch='all'),
    dataset=dict(
        _delete_=True,  # the labelled data set goes into the wrapper
        type='PartiallyLabelledDataset', fraction=0.1, seed=0, dataset={{_base_.train_dataloader.dataset}}))

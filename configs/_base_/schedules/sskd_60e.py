"""CIFAR, 60 epochs at 64 images: stage 1 of SSKD, which trains a projection alone; from its authors' code."""

optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[30, 45], gamma=0.1)]
train_cfg = dict(by_epoch=True, max_epochs=60, val_interval=60)  # its accuracy does not change
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64)

"""Fine-grained sets from scratch, 300 epochs at 64 images. The paper gives none.

Our choice: what the released code does on CIFAR, the other small sets, with its learning rate of 0.1 at 128 images
scaled to 64.
"""

optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[90, 180, 280], gamma=0.1)]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64)

"""CIFAR, 240 epochs at 64 images: the schedule of the distillation literature (CRD's benchmark and its followers)."""

# Their networks with few parameters (MobileNetV2, ShuffleNets) start at 0.01.
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[150, 180, 210], gamma=0.1)]
train_cfg = dict(by_epoch=True, max_epochs=240, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64)

"""CDS, a small ResNet-18 on the embedded Fashion-MNIST images; `make train` runs its tuned form.

Not from the paper: a demonstration that runs in minutes on two cores, with the official form of the heads.
Command: python tools/train.py configs/cds/resnet18w16_fashion.py
"""

# Often changed: train_cfg.max_epochs (with param_scheduler.1.end); train_dataloader.batch_size;
#   model.supervisions.cds.loss.temperature and loss_weight (lambda1); cds.taps and cds.neck.head; cds.gather=True.
_base_ = [
    '../_base_/networks/resnet18w16_cifar.py', '../_base_/datasets/fashion_two_view.py',
    '../_base_/schedules/fashion_15e.py', '../_base_/runtime.py']
model = dict(
    supervisions=dict(cds=dict(
        type='ContrastiveSupervision',
        taps=(0, 1, 2, 3),
        neck=dict(type='CDSNeck', head='sepconv'),
        loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1))))

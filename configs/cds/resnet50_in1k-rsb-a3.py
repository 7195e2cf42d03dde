"""CDS in a modern recipe, ResNet-50, ImageNet-1k. Not in the paper: "ResNet strikes back", A3.

Cross-entropy sees mixed images of view 0; the contrast compares both views as they are, which pass the network too.
Ours: not run yet. Command: python tools/train.py configs/cds/resnet50_in1k-rsb-a3.py
Not in the paper: everything; temperature 0.07 and loss_weight 0.1 are those of the released code.
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root); model.train_cfg (mixing);
#   model.supervisions.cds.loss.temperature and loss_weight (lambda1); cds.taps and cds.neck.head; cds.gather=True.
_base_ = [
    '../_base_/networks/resnet50_rsb_a3.py', '../_base_/datasets/in1k_rsb_a3_two_view.py',
    '../_base_/schedules/rsb_a3_100e.py', '../_base_/runtime.py']
model = dict(
    head=dict(num_classes={{_base_.num_classes}}),
    supervisions=dict(cds=dict(
        type='ContrastiveSupervision',
        taps=(0, 1, 2, 3),
        neck=dict(type='CDSNeck', head='sepconv'),
        loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1))))

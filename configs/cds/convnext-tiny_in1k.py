"""CDS on another backbone: ConvNeXt-T, ImageNet-1k. Not in the paper.

Light heads, Linear - ReLU - Linear on the pooled map, on module names, since its numbered outputs are pooled already.
Ours: not run yet. Command: python tools/train.py configs/cds/convnext-tiny_in1k.py
Not in the paper: everything; temperature 0.07 and loss_weight 0.1 are those of the convolutional networks.
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root); cds.taps.
_base_ = [
    '../_base_/networks/convnext_tiny.py', '../_base_/datasets/in1k_two_view.py',
    '../_base_/schedules/in1k_300e_adamw.py', '../_base_/runtime.py']
model = dict(
    supervisions=dict(cds=dict(
        type='ContrastiveSupervision',
        taps=('stages.0', 'stages.1', 'stages.2'),
        neck=dict(type='CDSNeck', head='mlp'),
        loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1))))

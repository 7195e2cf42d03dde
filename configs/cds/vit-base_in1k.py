"""CDS on another backbone: ViT-B/16, ImageNet-1k. Not in the paper.

Light heads, Linear - ReLU - Linear on the pooled map, on three blocks; their tokens are laid out as a map.
Ours: not run yet. Command: python tools/train.py configs/cds/vit-base_in1k.py
Not in the paper: everything; temperature 0.07 and loss_weight 0.1 are those of the convolutional networks.
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root); cds.taps.
_base_ = [
    '../_base_/networks/vit_base.py', '../_base_/datasets/in1k_two_view.py',
    '../_base_/schedules/in1k_300e_adamw.py', '../_base_/runtime.py']
model = dict(
    supervisions=dict(cds=dict(
        type='ContrastiveSupervision',
        taps=('layers.2', 'layers.5', 'layers.8'),
        neck=dict(type='CDSNeck', head='mlp'),
        loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1))))

"""CDS on another backbone: Swin-T, ImageNet-1k. Not in the paper.

Light heads, Linear - ReLU - Linear on the pooled map, on the last block of three
stages; a numbered stage would add a LayerNorm of its own to the network.
Ours: not run yet. Command: python tools/train.py configs/cds/swin-tiny_in1k.py
Not in the paper: everything; temperature 0.07 and loss_weight 0.1 are those of the convolutional networks.
"""

# Often changed: train_dataloader.batch_size and num_workers; data_root (--data-root); cds.taps.
_base_ = [
    '../_base_/networks/swin_tiny.py', '../_base_/datasets/in1k_two_view.py',
    '../_base_/schedules/in1k_300e_adamw.py', '../_base_/runtime.py']
model = dict(
    supervisions=dict(cds=dict(
        type='ContrastiveSupervision',
        taps=('stages.0.blocks.1', 'stages.1.blocks.1', 'stages.2.blocks.5'),
        neck=dict(type='CDSNeck', head='mlp'),
        loss=dict(type='SupConLoss', temperature=0.07, loss_weight=0.1))))

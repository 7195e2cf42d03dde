"""Oxford Flowers 102, the two views of the released code for ImageNet at 224 px."""

# The paper gives neither image size nor views nor batch for the fine-grained sets: all our choice.
# Nor does it say whether the validation images are trained on; here they are, as is usual.
_base_ = './in1k_two_view.py'
num_classes = 102
data_root = '{{$MMCDS_DATA_ROOT:data}}/flowers102'
data_preprocessor = dict(num_classes=num_classes)

train_dataloader = dict(
    batch_size=64,
    dataset=dict(
        _delete_=True, type='Flowers102', data_root=data_root, split='trainval', pipeline={{_base_.train_pipeline}}))
val_dataloader = dict(
    dataset=dict(
        _delete_=True, type='Flowers102', data_root=data_root, split='test', pipeline={{_base_.test_pipeline}}))
test_dataloader = val_dataloader

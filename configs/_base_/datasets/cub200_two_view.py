"""CUB-200-2011, the two views of the released code for ImageNet at 224 px."""

# The paper gives neither image size nor views nor batch for the fine-grained sets: all our choice.
_base_ = './in1k_two_view.py'
num_classes = 200
data_root = '{{$MMCDS_DATA_ROOT:data}}/CUB_200_2011'
data_preprocessor = dict(num_classes=num_classes)

train_dataloader = dict(
    batch_size=64,
    dataset=dict(
        _delete_=True, type='CUB', data_root=data_root, split='train', pipeline={{_base_.train_pipeline}}))
val_dataloader = dict(
    dataset=dict(
        _delete_=True, type='CUB', data_root=data_root, split='test', test_mode=True,
        pipeline={{_base_.test_pipeline}}))
test_dataloader = val_dataloader

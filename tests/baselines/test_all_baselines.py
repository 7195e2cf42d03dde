"""What holds for every method of distillation: where gradients go, batches of one, half precision."""

import pytest
import torch
from baseline_cases import total
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.testing import assert_close

METHODS = {
    'kd': dict(type='KDSupervision'),
    'fitnet': dict(type='FitNetSupervision'),
    'at': dict(type='ATSupervision'),
    'rkd': dict(type='RKDSupervision'),
    'sp': dict(type='SPSupervision'),
    'cc': dict(type='CCSupervision', train_teacher_embedding=True),
    'crd': dict(type='CRDSupervision', num_negatives=4),
    'one': dict(type='ONESupervision'),
    'sskd': dict(type='SSKDSupervision'),
    'dkd': dict(type='DKDSupervision', warmup=0),
    'nkd': dict(type='NKDSupervision'),
    'reviewkd': dict(type='ReviewKDSupervision', warmup=0),
    'uskd': dict(type='USKDSupervision'),
    'dist': dict(type='DISTSupervision'),
    'standardized_kd': dict(type='StandardizedKDSupervision'),
}
VIEWS = 4  # the others look at the first one alone


def network(channels, supervisions, **other):
    return dict(
        type='CDSClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=channels, stem_channels=channels),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=8 * channels),
        data_preprocessor=dict(num_classes=3, mean=[0] * 3, std=[255] * 3),
        supervisions=supervisions,
        **other,
    )


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    config = network(6, dict(sskd=dict(type='RotationSupervision')))
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built = MODELS.build(config)
    built.init_weights()
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(dict(state_dict=built.state_dict()), path)
    return dict(config=config, checkpoint=str(path))


@pytest.fixture
def model(request, teacher):
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        built = MODELS.build(
            network(
                4,
                {request.param: METHODS[request.param]},
                teacher=None if request.param in ('one', 'uskd') else teacher,
            )
        )
    built.init_weights()
    built.supervisions[request.param].prepare(torch.arange(12) % 3)
    return built


def batch(images):
    generator = torch.Generator().manual_seed(2)
    views = torch.randn(VIEWS, images, 3, 16, 16, generator=generator)
    return views, [DataSample(metainfo=dict(sample_idx=i)).set_gt_label(i % 3) for i in range(images)]


def losses_of(model, images=6):
    torch.manual_seed(3)
    return model.loss(*batch(images))


every = pytest.mark.parametrize('model', METHODS, indirect=True)


@every
def test_gradients_reach_the_student_and_every_adapter_and_never_the_teacher(model):
    own = {name: value for name, value in losses_of(model).items() if 'loss' in name and name != 'loss_ce'}
    total(own).backward()
    missing = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    after = ['head.']  # what compares features does not touch the classifier, and a hint not what follows it
    after += ['backbone.layer3', 'backbone.layer4'] if 'fitnet' in model.supervisions else []
    assert all(name.startswith(tuple(after)) for name in missing)
    adapters = [parameter for name, parameter in model.named_parameters() if name.startswith('supervisions.')]
    assert all(parameter.grad.abs().sum() > 0 for parameter in adapters if parameter.ndim > 1)
    assert model.backbone.conv1.weight.grad.abs().max() > 0
    if model.teacher is not None:
        inner = model.teacher._network
        assert not inner.training
        assert all(not p.requires_grad and p.grad is None for p in inner.parameters())


@every
def test_a_batch_of_one_is_finite(model):
    model.eval()  # BatchNorm of the gate and of 1 x 1 maps needs two images, CheckDataHook says so
    losses = losses_of(model, images=1)
    total(losses).backward()
    assert all(torch.isfinite(value).all() for value in losses.values())
    for parameter in model.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


@every
def test_autocast_changes_no_loss_beyond_the_rounding_of_the_features(model):
    model.eval()
    states = {name: buffer.clone() for name, buffer in model.named_buffers()}
    exact = losses_of(model)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(states[name])
    with torch.autocast('cpu', torch.bfloat16):
        rounded = losses_of(model)
    for name, value in exact.items():
        if 'loss' in name:
            assert rounded[name].dtype in (torch.float32, torch.bfloat16), name
            assert_close(rounded[name].float(), value, rtol=0.15, atol=0.02)

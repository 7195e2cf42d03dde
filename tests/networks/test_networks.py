"""The paper's networks: parameter counts, CIFAR forms, stage outputs, and a real step with every method at once."""

import pytest
import torch
from conftest import build_on_meta
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.utils.flop_counter import FlopCounterMode

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.export import export_backbone
from mmcds.paper import NETWORKS
from mmcds.paper.compose import adapt, file, read, read_network

#: Which library defines a network: torchvision, or timm where torchvision does not.
TORCHVISION = dict(
    resnet18='resnet18',
    resnet34='resnet34',
    resnet50='resnet50',
    resnet101='resnet101',
    resnext50='resnext50_32x4d',
    resnext101='resnext101_32x8d',
    wide_resnet50='wide_resnet50_2',
    wide_resnet101='wide_resnet101_2',
    mobilenet_v2='mobilenet_v2',
    shufflenet_v2='shufflenet_v2_x1_0',
)
TIMM = dict(
    seresnet18='seresnet18',
    seresnet50='seresnet50',
    seresnet101='seresnet101',
    preact_resnet18='resnetv2_18',
    preact_resnet50='resnetv2_50',
    mobilenet_v1='mobilenetv1_100',
)


def fragment(name, small):
    return read_network(NETWORKS[name], small)


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


@pytest.mark.parametrize('name', [*TORCHVISION, *TIMM])
def test_imagenet_form_has_the_parameters_of_the_library_that_defines_it(name):
    import timm
    import torchvision

    with torch.device('meta'):
        if name in TORCHVISION:
            other = torchvision.models.get_model(TORCHVISION[name])
        else:
            other = timm.create_model(TIMM[name])
    ours = build_on_meta(fragment(name, False))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in other.parameters())
    # timm's pre-activation networks classify by a 1x1 convolution
    ours, theirs = (sorted(str(tuple(p.squeeze().shape)) for p in net.parameters()) for net in (ours, other))
    assert ours == theirs


def test_shufflenet_v1_has_the_size_that_the_host_publishes():
    assert sum(p.numel() for p in build_on_meta(fragment('shufflenet_v1', False)).parameters()) == 1_865_728


@pytest.mark.parametrize('name', [name for name in NETWORKS if not name.startswith('mini')])
def test_cifar_form_differs_by_the_stem_only(name):
    large, small = (build_on_meta(fragment(name, small)) for small in (False, True))
    assert small.head.num_classes == 10
    ours, other = shapes(small.backbone), shapes(large.backbone)
    assert list(ours) == list(other)
    differing = {key for key in ours if ours[key] != other[key]}
    assert differing == ({'conv1.weight'} if 'resne' in name else set())
    for stages in (small, large):
        info = stages.measure()
        assert info.final.stride == {large: 32.0, small: 16.0 if 'mobilenet' in name else 8.0}[stages]


#: What makes a network narrow; those that are missing are small already.
NARROW = {
    'resnext50': dict(base_channels=4, stem_channels=4, groups=2, width_per_group=2),
    'resnext101': dict(base_channels=4, stem_channels=4, groups=2, width_per_group=2),
    'wide_resnet50': dict(base_channels=8, stem_channels=4),
    'wide_resnet101': dict(base_channels=8, stem_channels=4),
    'mobilenet_v1': dict(base_channels=8),
    **{
        name: dict(base_channels=4, stem_channels=4)
        for name in NETWORKS
        if name.split('_')[0].startswith(('resnet', 'seresnet', 'preact'))
    },
}


@pytest.mark.parametrize('small, side', [(True, 32), (False, 64)])
@pytest.mark.parametrize('name', [name for name in NETWORKS if not name.startswith('mini')])
def test_every_method_trains_on_it_and_leaves_the_test_time_network_alone(name, small, side, tmp_path):
    """All methods of the tables at once; the heads of one do not touch those of another."""
    model = fragment(name, small)
    model.backbone.merge(NARROW.get(name, {}))
    if name in NARROW:
        probe = dict(model, head=None, type='ImageClassifier')
        width = build_on_meta(probe).backbone(torch.zeros(1, 3, side, side, device='meta'))[-1].shape[1]
        model.head.in_channels = width
    plain = build_on_meta(model)
    supervisions = {}
    for method in ('dsn', 'dks', 'dhm', 'cds'):
        supervisions.update(read(file(f'{method}/resnet18_cifar100')).model.supervisions)
    for supervision in supervisions.values():
        adapt(supervision, NETWORKS[name])
    model.supervisions = supervisions
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        full = MODELS.build(model)
    assert set(full.supervisions) == {'dsn', 'dks', 'dhm', 'cds'}
    assert {k: v for k, v in shapes(full).items() if not k.startswith('supervisions.')} == shapes(plain)
    full.init_weights()
    samples = [DataSample().set_gt_label(label) for label in (1, 2)]
    optimizer = torch.optim.SGD(full.parameters(), lr=1e-3)
    losses = full.loss(torch.randn(2, 2, 3, side, side), samples)
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    for key, parameter in full.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    optimizer.step()
    checkpoint = dict(state_dict=full.state_dict(), meta=dict(cfg=Config(dict(model=model)).pretty_text))
    torch.save(checkpoint, tmp_path / 'epoch_1.pth')
    manifest = export_backbone(tmp_path / 'epoch_1.pth', tmp_path / 'backbone.pth')
    assert manifest['num_parameters'] == sum(parameter.numel() for parameter in plain.backbone.parameters())
    full.eval()
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        before = full(images, mode='tensor')
        assert operations(full, images) == operations(plain, images.to('meta'))
        full.supervisions.clear()
        assert torch.equal(full(images, mode='tensor'), before)


def operations(model, images):
    """Floating-point operations of a prediction."""
    model.eval()
    with FlopCounterMode(display=False) as counter:
        model(images, mode='tensor')
    return counter.get_total_flops()


def test_a_tap_of_a_preactivation_network_comes_after_batchnorm_and_relu():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        network = MODELS.build(
            dict(type='PreActResNet', depth=18, stem='cifar', stem_channels=4, base_channels=4, out_indices=(0, 3))
        )
    network.eval()
    images = torch.randn(2, 3, 16, 16)
    first, last = network(images)
    x = network.layer1(network.conv1(images))
    torch.testing.assert_close(first, network.layer2[0].norm1(x).relu())
    torch.testing.assert_close(last, network.norm(network.layer4(network.layer3(network.layer2(x)))).relu())


def test_an_unknown_depth_is_refused():
    with pytest.raises(ConfigError, match=r"depth is 20 and stem 'cifar'; choose a depth of 18, 34, 50, 101"):
        MODELS.build(dict(type='mmpretrain.PreActResNet', depth=20, stem='cifar'))


def test_checkpointing_of_squeeze_and_excitation_changes_nothing():
    from mmcds.networks.se_resnet import SEBasicBlock

    block = SEBasicBlock(16, 16)
    image = torch.randn(2, 16, 4, 4, requires_grad=True)
    gradients = []
    for with_cp in (False, True):
        block.with_cp = with_cp
        gradients.append(torch.autograd.grad(block(image).sum(), image)[0])
    torch.testing.assert_close(*gradients)

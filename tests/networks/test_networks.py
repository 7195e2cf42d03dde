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
from mmcds.networks.cifar100_repo import (
    GroupedShuffle,
    InvertedResidual,
    PreActBlockRepo,
    SEBasicBlockRepo,
    SplitShuffle,
)
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


#: Parameters at 100 classes of the forms of pytorch-cifar100, counted there.
REPO = dict(
    resnext50=14_788_772,
    resnext101=25_303_204,
    seresnet18=11_314_012,
    seresnet50=26_262_804,
    preact_resnet18=11_222_244,
    preact_resnet50=23_720_164,
    mobilenet_v1=3_315_428,
    mobilenet_v2=2_369_380,
    shufflenet_v1=1_012_108,
    shufflenet_v2=1_360_896,
)


def fragment(name, small, form='library'):
    return read_network(NETWORKS[name], small, form)


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


@pytest.mark.parametrize('name', REPO)
def test_a_form_of_the_common_code_base_has_its_number_of_parameters(name):
    model = fragment(name, True, 'cifar100repo')
    model.head.num_classes = 100
    built = build_on_meta(model)
    assert sum(p.numel() for p in built.parameters()) == REPO[name]
    library = build_on_meta(fragment(name, True))
    images = torch.zeros(1, 3, 32, 32, device='meta')
    sides = [[tuple(out.shape[1:]) for out in net.backbone(images)] for net in (built, library)]
    if name == 'mobilenet_v2':
        assert sides == [[(1280, 5, 5)], [(1280, 2, 2)]]
        assert [round(operations(net, images) / 2e6) for net in (built, library)] == [65, 24]
    else:
        assert sides[0] == sides[1]


def test_networks_without_a_form_of_the_common_code_base_stay_as_they_are():
    for name in NETWORKS:
        same = fragment(name, True) == fragment(name, True, 'cifar100repo')
        assert same == (name not in (*REPO, 'seresnet101')), name


def randomised(module):
    """The module in float64 and evaluation, with BatchNorms and biases that do something."""
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    return module.double().eval()


def test_blocks_of_the_common_code_base_compute_what_their_form_says():
    relu, images = torch.relu, torch.randn(2, 12, 6, 6).double()
    se = randomised(SEBasicBlockRepo(16, 16))
    x = torch.randn(2, 16, 6, 6).double()
    out = relu(se.norm2(se.conv2(relu(se.norm1(se.conv1(x))))))
    layer = se.se_layer[1]
    weight = layer.conv2(layer.conv1(out.mean((2, 3), keepdim=True)))
    torch.testing.assert_close(se(x), relu(out * weight + x))
    assert layer.conv1.conv.out_channels == 1

    pre = randomised(PreActBlockRepo(12, 16, 4, 2, True, dict(type='BN')))
    assert [pre.conv1.stride, pre.conv2.stride] == [(2, 2), (1, 1)]
    out = pre.conv3(relu(pre.norm3(pre.conv2(relu(pre.norm2(pre.conv1(relu(pre.norm1(images)))))))))
    torch.testing.assert_close(pre(images), out + pre.downsample(images))

    split = randomised(SplitShuffle(12, 12, 1))
    kept, passed = images[:, :6], split.residual(images[:, 6:])
    torch.testing.assert_close(split(images), torch.stack([kept, passed], 2).flatten(1, 2))

    grouped = randomised(GroupedShuffle(12, 24, 2))
    first, last = grouped.residual[:3], grouped.residual[4:]
    shuffled = first(images).unflatten(1, (3, 2)).transpose(1, 2).flatten(1, 2)
    pooled = torch.nn.functional.avg_pool2d(images, 3, 2, 1)
    torch.testing.assert_close(grouped(images), relu(torch.cat([pooled, last(shuffled)], 1)))

    inverted = randomised(InvertedResidual(12, 12, 1, 2))
    torch.testing.assert_close(inverted(images), images + inverted.residual(images))


def test_the_released_form_of_an_imagenet_resnet_has_no_max_pooling_and_costs_more():
    import torchvision

    other = torchvision.models.resnet18().eval()
    other.maxpool = torch.nn.Identity()
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        ours = MODELS.build(fragment('resnet18', False, 'released')).eval()
    assert type(ours.backbone).__name__ == 'UnpooledResNet'
    weights = other.state_dict()
    names = {name.replace('fc.', 'head.fc.'): name for name in weights}
    ours.load_state_dict(
        {name: weights[names[name.removeprefix('backbone.')]] for name in ours.state_dict()}, strict=True
    )
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(images, mode='tensor'), other(images))
    large = torch.zeros(1, 3, 224, 224, device='meta')
    built = {form: build_on_meta(fragment('resnet18', False, form)) for form in ('library', 'released')}
    assert {form: round(operations(net, large) / 2e7) for form, net in built.items()} == dict(
        library=181, released=690
    )
    built['released'].backbone.out_indices = (0, 1, 2, 3)
    assert [out.shape[-1] for out in built['released'].backbone(large)] == [112, 56, 28, 14]
    assert built['released'].measure().final.stride == 16


TRAINED = [(name, form, side) for name in NETWORKS for form, side in (('library', 32), ('library', 64))]
TRAINED += [(name, 'cifar100repo', 32) for name in REPO] + [('resnet18', 'released', 64)]


@pytest.mark.parametrize('name, form, side', [case for case in TRAINED if not case[0].startswith('mini')])
def test_every_method_trains_on_it_and_leaves_the_test_time_network_alone(name, form, side, tmp_path):
    """All methods of the tables at once; the heads of one do not touch those of another."""
    model = fragment(name, side == 32, form)
    model.backbone.merge(NARROW.get(name, {}))
    if form == 'cifar100repo' and name.startswith('seresnet'):
        model.backbone.base_channels = 16  # a sixteenth of it is squeezed to
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

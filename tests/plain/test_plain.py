"""The plain interface: any network, every method, autocast, compile, copies; and what it refuses."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmcds import ContrastiveDeepSupervision
from mmcds.core import ConfigError, is_loss
from mmcds.core.plain import PlainNetwork
from mmcds.losses import supcon_loss


class Net(nn.Module):
    """Three stages, pooling and a classifier."""

    def __init__(self, width=4, classes=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.layer1 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(2 * width, 3 * width, 3, 2, 1), nn.BatchNorm2d(3 * width), nn.ReLU())
        self.fc = nn.Linear(3 * width, classes)

    def forward(self, images):
        return self.fc(self.layer2(self.layer1(self.stem(images))).mean((2, 3)))


def batch(views=2, images=6, dtype=torch.float32):
    torch.manual_seed(3)
    return torch.randn(views, images, 3, 32, 32, dtype=dtype), torch.arange(images) % 3


def build(*args, width=4, **options):
    torch.manual_seed(0)
    return ContrastiveDeepSupervision(Net(width), *args, image_size=32, **options)


def test_the_network_is_measured_and_the_heads_have_its_widths():
    cds = build(('stem', 'layer1', 'layer2'))
    info = cds.measure()
    assert {tap: (each.channels, each.stride) for tap, each in info.taps.items()} == {
        'stem': (4, 2),
        'layer1': (8, 4),
        'layer2': (12, 8),
    }
    assert (info.final.channels, info.final.stride, info.num_classes) == (12, 8, 3)
    assert info.embeddings['cds'] == {'stem': 12, 'layer1': 12, 'layer2': 12}


def test_losses_are_those_of_the_formulas_and_total_is_their_sum():
    cds = build(('layer1', 'layer2')).double()
    views, labels = batch(dtype=torch.float64)
    losses = cds(views, labels)
    rows = views.flatten(0, 1)
    copied = copy.deepcopy(cds.model)  # batch statistics do not depend on the running ones
    logits = copied(rows)
    assert torch.allclose(losses['loss_ce'], F.cross_entropy(logits[:6], labels), rtol=1e-12)
    deep = F.normalize(copied.layer2(copied.layer1(copied.stem(rows))).mean((2, 3)), dim=1)
    expected = 0.1 * supcon_loss(deep.unflatten(0, (2, 6)), labels, 0.07)
    assert torch.allclose(losses['cds.layer2.loss_contrast'], expected, rtol=1e-12)
    total = sum(value for name, value in losses.items() if is_loss(name))
    assert torch.allclose(losses.total, total, rtol=1e-14)
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in cds.parameters())


def test_views_may_be_a_list_and_criterion_and_ce_views_are_ours_to_choose():
    views, labels = batch()
    first = build(('layer1',))(views, labels)
    second = build(('layer1',))(list(views), labels)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    smooth = build(('layer1',), ce_views=(1,), criterion=lambda z, y: F.cross_entropy(z, y, label_smoothing=0.2))
    logits = copy.deepcopy(smooth.model)(views.flatten(0, 1))[6:]
    assert torch.allclose(smooth(views, labels)['loss_ce'], F.cross_entropy(logits, labels, label_smoothing=0.2))


def test_the_network_stays_untouched():
    torch.manual_seed(0)
    model = Net().eval()
    twin, images = copy.deepcopy(model), torch.randn(2, 3, 32, 32)
    cds = ContrastiveDeepSupervision(model, ('stem',), image_size=32)
    cds.train()
    cds(*batch())
    assert cds.model is model
    assert model.state_dict().keys() == twin.state_dict().keys()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    model.eval()
    model.load_state_dict(twin.state_dict())
    assert torch.equal(model(images), twin(images))


def test_it_starts_from_the_weights_and_random_numbers_of_the_plain_network():
    torch.manual_seed(0)
    plain = Net()
    after = torch.randn(3)
    torch.manual_seed(0)
    cds = ContrastiveDeepSupervision(Net(), ('stem', 'layer1'), image_size=32)
    assert torch.equal(torch.randn(3), after)
    assert all(torch.equal(value, cds.model.state_dict()[name]) for name, value in plain.state_dict().items())


def test_unlabelled_images_get_no_cross_entropy():
    views, labels = batch()
    losses = build(('layer1',))(views, torch.full_like(labels, -1))
    assert losses['loss_ce'] == 0
    assert losses['cds.layer1.loss_contrast'] > 0


def trained_teacher():
    return build(('layer1', 'layer2'), width=6)


METHODS = {
    'dsn': (dict(dsn=dict(type='DSNSupervision', taps=('layer1',))), None),
    'dks': (dict(dks=dict(type='DKSSupervision', taps=('stem', 'layer1'), trunk='sepconv')), None),
    'kd': (dict(kd=dict(type='KDSupervision')), 'plain'),
    'at': (dict(at=dict(type='ATSupervision', taps=('layer2',))), 'plain'),
    'sp': (dict(sp=dict(type='SPSupervision', taps=('layer2',))), 'plain'),
    'rkd': (dict(rkd=dict(type='RKDSupervision')), 'plain'),
    'crd': (dict(crd=dict(type='CRDSupervision', num_negatives=3)), 'plain'),
    'embedding': (
        dict(
            cds=dict(type='ContrastiveSupervision', taps=('layer1', 'layer2')),
            embedding=dict(type='EmbeddingDistillation'),
            logit=dict(type='LogitDistillation'),
        ),
        'cds',
    ),
}


@pytest.mark.parametrize('name', METHODS)
def test_every_method_enters_by_the_same_door(name):
    supervisions, kind = METHODS[name]
    teacher = None if kind is None else trained_teacher() if kind == 'cds' else trained_teacher().model
    before = None if teacher is None else copy.deepcopy(teacher.state_dict())
    cds = build(supervisions=supervisions, teacher=teacher)
    cds.prepare(torch.arange(12) % 3)
    views, labels = batch()
    losses = cds(views, labels, sample_idx=torch.arange(6))
    losses.total.backward()
    assert losses.total.isfinite()
    assert cds.model.stem[0].weight.grad.abs().max() > 0
    own = {parameter for parameter in cds.supervisions.parameters() if parameter.ndim > 1}
    assert all(parameter.grad.abs().max() > 0 for parameter in own)
    if teacher is not None:
        assert all(parameter.grad is None for parameter in teacher.parameters())
        assert all(torch.equal(value, teacher.state_dict()[key]) for key, value in before.items())
        assert not any(key.startswith('teacher') for key in cds.state_dict())


def test_autocast_keeps_the_losses_in_float32():
    cds = build(('layer1', 'layer2'))
    exact = cds(*batch())
    with torch.autocast('cpu', torch.bfloat16):
        losses = cds(*batch())
    for name, value in losses.items():
        assert value.dtype == torch.float32
        if is_loss(name):
            assert torch.allclose(value, exact[name], rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize('part', ['all', 'model'])
def test_a_compiled_step_gives_the_same_losses(part):
    views, labels = batch()
    expected = build(('layer1', 'layer2'))(views, labels)
    cds = build(('layer1', 'layer2'))
    torch._dynamo.reset()
    if part == 'model':
        cds.model.compile(backend='eager')
        losses = cds(views, labels)
    else:
        losses = torch.compile(cds, backend='eager')(views, labels)
    assert all(torch.allclose(losses[name], value) for name, value in expected.items())


def test_a_copy_and_a_loaded_state_give_the_same_losses():
    cds = build(('layer1',))
    views, labels = batch()
    cds(views, labels)
    copied, loaded = copy.deepcopy(cds), build(('layer1',), width=4)
    loaded.load_state_dict(cds.state_dict())
    expected = cds(views, labels)
    for other in (copied, loaded):
        assert all(torch.equal(value, expected[name]) for name, value in other(views, labels).items())


@pytest.mark.parametrize(
    'args, options, message',
    [
        ((('layer9',),), {}, "Net has no module 'layer9' to tap; similar names: layer"),
        (((1,),), {}, 'Net: tap 1 is a number'),
        ((), {}, 'neither taps nor supervisions are given'),
        ((('layer1',),), dict(teacher=nn.Linear(1, 1)), 'there is a teacher, but no supervision listens'),
        ((), dict(supervisions=dict(kd=dict(type='KDSupervision'))), "'kd' needs a teacher"),
        ((), dict(supervisions=dict(kd=dict(type='KDSupervison'))), "no 'KDSupervison'; similar names: KDSupervision"),
        (
            (),
            dict(supervisions=dict(my_loss=dict(type='DSNSupervision', taps=('stem',)))),
            "the name 'my_loss' prefixes",
        ),
        ((('layer1',),), dict(ce_views=()), r'ce_views is \(\); name at least one view'),
        ((('layer1',),), dict(classifier='head'), "no module 'head'"),
    ],
)
def test_mistakes_are_named_when_it_is_built(args, options, message):
    with pytest.raises(ConfigError, match=message):
        build(*args, **options)


def test_a_teacher_without_the_embeddings_is_refused():
    supervisions = METHODS['embedding'][0]
    with pytest.raises(ConfigError, match=r'it is a Net\. Give the ContrastiveDeepSupervision that trained it'):
        build(supervisions=supervisions, teacher=Net())
    other = build(supervisions=dict(dsn=dict(type='DSNSupervision', taps=('layer1',))))
    with pytest.raises(ConfigError, match=r"it has \['dsn'\]"):
        build(supervisions=supervisions, teacher=other)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda v, y: (v[:1], y), r'1 view\(s\) per image arrive, but 2 are needed'),
        (lambda v, y: (v, y.repeat(2)), r'labels have shape \(12,\), but the views show 6 images'),
    ],
)
def test_mistakes_are_named_in_the_step(change, message):
    with pytest.raises(ConfigError, match=message):
        build(('layer1',))(*change(*batch()))


def test_methods_that_know_every_image_ask_for_its_index():
    cds = build(supervisions=METHODS['crd'][0], teacher=trained_teacher().model)
    cds.prepare(torch.arange(12) % 3)
    with pytest.raises(ConfigError, match="'crd' needs sample_idx"):
        cds(*batch())


def measured(model, taps, **options):
    info = PlainNetwork(model, taps, **options).info
    return [(each.channels, each.stride) for each in (*info.taps.values(), info.final)], info.num_classes


def test_networks_of_timm_are_understood():
    timm = pytest.importorskip('timm')
    found = measured(timm.create_model('resnet18', num_classes=7), ('layer1', 'layer4'))
    assert found == ([(64, 4), (512, 32), (512, 32)], 7)
    found = measured(timm.create_model('vit_tiny_patch16_224', num_classes=7), ('blocks.2', 'blocks.8'))
    assert found == ([(192, 16)] * 3, 7)
    found = measured(timm.create_model('convnext_atto', num_classes=7), ('stages.0', 'stages.2'))
    assert found == ([(40, 4), (160, 16), (320, 32)], 7)


def test_networks_of_torchvision_are_understood():
    models = pytest.importorskip('torchvision').models
    found = measured(models.resnet18(num_classes=7), ('layer1', 'layer4'))
    assert found == ([(64, 4), (512, 32), (512, 32)], 7)
    found = measured(models.mobilenet_v3_small(num_classes=7), ('features.3',))
    assert found == ([(24, 8), (576, 32)], 7)
    found = measured(models.vit_b_32(num_classes=7), ('encoder.layers.encoder_layer_2',))
    assert found == ([(768, 32)] * 2, 7)


def test_networks_of_hugging_face_are_understood():
    transformers = pytest.importorskip('transformers')
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type='basic', num_labels=7
    )
    model = transformers.ResNetForImageClassification(config)
    assert measured(model, ('resnet.encoder.stages.0',)) == ([(8, 4), (16, 8)], 7)
    cds = ContrastiveDeepSupervision(model, ('resnet.encoder.stages.0', 'resnet.encoder.stages.1'))
    cds(*batch()).total.backward()
    assert model.classifier[1].weight.grad.abs().max() > 0


def test_maps_whose_channels_come_last_are_read_as_such():
    """Swin puts out (M, H, W, C), in both libraries."""
    models, timm = pytest.importorskip('torchvision').models, pytest.importorskip('timm')
    expected = ([(96, 4), (192, 8), (768, 32)], 7)
    assert measured(models.swin_t(num_classes=7), ('features.1', 'features.3')) == expected
    assert (
        measured(timm.create_model('swin_tiny_patch4_window7_224', num_classes=7), ('layers.0', 'layers.1'))
        == expected
    )


@pytest.mark.parametrize('side', [32, 48])
def test_a_map_with_its_channels_last_has_the_features_of_its_places(side):
    """Also where the map has as many rows as channels, so that its shape does not say which are which."""
    model = nn.Sequential(nn.Conv2d(3, 12, 4, 4), Permute(0, 2, 3, 1), nn.Linear(12, 12), Permute(0, 3, 1, 2))
    model = nn.Sequential(*model, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
    features, *_ = PlainNetwork(model, ('2', '3'), side)(model, torch.randn(2, 3, side, side))
    assert features['2'].shape == (2, 12, side // 4, side // 4)
    assert torch.equal(features['2'], features['3'])


def test_pooling_to_several_pixels_is_not_the_last_map():
    """VGG averages to 7 x 7 whatever the image, timm's has a convolution of that size behind, AlexNet 6 x 6."""
    models, timm = pytest.importorskip('torchvision').models, pytest.importorskip('timm')
    for side in (224, 64):
        assert measured(models.vgg11(num_classes=7), (), image_size=side) == ([(512, 32)], 7)
    assert measured(timm.create_model('vgg11', num_classes=7), ()) == ([(512, 32)], 7)
    assert measured(models.alexnet(num_classes=7), ()) == ([(256, 224 / 6)], 7)


class Strange(Net):
    """Remembers a size, and resizes its images."""

    def __init__(self):
        super().__init__()
        self.grid = None

    def forward(self, images):
        if self.grid is None:
            self.grid = torch.linspace(0, 1, images.shape[-1], device=images.device)
        return super().forward(F.interpolate(images + self.grid, (64, 64)))


def test_what_a_network_does_with_sizes_does_not_matter():
    """It ends in 8 x 8 pixels whatever the image, which is a stride of 4 for one of 32 and of 8 for one of 64."""
    for side in (32, 64):
        assert measured(Strange(), ('layer1',), image_size=side) == ([(8, side / 16), (12, side / 8)], 3)


def test_a_map_with_other_strides_on_its_axes_keeps_its_order():
    model = nn.Sequential(nn.Conv2d(1, 32, 3, (4, 1), 1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 32 * 128, 5))
    found = PlainNetwork(model, ('0', '1'), 128)
    assert [tap.channels for tap in found.info.taps.values()] == [32, 32]


class Permute(nn.Module):
    def __init__(self, *order):
        super().__init__()
        self.order = order

    def forward(self, images):
        return images.permute(self.order)


def test_the_last_stage_of_a_small_image_is_the_last_map_although_it_has_one_pixel():
    models = pytest.importorskip('torchvision').models
    found = measured(models.resnet18(num_classes=7), ('layer1', 'layer3', 'layer4'), image_size=32)
    assert found == ([(64, 4), (256, 16), (512, 32), (512, 32)], 7)


class Autoencoder(Net):
    """Classifies first and paints the image afterwards."""

    def __init__(self):
        super().__init__()
        self.paint = nn.ConvTranspose2d(12, 3, 8, 8)

    def forward(self, images):
        last = self.layer2(self.layer1(self.stem(images)))
        scores = self.fc(last.mean((2, 3)))
        self.painted = self.paint(last)
        return scores


def test_what_runs_after_the_classifier_is_not_the_last_map():
    assert measured(Autoencoder(), ('layer1',), image_size=32) == ([(8, 4), (12, 8)], 3)


@pytest.mark.parametrize('method', ['CCSupervision', 'CRDSupervision', 'ReviewKDSupervision'])
def test_methods_that_compare_what_is_classified_take_its_width(method):
    """MobileNetV3 classifies 1,024 values, its last map has 576 channels."""
    models = pytest.importorskip('torchvision').models
    student, teacher = models.mobilenet_v3_small(num_classes=3), models.mobilenet_v3_small(num_classes=3)
    taps = dict(taps=('features.3',)) if method == 'ReviewKDSupervision' else {}
    cds = ContrastiveDeepSupervision(student, supervisions=dict(own=dict(type=method, **taps)), teacher=teacher)
    assert cds.measure().pooled_channels == 1024
    cds.prepare(torch.arange(6) % 3)
    views, labels = batch()
    assert cds(views, labels, torch.arange(6), progress=0.5).total.isfinite()


def test_a_classifier_that_does_not_run_is_named():
    model = Net()
    model.spare = nn.Linear(12, 3)
    with pytest.raises(ConfigError, match="classifier 'spare': this module did not run in the forward pass of Net"):
        PlainNetwork(model, ('layer1',), 32, 'spare')


def test_a_teacher_keeps_the_classifier_and_the_size_that_it_was_given():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    teacher = ContrastiveDeepSupervision(model, ('0',), classifier='1', image_size=24)
    cds = build(supervisions=dict(kd=dict(type='KDSupervision')), teacher=teacher)
    assert cds(*batch()).total.isfinite()
    assert (teacher._network.classifier, teacher._network.image_size) == ('1', (24, 24))


def test_a_loss_can_be_looked_at_in_inference_mode():
    cds = build(('layer1', 'layer2')).eval()
    with torch.no_grad():
        expected = cds(*batch())
    with torch.inference_mode():
        assert all(torch.equal(value, expected[name]) for name, value in cds(*batch()).items())

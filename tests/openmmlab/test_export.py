"""Export: every tensor arrives, in the layout of the library that will use it, and files prove themselves."""

import hashlib
import json

import pytest
import safetensors.torch
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch.testing import assert_close

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.export import export_backbone
from mmcds.openmmlab.layouts import network_name
from mmcds.resources import resources

RESNET50 = 'mmcds::cds/resnet50_in1k.py'
FASHION = 'mmcds::cds/resnet18w16_fashion.py'


def write_checkpoint(path, name, ema=False):
    """What the runner would write after training, with weights and statistics that are all different."""
    from mmengine.hub import get_config

    config = get_config(name)
    model = MODELS.build(Config(dict(config.model, _scope_='mmpretrain')))
    model.init_weights()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    state = model.state_dict()
    checkpoint = dict(state_dict=state, meta=dict(cfg=config.pretty_text, epoch=3, experiment_name='a run'))
    if ema:
        checkpoint['ema_state_dict'] = {
            'steps': torch.tensor(1),
            **{f'module.{key}': value + 1 for key, value in state.items()},
        }
    torch.save(checkpoint, path)
    return model


@pytest.fixture(scope='module')
def resnet50(tmp_path_factory):
    path = tmp_path_factory.mktemp('export') / 'epoch_3.pth'
    model = write_checkpoint(path, RESNET50)
    model.eval()
    return path, model


@pytest.fixture(scope='module')
def fashion(tmp_path_factory):
    path = tmp_path_factory.mktemp('export') / 'epoch_3.pth'
    return path, write_checkpoint(path, FASHION, ema=True)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_bare_host_backbone_takes_every_tensor_and_gives_the_same_features(resnet50, tmp_path, suffix):
    path, model = resnet50
    out = tmp_path / f'backbone{suffix}'
    manifest = export_backbone(path, out)
    state = safetensors.torch.load_file(out) if suffix != '.pth' else torch.load(out, weights_only=True)['state_dict']
    assert len(state) == manifest['num_tensors'] == 318
    backbone = MODELS.build(dict(type='mmpretrain.ResNet', depth=50))
    backbone.load_state_dict(state, strict=True)
    backbone.eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(backbone(images)[-1], model.backbone(images)[-1])


def test_torchvision_and_timm_classifiers_give_the_same_logits(resnet50, tmp_path):
    import timm
    import torchvision

    path, model = resnet50
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model.head(model.extract_feat(images))
    for layout, network in (
        ('torchvision', torchvision.models.resnet50(weights=None)),
        ('timm', timm.create_model('resnet50', pretrained=False)),
    ):
        export_backbone(path, tmp_path / f'{layout}.pth', layout=layout, with_head=True)
        network.load_state_dict(torch.load(tmp_path / f'{layout}.pth', weights_only=True)['state_dict'], strict=True)
        network.eval()
        with torch.no_grad():
            assert_close(network(images), expected)
    export_backbone(path, tmp_path / 'bare.pth', layout='torchvision')
    bare = torch.load(tmp_path / 'bare.pth', weights_only=True)['state_dict']
    assert set(network.state_dict()) - set(bare) == {'fc.weight', 'fc.bias'}


#: Backbone, library, and what it is called there; the family of ResNet has the same tensors in both.
ELSEWHERE = [
    ('resnext50_32x4d', 'timm', 'resnext50_32x4d'),
    ('wide_resnet50_2', 'torchvision', 'wide_resnet50_2'),
    ('convnext_tiny', 'torchvision', 'convnext_tiny'),
    ('convnext_tiny', 'timm', 'convnext_tiny'),
    ('swin_tiny', 'torchvision', 'swin_t'),
    ('swin_tiny', 'timm', 'swin_tiny_patch4_window7_224'),
]


def random_classifier(network, path, **backbone):
    """A classifier of configs/_base_/networks whose every tensor matters, and its checkpoint."""
    config = Config.fromfile(resources() / 'configs' / '_base_' / 'networks' / f'{network}.py')
    config.model.backbone.update(backbone)
    config.model.head.num_classes = 7
    model = MODELS.build(Config(dict(config.model, _scope_='mmpretrain')))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, parameter[0].numel() ** -0.5)
        else:
            parameter.data.uniform_(0.5, 1.5)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(cfg=config.pretty_text, epoch=3)), path)
    return model.eval()


@pytest.mark.parametrize('network, layout, name', ELSEWHERE)
def test_networks_of_torchvision_and_timm_give_the_same_logits(network, layout, name, tmp_path):
    import timm
    import torchvision

    checkpoint, out = tmp_path / 'epoch_3.pth', tmp_path / 'out.safetensors'
    model = random_classifier(network, checkpoint)
    export_backbone(checkpoint, out, layout=layout, with_head=True)
    create = torchvision.models.get_model if layout == 'torchvision' else timm.create_model
    other = create(name, num_classes=7).eval()
    other.load_state_dict(safetensors.torch.load_file(out), strict=True)
    images = torch.randn(2, 3, 224, 224) if network == 'swin_tiny' else torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = model.head(model.extract_feat(images))
        assert_close(other(images), expected, rtol=1e-5, atol=1e-5)
    checkpoint.unlink()
    out.unlink()


@pytest.mark.parametrize(
    'backbone, torchvision, timm',
    [
        (dict(type='ResNet', depth=101), 'resnet101', 'resnet101'),
        (dict(type='mmpretrain.ResNet', depth=101, base_channels=128), 'wide_resnet101_2', 'wide_resnet101_2'),
        (dict(type='ResNeXt', depth=101, width_per_group=8), 'resnext101_32x8d', 'resnext101_32x8d'),
        (dict(type='ResNeXt', depth=101), None, 'resnext101_32x4d'),
        (dict(type='ConvNeXt', arch='large'), 'convnext_large', 'convnext_large'),
        (dict(type='ConvNeXt', arch='tiny', use_grn=True), None, None),
        (dict(type='SwinTransformer', arch='b', img_size=224), 'swin_b', 'swin_base_patch4_window7_224'),
        (dict(type='MobileNetV2'), None, None),
    ],
)
def test_names_of_networks(backbone, torchvision, timm):
    for layout, name in (('torchvision', torchvision), ('timm', timm)):
        if name:
            assert network_name(backbone, layout) == name
        else:
            with pytest.raises(ConfigError, match=rf'{layout} has no network like .* Wide ResNet, ResNeXt, ConvNeXt'):
                network_name(backbone, layout)


def test_a_backbone_without_classifier_fits_a_network_without_one(tmp_path):
    import timm

    checkpoint, out = tmp_path / 'epoch_3.pth', tmp_path / 'out.pth'
    # a stage that is tapped has a norm, which is left out
    model = random_classifier('convnext_tiny', checkpoint, arch='atto', out_indices=(1, 3), linear_pw_conv=False)
    model.head = torch.nn.Identity()
    export_backbone(checkpoint, out, layout='timm')
    network = timm.create_model('convnext_atto', num_classes=0).eval()
    network.load_state_dict(torch.load(out, weights_only=True)['state_dict'], strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert_close(network(images), model.backbone(images)[-1], rtol=1e-5, atol=1e-5)
    config = Config.fromstring(torch.load(checkpoint)['meta']['cfg'], '.py')
    config.model.backbone.out_indices = (3,)  # as a supervision that taps stage 1 leaves it
    torch.save(dict(torch.load(checkpoint), meta=dict(cfg=config.pretty_text)), checkpoint)
    assert export_backbone(checkpoint, out, overwrite=True)['num_tensors'] == len(model.backbone.state_dict()) - 2


def test_weights_that_fit_by_their_shapes_alone_are_refused(tmp_path):
    """In the style of Caffe the stride is in another convolution; names and shapes are the same."""
    checkpoint = tmp_path / 'epoch_3.pth'
    random_classifier('resnet50', checkpoint, style='caffe')
    for layout in ('torchvision', 'timm'):
        with pytest.raises(ConfigError, match=f'resnet50 of {layout} computes something else than the backbone'):
            export_backbone(checkpoint, tmp_path / 'out.pth', layout=layout)
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_resnet_of_mmdet_takes_every_tensor_and_gives_the_same_features(resnet50, tmp_path):
    from mmdet.registry import MODELS

    import mmcds.detection  # noqa: F401

    path, model = resnet50
    export_backbone(path, tmp_path / 'backbone.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'backbone.pth'))
    network = MODELS.build(dict(type='mmdet.ResNet', depth=50, init_cfg=init))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.init_weights()
    state, expected = network.state_dict(), model.backbone.state_dict()
    weights = [key for key in expected if 'num_batches_tracked' not in key]
    assert (len(expected), len(weights)) == (318, 265)
    assert set(state) == set(expected)
    assert all(torch.equal(state[key], expected[key]) for key in weights)
    changed = [key for key in weights if not torch.equal(before[key], expected[key])]
    assert sum(state[key].ndim == 4 for key in changed) == 53, 'every convolution must be a loaded one'
    torch.nn.Module.train(network, False)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_close(network(images)[0], model.backbone(images)[0], rtol=0, atol=0)


def test_the_manifest_describes_file_network_and_input(fashion, tmp_path):
    path, model = fashion
    out = tmp_path / 'backbone.safetensors'
    manifest = export_backbone(path, out)
    assert json.loads((tmp_path / 'backbone.safetensors.json').read_text()) == json.loads(json.dumps(manifest))
    assert manifest['sha256'] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert manifest['source']['sha256'] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest['architecture']['type'] == 'ResNet_CIFAR'
    assert manifest['architecture']['base_channels'] == 16
    assert manifest['normalisation']['mean'] == [72.94, 72.94, 72.94]
    assert manifest['channel_order'] == 'rgb'
    assert manifest['num_parameters'] == sum(p.numel() for p in model.backbone.parameters())
    assert manifest['source']['epoch'] == 3
    with safetensors.safe_open(out, 'pt') as file:
        assert json.loads(file.metadata()['channel_order']) == 'rgb'


def test_averaged_and_raw_weights_can_be_chosen(fashion, tmp_path):
    path, model = fashion
    averaged, raw = export_backbone(path, tmp_path / 'a.pth'), export_backbone(path, tmp_path / 'r.pth', ema=False)
    assert (averaged['weights'], raw['weights']) == ('ema', 'raw')
    a, r = (
        torch.load(tmp_path / name, weights_only=True)['state_dict']['conv1.weight'] for name in ('a.pth', 'r.pth')
    )
    assert torch.equal(a, model.backbone.conv1.weight)
    assert torch.equal(r, model.backbone.conv1.weight + 1)


def test_existing_files_are_kept_unless_told(fashion, tmp_path):
    path, _ = fashion
    export_backbone(path, tmp_path / 'a.pth')
    before = (tmp_path / 'a.pth').read_bytes()
    with pytest.raises(ConfigError, match=r'a\.pth exists and is not overwritten'):
        export_backbone(path, tmp_path / 'a.pth', ema=False)
    assert (tmp_path / 'a.pth').read_bytes() == before
    export_backbone(path, tmp_path / 'a.pth', ema=False, overwrite=True)
    assert (tmp_path / 'a.pth').read_bytes() != before


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(layout='keras'), "layout is 'keras'; choose one of openmmlab, torchvision, timm"),
        (dict(layout='torchvision'), r"torchvision has no network like the backbone \{'type': 'ResNet_CIFAR'"),
        (dict(with_head=True), 'with_head is for the layouts torchvision and timm'),
    ],
)
def test_rejects_options_that_do_not_fit(fashion, tmp_path, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        export_backbone(fashion[0], tmp_path / 'a.pth', **kwargs)
    assert not list(tmp_path.iterdir())


def test_rejects_files_that_cannot_be_exported(fashion, tmp_path):
    path, _ = fashion
    with pytest.raises(ConfigError, match=r"ends with '\.bin'"):
        export_backbone(path, tmp_path / 'a.bin')
    with pytest.raises(ConfigError, match=r'absent\.pth does not exist'):
        export_backbone(tmp_path / 'absent.pth', tmp_path / 'a.pth')
    torch.save(dict(state_dict={}), tmp_path / 'bare.pth')
    with pytest.raises(ConfigError, match=r'bare\.pth carries no config'):
        export_backbone(tmp_path / 'bare.pth', tmp_path / 'a.pth')
    checkpoint = torch.load(path, weights_only=False)
    heads = {k: v for k, v in checkpoint['state_dict'].items() if not k.startswith('backbone.')}
    torch.save(dict(state_dict=heads, meta=checkpoint['meta']), tmp_path / 'heads.pth')
    with pytest.raises(ConfigError, match=r'no key that starts with "backbone\."'):
        export_backbone(tmp_path / 'heads.pth', tmp_path / 'a.pth')
    headless = {k: v for k, v in checkpoint['state_dict'].items() if not k.startswith('head.')}
    torch.save(dict(state_dict=headless, meta=checkpoint['meta']), tmp_path / 'headless.pth')
    with pytest.raises(ConfigError, match='has no linear classifier'):
        export_backbone(tmp_path / 'headless.pth', tmp_path / 'a.pth', layout='timm', with_head=True)
    with pytest.raises(ConfigError, match='was trained without EMAHook'):
        export_backbone(tmp_path / 'heads.pth', tmp_path / 'a.pth', ema=False)
    del checkpoint['state_dict']['backbone.conv1.weight']
    torch.save(checkpoint, tmp_path / 'part.pth')
    with pytest.raises(ConfigError, match=r'1 tensors differ, such as conv1\.weight'):
        export_backbone(tmp_path / 'part.pth', tmp_path / 'a.pth')


def test_the_command_writes_what_the_function_writes(fashion, tmp_path, tool, capsys):
    path, _ = fashion
    tool('export_backbone').main([str(path), str(tmp_path / 'a.pth'), '--no-ema'])
    assert 'ResNet_CIFAR, 120 tensors, 700,176 parameters, layout openmmlab, raw weights' in capsys.readouterr().out
    assert (tmp_path / 'a.pth.json').exists()

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
        export_backbone(path, tmp_path / f'{layout}-bare.pth', layout=layout)
        bare = torch.load(tmp_path / f'{layout}-bare.pth', weights_only=True)['state_dict']
        assert set(network.state_dict()) - set(bare) == {'fc.weight', 'fc.bias'}


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
        (dict(layout='torchvision'), "layout 'torchvision' is known for the ImageNet ResNets"),
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

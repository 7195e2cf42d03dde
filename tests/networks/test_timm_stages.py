"""Networks of timm as backbones: they compute what timm computes, and their stages are those that timm names."""

import sys

import pytest
import timm
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.testing import assert_close

from mmcds.core.errors import ConfigError
from mmcds.core.taps import TappedBackbone
from mmcds.networks.timm_stages import classified_width, timm_stages, usual_taps
from mmcds.openmmlab.export import export_backbone

#: timm's own small networks: convolutions, hidden layers in the head, attention in windows, tokens with a class token.
TINY = ['test_resnet', 'test_convnext', 'test_efficientnet', 'mobilenetv3_small_050', 'test_maxvit', 'test_vit']


def images(network, count=2):
    side = network.pretrained_cfg['input_size'][-1]
    return torch.randn(count, 3, side, side)


@pytest.mark.parametrize('name', TINY)
def test_the_last_output_is_what_timm_classifies_and_the_taps_are_its_feature_maps(name):
    if name == 'test_maxvit' and not timm.is_model(name):
        pytest.skip(f'timm {timm.__version__} has none in windows that is as small')
    theirs = timm.create_model(name, num_classes=0).eval()
    count = len(theirs.feature_info)
    ours = timm_stages(name, out_indices=range(count)).eval()
    ours.load_state_dict(theirs.state_dict())  # strict
    x = images(ours)
    with torch.no_grad():
        *maps, last = ours(x)
        assert torch.equal(last, theirs(x))
    assert len(maps) == count
    for value, info in zip(maps, theirs.feature_info, strict=True):
        assert value.shape[1] == info['num_chs']
        assert x.shape[2] / value.shape[2] == info['reduction']
    with torch.device('meta'):
        assert classified_width(timm_stages(name)) == last.shape[1]


@pytest.mark.parametrize('name', ['test_resnet', 'test_efficientnet'])
def test_the_maps_are_those_of_features_only(name):
    pyramid = timm.create_model(name, features_only=True).eval()
    ours = timm_stages(name, out_indices=range(5)).eval()
    ours.load_state_dict(pyramid.state_dict(), strict=False)
    x = images(ours)
    with torch.no_grad():
        for mine, theirs in zip(ours(x), pyramid(x), strict=False):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize('name', ['test_resnet', 'test_convnext', 'test_vit'])
def test_a_stage_is_the_output_of_the_module_that_timm_names_and_every_parameter_gets_a_gradient(name):
    network = timm_stages(name, out_indices=(3, 1)).eval()
    modules = {stage: network.feature_info[stage]['module'] for stage in (1, 3)}
    last, features = TappedBackbone(network, (1, 3, *modules.values()))(network, images(network))
    for stage, module in modules.items():
        assert torch.equal(features[stage], features[module])
    last.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_first_weights_are_those_of_timm_and_a_checkpoint_replaces_all(tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model('test_vit', num_classes=0).state_dict()
    torch.manual_seed(0)
    ours = timm_stages('test_vit')
    ours.init_weights()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.state_dict().items())
    torch.save({key: value + 1 for key, value in theirs.items()}, tmp_path / 'a.pth')
    other = timm_stages('test_vit', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth')))
    other.init_weights()
    assert other.state_dict().keys() == theirs.keys()
    assert all(torch.equal(value, theirs[key] + 1) for key, value in other.state_dict().items())


def test_cds_measures_the_stages_and_trains_all_of_the_network():
    info = {stage['reduction']: stage['num_chs'] for stage in timm_stages('test_resnet').feature_info}
    cds = dict(type='ContrastiveSupervision', taps=(1, 2, 3), neck=dict(type='CDSNeck', head='mlp', out_channels=8))
    model = MODELS.build(
        dict(
            type='CDSClassifier',
            backbone=dict(type='TimmStages', model_name='test_resnet', out_indices=(0,), drop_path_rate=0.1),
            head=dict(type='LinearClsHead', in_channels=info[32], num_classes=3),
            supervisions=dict(cds=cds),
        )
    )
    measured = TappedBackbone(model.backbone, (1, 2, 3)).measure(model.backbone, 3)
    assert {tap.stride: tap.channels for tap in measured.taps.values()} == {key: info[key] for key in (4, 8, 16)}
    model.init_weights()
    samples = [DataSample().set_gt_label(label) for label in (0, 1, 2, -1)]
    losses = model.loss(torch.randn(2, 4, 3, 64, 64), samples)
    assert {'loss_ce', 'cds.stage1.loss_contrast', 'cds.stage3.loss_contrast'} <= losses.keys()
    model.parse_losses(losses)[0].backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    'reductions, taps',
    [
        ([2, 4, 8, 16, 32], (1, 2, 3)),  # ResNet, EfficientNet
        ([4, 8, 16, 32], (0, 1, 2)),  # Swin, ConvNeXt
        ([1, 2, 4, 8, 16, 32], (2, 3, 4)),  # VGG
        ([8, 8, 16, 32], (1, 2)),  # the last of a resolution
        ([16] * 12, (2, 5, 8)),  # ViT
        ([16] * 24, (5, 11, 17)),
        ([8, 16, 16, 16], (0, 1, 2)),  # VOLO
        ([16], (0,)),
    ],
)
def test_taps_are_the_last_stage_of_each_resolution_or_the_quarters_of_the_depth(reductions, taps):
    assert usual_taps(reductions) == taps


def test_wrong_names_stages_and_a_missing_timm_are_said(monkeypatch):
    with pytest.raises(ConfigError, match=r"timm has no network 'resnet81'. Did you mean resnet18\?"):
        timm_stages('resnet81')
    with pytest.raises(ConfigError, match=r"'resnet18\.a9_in1k'. Did you mean resnet18\.a\d_in1k\?"):
        timm_stages('resnet18.a9_in1k')
    with pytest.raises(ConfigError, match='has no stage 5; its stages are 0 to 4'):
        timm_stages('test_resnet', out_indices=(5,))
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ConfigError, match='timm/resnet18 needs the package timm: pip install timm'):
        timm_stages('resnet18')


@pytest.mark.parametrize('name, with_head', [('resnet18', True), ('resnet18', False), ('deit_tiny_patch16_224', True)])
def test_a_trained_network_goes_back_to_timm(name, with_head, tmp_path):
    width = timm.create_model(name, pretrained=False).num_features
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='TimmStages', model_name=name),
        head=dict(type='LinearClsHead', num_classes=4, in_channels=width),
    )
    trained = MODELS.build(model).eval()
    for value in trained.buffers():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    path, out = tmp_path / 'epoch_1.pth', tmp_path / 'timm.pth'
    meta = dict(cfg=Config(dict(model=model)).pretty_text, epoch=1, experiment_name='a run')
    torch.save(dict(state_dict=trained.state_dict(), meta=meta), path)
    export_backbone(path, out, layout='timm', with_head=with_head)
    again = timm.create_model(name, pretrained=False, num_classes=4 if with_head else 0).eval()
    again.load_state_dict(torch.load(out, weights_only=True)['state_dict'])
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = trained(images) if with_head else trained.backbone(images)[-1]
        assert_close(again(images), expected, rtol=1e-4, atol=1e-5)

"""Taps: where supervisions listen, and what is measured there."""

import pytest
import torch
from mmpretrain.registry import MODELS
from torch import nn
from torch.testing import assert_close

from mmcds.core.errors import ConfigError
from mmcds.core.measure import calls_of, calls_without_data, ghost_of
from mmcds.core.outputs import tap_name
from mmcds.core.taps import TapInfo, TappedBackbone, as_map
from mmcds.heads.projection import CDSNeck, SepConv
from mmcds.openmmlab.backbone import build_backbone

RESNET = dict(type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8)


def test_widths_and_strides_are_those_of_the_architecture():
    backbone = build_backbone(RESNET, (0, 1, 2, 3))
    info = TappedBackbone(backbone, (0, 1, 2, 3)).measure(backbone, 10)
    assert info.taps == {0: TapInfo(8, 1), 1: TapInfo(16, 2), 2: TapInfo(32, 4), 3: TapInfo(64, 8)}
    assert info.final == TapInfo(64, 8)


def test_imagenet_stem_has_strides_4_to_32():
    backbone = build_backbone(dict(type='mmpretrain.ResNet', depth=50), (0, 3))
    info = TappedBackbone(backbone, (0, 3)).measure(backbone, 10)
    assert info.taps == {0: TapInfo(256, 4), 3: TapInfo(2048, 32)}


def test_measuring_leaves_statistics_mode_and_random_stream_unchanged():
    backbone = build_backbone(RESNET, (0,))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    stream = torch.random.get_rng_state()
    TappedBackbone(backbone, (0,)).measure(backbone, 10)
    assert backbone.training
    assert torch.equal(stream, torch.random.get_rng_state())
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_module_tap_hears_the_stage_output():
    backbone = build_backbone(RESNET, (1,))
    images = torch.randn(2, 3, 32, 32)
    _, features = TappedBackbone(backbone, (1, 'layer2'))(backbone, images)
    assert torch.equal(features[1], features['layer2'])
    assert not backbone.layer2._forward_hooks, 'the hook must be gone after the pass'


def test_a_look_for_stage_numbers_does_not_change_the_weights_that_follow():
    torch.manual_seed(3)
    plain = MODELS.build(RESNET)
    torch.manual_seed(3)
    tapped = build_backbone(RESNET, (0, 1))
    assert tapped.out_indices == (0, 1, 3)
    for (name, ours), theirs in zip(tapped.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_tokens_become_a_square_map_without_the_class_token():
    tokens = torch.arange(2 * 5 * 3.0).view(2, 5, 3)
    seen = as_map(tokens, 'blocks', (32, 32))
    assert seen.shape == (2, 3, 2, 2)
    assert_close(seen[0, :, 0, 0], tokens[0, 1])
    assert_close(seen[0, :, 1, 1], tokens[0, 4])
    assert as_map(torch.zeros(2, 7), 'vector', (32, 32)).shape == (2, 7, 1, 1)


def test_swin_and_vit_can_be_tapped():
    swin = build_backbone(dict(type='mmpretrain.SwinTransformer', arch='tiny'), (0, 1))
    info = TappedBackbone(swin, (0, 1)).measure(swin, 10)
    assert [info.taps[tap].channels for tap in (0, 1)] == [96, 192]
    vit = build_backbone(dict(type='mmpretrain.VisionTransformer', arch='deit-tiny', img_size=64, patch_size=16), ())
    info = TappedBackbone(vit, ('layers.3',)).measure(vit, 10)
    assert info.taps == {'layers.3': TapInfo(192, 16)}


def test_names_of_taps_are_safe_as_keys():
    assert tap_name(2) == 'stage2'
    assert tap_name('layer2.0.conv1') == 'layer2-0-conv1'


@pytest.mark.parametrize(
    'taps, message',
    [
        ((4,), r'ResNet_CIFAR has no stage 4; its stages are 0 to 3'),
        ((-1,), r'has no stage -1'),
    ],
)
def test_rejects_a_stage_that_does_not_exist(taps, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone(RESNET, taps)


def test_rejects_stage_numbers_of_a_backbone_without_stages():
    with pytest.raises(ConfigError, match='LeNet5 has no numbered stages'):
        build_backbone(dict(type='mmpretrain.LeNet5'), (0,))


def test_rejects_an_unknown_module_and_names_similar_ones():
    with pytest.raises(ConfigError, match=r"no module 'layer9' to tap; similar names: .*layer"):
        TappedBackbone(build_backbone(RESNET, ()), ('layer9',))


def test_rejects_a_stage_that_a_built_backbone_does_not_return():
    with pytest.raises(ConfigError, match=r'has no stage 0; its out_indices are \(3,\)'):
        TappedBackbone(MODELS.build(RESNET), (0,))


def test_rejects_an_output_that_is_overwritten_in_place():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
    with pytest.raises(ConfigError, match=r"tap '0': the next layer overwrites this output in place"):
        TappedBackbone(backbone, ('0',))(backbone, torch.randn(1, 3, 8, 8))


def test_rejects_a_module_that_does_not_run():
    backbone = MODELS.build(RESNET)
    backbone.spare = nn.Identity()
    with pytest.raises(ConfigError, match=r"tap 'spare': this module did not run"):
        TappedBackbone(backbone, ('spare',))(backbone, torch.randn(1, 3, 32, 32))


def test_rejects_an_output_that_is_no_feature():
    with pytest.raises(ConfigError, match=r"tap 'x' puts out dict; a map"):
        as_map({}, 'x', (32, 32))
    with pytest.raises(ConfigError, match=r"tap 'x' puts out \(1, 1, 1, 1, 1\)"):
        as_map(torch.zeros(1, 1, 1, 1, 1), 'x', (32, 32))


def test_tokens_lie_as_the_patches_of_an_image_that_is_no_square():
    tokens = torch.arange(140.0)[None, :, None].repeat(2, 1, 3)
    seen = as_map(tokens, 'blocks', (224, 160))
    assert seen.shape == (2, 3, 14, 10)
    assert torch.equal(seen[0, 0], torch.arange(140.0).view(14, 10))
    assert torch.equal(as_map(torch.cat([-tokens[:, :1], tokens], 1), 'blocks', (224, 160)), seen), 'a class token'


@pytest.mark.parametrize('count, size', [(140, (224, 224)), (140, (224, 200)), (110, (32, 32))])
def test_tokens_that_are_no_grid_of_the_image_are_refused(count, size):
    with pytest.raises(ConfigError, match=f'puts out {count} tokens, which are no grid'):
        as_map(torch.zeros(1, count, 4), 'blocks', size)


def test_a_vector_at_the_end_leaves_the_stride_of_the_last_map():
    """So a tap of the last resolution has a head without convolutions, as in a ResNet whose last output is a map."""
    pytest.importorskip('timm')
    backbone = build_backbone(dict(type='TimmStages', model_name='resnet18'), (1, 4))
    info = TappedBackbone(backbone, (1, 4)).measure(backbone, 10)
    assert info.taps == {1: TapInfo(64, 4), 4: TapInfo(512, 32)}
    assert info.final == TapInfo(512, 32)
    widths, strides = zip(*((tap.channels, tap.stride) for tap in info.taps.values()), strict=True)
    neck = CDSNeck((1, 4), widths, strides, info.final.channels, info.final.stride)
    depths = [sum(isinstance(layer, SepConv) for layer in head) for head in neck.heads.values()]
    assert depths == [3, 0], 'three halvings, and the pooled feature itself'
    wide = build_backbone(dict(type='TimmStages', model_name='vgg11'), (3,))
    info = TappedBackbone(wide, (3,)).measure(wide, 10)
    assert (info.final, info.pooled_channels) == (TapInfo(512, 32), 4096)
    vit = build_backbone(dict(type='mmpretrain.VisionTransformer', arch='deit-tiny', img_size=64, patch_size=16), ())
    assert TappedBackbone(vit, ('layers.3',)).measure(vit, 10).final == TapInfo(192, 16)


def test_channels_last_of_a_named_module_are_found():
    pytest.importorskip('timm')
    backbone = build_backbone(dict(type='TimmStages', model_name='swin_tiny_patch4_window7_224'), ())
    assert TappedBackbone(backbone, ('layers.1',)).measure(backbone, 10).taps == {'layers.1': TapInfo(192, 8)}


def test_patches_and_registers_are_not_taken_for_a_longer_grid():
    """5 x 5 patches after a class token and four registers; 5 x 6 has not the proportions of the image."""
    tokens = torch.arange(30.0)[None, :, None]
    assert torch.equal(as_map(tokens, 'blocks', (80, 80))[0, 0], torch.arange(5.0, 30).view(5, 5))


def test_a_copy_without_data_is_the_network_in_all_else():
    """Ties stay, a norm of other channels is refused, and the network is untouched."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    network[2].weight = network[1].weight
    before = network[1].weight.clone()
    ghost, images = ghost_of(network, (9, 9))
    assert ghost[2].weight is ghost[1].weight
    assert all(part.device.type == 'meta' for part in ghost.parameters())
    assert ghost(images).shape == (1, 4, 3, 3)
    assert torch.equal(network[1].weight, before)
    with pytest.raises(RuntimeError, match='4'):
        calls_without_data(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(4)))


def test_norms_without_data_keep_shapes_and_what_they_are_given():
    """What runs without data has the shapes of what runs with data, and overwrites what that overwrites."""
    norms = nn.BatchNorm2d(8), nn.BatchNorm1d(8 * 16)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2), norms[0], nn.ReLU(inplace=True), nn.Flatten(), norms[1])
    ghost, images = ghost_of(network, (9, 9))
    with calls_of(ghost) as found, torch.no_grad():
        ghost(images)
    with calls_of(network.eval()) as wanted, torch.no_grad():
        network(torch.zeros(images.shape))
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.name, ours.output.shape) == (theirs.name, theirs.output.shape)
        assert ours.output._version == theirs.output._version, ours.name

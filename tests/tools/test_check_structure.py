"""A config of a wrong structure is refused by its place in the config, and no right one is."""

import random
import re
from pathlib import Path
from typing import Any, Literal

import mmpretrain
import pytest
from mmengine.config import Config

from mmcds.cli.check_structure import check_structure, fits, parameters
from mmcds.cli.launch import being_built, report_error
from mmcds.core.errors import ConfigError
from mmcds.core.registry import MODELS
from mmcds.losses import SupConLoss

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / 'configs/cds/resnet18w16_fashion.py')
HOST = Path(mmpretrain.__file__).parent / '.mim/configs'


@pytest.mark.parametrize(
    'options, message',
    [
        ({'model': 3}, r'^model is 3\. Set it to a dict'),
        ({'train_dataloader': 'x'}, r"^train_dataloader is 'x'"),
        ({'param_scheduler': 'x'}, r"^param_scheduler is 'x'.*a list of dicts"),
        ({'val_evaluator': 7}, r'^val_evaluator is 7'),
        ({'val_evaluator': None}, r'^val_evaluator is missing beside val_dataloader'),
        ({'resume': 'yes'}, r"^resume is 'yes'. Set it to True or False"),
        ({'default_hooks.finite': 'x'}, r"^default_hooks\.finite is 'x'"),
        ({'default_hooks.finite.type': 'CheckFinit'}, r"no hook of this name.*Similar names: CheckFiniteHook"),
        ({'default_hooks.finite.type': 3.5}, r'^default_hooks\.finite\.type is 3\.5'),
        ({'default_hooks.finite.nope': 1}, r"^default_hooks\.finite\.nope: CheckFiniteHook has no keyword 'nope'"),
        ({'model.supervisions.cds': 0}, r'^model\.supervisions\.cds is 0'),
        ({'model.supervisions.cds.tops': [0]}, r"has no keyword 'tops'\. Did you mean taps\?"),
        ({'model.supervisions.cds.loss.type': 'SupCon'}, r'^model\.supervisions\.cds\.loss\.type .* SupConLoss'),
        ({'model.supervisions.cds.loss.temperature': '0.1'}, r"temperature is '0\.1'\. SupConLoss takes float"),
        ({'model.backbone.base_channels': 0}, r'^model\.backbone\.base_channels is 0'),
        ({'model.head.num_classes': -1}, r'^model\.head\.num_classes is -1'),
        ({'model.head.num_classes': 2.5}, r'^model\.head\.num_classes is 2\.5'),
        ({'train_dataloader.batc_size': 3}, r"train_dataloader has no setting 'batc_size'\. Did you mean batch_size"),
        ({'train_dataloader.sampler': 3.5}, r'^train_dataloader\.sampler is 3\.5'),
        ({'train_dataloader.sampler.shuffle': -1}, r'^train_dataloader\.sampler\.shuffle is -1.*bool'),
        ({'train_dataloader.collate_fn': ''}, r'^train_dataloader\.collate_fn'),
        ({'train_dataloader.dataset.pipeline': -0.5}, r'^train_dataloader\.dataset\.pipeline is -0\.5'),
        ({'train_dataloader.dataset.pipeline': [3]}, r'^train_dataloader\.dataset\.pipeline\.0 is 3'),
        ({'train_dataloader.dataset.pipeline.1.views': [[1]]}, r'^train_dataloader.*pipeline\.1\.views\.0\.0 is 1'),
        ({'train_dataloader.dataset.pipeline.1.views.0.0.crop_size': 0}, r'crop_size is 0'),
        ({'val_dataloader': dict(_delete_=True)}, r'val_dataloader has no dataset'),
        ({'optim_wrapper.optimizer.type': 'sgd'}, r'^optim_wrapper\.optimizer\.type .*Similar names: .*SGD'),
        ({'param_scheduler.0.type': 3}, r'^param_scheduler\.0\.type is 3'),
        ({'visualizer.vis_backends': [0]}, r'^visualizer\.vis_backends\.0 is 0'),
        ({'randomness.nope': 1}, r"^randomness\.nope: set_randomness has no keyword 'nope'"),
        ({'train_cfg.max_epoch': 1}, r"train_cfg\.max_epoch: .*Did you mean max_epochs"),
        ({'train_cfg.by_epoch': 0}, r'^train_cfg\.by_epoch is 0'),
        ({'val_evaluator.topk': [1, [5]]}, r'^val_evaluator\.topk is \[5\]'),
        ({'auto_scale_lr': 3.5}, r'^auto_scale_lr is 3\.5'),
    ],
)  # fmt: skip
def test_a_wrong_structure_is_named(options, message):
    config = Config.fromfile(CONFIG)
    check_structure(config)
    if 'val_dataloader' in options:
        config.val_dataloader = {}
    else:
        config.merge_from_dict(options)
    with pytest.raises(ConfigError, match=message):
        check_structure(config)


def test_a_missing_type_is_named_and_a_misspelt_one_recognised():
    config = Config.fromfile(CONFIG)
    del config.model.backbone['type']
    with pytest.raises(ConfigError, match=r'^model\.backbone names no class'):
        check_structure(config)
    config.model.backbone.tyep = 'ResNet_CIFAR'
    with pytest.raises(ConfigError, match=r"Did you mean it by 'tyep'"):
        check_structure(config)


@pytest.mark.parametrize('file', sorted((ROOT / 'configs').glob('[!_d]*/*.py')), ids=lambda file: file.stem)
def test_all_our_configs_are_right(file):
    check_structure(Config.fromfile(file))


@pytest.mark.parametrize(
    'folder',
    [
        'resnet',
        'swin_transformer',
        'resnext',
        'vision_transformer',
        'mae',
        'hrnet',
        'mixmim',
        'cspnet',
        'beit',
        'deit',
    ],
)
def test_configs_of_the_host_are_right(folder):
    """Its annotations say less than its configs do: int for a pair, dict for a list of dicts."""
    files = sorted((HOST / folder).glob('*.py'))
    assert files
    for file in random.Random(folder).sample(files, min(5, len(files))):
        config = Config.fromfile(file)
        if config.get('model'):
            check_structure(config)


@pytest.mark.parametrize(
    'options',
    [
        {'model.neck': [dict(type='GlobalAveragePooling'), dict(type='LinearNeck', in_channels=128, out_channels=8)]},
        {'model.backbone': dict(type='ConvNeXt', arch=dict(depths=[1] * 4, channels=[8, 16, 32, 64]))},
        {'model.backbone': dict(type='SwinTransformer', arch=dict(embed_dims=8, depths=[2] * 4, num_heads=[1] * 4))},
        {'model.backbone.init_cfg': [dict(type='Kaiming', layer='Conv2d')]},
        {'model.backbone': dict(type='PreActResNet', depth=18, init_cfg=dict(type='Pretrained', checkpoint='x.pth'))},
        {'optim_wrapper.loss_scale': 512.0},
        {'custom_hooks': [dict(type='EMAHook', ema_type='ExponentialMovingAverage')]},
        {'default_hooks.my_checkpoint': dict(type='CheckpointHook')},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_is_unusual_and_right_passes(options):
    config = Config.fromfile(CONFIG)
    for name, value in options.items():
        *holders, key = name.split('.')
        place = config
        for each in holders:
            place = place[each]
        place[key] = value
    check_structure(config)


@pytest.mark.parametrize(
    'value, hint, strict, loose',
    [
        (3, int, True, True),
        (3.5, int, False, True),
        (True, int, False, False),
        ([1, 2], int, False, True),
        ('3', int, False, False),
        (3, float, True, True),
        (float('nan'), float, True, True),
        (None, int | None, True, True),
        (None, int, False, False),
        (1, bool, True, True),
        (2, bool, False, False),
        ('x', bool, False, False),
        (5, str, False, False),
        ([1], list[int], True, True),
        ((1, 'a'), list[int], False, True),
        (3, list[int], False, False),
        ('ab', list[str], False, False),
        ([dict(a=1)], dict, False, True),
        ([1], dict, False, False),
        (3, str | int, True, True),
        ('b', Literal['a', 'b'], True, True),
        ('c', Literal['a', 'b'], False, False),
        (object(), Any, True, True),
        ([1], int | list[int], True, True),
    ],
)
def test_what_fits_an_annotation(value, hint, strict, loose):
    assert fits(value, hint, True) is strict
    assert fits(value, hint, False) is loose


def test_keywords_that_our_classes_pass_on_are_those_of_their_bases_and_others_are_left_open():
    class Base:
        def __init__(self, width: int, **others):
            pass

    class Own(Base):
        __module__ = 'mmcds.own'

        def __init__(self, depth: float = 1, **base):
            pass

    Own.__init__.__module__ = 'mmcds.own'
    known, closed = parameters(Own)
    assert known == {'depth': float, 'width': int}
    assert not closed, 'what the last of them does with others is unknown'
    known, closed = parameters(SupConLoss)
    assert 'temperature' in known
    assert closed


def test_an_error_of_a_builder_names_what_was_built_and_others_do_not(capsys):
    class Picky:
        def __init__(self, size):
            assert size > 3

    with pytest.raises(AssertionError) as found:
        MODELS.build(dict(type=Picky, size=2))
    assert being_built(found.value) == [dict(type=Picky, size=2)]
    with pytest.raises(SystemExit) as ended:
        report_error(found.value)
    assert re.search(r'Picky.*cannot be built from size=2: assert 2 > 3\. Correct the config', ended.value.code)
    with pytest.raises(AssertionError) as found:
        Picky(2)
    assert being_built(found.value) == []
    report_error(found.value)  # returns, so that the traceback is shown

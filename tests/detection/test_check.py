"""A detector's run stops before its first iteration when its backbone was not loaded or its heads do not fit."""

import importlib
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import forget_runs
from detection_runs import tiny_backbone, tiny_detector, tiny_runner
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

import mmcds.detection
from mmcds.core.errors import ConfigError


def build(**changes):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        network = MODELS.build(tiny_backbone(**changes))
    network.init_weights()
    return network


@pytest.fixture
def start(tmp_path, coco_root):
    """A function that writes a checkpoint, trains a tiny RetinaNet from it for one step, and returns the runner."""

    def run(content, hook=None, name='checkpoint.pth', prefix=None, **changes):
        path = Path(name) if '/' in name else tmp_path / name
        if content is not None:
            torch.save(content, path)
        init = dict(type='Pretrained', checkpoint=str(path), **(dict(prefix=prefix) if prefix else {}))
        model = tiny_detector('retinanet', 80, frozen_stages=4, norm_eval=True, init_cfg=init)
        runner = tiny_runner(model, tmp_path / 'run', coco_root, **changes)
        if hook is not None:
            runner.register_hook(hook)
        runner.train()
        return runner

    return run


def said(runner) -> str:
    return max(Path(runner.work_dir).glob('*/*.log')).read_text()


def assert_loaded(runner, network):
    state = network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in runner.model.backbone.state_dict().items())


def prefixed(network, prefix):
    return {f'{prefix}{key}': value for key, value in network.state_dict().items()}


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.backbone.'])
def test_exports_and_training_checkpoints_are_loaded_without_naming_the_prefix(start, prefix):
    network = build()
    extra = {'head.fc.weight': torch.zeros(2, 2), 'supervisions.cds.x': torch.zeros(1)} if prefix else {}
    runner = start(dict(state_dict={**prefixed(network, prefix), **extra}))
    assert_loaded(runner, network)
    assert 'has all 120 tensors of the backbone, 20 convolutions among them' in said(runner)


def test_the_averaged_weights_of_an_ema_checkpoint_are_loaded(start):
    averaged, raw = build(), build()
    runner = start(dict(state_dict=prefixed(averaged, 'backbone.'), ema_state_dict=prefixed(raw, 'module.backbone.')))
    assert_loaded(runner, averaged)


def test_a_random_start_is_allowed_and_said(tmp_path, coco_root):
    runner = tiny_runner(tiny_detector('retinanet', 80), tmp_path, coco_root)
    runner.train()
    assert 'the backbone starts from random weights, as its config says' in said(runner)


def test_a_missing_file_is_named_with_the_ways_to_name_another(start):
    with pytest.raises(ConfigError, match=r'gone\.pth does not exist\. Pre-train it .* MMCDS_BACKBONE=FILE or --cfg'):
        start(None, name='gone.pth')


def test_safetensors_are_refused_in_favour_of_the_pth_file(start):
    with pytest.raises(ConfigError, match=r'x\.safetensors: MMEngine loads \.pth files only'):
        start({}, name='x.safetensors')


def test_another_architecture_is_refused_with_the_number_of_convolutions(start):
    other = build(depth=34)
    state = {key: value for key, value in prefixed(other, 'backbone.').items() if 'layer4' not in key}
    with pytest.raises(ConfigError, match=r'gives ResNet only 15 of its 20 convolutions: .*is missing.*prefix of the'):
        start(dict(state_dict=state))


def test_a_wrong_prefix_is_refused(start):
    with pytest.raises(ConfigError, match=r'gives ResNet only 0 of its 20 convolutions'):
        start(dict(state_dict=prefixed(build(), 'backbone.')), prefix='neck.')


def test_a_cifar_stem_is_refused_for_an_imagenet_stem(start):
    cifar = build(type='mmpretrain.ResNet_CIFAR')
    with pytest.raises(ConfigError, match=r'has the CIFAR stem \(a 3x3 .* ResNet, has the ImageNet stem \(7x7'):
        start(dict(state_dict=prefixed(cifar, 'backbone.')))


def test_weights_that_are_overwritten_after_loading_stop_the_run(start):
    class Overwrite(Hook):
        priority = 'VERY_HIGH'

        def before_train(self, runner):
            torch.nn.init.zeros_(runner.model.backbone.layer3[0].conv1.weight)

    with pytest.raises(ConfigError, match=r'1 of 120 tensors of the backbone do not have .*layer3\.0\.conv1\.weight'):
        start(dict(state_dict=prefixed(build(), 'backbone.')), hook=Overwrite())


def test_another_normalisation_than_the_exports_is_reported(start):
    meta = dict(normalisation=dict(mean=[72.94] * 3))
    runner = start(dict(state_dict=prefixed(build(), ''), meta=meta))
    assert 'was trained on images normalised with mean [72.94, 72.94, 72.94], the model uses [123.6' in said(runner)
    shutil.rmtree(runner.work_dir)
    forget_runs()
    runner = start(
        dict(state_dict=prefixed(build(), ''), meta=dict(normalisation=dict(mean=[123.675, 116.28, 103.53])))
    )
    assert 'was trained on images normalised' not in said(runner)


@pytest.mark.parametrize('kind, head', [('retinanet', 'bbox_head'), ('faster-rcnn', r'roi_head\.bbox_head')])
def test_heads_for_another_number_of_classes_are_refused(kind, head, tmp_path, coco_root):
    runner = tiny_runner(tiny_detector(kind, 10), tmp_path, coco_root)
    with pytest.raises(ConfigError, match=rf'has 80 classes, but model\.{head}\.num_classes is 10\. Set num_classes'):
        runner.train()


def test_detection_without_mmdetection_says_how_to_install_it(monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmdet')
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match=r"detection needs mmdet, which is not installed: pip install '\.\[det\]'"
    ):
        importlib.reload(mmcds.detection)

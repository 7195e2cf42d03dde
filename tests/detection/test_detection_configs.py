"""Every detection config on a replica of COCO: train step, evaluation, checkpoint, resume, test; and its recipe."""

import math
from pathlib import Path

import mmengine.hub
import pytest
import torch
from detection_runs import short, train
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmcds.core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
LEAVES = sorted(path.relative_to(ROOT) for path in (ROOT / 'configs/detection').glob('*_coco.py'))
ONE_EPOCH_UNSAVED = [
    'train_cfg.max_epochs=1',
    'default_hooks.checkpoint.interval=9',
    'default_hooks.checkpoint.save_last=False',
]
WHOLE = [leaf for leaf in LEAVES if '-cds_' in leaf.name]  # one per detector; the others differ in the file they load


@pytest.mark.parametrize('leaf', WHOLE, ids=str)
def test_config_trains_evaluates_saves_resumes_and_is_tested(leaf, tool, tmp_path, coco_root, classifier):
    first = train(leaf, tmp_path, coco_root, classifier, options=['train_cfg.max_epochs=1'])
    assert math.isfinite(first.message_hub.get_scalar('train/loss').current())
    kinds = ('bbox', 'segm') if 'mask' in leaf.name else ('bbox',)
    for kind in kinds:
        assert 0 <= first.message_hub.get_scalar(f'val/coco/{kind}_mAP').current() <= 1
    gone = tmp_path / 'gone.pth'  # a resumed run does not need the pre-trained file
    second = train(leaf, tmp_path, coco_root, gone, '--resume', options=['train_cfg.max_epochs=2'])
    assert (second.epoch, second.iter) == (2, 2), 'the second run must go on where the first one stopped'
    metrics = tool('test').main(
        [
            str(ROOT / leaf),
            str(tmp_path / 'epoch_2.pth'),
            '--work-dir',
            str(tmp_path / 'test'),
            '--data-root',
            str(coco_root),
            '--cfg-options',
            *short(leaf),
        ]
    )
    assert metrics['coco/bbox_mAP'] == pytest.approx(second.message_hub.get_scalar('val/coco/bbox_mAP').current())
    report = max(tmp_path.glob('2*/*.log')).read_text()
    assert 'coco/bbox_mAP' in report
    assert 'mmcds compare-detection' in report
    for path in tmp_path.glob('*.pth'):  # these files are large
        path.unlink()


@pytest.mark.parametrize('leaf', [leaf for leaf in LEAVES if leaf not in WHOLE], ids=str)
def test_config_trains_a_step_from_an_exported_backbone(leaf, tmp_path, coco_root, backbone):
    runner = train(leaf, tmp_path, coco_root, backbone, '--no-validate', options=ONE_EPOCH_UNSAVED)
    assert math.isfinite(runner.message_hub.get_scalar('train/loss').current())
    loaded = torch.load(backbone, weights_only=True)['state_dict']
    state = runner.model.backbone.state_dict()
    frozen = [key for key in state if key.startswith(('conv1', 'layer1')) and 'num_batches' not in key]
    assert all(torch.equal(state[key], loaded[key]) for key in frozen), 'the first stage stays as it was pre-trained'
    assert not torch.equal(state['layer2.0.conv1.weight'], loaded['layer2.0.conv1.weight'])
    assert torch.equal(state['layer4.0.bn1.running_mean'], loaded['layer4.0.bn1.running_mean'])


@pytest.mark.parametrize('leaf', LEAVES, ids=str)
def test_recipe_is_the_one_of_mmdetection_but_for_the_backbone(leaf, monkeypatch):
    kind, _, method = leaf.stem.partition('_r50-')
    ours = Config.fromfile(ROOT / leaf)
    theirs = mmengine.hub.get_config(f'mmdet::{kind.replace("-", "_")}/{kind}_r50_fpn_1x_coco.py')
    assert ours.model.backbone.init_cfg.pop('checkpoint') == (
        f'work_dirs/{method.partition("_")[0]}/resnet50_in1k/backbone_epoch_90.pth'
    )
    assert theirs.model.backbone.init_cfg.pop('checkpoint') == 'torchvision://resnet50'
    for config in (ours, theirs):
        drop_scopes(config._cfg_dict)
    for key in ('model', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'auto_scale_lr', 'train_pipeline'):
        assert ours[key] == theirs[key], key
    assert ours.train_dataloader.batch_size == theirs.train_dataloader.batch_size
    monkeypatch.setenv('MMCDS_BACKBONE', 'another.pth')
    assert Config.fromfile(ROOT / leaf).model.backbone.init_cfg.checkpoint == 'another.pth'
    text = (ROOT / leaf).read_text().split('"""')[1]
    assert f'python tools/train.py {leaf}' in text


def drop_scopes(config):
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        drop_scopes(value)
    if isinstance(config, dict):
        config.pop('_scope_', None)


def test_a_config_by_its_long_name_and_from_a_folder_of_the_user(tmp_path, coco_root, backbone):
    name = 'mmcds::detection/retinanet_r50-cds_fpn_1x_coco.py'
    mine = tmp_path / 'my_retinanet.py'
    mine.write_text(f'_base_ = {name!r}\nmodel = dict(bbox_head=dict(loss_cls=dict(gamma=1.5)))\n')
    runner = train(mine, tmp_path / 'run', coco_root, backbone, '--no-validate', '--amp', options=ONE_EPOCH_UNSAVED)
    assert runner.model.bbox_head.loss_cls.gamma == 1.5
    assert type(runner.optim_wrapper).__name__ == 'BF16OptimWrapper'
    assert math.isfinite(runner.message_hub.get_scalar('train/loss').current())
    assert DefaultScope.get_current_instance() is None
    config = mmengine.hub.get_config(name)
    assert config.model.type == 'RetinaNet'


def test_a_config_without_mmdetection_says_how_to_install_it(tool, monkeypatch):
    monkeypatch.setattr('mmengine.config.config.is_installed', lambda name: False)
    with pytest.raises(ConfigError, match=r'needs MMDetection, which is not installed: pip install onedl-mmdetection'):
        tool('train').main([str(ROOT / WHOLE[0])])

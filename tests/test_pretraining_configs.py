"""SupCon, BYOL and SimCLR: every config trains on a replica of ImageNet, and its result starts the next one."""

from pathlib import Path

import pytest
import torch
from conftest import ONE_STEP
from mmengine.config import Config
from mmengine.hub import get_config

ROOT = Path(__file__).resolve().parents[1]
LEAVES = sorted(
    path.relative_to(ROOT) for name in ('supcon', 'byol', 'simclr') for path in (ROOT / 'configs' / name).glob('*.py')
)
SMALL = """
_base_ = {leaf!r}
model = dict(backbone=dict(base_channels=4, stem_channels=4{norm}), {rest})
"""


def run(tool, folder, data_root, leaf, rest, *options, norm=''):
    folder.mkdir()
    (folder / 'config.py').write_text(SMALL.format(leaf=str(ROOT / leaf), rest=rest, norm=norm))
    train = (
        [option for option in ONE_STEP if 'val_' not in option] if 'byol/resnet50_in1k.py' in str(leaf) else ONE_STEP
    )
    runner = tool('train').main(
        [
            str(folder / 'config.py'),
            '--work-dir',
            str(folder),
            '--data-root',
            str(data_root),
            '--resume',  # where nothing is to be resumed, load_from counts
            '--cfg-options',
            *train,
            'train_dataloader.batch_size=2',
            'train_dataloader.dataset.indices=4',
            'train_cfg.max_epochs=1',
            *options,
        ]
    )
    return runner, folder / 'epoch_1.pth'


def state_of(path):
    return torch.load(path, weights_only=False)['state_dict']


HEAD = 'head=dict(in_channels=128)'
#: What must agree with MMPretrain's transforms.
KEYS = {'type', 'scale', 'prob', 'magnitude_range', 'magnitude_std', 'transforms'}
KEYS |= {'brightness', 'contrast', 'saturation', 'hue'}


@pytest.mark.parametrize('method', ['supcon', 'simclr'])
def test_an_encoder_and_then_a_classifier_alone(tool, tmp_path, data_root, method):
    runner, encoder = run(
        tool,
        tmp_path / 'encoder',
        data_root,
        f'configs/{method}/resnet50_in1k.py',
        HEAD,
        'train_cfg.val_interval=1',
        norm=", norm_cfg=dict(type='BN')",
    )
    assert runner.message_hub.get_scalar('train/loss_ce').current() == 0
    loss = runner.message_hub.get_scalar(f'train/{method}.stage3.loss_contrast').current()
    assert loss == pytest.approx(runner.message_hub.get_scalar('train/loss').current())
    _, linear = run(
        tool,
        tmp_path / 'linear',
        data_root,
        f'configs/{method}/resnet50_in1k-linear.py',
        HEAD,
        f'load_from={encoder}',
    )
    before, after = state_of(encoder), state_of(linear)
    assert all(torch.equal(after[key], before[key]) for key in after if key.startswith('backbone.'))
    assert not torch.equal(after['head.fc.weight'], before['head.fc.weight'])


def test_byol_pre_trains_and_is_finetuned_with_and_without_dsn(tool, tmp_path, data_root):
    small = 'neck=dict(in_channels=128, hid_channels=8, out_channels=8), head=dict(predictor=dict('
    small += "in_channels=8, hid_channels=8, out_channels=8, norm_cfg=dict(type='BN1d')))"
    small = small.replace('out_channels=8), head', "out_channels=8, norm_cfg=dict(type='BN1d')), head")
    runner, pretrained = run(
        tool,
        tmp_path / 'byol',
        data_root,
        'configs/byol/resnet50_in1k.py',
        small,
        'default_hooks.checkpoint.interval=1',
        'train_dataloader.persistent_workers=False',
        norm=", norm_cfg=dict(type='BN', _delete_=True)",
    )
    assert runner.message_hub.get_scalar('train/loss').current() >= -4
    state = state_of(pretrained)
    assert any(key.startswith('target_net.') for key in state)
    for leaf in ('resnet50_in1k-finetune', 'resnet50_in1k-finetune-dsn'):
        runner, finetuned = run(
            tool,
            tmp_path / leaf,
            data_root,
            f'configs/byol/{leaf}.py',
            HEAD,
            f'model.backbone.init_cfg.checkpoint={pretrained}',
            'optim_wrapper.optimizer.lr=0.0',
        )
        after = state_of(finetuned)
        trained = [key for key in state if key.startswith('backbone.') and key.endswith('conv1.weight')]
        assert trained
        assert all(torch.equal(after[key], state[key]) for key in trained)
        assert any(key.startswith('supervisions.dsn') for key in after) == leaf.endswith('dsn')


@pytest.mark.parametrize('leaf', LEAVES, ids=str)
def test_header_gives_the_command_and_the_source_is_the_last_checkpoint(leaf):
    text = (ROOT / leaf).read_text().split('"""')[1]
    assert str(leaf) in text
    config = Config.fromfile(ROOT / leaf)
    first = config.get('load_from') or (config.model.backbone.get('init_cfg') or {}).get('checkpoint')
    if first:
        source = Config.fromfile(ROOT / 'configs' / Path(first).parent.relative_to('work_dirs').with_suffix('.py'))
        assert Path(first).stem == f'epoch_{source.train_cfg.max_epochs}'


def test_the_encoder_sees_two_views_of_one_policy_and_contrasts_over_all_gpus():
    config = Config.fromfile(ROOT / 'configs/supcon/resnet50_in1k.py')
    first, second = config.train_pipeline[1]['views']
    assert first == second
    assert first[-1]['type'] == 'AutoAugment'
    assert config.model.supervisions.supcon.gather
    assert config.optim_wrapper.optimizer.lr == pytest.approx(4.8 * 512 / 4096)


def test_simclr_has_the_views_and_the_schedule_of_the_host():
    ours = Config.fromfile(ROOT / 'configs/simclr/resnet50_in1k.py')
    host = get_config('mmpretrain::simclr/simclr_resnet50_16xb256-coslr-200e_in1k.py')

    def plain(steps):
        return [
            {key: plain(value) if key == 'transforms' else value for key, value in step.items() if key in KEYS}
            for step in steps
        ]

    first, second = ours.train_pipeline[1]['views']
    assert first == second
    assert plain(first) == plain(host.view_pipeline)
    assert ours.optim_wrapper.optimizer.to_dict() == host.optim_wrapper.optimizer.to_dict()
    assert ours.optim_wrapper.paramwise_cfg == host.optim_wrapper.paramwise_cfg
    assert ours.param_scheduler == host.param_scheduler
    assert ours.train_cfg.max_epochs == host.train_cfg.max_epochs
    assert ours.model.supervisions.simclr.loss.temperature == host.model.head.temperature
    assert ours.train_dataloader.batch_size == host.train_dataloader.batch_size

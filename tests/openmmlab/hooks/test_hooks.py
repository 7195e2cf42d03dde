"""Hooks in real runs: checks stop a wrong run, streams are reproducible, the end leaves its files."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import few_images

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.hooks.report import command
from mmcds.openmmlab.runner import HOST_HOOKS, OUR_HOOKS

ROOT = Path(__file__).resolve().parents[3]
QUICK = few_images(32, 8, 20)
CONFIG = str(ROOT / 'configs/cds/resnet18w16_fashion.py')


def train(tool, work_dir, *options, epochs=1, config=CONFIG, arguments=()):
    return tool('train').main(
        [
            config,
            '--work-dir',
            str(work_dir),
            *arguments,
            '--cfg-options',
            *QUICK,
            f'train_cfg.max_epochs={epochs}',
            *options,
        ]
    )


def weights(work_dir, epoch) -> dict[str, torch.Tensor]:
    return torch.load(work_dir / f'epoch_{epoch}.pth', weights_only=False)['state_dict']


@pytest.mark.parametrize('workers', [0, 2])
def test_killed_and_resumed_equals_never_stopped(tool, tmp_path, environment, workers):
    keep = ['default_hooks.checkpoint.max_keep_ckpts=9', f'train_dataloader.num_workers={workers}']
    train(tool, tmp_path / 'whole', *keep, epochs=4)
    command = [
        sys.executable,
        str(ROOT / 'tools/train.py'),
        CONFIG,
        '--work-dir',
        str(tmp_path / 'killed'),
        '--cfg-options',
        *QUICK,
        *keep,
        'train_cfg.max_epochs=4',
    ]
    same_threads = {**environment, 'OMP_NUM_THREADS': str(torch.get_num_threads())}  # they order the sums
    process = subprocess.Popen(
        command, env=same_threads, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.time() + 120
    while not (tmp_path / 'killed/last_checkpoint').exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / 'killed/epoch_4.pth').exists(), 'the kill must come before the end'
    train(tool, tmp_path / 'killed', *keep, epochs=4, arguments=['--resume'])
    whole, resumed = weights(tmp_path / 'whole', 4), weights(tmp_path / 'killed', 4)
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key


def test_two_epochs_draw_different_and_two_runs_equal_augmentations(tool, tmp_path):
    seen = []

    def record(seed):
        runner = tool('train')
        config = [
            CONFIG,
            '--work-dir',
            str(tmp_path / str(len(seen))),
            '--seed',
            str(seed),
            '--cfg-options',
            *QUICK,
            'train_cfg.max_epochs=2',
            'train_dataloader.num_workers=2',
            'train_dataloader.sampler.shuffle=False',
        ]
        epochs = {}
        from mmengine.hooks import Hook

        class Listen(Hook):
            def before_train_iter(self, runner, batch_idx, data_batch=None):
                epochs.setdefault(runner.epoch, []).append(data_batch['inputs'].clone())

        args = runner.parse_args(config)
        from mmengine.runner import Runner

        from mmcds.cli.launch import load_config, set_loader_defaults

        built = load_config(args)
        runner.merge_train_arguments(built, args)
        set_loader_defaults(built)
        run = Runner.from_cfg(built)
        run.register_hook(Listen())
        run.train()
        seen.append([torch.cat(epochs[epoch]) for epoch in (0, 1)])

    record(0)
    record(0)
    record(1)
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[0][0], seen[0][1])
    assert not torch.equal(seen[0][0], seen[2][0])


@pytest.mark.parametrize(
    'options, message',
    [
        (
            ['model.head.num_classes=7', 'data_preprocessor.num_classes=7'],
            r'train_dataloader: the data set has 10 classes, but head.num_classes is 7',
        ),
        (
            ['train_dataloader.batch_size=1'],
            r'batch_size is 1; the views of a single image have nothing to be contrasted',
        ),
        (
            ['train_dataloader.batch_size=31', 'train_dataloader.drop_last=False'],
            r'the last of 2 batches holds one image',
        ),
        (['train_dataloader.dataset.pipeline.1.views="[[]]"'], r'the pipeline makes 1 view\(s\) per image'),
    ],
)
def test_a_run_that_cannot_be_right_stops_before_its_first_step(tool, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        train(tool, tmp_path, *options)
    assert not list(tmp_path.glob('*.pth'))


def test_hooks_of_a_user_add_to_ours_and_none_leaves_one_out(tool, tmp_path):
    config = tmp_path / 'own.py'
    config.write_text(
        f"_base_ = {CONFIG!r}\ncustom_hooks = [dict(type='EMAHook')]\n"
        'default_hooks = dict(report=None, sampler_seed=None)\n'
    )
    runner = train(tool, tmp_path / 'run', config=str(config))
    names = [type(hook).__name__ for hook in runner.hooks]
    assert {*HOST_HOOKS, *OUR_HOOKS} == set(runner.cfg.default_hooks)
    ours = [name for name in OUR_HOOKS if name != 'report']
    expected = {runner.cfg.default_hooks[name].type.rpartition('.')[2] for name in ours}
    assert expected | {'EMAHook', 'SafeCheckpointHook', 'LoggerHook'} <= set(names)
    assert not {'RunReportHook', 'DistSamplerSeedHook'} & set(names)
    assert len(names) == len(set(names)), 'each one is registered once'
    assert not list((tmp_path / 'run').glob('backbone_*'))


def test_a_hook_that_no_config_has_is_not_left_out_in_silence(tool, tmp_path):
    with pytest.raises(ConfigError, match=r'default_hooks\.reprot is None.*Did you mean report\?'):
        train(tool, tmp_path, 'default_hooks.reprot=None')
    with pytest.raises(ConfigError, match=r'default_hooks\.xyzzy is None.*names are runtime_info, timer'):
        train(tool, tmp_path, 'default_hooks.xyzzy=None')


def test_a_single_image_meets_no_batchnorm_in_plain_training(tool, tmp_path):
    with pytest.raises(ConfigError, match='BatchNorm cannot estimate statistics from it'):
        train(
            tool, tmp_path, 'train_dataloader.batch_size=1', config=str(ROOT / 'configs/plain/resnet18w16_fashion.py')
        )


def test_an_empty_data_set_stops_the_run(tool, tmp_path):
    with pytest.raises(ConfigError, match='val_dataloader: the data set is empty'):
        train(tool, tmp_path, 'val_dataloader.dataset.indices=0', 'val_dataloader.dataset.serialize_data=False')


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    from conftest import forget_runs, load_tool

    forget_runs()  # this runs before the clean-up of the first test that uses it
    folder = tmp_path_factory.mktemp('finished')
    train(load_tool, folder, epochs=2)
    return folder


def test_the_end_leaves_checkpoint_backbone_manifest_and_curves(finished):
    names = {path.name for path in finished.iterdir()}
    assert {
        'epoch_2.pth',
        'backbone_epoch_2.pth',
        'backbone_epoch_2.pth.json',
        'backbone_epoch_2.safetensors',
        'backbone_epoch_2.safetensors.json',
        'curves.png',
        'last_checkpoint',
    } <= names
    log = next(finished.glob('*/*.log')).read_text()
    assert 'What to run next:' in log
    assert str(finished / 'epoch_2.pth') in log.split('Finished')[1]
    for term in (' = ce ', ' + cds ', '  eta '):
        assert term in log
    scalars = next(finished.glob('*/vis_data/scalars.json')).read_text()
    for term in ('loss_ce', 'cds.stage0.loss_contrast', 'cds.stage3.loss_contrast'):
        assert f'"{term}": ' in scalars
    assert '\x1b' not in log


@pytest.mark.parametrize(
    'started, expected',
    [
        (str(ROOT / 'tools/train.py'), f'python {ROOT / "tools/predict.py"}'),
        ('mmcds train', 'mmcds predict'),
        ('/elsewhere/train.py', 'mmcds predict'),
    ],
)
def test_the_end_names_commands_that_work_where_the_user_stands(monkeypatch, started, expected):
    monkeypatch.setattr(sys, 'argv', [started])
    assert command('predict') == expected
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', ['tools/train.py'])
    assert command('compare-detection') == 'python tools/compare_detection.py'


def test_a_run_that_keeps_no_scalars_ends_well_without_curves(tool, tmp_path):
    train(tool, tmp_path, 'visualizer.vis_backends=[]')
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'no curves are drawn' in log
    assert str(tmp_path / 'epoch_1.pth') in log.split('Finished')[1]
    assert (tmp_path / 'backbone_epoch_1.pth').exists()
    assert not (tmp_path / 'curves.png').exists()


def test_a_run_that_keeps_no_checkpoint_says_so(tool, tmp_path):
    train(tool, tmp_path, 'default_hooks.checkpoint=None')
    assert 'kept no checkpoint, so there is nothing to export' in next(tmp_path.glob('*/*.log')).read_text()
    assert not list(tmp_path.glob('backbone*'))


def test_the_total_in_the_log_is_the_sum_of_its_terms(finished):
    lines = next(finished.glob('*/vis_data/scalars.json')).read_text().splitlines()
    records = [json.loads(line) for line in lines if '"loss"' in line]
    assert len(records) == 8
    for record in records:
        terms = [value for key, value in record.items() if 'loss' in key and key != 'loss']
        assert len(terms) == 5
        assert record['loss'] == pytest.approx(sum(terms), rel=1e-4)


def test_resuming_a_finished_run_reports_again_and_changes_no_weight(tool, finished):
    before = weights(finished, 2)
    train(tool, finished, epochs=2, arguments=['--resume'])
    for key, value in weights(finished, 2).items():
        assert torch.equal(value, before[key])


def test_a_run_goes_on_with_its_own_method_alone(tool, finished, tmp_path):
    plain = CONFIG.replace('/cds/', '/plain/')
    for arguments in (['--resume'], ['--resume', str(finished / 'epoch_2.pth')]):
        with pytest.raises(
            ConfigError, match=r'epoch_2\.pth is of another method: the model has no supervisions\.cds'
        ):
            train(tool, finished, epochs=3, config=plain, arguments=arguments)
    train(tool, tmp_path, config=plain)
    with pytest.raises(
        ConfigError, match=r'epoch_1\.pth is of another architecture: .* supervisions\.cds\S+ is missing'
    ):
        train(tool, tmp_path, epochs=2, arguments=['--resume'])


def test_a_checkpoint_of_another_architecture_is_refused(tool, finished, tmp_path):
    options = [*QUICK, 'model.backbone.base_channels=32', 'model.head.in_channels=256']
    refused = 'is of another architecture: 6 tensors are missing and {} have another shape, such as backbone'
    with pytest.raises(ConfigError, match=refused.format(96)):  # a test needs the classifier as well
        tool('test').main(
            [CONFIG, str(finished / 'epoch_2.pth'), '--work-dir', str(tmp_path), '--cfg-options', *options]
        )
    with pytest.raises(ConfigError, match=refused.format(95)):  # a training that starts from it, the backbone alone
        tool('train').main(
            [
                CONFIG,
                '--work-dir',
                str(tmp_path),
                '--cfg-options',
                *options,
                f'load_from={finished / "epoch_2.pth"}',
            ]
        )


def test_a_pretrained_network_of_another_architecture_is_refused(tool, finished, tmp_path):
    given = f'model.pretrained={finished / "epoch_2.pth"}'
    with pytest.raises(ConfigError, match=r'epoch_2\.pth is of another architecture: .* such as backbone'):
        train(tool, tmp_path, given, 'model.backbone.base_channels=32', 'model.head.in_channels=256')
    runner = train(tool, tmp_path, given, 'optim_wrapper.optimizer.lr=0.', 'optim_wrapper.optimizer.weight_decay=0.')
    assert torch.equal(runner.model.backbone.conv1.weight, weights(finished, 2)['backbone.conv1.weight'])


@pytest.mark.parametrize('name, refused', [('chekcpoint', True), ('my_checkpoint', False)])
def test_a_misspelt_hook_does_not_come_beside_the_one_that_is_meant(tool, tmp_path, name, refused):
    option = f"default_hooks.{name}.type='IterTimerHook'"
    if refused:
        with pytest.raises(ConfigError, match=r'default_hooks\.chekcpoint .* Did you mean checkpoint'):
            train(tool, tmp_path, option, 'train_cfg.max_epochs=1')
    else:
        train(tool, tmp_path, option, 'train_cfg.max_epochs=1')


def test_validation_images_of_other_classes_are_refused(tool, tmp_path):
    for part, names in (('train', 'abc'), ('val', 'abd')):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(4):
                pixels = np.random.default_rng(number).integers(0, 255, (32, 32, 3), np.uint8)
                cv2.imwrite(str(tmp_path / part / name / f'{number}.png'), pixels)
    config = tmp_path / 'own.py'
    data = "dict(_delete_=True, type='QuickFolders', data_root={!r}, with_label=True, pipeline=[dict(type='{}')])"
    config.write_text(
        "_base_ = 'mmcds::plain/resnet18w16_fashion.py'\n"
        'model = dict(head=dict(num_classes=3))\ndata_preprocessor = dict(num_classes=3)\n'
        'val_evaluator = test_evaluator = dict(topk=(1,))\n'
        + ''.join(
            f'{part}_dataloader = dict(dataset={data.format(str(tmp_path / part), "LoadImageFromFile")})\n'
            for part in ('train', 'val')
        )
    )
    with pytest.raises(ConfigError, match='the data set has 12 images, fewer than the 64 of a batch'):
        tool('train').main([str(config), '--work-dir', str(tmp_path / 'w')])
    config.write_text(f'{config.read_text()}train_dataloader["batch_size"] = 4\n')
    with pytest.raises(ConfigError, match="val_dataloader: class 2 is 'd', but 'c' in the training"):
        tool('train').main([str(config), '--work-dir', str(tmp_path / 'w')])


def test_a_deeper_network_is_refused_because_tensors_are_missing(tool, finished, tmp_path):
    with pytest.raises(ConfigError, match=r'[1-9]\d* tensors are missing .* such as backbone.layer'):
        tool('test').main(
            [
                CONFIG,
                str(finished / 'epoch_2.pth'),
                '--work-dir',
                str(tmp_path),
                '--cfg-options',
                *QUICK,
                'model.backbone.depth=34',
            ]
        )


def test_a_bare_backbone_as_checkpoint_is_refused_with_the_way_to_load_it(tool, finished, tmp_path):
    with pytest.raises(ConfigError, match=r'holds a bare backbone. Load it with model.backbone.init_cfg'):
        tool('train').main(
            [
                CONFIG,
                '--work-dir',
                str(tmp_path),
                '--cfg-options',
                *QUICK,
                f'load_from={finished / "backbone_epoch_2.pth"}',
            ]
        )


def test_plain_training_may_start_from_a_cds_checkpoint_with_another_head(tool, finished, tmp_path):
    runner = train(
        tool,
        tmp_path,
        f'load_from={finished / "epoch_2.pth"}',
        'optim_wrapper.optimizer.lr=0.',
        'optim_wrapper.optimizer.weight_decay=0.',
        config=str(ROOT / 'configs/plain/resnet18w16_fashion.py'),
    )
    assert torch.equal(runner.model.backbone.conv1.weight, weights(finished, 2)['backbone.conv1.weight'])


def test_the_progress_bar_shows_on_a_terminal_only(tmp_path, environment):
    pty = pytest.importorskip('pty')
    command = [
        sys.executable,
        str(ROOT / 'tools/train.py'),
        CONFIG,
        '--work-dir',
        str(tmp_path),
        '--cfg-options',
        *QUICK,
        'train_cfg.max_epochs=1',
        'train_dataloader.dataset.indices=96',
    ]
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command,
        env={**environment, 'TERM': 'xterm', 'COLUMNS': '120'},
        stdout=follower,
        stderr=follower,
        close_fds=True,
    )
    os.close(follower)
    seen = b''
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    os.close(leader)
    assert process.wait() == 0
    text = seen.decode(errors='replace')
    assert '12/12' in text
    assert re.search(r'loss \d\.\d{3}', text)
    assert 'nan' not in text, 'there is no loss before the first step'
    assert 'epoch 1/1' in text
    assert 'eta' in text
    assert 'What to run next' in text


def test_seeds_of_epochs_differ_and_repeat():
    from types import SimpleNamespace

    from mmcds.openmmlab.hooks import EpochSeedHook

    drawn = []
    for epoch in (0, 1, 0):
        EpochSeedHook().before_train_epoch(SimpleNamespace(seed=5, epoch=epoch))
        drawn.append((np.random.rand(), torch.rand(()).item()))
    assert drawn[0] == drawn[2] != drawn[1]
    logging.getLogger().debug('drawn %s', drawn)

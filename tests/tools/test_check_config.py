"""What a config cannot mean is refused before anything is built, in one line that names the fix."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hub import get_config

from mmcds.cli.check_config import check_config, check_options
from mmcds.cli.launch import read_config
from mmcds.core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / 'configs/cds/resnet18w16_fashion.py')


@pytest.mark.parametrize(
    'options, message',
    [
        ({'train_cfg.max_epochs': 0}, r'train_cfg\.max_epochs is 0'),
        ({'train_cfg.max_epochs': -3}, r'train_cfg\.max_epochs is -3'),
        ({'train_cfg.max_epochs': 1.5}, r'train_cfg\.max_epochs is 1\.5'),
        ({'train_cfg.val_interval': 0}, r'train_cfg\.val_interval is 0'),
        ({'optim_wrapper.optimizer.lr': float('nan')}, r'optimizer\.lr is nan.*from 0 to 100'),
        ({'optim_wrapper.optimizer.lr': 1e30}, r'optimizer\.lr is 1e\+30'),
        ({'optim_wrapper.optimizer.lr': -0.1}, r'optimizer\.lr is -0\.1'),
        ({'optim_wrapper.optimizer.lr': '0.1 '}, r"optimizer\.lr is '0\.1 '"),
        ({'optim_wrapper.optimizer.momentum': 1.5}, r'optimizer\.momentum is 1\.5.*below 1'),
        ({'optim_wrapper.optimizer.weight_decay': float('nan')}, r'weight_decay is nan'),
        ({'optim_wrapper.clip_grad': 5}, r'optim_wrapper\.clip_grad is 5\. Set it to a dict, such as dict\(max_norm'),
        ({'optim_wrapper.clip_grad': dict(max_norm=-1)}, r'clip_grad\.max_norm is -1'),
        ({'optim_wrapper.accumulative_counts': 0}, r'accumulative_counts is 0'),
        ({'param_scheduler.0.start_factor': float('nan')}, r'param_scheduler\.0\.start_factor is nan'),
        ({'param_scheduler.1.eta_min': float('inf')}, r'param_scheduler\.1\.eta_min is inf'),
        ({'param_scheduler.1.end': 0}, r'param_scheduler\.1 begins at .* and ends at 0'),
        ({'train_dataloader.batch_size': 0}, r'train_dataloader\.batch_size is 0'),
        ({'val_dataloader.batch_size': -1}, r'val_dataloader\.batch_size is -1'),
        ({'train_dataloader.num_workers': -1}, r'train_dataloader\.num_workers is -1'),
        ({'randomness.seed': -1}, r'randomness\.seed .* is -1'),
        ({'data_preprocessor.std': [90.0, 90.0, 0.0]}, r'data_preprocessor\.std is 0\.0.*above 0'),
        ({'data_preprocessor.mean': [1.0, 2.0]}, r'data_preprocessor\.mean is \[1\.0, 2\.0\].*each of 3 channels'),
        ({'val_evaluator.topk': (1, 11)}, r'val_evaluator\.topk is \(1, 11\), but head\.num_classes is 10'),
        ({'train_cfg.max_epochs': 10**12}, r'train_cfg\.max_epochs is 1000000000000'),
        ({'param_scheduler.1.eta_min': 1e30}, r'param_scheduler\.1\.eta_min is 1e\+30'),
        ({'param_scheduler.0.by_epoch': 1}, r'param_scheduler\.0\.by_epoch is 1\. Set it to True or False'),
        ({'auto_scale_lr.base_batch_size': False}, r'auto_scale_lr\.base_batch_size is False'),
        ({'optim_wraper': dict(optimizer=dict(lr=0.5))}, r'optim_wraper is no setting.*mean optim_wrapper'),
        ({'train_dataloder': dict(batch_size=4)}, r'train_dataloder is no setting.*mean train_dataloader'),
    ],
)
def test_what_means_nothing_is_refused(options, message):
    config = Config.fromfile(CONFIG)
    check_config(config)
    config.merge_from_dict(options)
    with pytest.raises(ConfigError, match=message):
        check_config(config)


@pytest.mark.parametrize(
    'line, message',
    [
        ("optimizer = dict(type='SGD', lr=0.1)", r'optimizer at the top .* Write optim_wrapper'),
        ("lr_config = dict(policy='step')", r'lr_config at the top .* Write param_scheduler'),
        ("optimizer = dict(type='SGD', lr=0.1)\noptim_wrapper = dict(optimizer=optimizer)", None),
    ],
)
def test_settings_of_earlier_versions_are_refused_unless_they_are_variables(tmp_path, line, message):
    (tmp_path / 'own.py').write_text(f"_base_ = 'mmcds::plain/resnet18w16_fashion.py'\n{line}\n")
    config = Config.fromfile(tmp_path / 'own.py')
    if message is None:
        check_config(config)
        return
    with pytest.raises(ConfigError, match=message):
        check_config(config)


@pytest.mark.parametrize(
    'name, meant',
    [
        ('max_epochs', r'train_cfg\.max_epochs'),
        ('lr', r'optim_wrapper\.optimizer\.lr'),
        ('batch_size', r'train_dataloader\.batch_size'),
        ('optim_wraper.optimizer.lr', 'optim_wrapper'),
        ('modle.backbone.depth', 'model'),
        ('zzz', 'See the config'),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(name, meant):
    config = Config.fromfile(CONFIG)
    with pytest.raises(ConfigError, match=rf'--cfg-options {name}: .*would change nothing.*{meant}'):
        check_options(config, {name: 1})
    check_options(config, {'train_cfg.max_epochs': 1, 'auto_scale_lr.enable': True, 'compile': True})


@pytest.mark.parametrize('name', ['num_classes', 'data_root', 'view_0', 'test_pipeline.0.type', 'optimizer.lr'])
def test_an_option_for_a_variable_of_the_config_is_refused_as_it_was_used_already(name):
    config = get_config('mmcds::byol/resnet50_in1k.py' if name == 'optimizer.lr' else 'mmcds::cds/resnet50_in1k.py')
    message = rf'--cfg-options {name}: {name.split(".")[0]} is a variable of the config and was used already'
    with pytest.raises(ConfigError, match=message):
        check_options(config, {name: 1})


def test_options_for_what_is_read_at_the_top_are_taken():
    config = Config.fromfile(CONFIG)
    config.merge_from_dict({'my_code': dict(width=3)})
    names = ('work_dir', 'load_from', 'resume', 'launcher', 'log_level', 'experiment_name', 'default_scope')
    options = dict.fromkeys((*names, 'find_unused_parameters', 'sync_bn', 'model_wrapper_cfg.type'), 'x')
    check_options(config, {**options, 'randomness.seed': 1, 'custom_hooks': [], 'my_code.width': 4})


@pytest.mark.parametrize(
    'name',
    [
        'mmpretrain::spark/spark_sparse-resnet50_8xb512-amp-coslr-800e_in1k.py',  # has a variable `optimizer`
        'mmpretrain::hornet/hornet-tiny_8xb128_in1k.py',
        'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py',  # and `max_epochs`
        'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py',
    ],
)
def test_variables_of_the_hosts_are_no_mistakes(name):
    import mmcds.detection  # noqa: F401  (MMDetection needs its operators where mmcv has none compiled)

    check_config(get_config(name))


@pytest.mark.parametrize(
    'file, content, message',
    [
        ('a.py', b'model = dict(', 'is not Python'),
        ('a.py', b'\x89PNG\xff\xfe', 'is not Python'),
        ('a.py', b'', 'has no model'),
        ('a.py', b'model = dict(depth=deep)', "cannot be read: .*name 'deep' is not defined"),
        ('a.py', b"model = dict(depth=1 + '')", 'cannot be read: .*unsupported operand'),
        ('a.py', b"_base_ = 'nothere.py'", r'cannot be read: .*nothere\.py'),
        ('a.py', b"_base_ = 'mmcds::cds/nope.py'", 'cannot be read'),
        ('a.png', b'', r"ends with '\.png'"),
        ('a.pth', b'', r"ends with '\.pth'"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ConfigError, match=rf'{file}.*{message}'):
        read_config(str(tmp_path / file))


@pytest.mark.parametrize('name', ['nowhere.py', '/', 'mmcds::nope', 'mmcds::cds/nope.py', 'nobody::a/b.py'])
def test_a_config_that_does_not_exist_is_named(name):
    with pytest.raises(ConfigError, match=f'{name}.*(does not exist|has no config)'):
        read_config(name)


@pytest.mark.parametrize('options', [['foo'], ['=1'], ['a=1', 'b']])
def test_options_without_a_value_are_refused(tool, options, capsys):
    with pytest.raises(SystemExit):
        tool('train').main([CONFIG, '--cfg-options', *options])
    assert 'is not KEY=VALUE' in capsys.readouterr().err


@pytest.mark.parametrize('jobs', ['0', '-1', 'many', '1.5'])
def test_numbers_of_jobs_that_mean_nothing_are_refused(tool, jobs, capsys):
    with pytest.raises(SystemExit):
        tool('paper').main(['run', 'table1', '--jobs', jobs])
    assert f'--jobs: {jobs!r} is no whole number from 1 on' in capsys.readouterr().err


@pytest.mark.parametrize('name, rest', [('train', []), ('test', ['plain_resnet18w16_fashion'])])
def test_a_work_dir_that_cannot_be_made_or_written_is_refused(tool, tmp_path, monkeypatch, name, rest):
    (tmp_path / 'file').touch()
    wrong = {'file': 'is a file', 'file/x': r'cannot be made: Not a directory\.'}
    for place, message in wrong.items():
        with pytest.raises(ConfigError, match=rf'--work-dir .*{place} {message}'):
            tool(name).main([CONFIG, *rest, '--work-dir', str(tmp_path / place)])
    monkeypatch.setattr('os.access', lambda *_: False)  # a superuser may write everywhere
    with pytest.raises(ConfigError, match=r'--work-dir .*new cannot be written to\.'):
        tool(name).main([CONFIG, *rest, '--work-dir', str(tmp_path / 'new')])


def test_an_option_for_a_value_that_only_own_code_reads_is_taken(tmp_path):
    (tmp_path / 'own.py').write_text(
        f'_base_ = {str(Path(CONFIG).resolve())!r}\nflag = 3\nwidth = 2\nother = [width]\n'
    )
    config = Config.fromfile(tmp_path / 'own.py')
    check_options(config, {'flag': 4})
    with pytest.raises(ConfigError, match='width is a variable of the config and was used already'):
        check_options(config, {'width': 4})

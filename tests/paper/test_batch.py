"""The batch of a step: that of the learning rate, on any number of GPUs, or a refusal that names the mend."""

import pytest
import torch
from mmengine.config import Config

from mmcds.core.errors import ConfigError
from mmcds.paper import TABLES, cell, cells, compose, why_not
from mmcds.paper.batch import divide_batch, needs_all_at_once, usual_processes


@pytest.mark.parametrize('visible', [0, 1, 3, 8])
def test_every_cell_trains_with_the_batch_of_its_learning_rate(visible):
    for table in TABLES:
        for each in cells(table):
            if why_not(each) or (table in ('table1', 'table8') and each.network not in ('resnet18', 'mobilenet_v1')):
                continue
            config = compose(each)
            base, size = config.auto_scale_lr.base_batch_size, config.train_dataloader.batch_size
            processes = usual_processes(config, visible)
            assert processes <= max(visible, 1) or not visible, each.name
            batch = divide_batch(config, processes, each.name)
            assert batch.total == base, each.name
            assert config.train_dataloader.batch_size == batch.images <= size
            assert config.optim_wrapper.get('accumulative_counts', 1) == batch.accumulated


@pytest.mark.parametrize(
    'name, processes, expected',
    [
        ('table3/resnet50_in1k/cds', 1, (32, 8)),
        ('table3/resnet50_in1k/cds', 4, (32, 2)),
        ('table3/resnet50_in1k/cds', 8, (32, 1)),
        ('table3/resnet50_in1k/cds', 16, (16, 1)),
        ('table4/resnet50_coco/cds-RetinaNet', 2, (2, 4)),
        ('table1/resnet18_cifar100/cds', 2, (64, 1)),
        ('table9/resnet50_in1k/supcon-SupCon1', 8, (64, 1)),
        ('figure2/resnet18_cifar100/semi_cds-10_labels', 2, (96, 1)),
    ],
)
def test_images_are_divided_over_processes_then_over_time(name, processes, expected):
    config = compose(cell(name))
    batch = divide_batch(config, processes, name)
    assert (batch.images, batch.accumulated) == expected
    if name.startswith('figure2'):
        assert config.train_dataloader.batch_sampler.num_unlabelled == 32


@pytest.mark.parametrize('visible', [0, 1, 8])
def test_a_batch_above_that_of_the_learning_rate_is_for_one_process(visible):
    config = compose(cell('table3/resnet50_in1k/cds'))
    config.train_dataloader.batch_size = 2 * config.auto_scale_lr.base_batch_size
    assert usual_processes(config, visible) == 1


def test_a_schedule_that_counts_iterations_counts_those_of_a_step():
    config = compose(cell('table4/resnet50_coco/plain-Faster_R-CNN'))
    warmup, epochs = config.param_scheduler[0].copy(), config.param_scheduler[1].copy()
    divide_batch(config, 1, 'a detector')
    assert not warmup.by_epoch
    assert config.param_scheduler[0].end == 8 * warmup.end
    assert config.param_scheduler[1] == epochs


@pytest.mark.parametrize(
    'name, processes, options, message',
    [
        ('table3/resnet50_in1k/cds', 3, {}, 'chosen for 256 images in a step, which 3 processes cannot share equally'),
        ('table3/resnet50_in1k/cds', 0, {}, '0 processes cannot share'),
        (
            'table3/resnet50_in1k/cds',
            1,
            {'train_dataloader.batch_size': 48},
            'cannot be taken 48 at a time.*divides 256',
        ),
        (
            'table3/resnet50_in1k/cds',
            4,
            {'optim_wrapper.accumulative_counts': 3},
            'accumulative_counts=3 is set, but 4 .* accumulate 2 times for a step of 256',
        ),
        (
            'figure2/resnet18_cifar100/semi_cds-10_labels',
            192,
            {},
            '64 unlabelled images of 192 cannot be shared by 192',
        ),
    ],
)
def test_what_does_not_divide_is_refused_with_the_mend(name, processes, options, message):
    config = compose(cell(name))
    config.merge_from_dict(options)
    with pytest.raises(ConfigError, match=f'{name}.*{message}.*--auto-scale-lr'):
        divide_batch(config, processes, name)


def test_what_contrasts_all_gpus_is_not_divided_in_time():
    encoder = cell('table9/resnet50_in1k/supcon-SupCon1').start
    assert needs_all_at_once(compose(encoder))
    with pytest.raises(
        ConfigError, match=r'6144 images at once.*Take --gpus 8, train_dataloader.batch_size=6144 where'
    ):
        divide_batch(compose(encoder), 1, encoder.name)
    assert divide_batch(compose(encoder), 8, encoder.name).accumulated == 1
    byol = compose(cell('table9/resnet50_in1k/byol-BYOL').start)
    assert needs_all_at_once(byol)
    assert not needs_all_at_once(compose(cell('table3/resnet50_in1k/cds')))


def test_the_tool_starts_as_many_processes_as_share_the_batch(tool, tmp_path, monkeypatch, capsys):
    module, seen = tool('paper'), []

    def fake(runs, jobs, devices):
        for run in runs:
            seen.append((run.command()[1:4], jobs, devices))
            (run.work_dir / 'last_checkpoint').write_text(f'{run.work_dir}/epoch_90.pth')
        return []

    monkeypatch.setattr(module, 'execute', fake)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2,3,5,7')
    out = ['--seeds', '0', '--out', str(tmp_path)]
    module.main(['run', 'table3/resnet18_in1k/cds', 'table1/resnet18_cifar100/cds', *out])
    (cifar, four, single), (imagenet, one, whole) = seen
    assert cifar[0].endswith('train.py')
    assert (four, single) == (4, ['2', '3', '5', '7'])
    assert imagenet[0].endswith('dist_train.sh')
    assert (imagenet[2], one, whole) == ('4', 1, ['2,3,5,7'])
    written = Config.fromfile(tmp_path / 'table3/resnet18_in1k/cds/seed_0/cell.py')
    assert (written.train_dataloader.batch_size, written.optim_wrapper.accumulative_counts) == (32, 2)

    seen.clear()
    module.main(['run', 'table3/resnet18_in1k/dsn', '--gpus', '2', '--auto-scale-lr', *out])
    written = Config.fromfile(tmp_path / 'table3/resnet18_in1k/dsn/seed_0/cell.py')
    assert (seen[0][0][2], seen[0][1:]) == ('2', (2, ['2,3', '5,7']))
    assert (written.train_dataloader.batch_size, written.auto_scale_lr.enable) == (32, True)
    assert 'accumulative_counts' not in written.optim_wrapper

    seen.clear()
    capsys.readouterr()
    with pytest.raises(ConfigError, match=r'--gpus 8: 4 GPU\(s\) are visible'):
        module.main(['run', 'table3/resnet34_in1k/cds', '--gpus', '8', *out])
    with pytest.raises(ConfigError, match='which 0 processes cannot share'):
        module.main(['run', 'table3/resnet34_in1k/cds', '--gpus', '0', *out])
    assert not (tmp_path / 'table3/resnet34_in1k').exists()
    module.main(
        ['run', 'table3/resnet34_in1k/cds', 'table8/resnet18_cifar100/kd', '--dry-run', '--out', str(tmp_path / 'no')]
    )
    shown = capsys.readouterr().out
    assert not seen
    assert not (tmp_path / 'no').exists()
    assert '4 x 32 x 2 = 256' in shown
    assert 'table1/resnet50_cifar100/cds' in shown.replace('\n', ''), 'the teacher comes first'

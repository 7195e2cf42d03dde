"""Unreadable training images count once for all epochs, processes and ranks; validation images are read before."""

import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import DefaultScope

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.hooks.check import UNREADABLE
from mmcds.openmmlab.runner import build_dataset

ROOT = Path(__file__).resolve().parents[3]
SMALL = (
    'model.backbone.base_channels=8',
    'model.backbone.stem_channels=8',
    'model.head.in_channels=64',
    'train_dataloader.batch_size=6',
    'train_dataloader.drop_last=False',
    'val_dataloader.num_workers=0',
)


@pytest.fixture
def folder(tmp_path):
    """24 training images, three of them damaged, and four validation images."""
    data = tmp_path / 'data'
    for split, count in (('train', 12), ('val', 2)):
        for name in ('a', 'b'):
            place = data / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
                cv2.imwrite(str(place / f'{number}.png'), pixels)
    damage(*(data / 'train' / name for name in ('a/1.png', 'a/7.png', 'b/3.png')))
    return data


def damage(*paths):
    for path in paths:
        path.write_bytes(path.read_bytes()[:60])


def command(folder, work_dir, allowed, workers, *options):
    line = ['--data', str(folder), '--work-dir', str(work_dir), '--epochs', '3', '--cfg-options', *SMALL]
    step = 'train_dataloader.dataset.pipeline.0.max_unreadable'
    return [*line, f'train_dataloader.num_workers={workers}', f'{step}={allowed}', *options]


def listed(work_dir):
    return sorted(
        Path(line).relative_to(work_dir.parent).as_posix() for line in open(work_dir / UNREADABLE).read().split()
    )


@pytest.mark.parametrize('workers', [0, 2])
def test_as_many_files_as_allowed_are_replaced_in_every_epoch(tool, tmp_path, folder, workers):
    tool('train').main(command(folder, tmp_path / 'run', 3, workers))
    assert listed(tmp_path / 'run') == ['data/train/a/1.png', 'data/train/a/7.png', 'data/train/b/3.png']
    log = next((tmp_path / 'run').glob('2*/*.log')).read_text()
    assert workers or [log.count(f'({number} of 3 allowed)') for number in (1, 2, 3)] == [1, 1, 1]


@pytest.mark.parametrize('workers', [0, 2])
def test_one_more_ends_the_run_with_all_their_names(tool, tmp_path, folder, workers):
    with pytest.raises(ConfigError) as found:
        tool('train').main(command(folder, tmp_path / 'run', 2, workers))
    assert all(name in str(found.value) for name in ('a/1.png', 'a/7.png', 'b/3.png', 'allowed: 2'))
    assert len(listed(tmp_path / 'run')) == 3


def test_two_ranks_count_together_and_say_it_in_one_line(tmp_path, folder, environment):
    tool = ['bash', str(ROOT / 'tools/dist_train.sh')]
    line = command(folder, tmp_path / 'run', 2, 1)
    config = tmp_path / 'run/config/own.py'
    subprocess.run(['python', str(ROOT / 'tools/train.py'), *line], env=environment, capture_output=True, check=False)
    assert len(listed(tmp_path / 'run')) == 3, 'one process found them'
    options = line[line.index('--cfg-options') :]
    ended = subprocess.run(
        [*tool, str(config), '2', '--work-dir', str(tmp_path / 'two'), *options],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = [row for row in ended.stderr.splitlines() if row.startswith('mmcds: error: LoadImage: cannot read')]
    assert ended.returncode, ended.stderr[-2000:]
    assert said, ended.stderr[-2000:]
    assert 'allowed: 2' in said[0]
    assert len(listed(tmp_path / 'two')) == 3


def test_a_list_of_an_earlier_run_counts_for_a_resumed_one_only(tool, tmp_path, folder):
    record = tmp_path / 'run' / UNREADABLE
    record.parent.mkdir()
    record.write_text('of an earlier run\n' * 5)
    tool('train').main(command(folder, tmp_path / 'run', 3, 0))
    assert len(listed(tmp_path / 'run')) == 3
    (folder / 'train/b/5.png').write_bytes(b'')
    again = [*command(folder, tmp_path / 'run', 3, 0, 'train_cfg.max_epochs=4')]
    with pytest.raises(ConfigError, match=r'5\.png.*allowed: 3'):
        tool('train').main([str(tmp_path / 'run/config/own.py'), *again[2:4], '--resume', *again[6:]])


def test_damaged_validation_images_are_found_before_the_training(tool, tmp_path, folder):
    damage(folder / 'val/b/1.png')
    (folder / 'val/a/0.png').unlink()
    (folder / 'val/a/0.png').symlink_to(folder / 'val/a')
    with pytest.raises(ConfigError, match=r'1 of \d images cannot be read: .*val/b/1\.png \(it cannot be decoded\)'):
        tool('train').main(command(folder, tmp_path / 'run', 3, 0))
    assert not list((tmp_path / 'run').glob('*.pth'))


@pytest.mark.parametrize('workers', [0, 1])
def test_data_that_vanishes_ends_the_run_in_one_line(tmp_path, folder, environment, workers):
    line = command(folder, tmp_path / 'run', 3, workers, 'train_cfg.max_epochs=500', 'param_scheduler.1.end=500')
    process = subprocess.Popen(
        [sys.executable, str(ROOT / 'tools/train.py'), *line],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while process.poll() is None and not list((tmp_path / 'run').glob('epoch_*.pth')):
        time.sleep(0.1)
    folder.rename(tmp_path / 'elsewhere')
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert said.strip().splitlines()[-1].startswith('mmcds: error: LoadImage: cannot read')
    assert 'Traceback' not in said.rpartition('mmcds: error')[2]


@pytest.mark.parametrize(
    'text', ['', 'a/1.png', 'a/1.png,0', 'a/1.png one'], ids=['empty', 'no label', 'comma', 'word']
)
def test_a_list_that_is_none_is_named_with_its_form(tmp_path, text):
    (tmp_path / 'list.txt').write_text(text)
    settings = dict(type='CustomDataset', data_root=str(tmp_path), ann_file='list.txt', data_prefix='', pipeline=[])
    with DefaultScope.overwrite_default_scope('mmpretrain'), pytest.raises(ConfigError, match='Each line is the path'):
        build_dataset(settings)

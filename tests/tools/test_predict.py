"""What predict says of files is what the test of a training says of the same images."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import few_images
from mmengine.config import Config
from PIL import Image

from mmcds.core.errors import ConfigError
from mmcds.data.embedded import EmbeddedFashionMNIST

ROOT = Path(__file__).resolve().parents[2]
CLASSES = EmbeddedFashionMNIST.METAINFO['classes']


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A short run, its last accuracy in percent, and a folder with the images that gave it, named by class."""
    from conftest import load_tool

    folder = tmp_path_factory.mktemp('predict')
    command = ['mmcds::cds/resnet18w16_fashion.py', '--work-dir', str(folder / 'run'), '--cfg-options']
    runner = load_tool('train').main([*command, *few_images(256, 64, 60), 'train_cfg.max_epochs=2'])
    images = EmbeddedFashionMNIST('test')
    (folder / 'images/deep').mkdir(parents=True)
    for number in range(60):
        place = 'images/deep' if number % 2 else 'images'
        info = images.get_data_info(number)
        cv2.imwrite(str(folder / place / f'{number:02}_{info["gt_label"]}.png'), np.squeeze(info['img']))
    (folder / 'images/notes.txt').write_text('no image')
    return folder / 'run/epoch_2.pth', runner.message_hub.get_scalar('val/accuracy/top1').current(), folder / 'images'


def test_files_are_classified_as_in_the_test(trained, tool, tmp_path, capsys):
    checkpoint, accuracy, images = trained
    out = tmp_path / 'new/predictions.csv'
    rows = tool('predict').main([str(checkpoint), str(images), '--out', str(out), '--top', '10', '--batch-size', '7'])
    assert len(rows) == 60
    right = [CLASSES[int(row[0].rsplit('_')[-1][0])] == row[1] for row in rows]
    assert 100 * sum(right) / 60 == pytest.approx(accuracy)
    for row in rows:
        assert sorted(row[1::2]) == sorted(CLASSES)
        assert row[2::2] == sorted(row[2::2], reverse=True)
        assert sum(row[2::2]) == pytest.approx(1, abs=1e-3)
    header, *written = csv.reader(out.open())
    assert header[:5] == ['image', 'class_1', 'probability_1', 'class_2', 'probability_2']
    assert [row[:2] for row in written] == [row[:2] for row in rows]
    said = capsys.readouterr()
    assert '... and 40 more.' in said.out
    assert '28 x 28 pixels' in said.err


def test_one_image_is_one_line_and_the_batch_changes_nothing(trained, tool, capsys):
    checkpoint, _, images = trained
    file = str(sorted(images.glob('*.png'))[0])
    ((_, name, score),) = tool('predict').main([str(checkpoint), file])
    assert f'{file}  {name} {100 * score:.1f} %' in capsys.readouterr().out.splitlines()
    rows = tool('predict').main([str(checkpoint), str(images), file])
    assert [row[1] for row in rows if row[0] == file] == [name, name]
    assert '; --out FILE.csv writes all.' in capsys.readouterr().out


def test_images_of_other_sizes_do_not_stop_it_and_damaged_ones_are_counted(trained, tool, tmp_path, capsys):
    checkpoint = trained[0]
    for number, size in enumerate([(28, 28), (32, 40), (28, 28)]):
        Image.new('RGB', size, (200, 10, 10)).save(tmp_path / f'{number}.png')
    (tmp_path / 'cut.png').write_bytes((tmp_path / '0.png').read_bytes()[:40])
    rows = tool('predict').main([str(checkpoint), str(tmp_path)])
    assert [row[0][-5:] for row in rows] == ['0.png', '1.png', '2.png']
    assert rows[0][1:] == rows[2][1:]
    said = capsys.readouterr().err
    assert '1 of 4 images cannot be read, such as' in said
    assert '28 x 28, 32 x 40 pixels' in said, 'width first'
    with pytest.raises(ConfigError, match='none of the images can be read'):
        tool('predict').main([str(checkpoint), str(tmp_path / 'cut.png')])


def test_classes_without_names_are_numbers(trained, tool, tmp_path):
    checkpoint, _, images = trained
    loaded = torch.load(checkpoint, weights_only=False)
    loaded['meta']['dataset_meta'] = None
    torch.save(loaded, tmp_path / 'bare.pth')
    rows = tool('predict').main([str(tmp_path / 'bare.pth'), str(images)])
    named = tool('predict').main([str(checkpoint), str(images)])
    assert [CLASSES[int(row[1])] for row in rows] == [row[1] for row in named]


def test_what_cannot_be_predicted_is_refused(trained, tool, tmp_path):
    checkpoint, _, images = trained
    predict = tool('predict').main
    with pytest.raises(ConfigError, match=r'nowhere is neither an image nor a folder'):
        predict([str(checkpoint), 'nowhere'])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ConfigError, match=r'holds no image that ends with \.jpg'):
        predict([str(checkpoint), str(tmp_path / 'empty')])
    with pytest.raises(ConfigError, match=r'--top is 11, but .* knows 10 classes'):
        predict([str(checkpoint), str(images), '--top', '11'])
    with pytest.raises(ConfigError, match='carries no config'):
        predict([str(checkpoint.parent / 'backbone_epoch_2.pth'), str(images)])
    with pytest.raises(ConfigError, match=r'--score is for detectors, and .*epoch_2\.pth is none'):
        predict([str(checkpoint), str(images), '--score', '0.5'])
    unsupervised = Config(dict(model=dict(type='SimCLR'), test_dataloader=dict()))
    torch.save(dict(state_dict={}, meta=dict(cfg=unsupervised.pretty_text)), tmp_path / 'simclr.pth')
    with pytest.raises(ConfigError, match=r'simclr\.pth is a SimCLR that gives no classes.*or of a detector'):
        predict([str(tmp_path / 'simclr.pth'), str(images)])


def test_names_of_any_bytes_are_shown_and_written(trained, tmp_path):
    image = next(trained[2].glob('*.png'))
    file = os.fsencode(tmp_path) + b'/\xff.png'
    with open(file, 'wb') as stream:
        stream.write(image.read_bytes())
    command = ['tools/predict.py', str(trained[0]), os.fsdecode(file), '--out', str(tmp_path / 'a.csv')]
    environment = {**os.environ, 'PYTHONIOENCODING': 'utf-8'}
    done = subprocess.run([sys.executable, *command], capture_output=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert rb'\udcff.png  ' in done.stdout
    assert (tmp_path / 'a.csv').read_bytes().splitlines()[1].startswith(file + b',')

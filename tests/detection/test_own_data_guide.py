"""docs/own_data.md: its commands and configs run on images of the layouts that it describes."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import timm
from conftest import ONE_STEP, check_accuracy
from detection_runs import short
from PIL import Image
from safetensors.torch import save_file

from mmcds.command import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / 'docs/own_data.md').read_text()
SNIPPET, *CONFIGS = re.findall(r'```python\n(.*?)```', TEXT, re.S)
LINES = [line for block in re.findall(r'```bash\n(.*?)```', TEXT, re.S) for line in block.splitlines()]


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def test_folders_any_network_and_images_without_labels(tool, tmp_path, monkeypatch, capsys):
    """Every line of the guide runs, one after the other; timm reads what the first network of timm has become."""
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        write_image(tmp_path / f'photos/{"cat" if number % 2 else "dog"}/{number}.png', number)
        write_image(tmp_path / f'other_photos/{number}.png', number)
        write_image(tmp_path / f'more_photos/a/{number}.jpg', number)
    save_file(timm.create_model('vit_tiny_patch16_224').state_dict(), 'vit_tiny.safetensors')
    settings = [*ONE_STEP[:1], 'val_dataloader.num_workers=0', 'default_hooks.checkpoint.save_best=None']
    options = ['--epochs', '1', '--cfg-options', *settings]
    seen = []
    for line in LINES:
        program, command, *rest = shlex.split(line.replace('_N.', '_1.'))
        assert program == 'mmcds'
        place = ['--work-dir', 'second'] if '--unlabelled' in rest else []
        runner = tool(COMMANDS[command][0]).main([*rest, *place, *(options if command == 'train' else [])])
        if command == 'train':
            check_accuracy(runner)
            seen.append((type(runner.model.backbone).__name__, runner.iter, len(runner.train_dataloader.dataset)))
    assert seen == [
        ('ResNet_CIFAR', 2, 4),
        ('TimmResNet', 2, 4),
        ('TimmVisionTransformer', 2, 4),
        ('ResNet_CIFAR', 5, 4 + 6),
    ]
    assert 'and 6 without labels' in capsys.readouterr().out
    assert len(Path('predictions.csv').read_text().splitlines()) == 1 + 6
    names = {}
    exec(SNIPPET.replace('_N.', '_1.'), names)
    assert isinstance(names['network'], timm.models.ResNet)


def test_a_list_of_images(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, count in (('train', 6), ('val', 6)):
        lines = []
        for number in range(count):
            write_image(tmp_path / f'photos/images/{name}/{number}.png', number)
            lines.append(f'{name}/{number}.png {number % 3}')
        (tmp_path / f'photos/{name}.txt').write_text('\n'.join(lines) + '\n')
    (tmp_path / 'flowers.py').write_text(CONFIGS[0])
    tool('check_data').main(['flowers.py'])
    assert re.search(r'│ train +│ 6 +│ +│ 3 +│ 2 ', capsys.readouterr().out)
    small = ['train_dataloader.batch_size=2', 'model.backbone.depth=18', 'model.head.in_channels=512']
    options = [*ONE_STEP, *small, 'train_cfg.max_epochs=1']
    runner = tool('train').main(['flowers.py', '--work-dir', 'run', '--cfg-options', *options])
    check_accuracy(runner)
    assert runner.iter == 3


def test_boxes_in_the_format_of_coco(tool, tmp_path, monkeypatch, backbone, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ('train', 'val'):
        images, boxes = [], []
        for number in range(2):
            write_image(tmp_path / f'pets/images/{name}_{number}.png', number)
            images.append(dict(id=number, file_name=f'{name}_{number}.png', width=64, height=48))
            box = dict(bbox=[4, 4, 30, 30], area=900, iscrowd=0)
            boxes.append(dict(id=number + 1, image_id=number, category_id=7 + number, **box))
        categories = [dict(id=7, name='cat'), dict(id=8, name='dog')]
        text = json.dumps(dict(images=images, annotations=boxes, categories=categories))
        (tmp_path / f'pets/{name}.json').write_text(text)
    (tmp_path / 'pets.py').write_text(CONFIGS[1].replace("'backbone_epoch_90.pth'", repr(str(backbone))))
    tool('check_data').main(['pets.py'])
    assert re.search(r'│ train +│ 2 +│ +│ 2 +│ 1 ', capsys.readouterr().out)
    options = [*short('faster-rcnn'), 'train_dataloader.batch_size=2', 'train_cfg.max_epochs=1']
    runner = tool('train').main(['pets.py', '--work-dir', 'run', '--cfg-options', *options])
    assert runner.iter == 1
    assert runner.model.roi_head.bbox_head.num_classes == 2

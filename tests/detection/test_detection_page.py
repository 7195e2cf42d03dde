"""docs/detection.md: its lines run on a replica of COCO, and the mmcv that it builds is the tested one."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import mmdet
import replicas
from conftest import ONE_STEP
from detection_runs import SHORT_TWO_STAGE, short

from mmcds.command import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / 'docs/detection.md').read_text()
(CONFIG,) = re.findall(r'```python\n(.*?)```', TEXT, re.S)
BASH = re.findall(r'```bash\n(.*?)```', TEXT, re.S)
CLASSIFIER = Path('work_dirs/cds/resnet50_in1k')
DETECTOR = Path('work_dirs/detection/faster-rcnn_r50-cds_fpn_1x_coco')
UNSAVED = ['default_hooks.checkpoint.interval=9', 'default_hooks.checkpoint.save_last=False']
#: What makes the commands short, in the order of the page.
SHORT = [
    [
        *ONE_STEP,
        'train_dataloader.dataset.indices=4',
        'train_dataloader.batch_size=4',
        'val_dataloader.dataset.indices=1',
        'train_cfg.max_epochs=1',
        'param_scheduler=None',
    ],
    [*short('faster-rcnn'), 'train_cfg.max_epochs=1'],
    short('faster-rcnn'),
    [],
    *[[*short('retinanet'), *UNSAVED, 'train_cfg.max_epochs=1', 'train_cfg.val_interval=9']] * 2,
]


def test_the_lines_of_the_page_run_one_after_the_other(tool, tmp_path, coco_root, backbone, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / 'data'
    replicas.write_imagenet(data / 'imagenet')
    (data / 'coco').symlink_to(coco_root / 'coco')
    install, *lines = BASH[0].splitlines() + BASH[1].splitlines()
    assert install.startswith("pip install -e '.[det]' ")
    steps = []
    for line, options in zip(lines, SHORT, strict=True):
        line = line.replace('/data', str(data)).replace('epoch_12', 'epoch_1')
        words = shlex.split(re.sub(r'/models/\S+', str(backbone), line), comments=True)
        with monkeypatch.context() as patch:
            while '=' in words[0]:
                patch.setenv(*words.pop(0).split('=', 1))
            program, command, *arguments = words
            assert program == 'mmcds'
            if options and '--cfg-options' not in arguments:
                arguments.append('--cfg-options')
            result = tool(COMMANDS[command][0]).main([*arguments, *options])
        steps.append((command, getattr(result, 'iter', None)))
        # what the reader has trained besides: in one epoch instead of 90, and from another start
        if len(steps) == 1:
            shutil.copy(CLASSIFIER / 'backbone_epoch_1.pth', CLASSIFIER / 'backbone_epoch_90.pth')
        elif len(steps) == 2:
            for name in ('plain_0', 'plain_1'):
                shutil.copytree(DETECTOR, Path('work_dirs/det', name), ignore=shutil.ignore_patterns('*.pth'))
    train = ('train', 1)
    assert steps == [train, train, ('test', None), ('compare-detection', None), train, train]
    assert re.search(r'plain +\| +2 +\|.*\n.*cds +\| +1 +\|', capsys.readouterr().out)


def test_mmdetection_trains_the_config_of_the_page(tmp_path, coco_root, backbone, environment):
    (tmp_path / 'data').symlink_to(coco_root)
    (tmp_path / 'epoch_90.pth').symlink_to(backbone)
    (tmp_path / 'mine.py').write_text(CONFIG)
    options = [
        *[f'{name}_dataloader.persistent_workers=False' for name in ('train', 'val')],
        *['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0'],
        'train_dataloader.dataset.pipeline.2.scale="(64,48)"',
        'train_dataloader.dataset.indices=2',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=9',
        'default_hooks.checkpoint.interval=9',
        'default_hooks.checkpoint.save_last=False',
        *SHORT_TWO_STAGE,
    ]
    script = Path(mmdet.__file__).parent / '.mim/tools/train.py'
    command = [sys.executable, str(script), 'mine.py', '--cfg-options', *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-3000:]
    assert 'loss_rpn_cls' in said
    assert re.search(r'CheckBackboneHook.*53', said), said[-3000:]


def test_the_source_of_mmcv_that_the_page_builds_is_the_version_that_we_test_with():
    pins = dict(re.findall(r'^([\w-]+)==(\S+)', (ROOT / 'constraints.txt').read_text(), re.M))
    versions = re.findall(r'onedl[-_]mmcv[-=]{1,2}(\d+\.\d+\.\d+)', BASH[2])
    assert len(versions) == 3
    assert {*versions} == {pins['onedl-mmcv']}
    assert len(BASH) == 3

"""Detectors on Fashion-Scenes: every config trains, evaluates, saves and resumes; the tools around them."""

import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope

import mmcds.detection  # noqa: F401  (operators, before MMDetection is imported)
from mmcds.core.errors import ConfigError
from mmcds.data.fashion_scenes import CLASSES, SceneRecipe, write_scenes

DETECTORS = ('faster-rcnn', 'retinanet')
STARTS = ('random', 'plain', 'cds')
LEAVES = [f'configs/detection/{detector}_resnet18w16_scenes-{start}.py' for detector in DETECTORS for start in STARTS]
SHORT = [
    'train_dataloader.batch_size=3',
    'train_dataloader.num_workers=0',
    'val_dataloader.num_workers=0',
    'train_cfg.val_interval=1',
    'param_scheduler.0.end=2',
    'default_hooks.logger.interval=1',
]


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    """A data folder with six training and four test scenes."""
    folder = tmp_path_factory.mktemp('data')
    for split, count in (('train', 6), ('test', 4)):
        write_scenes(folder / 'fashion_scenes', split, count, SceneRecipe(size=64, item_size=(20, 40), items=(1, 3)))
    return folder


@pytest.fixture(scope='module')
def backbone(tmp_path_factory) -> Path:
    """An export of the quickstart's backbone, with random weights."""
    file = tmp_path_factory.mktemp('backbone') / 'backbone_epoch_15.pth'
    config = Config.fromfile(ROOT / 'configs/cds/resnet18w16_fashion.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        network = MODELS.build(config.model.backbone)
    torch.save(dict(state_dict=network.state_dict(), meta={}), file)
    return file


def train(tool, leaf, root, work_dir, backbone, *arguments, more=()):
    # an untrained RetinaNet gives no box a score of 0.05, and without boxes there are no metrics
    more = [*more, *(['model.test_cfg.score_thr=0'] if 'retinanet' in leaf else [])]
    pretrained = [] if leaf.endswith('-random.py') else [f'model.backbone.init_cfg.checkpoint={backbone}']
    return tool('train').main(
        [
            str(ROOT / leaf),
            '--work-dir',
            str(work_dir),
            '--data-root',
            str(root),
            *arguments,
            '--cfg-options',
            *SHORT,
            *pretrained,
            *more,
        ]
    )


@pytest.mark.parametrize('leaf', LEAVES)
def test_config_trains_evaluates_saves_and_resumes(leaf, tool, root, backbone, tmp_path):
    first = train(tool, leaf, root, tmp_path, backbone, more=['train_cfg.max_epochs=1'])
    assert first.message_hub.get_scalar('val/coco/bbox_mAP').data[0][0] >= -1
    second = train(tool, leaf, root, tmp_path, backbone, '--resume', more=['train_cfg.max_epochs=2'])
    assert (second.epoch, second.iter) == (2, 4), 'the second run must go on where the first one stopped'
    assert (tmp_path / 'epoch_2.pth').exists()


def test_a_run_that_was_stopped_and_resumed_ends_with_the_weights_of_one_never_stopped(tool, root, backbone, tmp_path):
    def weights(folder):
        return torch.load(folder / 'epoch_2.pth', weights_only=False)['state_dict']

    leaf = LEAVES[-1]
    train(tool, leaf, root, tmp_path / 'whole', backbone, more=['train_cfg.max_epochs=2'])
    train(tool, leaf, root, tmp_path / 'parts', backbone, more=['train_cfg.max_epochs=1'])
    train(tool, leaf, root, tmp_path / 'parts', backbone, '--resume', more=['train_cfg.max_epochs=2'])
    whole, parts = weights(tmp_path / 'whole'), weights(tmp_path / 'parts')
    assert whole.keys() == parts.keys()
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


@pytest.mark.parametrize('detector', DETECTORS)
def test_the_three_starts_differ_in_the_first_weights_alone(detector):
    configs = [
        Config.fromfile(ROOT / f'configs/detection/{detector}_resnet18w16_scenes-{start}.py').to_dict()
        for start in STARTS
    ]
    files = [(config['model']['backbone'].pop('init_cfg', None) or {}).get('checkpoint') for config in configs]
    assert files == [None, *(f'work_dirs/{k}/resnet18w16_fashion/backbone_epoch_15.pth' for k in ('plain', 'cds'))]
    for config in configs:
        config.pop('checkpoint', None)
    assert configs[0] == configs[1] == configs[2]


@pytest.mark.parametrize('detector', DETECTORS)
def test_backbone_and_normalisation_are_those_of_pre_training(detector):
    ours = Config.fromfile(ROOT / f'configs/detection/{detector}_resnet18w16_scenes-random.py')
    theirs = Config.fromfile(ROOT / 'configs/cds/resnet18w16_fashion.py')
    for key in ('mean', 'std'):
        assert ours.model.data_preprocessor[key] == theirs.data_preprocessor[key]
    networks = []
    for config, kind in ((ours, 'mmpretrain.ResNet_CIFAR'), (theirs, 'ResNet_CIFAR')):
        assert config.model.backbone.type == kind
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            networks.append(MODELS.build(config.model.backbone))
    shapes = [{key: value.shape for key, value in network.state_dict().items()} for network in networks]
    assert shapes[0] == shapes[1]


def test_mmdetections_data_set_reads_every_image_and_every_box(root):
    config = Config.fromfile(ROOT / LEAVES[0])
    assert tuple(config.classes) == CLASSES
    for split, loader in (('train', config.train_dataloader), ('test', config.test_dataloader)):
        content = json.loads((root / 'fashion_scenes' / 'annotations' / f'{split}.json').read_text())
        with DefaultScope.overwrite_default_scope('mmdet'):
            dataset = DATASETS.build({**loader.dataset, 'data_root': str(root / 'fashion_scenes')})
        assert len(dataset) == len(content['images'])
        found = [
            (info['img_id'], instance['bbox_label'] + 1, *instance['bbox'])
            for info in map(dataset.get_data_info, range(len(dataset)))
            for instance in info['instances']
        ]
        expected = [
            (
                a['image_id'],
                a['category_id'],
                a['bbox'][0],
                a['bbox'][1],
                a['bbox'][0] + a['bbox'][2],
                a['bbox'][1] + a['bbox'][3],
            )
            for a in content['annotations']
        ]
        assert found == expected
        sample = dataset[0]
        assert sample['inputs'].shape == (3, 64, 64)
        assert np.ptp(sample['inputs'].numpy(), axis=0).max() == 0, 'grey in three equal channels'


@pytest.fixture(scope='module')
def checkpoint(root, backbone, tmp_path_factory):
    from conftest import load_tool

    folder = tmp_path_factory.mktemp('run')
    train(load_tool, LEAVES[2], root, folder, backbone, more=['train_cfg.max_epochs=1'])
    return folder / 'epoch_1.pth'


def draw(tool, root, checkpoint, *arguments):
    tool('draw_detections').main([str(ROOT / LEAVES[2]), str(checkpoint), '--data-root', str(root), *arguments])


def test_the_picture_shows_the_truth_and_the_detections_side_by_side(tool, root, checkpoint, tmp_path, capsys):
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, 'savefig', lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
        for count in (1, 3):
            draw(tool, root, checkpoint, '-n', str(count), '--score', '0.01', '--out', str(tmp_path / f'{count}.png'))
    panels = [[axes for axes in figure.axes if axes.images] for figure in figures]
    assert [len(axes) for axes in panels] == [2, 6]
    content = json.loads((root / 'fashion_scenes' / 'annotations' / 'test.json').read_text())
    for place, image in enumerate((1, 2, 3)):  # images 0, 1 and 2 of four
        truth, guess = panels[1][2 * place : 2 * place + 2]
        left, right = truth.get_window_extent(), guess.get_window_extent()
        assert left.x1 <= right.x0
        assert (left.y0, left.y1) == pytest.approx((right.y0, right.y1))
        boxes = [a['bbox'] for a in content['annotations'] if a['image_id'] == image]
        drawn = [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in truth.patches]
        assert drawn == [(x - 0.5, y - 0.5, width, height) for x, y, width, height in boxes]
    narrow, wide = (matplotlib.image.imread(tmp_path / f'{count}.png').shape[1] for count in (1, 3))
    assert wide == 2 * narrow, 'two pairs beside each other'
    colours = [[patch.get_edgecolor() for patch in legend.get_patches()] for legend in figures[1].legends]
    assert colours == [[panels[1][i].patches[0].get_edgecolor() for i in (0, 1)]]
    assert colours[0][0] != colours[0][1]
    found = [int(number) for number in re.findall(r'(\d+) detections', capsys.readouterr().out)]
    assert found[1] == sum(len(axes.patches) for axes in panels[1][1::2])


def test_pictures_that_cannot_be_drawn_are_refused(tool, root, checkpoint, backbone, tmp_path):
    with pytest.raises(ConfigError, match=r'-n is 5, but the test set has 4 images'):
        draw(tool, root, checkpoint, '-n', '5')
    with pytest.raises(ConfigError, match=r'gone.pth does not exist'):
        draw(tool, root, tmp_path / 'gone.pth')
    with pytest.raises(ConfigError, match=r'backbone_epoch_15.pth holds a bare backbone'):
        draw(tool, root, backbone, '-n', '2')


def test_one_command_pre_trains_and_compares_detectors_and_repeats_nothing(tool, root, tmp_path, capsys):
    arguments = [
        '--detectors',
        'retinanet',
        '--starts',
        'random',
        'cds',
        '--seeds',
        '4',
        '--jobs',
        '2',
        '--data-root',
        str(root),
        '--out',
        str(tmp_path),
        '--pretrain-options',
        'train_cfg.max_epochs=1',
        'train_dataloader.batch_size=4',
        'train_dataloader.num_workers=0',
        'train_dataloader.dataset.indices=8',
        'val_dataloader.num_workers=0',
        'val_dataloader.dataset.indices=20',
        '--cfg-options',
        *SHORT,
        'train_cfg.max_epochs=1',
        'model.test_cfg.score_thr=0',
    ]
    records = tool('scenes_transfer').main(arguments)
    assert [(record['label'], record['seed']) for record in records] == [('retinanet random', 4), ('retinanet cds', 4)]
    assert (
        f'model.backbone.init_cfg.checkpoint={tmp_path / "pretrain_cds_4" / "backbone_epoch_1.pth"}'
        in (records[1]['options'])
    )
    table = capsys.readouterr().out
    assert table == (tmp_path / 'table.md').read_text()
    cells = [line.split(' | ')[:3] for line in table.splitlines()[2:]]
    assert cells == [['| retinanet random', '1', '4'], ['| retinanet cds', '1', '4']]
    metrics = [record['metrics']['coco/bbox_mAP_50'] for record in records]
    assert [line.split(' | ')[5] for line in table.splitlines()[2:]] == [f'{100 * value:.1f}' for value in metrics]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob('*/result.json')}
    assert len(before) == 3
    assert tool('scenes_transfer').main(arguments) == records
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob('*/result.json')}


def test_starts_are_compared_seed_by_seed(tool, tmp_path, monkeypatch, capsys):
    """AP 0.5 and 1.5 above, with two seeds: 1.0 on average, and t = 2 with one degree of freedom, p = 0.295."""
    module, trained = tool('scenes_transfer'), []

    def execute(runs, jobs):
        runs = list(runs)
        trained.extend(runs)
        for run in runs:
            run.work_dir.mkdir(parents=True, exist_ok=True)
            (run.work_dir / 'last_checkpoint').write_text('epoch_15.pth')
        return [dict(accuracy=50.0 + (run.seed + 0.5) * ('both' in run.label)) for run in runs]

    monkeypatch.setattr(module, 'execute', execute)
    monkeypatch.setattr(module, 'write_scenes', lambda *_: None)
    monkeypatch.setattr(module.runpy, 'run_path', lambda _: dict(main=lambda _: None))
    module.main(['--starts', 'cds', 'plain_both', '--seeds', '0', '1', '--out', str(tmp_path)])
    said = capsys.readouterr().out
    assert 'faster-rcnn, AP from plain_both minus AP from cds: +1.0 (95 %: -5.4 to +7.4, p 0.295' in said
    (plain,) = (run for run in trained if run.label == 'plain_both' and run.seed == 1)
    assert plain.config == 'mmcds::cds/resnet18w16_fashion.py'
    assert plain.options == ('model.supervisions=None', 'model.ce_views=(0, 1)')
    started = {run.options[-1] for run in trained if run.label == 'faster-rcnn plain_both'}
    assert started == {
        f'model.backbone.init_cfg.checkpoint={tmp_path / f"pretrain_plain_both_{seed}/backbone_epoch_15.pth"}'
        for seed in (0, 1)
    }


def test_a_detector_that_finds_nothing_has_no_place_in_a_comparison(tmp_path, monkeypatch):
    from mmcds.evaluation.sweep import Run, execute

    (tmp_path / 'now' / 'vis_data').mkdir(parents=True)
    (tmp_path / 'now' / 'vis_data' / 'scalars.json').write_text('{"loss": 1.0, "step": 1}\n')
    monkeypatch.setattr('mmcds.evaluation.sweep.call', lambda *_: 0)
    with pytest.raises(ConfigError, match=r'retinanet, seed 0: no validation gave a metric .*console\.log'):
        execute([Run(label='retinanet', config='x.py', seed=0, work_dir=tmp_path)])

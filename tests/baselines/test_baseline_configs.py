"""Every config of the baselines that distil is executed, and every method with a student of either family."""

from pathlib import Path

import pytest
import torch
from conftest import ONE_STEP, check_accuracy
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.teacher import read_model_config
from mmcds.paper import Cell, compose
from mmcds.paper.tables import BASELINES, METHODS, RIVALS, TAUGHT

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [folder for folder, _ in (*BASELINES.values(), *RIVALS.values())]
LEAVES = sorted(path.relative_to(ROOT) for name in FOLDERS for path in (ROOT / 'configs' / name).glob('*.py'))
SHORT = [*ONE_STEP, 'train_dataloader.batch_size=3', 'train_dataloader.dataset.indices=6']


@pytest.fixture(scope='module')
def narrow(tmp_path_factory):
    """Inherit a config with a network of 4 channels, and save the untrained network; done once per config."""
    folder, made = tmp_path_factory.mktemp('narrow'), {}

    def make(config):
        if config not in made:
            path = folder / f'{len(made)}.py'
            model = read_model_config(config if '::' in config else str(config))[0]
            width = 128 if model['backbone']['depth'] >= 50 else 32
            path.write_text(
                f'_base_ = {config!r}\nmodel = dict(backbone=dict(base_channels=4, stem_channels=4), '
                f'head=dict(in_channels={width}))\n'
                'default_hooks = dict(report=None, progress=None)\n'
            )
            torch.manual_seed(0)
            with DefaultScope.overwrite_default_scope('mmpretrain'):
                built = (
                    MODELS.build({**read_model_config(str(path))[0], 'teacher': None, 'supervisions': None})
                    if (model.get('teacher'))
                    else MODELS.build(read_model_config(str(path))[0])
                )
            torch.save(dict(state_dict=built.state_dict()), path.with_suffix('.pth'))
            made[config] = str(path), str(path.with_suffix('.pth'))
        return made[config]

    return make


def train(tool, config, folder, data, epochs, *options, resume=False):
    return tool('train').main(
        [
            str(config),
            '--work-dir',
            str(folder),
            '--data-root',
            str(data),
            *(['--resume'] if resume else []),
            '--cfg-options',
            *SHORT,
            f'train_cfg.max_epochs={epochs}',
            'train_cfg.val_interval=1',
            *options,
        ]
    )


@pytest.mark.parametrize('leaf', LEAVES, ids=str)
def test_config_of_a_baseline_trains_validates_and_saves(leaf, tool, tmp_path, data, any_checksum, narrow):
    config = Config.fromfile(ROOT / leaf)
    options = []
    if config.model.get('teacher'):
        files = narrow(config.model.teacher.config)
        options += [f'model.teacher.config={files[0]}', f'model.teacher.checkpoint={files[1]}']
    if config.load_from:
        options.append(f'load_from={narrow(str(ROOT / leaf))[1]}')
    runner = train(tool, narrow(str(ROOT / leaf))[0], tmp_path, data, 1, *options)
    check_accuracy(runner)
    losses = {key for key in runner.message_hub.log_scalars if key.startswith('train/') and 'loss' in key}
    assert len(losses) >= 3, 'the total, cross-entropy and the method itself'
    assert all(torch.isfinite(torch.tensor(runner.message_hub.get_scalar(key).current())) for key in losses)
    assert (tmp_path / 'epoch_1.pth').exists()


@pytest.mark.parametrize('leaf', LEAVES, ids=str)
def test_header_gives_the_command_and_the_teacher_of_this_file(leaf):
    text = (ROOT / leaf).read_text().split('"""')[1]
    assert f'python tools/train.py {leaf}' in text
    config = Config.fromfile(ROOT / leaf)
    teacher = config.model.get('teacher')
    first = teacher.checkpoint if teacher else config.load_from
    if first:
        folder = str(Path(first).parent)
        assert f'configs/{folder.removeprefix("work_dirs/")}.py' in text or leaf.stem.endswith(('-hint', '_in1k'))
        source = Config.fromfile(ROOT / f'configs/{folder.removeprefix("work_dirs/")}.py')
        assert Path(first).stem == f'epoch_{source.train_cfg.max_epochs}', 'the last checkpoint of its training'
        assert not teacher or teacher.config == f'mmcds::{folder.removeprefix("work_dirs/")}.py'


@pytest.mark.parametrize('network', ['resnet18', 'mobilenet_v2'])
@pytest.mark.parametrize('method', [*BASELINES, 'cds_distill'])
def test_students_of_both_families_train_resume_and_export(
    method, network, tool, tmp_path, data, any_checksum, narrow, monkeypatch
):
    monkeypatch.setenv('MMCDS_DATA_ROOT', str(data))  # a composed config names its data
    cell = Cell('table8', network, 'cifar100', method)
    config = compose(cell)
    if method in TAUGHT:
        config.model.teacher.config, config.model.teacher.checkpoint = narrow(config.model.teacher.config)
    path = tmp_path / 'cell.py'
    config.dump(path)
    train(tool, path, tmp_path, data, 1)
    runner = train(tool, path, tmp_path, data, 2, resume=True)
    assert (runner.epoch, runner.iter) == (2, 4)
    state = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    assert not any('teacher' in key.split('.')[0] for key in state['state_dict'])
    assert ('teacher' in state['meta']) == (method in TAUGHT)
    own = [key for key in state['state_dict'] if key.startswith('supervisions.')]
    assert bool(own) == (method not in ('kd', 'at', 'rkd', 'sp'))
    if method == 'crd':
        rows = state['state_dict'][f'supervisions.{METHODS[method].leaf.split("/")[0]}.student_memory']
        assert rows.shape == (6, 128)
    exported = torch.load(tmp_path / 'backbone_epoch_2.pth', weights_only=True)['state_dict']
    assert set(exported) == {
        key.removeprefix('backbone.') for key in state['state_dict'] if key.startswith('backbone.')
    }
    for file in tmp_path.glob('*.pth'):
        file.unlink()


def test_a_memory_needs_an_index_that_names_an_image(tool, tmp_path, data, any_checksum, narrow):
    config = Config.fromfile(ROOT / 'configs/crd/resnet18w8s_fashion.py')
    files = narrow(config.model.teacher.config)
    path = tmp_path / 'repeated.py'
    path.write_text(
        "_base_ = 'mmcds::crd/resnet18w8s_fashion.py'\n"
        "train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2, dataset=dict("
        "type='EmbeddedFashionMNIST', split='train', indices=6, pipeline={{_base_.train_pipeline}})))\n"
    )
    options = [f'model.teacher.config={files[0]}', f'model.teacher.checkpoint={files[1]}']
    with pytest.raises(ConfigError, match=r"supervision 'crd' keeps something .* in a RepeatDataset of 12 samples"):
        tool('train').main(
            [str(path), '--work-dir', str(tmp_path), '--cfg-options', 'train_dataloader.batch_size=3', *options]
        )


def test_a_student_of_a_teacher_of_other_classes_is_refused_when_it_is_built(narrow):
    config = Config.fromfile(ROOT / 'configs/kd/resnet18_cifar100.py')
    config.model.teacher.config = 'mmcds::cds/resnet50_cifar10.py'
    with DefaultScope.overwrite_default_scope('mmpretrain'), pytest.raises(ConfigError, match=r'10 classes .* 100'):
        MODELS.build(config.model)

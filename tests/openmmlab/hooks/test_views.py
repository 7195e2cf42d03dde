"""Who computes the colours of the views in a real run, and that a resumed run goes on with the same ones."""

from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from mmcds.core.errors import ConfigError
from mmcds.views.multi_view import MultiViewTransform, pipeline_steps

ROOT = Path(__file__).resolve().parents[3]
DEVICE = 'train_dataloader.dataset.pipeline.1.color_on=device'
QUICK = [
    'train_dataloader.dataset.indices=16',
    'train_dataloader.batch_size=8',
    'train_dataloader.num_workers=0',
    'default_hooks.checkpoint.save_best=None',
    'default_hooks.checkpoint.max_keep_ckpts=9',
]


def build(tool, work_dir, *options, arguments=()):
    """A runner that has not started."""
    from mmengine.runner import Runner

    from mmcds.cli.launch import load_config, set_loader_defaults

    train = tool('train')
    args = train.parse_args(
        [
            str(ROOT / 'configs/cds/resnet18w16_fashion.py'),
            '--work-dir',
            str(work_dir),
            '--no-validate',
            *arguments,
            '--cfg-options',
            *QUICK,
            *options,
        ]
    )
    config = load_config(args)
    train.merge_train_arguments(config, args)
    set_loader_defaults(config)
    return Runner.from_cfg(config)


class Listen(Hook):
    """Keeps what arrives from the loader and what reaches the network."""

    def __init__(self):
        self.seen, self.raw, self.colors = [], [], None

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.raw.append(data_batch['inputs'].clone())
        self.colors = runner.model.data_preprocessor.view_colors
        self.seen.append(runner.model.data_preprocessor(data_batch, True)['inputs'])


def listen(tool, work_dir, *options, arguments=()):
    runner = build(tool, work_dir, *options, arguments=arguments)
    hook = Listen()
    runner.register_hook(hook, priority='LOWEST')
    runner.train()
    return runner, hook


@pytest.mark.parametrize('workers', [0, 2])
def test_a_resumed_run_goes_on_with_the_same_colours_of_the_batch(tool, tmp_path, workers):
    options = [DEVICE, f'train_dataloader.num_workers={workers}']
    _, whole = listen(tool, tmp_path / 'whole', *options, 'train_cfg.max_epochs=2')
    listen(tool, tmp_path / 'parts', *options, 'train_cfg.max_epochs=1')
    _, rest = listen(tool, tmp_path / 'parts', *options, 'train_cfg.max_epochs=2', arguments=['--resume'])
    assert len(whole.seen) == 4
    for ours, theirs in zip(whole.seen[2:], rest.seen, strict=True):
        assert torch.equal(ours, theirs)
    first, second = (torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False) for name in ('whole', 'parts'))
    for key, value in first['state_dict'].items():
        assert torch.equal(value, second['state_dict'][key]), key


def test_colours_move_to_the_batch_for_the_training_only(tool, tmp_path):
    runner, hook = listen(tool, tmp_path, DEVICE, 'train_cfg.max_epochs=1')
    assert hook.colors[0] is None
    assert hook.colors[1].cutout == 8
    preprocessor = runner.model.data_preprocessor
    raw = (torch.cat(hook.raw).transpose(0, 1) - preprocessor.mean) / preprocessor.std
    seen = torch.cat(hook.seen, 1)
    assert torch.equal(seen[0], raw[0]), 'view 0 has no colour'
    assert ((seen[1] - raw[1]).abs().amax((1, 2, 3)) > 0.1).float().mean() > 0.8, 'view 1 gets it after the loader'
    test = preprocessor(dict(inputs=torch.cat(hook.raw), data_samples=None), False)['inputs']
    assert torch.equal(test, raw), 'no colours at test time'


@pytest.mark.parametrize('place, colors', [('worker', 0), ('auto', 2)])
def test_images_in_memory_get_their_colours_on_the_batch_unless_told_otherwise(tool, tmp_path, place, colors):
    wish = f'train_dataloader.dataset.pipeline.1.color_on={place}'
    _, hook = listen(tool, tmp_path, wish, 'train_cfg.max_epochs=1')
    assert len(hook.colors) == colors


def test_without_a_gpu_files_get_their_colours_in_the_loading_process(tool, tmp_path, monkeypatch):
    monkeypatch.setattr('mmcds.openmmlab.colors.held_in_memory', lambda dataset: False)
    _, hook = listen(tool, tmp_path, 'train_cfg.max_epochs=1')
    assert hook.colors == ()


def test_rejects_colours_of_the_batch_without_the_preprocessor_that_computes_them(tool, tmp_path):
    other = 'data_preprocessor.type=ClsDataPreprocessor'
    with pytest.raises(ConfigError, match="color_on is 'device', but only the CDSDataPreprocessor"):
        build(tool, tmp_path, DEVICE, other)


@pytest.mark.parametrize('wrong', ['never', 'twice', 'other'])
def test_refuses_a_run_whose_views_get_their_colours_twice_or_never(tool, tmp_path, wrong):
    runner = build(tool, tmp_path, DEVICE)
    preprocessor = runner.model.data_preprocessor
    step = next(s for s in pipeline_steps(runner.train_loop.dataloader.dataset) if isinstance(s, MultiViewTransform))
    if wrong == 'twice':
        step.color_on = 'worker'
    else:
        preprocessor.view_colors = () if wrong == 'never' else preprocessor.view_colors[::-1]
    with pytest.raises(ConfigError, match=r'leaves the colours of [02] view'):
        runner.train()


def test_the_transforms_of_wrapped_data_sets_are_found():
    from mmengine.dataset import ConcatDataset, RepeatDataset

    from mmcds.data import EmbeddedFashionMNIST, PartiallyLabelledDataset

    step = MultiViewTransform([[]])
    parts = [EmbeddedFashionMNIST(pipeline=[step], indices=10) for _ in range(2)]
    assert list(pipeline_steps(ConcatDataset(parts))) == [step, step]
    assert list(pipeline_steps(RepeatDataset(parts[0], 2))) == [step]
    assert list(pipeline_steps(PartiallyLabelledDataset(parts[0]))) == [step]
    assert list(pipeline_steps([])) == []

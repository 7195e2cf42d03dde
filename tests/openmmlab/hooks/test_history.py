"""The log has the numbers that MMEngine logs, read in one copy, and its history ends."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import NO_REPORT, few_images
from mmengine.hooks import RuntimeInfoHook
from mmengine.logging import MessageHub
from torch.utils._python_dispatch import TorchDispatchMode

from mmcds.openmmlab.hooks import LossHistoryHook

ROOT = Path(__file__).resolve().parents[3]
CONFIG = str(ROOT / 'configs/cds/resnet18w16_fashion.py')
SHORT = [*few_images(56, 8, 8), NO_REPORT, 'train_cfg.max_epochs=2', 'default_hooks.logger.interval=3']


def train(tool, folder, *options):
    tool('train').main([CONFIG, '--work-dir', str(folder), '--cfg-options', *SHORT, *options])
    (file,) = folder.glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in file.read_text().splitlines()]
    timed = ('time', 'data_time', 'memory')
    return [{key: value for key, value in record.items() if key not in timed} for record in records]


class Waits(TorchDispatchMode):
    """Counts how often a value is read from a tensor."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_the_log_is_that_of_mmengine(tool, tmp_path):
    ours = train(tool, tmp_path / 'ours')
    theirs = train(tool, tmp_path / 'theirs', 'default_hooks.runtime_info.type=RuntimeInfoHook')
    assert ours == theirs
    states = [torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False) for name in ('ours', 'theirs')]
    histories = [state['message_hub']['log_scalars'] for state in states]
    assert histories[0].keys() == histories[1].keys()
    logged = [2, 5, 6, 9, 12, 13]  # steps of the two epochs after which a line follows, or which end one
    for name, history in histories[0].items():
        if not name.endswith('time'):
            theirs = histories[1][name].data[0]
            watched = name.endswith(('alignment', 'uniformity', 'contrast_top1'))
            assert (history.data[0] == (theirs[logged] if watched else theirs)).all(), name


def test_no_term_is_read_between_log_lines(tool, tmp_path, monkeypatch):
    counts = {kind: [] for kind in (LossHistoryHook, RuntimeInfoHook)}
    for kind, found in counts.items():
        with monkeypatch.context() as patch:
            step = kind.after_train_iter

            def counted(self, *args, step=step, found=found, **kwargs):
                with Waits() as waits:
                    step(self, *args, **kwargs)
                found.append(waits.count)

            patch.setattr(kind, 'after_train_iter', counted)
            train(tool, tmp_path / kind.__name__, f'default_hooks.runtime_info.type={kind.__name__}')
    assert counts[LossHistoryHook] == [0] * 14, 'one copy of a stack reads no value by itself'
    assert min(counts[RuntimeInfoHook]) >= 8


@pytest.mark.parametrize('keep', [4, 100])
def test_the_history_ends_after_two_epochs_or_what_is_to_be_kept(tool, tmp_path, keep):
    train(tool, tmp_path, f'default_hooks.runtime_info.keep={keep}', 'train_cfg.max_epochs=4')
    hub = torch.load(tmp_path / 'epoch_4.pth', weights_only=False)['message_hub']
    lengths = {len(history.data[0]) for name, history in hub['log_scalars'].items() if 'loss' in name}
    assert lengths == {14 if keep == 4 else 28}


def test_a_checkpoint_between_log_lines_has_all_terms(tool, tmp_path):
    train(tool, tmp_path, 'default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=2')
    for step in (12, 14):
        hub = torch.load(tmp_path / f'iter_{step}.pth', weights_only=False)['message_hub']
        assert len(hub['log_scalars']['train/loss'].data[0]) == step
        assert len(hub['log_scalars']['train/cds.stage0.alignment'].data[0]) == {12: 4, 14: 6}[step]


def test_numbers_that_are_no_tensors_keep_their_place():
    hub = MessageHub.get_instance('numbers')
    hook = LossHistoryHook()
    hook._kept = 10
    hook._waiting = [
        ('train/a', 1),
        ('train/b', torch.tensor(2.5)),
        ('train/a', torch.tensor([3.0])),
        ('train/b', 4.5),
    ]
    hook.read(SimpleNamespace(message_hub=hub))
    assert list(hub.log_scalars['train/a'].data[0]) == [1, 3]
    assert list(hub.log_scalars['train/b'].data[0]) == [2.5, 4.5]

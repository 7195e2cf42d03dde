"""Whatever kills a run, and wherever: what is left is whole, and going on gives what was never stopped."""

import errno
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from conftest import few_images
from mmengine.fileio import BaseStorageBackend, FileClient, register_backend
from mmengine.runner import ValLoop
from run_state import same, state_of

from mmcds.core.errors import ConfigError, DivergedError
from mmcds.evaluation.curves import read_scalars
from mmcds.openmmlab import work_dir as files
from mmcds.openmmlab.hooks import checkpoint as hook
from mmcds.openmmlab.work_dir import (
    LOCK,
    POINTER,
    VALIDATED,
    is_intact,
    latest_checkpoint,
    only_training,
    step_of,
)

ROOT = Path(__file__).resolve().parents[3]
CONFIG = str(ROOT / 'configs/plain/resnet18w16_fashion.py')
QUICK = [*few_images(16, 8, 10), 'default_hooks.checkpoint.max_keep_ckpts=1']
#: Top-1 accuracy after every epoch: better, worse, better.
SCORES = (30.0, 20.0, 40.0)


class Killed(BaseException):
    """Ends a run as a kill does: nothing catches it."""


def train(tool, folder, *options, epochs=3, arguments=('--resume',), config=CONFIG):
    command = [config, '--work-dir', str(folder), *arguments, '--cfg-options', *QUICK]
    return tool('train').main([*command, f'train_cfg.max_epochs={epochs}', *options])


def measure_scores(patch):
    """Let the validation measure SCORES, whatever the network says."""
    run, epochs = ValLoop.run, []

    def remembered(self):
        epochs.append(self.runner.epoch)
        return run(self)

    patch.setattr(ValLoop, 'run', remembered)
    patch.setattr(
        'mmpretrain.evaluation.Accuracy.compute_metrics',
        lambda self, results: {'top1': SCORES[epochs[-1] - 1], 'top5': 90.0 - epochs[-1]},
    )


@pytest.fixture(autouse=True)
def scores(monkeypatch):
    measure_scores(monkeypatch)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The state of a run that was never stopped, and how many files it put in place and removed."""
    from conftest import load_tool

    folder = tmp_path_factory.mktemp('whole')
    with pytest.MonkeyPatch.context() as patch:
        measure_scores(patch)
        calls = kill_at(patch, None)
        train(load_tool, folder)
    return state_of(folder), len(calls)


def kill_at(patch, number):
    """Kill before the file operation of this number; return the list of all that happened."""
    calls = []

    def counted(function):
        def call(*arguments, **options):
            calls.append(function.__name__)
            if len(calls) - 1 == number:
                raise Killed
            function(*arguments, **options)

        return call

    put = counted(files.put_in_place)
    patch.setattr(files, 'put_in_place', put)
    patch.setattr(hook, 'put_in_place', put)
    patch.setattr(hook.SafeCheckpointHook, '_remove', counted(hook.SafeCheckpointHook._remove))
    return calls


def test_the_run_has_the_files_that_its_scores_say(whole):
    state, operations = whole
    assert state['best_files'] == ['best_accuracy_top1_epoch_3.pth']
    assert [(each['epoch'], each['accuracy/top1']) for each in state['validations']] == [(1, 30), (2, 20), (3, 40)]
    assert state['score'] == 40
    expected = 1 + 3 * 3 + 2 * 3 + 3 + 2  # the record of the run, three an epoch, three a new best, removed, manifests
    assert operations == expected == 21


@pytest.mark.parametrize('number', range(21))
def test_killed_before_any_file_and_resumed_equals_never_stopped(whole, tool, tmp_path, monkeypatch, number):
    assert whole[1] == 21
    with monkeypatch.context() as patch:
        kill_at(patch, number)
        with pytest.raises(Killed):
            train(tool, tmp_path)
    assert all(is_intact(path) for path in tmp_path.glob('*.pth')), 'a name stands for a whole file'
    train(tool, tmp_path)
    now = state_of(tmp_path)
    for key, value in whole[0].items():
        assert same(now[key], value), key


@pytest.mark.parametrize('epoch', [0, 1, 2])
def test_a_validation_that_was_killed_is_made_up(whole, tool, tmp_path, monkeypatch, epoch):
    run = ValLoop.run

    def killed(self):
        if self.runner.epoch == epoch + 1:
            raise Killed
        return run(self)

    with monkeypatch.context() as patch:
        patch.setattr(ValLoop, 'run', killed)
        with pytest.raises(Killed):
            train(tool, tmp_path)
    train(tool, tmp_path)
    assert same(state_of(tmp_path), whole[0])
    with monkeypatch.context() as patch:
        patch.setattr(ValLoop, 'run', lambda self: pytest.fail('it was validated'))
        train(tool, tmp_path)


def test_a_full_disk_keeps_the_old_state_and_says_so(whole, tool, tmp_path, monkeypatch):
    written = []

    def full(checkpoint, filename, **_):
        written.append(filename)
        if len(written) == 4:  # the last checkpoint of epoch 2
            Path(filename).write_bytes(b'half')
            raise OSError(errno.ENOSPC, 'No space left on device')
        torch.save(checkpoint, filename)

    with monkeypatch.context() as patch:
        patch.setattr('mmengine.runner.runner.save_checkpoint', full)
        with pytest.raises(
            ConfigError, match=r'epoch_2\.pth cannot be written: No space left.*epoch_1\.pth.*--resume'
        ):
            train(tool, tmp_path)
    assert sorted(path.name for path in tmp_path.glob('*.p*th*')) == ['best_accuracy_top1_epoch_1.pth', 'epoch_1.pth']
    train(tool, tmp_path)
    assert same(state_of(tmp_path), whole[0])


def test_another_run_is_not_touched(whole, tool, tmp_path):
    train(tool, tmp_path / 'other', epochs=2)
    before = {path: path.read_bytes() for path in (tmp_path / 'other').rglob('*') if path.is_file()}
    train(tool, tmp_path / 'new', arguments=('--resume', str(tmp_path / 'other/epoch_2.pth')))
    assert {path: path.read_bytes() for path in (tmp_path / 'other').rglob('*') if path.is_file()} == before
    state = state_of(tmp_path / 'new')
    assert same(state['weights'], whole[0]['weights'])
    assert state['best_files'] == ['best_accuracy_top1_epoch_3.pth']


def test_weights_without_an_optimiser_are_not_resumed_from(tool, tmp_path):
    train(tool, tmp_path / 'one', epochs=1)
    best = tmp_path / 'one/best_accuracy_top1_epoch_1.pth'
    with pytest.raises(ConfigError, match=r'best_accuracy_top1_epoch_1\.pth holds weights and no state.*load_from='):
        train(tool, tmp_path / 'two', arguments=('--resume', str(best)))


def test_a_metric_that_is_not_measured_cannot_choose_the_best(tool, tmp_path):
    with pytest.raises(ConfigError, match=r"save_best is 'accuracy/top7'.*one of 'accuracy/top1'"):
        train(tool, tmp_path, 'default_hooks.checkpoint.save_best=accuracy/top7', epochs=1)


def checkpoint(path, content=b'x' * 3000):
    torch.save(dict(state_dict=content), path)
    return path


@pytest.mark.parametrize('pointer', [None, '', '\0\0\0', 'nowhere.pth', '/elsewhere/epoch_3.pth'])
def test_the_newest_intact_checkpoint_takes_the_place_of_a_bad_pointer(tmp_path, pointer, capsys):
    for epoch in (9, 10):
        checkpoint(tmp_path / f'epoch_{epoch}.pth')
    checkpoint(tmp_path / 'best_accuracy_top1_epoch_11.pth')
    if pointer is not None:
        (tmp_path / POINTER).write_text(pointer)
    assert latest_checkpoint(tmp_path) == tmp_path / 'epoch_10.pth'
    assert 'newest intact checkpoint is epoch_10.pth' in capsys.readouterr().out
    assert (tmp_path / POINTER).read_text() == str(tmp_path / 'epoch_10.pth')
    assert latest_checkpoint(tmp_path) == tmp_path / 'epoch_10.pth'
    assert not capsys.readouterr().out


def test_a_folder_that_was_moved_goes_on(tmp_path):
    (tmp_path / 'old').mkdir()
    for epoch in (1, 2):
        checkpoint(tmp_path / f'old/epoch_{epoch}.pth')
    (tmp_path / 'old' / POINTER).write_text(str(tmp_path / 'old/epoch_1.pth'))
    (tmp_path / 'old').rename(tmp_path / 'new')
    assert latest_checkpoint(tmp_path / 'new') == tmp_path / 'new/epoch_1.pth', 'the one that was named'


@pytest.mark.parametrize('damage', ['empty', 'cut', 'flipped', 'garbage'])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    first, second = (checkpoint(tmp_path / f'epoch_{epoch}.pth') for epoch in (1, 2))
    (tmp_path / POINTER).write_text(str(second))
    whole = bytearray(second.read_bytes())
    whole[len(whole) // 2] ^= 1
    second.write_bytes(
        dict(empty=b'', cut=bytes(whole[:-10]), flipped=bytes(whole), garbage=b'no archive' * 99)[damage]
    )
    assert latest_checkpoint(tmp_path) == first
    first.write_bytes(b'')
    with pytest.raises(
        ConfigError, match=r'no intact checkpoint: epoch_1\.pth, epoch_2\.pth|epoch_2\.pth, epoch_1\.pth'
    ):
        latest_checkpoint(tmp_path)


def test_an_empty_folder_has_none_and_steps_are_numbers(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    names = ('epoch_12.pth', 'best_accuracy_top1_epoch_3.pth', 'iter_900.pth', 'model.pth', 'epoch_x.pth')
    assert [step_of(Path(name)) for name in names] == [12, 3, 900, -1, -1]


def test_a_run_is_not_overwritten_and_overwriting_sets_it_aside(tool, tmp_path, capsys):
    train(tool, tmp_path, epochs=2)
    (tmp_path / POINTER).unlink()
    with pytest.raises(ConfigError, match=r'holds a run already.*epoch_2\.pth.*--resume.*--overwrite'):
        train(tool, tmp_path, arguments=())
    weights = (tmp_path / 'epoch_2.pth').read_bytes()
    train(tool, tmp_path, epochs=1, arguments=('--overwrite',))
    (aside,) = tmp_path.glob('before_*')
    assert (aside / 'epoch_2.pth').read_bytes() == weights
    assert [record['epoch'] for record in read_scalars(tmp_path)[1]] == [1], 'the curves are those of the new run'
    assert len(read_scalars(aside)[1]) == 2
    assert sorted(path.name for path in tmp_path.glob('epoch_*')) == ['epoch_1.pth']


def test_one_training_at_a_time_writes_into_a_folder(tool, tmp_path):
    code = (
        'import sys; from mmcds.openmmlab.work_dir import only_training\n'
        'with only_training(sys.argv[1]): print("in", flush=True); sys.stdin.read()'
    )
    command = [sys.executable, '-c', code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        while other.stdout.readline().strip() != 'in':
            assert other.poll() is None
        with pytest.raises(ConfigError, match=rf'another training writes into .*process {other.pid} on'):
            train(tool, tmp_path, epochs=1)
        assert not list(tmp_path.glob('*.pth'))
        other.kill()
        other.wait()
    with only_training(tmp_path):  # a lock ends with its process
        assert (tmp_path / LOCK).exists()


@pytest.mark.parametrize('method', ['plain', 'cds'])
def test_a_training_that_diverges_stops_names_the_term_and_saves_nothing(tool, tmp_path, method):
    config = str(ROOT / f'configs/{method}/resnet18w16_fashion.py')
    with pytest.raises(DivergedError, match=r'(not finite|nan|inf)'):
        train(tool, tmp_path, 'optim_wrapper.optimizer.lr=100', 'model.head.loss.loss_weight=1e35', config=config)
    assert not list(tmp_path.glob('*.pth'))


def test_a_training_that_diverges_later_leaves_the_checkpoint_before(tool, tmp_path, monkeypatch):
    train(tool, tmp_path, epochs=1)
    good = (tmp_path / 'epoch_1.pth').read_bytes()
    from mmengine.hooks import RuntimeInfoHook

    def poison(self, runner, *_, **__):
        next(runner.model.parameters()).data.fill_(float('nan'))

    monkeypatch.setattr(RuntimeInfoHook, 'after_train_epoch', poison, raising=False)
    with pytest.raises(DivergedError, match=r'not finite after iteration 4, such as .*epoch_1\.pth'):
        train(tool, tmp_path, epochs=3)
    assert (tmp_path / 'epoch_1.pth').read_bytes() == good
    assert not list(tmp_path.glob('epoch_2*'))


@pytest.mark.parametrize(
    'chosen, left',
    [
        ('auto', ['best_accuracy_top1_epoch_3.pth']),
        (
            '[accuracy/top1,accuracy/top5]',
            ['best_accuracy_top1_epoch_3.pth', 'best_accuracy_top5_epoch_1.pth'],
        ),
    ],
)
def test_the_best_by_the_first_metric_and_by_several_are_kept_when_a_run_goes_on(tool, tmp_path, chosen, left):
    for epochs in (2, 3):
        train(tool, tmp_path, f'default_hooks.checkpoint.save_best="{chosen}"', epochs=epochs)
    assert [path.name for path in sorted(tmp_path.glob('best_*'))] == left


def test_a_validation_of_a_training_that_counts_steps_is_made_up_too(tool, tmp_path, monkeypatch):
    config = tmp_path / 'steps.py'
    config.write_text(
        "_base_ = 'mmcds::plain/resnet18w16_fashion.py'\nparam_scheduler = None\n"
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=4, val_interval=2)\n"
        'default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2, save_best=None))\n'
    )
    steps = []
    run = ValLoop.run

    def killed(self):
        steps.append(self.runner.iter)
        if steps == [2]:
            raise Killed
        return run(self)

    monkeypatch.setattr('mmpretrain.evaluation.Accuracy.compute_metrics', lambda self, results: {'top1': 1.0})
    monkeypatch.setattr(ValLoop, 'run', killed)
    command = [str(config), '--work-dir', str(tmp_path / 'run'), '--resume', '--cfg-options', *QUICK]
    with pytest.raises(Killed):
        tool('train').main(command)
    tool('train').main(command)
    assert steps == [2, 2, 4]
    assert (tmp_path / 'run' / VALIDATED).read_text() == 'step 4'
    assert Path((tmp_path / 'run' / POINTER).read_text()).name == 'iter_4.pth'


class Memory(BaseStorageBackend):
    """A storage that is no disk."""

    files: ClassVar[dict[str, bytes]] = {}
    written: ClassVar[list[str]] = []

    def get(self, filepath):
        return self.files[filepath]

    def get_text(self, filepath, encoding='utf-8'):
        return self.files[filepath].decode(encoding)

    def put(self, obj, filepath):
        self.files[filepath] = bytes(obj)
        self.written.append(filepath)

    def join_path(self, first, *others):
        return '/'.join((first, *others))

    def isfile(self, filepath):
        return filepath in self.files

    def isdir(self, filepath):
        return False

    def remove(self, filepath):
        del self.files[filepath]


@pytest.mark.parametrize('minutes', [15, 1e-9], ids=['every epoch', 'every step'])
def test_checkpoints_on_another_storage_are_left_to_it(tool, tmp_path, minutes):
    Memory.files.clear()
    Memory.written.clear()
    register_backend('memory', Memory, force=True, prefixes='memory')
    FileClient.register_backend('memory', Memory, force=True, prefixes='memory')
    options = ['default_hooks.checkpoint.out_dir=memory://runs', f'default_hooks.checkpoint.minutes={minutes}']
    runner = train(tool, tmp_path / 'run', *options, epochs=3)
    kept = [name for name in Memory.files if name.endswith('.pth')]
    assert sorted(kept) == ['memory://runs/run/best_accuracy_top1_epoch_3.pth', 'memory://runs/run/epoch_3.pth']
    assert any('within_epoch_2.pth' in name for name in Memory.written) == (minutes < 1)
    assert (tmp_path / 'run' / POINTER).read_text() == 'memory://runs/run/epoch_3.pth'
    assert not list((tmp_path / 'run').glob('*.pth'))
    assert runner.epoch == 3


def test_two_runs_of_one_second_have_histories_of_their_own(whole, tool, tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.runner.runner.time.strftime', lambda *_: '20260101_000000')
    with monkeypatch.context() as patch:
        kill_at(patch, 0)
        with pytest.raises(Killed):
            train(tool, tmp_path / 'one')
    for name in ('one', 'two'):
        train(tool, tmp_path / name)
        assert same(state_of(tmp_path / name), whole[0])


def test_without_locks_of_this_kind_nothing_is_locked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, 'fcntl', None)
    with only_training(tmp_path), only_training(tmp_path):
        assert not (tmp_path / LOCK).exists()

"""A step as one graph: the same training to the last bit, and one line where it cannot be had.

No GPU is here. A stand-in for CUDA graphs runs the recorded function again instead of its kernels, and writes into the
tensors of the first time, as a graph does.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import NO_REPORT, few_images

import mmcds.openmmlab.hooks.cuda_graph as module

ROOT = Path(__file__).resolve().parents[3]
#: 7 steps of 4 images and one of 2, twice.
SHORT = [*few_images(30, 4, 4), NO_REPORT, 'train_cfg.max_epochs=2', 'train_dataloader.drop_last=False']
SPARSE = 'default_hooks.logger.interval=4'


class Stand:
    """Records a function by running it, and replays it by running it again."""

    def __init__(self, patch):
        self.replays = self.recordings = 0
        patch.setattr(module, 'capture', self.capture)
        patch.setattr(module, 'why_not', lambda model, wrapper: None)
        patch.setattr(module.GraphedStep, '_record', self.record(module.GraphedStep._record))

    def record(self, original):
        def recorded(step, *arguments):
            self.parameters = step.parameters
            original(step, *arguments)

        return recorded

    def capture(self, compute):
        values = compute()
        gradients = [parameter.grad for parameter in self.parameters]
        self.recordings += 1
        done = [False]

        def replay():
            self.replays += 1
            if not done[0]:  # recording has run it already
                done[0] = True
                return
            for parameter in self.parameters:
                assert parameter.grad is None, 'a graph writes gradients, it does not add'
            for name, value in compute().items():
                values[name].copy_(value)
            for kept, parameter in zip(gradients, self.parameters, strict=True):
                kept.copy_(parameter.grad)
                parameter.grad = None

        return values, replay


def train(tool, folder, config, *options):
    tool('train').main([str(ROOT / f'configs/{config}.py'), '--work-dir', str(folder), *options])
    state = torch.load(folder / 'epoch_2.pth', weights_only=False)
    scalars = {
        name: list(history.data[0])
        for name, history in state['message_hub']['log_scalars'].items()
        if not name.endswith('time') and 'eta' not in name
    }
    return state['state_dict'], scalars


@pytest.mark.parametrize('method', ['cds', 'plain'])
def test_a_graphed_training_is_the_usual_one(tool, tmp_path, monkeypatch, method):
    config = f'{method}/resnet18w16_fashion'
    options = ['--cfg-options', *SHORT, SPARSE]
    usual = train(tool, tmp_path / 'usual', config, *options)
    stand = Stand(monkeypatch)
    graphed = train(tool, tmp_path / 'graphed', config, '--cuda-graph', *options)
    # Of 16 steps, 5 warm up, 4, 8 of an epoch are watched and the last ones have fewer images
    assert (stand.recordings, stand.replays) == (1, 8)
    assert graphed[1] == usual[1]
    for name, value in usual[0].items():
        assert torch.equal(graphed[0][name], value), name


def test_a_method_that_follows_the_progress_of_the_run_says_so(tool, tmp_path, monkeypatch, capsys):
    Stand(monkeypatch)
    train(
        tool,
        tmp_path,
        'plain/resnet18w16_fashion',
        '--cuda-graph',
        '--cfg-options',
        *SHORT,
        SPARSE,
        'model.supervisions.dsn.type=DSNSupervision',
        'model.supervisions.dsn.taps=[0]',
        'model.supervisions.dsn.decay=linear',
    )
    text = capsys.readouterr().out
    assert text.count('steps are launched kernel by kernel, because a supervision follows the progress') == 1


def test_without_a_gpu_one_line_says_so(tool, tmp_path, capsys):
    train(tool, tmp_path, 'plain/resnet18w16_fashion', '--cuda-graph', '--cfg-options', *SHORT)
    assert capsys.readouterr().out.count('because the model is on no GPU') == 1


class FakeModel(module.CDSClassifier):
    """A classifier on a GPU that is none."""

    def __init__(self, mixing=None, recompute_stages=False):
        torch.nn.Module.__init__(self)
        self.mixing, self.recompute_stages = mixing, recompute_stages
        self.data_preprocessor = SimpleNamespace(device=torch.device('cuda'))


@pytest.mark.parametrize(
    'model, wrapper, reason',
    [
        (FakeModel(), SimpleNamespace(), None),
        (torch.nn.Linear(1, 1), SimpleNamespace(), 'the model is a Linear'),
        (FakeModel(mixing=1), SimpleNamespace(), 'the images are mixed'),
        (FakeModel(recompute_stages=True), SimpleNamespace(), 'stages that are run again'),
        (FakeModel(), SimpleNamespace(_accumulative_counts=2), 'gradients are accumulated'),
    ],
)
def test_what_is_known_to_prevent_a_graph_is_named(model, wrapper, reason):
    found = module.why_not(model, wrapper)
    assert found is None if reason is None else found.startswith(reason)


def test_several_processes_prevent_a_graph(monkeypatch):
    monkeypatch.setattr(module, 'get_world_size', lambda: 2)
    assert module.why_not(FakeModel(), SimpleNamespace()).startswith('2 processes')


def test_a_recording_that_fails_is_said_and_the_training_goes_on(tool, tmp_path, monkeypatch, capsys):
    def fail(compute):
        raise RuntimeError('operation not permitted when stream is capturing\nmore')

    options = ['--cfg-options', *SHORT, SPARSE]
    usual = train(tool, tmp_path / 'usual', 'plain/resnet18w16_fashion', *options)
    monkeypatch.setattr(module, 'why_not', lambda model, wrapper: None)
    monkeypatch.setattr(module, 'capture', fail)
    found = train(tool, tmp_path / 'failed', 'plain/resnet18w16_fashion', '--cuda-graph', *options)
    assert capsys.readouterr().out.count('because operation not permitted when stream is capturing.\n') == 1
    assert found[1] == usual[1]

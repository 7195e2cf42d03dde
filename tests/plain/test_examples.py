"""The five examples run as they are on some of their images, learn something, and are short enough to be read."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
#: Example, what it needs, and a key of the network that it saves.
CASES = {
    'bare_loop': ((), 'fc.weight'),
    'timm_resnet': (('timm',), 'fc.weight'),
    'torchvision_resnet': (('torchvision',), 'fc.weight'),
    'lightning_module': (('lightning', 'timm'), 'fc.weight'),
    'hugging_face_trainer': (('transformers', 'accelerate'), 'classifier.1.weight'),
}


def some_images(monkeypatch):
    """2,000 images to train on and 500 to test on."""
    import fashion

    whole, counts = fashion.load, dict(train=2000, t10k=500)
    monkeypatch.setattr(fashion, 'load', lambda split: tuple(part[: counts[split]] for part in whole(split)))


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_an_example_learns_in_one_epoch_and_saves_the_network_alone(name, tmp_path, monkeypatch):
    packages, key = CASES[name]
    for package in packages:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    some_images(monkeypatch)
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f'{name}.py')
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.main(['--epochs', '1', '--out', 'net.pth'])
    assert found > 20, 'ten classes: chance is 10 %'
    state = torch.load('net.pth', weights_only=True)
    assert state[key].shape[0] == 10
    assert not any('supervisions' in name for name in state)


def test_the_views_of_the_examples_are_made_on_the_device_of_the_images(monkeypatch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.syspath_prepend(str(EXAMPLES))
    from fashion import random_views

    with FakeTensorMode():
        views = random_views(torch.empty(4, 3, 28, 28, dtype=torch.uint8, device='cuda'))
    assert (views.device.type, views.shape) == ('cuda', (2, 4, 3, 28, 28))


@pytest.mark.parametrize('path', sorted(EXAMPLES.glob('*.py')), ids=lambda path: path.name)
def test_an_example_is_short(path):
    assert len(path.read_text().splitlines()) < 80

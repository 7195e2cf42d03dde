"""No method lets the host wait for a GPU in a training step, and none launches more than it did."""

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_gpu import STORAGE, Waits, step_on_gpu
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS, TRANSFORMS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmcds.data import SampleBatch
from mmcds.losses import fused

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 8
#: Config, and the kernels of preprocessing, forward pass and losses of a step, views coloured on the GPU.
METHODS = {
    'plain/resnet18_cifar100': 98,
    'cds/resnet18_cifar100': 197,
    'cds/resnet18_cifar100-paper': 204,
    'cds/resnet18_cifar100-tuned': 198,
    'semi/resnet18_cifar100': 203,
    'semi/resnet18_cifar100-paper': 255,
    'distill/resnet18_cifar100': 461,
    'distill/resnet18_cifar100-feature': 413,
    'dsn/resnet18_cifar100': 223,
    'dks/resnet18_cifar100': 286,
    'dhm/resnet18_cifar100': 286,
    'kd/resnet18_cifar100': 287,
    'fitnet/resnet18_cifar100': 280,
    'at/resnet18_cifar100': 347,
    'rkd/resnet18_cifar100': 367,
    'sp/resnet18_cifar100': 284,
    'cc/resnet18_cifar100': 304,
    'crd/resnet18_cifar100': 371,
    'one/resnet18_cifar100': 201,
    'sskd/resnet18_cifar100': 390,
    'sskd/resnet18_cifar100-teacher': 203,
    'dkd/resnet18_cifar100': 319,
    'dist/resnet18_cifar100': 307,
    'nkd/resnet18_cifar100': 307,
    'standardized_kd/resnet18_cifar100': 301,
    'reviewkd/resnet18_cifar100': 425,
    'uskd/resnet18_cifar100': 195,
    'plain/resnet10w16_emoji-mixed': 83,
    'cds/resnet10w16_emoji-mixed': 184,
}


def multi_view(dataset):
    """The transform that makes the views, and the innermost data set's settings."""
    while 'pipeline' not in dataset:
        dataset = dataset.dataset
    return next(TRANSFORMS.build(step) for step in dataset.pipeline if step.type == 'MultiViewTransform')


@pytest.fixture(autouse=True)
def between_log_lines(monkeypatch):
    monkeypatch.setattr('mmcds.openmmlab.classifier.run_is_watched', lambda: False)


@pytest.fixture
def no_inner_gradient(monkeypatch):
    """CRD takes a gradient within its forward pass, which a GPU that computes nothing cannot."""
    monkeypatch.setattr(torch.autograd, 'grad', lambda loss, leaf: (torch.zeros_like(leaf),))


@pytest.mark.usefixtures('no_inner_gradient')
@pytest.mark.parametrize(
    'name, seed', [*((name, 0) for name in METHODS), *((name, 1) for name in METHODS if 'mixed' in name)]
)
def test_a_step_waits_for_nothing(name, seed):
    torch.manual_seed(0)  # of the colours
    np.random.seed(seed)  # of the way to mix images
    config = Config.fromfile(ROOT / f'configs/{name}.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        views = multi_view(config.train_dataloader.dataset)
        config.data_preprocessor.view_colors = views.colors or ()
        model = MODELS.build({**config.model, 'data_preprocessor': config.data_preprocessor}).train()
    for part in model.supervisions.parts() if hasattr(model, 'supervisions') else ():
        if hasattr(part, 'prepare'):
            part.prepare(torch.arange(60) % 10)
    if getattr(model, 'teacher', None) is not None:
        model.teacher.freeze(model.teacher._build())
    inputs = torch.zeros(IMAGES, len(views.views), 3, 32, 32, dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 3, 4, 5, -1, -1]) if name.startswith('semi') else torch.arange(IMAGES)
    samples = SampleBatch(labels, [dict(sample_idx=index) for index in range(IMAGES)])
    counted = step_on_gpu(model, dict(inputs=inputs, data_samples=samples))
    assert not counted.found, 'the host waits'
    assert sum(counted.kernels.values()) <= METHODS[name], counted.kernels.most_common(20)


def test_a_learned_temperature_is_not_read():
    config = Config.fromfile(ROOT / 'configs/cds/resnet18_cifar100.py')
    config.model.supervisions.cds.loss.learn_temperature = True
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build({**config.model, 'data_preprocessor': config.data_preprocessor}).train()
    samples = SampleBatch(torch.arange(IMAGES), [dict(sample_idx=index) for index in range(IMAGES)])
    inputs = torch.zeros(IMAGES, 2, 3, 32, 32, dtype=torch.uint8)
    assert not step_on_gpu(model, dict(inputs=inputs, data_samples=samples)).found


def launches(name, monkeypatch):
    """Count what network, losses and backward pass of a step of two views launch, on tensors without memory.

    The fake GPU has no backward pass. Tensors without memory have one, with the same operations.
    """
    monkeypatch.setattr(torch, 'autocast', lambda *_, **__: nullcontext())  # it does not know this device
    monkeypatch.setattr(fused, 'usable', lambda device: True)
    config = Config.fromfile(ROOT / f'configs/{name}.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build({**config.model, 'data_preprocessor': config.data_preprocessor}).train().to('meta')
    side = 32 if 'cifar' in name else 224
    samples = SampleBatch(torch.empty(8, device='meta', dtype=torch.int64), [{}] * 8)
    samples.num_labelled = 8
    batch = model.step_inputs(torch.empty(2, 8, 3, side, side, device='meta'), samples)
    with Kernels() as network:
        outputs = model.outputs_of(batch)
    leaves = {part: {tap: cut(rows) for tap, rows in taps.items()} for part, taps in outputs.embeddings.items()}
    alone = replace(outputs, logits=cut(outputs.logits), embeddings=leaves)
    for own in (outputs, alone):
        with Kernels() as losses:
            total, _ = model.parse_losses({**model._cross_entropy(own), **model.supervise(own)})
        with Kernels() as backward:
            total.backward()
        if own is outputs:
            step = network.total() + losses.total() + backward.total()
    return step, losses.total() + backward.total()


def cut(value):
    return value.detach().requires_grad_()


class Kernels(TorchDispatchMode):
    """Counts operations that launch a kernel, on any device."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function._overloadpacket.__name__
        if not function.is_view and name not in STORAGE and isinstance(tree_leaves(result)[0], torch.Tensor):
            self.found[name] += 1
        return result

    def total(self):
        return self.found.total()


@pytest.mark.parametrize('network, ratio', [('resnet50_in1k', 1.45), ('resnet18_cifar100', 2.05)])
def test_the_losses_launch_few_kernels(network, ratio, monkeypatch):
    """Four launches are those of the preprocessing, colour included, as counted above."""
    plain, few = launches(f'plain/{network}', monkeypatch)
    whole, losses = launches(f'cds/{network}', monkeypatch)
    assert few < losses <= 60 - 4
    assert (whole + 4) / (plain + 4) <= ratio


def test_what_waits_is_found():
    """Every kind of wait, so that the test above can fail."""
    with FakeTensorMode(allow_non_fake_inputs=True), Waits() as counted:
        there = torch.zeros(4, device='cuda')
        float(there.sum())
        there.nonzero()
        there.cpu()
        torch.equal(there, there)
        torch.zeros(4).to('cuda')
        torch.tensor([1.0], device='cuda')
        torch.zeros(4).to('cuda', non_blocking=True)
    kinds = sorted(text.partition(' in ')[0] for text, times in counted.found.items() for _ in range(times))
    assert kinds == ['copy cpu to cuda', 'copy cpu to cuda', 'copy cuda to cpu', 'equal', 'item', 'nonzero']

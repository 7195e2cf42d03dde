"""torch.compile by a hook: the same numbers, the same names, and a clear word where there is no compiler."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from torch.testing import assert_close

import mmcds.openmmlab.hooks.compile as module
from mmcds.core.errors import ConfigError
from mmcds.data import SampleBatch
from mmcds.openmmlab.hooks import CompileHook

ROOT = Path(__file__).resolve().parents[3]


def build(taps=(0, 1, 2)):

    return MODELS.build(
        dict(
            type='CDSClassifier',
            backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4, zero_init_residual=False),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=5, in_channels=32),
            supervisions=dict(
                cds=dict(
                    type='ContrastiveSupervision',
                    taps=taps,
                    neck=dict(type='CDSNeck'),
                    loss=dict(type='SupConLoss', loss_weight=0.1),
                )
            ),
        )
    )


@pytest.mark.parametrize('taps', [(0, 1, 2), ('layer1.1', 'layer3')])
def test_a_compiled_step_gives_the_same_losses_gradients_and_names(taps):
    from mmpretrain.structures import DataSample

    models = [build(taps), build(taps)]
    models[1].load_state_dict(models[0].state_dict())
    CompileHook(backend='aot_eager').before_train(SimpleNamespace(model=models[1]))
    images = torch.randn(2, 4, 3, 32, 32)
    samples = [DataSample().set_gt_label(label) for label in (0, 1, 1, 2)]
    for _ in range(2):
        first, second = (model.loss(images, samples) for model in models)
    assert_close(second, first, rtol=1e-4, atol=1e-4)
    for losses in (first, second):
        sum(value for key, value in losses.items() if 'loss' in key).backward()
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-4, msg=name)
    assert list(models[0].state_dict()) == list(models[1].state_dict())


#: Graph breaks of a whole loss after the first step; CRD draws and looks up rows of its memory on the host.
BREAKS = {
    'cds/resnet18_cifar100': 0,
    'cds/resnet18_cifar100-paper': 0,
    'semi/resnet18_cifar100-paper': 0,
    'distill/resnet18_cifar100': 0,
    'dsn/resnet18_cifar100': 0,
    'dks/resnet18_cifar100': 0,
    'one/resnet18_cifar100': 0,
    'sskd/resnet18_cifar100': 0,
}


@pytest.mark.parametrize('name', BREAKS)
def test_the_whole_loss_is_one_graph(name):
    config = Config.fromfile(ROOT / f'configs/{name}.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build({**config.model, 'data_preprocessor': config.data_preprocessor}).train()
    if model.teacher is not None:
        model.teacher.freeze(model.teacher._build())
    labels = torch.tensor([0, 1, 1, -1]) if name.startswith('semi') else torch.tensor([0, 1, 1, 2])
    samples = SampleBatch(labels, [dict(sample_idx=index) for index in range(4)])
    views = model.min_views if name.partition('/')[0] != 'sskd' else 4
    batch = model.step_inputs(torch.randn(views, 4, 3, 32, 32), samples)
    batch = batch._replace(watched=False, num_labelled=int((labels >= 0).sum()))
    model.losses_of(batch)
    torch._dynamo.reset()
    found = torch._dynamo.explain(model.losses_of)(batch)
    assert found.graph_break_count == BREAKS[name], [reason.reason for reason in found.break_reasons]


def test_a_training_compiles_its_loss_and_gives_it_back():
    model = build()
    hook, runner = CompileHook(backend='eager'), SimpleNamespace(model=model)
    hook.before_train(runner)
    assert 'losses_of' in vars(model)
    hook.after_train(runner)
    assert 'losses_of' not in vars(model)


def test_a_cpu_without_compiler_is_told_so(monkeypatch):
    monkeypatch.setattr(module.shutil, 'which', lambda name: None)
    with pytest.raises(ConfigError, match=r'needs a C\+\+ compiler'):
        CompileHook().before_train(SimpleNamespace(model=build()))

"""torch.compile by a hook: the same numbers, the same names, and a clear word where there is no compiler."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

import mmcds.openmmlab.hooks.compile as module
from mmcds.core.errors import ConfigError
from mmcds.openmmlab.hooks import CompileHook


def build(taps=(0, 1, 2)):
    from mmpretrain.registry import MODELS

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


def test_every_part_with_convolutions_is_compiled():
    model = build()
    found = module.compiled_parts(model)
    inside = {id(part) for compiled in found for part in compiled.modules()}
    assert all(id(part) in inside for part in model.modules() if isinstance(part, torch.nn.Conv2d))


def test_a_cpu_without_compiler_is_told_so(monkeypatch):
    monkeypatch.setattr(module.shutil, 'which', lambda name: None)
    with pytest.raises(ConfigError, match=r'needs a C\+\+ compiler'):
        CompileHook().before_train(SimpleNamespace(model=build()))

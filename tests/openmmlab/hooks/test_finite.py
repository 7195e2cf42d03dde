"""A loss that is no number stops a training: at once where a look costs nothing, soon where it costs a wait."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import AmpOptimWrapper
from torch import nn

from mmcds.core.errors import DivergedError
from mmcds.openmmlab.hooks import CheckFiniteHook


class OnDevice(torch.Tensor):
    """A tensor that says that it lies on a GPU."""

    is_cuda = True


def loss_of(value, device=False):
    return torch.tensor(value).as_subclass(OnDevice) if device else torch.tensor(value)


def runner_at(step, model=None, wrapper=None, steps=1000):
    wrapper = wrapper or SimpleNamespace(get_lr=lambda: {'lr': [0.1, 0.1]})
    return SimpleNamespace(
        iter=step, epoch=2, optim_wrapper=wrapper, model=model or nn.Linear(1, 1), train_dataloader=range(steps)
    )


def stopped_at(hook, values, device, steps=1000):
    """The step at which the hook stops a training with these losses, counted from 1; None if it does not."""
    for step, value in enumerate(values):
        outputs = dict(loss=loss_of(value, device), loss_ce=loss_of(value, device), top1=0.5)
        try:
            hook.after_train_iter(runner_at(step, steps=steps), step, outputs=outputs)
        except DivergedError:
            return step + 1
    return None


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
def test_it_stops_in_the_same_step_or_at_the_next_look(bad):
    values = [1.0, 1.0, bad, *[1.0] * 200]
    assert stopped_at(CheckFiniteHook(), values, device=False) == 3
    assert stopped_at(CheckFiniteHook(), values, device=True) == 50
    assert stopped_at(CheckFiniteHook(interval=7), values, device=True) == 7
    assert stopped_at(CheckFiniteHook(), values, device=True, steps=10) == 10, 'the end of an epoch has a look too'
    assert stopped_at(CheckFiniteHook(), [1.0] * 200, device=True) is None


def test_the_message_names_terms_step_epoch_and_rate():
    outputs = dict(loss=loss_of(float('nan')), loss_ce=loss_of(2.0), loss_kd=loss_of(float('inf')))
    with pytest.raises(
        DivergedError, match=r'iteration 5 \(epoch 3, learning rate 0\.1\): loss is nan, loss_kd is inf'
    ):
        CheckFiniteHook().after_train_iter(runner_at(4), 4, outputs=outputs)


def test_steps_that_an_adaptive_scale_skips_are_no_fault_but_weights_that_are_not_finite_are():
    wrapper = object.__new__(AmpOptimWrapper)
    wrapper.get_lr = lambda: {'lr': [0.1]}
    hook, model = CheckFiniteHook(), nn.Linear(1, 1)
    outputs = dict(loss=loss_of(float('inf')))
    hook.after_train_iter(runner_at(0, model, wrapper), 0, outputs=outputs)
    model.weight.data.fill_(float('nan'))
    with pytest.raises(DivergedError, match='loss is inf'):
        hook.after_train_iter(runner_at(1, model, wrapper), 1, outputs=outputs)


def test_a_step_without_a_loss_is_left_alone():
    CheckFiniteHook().after_train_iter(runner_at(0), 0, outputs={})
    CheckFiniteHook().after_train_iter(runner_at(0), 0)


@pytest.mark.parametrize('device', [False, True])
def test_a_training_whose_every_step_is_skipped_is_stopped_although_its_weights_are_finite(device):
    wrapper = object.__new__(AmpOptimWrapper)
    wrapper.get_lr = lambda: {'lr': [0.1]}

    def last_step(values):
        hook = CheckFiniteHook()
        for step, value in enumerate(values):
            try:
                hook.after_train_iter(
                    runner_at(step, wrapper=wrapper), step, outputs=dict(loss=loss_of(value, device))
                )
            except DivergedError:
                return step + 1
        return None

    bad = float('nan')
    assert last_step([1.0] * 10 + [bad] * 500) == (100 if device else 60)
    assert last_step(([bad] * 40 + [1.0]) * 10) is None

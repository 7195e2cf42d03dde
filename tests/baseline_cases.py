"""A student's and a teacher's StepOutputs for the tests of distillation: random maps of other widths and sizes."""

from dataclasses import replace

import torch

from mmcds.core.outputs import StepOutputs
from mmcds.core.taps import NetworkInfo, TapInfo

#: Channels and side of the four stages.
STUDENT = ((4, 16), (6, 8), (8, 4), (10, 2))
TEACHER = ((5, 16), (7, 8), (9, 4), (12, 2))
CLASSES = 3


def network(shapes=STUDENT, teacher=TEACHER, num_classes=CLASSES):
    """Facts of a student with these stages, on images of 16 pixels, and of its teacher."""

    def facts(stages, other):
        taps = {tap: TapInfo(width, 16 / side) for tap, (width, side) in enumerate(stages)}
        return NetworkInfo('Net', taps, taps[len(stages) - 1], num_classes, teacher=other)

    return facts(shapes, teacher and facts(teacher, None))


def outputs(shapes=STUDENT, views=1, images=5, teacher=TEACHER, dtype=torch.float64, seed=0):
    """Random features that want a gradient, and a teacher's StepOutputs that wants one too: it must never get it."""
    generator = torch.Generator().manual_seed(seed)
    rows = views * images

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    def one(stages):
        features = {tap: random(rows, width, side, side) for tap, (width, side) in enumerate(stages)}
        return StepOutputs(
            num_views=views,
            features=features,
            pooled=random(rows, stages[-1][0]),
            logits=random(rows, CLASSES),
            labels=torch.arange(images) % CLASSES,
            sample_idx=torch.arange(images),
            progress=0.5,
        )

    return replace(one(shapes), teacher=one(teacher) if teacher else None)


def sources(found):
    """All tensors of a StepOutputs that a loss may read."""
    return [*found.features.values(), found.pooled, found.logits]


def total(values):
    """What MMPretrain optimises."""
    return sum(value for name, value in values.items() if 'loss' in name)

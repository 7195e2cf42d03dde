"""``CDSClassifier`` is the training step of ``ContrastiveDeepSupervision``: the same numbers, to the last bit."""

import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from torch import nn

from mmcds import ContrastiveDeepSupervision
from mmcds.data import SampleBatch

CLASSES, SIDE, IMAGES = 3, 16, 6
LAYERS = ('backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'backbone.layer4')
#: Supervisions with numbered stages, which become names of modules for the plain network.
SUPERVISIONS = {
    'cds': dict(
        type='ContrastiveSupervision', taps=(0, 1, 2, 3), neck=dict(type='CDSNeck'), loss=dict(type='SupConLoss')
    ),
    'simclr': dict(
        type='ContrastiveSupervision',
        taps=(1, 3),
        neck=dict(type='CDSNeck', head='mlp', out_channels=5),
        loss=dict(type='NTXentLoss', temperature=0.2, learn_temperature=True),
    ),
    'dsn': dict(type='DSNSupervision', taps=(0, 1, 2)),
    'dhm': dict(type='DHMSupervision', taps=(1, 2), trunk='sepconv'),
}


class Network(nn.Module):
    """Backbone, pooling and classifier of an ``ImageClassifier``, as one ordinary network."""

    def __init__(self, classifier):
        super().__init__()
        self.backbone, self.fc = classifier.backbone, classifier.head.fc

    def forward(self, images):
        return self.fc(nn.functional.adaptive_avg_pool2d(self.backbone(images)[-1], 1).flatten(1))


@pytest.mark.parametrize('name', SUPERVISIONS)
@pytest.mark.parametrize('ce_views', [(0,), (0, 1)])
def test_losses_and_gradients_are_those_of_the_plain_interface(name, ce_views):
    supervision = SUPERVISIONS[name]
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        ours = MODELS.build(
            dict(
                type='CDSClassifier',
                backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4, out_indices=(3,)),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=32),
                supervisions={name: supervision},
                ce_views=ce_views,
                channels_last=False,
            )
        ).double()
    named = {**supervision, 'taps': tuple(LAYERS[tap] for tap in supervision['taps'])}
    plain = ContrastiveDeepSupervision(
        Network(ours), supervisions={name: named}, ce_views=ce_views, image_size=SIDE
    ).double()
    pairs = list(zip(plain.supervisions.parameters(), ours.supervisions.parameters(), strict=True))
    with torch.no_grad():
        for own, other in pairs:
            own.copy_(other)
    assert len(pairs) >= 4
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, IMAGES, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1, -1])

    ours.train(), plain.train()
    expected = plain(views, labels)
    expected.total.backward()
    gradients = [p.grad.clone() for p in (*plain.model.parameters(), *plain.supervisions.parameters())]
    plain.zero_grad()
    found = ours.loss(views, SampleBatch(labels, [{}] * IMAGES))
    total = sum(value for key, value in found.items() if 'loss' in key)
    total.backward()

    assert [value.item() for value in found.values()] == [value.item() for value in expected.values()]
    assert total.item() == expected.total.item()
    parts = (*Network(ours).parameters(), *ours.supervisions.parameters())
    for own, other in zip(gradients, parts, strict=True):
        assert torch.equal(own, other.grad)

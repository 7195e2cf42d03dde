"""Record what every method computes, and compare with the record: losses, gradients and ten steps in float64.

Run it before and after a change that must not change results::

    python tests/behaviour.py record tests/behaviour.json
    python tests/behaviour.py compare tests/behaviour.json

The record in the repository was made before the package was divided into its present folders, but for SSKD, which has
chosen among equally wrong images in another way since. Gradients and weights
are recorded as products with fixed random numbers, one for each part of the network, so that no entry can move or
change unseen. ``compare`` prints the largest relative difference of every method; they are 0 on the same machine and
version of PyTorch.
"""

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import torch

STEPS = 10
VIEWS, IMAGES, SIDE = 4, 6, 16  # most methods look at the first one or two views
LABELS = {'full': [0, 1, 2, 0, 1, 2], 'half': [0, 1, 2, 0, -1, -1]}

CDS = dict(type='ContrastiveSupervision', taps=(0, 1, 2, 3), neck=dict(type='CDSNeck'), loss=dict(type='SupConLoss'))
MLP = dict(
    type='ContrastiveSupervision',
    taps=(0, 1, 'layer3.0'),
    neck=dict(type='CDSNeck', head='sepconv+mlp', out_channels=5),
    loss=dict(type='NTXentLoss', temperature=0.2, learn_temperature=True),
)
IN = dict(
    type='ContrastiveSupervision',
    taps=(1, 3),
    neck=dict(type='CDSNeck', head='mlp', out_channels=5),
    loss=dict(type='SupConLoss', positives='in', block_size=5, loss_weight=0.5),
)

#: Everything of a classifier beyond its network, by the name of the method.
METHODS = {
    'plain': dict(ce_views=(0, 1)),
    'cds': dict(supervisions=dict(cds=CDS)),
    'cds_semi': dict(supervisions=dict(cds=CDS), labels='half'),
    'cds_mlp': dict(supervisions=dict(cds=MLP)),
    'cds_in': dict(supervisions=dict(cds=IN)),
    'cds_recompute': dict(supervisions=dict(cds=CDS), recompute_stages=True),
    'cds_frozen': dict(supervisions=dict(cds=CDS), frozen=('backbone',)),
    'cds_distill': dict(
        supervisions=dict(
            cds=CDS, embedding=dict(type='EmbeddingDistillation'), logit=dict(type='LogitDistillation', mode='kl')
        ),
        teacher='cds',
    ),
    'feature': dict(supervisions=dict(f=dict(type='FeatureDistillation', taps=(0, 3), mode='mse_row')), teacher='cds'),
    'kd': dict(supervisions=dict(kd=dict(type='KDSupervision')), teacher='cds'),
    'kd_train_mode': dict(supervisions=dict(kd=dict(type='KDSupervision')), teacher='cds', teacher_mode='train'),
    'kd_normalised': dict(supervisions=dict(kd=dict(type='KDSupervision')), teacher='cds', teacher_std=[200] * 3),
    'fitnet': dict(supervisions=dict(fitnet=dict(type='FitNetSupervision')), teacher='cds'),
    'at': dict(supervisions=dict(at=dict(type='ATSupervision')), teacher='cds'),
    'rkd': dict(supervisions=dict(rkd=dict(type='RKDSupervision')), teacher='cds'),
    'sp': dict(supervisions=dict(sp=dict(type='SPSupervision')), teacher='cds'),
    'cc': dict(supervisions=dict(cc=dict(type='CCSupervision')), teacher='cds'),
    'crd': dict(supervisions=dict(crd=dict(type='CRDSupervision', num_negatives=4)), teacher='cds'),
    'sskd': dict(supervisions=dict(sskd=dict(type='SSKDSupervision')), teacher='rotation'),
    'rotation': dict(supervisions=dict(sskd=dict(type='RotationSupervision'))),
    'one': dict(supervisions=dict(one=dict(type='ONESupervision'))),
    'dsn': dict(supervisions=dict(dsn=dict(type='DSNSupervision', taps=(0, 1, 2)))),
    'dks': dict(supervisions=dict(dks=dict(type='DKSSupervision', taps=(1, 2)))),
    'dhm': dict(supervisions=dict(dhm=dict(type='DHMSupervision', taps=(1, 2)))),
}
TEACHERS = dict(cds=dict(cds=CDS), rotation=dict(sskd=dict(type='RotationSupervision')))


def network(width: int, supervisions: dict | None = None, std: list | None = None, **other) -> dict:
    """Config of a small ResNet-18 with three classes."""
    return dict(
        type='CDSClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=width, stem_channels=width),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=8 * width),
        data_preprocessor=dict(num_classes=3, mean=[0] * 3, std=std or [255] * 3),
        supervisions=supervisions,
        **other,
    )


def build(config: dict, seed: int):
    """Build and initialise a model in float64."""
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS

    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(config)
        model.init_weights()
    return model.double()


def products(values: dict[str, torch.Tensor | None]) -> dict[str, float]:
    """Sum of every part's values times fixed random numbers; a part is the first two words of a name."""
    generator, totals = torch.Generator().manual_seed(5), defaultdict(float)
    for name in sorted(values):
        value = values[name]
        if value is not None and value.is_floating_point():
            numbers = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            totals['.'.join(name.split('.')[:2])] += float((value.detach().double() * numbers).sum())
    return dict(totals)


def run(name: str, folder: Path) -> dict:
    """Build a method's model, compute its losses and gradients, and take ten steps."""
    from mmpretrain.structures import DataSample

    import mmcds.openmmlab  # noqa: F401

    method = dict(METHODS[name])
    labels = LABELS[method.pop('labels', 'full')]
    teacher, mode, std = (method.pop(key, None) for key in ('teacher', 'teacher_mode', 'teacher_std'))
    if teacher:
        config = network(6, TEACHERS[teacher], std=std)
        torch.save(dict(state_dict=build(config, seed=7).state_dict()), folder / 'teacher.pth')
        method['teacher'] = dict(config=config, checkpoint=str(folder / 'teacher.pth'), mode=mode or 'eval')
    model = build(network(4, **method), seed=1)
    for supervision in model.supervisions.values():
        supervision.prepare(torch.tensor([0, 1, 2] * 4))
    model = model.double()
    record: dict = dict(weights=products(dict(model.state_dict())), losses={}, totals=[])
    generator = torch.Generator().manual_seed(2)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for step in range(STEPS):
        views = torch.randn(VIEWS, IMAGES, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
        samples = [DataSample(metainfo=dict(sample_idx=i)).set_gt_label(c) for i, c in enumerate(labels)]
        torch.manual_seed(100 + step)
        losses = model.loss(views, samples)
        total = sum(value for key, value in losses.items() if 'loss' in key)
        optimiser.zero_grad()
        total.backward()
        record['totals'].append(float(total.detach()))
        if step == 0:
            record['losses'] = {key: float(value.detach()) for key, value in losses.items()}
            record['gradients'] = products({key: value.grad for key, value in model.named_parameters()})
        optimiser.step()
    record['trained'] = products(dict(model.state_dict()))
    return record


def difference(old: dict | list | float, new: dict | list | float) -> float:
    """Largest relative difference of two records; infinite where an entry is missing."""
    if isinstance(old, dict):
        return max(difference(old[key], new[key]) for key in old) if old.keys() == new.keys() else float('inf')
    if isinstance(old, list):
        return max(map(difference, old, new)) if len(old) == len(new) else float('inf')
    return abs(old - new) / max(abs(old), 1e-6)


def main(args: list[str] | None = None) -> int:
    """Record or compare; return the number of methods that differ by more than 1e-9."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('action', choices=('record', 'compare'))
    parser.add_argument('file', type=Path)
    arguments = parser.parse_args(args)
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in METHODS:
            found[name] = run(name, Path(folder))
    if arguments.action == 'record':
        arguments.file.write_text(json.dumps(found, indent=1) + '\n')
        return 0
    before = json.loads(arguments.file.read_text())
    differences = {name: difference(before[name], found[name]) for name in METHODS}
    for name, value in differences.items():
        print(f'{name:14} {value:.1e}')
    return sum(value > 1e-9 for value in differences.values())


if __name__ == '__main__':
    sys.exit(main())

"""The list of models that MIM, ``mmpretrain.list_models`` and ``mmengine.hub`` read, made from the config files.

``python -m mmcds.openmmlab.model_index`` writes ``configs/metafile.yml``, which ``model-index.yml`` imports; run it
after adding or removing a config.
"""

from pathlib import Path
from typing import Any

import yaml

NKD_TITLE = (
    'From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and '
    'Customized Soft Labels'
)
#: Folder of configs: name of the collection, its paper and where it is described.
COLLECTIONS = {
    'at': ('AT', '1612.03928', 'Paying More Attention to Attention', 'docs/baselines.md'),
    'byol': ('BYOL (mmcds)', '2006.07733', 'Bootstrap your own latent', 'README.md'),
    'cc': ('CC', '1904.01802', 'Correlation Congruence for Knowledge Distillation', 'docs/baselines.md'),
    'cds': ('CDS', '2207.05306', 'Contrastive Deep Supervision', 'README.md'),
    'crd': ('CRD', '1910.10699', 'Contrastive Representation Distillation', 'docs/baselines.md'),
    'detection': ('Detection with CDS backbones', '2207.05306', 'Contrastive Deep Supervision', 'docs/detection.md'),
    'dhm': ('DHM', '2003.10739', 'Dynamic Hierarchical Mimicking', 'README.md'),
    'dist': ('DIST', '2205.10536', 'Knowledge Distillation from A Stronger Teacher', 'docs/baselines.md'),
    'distill': ('Distillation with CDS', '2207.05306', 'Contrastive Deep Supervision', 'docs/semi_and_distill.md'),
    'nkd': ('NKD', '2303.13005', NKD_TITLE, 'docs/baselines.md'),
    'dkd': ('DKD', '2203.08679', 'Decoupled Knowledge Distillation', 'docs/baselines.md'),
    'dks': ('DKS', '1906.00675', 'Deeply-supervised Knowledge Synergy', 'README.md'),
    'dsn': ('DSN', '1409.5185', 'Deeply-Supervised Nets', 'README.md'),
    'fitnet': ('FitNet', '1412.6550', 'FitNets: Hints for Thin Deep Nets', 'docs/baselines.md'),
    'kd': ('KD', '1503.02531', 'Distilling the Knowledge in a Neural Network', 'docs/baselines.md'),
    'one': ('ONE', '1806.04606', 'Knowledge Distillation by On-the-Fly Native Ensemble', 'docs/baselines.md'),
    'plain': ('Plain', '1512.03385', 'Deep Residual Learning for Image Recognition', 'README.md'),
    'reviewkd': ('ReviewKD', '2104.09044', 'Distilling Knowledge via Knowledge Review', 'docs/baselines.md'),
    'rkd': ('RKD', '1904.05068', 'Relational Knowledge Distillation', 'docs/baselines.md'),
    'semi': ('Semi-supervised CDS', '2207.05306', 'Contrastive Deep Supervision', 'docs/semi_and_distill.md'),
    'simclr': ('SimCLR (mmcds)', '2002.05709', 'A Simple Framework for Contrastive Learning', 'README.md'),
    'sp': ('SP', '1907.09682', 'Similarity-Preserving Knowledge Distillation', 'docs/baselines.md'),
    'sskd': ('SSKD', '2006.07114', 'Knowledge Distillation Meets Self-Supervision', 'docs/baselines.md'),
    'standardized_kd': (
        'KD on standardised logits',
        '2403.01427',
        'Logit Standardization in Knowledge Distillation',
        'docs/baselines.md',
    ),
    'supcon': ('SupCon', '2004.11362', 'Supervised Contrastive Learning', 'README.md'),
    'uskd': ('USKD', '2303.13005', NKD_TITLE, 'docs/baselines.md'),
}
#: Collections that are trained with LARS instead of SGD.
LARS = ('byol', 'simclr', 'supcon')
#: Word in the name of a config: its data set.
DATA = {
    'cifar100': 'CIFAR-100',
    'cifar10': 'CIFAR-10',
    'in1k': 'ImageNet-1k',
    'fashion': 'Fashion-MNIST (embedded subset)',
    'emoji': 'Emoji (embedded)',
    'cub200': 'CUB-200-2011',
    'cars': 'Stanford Cars',
    'flowers': 'Oxford Flowers 102',
    'dogs': 'Stanford Dogs',
    'aircraft': 'FGVC Aircraft',
    'coco': 'COCO',
    'scenes': 'Fashion-Scenes',
}


def model_index(root: Path) -> dict[str, Any]:
    """Return collections and models of a folder that holds ``configs``."""
    collections = [
        {
            'Name': name,
            'Metadata': {'Training Techniques': ['LARS'] if folder in LARS else ['SGD with Momentum', 'Weight Decay']},
            'Paper': {'URL': f'https://arxiv.org/abs/{paper}', 'Title': title},
            'README': readme,
        }
        for folder, (name, paper, title, readme) in COLLECTIONS.items()
    ]
    models = []
    for path in sorted((root / 'configs').glob('[!_]*/*.py')):
        data = next(name for word, name in DATA.items() if word in path.stem)
        task = 'Object Detection' if path.parent.name == 'detection' else 'Image Classification'
        models.append(
            {
                'Name': f'{path.parent.name}_{path.stem}',
                'In Collection': COLLECTIONS[path.parent.name][0],
                'Metadata': {'Training Data': data},
                'Results': [{'Task': task, 'Dataset': data, 'Metrics': {}}],
                'Config': str(path.relative_to(root)),
            }
        )
    return {'Collections': collections, 'Models': models}


def to_text(root: Path) -> str:
    """Return the list as it stands in ``configs/metafile.yml``."""
    comment = '# Made by python -m mmcds.openmmlab.model_index; do not edit.\n'
    return comment + yaml.safe_dump(model_index(root), sort_keys=False, width=119)


if __name__ == '__main__':
    here = Path(__file__).resolve().parents[2]
    (here / 'configs' / 'metafile.yml').write_text(to_text(here))

"""Tables 1 to 9, Figures 2 to 5 and Sections 5.3 and 5.4 as cells; what we run beyond them has tables of its own."""

from collections.abc import Mapping
from typing import Any

from mmcds.core.errors import ConfigError
from mmcds.paper.cells import Cell, Method, Network
from mmcds.paper.numbers import NUMBERS

DEPTH_101 = {'backbone.depth': 101}
NETWORKS = {
    'resnet18': Network('ResNet-18', 'resnet18'),
    'resnet34': Network('ResNet-34', 'resnet18', options={'backbone.depth': 34}),
    'resnet50': Network('ResNet-50', 'resnet50'),
    'resnet101': Network('ResNet-101', 'resnet50', options=DEPTH_101),
    'resnext50': Network('ResNeXt-50 (32x4d)', 'resnext50_32x4d'),
    'resnext101': Network(
        'ResNeXt-101 (32x8d)',
        'resnext50_32x4d',
        options={**DEPTH_101, 'backbone.width_per_group': 8},
        repo_options={'backbone.width_per_group': 4},
    ),
    'wide_resnet50': Network('Wide ResNet-50-2', 'wide_resnet50_2'),
    'wide_resnet101': Network('Wide ResNet-101-2', 'wide_resnet50_2', options=DEPTH_101),
    'seresnet18': Network('SE-ResNet-18', 'seresnet18'),
    'seresnet50': Network('SE-ResNet-50', 'seresnet50'),
    'seresnet101': Network('SE-ResNet-101', 'seresnet50', options=DEPTH_101),
    'preact_resnet18': Network('PreAct ResNet-18', 'preact_resnet18'),
    'preact_resnet50': Network('PreAct ResNet-50', 'preact_resnet50'),
    'mobilenet_v1': Network('MobileNetV1', 'mobilenet_v1', (1, 2, 3, 4), residual=False),
    'mobilenet_v2': Network('MobileNetV2', 'mobilenet_v2', (1, 2, 4, 7), residual=False),
    'shufflenet_v1': Network('ShuffleNetV1', 'shufflenet_v1', (0, 1, 2), residual=False),
    'shufflenet_v2': Network('ShuffleNetV2', 'shufflenet_v2', (0, 1, 3), residual=False),
    # the network of --scale mini, whatever the cell's own
    'mini': Network('ResNet-10, 16 to 128 channels', 'resnet10w16'),
    # its teacher, trained on five times as many images
    'mini_teacher': Network('ResNet-18, 16 to 128 channels', 'resnet18w16'),
}
#: The ten networks of Tables 1 and 2, and those that Table 8 adds to them.
CIFAR_NETWORKS = (
    *('resnet18', 'resnet50', 'resnet101', 'resnext50', 'resnext101', 'wide_resnet50', 'wide_resnet101'),
    *('seresnet18', 'seresnet50', 'preact_resnet18'),
)
STUDENTS_ONLY = ('seresnet101', 'preact_resnet50', 'mobilenet_v1', 'mobilenet_v2', 'shufflenet_v1', 'shufflenet_v2')

BOTH = {'model.ce_views': (0, 1)}
#: Leaf of a method that distils, for the embedded images.
SMALL_STUDENT = '{}/resnet18w8s_fashion'
#: Methods that distil, beside CDS: folder of their leaves and title.
BASELINES = dict(
    kd=('kd', 'KD'),
    fitnet=('fitnet', 'FitNet'),
    at=('at', 'AT'),
    rkd=('rkd', 'RKD'),
    sp=('sp', 'SP'),
    crd=('crd', 'CRD'),
    cc=('cc', 'CC'),
    okd=('one', 'OKD (ONE)'),
    sskd=('sskd', 'SSKD'),
)
#: The same of methods that are in none of the paper's tables.
RIVALS = dict(
    reviewkd=('reviewkd', 'ReviewKD'),
    dkd=('dkd', 'DKD'),
    dist=('dist', 'DIST'),
    nkd=('nkd', 'NKD'),
    uskd=('uskd', 'USKD'),
    standardized_kd=('standardized_kd', 'KD on standardised logits'),
)
METHODS = {
    'plain': Method('plain', 'plain/{base}'),
    'dsn': Method('DSN', 'dsn/{base}'),
    'dks': Method('DKS', 'dks/{base}'),
    'dhm': Method('DHM', 'dhm/{base}'),
    'cds': Method('CDS', 'cds/{base}'),
    # what the second view alone gives; not in the paper
    'plain_both': Method(
        'plain, both views', 'cds/{base}', options={'model.supervisions': None, 'model.ce_views': (0, 1)}
    ),
    'cds_both': Method('CDS, cross-entropy on both views', 'cds/{base}', options=BOTH),
    'semi_plain': Method(
        'supervised',
        'semi/{base}-plain',
        'semi/resnet18w16s_fashion-plain',
        seed_options=('train_dataloader.dataset.seed',),
    ),
    'semi_cds': Method(
        'CDS, semi-supervised',
        'semi/{base}',
        'semi/resnet18w16s_fashion',
        seed_options=('train_dataloader.dataset.seed',),
    ),
    # the same without contrast and unlabelled images; not in the paper
    'semi_both': Method(
        'supervised, both views',
        'semi/{base}',
        'semi/resnet18w16s_fashion',
        options={
            'model.supervisions': None,
            'model.ce_views': (0, 1),
            'train_dataloader.batch_sampler.num_unlabelled': 0,
            'train_dataloader.batch_size': 64,
            'auto_scale_lr.base_batch_size': 64,
        },
        seed_options=('train_dataloader.dataset.seed',),
    ),
    'cds_distill': Method('CDS, distilled', 'distill/{base}', SMALL_STUDENT.format('distill')),
    'cds_distill_both': Method(
        'CDS, distilled, cross-entropy on both views', 'distill/{base}', SMALL_STUDENT.format('distill'), options=BOTH
    ),
    'cds_feature': Method('CDS and naive feature distillation', 'distill/{base}-feature'),
    **{
        name: Method(title, f'{folder}/{{base}}', SMALL_STUDENT.format(folder))
        for name, (folder, title) in {**BASELINES, **RIVALS}.items()
    },
    'sskd_teacher': Method(
        'SSKD, stage 1 of the teacher', 'sskd/{base}-teacher', f'{SMALL_STUDENT.format("sskd")}-teacher'
    ),
    'plain_autoaug': Method('plain, AutoAugment', 'plain/{base}-autoaug'),
    'cds_autoaug': Method('CDS, AutoAugment', 'cds/{base}-autoaug'),
    'supcon_encoder': Method('SupCon, encoder', 'supcon/{base}'),
    'supcon': Method('SupCon', 'supcon/{base}-linear'),
    'byol_pretrain': Method('BYOL, pre-training', 'byol/{base}'),
    'byol': Method('BYOL', 'byol/{base}-finetune'),
    'byol_dsn': Method('BYOL + DSN', 'byol/{base}-finetune-dsn'),
}
#: Methods that need a teacher.
TAUGHT = (
    *(name for name in (*BASELINES, *RIVALS) if name not in ('okd', 'uskd')),
    *('cds_distill', 'cds_distill_both', 'cds_feature'),
)
#: Data sets of Tables 5 and 6. Plain training and CDS have a leaf for each; the others train like the plain one.
FINE_GRAINED = ('cub200', 'cars', 'flowers', 'dogs', 'aircraft')
#: Detectors of Table 4 and how their configs start.
DETECTORS = {'Faster R-CNN': 'faster-rcnn', 'RetinaNet': 'retinanet'}
DEEP = ('plain', 'dsn', 'dks', 'dhm', 'cds')
#: Rows of the tables at mini scale beside the paper's own.
MINI_EXTRA = {
    **dict.fromkeys(('table1', 'table2', 'table3', 'figure4', 'figure5'), ('plain_both', 'cds_both')),
    'figure2': ('semi_both',),
    **dict.fromkeys(('table7', 'table8'), ('cc', 'okd', 'sskd', 'plain_both', 'cds', 'cds_distill_both')),
    'rivals': ('plain_both', 'cds_distill_both'),
}
#: Scales that stand for the paper's on a CPU, and their data set.
SMALL_SCALES = {'mini': 'fashion', 'mini-colour': 'emoji'}
#: Tables that have a mini scale; in colour, those that need no teacher and no unlabelled images.
MINI = (*MINI_EXTRA, 'figure3', 'ablations', 'sweeps')
MINI_COLOUR = (*('table1', 'table2', 'table3', 'figure3', 'figure4', 'figure5'), 'ablations', 'sweeps')
#: Those whose mini scale leaves out the cells with a teacher.
WITHOUT_TEACHER = ('figure3', 'ablations', 'sweeps')
#: Where the others have their small form.
NOT_MINI = {
    'table4': 'tools/scenes_transfer.py is its small form',
    'table5': 'the embedded images have no classes that differ in details',
    'table6': 'the embedded images have no classes that differ in details, and ImageNet no small form',
    'table9': 'its rows are recipes of 90 to 1,000 epochs of ImageNet, which differ in length and batch',
}
MINI_SOURCE = 'not in the paper: small network, embedded images'
NO_NUMBER = 'the paper gives no number'
BEYOND = 'not in the paper'
#: Numbers that the paper took over from others, as far as can be seen: (table, network, method) to whose they are.
QUOTED: Mapping[tuple[str, str, str], str] = {
    ('table1', 'resnet50', 'dks'): 'paper; Self-KD-Lib reports 80.75 for DKS, and 77.79 for plain',
    ('table3', 'resnet18', 'dsn'): 'quoted, it seems: equals plain deep supervision in the DKS paper',
    ('table3', 'resnet18', 'dks'): 'quoted, it seems: top-1 equals DKS README; its top-5 is 90.45',
    ('table3', 'resnet50', 'dks'): 'quoted, it seems: equals DKS README, whose baseline is 74.53',
    ('table3', 'resnet18', 'dhm'): 'quoted, it seems: equals DHM README',
    ('table3', 'resnet50', 'dhm'): 'quoted, it seems: equals DHM README',
    **{('table7', 'resnet18', name): 'quoted from SSKD (teacher ResNet-34)' for name in ('cc', 'okd', 'sskd')},
    ('table9', 'resnet50', 'plain_autoaug'): 'quoted, it seems',
    ('table9', 'resnet50', 'byol'): 'quoted, it seems',
}


def _cell(table: str, network: str, dataset: str, method: str, setting: str = '', **other) -> Cell:
    found = NUMBERS.get((table, network, dataset, method, setting), {})
    paper = {metric: value for metric, value in found.items() if value is not None}
    source = QUOTED.get((table, network, method), 'paper') if paper else NO_NUMBER
    return Cell(table, network, dataset, method, setting, **{'paper': paper, 'source': source, **other})


def _deep(table: str, networks: tuple[str, ...], dataset: str) -> list[Cell]:
    return [_cell(table, network, dataset, method) for network in networks for method in DEEP]


def _trained(network: str, dataset: str, method: str = 'cds') -> Cell:
    """Return the cell of Tables 1 to 3 that trains this network."""
    return _cell(dict(cifar100='table1', cifar10='table2', in1k='table3')[dataset], network, dataset, method)


def _rotated(teacher: Cell) -> Cell:
    """Return stage 1 of SSKD, which goes on from a trained teacher; no cell of the paper."""
    setting = '' if teacher.method == 'cds' else teacher.method
    return Cell(teacher.table, teacher.network, teacher.dataset, 'sskd_teacher', setting, source=BEYOND, start=teacher)


def _taught(method: str, teacher: Cell) -> Cell | None:
    """Return what has to be trained before a method, if anything."""
    if method == 'sskd':
        return _rotated(teacher)
    return teacher if method in TAUGHT else None


def _distill(table: str, networks: tuple[str, ...], dataset: str, baselines: tuple[str, ...]) -> list[Cell]:
    found = []
    for network in networks:
        quoted = ('cc', 'okd', 'sskd') if (table, network) == ('table7', 'resnet18') else ()
        for method in ('plain', *baselines, *quoted, 'cds_distill'):
            teacher = _trained('resnet50', dataset)
            if 'teacher ResNet-34' in QUOTED.get((table, network, method), ''):
                teacher = _trained('resnet34', dataset, 'plain')
            found.append(_cell(table, network, dataset, method, teacher=_taught(method, teacher)))
    return found


def _fine(table: str, finetuned: bool) -> list[Cell]:
    return [
        _cell(table, 'resnet50', dataset, method, start=_trained('resnet50', 'in1k', method) if finetuned else None)
        for dataset in FINE_GRAINED
        for method in DEEP
    ]


def _epochs(number: int, milestones: tuple[int, int]) -> dict:
    return {'train_cfg.max_epochs': number, 'param_scheduler.0.milestones': milestones}


def _supcon(setting: str, batch: int, epochs: int) -> Cell:
    """Return the cell of a linear classifier on an encoder, which is trained first; no cell of the paper itself."""
    options = {
        'train_dataloader.batch_size': batch // 8,
        'optim_wrapper.optimizer.lr': 4.8 * batch / 4096,
        'auto_scale_lr.base_batch_size': batch,
        'train_cfg.max_epochs': epochs,
        'train_cfg.val_interval': epochs,
        'param_scheduler.1.T_max': epochs - 10,
        'param_scheduler.1.end': epochs,
    }
    encoder = Cell('table9', 'resnet50', 'in1k', 'supcon_encoder', setting, options, source=BEYOND)
    return _cell('table9', 'resnet50', 'in1k', 'supcon', setting, start=encoder)


def _table9() -> list[Cell]:
    """Return the rows under the paper's names; Baseline2's learning rate, which it leaves open, follows the batch."""

    def cell(method: str, setting: str, **other) -> Cell:
        return _cell('table9', 'resnet50', 'in1k', method, setting, **other)

    byol = Cell('table9', 'resnet50', 'in1k', 'byol_pretrain', '1000 epochs', source=BEYOND)
    large = {
        'train_dataloader.batch_size': 512,
        'optim_wrapper.optimizer.lr': 1.6,
        'auto_scale_lr.base_batch_size': 4096,
    }
    return [
        cell('plain', 'Baseline1'),
        cell('plain_autoaug', 'Baseline2', options={**_epochs(270, (90, 180)), **large}),
        _supcon('SupCon1', 6144, 350),
        _supcon('SupCon2', 512, 350),
        _supcon('SupCon3', 6144, 100),
        cell('byol', 'BYOL', start=byol),
        cell('byol_dsn', 'BYOL+DSN', start=byol),
        cell('cds', 'Ours1'),
        cell('cds_distill', 'Ours2', teacher=_trained('resnet50', 'in1k')),
        cell('cds_autoaug', 'Ours3', options=_epochs(350, (117, 233))),
    ]


def _figure2() -> list[Cell]:
    return [
        _cell(
            'figure2',
            'resnet18',
            dataset,
            method,
            setting=f'{share} % labels',
            options={'train_dataloader.dataset.fraction': share / 100},
        )
        for dataset in ('cifar10', 'cifar100')
        for share in (10, 20, 30, 40)
        for method in ('semi_plain', 'semi_cds')
    ]


#: Taps of a given number of heads, the deepest first; the fifth is the stem, whose output is that of ``relu``.
HEADS: Mapping[int, tuple] = {1: (3,), 2: (2, 3), 3: (1, 2, 3), 4: (0, 1, 2, 3), 5: ('relu', 0, 1, 2, 3)}
TAPS = 'model.supervisions.cds.taps'


def _figure3() -> list[Cell]:
    """One to five heads on ResNet-18 and 50, without a teacher and distilled; the axis of the figure fits the latter.

    The teacher is the ResNet-50 with as many heads.
    """
    found = []
    for network in ('resnet18', 'resnet50'):
        for method in ('cds', 'cds_distill'):
            for count, taps in HEADS.items():
                setting = f'{count} head{"s" * (count > 1)}'
                same: dict[str, Any] = dict(setting=setting, options={TAPS: taps}, swept={'heads': count})
                teacher = None if method == 'cds' else _cell('figure3', 'resnet50', 'cifar100', 'cds', **same)
                found.append(_cell('figure3', network, 'cifar100', method, teacher=teacher, **same))
    return found


#: The four placements of Section 5.4, with three heads each. The paper does not say where exactly its heads sit;
#: these are our reading of the names, on the five places that every residual network has: stem and stages.
PLACEMENTS: Mapping[str, tuple] = {
    'uniform': ('relu', 1, 3),
    'downsampling': (0, 1, 2),  # before every layer that halves the map
    'shallow': ('relu', 0, 1),
    'deep': (1, 2, 3),
}
#: What the common setting of all ablations, the official preset, has on the axes of the sweeps.
COMMON = {'lambda': 0.1, 'temperature': 0.07}
SWEEPS = {
    'lambda': ('model.supervisions.cds.loss.loss_weight', (0.01, 0.03, 0.3, 1.0)),
    'temperature': ('model.supervisions.cds.loss.temperature', (0.03, 0.1, 0.2, 0.5)),
}


def _ablations() -> list[Cell]:
    """Return the numbers of Sections 5.3 and 5.4: feature distillation and four placements, on ResNet-50."""
    placed = [
        _cell('ablations', 'resnet50', 'cifar100', 'cds', f'{name} taps', options={TAPS: taps})
        for name, taps in PLACEMENTS.items()
    ]
    teacher = _trained('resnet50', 'cifar100')
    return [*placed, _cell('ablations', 'resnet50', 'cifar100', 'cds_feature', teacher=teacher)]


def _beyond(table: str, network: str, dataset: str, method: str, setting: str = '', **other) -> Cell:
    return Cell(table, network, dataset, method, setting, **{'source': BEYOND, **other})


def _networks() -> list[Cell]:
    """Return deep supervision of the networks that are in Table 8 alone, and the places that Table 7 leaves empty."""
    deep = [
        _beyond('networks', network, dataset, method)
        for dataset in ('cifar100', 'cifar10')
        for network in STUDENTS_ONLY
        for method in DEEP
    ]
    empty = [('fitnet', 'resnet18')]
    empty += [(method, network) for method in ('fitnet', 'cc', 'okd', 'sskd') for network in ('resnet34', 'resnet50')]
    teacher = _trained('resnet50', 'in1k')
    distilled = [_beyond('networks', net, 'in1k', method, teacher=_taught(method, teacher)) for method, net in empty]
    return deep + distilled


def _rivals() -> list[Cell]:
    """Return every method that distils, old and new, with its default weight, on ResNet-18 and CIFAR-100."""
    teacher = _trained('resnet50', 'cifar100')
    return [
        _beyond('rivals', 'resnet18', 'cifar100', method, teacher=_taught(method, teacher))
        for method in ('plain', *BASELINES, *RIVALS, 'cds_distill')
    ]


def _sweeps() -> list[Cell]:
    """Return the cells of CDS on ResNet-18, changed in one thing at a time; the first is the common setting."""

    def cds(setting: str, options: Mapping[str, Any], swept: Mapping[str, float] = {}) -> Cell:
        return _beyond('sweeps', 'resnet18', 'cifar100', 'cds', setting, options=options, swept=swept)

    return [
        cds('official', {}, COMMON),
        cds('SimCLR', {'model.supervisions.cds.loss.type': 'NTXentLoss'}),
        *(cds(f'{form} heads', {'model.supervisions.cds.neck.head': form}) for form in ('sepconv+mlp', 'mlp')),
        *(
            cds(f'{axis} {value:g}', {option: value}, {axis: value})
            for axis, (option, values) in SWEEPS.items()
            for value in values
        ),
        _beyond('sweeps', 'resnet18', 'cifar100', 'cds_feature', teacher=_trained('resnet50', 'cifar100')),
    ]


EVALUATORS = [dict(type='Accuracy', topk=(1, 5)), dict(type='CalibrationError')]
#: Settings that measure calibration with every validation.
CALIBRATED = {'val_evaluator': EVALUATORS, 'test_evaluator': EVALUATORS}

TABLES: dict[str, tuple[str, list[Cell]]] = {
    'table1': ('Deep supervision on CIFAR-100', _deep('table1', CIFAR_NETWORKS, 'cifar100')),
    'table2': ('Deep supervision on CIFAR-10', _deep('table2', CIFAR_NETWORKS, 'cifar10')),
    'table3': ('Deep supervision on ImageNet', _deep('table3', ('resnet18', 'resnet34', 'resnet50'), 'in1k')),
    'table4': (
        'Detection on COCO with pre-trained backbones',
        [
            _cell('table4', 'resnet50', 'coco', method, setting=detector, start=_trained('resnet50', 'in1k', method))
            for detector in DETECTORS
            for method in DEEP
        ],
    ),
    'table5': ('Fine-grained classification from scratch', _fine('table5', finetuned=False)),
    'table6': ('Fine-grained classification, finetuned', _fine('table6', finetuned=True)),
    'table7': (
        'Distillation on ImageNet',
        _distill(
            'table7',
            ('resnet18', 'resnet34', 'resnet50'),
            'in1k',
            ('kd', 'at', 'rkd', 'sp', 'crd'),
        ),
    ),
    'table8': (
        'Distillation on CIFAR',
        [
            found
            for dataset in ('cifar100', 'cifar10')
            for found in _distill(
                'table8',
                (*CIFAR_NETWORKS, *STUDENTS_ONLY),
                dataset,
                ('kd', 'fitnet', 'at', 'rkd', 'sp', 'crd'),
            )
        ],
    ),
    'table9': ('Against contrastive pre-training', _table9()),
    'figure2': ('Semi-supervised training', _figure2()),
    'figure3': ('Number of heads', _figure3()),
    'figure4': ('Training curves', [_cell('figure4', 'resnet18', 'cifar100', method) for method in ('plain', 'cds')]),
    'figure5': (
        'Calibration',
        [_cell('figure5', 'resnet18', 'cifar100', method, options=CALIBRATED) for method in ('plain', 'cds')],
    ),
    'ablations': ('Feature distillation (Section 5.3) and placement of the heads (Section 5.4)', _ablations()),
    'networks': ('Not in the paper: further networks and methods', _networks()),
    'sweeps': ('Not in the paper: loss, heads, weight and temperature', _sweeps()),
    'rivals': ('Not in the paper: rivals of today', _rivals()),
}


def cells(table: str, scale: str = 'paper') -> list[Cell]:
    """Return the cells of a table.

    Args:
        table: ``table1`` to ``table9``, ``figure2`` to ``figure5``, ``ablations``, ``networks``, ``sweeps``,
            ``rivals``.
        scale: ``'paper'``, or ``'mini'``: one network and the embedded images stand for all, so each method and
            setting occurs once, without the paper's numbers; the tables of deep supervision and distillation and
            Figures 4 and 5 get rows for cross-entropy on both views; Figure 3 and the ablations are without teachers.
            ``'mini-colour'`` is the same on the embedded emoji, without tables that need a teacher.

    Raises:
        ConfigError: If there is no such table.
    """
    if table not in TABLES:
        raise ConfigError(f'there is no {table!r}; choose one of {", ".join(TABLES)}.')
    found = TABLES[table][1]
    if scale == 'paper':
        return found
    small: dict[str, Cell] = {}
    dataset, here = SMALL_SCALES[scale], table in (MINI if scale == 'mini' else MINI_COLOUR)
    reason = NOT_MINI.get(table, f'{table} has no {scale} scale')
    for each in found:
        if table in WITHOUT_TEACHER and each.teacher:
            continue
        same = dict(setting=each.setting, options=each.options, swept=each.swept)
        same['missing'] = each.missing or ('' if here else reason)
        mini = _mini(table, each.method, dataset, **same)
        small.setdefault(mini.name, mini)
    for method in MINI_EXTRA.get(table, ()) if here else ():
        for each in {each.setting: each for each in found}.values():
            setting = each.setting if table == 'figure2' else ''
            mini = _mini(table, method, dataset, setting=setting, options=each.options)
            small.setdefault(mini.name, mini)
    return list(small.values())


def _mini(table: str, method: str, dataset: str, **other) -> Cell:
    return Cell(table, 'mini', dataset, method, source=MINI_SOURCE, teacher=_taught(method, MINI_TEACHER), **other)


#: Teacher of the mini scale.
MINI_TEACHER = Cell('table8', 'mini_teacher', 'fashion', 'cds', source=MINI_SOURCE)


def cell(name: str, scale: str = 'paper') -> Cell:
    """Find a cell by its name, such as ``table1/resnet18_cifar100/cds``.

    Raises:
        ConfigError: If there is no such cell.
    """
    found = {each.name: each for each in cells(name.split('/')[0], scale)}
    for each in list(found.values()):  # what is trained for others and is no cell of the paper
        found.update({other.name: other for other in each.first if other.name not in found})
    if name not in found:
        import difflib

        near = difflib.get_close_matches(name, found, n=3, cutoff=0)
        raise ConfigError(f'there is no cell {name!r}; similar names: {", ".join(near)}.')
    return found[name]

"""The arms that are compared, the points at which they are, and the config of every run.

1. A *point* is a data set: images, classes, and what its labels are worth.
2. An *arm* is a way to train on it, with one setting that is chosen among four values.
3. The learning rate of arms that choose something else is the one that cross-entropy alone has chosen.
4. Every value is tried with the seeds of :data:`TRIAL_SEEDS` and measured on held-out training images; the value with
   the highest mean is chosen.
5. With the chosen value the arm is trained with the seeds of :data:`FINAL_SEEDS` and measured on the test images; a
   method of others with its published weights, too.

All runs of a point have the same network, the same images in a step and the same number of steps. They compute in
bfloat16, which takes two thirds of the time on the CPUs that know it.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config, ConfigDict
from mmpretrain.registry import MODELS

from mmcds.core.errors import ConfigError
from mmcds.paper.compose import compose, file, read, read_network, take_method
from mmcds.paper.tables import METHODS, MINI_TEACHER, NETWORKS, TAUGHT, cell

STEPS, BATCH = 1000, 64
TRIAL_SEEDS = (0, 1)
FINAL_SEEDS = (10, 11, 12, 13, 14)
#: Embedded training images of Fashion-MNIST that are held out from all trainings: the last ones.
HELD_OUT = 1000
#: The arm that others are compared with, and that gives them their learning rate.
REFERENCE = 'both'
#: Where config and weights of the rivals' teacher are put, which has seen no held-out image; its number of images.
TEACHER, TEACHER_IMAGES = 'work_dirs/study/networks/teacher', 4000


@dataclass(frozen=True)
class Point:
    """A data set of the study.

    Attributes:
        name: Short name.
        title: For people.
        leaf: Config that it is made from.
        images: Training images.
        classes: Number of classes.
        options: Settings of all three loaders' data sets.
        noise: Share of the training labels that is wrong.
        labelled: Share of the training images whose label is known.
        arms: Names of the arms that are compared at it.
        reference: The arm that the others are compared with.
        rate: Point and arm whose learning rate the arms have that choose none; empty for the reference here.
    """

    name: str
    title: str
    leaf: str
    images: int
    classes: int
    options: Mapping[str, Any] = field(default_factory=dict)
    noise: float = 0.0
    labelled: float = 1.0
    arms: tuple[str, ...] = ('one', 'both', 'supcon')
    reference: str = REFERENCE
    rate: tuple[str, str] | tuple[()] = ()

    @property
    def per_class(self) -> float:
        """Return the training images of a class, on average."""
        return self.images / self.classes


def _grey(images: int, name: str = '', **other: Any) -> Point:
    title = f'grey, 10 classes, {images:,} images'
    return Point(name or f'grey-{images}', other.pop('title', title), 'cds/resnet18w16_fashion', images, 10, **other)


def _colour(classes: str, number: int, **other: Any) -> Point:
    title = f'colour, {number:,} classes, 1,973 images'
    return Point(f'colour-{number}', title, 'cds/resnet10w16_emoji', 1973, number, dict(classes=classes), **other)


#: Arms that have every label, all compared in grey and in colour.
_EVERY = ('one', 'both', 'supcon', 'released', 'light', 'last', 'early', 'ntxent', 'sincere', 'dsn')
#: Methods of Table 8 and later ones, and what is multiplied to choose their weight.
_RIVALS: Mapping[str, tuple[str, ...]] = dict(
    kd=('kd.loss_weight',),
    fitnet=('fitnet.loss_weight',),
    at=('at.loss_weight',),
    rkd=('rkd.distance_weight', 'rkd.angle_weight'),
    sp=('sp.loss_weight',),
    crd=('crd.loss_weight',),
    cc=('cc.loss_weight',),
    okd=('one.loss_weight',),
    reviewkd=('reviewkd.loss_weight',),
    dkd=('dkd.alpha', 'dkd.beta'),
    dist=('dist.beta', 'dist.gamma'),
    nkd=('nkd.gamma',),
    uskd=('uskd.alpha', 'uskd.beta', 'uskd.mu'),
    standardized_kd=('standardized_kd.loss_weight',),
    cds_distill=('cds.loss.loss_weight', 'embedding.loss_weight', 'logit.loss_weight'),
    cds_distill_both=('cds.loss.loss_weight', 'embedding.loss_weight', 'logit.loss_weight'),
)
_NOISY, _SEMI = ('both', 'supcon'), ('both', 'supcon', 'semi', 'eq6')
POINTS = {
    point.name: point
    for point in (
        _colour('subgroup', 58, arms=_EVERY),
        _grey(1000, arms=_EVERY),
        _colour('concept', 1096),
        _colour('category', 8),
        _grey(300),
        _grey(4000),
        _grey(1000, 'noise-20', noise=0.2, arms=_NOISY, title='grey, 1,000 images, 20 % of the labels wrong'),
        _grey(1000, 'noise-40', noise=0.4, arms=_NOISY, title='grey, 1,000 images, 40 % of the labels wrong'),
        _grey(4000, 'semi-25', labelled=0.25, arms=_SEMI, title='grey, 1,000 labelled of 4,000 images'),
        _grey(
            1000,
            'rivals',
            arms=tuple(_RIVALS),
            reference='kd',
            rate=('grey-1000', 'one'),
            title='rivals: grey, 1,000 images, teacher of 4,000',
        ),
    )
}


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        name: Short name.
        title: For people.
        setting: Name of what is chosen.
        values: What is tried.
        keys: Keys of the config that get the value, or are multiplied by it where there is a published one.
        model: What it adds to the model of plain training on both views.
        views: How many views the network sees.
        unlabelled: Whether it sees images without label, where a point has some.
        published: The value that is measured beside the chosen one, of a method of others, which is named as the
            table ``rivals`` names it; None for arms of our own.
    """

    name: str
    title: str
    setting: str
    values: tuple[float, ...]
    keys: tuple[str, ...]
    model: Mapping[str, Any] = field(default_factory=dict)
    views: int = 2
    unlabelled: bool = False
    published: float | None = None

    @property
    def taught(self) -> bool:
        """Return whether it has a teacher."""
        return self.name in TAUGHT


RATE = 'optim_wrapper.optimizer.lr'
RATES = (0.1, 0.2, 0.4, 0.8)
WEIGHTS = (0.1, 0.3, 1.0, 3.0)


def _contrast(
    name: str,
    title: str,
    loss: str = 'SupConLoss',
    taps: tuple[int, ...] = (0, 1, 2, 3),
    head: str = 'sepconv',
    unlabelled_weight: float | None = None,
    ce_views: tuple[int, ...] = (0, 1),
    **other: Any,
) -> Arm:
    cds: dict[str, Any] = dict(
        type='ContrastiveSupervision',
        taps=taps,
        neck=dict(type='CDSNeck', head=head),
        loss=dict(type=loss, temperature=0.07),
    )
    if unlabelled_weight is not None:
        cds['unlabelled_weight'] = unlabelled_weight
    weight = ('model.supervisions.cds.loss.loss_weight',)
    model = dict(supervisions=dict(cds=cds), ce_views=ce_views)
    return Arm(name, title, 'weight', WEIGHTS, weight, model, **other)


def _rival(name: str) -> Arm:
    keys = tuple(f'model.supervisions.{key}' for key in _RIVALS[name])
    views = 2 if name.startswith('cds') else 1
    return Arm(name, METHODS[name].title, 'times its weights', WEIGHTS, keys, views=views, published=1.0)


_DSN = dict(type='DSNSupervision', taps=(0, 1, 2), trunk='sepconv')
ARMS = {
    arm.name: arm
    for arm in (
        Arm('one', 'cross-entropy, one view', 'lr', RATES, (RATE,), dict(ce_views=(0,)), views=1),
        Arm(REFERENCE, 'cross-entropy, both views', 'lr', RATES, (RATE,)),
        _contrast('supcon', 'both views + CDS (SupCon)'),
        _contrast('released', 'CDS as released, cross-entropy on view 0', ce_views=(0,)),
        _contrast('light', 'both views + CDS (SupCon), light heads', head='mlp'),
        _contrast('last', 'both views + SupCon on the last stage alone', taps=(3,)),
        _contrast('early', 'both views + CDS (SupCon), all stages but the last', taps=(0, 1, 2)),
        _contrast('ntxent', 'both views + CDS (NT-Xent)', 'NTXentLoss'),
        _contrast('sincere', 'both views + CDS (SINCERE)', 'SINCERELoss'),
        Arm(
            'dsn',
            'both views + DSN',
            'weight',
            WEIGHTS,
            ('model.supervisions.dsn.loss_weight',),
            dict(supervisions=dict(dsn=_DSN)),
        ),
        _contrast('semi', 'both views + CDS, all images in one contrast', unlabelled=True),
        _contrast(
            'eq6',
            'both views + CDS, Eq. 6 as written',
            unlabelled=True,
            unlabelled_weight=1.0,
        ),
        *map(_rival, _RIVALS),
    )
}


def arms_of(point: Point) -> list[Arm]:
    """Return the arms of a point, the reference among them."""
    return [ARMS[name] for name in point.arms]


def chosen(table: Mapping[str, Any], names: str, asked: str) -> list:
    """Return entries of a table by comma separated names, or all of them.

    Raises:
        ConfigError: If there is none of a name.
    """
    if names == 'all':
        return list(table.values())
    for name in names.split(','):
        if name not in table:
            raise ConfigError(f'{asked} {name!r} is not known. Choose among {", ".join(table)}.')
    return [table[name] for name in names.split(',')]


def compose_run(point: Point, arm: Arm, rate: float, value: float, test: bool) -> Config:
    """Compose the config of a run.

    Args:
        point: Where.
        arm: How to train.
        rate: Learning rate, where the arm does not choose it.
        value: Of the arm's setting.
        test: Measure on the test images, or on the held-out ones.
    """
    config = read(file(point.leaf))
    config.model.backbone = read_network(NETWORKS['mini'], small=True).backbone
    config.model.update(dict(supervisions=None, ce_views=(0, 1)))
    config.model.update(arm.model)
    if arm.published is not None:
        _take_rival(config.model, arm)
    config.model.head.num_classes = config.data_preprocessor.num_classes = point.classes
    _choose_images(config, point, arm, test)
    per_epoch = round(point.images * point.labelled) // BATCH
    epochs = round(STEPS / per_epoch)
    if point.labelled < 1:
        config.train_dataloader.batch_sampler.epoch = per_epoch
    config.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    config.param_scheduler[1].end = epochs
    config.val_evaluator = [dict(type='Accuracy', topk=(1,)), dict(type='CalibrationError')]
    config.test_evaluator = config.val_evaluator
    config.default_hooks.update(report=None, progress=None)
    config.default_hooks.checkpoint.update(interval=epochs, save_best=None)
    config.optim_wrapper.type = 'BF16OptimWrapper'
    times = [1.0 if arm.published is None else _published(config, key) for key in arm.keys]
    values = {key: round(each * value, 9) for key, each in zip(arm.keys, times, strict=True)}
    config.merge_from_dict({RATE: rate, **values})
    return config


def _take_rival(model: ConfigDict, arm: Arm) -> None:
    """Write a method as the mini scale of the table ``rivals`` has it into a model, with the teacher of the study."""
    model.ce_views = (0,)
    take_method(model, compose(cell(f'rivals/mini_fashion/{arm.name}', 'mini')).model)
    if arm.taught:
        place_teacher(model, TEACHER)


def place_teacher(model: ConfigDict, place: str) -> None:
    """Let a model read its teacher from ``PLACE.py`` and ``PLACE.pth``."""
    model.teacher.update(config=f'{place}.py', checkpoint=f'{place}.pth')


def _published(config: Config, key: str) -> float:
    """Return the value of a key of a config, or the default of the class where the config does not say it."""
    *path, last = key.split('.')
    node = config
    for part in path:
        node = node[part]
    return node[last] if last in node else inspect.signature(MODELS.get(node.type)).parameters[last].default


def compose_teacher() -> Config:
    """Compose the training of the rivals' teacher: as the mini scale has it, without the held-out images."""
    config = compose(MINI_TEACHER)
    config.train_dataloader.dataset.indices = TEACHER_IMAGES
    config.optim_wrapper.type = 'BF16OptimWrapper'
    return config


def _choose_images(config: Config, point: Point, arm: Arm, test: bool) -> None:
    """Let the loaders of a config read the images of a point, in as many views as the arm has."""
    train = config.train_dataloader
    train.dataset.pipeline[1].views = train.dataset.pipeline[1].views[: arm.views]
    grey = train.dataset.type == 'EmbeddedFashionMNIST'
    if grey:
        train.dataset.indices = point.images
        config.val_dataloader.dataset.update({} if test else dict(split='train', test_mode=False, indices=-HELD_OUT))
    else:
        config.val_dataloader.dataset.split = 'test' if test else 'val'
        for loader in (train, config.val_dataloader):
            loader.dataset.update(point.options)
    config.val_dataloader.num_workers = 0
    config.test_dataloader = config.val_dataloader
    if point.noise:
        train.dataset = dict(type='NoisyLabels', share=point.noise, dataset=train.dataset)
    if point.labelled < 1:
        train.dataset = dict(type='PartiallyLabelledDataset', fraction=point.labelled, dataset=train.dataset)
        unlabelled = BATCH // 2 if arm.unlabelled else 0
        train.update(batch_size=BATCH + unlabelled, drop_last=False)
        train.batch_sampler = dict(type='SemiBatchSampler', num_unlabelled=unlabelled)
        config.auto_scale_lr.base_batch_size = BATCH + unlabelled


def fingerprint(config: Config) -> str:
    """Return eight hexadecimal digits that are the same for the same config."""
    text = json.dumps(config.to_dict(), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]

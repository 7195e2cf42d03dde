"""Refuse a config of a wrong structure: other kinds of values than a setting takes, unknown classes, unknown keywords.

Steps:

1. What stands at the top has the kind that :data:`KINDS` says.
2. Whatever describes an object (``dict(type=...)``) is found by where it stands: :data:`PLACES` says which registry
   the name of its class belongs to.
3. The class takes all keywords that are given, and each value fits what the signature says of it. A class that passes
   further keywords on is asked for those of its base classes too.
"""

import collections.abc
import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from mmengine import registry
from mmengine.config import Config
from mmengine.registry import DefaultScope, Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop, ValLoop
from torch.utils.data import DataLoader

from mmcds.cli.check_values import check_number, check_whole
from mmcds.core.errors import ConfigError, did_you_mean
from mmcds.openmmlab.teacher import LoadedTeacher
from mmcds.views.preprocessor import CDSDataPreprocessor

NONE = type(None)
#: Kinds of the settings at the top of a config, and how they are called.
KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    'model': ((Mapping,), 'a dict'),
    **dict.fromkeys(
        (
            'train_dataloader',
            'val_dataloader',
            'test_dataloader',
            'train_cfg',
            'val_cfg',
            'test_cfg',
            'optim_wrapper',
            'data_preprocessor',
            'default_hooks',
            'visualizer',
            'env_cfg',
            'randomness',
            'auto_scale_lr',
            'log_processor',
            'tta_model',
        ),
        ((Mapping, NONE), 'a dict or None'),
    ),
    **dict.fromkeys(
        ('param_scheduler', 'val_evaluator', 'test_evaluator'),
        ((Mapping, list, tuple, NONE), 'a dict, a list of dicts or None'),
    ),
    'custom_hooks': ((list, tuple, NONE), 'a list of dicts or None'),
    'default_scope': ((str, NONE), "the name of a library, such as 'mmpretrain'"),
    'load_from': ((str, NONE), 'a path or None'),
    'resume': ((bool,), 'True or False'),
    'work_dir': ((str, NONE), 'a path or None'),
}
#: Settings of which all or none are there.
TOGETHER = (
    ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    ('val_dataloader', 'val_cfg', 'val_evaluator'),
    ('test_dataloader', 'test_cfg', 'test_evaluator'),
)
#: Registries of the classes that a setting names, by its key or, in a list or a table, by the key of that.
PLACES: dict[str, Registry] = {
    **dict.fromkeys(
        ('model', 'backbone', 'neck', 'head', 'loss', 'data_preprocessor', 'supervisions'), registry.MODELS
    ),
    'dataset': registry.DATASETS,
    **dict.fromkeys(('sampler', 'batch_sampler'), registry.DATA_SAMPLERS),
    **dict.fromkeys(('collate_fn', 'worker_init_fn'), registry.FUNCTIONS),
    **dict.fromkeys(('pipeline', 'transforms', 'views'), registry.TRANSFORMS),
    **dict.fromkeys(('default_hooks', 'custom_hooks'), registry.HOOKS),
    'optim_wrapper': registry.OPTIM_WRAPPERS,
    'optimizer': registry.OPTIMIZERS,
    'param_scheduler': registry.PARAM_SCHEDULERS,
    **dict.fromkeys(('val_evaluator', 'test_evaluator'), registry.METRICS),
    'visualizer': registry.VISUALIZERS,
    'vis_backends': registry.VISBACKENDS,
}
#: Of these the class is known without a name.
NAMELESS = ('optim_wrapper', 'data_preprocessor', 'neck', 'loss', 'val_evaluator', 'test_evaluator')
#: Where a name can mean another registry: samplers of boxes, for one, stand in a detector.
WITHIN = {'sampler': 'dataloader', 'batch_sampler': 'dataloader', 'dataset': 'data', 'optimizer': 'optim_wrapper'}
#: Settings that are objects, or lists of some.
OBJECTS: dict[str, tuple[type, ...]] = {
    'pipeline': (list, tuple),
    'transforms': (list, tuple, Mapping),
    'dataset': (Mapping,),
    'optimizer': (Mapping,),
    'backbone': (Mapping,),
    'sampler': (Mapping, NONE),
    'batch_sampler': (Mapping, NONE),
    'supervisions': (Mapping, NONE),
}
#: Keys that builders take out before they call the class.
BUILDERS = ('type', '_scope_', '_delete_', 'convert_to_iter_based', 'priority', 'constructor', 'paramwise_cfg')

#: Keywords whose annotations say less than they take: 'dynamic' or a number, True or 'qv_bias', a dict or several.
FREE = ('loss_scale', 'bias', 'init_cfg')
#: Keywords with numbers from 0 to 1.
PROBABILITIES = ('prob', 'flip_prob', 'erase_prob', 'drop_path_rate')
#: Keywords of a loader.
LOADER = (
    *(key for key in inspect.signature(DataLoader.__init__).parameters if key != 'self'),
    'num_batch_per_epoch',
    'on_device',
)
#: Keywords with numbers from 1 on, and the ends of the names of others.
WIDTHS = ('in_channels', 'out_channels', 'base_channels', 'stem_channels', 'feat_channels')
SIZES = ('num_classes', 'num_stages', 'depth', 'embed_dims', 'num_layers', 'num_heads', 'crop_size', 'topk')


def check_structure(config: Config) -> None:
    """Check the whole config.

    Raises:
        ConfigError: Naming the setting, its value and the fix.
    """
    for name, (kinds, words) in KINDS.items():
        if name in config and not isinstance(config[name], kinds):
            raise ConfigError(f'{name} is {config[name]!r:.80}. Set it to {words}.')
    for names in TOGETHER:
        there = [name for name in names if config.get(name) is not None]
        if 0 < len(there) < len(names):
            lacking = next(name for name in names if name not in there)
            raise ConfigError(f'{lacking} is missing beside {there[0]}. Give all of {", ".join(names)}, or none.')
    check_tables(config)
    check_classifier(config)
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmpretrain')):
        for name in config:
            if name in KINDS:
                check_value(config[name], name, PLACES.get(name))


def check_tables(config: Config) -> None:
    """Check settings at the top that name no class: loaders, loops, randomness, environment."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if config.get(name) is not None:
            if 'dataset' not in config[name]:
                raise ConfigError(f'{name} has no dataset. Add dataset=dict(type=...), or set {name} to None.')
            check_table(name, config[name], LOADER)
    if config.get('randomness') is not None:
        check_keywords(config.randomness, 'randomness', Runner.set_randomness)
        if 'seed' not in config.randomness:
            raise ConfigError('randomness has no seed. Add seed=..., or seed=None to draw one.')
    wrapper = config.get('optim_wrapper')
    if wrapper is not None and 'optimizer' not in wrapper and 'constructor' not in wrapper:
        raise ConfigError('optim_wrapper has no optimizer. Add optimizer=dict(type=...).')
    check_train_loop(config.get('train_cfg') or {})
    for name, loop in (('val_cfg', ValLoop), ('test_cfg', TestLoop)):
        if 'type' not in (config.get(name) or {}):
            check_keywords(config.get(name) or {}, name, loop, ('fp16',))
    check_table('auto_scale_lr', config.get('auto_scale_lr') or {}, ('enable', 'base_batch_size'))
    check_table('env_cfg', config.get('env_cfg') or {}, ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'))


def check_classifier(config: Config) -> None:
    """Check preprocessor and teacher of our classifier, which need no type."""
    if str(config.model.get('type')).rpartition('.')[2] != 'CDSClassifier':
        return
    preprocessor, teacher = config.get('data_preprocessor') or {}, config.model.get('teacher')
    if 'type' not in preprocessor:
        check_keywords(preprocessor, 'data_preprocessor', CDSDataPreprocessor)
    if teacher is None:
        return
    if not isinstance(teacher, Mapping):
        raise ConfigError(f'model.teacher is {teacher!r:.80}. Set it to dict(config=..., checkpoint=...).')
    check_keywords(teacher, 'model.teacher', LoadedTeacher)


def check_value(value: Any, name: str, place: Registry | None) -> None:
    """Check a setting and everything within it.

    Args:
        value: Of the setting.
        name: With the dots before it.
        place: Registry of the class that it names, if it describes an object.
    """
    key = name.rpartition('.')[2]
    if place is not None and key in OBJECTS and not isinstance(value, OBJECTS[key]):
        lists = list in OBJECTS[key]
        raise ConfigError(f'{name} is {value!r:.80}. Set it to {"a list of dicts" if lists else "a dict"}.')
    if isinstance(value, Mapping):
        table = key in ('default_hooks', 'supervisions')
        if place is not None and not table:
            check_object(value, name, place)
        for inner in value:
            if table and value[inner] is not None and not isinstance(value[inner], Mapping):
                raise ConfigError(f'{name}.{inner} is {value[inner]!r:.80}. Set it to a dict with a type, or to None.')
            if inner != 'paramwise_cfg':  # a table by the names of parameters
                check_value(value[inner], f'{name}.{inner}', place if table else place_of(str(inner), name))
    elif isinstance(value, list | tuple):
        listed = key in ('pipeline', 'transforms', 'views', 'custom_hooks', 'param_scheduler', 'vis_backends')
        for number, inner in enumerate(value):
            nested = isinstance(inner, list | tuple)
            if listed and place is not None and not nested and not isinstance(inner, Mapping) and not callable(inner):
                raise ConfigError(f'{name}.{number} is {inner!r:.80}. Set it to a dict with a type.')
            inner_name = f'{name}.{number}'
            if nested and listed:
                for step, each in enumerate(inner):
                    check_step(each, f'{inner_name}.{step}', place)
            else:
                check_value(inner, inner_name, place)
    elif place is registry.FUNCTIONS and value is not None and not callable(value):
        raise ConfigError(f'{name} is {value!r:.80}. Set it to a dict with a type.')


def check_step(value: Any, name: str, place: Registry | None) -> None:
    """Check a transform within one of several pipelines."""
    if not isinstance(value, Mapping):
        raise ConfigError(f'{name} is {value!r:.80}. Set it to a dict with a type.')
    check_value(value, name, place)


def place_of(key: str, name: str) -> Registry | None:
    """Return the registry that a key within a setting stands for."""
    if key in WITHIN and WITHIN[key] not in name:
        return None
    return PLACES.get(key) if key not in KINDS or key in ('model', 'data_preprocessor') else None


def check_object(value: Mapping, name: str, place: Registry) -> None:
    """Check the class that a setting names, and the keywords for it."""
    key = name.rpartition('.')[2]
    if not isinstance(value.get('_scope_'), str | NONE):
        raise ConfigError(f'{name}._scope_ is {value["_scope_"]!r:.80}. Leave it out.')
    if 'type' not in value and name == 'data_preprocessor':
        return  # its class is that of the model's choice, see check_structure
    if 'type' not in value:
        near = difflib.get_close_matches('type', list(map(str, value)), 1, 0.7)
        if near or not (key in NAMELESS or name.endswith('_evaluator') or _unnamed(value)):
            hint = f' Did you mean it by {near[0]!r}?' if near else ''
            raise ConfigError(f'{name} names no class: it has no type.{hint} Add type=... to it.')
        return
    kind = value['type']
    if isinstance(kind, str):
        found = None
        for each in (place, registry.EVALUATOR) if place is registry.METRICS else (place,):
            try:
                found = found or (scoped(each, value.get('_scope_')).get(kind) if kind else None)
            except ModuleNotFoundError as error:
                raise ConfigError(
                    f'{name}.type is {kind!r}, but its library cannot be imported: {error}. Install it, or for the '
                    "operators of mmcv add custom_imports = dict(imports=['mmcds.detection'])."
                ) from error
        if found is None:
            names = {each.lower(): each for each in known_names(place)}
            near = difflib.get_close_matches(kind.rpartition('.')[2].lower(), names, 3, 0.5)
            hint = f' Similar names: {", ".join(names[each] for each in near)}.' if near else ''
            raise ConfigError(
                f'{name}.type is {kind!r}, and no {place.name} of this name is registered.{hint} Correct the name, or '
                'import the file that registers it by custom_imports.'
            )
        kind = found
    elif not callable(kind):
        raise ConfigError(f'{name}.type is {kind!r:.80}. Set it to the name of a class.')
    check_keywords(value, name, kind)


def scoped(place: Registry, scope: str | None) -> Registry:
    """Return the registry of a library below one of MMEngine, or that one if the library has none."""
    current = DefaultScope.get_current_instance()
    for name in (scope, current.scope_name if current is not None else None):
        below = [place]
        for each in below:
            if each.scope == name:
                return each
            below.extend(each.children.values())
    return place


def _unnamed(value: Mapping) -> bool:
    """Return whether a dict describes no object but a table of some, such as the heads of a detector's neck."""
    return all(isinstance(inner, Mapping) and 'type' in inner for inner in value.values()) and bool(value)


def known_names(place: Registry) -> list[str]:
    """Return the names in a registry and in those of the libraries below it."""
    return [*place.module_dict, *(name for child in place.children.values() for name in known_names(child))]


def check_train_loop(train: Mapping) -> None:
    """Refuse keywords that the loop of a training has not."""
    by_epoch = train.get('by_epoch', 'max_epochs' in train)
    if not isinstance(by_epoch, bool):
        raise ConfigError(f'train_cfg.by_epoch is {by_epoch!r}. Set it to True or False.')
    if 'type' not in train:
        others = {key: value for key, value in train.items() if key != 'by_epoch'}
        check_keywords(others, 'train_cfg', EpochBasedTrainLoop if by_epoch else IterBasedTrainLoop)


def check_table(name: str, table: Mapping, known: Collection[str]) -> None:
    """Refuse what a table of settings does not know."""
    for key in table:
        if key not in known:
            hint = did_you_mean(key, known, f'It has {", ".join(known)}.')
            raise ConfigError(f'{name} has no setting {key!r}. {hint}')


def check_keywords(value: Mapping, name: str, kind: Callable, others: Collection[str] = ()) -> None:
    """Check the keywords for a class or function against its signature.

    Raises:
        ConfigError: If there is an unknown one, or a value that cannot be meant.
    """
    known, closed = parameters(kind)
    for key, inner in value.items():
        if key in BUILDERS or key in others:
            continue
        check_common(f'{name}.{key}', key, inner)
        if key not in known:
            if not closed:
                continue
            near = did_you_mean(key, known, f'It takes {", ".join(known) or "none"}.')
            raise ConfigError(f'{name}.{key}: {kind.__name__} has no keyword {key!r}. {near}')
        hint = known[key]
        if key in FREE:
            continue
        if not fits(inner, hint, is_ours(kind)):
            raise ConfigError(f'{name}.{key} is {inner!r:.80}. {kind.__name__} takes {words(hint)}.')


def check_common(name: str, key: str, value: Any) -> None:
    """Check a keyword whose name says what it must be, whatever class takes it."""
    if value is None:
        return
    values = value if isinstance(value, list | tuple) else (value,)
    if key == 'padding' and len(values) not in (1, 2, 4):
        raise ConfigError(f'{name} is {value!r:.80}. Set it to one number, two or four.')
    for each in values:
        if key in SIZES or key.endswith(WIDTHS):
            check_whole(name, each, 1, 10**6)
        elif key == 'padding':
            check_whole(name, each, 0, 10**4)
        elif key in PROBABILITIES:
            check_number(name, each, 0, 1, 'a number from 0 to 1')
        elif key in ('out_indices', 'taps') and isinstance(each, bool):
            raise ConfigError(f'{name} is {value!r:.80}. Set it to whole numbers.')
    if key == 'loss_weight':
        check_number(name, value, 0, math.inf, 'a number from 0 on')


def parameters(kind: Callable) -> tuple[dict[str, Any], bool]:
    """Return the keywords that a class or function takes with their annotations, and whether it takes no others.

    A class of ours that passes keywords on gives them to its base classes; others may do something else with them.
    """
    found: dict[str, Any] = {}
    closed = True
    makers = [kind]
    if inspect.isclass(kind):
        makers = [vars(base)['__init__'] for base in kind.__mro__ if '__init__' in vars(base) and base is not object]
    for maker in makers:
        try:
            signature = inspect.signature(maker)
        except (TypeError, ValueError):  # written in C
            return found, False
        try:
            hints = typing.get_type_hints(maker)
        except (NameError, TypeError, AttributeError):
            hints = {}
        passes = False
        for each in signature.parameters.values():
            passes |= each.kind is each.VAR_KEYWORD
            if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY) and each.name != 'self':
                default = each.default
                guess = type(default) | None if isinstance(default, bool | float) else Any
                hint = hints.get(each.name, guess)
                found.setdefault(each.name, hint if default is not None else typing.Optional[hint])  # noqa: UP045
        if not passes:
            return found, closed
        closed &= is_ours(maker)
    return found, inspect.isclass(kind) and not makers


def is_ours(kind: Callable) -> bool:
    """Return whether a class or function belongs to this project, so that its annotations are to be relied on."""
    return str(getattr(kind, '__module__', '')).split('.')[0] == 'mmcds'


def fits(value: Any, hint: Any, strict: bool) -> bool:
    """Return whether a value can be meant where a signature has some annotation; an unusual one allows everything.

    Lists and tuples are the same to a config, and so are whole numbers and others where a float is asked for.

    Args:
        value: In the config.
        hint: The annotation.
        strict: Whether it is to be taken at its word. Those of other libraries say ``int`` where a ratio or a pair is
            common, and ``dict`` where a list of dicts is.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    kind = origin or hint
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each, strict) for each in inner)
    if origin is typing.Literal:
        return value in inner
    if hint is NONE or hint is None:
        return value is None
    if hint in (bool, int, float, str) and not strict and isinstance(value, list | tuple):
        return bool(value) and all(fits(each, hint, strict or hint is bool) for each in value)
    if hint is bool:
        return isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))
    if hint in (int, float):
        whole = strict and hint is int
        return isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if kind in (list, tuple, collections.abc.Sequence, collections.abc.Iterable):
        each = [one for one in inner if one is not Ellipsis]
        listed = isinstance(value, list | tuple)
        return listed and (not strict or len(each) != 1 or all(fits(one, each[0], strict) for one in value))
    if kind in (dict, collections.abc.Mapping):
        several = not strict and isinstance(value, list | tuple) and all(isinstance(each, Mapping) for each in value)
        return isinstance(value, Mapping) or several or (not strict and value is None)
    return True


def words(hint: Any) -> str:
    """Return an annotation as it is written."""
    text = hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else str(hint)
    return text.replace('typing.', '').replace('collections.abc.', '').replace('NoneType', 'None')

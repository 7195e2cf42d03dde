"""MMEngine's runner, whose data sets say in one line what keeps them from being loaded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sized
from typing import Any, ClassVar, cast
from urllib.error import URLError

import mmengine.runner
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.dist import get_world_size
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS
from mmengine.runner import BaseLoop, LogProcessor
from torch.utils.data import DataLoader

from mmcds.core.errors import ConfigError, did_you_mean
from mmcds.data.on_device import DeviceLoader, take_setting
from mmcds.openmmlab.hooks.stop import keep_workers
from mmcds.openmmlab.log import shorten
from mmcds.openmmlab.shared_memory import fit_workers
from mmcds.openmmlab.work_dir import config_copy

#: Names of the hooks that MMEngine registers by itself, and of those that our configs add.
HOST_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
OUR_HOOKS = (
    'finite',
    'visualization',
    'epoch_seed',
    'view_color',
    'check_data',
    'prepare',
    'check_backbone',
    'check_checkpoint',
    'teacher_record',
    'sync_buffers',
    'progress',
    'report',
)


def inner_dataset(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config of the data set itself within those of wrappers such as ``RepeatDataset``."""
    while isinstance(config.get('dataset'), Mapping):
        config = config['dataset']
    return config


def build_dataset(config: Mapping[str, Any]) -> BaseDataset:
    """Build a data set and load its list of samples.

    Raises:
        ConfigError: If it cannot be loaded. Readers have errors of their own, from damaged archives to missing files;
            the message names data set and folder, and repeats the reader's reason.
        URLError: If it is to be downloaded and cannot be.
    """
    try:
        dataset = DATASETS.build(dict(config))
        if hasattr(dataset, 'full_init'):
            dataset.full_init()
    except (ConfigError, URLError):
        raise
    except Exception as error:
        if isinstance(error, TypeError) and 'unexpected keyword argument' in str(error):
            raise ConfigError(f'{config["type"]}: {error}. Leave it out, or correct its name.') from error
        inner = inner_dataset(config)
        place = inner.get('data_root') or 'its folder'
        if isinstance(error, ValueError) and str(inner.get('ann_file')).endswith('.txt'):
            raise ConfigError(
                f'{inner.get("type")} cannot read the list {inner["ann_file"]}: {str(error).rstrip(".")}. Each line '
                'is the path of an image, a blank, and the number of its class.'
            ) from error
        if isinstance(error, KeyError) and error.args and 'is not in the' not in str(error):  # of a registry
            raise ConfigError(
                f'{inner.get("type")}: {inner.get("ann_file") or "what is read"} of {place} lacks the field '
                f'{error.args[0]!r}. Add it there, or correct the settings of the data set.'
            ) from error
        raise ConfigError(
            f'{inner.get("type")} cannot be loaded from {place}: '
            f'{" ".join(str(error).split()).rstrip(".")}. Put the data there, or say where it is with '
            '--data-root FOLDER or MMCDS_DATA_ROOT=FOLDER.'
        ) from error
    return dataset


class FormattedOnce(Config):
    """A config whose text is formatted anew only when it says something else.

    MMEngine formats the config of a run four times when it starts and again for every checkpoint, which takes up to
    half a second each time.
    """

    @classmethod
    def of(cls, config: Config) -> FormattedOnce:
        """Return a config that says the same as another one, and shares its dicts."""
        made = cls.__new__(cls)
        made.__dict__.update(config.__dict__)
        return made

    @property
    def pretty_text(self) -> str:
        """The formatted text, as MMEngine has it."""
        said, known = repr(self.to_dict()), self.__dict__.setdefault('_formatted', {})
        if said not in known:
            known.clear()
            known[said] = super().pretty_text
        return known[said]


class Runner(mmengine.runner.Runner):
    """MMEngine's ``Runner`` with :func:`build_dataset`, and a name of its own for every run of a process.

    MMEngine names a run by the second in which it starts, and keeps the history, logger and curves of a name as long
    as the process lives. So two runs of one second would go on with one another's.
    """

    _stamps: ClassVar[set[str]] = set()

    def dump_config(self) -> None:
        """Write the config beside the run; a test leaves the one of a training, which says more, as it is."""
        if self._train_dataloader is not None or not config_copy(self).is_file():
            super().dump_config()

    def setup_env(self, env_cfg: dict) -> None:
        """Set up the environment; see MMEngine. All ranks give the same name, as they start the same runs."""
        super().setup_env(env_cfg)
        self.cfg = FormattedOnce.of(self.cfg)  # type: ignore[has-type]
        second, number = str(self._timestamp), 1  # type: ignore[has-type]
        stamp = second
        while stamp in self._stamps:
            number += 1
            stamp = f'{second}_{number}'
        self._stamps.add(stamp)
        self._timestamp = stamp

    def build_logger(self, log_level: int | str = 'INFO', log_file: str | None = None, **kwargs: Any) -> MMLogger:
        """Build the logger, and let a terminal have the short form of what it gets."""
        logger = super().build_logger(log_level, log_file, **kwargs)
        shorten(logger)
        return logger

    def build_log_processor(self, log_processor: LogProcessor | dict) -> LogProcessor:
        """Build what writes the lines of the log; MMEngine's own one gives way to ours."""
        if isinstance(log_processor, dict) and log_processor.get('type', 'LogProcessor') == 'LogProcessor':
            log_processor = {**log_processor, 'type': 'mmpretrain.ShortLogProcessor'}
        return super().build_log_processor(log_processor)

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """Register hooks that have names; see MMEngine, which takes None for its own six only.

        Raises:
            ConfigError: If a hook is left out that no config has.
        """
        hooks = hooks or {}
        for name in hooks:
            if name in HOST_HOOKS + OUR_HOOKS:
                continue
            near = difflib.get_close_matches(name, HOST_HOOKS + OUR_HOOKS, 1, 0.8)
            if near and hooks[name] is not None and abs(len(name) - len(near[0])) < 2:  # no second checkpoint hook
                raise ConfigError(f'default_hooks.{name} is no hook that configs have. Did you mean {near[0]}?')
            if hooks[name] is None:
                names = HOST_HOOKS + OUR_HOOKS
                raise ConfigError(
                    f'default_hooks.{name} is None, but there is no hook of this name to leave out. '
                    + did_you_mean(name, names, f'The names are {", ".join(names)}.')
                )
        super().register_default_hooks({name: hook for name, hook in hooks.items() if hook or name in HOST_HOOKS})

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the loop of a training; one by epochs can go on within an epoch."""
        if isinstance(loop, Mapping) and loop.get('by_epoch', 'max_epochs' in loop) and 'type' not in loop:
            others = {key: value for key, value in loop.items() if key != 'by_epoch'}
            loop = dict(type='mmpretrain.ResumableTrainLoop', **others)
        return super().build_train_loop(loop)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader with as many processes as shared memory allows, or one of a data set on the device.

        See MMEngine, and for ``on_device`` :class:`mmcds.data.on_device.DeviceLoader`.

        Raises:
            ConfigError: If it has no batch, because all its images are fewer than one, or if the device cannot hold
                the data set.
        """
        on_device = None
        if isinstance(dataloader, dict):
            dataloader, on_device = take_setting(dataloader)
        if isinstance(dataloader, dict) and isinstance(dataloader.get('dataset'), dict):
            dataloader = {**dataloader, 'dataset': build_dataset(dataloader['dataset'])}
        loader = mmengine.runner.Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        images = len(cast(Sized, loader.dataset))
        if images and loader.drop_last and loader.batch_size and not len(loader):
            raise ConfigError(
                f'the data set has {images} images, fewer than the {loader.batch_size} of a batch in each of '
                f'{get_world_size()} process(es), and drop_last leaves them out. Use a smaller batch_size.'
            )
        if on_device is not None:
            return DeviceLoader(loader, **on_device)
        fit_workers(loader)
        keep_workers(loader)
        return loader

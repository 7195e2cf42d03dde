"""Hand the labels of the training set to the supervisions that keep something for every image."""

from collections.abc import Sized
from typing import cast

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.hooks.check import bare_model


@HOOKS.register_module()
class PrepareSupervisionsHook(Hook):
    """Call :meth:`mmcds.core.Supervision.prepare` of every supervision that needs ``sample_idx``.

    This happens before a checkpoint is loaded, so that what the method keeps has its size by then.

    Raises:
        ConfigError: If the data set is a concatenation or a repetition, where an index does not name an image.
    """

    def before_run(self, runner: Runner) -> None:
        """Read the labels once."""
        loop = runner._train_loop
        supervisions = getattr(bare_model(runner), 'supervisions', {})
        users = {name: part for name, part in supervisions.items() if part.needs_sample_idx}
        if not users or loop is None or not hasattr(loop, 'dataloader'):
            return
        dataset = loop.dataloader.dataset
        if not hasattr(dataset, 'get_gt_labels'):
            raise ConfigError(
                f'PrepareSupervisionsHook: supervision {next(iter(users))!r} keeps something for every image by its '
                f'sample_idx, but in a {type(dataset).__name__} of {len(cast(Sized, dataset))} samples an index does '
                'not name one image. Train on a single data set.'
            )
        labels = torch.as_tensor(dataset.get_gt_labels(), dtype=torch.int64)
        for supervision in users.values():
            supervision.prepare(labels)

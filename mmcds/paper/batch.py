"""A cell trains with the batch that its learning rate was made for, on however many GPUs there are.

A config says two things: ``auto_scale_lr.base_batch_size``, the images of one step, and
``train_dataloader.batch_size``, how many of them one GPU takes at a time. On P GPUs every step has

    P processes x B images x A steps of the optimiser wrapper that are accumulated = base_batch_size

:func:`divide_batch` finds B and A. What is accumulated is contrasted and normalised apart from the others, exactly as
on as many GPUs without gather, so a method that compares the images of all GPUs is not divided in time but refused.
"""

from dataclasses import dataclass

from mmengine.config import Config

from mmcds.core.errors import ConfigError


@dataclass(frozen=True)
class Batch:
    """How the images of a step are divided.

    Attributes:
        processes: P, one per GPU.
        images: B, on each of them at a time.
        accumulated: A, how often until the weights change.
    """

    processes: int
    images: int
    accumulated: int

    @property
    def total(self) -> int:
        """Return the images of a step."""
        return self.processes * self.images * self.accumulated

    def __str__(self) -> str:
        return f'{self.processes} x {self.images} x {self.accumulated} = {self.total}'


def needs_all_at_once(config: Config) -> bool:
    """Return whether a step must see all its images together: contrast over all GPUs, or a moving target."""
    supervisions = (config.model.get('supervisions') or {}).values()
    gathers = any(each and each.get('gather') for each in supervisions)
    detects = 'roi_head' in config.model or 'bbox_head' in config.model
    return gathers or not (config.model.type == 'CDSClassifier' or detects)


def usual_processes(config: Config, visible: int) -> int:
    """Return how many processes train a config if nobody says it.

    As many of the visible GPUs as its batch can be divided over; on a machine without GPU one, or as many as the
    config was made for if it cannot be divided in time.
    """
    parts = max(1, config.auto_scale_lr.base_batch_size // config.train_dataloader.batch_size)
    if not visible:
        return parts if needs_all_at_once(config) else 1
    return max(number for number in range(1, min(visible, parts) + 1) if parts % number == 0)


def divide_batch(config: Config, processes: int, owner: str) -> Batch:
    """Write into a config what every process takes at a time and how often it does before the weights change.

    Args:
        config: Changed in place: batch, unlabelled images in it, accumulation, and schedules that count iterations.
        processes: P.
        owner: Who is trained, for messages.

    Raises:
        ConfigError: If the numbers do not divide each other, if the config accumulates another number of times, or if
            the batch would be divided in time and cannot be.
    """
    loader, total = config.train_dataloader, config.auto_scale_lr.base_batch_size
    size = loader.batch_size
    mend = 'or let the learning rate follow the batch by --auto-scale-lr.'
    if processes < 1 or total % processes:
        raise ConfigError(
            f'{owner}: its learning rate was chosen for {total} images in a step, which {processes} processes cannot '
            f'share equally. Take --gpus that divides {total}, {mend}'
        )
    share = total // processes
    if share % min(size, share):
        raise ConfigError(
            f'{owner}: each of {processes} processes has {share} images in a step, which cannot be taken {size} at a '
            f'time. Take a train_dataloader.batch_size that divides {share}, {mend}'
        )
    batch = Batch(processes, min(size, share), max(1, share // size))
    if batch.accumulated > 1 and needs_all_at_once(config):
        raise ConfigError(
            f'{owner}: a step needs its {total} images at once, and {processes} process(es) of {size} images have not '
            f'as many. Take --gpus {total // size}, train_dataloader.batch_size={share} where memory allows it, {mend}'
        )
    asked = config.optim_wrapper.get('accumulative_counts')
    if asked is not None and asked != batch.accumulated:
        raise ConfigError(
            f'{owner}: optim_wrapper.accumulative_counts={asked} is set, but {processes} process(es) of '
            f'{batch.images} images accumulate {batch.accumulated} times for a step of {total}. Leave it out, {mend}'
        )
    if 'num_unlabelled' in loader.get('batch_sampler', {}):
        unlabelled, rest = divmod(loader.batch_sampler.num_unlabelled * batch.images, size)
        if rest:
            raise ConfigError(
                f'{owner}: {loader.batch_sampler.num_unlabelled} unlabelled images of {size} cannot be shared by '
                f'{size // batch.images} processes. Take fewer --gpus, {mend}'
            )
        loader.batch_sampler.num_unlabelled = unlabelled
    loader.batch_size = batch.images
    if batch.accumulated > 1:
        config.optim_wrapper.accumulative_counts = batch.accumulated
        for scheduler in config.get('param_scheduler') or ():
            if not scheduler.get('by_epoch', True):  # it counts iterations, of which a step now has several
                for key in scheduler.keys() & {'begin', 'end', 'T_max', 'total_iters'}:
                    scheduler[key] *= batch.accumulated
    return batch

"""Loss and accuracy curves of a run, or of several over each other, from the scalars that MMEngine itself writes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmcds.core.errors import ConfigError
from mmcds.evaluation.summary import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def read_scalars(work_dir: str | Path) -> tuple[list[dict], list[dict]]:
    """Read all scalars of a run, over every time it was stopped and resumed.

    Args:
        work_dir: Folder of the run; each start of it left ``<time>/vis_data/scalars.json`` there.

    Returns:
        Training records sorted by iteration (keys ``iter``, ``epoch``, ``loss``, ...) and validation records
        sorted by epoch (``epoch`` and the metrics, such as ``accuracy/top1``). Where a resumed run repeated a
        step, the later value counts.

    Raises:
        ConfigError: If the folder holds no scalars.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not files:
        raise ConfigError(f'{work_dir} holds no */vis_data/scalars.json. Name the work_dir of a training run.')
    train: dict[int, dict] = {}
    val: dict[int, dict] = {}
    for file in files:
        for line in file.read_text(errors='replace').splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:  # what a kill left of the last line
                continue
            if 'loss' in record:
                train[record['step']] = {**record, 'iter': record['step']}
            elif any('/' in key for key in record):
                val[record['step']] = {**record, 'epoch': record['step']}
    return [train[step] for step in sorted(train)], [val[step] for step in sorted(val)]


def to_percent(metric: str) -> int:
    """Return what makes a metric a percentage: MMDetection's COCO metrics are fractions, the others are not."""
    return 100 if metric.startswith('coco/') else 1


def iterations_per_epoch(train: Sequence[dict]) -> float:
    """Return what the training records tell; exact if the last iteration of an epoch was logged."""
    return max((record['iter'] / record['epoch'] for record in train if record.get('epoch')), default=1)


def plot_curves(work_dir: str | Path, out: str | Path, metric: str = 'accuracy/top1') -> Path:
    """Draw the training losses of every term and the validation metric over epochs.

    Args:
        work_dir: Folder of the run.
        out: Picture to write; the suffix sets the format.
        metric: Validation metric to draw, in percent, or a COCO metric, which is a fraction.

    Returns:
        ``out``.

    Raises:
        ConfigError: If the run has no scalars, or other metrics only.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    train, val = read_scalars(work_dir)
    per_epoch = iterations_per_epoch(train)
    figure = Figure(figsize=(9, 3.6), layout='constrained')
    losses, scores = figure.subplots(1, 2)
    for key in [key for key in train[-1] if 'loss' in key] if train else []:
        points = [(record['iter'] / per_epoch, record[key]) for record in train if key in record]
        losses.plot(
            *zip(*points, strict=True),
            label=plain(key),
            linewidth=2 if key == 'loss' else 1,
            color='black' if key == 'loss' else None,
        )
    losses.set(xlabel='epoch', ylabel='training loss (weighted terms)', yscale='log')
    losses.legend(fontsize='x-small')
    losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    losses.yaxis.set_major_formatter('{x:g}')
    losses.yaxis.set_minor_formatter(NullFormatter())
    points = [(record['epoch'], record[metric] * to_percent(metric)) for record in val if metric in record]
    measured = sorted({key for record in val for key in record if '/' in key})
    if measured and not points:
        raise ConfigError(f'{work_dir} has no {metric}. Choose one of {", ".join(measured)}.')
    if points:
        scores.plot(*zip(*points, strict=True), marker='o', markersize=3, color='tab:blue')
        scores.annotate(
            f'{points[-1][1]:.1f} %',
            points[-1],
            textcoords='offset points',
            xytext=(-6, -14),
            horizontalalignment='right',
        )
    scores.set(xlabel='epoch', ylabel=f'validation {metric} (%)')
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
    figure.suptitle(plain(Path(work_dir).name))
    figure.savefig(out, dpi=150)
    return Path(out)


def moving_average(values: np.ndarray, half: int) -> np.ndarray:
    """Return the mean over ``2 * half + 1`` neighbours; near the ends over as many on both sides as there are.

    A straight line stays as it is. (..., T) to (..., T).
    """
    count = values.shape[-1]
    places = np.arange(count)
    reach = np.minimum(half, np.minimum(places, count - 1 - places))
    sums = np.concatenate([np.zeros((*values.shape[:-1], 1)), values.cumsum(-1)], axis=-1)
    return (sums[..., places + reach + 1] - sums[..., places - reach]) / (2 * reach + 1)


def align(runs: Sequence[Sequence[dict]], place: str, key: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of repetitions at the places that all of them logged.

    Args:
        runs: Records of every repetition.
        place: ``'iter'`` or ``'epoch'``.
        key: Scalar to read.
        name: What the repetitions are called.

    Returns:
        Places (T,) and values (runs, T).

    Raises:
        ConfigError: If a run never logged the scalar, or no place is common.
    """
    found = [{record[place]: record[key] for record in records if key in record} for records in runs]
    for records, values in zip(runs, found, strict=True):
        if not values:
            logged = sorted({each for record in records for each in record if 'loss' in each or '/' in each})
            raise ConfigError(
                f'{name}: a run logged no {key}, only {", ".join(logged) or "nothing"}. Choose what all runs logged.'
            )
    common = sorted(set.intersection(*map(set, found)))
    if not common:
        raise ConfigError(f'{name}: its runs have no {place} of {key} in common. Give them different names.')
    return np.array(common), np.array([[values[each] for each in common] for values in found])


def compare_curves(
    runs: Sequence[tuple[str, str | Path]],
    out: str | Path,
    metric: str = 'accuracy/top1',
    loss: str = 'loss_ce',
    smooth: float = 3.0,
    tail: float = 0.2,
) -> Path:
    """Draw the training loss and the validation metric of several runs over each other (Figure 4 of the paper).

    Args:
        runs: Name and work_dir of every run. Runs of one name are repetitions: a line through their mean, in a band of
            one sample standard deviation.
        out: Picture to write; the suffix sets the format.
        metric: Validation metric to draw, in percent, or a COCO metric, which is a fraction.
        loss: Training loss to draw; ``loss_ce`` is the cross-entropy, which all methods have, without extra losses.
        smooth: Width of the moving average over the loss, in epochs; 0 draws what was logged.
        tail: Last part of the training that an inset shows enlarged, as a fraction; 0 for none.

    Returns:
        ``out``.

    Raises:
        ConfigError: If ``smooth`` or ``tail`` is out of range, or a run has no such scalars.
    """
    from matplotlib.figure import Figure

    if smooth < 0 or not 0 <= tail < 1:
        raise ConfigError(f'smooth must be >= 0 and tail in [0, 1), got {smooth} and {tail}. Choose others.')
    groups: dict[str, list[tuple[list[dict], list[dict]]]] = {}
    for name, work_dir in runs:
        groups.setdefault(name, []).append(read_scalars(work_dir))
    figure = Figure(figsize=(9, 3.8), layout='constrained')
    losses, scores = figure.subplots(1, 2)
    inset = losses.inset_axes((0.4, 0.4, 0.57, 0.56)) if tail else None
    for name, records in groups.items():
        iters, values = align([train for train, _ in records], 'iter', loss, name)
        epochs = iters / iterations_per_epoch(records[0][0])
        window = smooth * len(epochs) / epochs[-1]  # in records
        values = moving_average(values, max(0, round((window - 1) / 2)))
        draw_band(losses, epochs, values, name)
        if inset is not None:
            last = epochs >= (1 - tail) * epochs[-1]
            draw_band(inset, epochs[last], values[:, last], name)
        places, percent = align([val for _, val in records], 'epoch', metric, name)
        percent = percent * to_percent(metric)
        draw_band(scores, places, percent, f'{name}: {percent[:, -1].mean():.1f} %')
    losses.set(xlabel='epoch', ylabel=f'training {loss}' + (f', mean over {smooth:g} epochs' if smooth else ''))
    losses.set_ylim(bottom=0)
    if inset is not None:
        inset.tick_params(labelsize='x-small')
        inset.grid(alpha=0.3)
        losses.indicate_inset_zoom(inset, edgecolor='black')
    scores.set(xlabel='epoch', ylabel=f'validation {metric} (%)')
    scores.legend(loc='lower right', fontsize='small', title='after the last epoch', title_fontsize='small')
    for axes in (losses, scores):
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=150)
    return Path(out)


def draw_band(axes: 'Axes', places: np.ndarray, values: np.ndarray, label: str) -> None:
    """Draw the mean of repetitions (runs, T), and a band of one sample standard deviation if there are several."""
    mean = values.mean(0)
    (line,) = axes.plot(places, mean, linewidth=1.2, label=plain(label))
    if len(values) > 1:
        spread = values.std(0, ddof=1)
        axes.fill_between(places, mean - spread, mean + spread, color=line.get_color(), alpha=0.2, linewidth=0)

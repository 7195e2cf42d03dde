"""Loss and accuracy curves of a run, or of several over each other, from the scalars that MMEngine itself writes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmcds.core.errors import ConfigError
from mmcds.evaluation.summary import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

#: Markers of the lines of a picture, in turn: one more than there are colours, so that a pair of both comes back late.
MARKERS = 'osD^vPX<>ph'


def draw_line(axes: 'Axes', places: np.ndarray, values: np.ndarray, label: str, **style: Any) -> 'Line2D':
    """Draw a line with a marker of its own at ten or twenty of its points, so that a single point is seen too.

    Args:
        axes: Where, after the lines that are there.
        places: Of the points. (T,).
        values: At them. (T,).
        label: Of the line in the legend.
        **style: Of matplotlib, such as the colour.

    Returns:
        The line.
    """
    number = len(axes.lines)
    every = max(1, len(places) // 10)
    start = number % every  # of lines that lie upon each other, the markers do not
    (line,) = axes.plot(
        places,
        values,
        label=plain(label),
        marker=MARKERS[number % len(MARKERS)],
        markersize=4,
        markevery=(start, every),
        **style,
    )
    return line


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


def places_of(train: Sequence[dict]) -> list[float]:
    """Return where the training records stand on an axis of epochs; exact if the last step of an epoch was logged.

    Where a run was resumed with epochs of another length, every epoch has its own.
    """
    length = max((record['iter'] / record['epoch'] for record in train if record.get('epoch')), default=1)
    places = [record['iter'] / length for record in train]
    if all(place > record.get('epoch', 0) - 1 for place, record in zip(places, train, strict=True)):
        return places
    ends = {record['epoch']: record['iter'] for record in train}  # the last record of an epoch counts
    begins = dict(zip(ends, (0, *ends.values()), strict=False))
    return [
        record['epoch']
        - 1
        + (record['iter'] - begins[record['epoch']]) / (ends[record['epoch']] - begins[record['epoch']])
        for record in train
    ]


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
    whole = places_of(train)
    figure = Figure(figsize=(9, 3.6), layout='constrained')
    losses, scores = figure.subplots(1, 2)
    for key in [key for key in train[-1] if 'loss' in key] if train else []:
        points = [(place, record[key]) for place, record in zip(whole, train, strict=True) if key in record]
        style = dict(linewidth=2, color='black') if key == 'loss' else dict(linewidth=1)
        places, values = np.array(points).T
        draw_line(losses, places, values, key, **style)
    losses.set(xlabel='epoch', ylabel='training loss (weighted terms)', yscale='log')
    losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    losses.yaxis.set_major_formatter('{x:g}')
    losses.yaxis.set_minor_formatter(NullFormatter())
    points = [(record['epoch'], record[metric] * to_percent(metric)) for record in val if metric in record]
    measured = sorted({key for record in val for key in record if '/' in key})
    if measured and not points:
        raise ConfigError(f'{work_dir} has no {metric}. Choose one of {", ".join(measured)}.')
    if points:
        places, values = np.array(points).T
        draw_line(scores, places, values, metric, color='tab:blue')
        scores.set_title(f'{points[-1][1]:.1f} % after epoch {points[-1][0]:g}', fontsize='medium')
    scores.set(xlabel='epoch', ylabel=f'validation {metric} (%)')
    finish(losses, scores)
    if losses.lines:
        legend_below(figure, losses.lines)
    figure.suptitle(plain(Path(work_dir).name))
    figure.savefig(out, dpi=150)
    return Path(out)


def legend_below(figure: 'Figure', handles: Sequence[Any], title: str | None = None) -> None:
    """Name lines below all panels, where the legend covers nothing, in as many columns as there is room for.

    Args:
        figure: Has the constrained layout.
        handles: Lines, or what else has a label.
        title: Above the names.
    """
    longest = max(len(handle.get_label()) for handle in handles)
    columns = int(figure.get_figwidth() / (0.07 * longest + 0.5))  # inches: of a letter; of a line and the gaps
    figure.legend(
        handles=handles,
        loc='outside lower center',
        ncols=min(max(1, columns), len(handles)),
        fontsize='small',
        title=title,
        title_fontsize='small',
    )


def finish(*panels: 'Axes') -> None:
    """Let the axis of epochs of every panel begin at 0 and name whole epochs, and draw a grid."""
    from matplotlib.ticker import MaxNLocator

    for axes in panels:
        axes.grid(alpha=0.3)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator('auto', steps=[1, 2, 5, 10], integer=True))


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
    tails = []
    for name, records in groups.items():
        iters, values = align([train for train, _ in records], 'iter', loss, name)
        train = records[0][0]
        place = {record['iter']: each for record, each in zip(train, places_of(train), strict=True)}
        epochs = np.array([place[step] for step in iters])
        window = smooth * len(epochs) / epochs[-1]  # in records
        values = moving_average(values, max(0, round((window - 1) / 2)))
        draw_band(losses, epochs, values, name)
        last = epochs >= (1 - tail) * epochs[-1]
        tails.append((epochs[last], values[:, last], name))
        places, percent = align([val for _, val in records], 'epoch', metric, name)
        percent = percent * to_percent(metric)
        draw_band(scores, places, percent, f'{name}: {percent[:, -1].mean():.1f} %')
    losses.set(xlabel='epoch', ylabel=f'training {loss}' + (f', mean over {smooth:g} epochs' if smooth else ''))
    losses.set_ylim(bottom=0)
    if tail and max(len(epochs) for epochs, _, _ in tails) > 1:  # a point is no larger when it is enlarged
        inset = losses.inset_axes((0.4, 0.4, 0.57, 0.56))
        for part in tails:
            draw_band(inset, *part)
        inset.tick_params(labelsize='x-small')
        inset.grid(alpha=0.3)
        losses.indicate_inset_zoom(inset, edgecolor='black')
    scores.set(xlabel='epoch', ylabel=f'validation {metric} (%)')
    finish(losses, scores)
    legend_below(figure, scores.lines, f'{metric} after the last epoch')
    figure.savefig(out, dpi=150)
    return Path(out)


def draw_band(axes: 'Axes', places: np.ndarray, values: np.ndarray, label: str) -> None:
    """Draw the mean of repetitions (runs, T), and a band of one sample standard deviation if there are several."""
    mean = values.mean(0)
    line = draw_line(axes, places, mean, label, linewidth=1.2)
    if len(values) > 1:
        spread = values.std(0, ddof=1)
        axes.fill_between(places, mean - spread, mean + spread, color=line.get_color(), alpha=0.2, linewidth=0)

"""Loss and accuracy curves of a run, from the scalars that MMEngine itself writes."""

import json
from pathlib import Path

from mmcds.errors import ConfigError


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
        for line in file.read_text().splitlines():
            record = json.loads(line)
            if 'loss' in record:
                train[record['step']] = {**record, 'iter': record['step']}
            elif any('/' in key for key in record):
                val[record['step']] = {**record, 'epoch': record['step']}
    return [train[step] for step in sorted(train)], [val[step] for step in sorted(val)]


def to_percent(metric: str) -> int:
    """Factor that makes a metric a percentage: MMDetection's COCO metrics are fractions, the others are not."""
    return 100 if metric.startswith('coco/') else 1


def plot_curves(work_dir: str | Path, out: str | Path, metric: str = 'accuracy/top1') -> Path:
    """Draw the training losses of every term and the validation metric over epochs.

    Args:
        work_dir: Folder of the run.
        out: Picture to write; the suffix sets the format.
        metric: Validation metric to draw, in percent, or a COCO metric, which is a fraction.

    Returns:
        ``out``.

    Raises:
        ConfigError: If the run has no scalars.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    train, val = read_scalars(work_dir)
    per_epoch = max((record['iter'] / record['epoch'] for record in train if record.get('epoch')), default=1)
    figure = Figure(figsize=(9, 3.6), layout='constrained')
    losses, scores = figure.subplots(1, 2)
    for key in [key for key in train[-1] if 'loss' in key] if train else []:
        points = [(record['iter'] / per_epoch, record[key]) for record in train if key in record]
        losses.plot(
            *zip(*points, strict=True),
            label=key,
            linewidth=2 if key == 'loss' else 1,
            color='black' if key == 'loss' else None,
        )
    losses.set(xlabel='epoch', ylabel='training loss (weighted terms)', yscale='log')
    losses.legend(fontsize='x-small')
    losses.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    losses.yaxis.set_major_formatter('{x:g}')
    losses.yaxis.set_minor_formatter(NullFormatter())
    points = [(record['epoch'], record[metric] * to_percent(metric)) for record in val if metric in record]
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
    figure.suptitle(Path(work_dir).name)
    figure.savefig(out, dpi=150)
    return Path(out)

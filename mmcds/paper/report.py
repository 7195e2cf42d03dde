"""What our runs of a table gave, beside the paper: console, Markdown, CSV and a plot."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmcds.evaluation.calibration import COLUMNS
from mmcds.evaluation.summary import markdown_table, mean_spread, spread_text
from mmcds.evaluation.sweep import RESULT
from mmcds.paper.cells import Cell
from mmcds.paper.compose import why_not
from mmcds.paper.numbers import METRICS, RANKING, Metric
from mmcds.paper.tables import METHODS, NETWORKS

#: Label and scale of the horizontal axes over which cells are drawn.
AXES = {
    'heads': ('number of heads', 'linear'),
    'lambda': ('weight of the contrastive loss', 'log'),
    'temperature': ('temperature of the contrastive loss', 'log'),
}
HEADER = ('network', 'data', 'method', 'setting', 'paper', 'last', 'best', 'runs', 'difference', 'note')
#: What a run measures beside its accuracy or AP: the paper's metrics, then those of calibration.
BESIDE: Mapping[str, Metric] = {
    **{name: metric for name, metric in METRICS.items() if name not in RANKING},
    **{
        name: Metric(title, f'calibration/{name}', factor, digits)
        for name, (title, factor, digits) in COLUMNS.items()
        if name not in METRICS
    },
}


@dataclass(frozen=True)
class Row:
    """A cell and our results of it.

    Attributes:
        cell: The cell.
        last: Top-1 accuracy (detectors: AP) after the last epoch of every run, in percent.
        best: The highest of every run, as the released code reports it, in percent.
        beside: What else was measured after the last epoch, by name in :data:`BESIDE` and in its unit.
        provenance: Versions and hardware of every run, and the day of its end; runs of older versions have none.
    """

    cell: Cell
    last: tuple[float, ...] = ()
    best: tuple[float, ...] = ()
    beside: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    provenance: tuple[Mapping[str, str], ...] = ()

    @property
    def difference(self) -> float | None:
        """Return the mean after the last epoch minus the paper's number."""
        number = self.cell.number
        return mean_spread(self.last)[0] - number if self.last and number is not None else None

    def texts(self) -> tuple[str, ...]:
        """Return the row in the order of :data:`HEADER`."""
        cell = self.cell
        return (
            NETWORKS[cell.network].title,
            cell.dataset,
            METHODS[cell.method].title,
            cell.setting,
            '' if cell.number is None else f'{cell.number:.2f}',
            spread_text(self.last),
            spread_text(self.best),
            str(len(self.last) or ''),
            '' if self.difference is None else f'{self.difference:+.2f}',
            '; '.join(filter(None, (cell.source, why_not(cell) and f'not run by this build: {why_not(cell)}'))),
        )

    def beside_texts(self, name: str) -> tuple[str, str]:
        """Return the paper's number and ours of another metric."""
        paper, digits = self.cell.paper.get(name), BESIDE[name].digits
        return '' if paper is None else f'{paper:.{digits}f}', spread_text(self.beside.get(name, ()), digits)


def columns_beside(rows: Sequence[Row]) -> list[str]:
    """Return the other metrics that a table shows: those of the paper, and calibration where it was measured."""
    return [
        name
        for name in BESIDE
        if any(name in row.cell.paper or (name in COLUMNS and row.beside.get(name)) for row in rows)
    ]


def to_texts(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return header and rows of a table: :data:`HEADER`, with paper and ours of other metrics before the note."""
    names = columns_beside(rows)
    in_paper = {name for name in names if any(name in row.cell.paper for row in rows)}

    def both(name: str, paper: str, ours: str) -> tuple[str, ...]:
        return (paper, ours) if name in in_paper else (ours,)

    titles = (text for name in names for text in both(name, f'{BESIDE[name].title}, paper', BESIDE[name].title))
    texts = [
        (*own[:-1], *(text for name in names for text in both(name, *row.beside_texts(name))), own[-1])
        for row, own in ((row, row.texts()) for row in rows)
    ]
    return (*HEADER[:-1], *titles, HEADER[-1]), texts


def run_folder(out: str | Path, cell: Cell, seed: int) -> Path:
    """Work dir of one run of a cell."""
    return Path(out) / cell.name / f'seed_{seed}'


def collect(cells: Sequence[Cell], out: str | Path) -> list[Row]:
    """Read the results of every run that has ended.

    Args:
        cells: Cells of a table.
        out: Folder that the runs were given.

    Returns:
        One row per cell, in the same order; without runs where there are none.
    """
    rows = []
    for cell in cells:
        found = [json.loads(path.read_text()) for path in sorted((Path(out) / cell.name).glob(f'seed_*/{RESULT}'))]
        measured = {
            name: [record.get('metrics', {}).get(metric.key) for record in found] for name, metric in BESIDE.items()
        }
        rows.append(
            Row(
                cell,
                tuple(record['accuracy'] for record in found),
                tuple(record['best'] for record in found),
                {
                    name: tuple(BESIDE[name].factor * value for value in values)
                    for name, values in measured.items()
                    if values and None not in values
                },
                tuple(record.get('provenance', {}) for record in found),
            )
        )
    return rows


def provenance_of(rows: Sequence[Row]) -> list[str]:
    """Return a line per set of versions and hardware that runs were trained with: how many, and when they ended."""
    days: dict[str, list[str]] = {}
    for each in (each for row in rows for each in row.provenance):
        made = f'{each["versions"]}; {each["device"]}' if each else 'versions that were not recorded'
        days.setdefault(made, []).append(each.get('ended', ''))
    return [
        f'{len(ended)} run{"s" if len(ended) > 1 else ""} trained with {made}'
        + (f'; ended {" to ".join(sorted({min(ended), max(ended)}))}' if all(ended) else '')
        for made, ended in days.items()
    ]


def to_markdown(title: str, rows: Sequence[Row], remarks: Sequence[str] = ()) -> str:
    """Return a table with the columns of :func:`to_texts`, accuracies in percent, and remarks below it."""
    header, texts = to_texts(rows)
    lines = [
        f'### {title}',
        '',
        markdown_table(header, texts),
        '',
        'Top-1 accuracy (detectors: AP) in percent, mean ± sample standard deviation over runs; the difference is '
        'last - paper.',
        *(f'\n- {remark}' for remark in (*provenance_of(rows), *remarks)),
    ]
    return '\n'.join(lines) + '\n'


def write_report(
    title: str, rows: Sequence[Row], folder: str | Path, stem: str, remarks: Sequence[str] = ()
) -> list[Path]:
    """Write ``stem.md``, ``stem.csv`` and, if there is anything to draw, plots.

    Cells that lie on an axis (``Cell.swept``) are drawn over it, in a plot of its own; all others, and those that
    belong to several axes, get a line each in ``stem.png``. With several plots, the axis is added to the name.

    Returns:
        The files written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    markdown, table = folder / f'{stem}.md', folder / f'{stem}.csv'
    markdown.write_text(to_markdown(title, rows, remarks))
    with table.open('w', newline='') as stream:
        writer = csv.writer(stream)
        beside = [text for name in BESIDE for text in (f'{name}_paper', name) if name in METRICS or text == name]
        writer.writerow(('cell', 'paper', 'last', 'best', 'difference', 'source', 'missing', *beside))
        for row in rows:
            writer.writerow(
                (
                    row.cell.name,
                    row.cell.number,
                    ' '.join(f'{value:.2f}' for value in row.last),
                    ' '.join(f'{value:.2f}' for value in row.best),
                    None if row.difference is None else f'{row.difference:.2f}',
                    row.cell.source,
                    why_not(row.cell),
                    *(
                        row.cell.paper.get(name.removesuffix('_paper'))
                        if name.endswith('_paper')
                        else ' '.join(f'{value:.4f}' for value in row.beside.get(name, ()))
                        for name in beside
                    ),
                )
            )
    files = [markdown, table]
    alone = [row for row in rows if len(row.cell.swept) != 1]
    axes = list(dict.fromkeys(axis for row in rows for axis in row.cell.swept))
    drawn = [row for row in alone if row.last or row.cell.number is not None]
    if drawn:
        files.append(folder / f'{stem}.png')
        draw(title, drawn, files[-1])
    for axis in axes:
        drawn = [row for row in rows if row.last and axis in row.cell.swept]
        if drawn:
            files.append(folder / (f'{stem}-{axis}.png' if alone or len(axes) > 1 else f'{stem}.png'))
            draw_sweep(title, axis, drawn, files[-1])
    return files


def draw(title: str, rows: Sequence[Row], out: Path) -> None:
    """One line per cell: the paper as a cross, every run of ours as a dot, their mean and spread as a bar."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.28 * len(rows)), layout='constrained')
    axes = figure.subplots()
    labels = []
    single = len({row.cell.network for row in rows}) == 1  # then the title names the network, not every line
    for place, row in enumerate(rows):
        cell = row.cell
        network = '' if single else f'{NETWORKS[cell.network].title}, '
        labels.append(f'{network}{METHODS[cell.method].title} {cell.setting}'.strip())
        if cell.number is not None:
            axes.plot(cell.number, place, 'x', color='black', label='paper', zorder=3)
        for values, colour, offset, name in (
            (row.last, 'tab:blue', -0.12, 'ours, last epoch'),
            (row.best, 'tab:orange', 0.12, 'ours, best epoch'),
        ):
            if values:
                axes.plot(values, [place + offset] * len(values), '.', color=colour, alpha=0.4)
                mean, spread = mean_spread(values)
                axes.errorbar(
                    mean,
                    place + offset,
                    xerr=spread,
                    fmt='o',
                    markersize=4,
                    capsize=3,
                    color=colour,
                    label=name,
                )
    axes.set_yticks(range(len(rows)), labels, fontsize='small')
    axes.invert_yaxis()
    axes.set_xlabel('top-1 accuracy (%); bars are one standard deviation', fontsize='small')
    if single:
        title = f'{title}\n{NETWORKS[rows[0].cell.network].title}'
    figure.suptitle(title, fontsize='medium')  # over the whole width, which the names take from the axes
    axes.grid(alpha=0.3)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc='outside lower center', ncols=3, fontsize='small')
    figure.savefig(out, dpi=150)


def draw_sweep(title: str, axis: str, rows: Sequence[Row], out: Path) -> None:
    """One line per network and method through the means after the last epoch, with their spread, every run as a dot.

    All rows have runs.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(6, 4), layout='constrained')
    panel = figure.subplots()
    label, scale = AXES[axis]
    panel.set_xscale(scale)
    lines: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.cell.swept[axis]):
        name = f'{NETWORKS[row.cell.network].title}, {METHODS[row.cell.method].title}'
        lines.setdefault(name, []).append(row)
    for name, found in lines.items():
        places = [row.cell.swept[axis] for row in found]
        means, spreads = zip(*(mean_spread(row.last) for row in found), strict=True)
        line = panel.errorbar(places, means, spreads, marker='o', markersize=4, capsize=3, label=name)
        for place, row in zip(places, found, strict=True):
            panel.plot([place] * len(row.last), row.last, '.', color=line[0].get_color(), alpha=0.4)
    ticks = sorted({row.cell.swept[axis] for row in rows})
    panel.set_xticks(ticks, [f'{tick:g}' for tick in ticks])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set(xlabel=label, ylabel='top-1 accuracy (%)')
    panel.set_title(title, fontsize='medium', wrap=True)
    panel.grid(alpha=0.3)
    panel.legend(fontsize='small')
    figure.savefig(out, dpi=150)

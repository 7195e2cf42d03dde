"""What the study found: arms compared with their reference, as tables, as a figure of all points, and as a curve."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from mmcds.evaluation.summary import markdown_table, spread_text
from mmcds.openmmlab.work_dir import write_whole
from mmcds.study.plan import ARMS, POINTS, REFERENCE, Arm, Point, arms_of
from mmcds.study.results import Results
from mmcds.study.statistics import Comparison, compare, holm, seeds_needed

#: The difference that the number of seeds is computed for, in points of accuracy.
DIFFERENCE = 0.3
HEADER = ('arm', 'setting', 'held-out (%)', 'test (%)', 'difference', '95 %', 'p', '', 'ECE (%)', 'NLL (nats)')


@dataclass(frozen=True)
class Line:
    """An arm at a point, with one value of its setting.

    Attributes:
        arm: The arm.
        value: The value.
        chosen: Whether the trials chose it; otherwise it is the published one.
        held_out: Accuracy on the held-out images with it, of every trial, in percent.
        accuracy: Accuracy on the test images by seed, in percent.
        ece: Calibration error of the same, in percent.
        nll: Negative log-likelihood of the same, in nats.
        difference: From the reference with its chosen value; None for that itself.
        adjusted: Its p, by Holm's rule over the lines of the point.
    """

    arm: Arm
    value: float
    chosen: bool
    held_out: tuple[float, ...]
    accuracy: dict[int, float]
    ece: tuple[float, ...]
    nll: tuple[float, ...]
    difference: Comparison | None = None
    adjusted: float = 1.0

    @property
    def verdict(self) -> str:
        """Return what the study says of the arm beside the reference; nothing of the reference itself."""
        if self.difference is None:
            return ''
        if self.adjusted >= 0.05:
            return 'no difference found'
        return 'better' if self.difference.mean > 0 else 'worse'

    @property
    def origin(self) -> str:
        """Return where the value comes from, for methods that have a published one."""
        if self.arm.published is None:
            return ''
        names = ['chosen'] * self.chosen + ['published'] * (self.value == self.arm.published)
        return f' ({", ".join(names)})'


def lines_of(point: Point, results: Results) -> list[Line]:
    """Return the arms of a point whose runs have all ended, compared with the reference if that is one of them."""
    found = []
    for arm in arms_of(point):
        for value, jobs in results.finals(point, arm).items():
            accuracy = results.scores(jobs)
            if len(accuracy) < len(jobs):
                continue
            found.append(
                Line(
                    arm,
                    value,
                    value == results.choice(point, arm),
                    tuple(results.scores(results.trials(point, arm)[value]).values()),
                    accuracy,
                    tuple(100 * each for each in results.scores(jobs, 'ece').values()),
                    tuple(results.scores(jobs, 'nll').values()),
                )
            )
    base = next((line for line in found if line.arm.name == point.reference and line.chosen), None)
    if base is None:
        return found
    compared = [None if line is base else compare(line.accuracy, base.accuracy) for line in found]
    adjusted = iter(holm([each.p for each in compared if each is not None]))
    return [
        line if each is None else replace(line, difference=each, adjusted=next(adjusted))
        for line, each in zip(found, compared, strict=True)
    ]


def texts(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """Return the rows of a point's table."""
    rows: list[tuple[str, ...]] = []
    for line in lines:
        difference = ('', '', '', '')
        if line.difference is not None:
            each = line.difference
            difference = (
                f'{each.mean:+.2f}',
                f'{each.low:+.2f} to {each.high:+.2f}',
                f'{line.adjusted:.3f}',
                line.verdict,
            )
        rows.append(
            (
                line.arm.title,
                f'{line.arm.setting} {line.value:g}{line.origin}',
                spread_text(line.held_out),
                spread_text(tuple(line.accuracy.values())),
                *difference,
                spread_text(line.ece),
                spread_text(line.nll, 3),
            )
        )
    return rows


def remark(lines: Sequence[Line]) -> str:
    """Return how many seeds a difference of :data:`DIFFERENCE` needs at a point; nothing without comparisons."""
    spreads = [line.difference.spread for line in lines if line.difference is not None]
    if not spreads:
        return ''
    typical = median(spreads)
    return (
        f'The differences of a seed spread by {typical:.2f} points (median of the arms), so a true difference of '
        f'{DIFFERENCE:g} points would need {seeds_needed(typical, DIFFERENCE)} seeds to be found in four of '
        'five studies.'
    )


#: Colour of an interval by what the study says of the arm.
_COLOURS = {'better': 'tab:green', 'worse': 'tab:red'}


def draw(found: Mapping[str, Sequence[Line]], out: Path) -> None:
    """Draw the differences from the references with their intervals, the arms of a point below its name."""
    rows: list[tuple[str, Line | None]] = []
    for name, lines in found.items():
        compared = [line for line in lines if line.difference is not None]
        if compared:
            point = POINTS[name]
            other = '' if point.reference == REFERENCE else f', from {ARMS[point.reference].title}'
            rows.append((f'{point.title}{other}', None))
            rows += [(f'{line.arm.title}{line.origin}', line) for line in compared]
    figure = Figure(figsize=(8, 0.8 + 0.22 * len(rows)), layout='constrained')
    axes = figure.subplots()
    for height, (_, line) in enumerate(rows):
        if line is not None and line.difference is not None:
            each, colour = line.difference, _COLOURS.get(line.verdict, 'tab:gray')
            axes.plot((each.low, each.high), (height, height), color=colour)
            axes.plot(each.mean, height, 'o' if line.chosen else 'x', color=colour, markersize=4)
    axes.axvline(0, color='black', linewidth=0.8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=7)
    for tick, (_, line) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight('normal' if line is not None else 'bold')
    axes.grid(axis='x', alpha=0.3)
    axes.tick_params(axis='x', labelsize='small')
    axes.set_xlabel(
        f'difference from {ARMS[REFERENCE].title}, in points of accuracy:\nmean and 95 % interval', fontsize='small'
    )
    figure.savefig(out, dpi=150)


#: Lines of the curve: an arm, what it is compared with, and what that difference is.
CURVES = (
    ('both', 'one', 'the second view in the cross-entropy'),
    ('supcon', 'both', 'the contrast, beside both views'),
)


def curve(found: Mapping[str, Sequence[Line]]) -> dict[str, list[tuple[Point, Comparison]]]:
    """Return what the second view and the contrast add, at every point whose labels are all there and right."""
    result: dict[str, list[tuple[Point, Comparison]]] = {title: [] for *_, title in CURVES}
    for name, lines in found.items():
        arms, point = {line.arm.name: line.accuracy for line in lines}, POINTS[name]
        for ours, others, title in CURVES:
            if ours in arms and others in arms and point.noise == 0 and point.labelled == 1:
                result[title].append((point, compare(arms[ours], arms[others])))
    return {title: sorted(rows, key=lambda row: row[0].per_class) for title, rows in result.items() if rows}


def draw_curve(lines: Mapping[str, Sequence[tuple[Point, Comparison]]], out: Path) -> None:
    """Draw what the second view and the contrast add over the images of a class, in colour and in grey."""
    figure = Figure(figsize=(9, 3.6), layout='constrained')
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (title, rows) in zip(panels, lines.items(), strict=False):
        for kind, marker in (('colour', 'o'), ('grey', 's')):
            own = [(point.per_class, each) for point, each in rows if point.name.startswith(kind)]
            places, means = [place for place, _ in own], [each.mean for _, each in own]
            ends = [[each.mean - each.low for _, each in own], [each.high - each.mean for _, each in own]]
            axes.errorbar(places, means, ends, marker=marker, markersize=4, capsize=3, linewidth=1.2, label=kind)
        axes.axhline(0, color='black', linewidth=0.8)
        axes.set_xscale('log')
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter('{x:g}')
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.15)
        axes.set_xlabel('training images of a class', fontsize='small')
        axes.set_title(f'what is added by {title}', fontsize='medium')
        axes.grid(alpha=0.3)
    panels[0].set_ylabel('points of accuracy, mean and 95 % interval', fontsize='small')
    panels[0].legend(fontsize='small')
    figure.savefig(out, dpi=150)


def write(found: Mapping[str, Sequence[Line]], used: Iterable[str], folder: Path) -> list[Path]:
    """Write the page of results and its figures.

    Args:
        found: The lines of every point.
        used: What the runs were made with, one sentence each.
        folder: Where to.

    Returns:
        The files.
    """
    page = [
        '# Results of the study',
        '',
        'Written by `python tools/study.py show --write docs`; [study.md](study.md) says what was asked and how.',
        "Mean ± sample standard deviation over seeds; p by paired t-tests with Holm's correction within a point. An",
        'arm is called better or worse than the reference of its point where p < 0.05.',
        '',
        *sorted(used),
        '',
        '![differences from the references](study.png)',
        '',
    ]
    files = [folder / 'study_results.md', folder / 'study.png']
    curves = curve(found)
    rows = [
        (title, point.title, f'{point.per_class:.3g}', f'{each.mean:+.2f}', f'{each.low:+.2f} to {each.high:+.2f}')
        for title, row in curves.items()
        for point, each in row
    ]
    if rows:
        files.append(folder / 'study_curve.png')
        draw_curve(curves, files[-1])
        page += [
            '## What the second view adds, and what the contrast',
            '',
            markdown_table(('added', 'point', 'images of a class', 'points of accuracy', '95 %'), rows),
            '',
            'These intervals are not corrected for their number.',
            '',
            '![by images of a class](study_curve.png)',
            '',
        ]
    for name, lines in found.items():
        page += [f'## {POINTS[name].title}', '', markdown_table(HEADER, texts(lines)), '', remark(lines), '']
    write_whole(files[0], '\n'.join(page).rstrip() + '\n')
    draw(found, files[1])
    return files

"""How repetitions of a run are put together: mean, spread, their text, and tables in Markdown."""

import statistics
from collections.abc import Sequence


def mean_spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation of repetitions; of a single value, it and 0."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def spread_text(values: Sequence[float], digits: int = 2) -> str:
    """Return ``mean ± sample standard deviation``, the mean alone of a single value, nothing of none."""
    if not values:
        return ''
    mean, spread = mean_spread(values)
    return f'{mean:.{digits}f} ± {spread:.{digits}f}' if len(values) > 1 else f'{mean:.{digits}f}'


def plain(text: object) -> str:
    """Return a text as matplotlib shows it as it is.

    A dollar begins no formula, and a space keeps a name that begins with an underscore in legends.
    """
    return f'{" " if str(text).startswith("_") else ""}{text}'.replace('$', r'\$')


def markdown_cell(text: str) -> str:
    """Return a text as Markdown shows it as it is, in one cell: no column, line, tag, link or code begins in it."""
    for character in '\\|`[]':
        text = text.replace(character, f'\\{character}')
    return ' '.join(text.replace('&', '&amp;').replace('<', '&lt;').splitlines())


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, one line per row, without a line break at its end; see :func:`markdown_cell`.

    Raises:
        ValueError: If a row has not as many cells as the header.
    """
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f'the header has {len(header)} cells, the rows have {sorted({len(row) for row in rows})}')
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(map(markdown_cell, line)) + ' |' for line in lines)

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


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, one line per row, without a line break at its end.

    Raises:
        ValueError: If a row has not as many cells as the header.
    """
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f'the header has {len(header)} cells, the rows have {sorted({len(row) for row in rows})}')
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)

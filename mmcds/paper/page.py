"""All tables and figures on one page: the paper's numbers, ours, their difference, plots, and what was not run.

The page is a single HTML file that loads nothing from elsewhere, so it can be sent to a reader or put beside a paper.
"""

import base64
import re
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from mmcds.paper.report import Row, provenance_of, to_texts, write_report
from mmcds.paper.tables import TABLES

STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #0a7d38; --bad: #b3261e; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 1rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: left; vertical-align: top; }
th { white-space: nowrap; } td:first-child { min-width: 11rem; }
td:not(.number):last-child { min-width: 14rem; } td.number { text-align: right; white-space: nowrap; }
td.up { color: var(--good); } td.down { color: var(--bad); }
img { background: white; height: auto; max-width: 100%; }
summary { cursor: pointer; padding: .5rem 0; } .quiet { opacity: .75; }
"""


def cell_class(name: str, text: str) -> str:
    """Return the class of a table cell: numbers stand to the right, differences have a colour."""
    if name == 'difference' and text:
        return 'number up' if text.startswith('+') else 'number down'
    return 'number' if re.fullmatch(r'-?[\d.,]+( ± [\d.]+)?', text) else ''


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table that scrolls sideways where the page is narrow."""
    head = ''.join(f'<th>{escape(name)}</th>' for name in header)
    body = ''.join(
        '<tr>'
        + ''.join(
            f'<td class="{cell_class(name, text)}">{escape(text)}</td>' for name, text in zip(header, row, strict=True)
        )
        + '</tr>\n'
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>'


def plots(title: str, rows: Sequence[Row], name: str) -> str:
    """Return the plots of a table as images within the page; none if nothing was run."""
    if not any(row.last for row in rows):
        return ''
    with tempfile.TemporaryDirectory() as folder:
        files = [path for path in write_report(title, rows, folder, name) if path.suffix == '.png']
        images = [base64.b64encode(path.read_bytes()).decode() for path in files]
    return ''.join(
        f'<p><img alt="{escape(title)}: paper and ours" src="data:image/png;base64,{image}"></p>' for image in images
    )


def section(name: str, title: str, rows: Sequence[Row], remarks: Sequence[str]) -> str:
    """Return heading, plots, table and remarks of a table; one in which nothing was run is folded up."""
    run = sum(bool(row.last) for row in rows)
    table = html_table(*to_texts(rows))
    notes = ''.join(f'<li>{escape(remark)}</li>' for remark in remarks)
    made = ''.join(f'<p class="quiet">{escape(text)}.</p>' for text in provenance_of(rows))
    summary = f'{len(rows)} cells, {run} of them run by us'
    return (
        f'<section><h2 id="{name}">{escape(title)}</h2>\n{plots(title, rows, name)}\n'
        f'<details{" open" if run else ""}><summary>{summary}</summary>\n{table}</details>\n{made}'
        + (f'<p>The paper on its own numbers:</p><ul>{notes}</ul>' if notes else '')
        + '</section>\n'
    )


def write_page(
    title: str,
    tables: Mapping[str, tuple[str, Sequence[Row]]],
    remarks: Mapping[str, Sequence[str]],
    out: str | Path,
    runs: str | Path,
) -> Path:
    """Write the page.

    Args:
        title: Of the page.
        tables: Title and rows by name, in order.
        remarks: What is to be said below a table, by its name.
        out: The file.
        runs: Folder that the results were read from.

    Returns:
        The file.
    """
    overview = [
        (
            f'{name}: {TABLES[name][0]}',
            str(len(rows)),
            str(sum(len(row.cell.paper) for row in rows)),
            str(sum(bool(row.last) for row in rows)),
            str(sum(len(row.last) for row in rows)),
        )
        for name, (_, rows) in tables.items()
    ]
    links = ''.join(f'<a href="#{name}">{escape(name)}</a>' for name in tables)
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n'
        '<p>Top-1 accuracy (detectors: AP) in percent. Ours: mean ± sample standard deviation over runs, after the '
        'last epoch and of the best one; the difference is last - paper. <span class="quiet">The runs were read from '
        f'{escape(str(runs))}.</span></p>\n<nav>{links}</nav>\n'
        + html_table(('table', 'cells', 'numbers of the paper', 'cells run by us', 'runs'), overview)
        + ''.join(section(name, text, rows, remarks.get(name, ())) for name, (text, rows) in tables.items())
        + '</body></html>\n'
    )
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding='utf-8')
    return out

"""The page of all tables: complete, self-contained, escaped, with plots where something was run."""

import json
import re
from html.parser import HTMLParser

from mmcds.evaluation.sweep import RESULT
from mmcds.paper import TABLES, cell, collect
from mmcds.paper.page import cell_class, html_table, write_page
from mmcds.paper.report import run_folder

MADE = dict(versions='torch 9', device='<card>')


class Reader(HTMLParser):
    """Counts what a page consists of, and checks that everything that is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.rows, self.sources, self.links = [], {}, [], [], []
        self.text = text
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found[tag] = self.found.get(tag, 0) + 1
        attrs = dict(attrs)
        self.sources += [attrs['src']] if 'src' in attrs else []
        self.links += [attrs['href']] if 'href' in attrs else []
        self.rows += [[]] if tag == 'tr' else []
        if tag not in ('meta', 'img'):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ('td', 'th'):
            self.rows[-1].append(data)


def test_the_page_has_every_number_of_the_paper_and_loads_nothing(tool, tmp_path, capsys):
    ran = cell('table1/resnet18_cifar100/cds')
    for seed, accuracy in enumerate((79.0, 80.0)):
        folder = run_folder(tmp_path, ran, seed)
        folder.mkdir(parents=True)
        record = dict(accuracy=accuracy, best=81.0, metrics={}, provenance=MADE | dict(ended=f'2026-01-0{2 - seed}'))
        (folder / RESULT).write_text(json.dumps(record))
    tool('paper').main(['report', '--out', str(tmp_path)])
    assert capsys.readouterr().out.strip() == str(tmp_path / 'report.html')
    page = Reader((tmp_path / 'report.html').read_text())
    cells = [each for _, found in TABLES.values() for each in found]
    assert page.found['section'] == len(TABLES)
    assert page.found['tr'] == len(cells) + len(TABLES) * 2 + 1
    texts = [text for row in page.rows for text in row]
    for each in cells:
        if each.number is not None:
            assert f'{each.number:.2f}' in texts, each.name
    own = next(row for row in page.rows if '79.50 ± 0.71' in row)
    assert own[:3] == ['ResNet-18', 'cifar100', 'CDS']
    assert {'80.84', '81.00 ± 0.00', '2', '-1.34'} <= set(own)
    assert all(source.startswith('data:image/png;base64,') for source in page.sources)
    assert len(page.sources) == 1, 'a plot of the one table that was run'
    assert page.links == [f'#{name}' for name in TABLES]
    assert '2 runs trained with torch 9; &lt;card&gt;; ended 2026-01-01 to 2026-01-02.' in page.text
    assert 'is stated as' in (tmp_path / 'report.html').read_text(), 'the paper on its own numbers'


def test_a_page_of_some_tables_has_these_alone_and_nothing_is_taken_for_markup(tmp_path):
    rows = collect([cell('figure2/resnet18_cifar10/semi_cds-10_labels')], tmp_path)
    out = write_page('a < b', {'figure2': ('<b>', rows)}, {'figure2': ['x & y']}, tmp_path / 'new/page.html', '<runs>')
    text = out.read_text()
    assert 'a &lt; b' in text
    assert '&lt;b&gt;' in text
    assert 'x &amp; y' in text
    assert '&lt;runs&gt;' in text
    assert '<b>' not in text
    assert Reader(text).found['section'] == 1


def test_numbers_stand_to_the_right_and_differences_have_a_colour():
    kinds = {
        text: cell_class('last', text) for text in ('80.84', '79.50 ± 0.71', '-1', '', '10 % labels', 'ResNet-18')
    }
    assert kinds == {
        '80.84': 'number',
        '79.50 ± 0.71': 'number',
        '-1': 'number',
        '': '',
        '10 % labels': '',
        'ResNet-18': '',
    }
    assert [cell_class('difference', text) for text in ('+0.10', '-0.10', '')] == ['number up', 'number down', '']
    assert re.search('<td class="number up">\\+1</td>', html_table(['difference'], [['+1']]))

"""The paper's numbers: all of them, and those of a list that was made on its own."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from mmcds.paper import TABLES, cells
from mmcds.paper.numbers import METRICS, NUMBERS

#: The other list; it is no part of the package.
LIST = Path(__file__).resolve().parents[3] / 'shared' / 'paper' / 'numbers.csv'
COUNTS = dict(table1=50, table2=50, table3=30, table4=40, table5=25, table6=25, table7=60, table8=256, table9=10)
METRIC_NAMES = {
    'top-1 accuracy (%)': 'top1',
    'top-5 accuracy (%)': 'top5',
    'AP': 'ap',
    'AP_S': 'ap_s',
    'AP_M': 'ap_m',
    'AP_L': 'ap_l',
}


def test_every_table_has_as_many_numbers_as_in_the_paper():
    found = Counter()
    for (table, *_), values in NUMBERS.items():
        found[table] += len(values)
    assert found == {**COUNTS, 'figure4': 4, 'figure5': 4, 'ablations': 5}
    assert sum(value is None for values in NUMBERS.values() for value in values.values()) == 12, "Table 7's dashes"
    assert {metric for values in NUMBERS.values() for metric in values} == set(METRICS)


def test_every_number_stands_in_one_cell():
    held = {
        (each.table, each.network, each.dataset, each.method, each.setting): dict(each.paper)
        for table in TABLES
        for each in cells(table)
        if each.paper
    }
    known = {
        place: {m: value for m, value in values.items() if value is not None} for place, values in NUMBERS.items()
    }
    assert held == {place: values for place, values in known.items() if values}


def test_the_numbers_are_those_of_the_other_list():
    if not LIST.is_file():
        pytest.skip('the list is no part of the package')
    theirs = Counter()
    with LIST.open(newline='') as stream:
        for row in csv.DictReader(stream):
            if row['table'].startswith('Table'):
                value = float(row['value']) if row['value'] else None
                theirs[f'table{row["table"][6:]}', METRIC_NAMES[row['metric']], value] += 1
    ours = Counter()
    for (table, *_), values in NUMBERS.items():
        if table.startswith('table'):
            ours.update((table, metric, value) for metric, value in values.items())
    assert ours == theirs
    assert sum(ours.values()) == sum(COUNTS.values())


def test_places_that_show_the_same_training_have_the_same_number():
    def number(*place):
        return NUMBERS[place]['top1']

    for method in ('plain', 'cds'):  # Figures 4 and 5 show the ResNet-18 of Table 1
        row = ('resnet18', 'cifar100', method, '')
        assert number('figure4', *row) == number('figure5', *row) == number('table1', *row)
    resnet50 = ('resnet50', 'cifar100', 'cds')
    assert number('ablations', *resnet50, 'downsampling taps') == number('table1', *resnet50, '')
    for table, student in (('table7', 'in1k'), ('table3', 'in1k')):
        assert number(table, 'resnet18', student, 'plain', '') == 69.21

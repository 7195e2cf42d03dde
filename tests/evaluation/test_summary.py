"""Mean, spread and tables of repetitions."""

import pytest

from mmcds.evaluation.summary import markdown_table, mean_spread, spread_text


def test_summary_is_mean_and_sample_standard_deviation():
    assert mean_spread((80.0, 82.0, 84.0)) == (82.0, 2.0)
    assert mean_spread([50.0]) == (50.0, 0.0)
    assert [spread_text(values, 1) for values in ((80.0, 82.0, 84.0), (50.04,), ())] == ['82.0 ± 2.0', '50.0', '']


def test_a_table_has_as_many_cells_in_every_line():
    assert markdown_table(('a', 'b'), [('1', '2')]) == '| a | b |\n| --- | --- |\n| 1 | 2 |'
    with pytest.raises(ValueError, match='the header has 2 cells, the rows have \\[1, 2\\]'):
        markdown_table(('a', 'b'), [('1',), ('1', '2')])

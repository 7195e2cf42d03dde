"""What the paper says of its own numbers."""

import pytest

from mmcds.paper.claims import Claim, claims, gain, lead, values
from mmcds.paper.tables import TABLES


@pytest.mark.parametrize(
    'stated, computed, agrees',
    [('0.90', 0.9049, True), ('0.90', 0.9051, False), ('0.6', 0.649, True), ('11', 12, False), ('-0.2', 0.2, False)],
)
def test_a_number_agrees_to_the_digits_that_are_printed(stated, computed, agrees):
    assert Claim('Section 1', 'something', stated, computed).agrees == agrees


def test_the_statements_that_differ_are_those_that_were_found_by_hand():
    differing = [(each.where, each.text, round(each.computed, 2)) for each in claims() if not each.agrees]
    assert len(differing) == 20
    for found in (
        ('Section 1', 'ResNet-18, ImageNet: lead over the second-best KD method', 1.61),
        ('Section 4.2', 'Table 1: mean lead over the second best', 1.04),
        ('Table 4', 'Faster R-CNN: AP_L of DSN minus that of the baseline, as printed', 0.2),
        ('Table 5', 'DKS on Flowers minus the baseline, as printed', 1.42),
        ('Section 4.2', 'Table 8, cifar100: mean gain', 5.01),
        ('Section 4.2', 'Table 8, cifar100: mean lead over the second best', 1.33),
        ('Section 4.2', 'Table 7: mean gain', 3.63),
        ('Section 4.2', 'Table 7: mean lead over the second best', 1.58),
        ('Section 5.2', 'SupCon3 minus Ours1', -1.3),
        ('Section 5.2', 'Ours3 minus SupCon3', 2.8),
    ):
        assert found in differing
    assert {each.table for each in claims()} <= {'', *TABLES}


def test_means_are_over_the_rows_of_a_table():
    assert values('table3', 'plain') == {'resnet18 in1k ': 69.21, 'resnet34 in1k ': 73.17, 'resnet50 in1k ': 75.30}
    assert gain('table3', 'cds') == pytest.approx((3.64 + 3.02 + 2.95) / 3)
    assert lead('table3', 'cds', ('dsn',)) == pytest.approx(gain('table3', 'cds') - gain('table3', 'dsn'))


def test_the_tool_prints_them_with_the_table_that_they_are_about(tool, tmp_path, capsys):
    tool('paper').main(['claims'])
    said = capsys.readouterr().out
    assert 'Ours3 minus SupCon3' in said
    assert 'its rows say the reverse' in said
    tool('paper').main(['collect', 'table9', '--out', str(tmp_path)])
    remark = 'SupCon3 minus Ours1 is stated as 0.4; the numbers give -1.30 (0.4 is that of SupCon1).'
    assert remark in capsys.readouterr().out
    assert remark in (tmp_path / 'table9.md').read_text()

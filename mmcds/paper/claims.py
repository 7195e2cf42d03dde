"""What the paper's text says of its own numbers, computed from them."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mmcds.paper.numbers import NUMBERS
from mmcds.paper.tables import BASELINES, DEEP, DETECTORS

Values = dict[str, float]
#: Forms of deep supervision that the paper compares its own with.
OTHERS = [method for method in DEEP if method not in ('plain', 'cds')]


class Claim(NamedTuple):
    """A statement about numbers of the paper.

    Attributes:
        where: Section, table or figure.
        text: What is stated.
        stated: The number that is stated, as it is printed.
        computed: What the numbers give.
        note: Of what the statement is true, or what else is to be known.
    """

    where: str
    text: str
    stated: str
    computed: float
    note: str = ''

    @property
    def agrees(self) -> bool:
        """Return whether both are the same to the digits that are printed."""
        digits = len(self.stated.partition('.')[2])
        return abs(float(self.stated) - self.computed) < 0.5 * 10**-digits + 1e-9

    @property
    def table(self) -> str:
        """Return the key of the table or figure that the numbers are in; empty for the paper as a whole."""
        named = re.search(r'(Table|Figure) (\d)', f'{self.where} {self.text}')
        if named:
            return f'{named[1].lower()}{named[2]}'
        places = {'Section 5.2': 'table9', 'Section 5.3': 'ablations'}
        return places.get(self.where) or next(
            (key for word, key in (('AP', 'table4'), ('KD', 'table7')) if word in self.text), ''
        )

    def __str__(self) -> str:
        note = f' ({self.note})' if self.note else ''
        return f'{self.where}: {self.text} is stated as {self.stated}; the numbers give {self.computed:.2f}{note}.'


def values(table: str, method: str, dataset: str | None = None, metric: str = 'top1') -> Values:
    """Return the numbers of a method, by network (and data set, where several are asked for)."""
    return {
        f'{network} {data} {setting}': found
        for (where, network, data, which, setting), numbers in NUMBERS.items()
        if (where, which) == (table, method) and dataset in (None, data)
        for found in [numbers.get(metric)]
        if found is not None
    }


def mean(found: Mapping[str, float]) -> float:
    """Return the mean of some numbers."""
    return sum(found.values()) / len(found)


def gain(table: str, own: str, dataset: str | None = None) -> float:
    """Return the mean of the paper's method minus that of plain training."""
    return mean(values(table, own, dataset)) - mean(values(table, 'plain', dataset))


def lead(table: str, own: str, methods: Iterable[str], dataset: str | None = None, rows: bool = False) -> float:
    """Return the mean lead over the best other method: the best by its mean over all rows, or in every row anew."""
    ours = values(table, own, dataset)
    others = [values(table, method, dataset) for method in methods]
    if rows:
        best = {row: max(found[row] for found in others if row in found) for row in ours}
        return mean(ours) - mean(best)
    return mean(ours) - max(mean(found) for found in others if found.keys() == ours.keys())


def one(*place: str, metric: str = 'top1') -> float:
    """Return one number of the paper.

    Raises:
        KeyError: If there is none.
    """
    found = NUMBERS[place][metric]  # type: ignore[index]
    if found is None:
        raise KeyError(place)
    return found


def _table9(first: tuple[str, str], second: tuple[str, str]) -> float:
    return one('table9', 'resnet50', 'in1k', *first) - one('table9', 'resnet50', 'in1k', *second)


def _compared() -> float:
    own = {'plain', 'cds', 'cds_distill'}
    return float(
        len({method for (table, _, _, method, _) in NUMBERS if table.startswith('table') and table < 'table9'} - own)
    )


def claims() -> list[Claim]:
    """Return every statement of the text that its numbers can be asked about, in the order of the paper."""
    detectors = ('resnet50', 'coco')
    resnet18 = {
        method: found
        for (table, network, _, method, _), numbers in NUMBERS.items()
        if (table, network) == ('table7', 'resnet18')
        for found in [numbers['top1']]
        if found is not None
    }
    dsn, plain, cds = (
        {detector: one('table4', *detectors, method, detector, metric='ap_l') for detector in DETECTORS}
        for method in ('dsn', 'plain', 'cds')
    )
    fine = ('cub200', '3.80'), ('cars', '2.43'), ('flowers', '1.73'), ('dogs', '4.77'), ('aircraft', '2.25')
    return [
        Claim('Section 1', 'methods compared with', '11', _compared()),
        Claim(
            'Section 1',
            'ResNet-18, ImageNet: lead over the second-best KD method',
            '2.16',
            resnet18['cds_distill'] - max(resnet18[method] for method in BASELINES if method in resnet18),
            f'{resnet18["cds_distill"] - resnet18["crd"]:.2f} over CRD; leaves out SSKD',
        ),
        Claim('Section 4.2', 'Table 1: mean gain', '3.44', gain('table1', 'cds')),
        Claim(
            'Section 4.2',
            'Table 1: mean lead over the second best',
            '1.05',
            lead('table1', 'cds', OTHERS),
            f'{lead("table1", "cds", OTHERS, rows=True):.2f} over the second best of every row',
        ),
        Claim('Section 4.2', 'Table 2: mean gain', '1.70', gain('table2', 'cds')),
        Claim('Section 4.2', 'Table 2: mean lead over the second best', '0.90', lead('table2', 'cds', OTHERS)),
        Claim('Section 4.2', 'Table 3: mean gain', '3.20', gain('table3', 'cds')),
        Claim('Section 4.2', 'Table 3: mean lead over the second best', '1.83', lead('table3', 'cds', OTHERS)),
        Claim(
            'Table 3',
            'ResNet-18: top-5 of DSN minus that of the baseline is no loss',
            '0.00',
            min(
                0.0,
                *(
                    values('table3', 'dsn', metric='top5')[row] - value
                    for row, value in values('table3', 'plain', metric='top5').items()
                    if 'resnet18' in row
                ),
            ),
            'deep supervision is below the baseline',
        ),
        *(
            Claim(
                'Section 4.2',
                f'{detector}: gain in AP',
                stated,
                one('table4', *detectors, 'cds', detector, metric='ap')
                - one('table4', *detectors, 'plain', detector, metric='ap'),
            )
            for detector, stated in (('Faster R-CNN', '0.9'), ('RetinaNet', '0.8'))
        ),
        *(
            Claim(
                'Section 4.2',
                f'{detector}: lead over the second best in AP',
                '0.6',
                one('table4', *detectors, 'cds', detector, metric='ap')
                - max(one('table4', *detectors, method, detector, metric='ap') for method in OTHERS),
            )
            for detector in DETECTORS
        ),
        Claim(
            'Table 4',
            'Faster R-CNN: AP_L of DSN minus that of the baseline, as printed',
            '-0.2',
            dsn['Faster R-CNN'] - plain['Faster R-CNN'],
            'the sign',
        ),
        Claim(
            'Table 4',
            'RetinaNet: AP_L of CDS minus that of the baseline is no loss',
            '0.00',
            min(0.0, cds['RetinaNet'] - plain['RetinaNet']),
            'CDS is below the baseline',
        ),
        Claim(
            'Table 5',
            'DKS on Flowers minus the baseline, as printed',
            '0.40',
            one('table5', 'resnet50', 'flowers', 'dks', '') - one('table5', 'resnet50', 'flowers', 'plain', ''),
        ),
        *(
            Claim(
                'Section 4.2',
                f'Table 6, {data}: gain',
                stated,
                gain('table6', 'cds', data),
                f'{(gain("table5", "cds", data) + gain("table6", "cds", data)) / 2:.2f} is the mean of Tables 5 and 6',
            )
            for data, stated in fine
        ),
        *(
            Claim('Section 4.2', f'Table 8, {data}: mean gain', stated, gain('table8', 'cds_distill', data))
            for data, stated in (('cifar100', '5.07'), ('cifar10', '2.20'))
        ),
        *(
            Claim(
                'Section 4.2',
                f'Table 8, {data}: mean lead over the second best',
                stated,
                lead('table8', 'cds_distill', BASELINES, data),
            )
            for data, stated in (('cifar100', '1.40'), ('cifar10', '0.87'))
        ),
        Claim('Section 4.2', 'Table 7: mean gain', '3.62', gain('table7', 'cds_distill')),
        Claim(
            'Section 4.2',
            'Table 7: mean lead over the second best',
            '1.76',
            lead('table7', 'cds_distill', BASELINES, rows=True),
            f'{lead("table7", "cds_distill", BASELINES):.2f} without SSKD',
        ),
        Claim(
            'Section 5.2',
            'SupCon3 minus Ours1',
            '0.4',
            _table9(('supcon', 'SupCon3'), ('cds', 'Ours1')),
            f'{_table9(("supcon", "SupCon1"), ("cds", "Ours1")):.1f} is that of SupCon1',
        ),
        Claim(
            'Section 5.2',
            'Ours3 minus SupCon3',
            '1.1',
            _table9(('cds_autoaug', 'Ours3'), ('supcon', 'SupCon3')),
            f'{_table9(("cds_autoaug", "Ours3"), ("supcon", "SupCon1")):.1f} is that of SupCon1',
        ),
        Claim(
            'Section 5.2', 'Ours3 minus BYOL+DSN', '1.6', _table9(('cds_autoaug', 'Ours3'), ('byol_dsn', 'BYOL+DSN'))
        ),
        Claim(
            'Section 5.3',
            'distilling embeddings minus distilling features',
            '1.27',
            one('table8', 'resnet50', 'cifar100', 'cds_distill', '')
            - one('ablations', 'resnet50', 'cifar100', 'cds_feature', ''),
        ),
        Claim(
            'Figure 3',
            'lowest accuracy that the axis shows is below the best placement without a teacher',
            '81.31',
            max(82.0, max(values('ablations', 'cds').values())),
            'the axis starts at 82.0, so the figure shows distilled students',
        ),
    ]


#: What does not follow from numbers.
REMARKS = (
    'Table 9: the caption says that Baseline1 and Baseline2 are trained with and without AutoAugment; its rows say '
    'the reverse.',
    'Equation 4: the temperature stands outside the exponential, where it cancels; we divide the similarity by it, '
    'as SimCLR does.',
)

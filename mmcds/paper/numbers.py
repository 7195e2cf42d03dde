"""The numbers of the paper, Tables 1 to 9, Figures 4 and 5 and Sections 5.3 and 5.4: ``numbers.csv`` beside this file.

Figures 2 and 3 are plots whose values the text does not give. An empty value is a dash in the paper.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Metric(NamedTuple):
    """What is compared.

    Attributes:
        title: As written in a table.
        key: Its name among the scalars of a run.
        factor: What turns the scalar of a run into the unit of the paper.
        digits: Digits after the point.
    """

    title: str
    key: str
    factor: float = 1
    digits: int = 2


#: Everything that the paper measures; the first two are those by which runs are ranked.
METRICS = {
    'top1': Metric('top-1 (%)', 'accuracy/top1'),
    'ap': Metric('AP', 'coco/bbox_mAP', 100, 1),
    'top5': Metric('top-5 (%)', 'accuracy/top5'),
    'ap_s': Metric('AP_S', 'coco/bbox_mAP_s', 100, 1),
    'ap_m': Metric('AP_M', 'coco/bbox_mAP_m', 100, 1),
    'ap_l': Metric('AP_L', 'coco/bbox_mAP_l', 100, 1),
    'ece': Metric('ECE (%)', 'calibration/ece', 100),
    'loss': Metric('training cross-entropy', 'train/loss_ce', 1, 3),
}
RANKING = ('top1', 'ap')

Place = tuple[str, str, str, str, str]


def read_numbers(path: Path) -> dict[Place, dict[str, float | None]]:
    """Return the values of every place, by metric; None is a dash.

    A place is (table, network, data set, method, setting), as a :class:`mmcds.paper.cells.Cell` names them.
    """
    found: dict[Place, dict[str, float | None]] = {}
    with path.open(newline='') as stream:
        for row in csv.DictReader(stream):
            place = (row['table'], row['network'], row['dataset'], row['method'], row['setting'])
            found.setdefault(place, {})[row['metric']] = float(row['value']) if row['value'] else None
    return found


NUMBERS: Mapping[Place, Mapping[str, float | None]] = read_numbers(Path(__file__).with_name('numbers.csv'))

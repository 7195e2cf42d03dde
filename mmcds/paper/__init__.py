"""The tables and figures of the paper as data: cells, the config of each, and what our runs of it gave."""

from mmcds.after_import import require

require('mmpretrain', 'openmmlab', __name__)

from mmcds.paper.cells import Cell, Method, Network
from mmcds.paper.compose import compose, why_not
from mmcds.paper.report import collect, to_markdown, write_report
from mmcds.paper.tables import METHODS, NETWORKS, TABLES, cell, cells

__all__ = [
    'METHODS',
    'NETWORKS',
    'TABLES',
    'Cell',
    'Method',
    'Network',
    'cell',
    'cells',
    'collect',
    'compose',
    'to_markdown',
    'why_not',
    'write_report',
]

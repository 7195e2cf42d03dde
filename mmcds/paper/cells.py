"""What a cell of a table is, and what it names: network, data set and method."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmcds.paper.numbers import RANKING


@dataclass(frozen=True)
class Network:
    """A network of the paper.

    Attributes:
        title: As written in a table.
        fragment: Name under ``configs/_base_/networks``.
        stages: Numbers of the stages that stand for the four of a ResNet, the last one last; fewer if the network
            has fewer. Taps of a method count from the end.
        residual: Whether its stages can be repeated by ``trunk='branch'``.
        options: Settings of the model beyond the fragment.
        repo_options: Settings beyond ``options`` where the fragment ``..._cifar100repo`` is taken.
    """

    title: str
    fragment: str
    stages: tuple[int, ...] = (0, 1, 2, 3)
    residual: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    repo_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A method, as the config of one network and data set that its folder has anyway.

    Attributes:
        title: As written in a table.
        leaf: Path under ``configs`` without ``.py``, with ``{base}`` for the network and data set.
        fashion: The same for the embedded images, if it is not ``leaf`` with ``resnet18w16_fashion``.
        options: Settings changed beyond the leaf.
        seed_options: Settings that get the seed of the run, beside the run itself.
    """

    title: str
    leaf: str
    fashion: str = ''
    options: Mapping[str, Any] = field(default_factory=dict)
    seed_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A number of the paper, and how to get our own.

    Attributes:
        table: ``table1`` to ``table9``, ``figure2`` to ``figure5``, ``ablations``.
        network: Key of the networks.
        dataset: ``cifar10``, ``cifar100``, ``in1k``, ...
        method: Key of the methods.
        setting: What else tells it from the other cells of the table, for people.
        options: Settings of the config that make it so.
        paper: The paper's numbers by metric, see :data:`mmcds.paper.numbers.METRICS`; empty if it gives none.
        source: Where they come from, or why there is none.
        teacher: Cell to be trained first, whose checkpoint is this one's teacher.
        start: Cell to be trained first, from whose network this one starts; from its backbone on other data.
        swept: Where the cell stands on the horizontal axes of the plots that it belongs to, by axis.
        missing: Why this build does not run it; empty if it does.
    """

    table: str
    network: str
    dataset: str
    method: str
    setting: str = ''
    options: Mapping[str, Any] = field(default_factory=dict)
    paper: Mapping[str, float] = field(default_factory=dict)
    source: str = ''
    teacher: 'Cell | None' = None
    start: 'Cell | None' = None
    swept: Mapping[str, float] = field(default_factory=dict)
    missing: str = ''

    @property
    def name(self) -> str:
        """Return ``table1/resnet18_cifar100/cds``; a setting is added to the method."""
        setting = f'-{"_".join(self.setting.replace("%", "").split())}' if self.setting else ''
        return f'{self.table}/{self.network}_{self.dataset}/{self.method}{setting}'

    @property
    def number(self) -> float | None:
        """Return the paper's top-1 accuracy or AP."""
        return next((self.paper[metric] for metric in RANKING if metric in self.paper), None)

    @property
    def first(self) -> list['Cell']:
        """Return the cells to be trained before this one, in order."""
        return [each for cell in (self.start, self.teacher) if cell is not None for each in (*cell.first, cell)]

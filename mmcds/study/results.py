"""The table of what has been run: which runs an arm has, which value its trials choose, and what is missing."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmengine.config import Config

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.work_dir import locked, write_whole
from mmcds.study.plan import ARMS, FINAL_SEEDS, POINTS, RATE, TRIAL_SEEDS, Arm, Point, compose_run, fingerprint
from mmcds.study.statistics import choose

#: Column of the table and metric of the run: top-1 accuracy in percent, fraction, nats.
METRICS = {'accuracy': 'accuracy/top1', 'ece': 'calibration/ece', 'nll': 'calibration/nll'}
#: What tells a run from the others: its place in the study, and the fingerprint of its config.
KEY = ('point', 'arm', 'stage', 'value', 'seed', 'config')
COLUMNS = (*KEY, *METRICS, 'versions', 'device', 'ended')


@dataclass(frozen=True)
class Job:
    """A run of the study, by what tells it from the others."""

    point: Point
    arm: Arm
    stage: str
    rate: float
    value: float
    seed: int

    @property
    def key(self) -> tuple[str, ...]:
        """Return the fields of :data:`KEY`."""
        mark = mark_of(self.point.name, self.arm.name, self.stage, self.rate, self.value)
        return self.point.name, self.arm.name, self.stage, f'{self.value:g}', str(self.seed), mark

    @property
    def name(self) -> str:
        """Return a name for its files."""
        return f'{self.point.name}_{self.arm.name}_{self.value:g}_{self.seed}'

    def config(self) -> Config:
        """Compose what it trains."""
        return compose_run(self.point, self.arm, self.rate, self.value, test=self.stage == 'final')


@cache
def mark_of(point: str, arm: str, stage: str, rate: float, value: float) -> str:
    """Return the fingerprint of a config."""
    return fingerprint(Job(POINTS[point], ARMS[arm], stage, rate, value, 0).config())


class Results:
    """The table of what has been run; several processes may add to one.

    Args:
        file: A CSV file; made with the first run.

    Raises:
        ConfigError: If it is another table.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows = self._read()

    def _read(self) -> dict[tuple[str, ...], dict[str, str]]:
        """Return the rows of the file by their fields of :data:`KEY`."""
        if not self.file.is_file():
            return {}
        with self.file.open(newline='') as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ConfigError(f'{self.file} is no table of the study: its columns are not {", ".join(COLUMNS)}.')
            return {tuple(row[name] for name in KEY): row for row in reader}

    def add(self, job: Job, values: Mapping[str, str]) -> None:
        """Add a run, and write all of them, with what other processes have added since."""
        with locked(self.file):
            self.rows.update(self._read())
            self.rows[job.key] = {**dict(zip(KEY, job.key, strict=True)), **values}
            text = io.StringIO()
            writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
            writer.writeheader()
            writer.writerows(self.rows[key] for key in sorted(self.rows))
            write_whole(self.file, text.getvalue())

    def find(self, job: Job) -> dict[str, str] | None:
        """Return the row of a run, if it has ended with today's settings."""
        return self.rows.get(job.key)

    def scores(self, jobs: Iterable[Job], metric: str = 'accuracy') -> dict[int, float]:
        """Return a metric by seed, of the runs that have ended."""
        found = {job.seed: self.find(job) for job in jobs}
        return {seed: float(row[metric]) for seed, row in found.items() if row is not None}

    def rate(self, point: Point, arm: Arm) -> float | None:
        """Return the learning rate of an arm: what :func:`rate_source` has chosen, once it has.

        An arm that chooses its learning rate has none beforehand, so it gets any.
        """
        return arm.values[0] if RATE in arm.keys else self.choice(*rate_source(point))

    def trials(self, point: Point, arm: Arm) -> dict[float, list[Job]]:
        """Return the trials of an arm by value; none before there is a learning rate."""
        rate = self.rate(point, arm)
        if rate is None:
            return {}
        return {value: [Job(point, arm, 'trial', rate, value, seed) for seed in TRIAL_SEEDS] for value in arm.values}

    def choice(self, point: Point, arm: Arm) -> float | None:
        """Return the chosen value of an arm's setting; None until all trials have ended."""
        scores = {value: list(self.scores(jobs).values()) for value, jobs in self.trials(point, arm).items()}
        if not scores or any(len(found) < len(TRIAL_SEEDS) for found in scores.values()):
            return None
        return choose(scores)

    def finals(self, point: Point, arm: Arm) -> dict[float, list[Job]]:
        """Return the runs that are measured on the test images, with the chosen value and the published one, by value.

        There are none before all trials have ended.
        """
        rate, value = self.rate(point, arm), self.choice(point, arm)
        if rate is None or value is None:
            return {}
        values = dict.fromkeys((value, *([] if arm.published is None else [arm.published])))
        return {each: [Job(point, arm, 'final', rate, each, seed) for seed in FINAL_SEEDS] for each in values}

    def final_jobs(self, pairs: Iterable[tuple[Point, Arm]]) -> list[Job]:
        """Return all final runs of points and arms, as far as they have chosen."""
        return [job for pair in pairs for jobs in self.finals(*pair).values() for job in jobs]


def rate_source(point: Point) -> tuple[Point, Arm]:
    """Return where, and which arm, chooses the learning rate of the arms of a point that choose something else."""
    place, name = point.rate or (point.name, point.reference)
    return POINTS[place], ARMS[name]

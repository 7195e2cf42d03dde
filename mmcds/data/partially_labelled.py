"""Data sets whose labels are changed: some are hidden (Eq. 6), beside images that never had any; or some are wrong."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import MMLogger
from mmpretrain.registry import DATASETS

from mmcds.core.errors import ConfigError
from mmcds.data.in_memory import InMemory
from mmcds.data.sample_batch import ViewBatch


def sample_identity(info: Mapping[str, Any], root: str = '') -> str:
    """Return what a sample is, wherever it stands in its data set: its path below ``root``, or a hash of its pixels.

    Args:
        info: Entry of a data set, with ``img_path`` or an array ``img``.
        root: Folder of the data set.
    """
    if 'img_path' in info:
        path = PurePosixPath(str(info['img_path']).replace('\\', '/'))
        return str(path.relative_to(root)) if root and path.is_relative_to(root) else str(path)
    image = np.ascontiguousarray(info['img'])
    return f'{image.shape}{hashlib.sha256(image.tobytes()).hexdigest()}'


def keep_per_class(labels: np.ndarray, identities: Sequence[str], counts: Mapping[int, int], seed: int) -> np.ndarray:
    """Choose samples of every class, by the rank of a hash of seed and identity.

    So the choice does not depend on the order of the samples, and a larger count adds samples to those of a
    smaller one.

    Args:
        labels: Class of every sample, (N,).
        identities: See :func:`sample_identity`.
        counts: How many to keep of every class.
        seed: Another seed, another choice.

    Returns:
        Mask of the chosen samples, (N,).
    """
    ranks = [hashlib.sha256(f'{seed}:{identity}'.encode()).digest() for identity in identities]
    kept = np.zeros(len(labels), dtype=bool)
    for label, count in counts.items():
        members = sorted(np.flatnonzero(labels == label), key=lambda index: (ranks[index], index))
        kept[members[:count]] = True
    return kept


@DATASETS.register_module()
class PartiallyLabelledDataset:
    """Keeps the labels of some samples; all others get -1, which the classifier takes as unlabelled.

    Give at most one of ``fraction``, ``per_class`` and ``labelled_file``; without any, all labels are kept. The
    first two take the same share or number of every class, always the same samples for a seed whatever the order
    of the files, and the samples of 10 % are among those of 20 %.

    The order of the samples stays, unlabelled images of a second folder follow. Use it with
    :class:`mmcds.data.SemiBatchSampler` to fix how many of both kinds are in a batch.

    Args:
        dataset: Labelled data set, or its config. Its pipeline makes the views of all images.
        fraction: Share of every class that keeps its label, in (0, 1]; rounded, at least one sample.
        per_class: Number of labels per class.
        labelled_file: Text file that names one labelled sample per line: a path below ``data_root`` or a bare
            file name, or, where the images are arrays, the index in the data set.
        seed: Chooses among the samples of a class.
        unlabelled: Config of a data set whose images are added without labels (X2 of Eq. 6), such as
            ``dict(type='CustomDataset', data_root=FOLDER, with_label=False)``. Its pipeline is not used.

    Raises:
        ConfigError: If the choice cannot be made, or a data set is none of MMPretrain's.
    """

    def __init__(
        self,
        dataset: dict | BaseDataset,
        fraction: float | None = None,
        per_class: int | None = None,
        labelled_file: str | None = None,
        seed: int = 0,
        unlabelled: dict | None = None,
    ) -> None:
        chosen = {
            key: value
            for key, value in dict(fraction=fraction, per_class=per_class, labelled_file=labelled_file).items()
            if value is not None
        }
        if len(chosen) > 1:
            raise ConfigError(f'PartiallyLabelledDataset: {chosen} are given together; choose one of them.')
        if fraction is not None and not 0 < fraction <= 1:
            raise ConfigError(f'PartiallyLabelledDataset: fraction is {fraction}; it must lie in (0, 1].')
        if per_class is not None and per_class < 1:
            raise ConfigError(f'PartiallyLabelledDataset: per_class is {per_class}; keep at least one label.')
        self.fraction, self.per_class, self.labelled_file, self.seed = fraction, per_class, labelled_file, seed
        self.parts = [self._build(dataset)] + ([self._build(unlabelled)] if unlabelled else [])
        self._labels: np.ndarray | None = None
        self.full_init()

    @staticmethod
    def _build(dataset: dict | BaseDataset) -> BaseDataset:
        built = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if not isinstance(built, BaseDataset):
            raise ConfigError(
                f'PartiallyLabelledDataset: {type(built).__name__} is a wrapper or no data set of '
                'MMPretrain. Wrap the data set itself, and put other wrappers around this one.'
            )
        return built

    @property
    def metainfo(self) -> dict:
        """Return the labelled data set's."""
        return self.parts[0].metainfo

    @property
    def pipeline(self) -> Callable:
        """Return the labelled data set's, used for all images."""
        return self.parts[0].pipeline

    def full_init(self) -> None:
        """Read the annotations and choose the labels; done once."""
        if self._labels is not None:
            return
        for part in self.parts:
            part.full_init()
        root = str(self.parts[0].data_root or '')
        labels = np.empty(len(self.parts[0]), dtype=np.int64)
        identities = []
        for index in range(len(labels)):
            info = self.parts[0].get_data_info(index)
            labels[index] = int(info['gt_label'])
            by_index = self.labelled_file is not None and 'img_path' not in info
            identities.append(str(index) if by_index else sample_identity(info, root))
        self._labels = np.full(sum(map(len, self.parts)), -1, dtype=np.int64)
        self._labels[: len(labels)] = self._change(labels, identities)

    def _change(self, labels: np.ndarray, identities: list[str]) -> np.ndarray:
        """Return the labels that the samples get, and say what has become of them."""
        kept = self._keep(labels, identities)
        per_class = np.unique(labels[kept], return_counts=True)[1]
        unlabelled = sum(map(len, self.parts)) - kept.sum()
        MMLogger.get_current_instance().info(
            f'PartiallyLabelledDataset: {kept.sum()} of {len(labels)} labels kept, {per_class.min()} to '
            f'{per_class.max()} in each of {len(per_class)} classes; {unlabelled} images unlabelled.'
        )
        return np.where(kept, labels, -1)

    def _keep(self, labels: np.ndarray, identities: list[str]) -> np.ndarray:
        if self.labelled_file is not None:
            return self._listed(identities)
        sizes = {int(label): int((labels == label).sum()) for label in np.unique(labels) if label >= 0}
        if self.per_class is not None:
            for label, size in sizes.items():
                if size < self.per_class:
                    raise ConfigError(
                        f'PartiallyLabelledDataset: per_class is {self.per_class}, but class {label} '
                        f'has {size} samples. Ask for fewer.'
                    )
            sizes = dict.fromkeys(sizes, self.per_class)
        elif self.fraction is not None:
            sizes = {label: max(1, round(self.fraction * size)) for label, size in sizes.items()}
        else:
            return labels >= 0
        return keep_per_class(labels, identities, sizes, self.seed)

    def _listed(self, names: list[str]) -> np.ndarray:
        file = Path(str(self.labelled_file))
        if not file.is_file():
            raise ConfigError(
                f'PartiallyLabelledDataset: labelled_file {file} does not exist. Name a text file '
                'with one sample per line.'
            )
        asked = {line.strip() for line in file.read_text().splitlines() if line.strip()}
        kept = np.array([name in asked or name.rsplit('/', 1)[-1] in asked for name in names])
        unknown = sorted(asked - set(names) - {name.rsplit('/', 1)[-1] for name in names})
        if unknown or not asked:
            raise ConfigError(
                f'PartiallyLabelledDataset: {file} names {len(unknown)} samples that are not in the '
                f'data set, such as {unknown[:3]}; those of the data set look like {names[:2]}. '
                'Correct the file.'
            )
        return kept

    def get_gt_labels(self) -> np.ndarray:
        """Return the class of every sample, -1 where it is unlabelled. (N,), int64."""
        self.full_init()
        assert self._labels is not None
        return self._labels

    def get_data_info(self, idx: int) -> dict:
        """Return the annotation of one sample, with the label that it is to have and its index in this data set."""
        part, inner = (self.parts[0], idx) if idx < len(self.parts[0]) else (self.parts[1], idx - len(self.parts[0]))
        return {**part.get_data_info(inner), 'gt_label': int(self.get_gt_labels()[idx]), 'sample_idx': idx}

    def __len__(self) -> int:
        return len(self.get_gt_labels())

    @property
    def batched(self) -> bool:
        """Return whether whole batches are cut from one array; see :class:`mmcds.data.InMemory`."""
        return len(self.parts) == 1 and getattr(self.parts[0], 'batched', False)

    def __getitems__(self, indices: Sequence[int]) -> ViewBatch | list[dict]:
        """Serve the loader, which asks for the indices of a batch."""
        batch = cast(InMemory, self.parts[0]).read_batch(indices) if self.batched else None
        if batch is None:
            return [self[index] for index in indices]
        batch.samples.labels = torch.from_numpy(self.get_gt_labels()[np.asarray(indices)])
        return batch

    def __getitem__(self, idx: int) -> dict:
        """Run the pipeline; another sample of the same kind takes the place of an unreadable image.

        Raises:
            RuntimeError: If that happens more often in a row than the data set's ``max_refetch``.
        """
        labels = self.get_gt_labels()
        for _ in range(self.parts[0].max_refetch + 1):
            data = self.pipeline(self.get_data_info(idx))
            if data is not None:
                return data
            idx = int(np.random.choice(np.flatnonzero((labels < 0) == (labels[idx] < 0))))
        raise RuntimeError(
            f'PartiallyLabelledDataset: no readable image in {self.parts[0].max_refetch + 1} tries. '
            'Check the image files.'
        )


@DATASETS.register_module()
class NoisyLabels(PartiallyLabelledDataset):
    """Gives some samples of every class the label of another class, chosen evenly among the others.

    The same samples get the same wrong labels for a seed whatever their order, and those of 20 % are among those of
    40 %.

    Args:
        dataset: Labelled data set, or its config.
        share: Share of every class whose labels are wrong, in [0, 1); rounded.
        seed: Chooses the samples and their labels.

    Raises:
        ConfigError: If ``share`` is outside its range, or there is one class only.
    """

    def __init__(self, dataset: dict | BaseDataset, share: float, seed: int = 0) -> None:
        if not 0 <= share < 1:
            raise ConfigError(f'NoisyLabels: share is {share}; it must lie in [0, 1).')
        self.share = share
        super().__init__(dataset, seed=seed)

    def _change(self, labels: np.ndarray, identities: list[str]) -> np.ndarray:
        classes = len(self.metainfo.get('classes') or ()) or int(labels.max()) + 1
        if classes < 2:
            raise ConfigError('NoisyLabels: the data set has one class, so no label can be wrong.')
        counts = {int(label): round(self.share * int((labels == label).sum())) for label in np.unique(labels)}
        wrong = keep_per_class(labels, identities, counts, self.seed)
        changed = labels.copy()
        for index in np.flatnonzero(wrong):
            drawn = hashlib.sha256(f'{self.seed}:label:{identities[index]}'.encode()).digest()
            changed[index] = (labels[index] + 1 + int.from_bytes(drawn[:8], 'big') % (classes - 1)) % classes
        MMLogger.get_current_instance().info(f'NoisyLabels: {wrong.sum()} of {len(labels)} labels are wrong.')
        return changed

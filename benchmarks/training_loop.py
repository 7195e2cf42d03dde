#!/usr/bin/env python
"""Whole training loop on the embedded images: `tools/train.py` against a plain PyTorch loop, side by side in one run.

    python benchmarks/training_loop.py            # three to seven minutes on two quiet cores; with --amp, bfloat16

Same images, network, heads, loss, batch and optimiser. The plain loop is written as the released scripts are: PIL
images through torchvision transforms in a DataLoader, float32, contiguous layout, a SupCon loss with masks. Ours is
configs/cds/resnet18w16_fashion.py as tools/train.py runs it, with its hooks and logs, without validation. Epochs of
the two take turns, each in its own process; the first of each does not count.
"""

import json
import logging
import os
import platform
import tempfile
import time
from argparse import ArgumentParser
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np
import torch
from contrastive_loss import masked_supcon
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from views import Cutout

import mmcds.openmmlab
from mmcds.cli.launch import add_step_arguments, keep_freed_memory, merge_step_arguments, set_loader_defaults
from mmcds.data import EmbeddedFashionMNIST

RESULTS = Path(__file__).parent / 'results'
CONFIG = Path(mmcds.__file__).parents[1] / 'configs' / 'cds' / 'resnet18w16_fashion.py'


class TwoViews(Dataset):
    """Two views of every image, through PIL, as in the released scripts."""

    def __init__(self, mean: float, std: float) -> None:
        source = EmbeddedFashionMNIST(split='train')
        found = [source.get_data_info(index) for index in range(len(source))]
        self.images = [np.asarray(info['img']).squeeze() for info in found]
        self.labels = [int(info['gt_label']) for info in found]
        shape = [transforms.RandomCrop(28, padding=2), transforms.RandomHorizontalFlip()]
        numbers = [transforms.ToTensor(), transforms.Normalize([mean / 255] * 3, [std / 255] * 3)]
        jitter = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4)], p=0.8)
        self.views = transforms.Compose([*shape, *numbers]), transforms.Compose([*shape, jitter, *numbers, Cutout(8)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[list[torch.Tensor], int]:
        image = Image.fromarray(self.images[index]).convert('RGB')
        return [view(image) for view in self.views], self.labels[index]


class PlainLoop:
    """The loop of the released scripts."""

    def __init__(self, config: Config, workers: int) -> None:
        torch.manual_seed(0)
        self.model = MODELS.build({**config.model, 'channels_last': False}).train()
        self.model.init_weights()
        preprocessor = config.data_preprocessor
        self.loader = DataLoader(
            TwoViews(preprocessor.mean[0], preprocessor.std[0]),
            batch_size=config.train_dataloader.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            multiprocessing_context='fork' if workers else None,  # the default of a spawned process starts slowly
        )
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def epoch(self) -> float:
        """Seconds of one epoch."""
        model, neck = self.model, self.model.supervisions['cds'].neck
        begin = time.perf_counter()
        for (first, second), labels in self.loader:
            features = model.backbone(torch.cat([first, second]))
            logits = model.head.fc(features[-1].mean((2, 3)))
            loss = F.cross_entropy(logits[: len(labels)], labels)
            for row in neck(features):
                loss = loss + 0.1 * masked_supcon(row, labels.repeat(2))
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            loss.item()
        return time.perf_counter() - begin


def serve_epochs(connection: Connection, config: Config, workers: int, threads: int) -> None:
    """Process of the plain loop: an epoch for every message."""
    logging.disable(logging.WARNING)
    torch.set_num_threads(threads)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        loop = PlainLoop(config, workers)
    while connection.recv():
        connection.send(loop.epoch())


class TakeTurns(Hook):
    """Lets the plain loop run an epoch before each of ours and takes the time of both."""

    def __init__(self, plain: Connection) -> None:
        self.plain = plain
        self.times: list[tuple[float, float]] = []

    def before_train_epoch(self, runner: Runner) -> None:
        """The plain loop's turn."""
        self.plain.send(True)
        self.times.append((self.plain.recv(), 0.0))
        self.begin = time.perf_counter()

    def after_train_epoch(self, runner: Runner) -> None:
        """Ours has ended."""
        self.times[-1] = (self.times[-1][0], time.perf_counter() - self.begin)


def main() -> None:
    """Measure, print and write."""
    parser = ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--epochs', type=int, default=5, help='of each loop, after one that does not count')
    parser.add_argument('--workers', type=int, help='loading processes of ours (default: what the config says)')
    parser.add_argument('--plain-workers', type=int, default=2, help='loading processes of the plain loop')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    parser.add_argument(
        '--out', type=Path, default=RESULTS, help='folder of training_loop.json, or training_loop_amp.json'
    )
    add_step_arguments(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    config = Config.fromfile(CONFIG)
    spawn = get_context('spawn')
    here, there = spawn.Pipe()
    plain_loop = spawn.Process(target=serve_epochs, args=(there, config, args.plain_workers, args.threads))
    plain_loop.start()  # with the config as it is before our settings
    if args.workers is not None:
        config.train_dataloader.num_workers = args.workers
    workers = config.train_dataloader.num_workers
    merge_step_arguments(config, args)
    set_loader_defaults(config)
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    config.test_cfg = config.test_dataloader = config.test_evaluator = None
    config.train_cfg.max_epochs = args.epochs + 1
    config.default_hooks.checkpoint.update(interval=10**6, save_best=None, save_last=False)
    config.log_level = 'WARNING'
    with here, tempfile.TemporaryDirectory() as folder, DefaultScope.overwrite_default_scope('mmpretrain'):
        config.work_dir = folder
        runner = Runner.from_cfg(config)
        turns = TakeTurns(here)
        runner.register_hook(turns, priority='VERY_LOW')
        runner.train()
        here.send(False)
        plain_loop.join()
        logging.shutdown()
    images = len(runner.train_dataloader) * config.train_dataloader.batch_size
    times = turns.times[1:]
    ratio = median(plain / ours for plain, ours in times)
    plain, ours = (median(values) for values in zip(*times, strict=True))
    result = dict(
        epochs=len(times),
        workers=workers,
        plain_workers=args.plain_workers,
        threads=args.threads,
        machine=platform.machine(),
        torch=torch.__version__,
        plain_images_per_second=images / plain,
        mmcds_images_per_second=images / ours,
        ratio=ratio,
    )
    print(
        f'plain loop {images / plain:8.1f} images/s\nmmcds      {images / ours:8.1f} images/s\nratio      {ratio:8.2f}'
    )
    args.out.mkdir(parents=True, exist_ok=True)
    name = f'training_loop{"_amp" if args.amp or args.amp_dtype else ""}.json'
    (args.out / name).write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()

#!/usr/bin/env python
"""Cost of two views of an image on one core, against other ways to make them, side by side in one run.

    python benchmarks/views.py                     # all cases, about six minutes on a quiet core
    python benchmarks/views.py imagenet small      # some cases; the others stay in the JSON file
    python benchmarks/views.py --plot-only

Cases: ``imagenet``, the worker's cost of a sample of 500 x 375 pixels, read from a JPEG file by a data set class;
``small``, a whole loader of 32 x 32 images up to the normalised batch; ``color``, the colour alone, in the loading
process and on the batch; ``scaled``, decoding at half size; ``listing``, cost per image and start-up over the length
of the list. Everything is made at run time. Every round runs each contestant once, in changing order; ratios are taken
within a round, and their median is reported, so that a change of the machine's speed meets all of them. Times are
processor time of this process, which runs one thread; the start-up of ``listing`` is given in both.
"""

import json
import os
import platform
import random
import sys
import tempfile
import time
import warnings
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import matplotlib
import numpy as np
import torch
from mmengine.dataset import default_collate as mm_collate
from mmengine.registry import DefaultScope
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2

warnings.simplefilter('ignore')
import mmcds.openmmlab  # noqa: E402, F401
from mmcds.data import InMemory, QuickFolders, collate_samples  # noqa: E402
from mmcds.views.color import NUM_UNIFORMS, apply_color, keyed_uniforms  # noqa: E402
from mmcds.views.multi_view import MultiViewTransform  # noqa: E402
from mmcds.views.preprocessor import CDSDataPreprocessor  # noqa: E402

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402
from mmpretrain.datasets import CustomDataset  # noqa: E402
from mmpretrain.registry import DATASETS  # noqa: E402

RESULTS = Path(__file__).parent / 'results'
CASES = ('imagenet', 'small', 'color', 'scaled', 'listing')
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
FLIP = dict(type='RandomFlip', prob=0.5, direction='horizontal')
JITTER = dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
GREY = dict(type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.299))


def colour(backend: str) -> list[dict]:
    """Colour of the second view of the released code."""
    return [dict(type='RandomApply', prob=0.8, transforms=[dict(JITTER, backend=backend)]), GREY]


def image_views(backend: str = 'cv2') -> list[list[dict]]:
    """The two ImageNet views of the released code, as transforms of MMPretrain."""
    crop = dict(type='RandomResizedCrop', scale=224, backend=backend)
    return [[crop, FLIP], [dict(crop, crop_ratio_range=(0.2, 1.0)), FLIP, *colour(backend)]]


def small_views() -> list[list[dict]]:
    """The two CIFAR views of the released code."""
    crop = dict(type='RandomCrop', crop_size=32, padding=4)
    return [
        [dict(crop, pad_val=(128,) * 3), FLIP, dict(type='CenteredCutout', length=16)],
        [crop, FLIP, *colour('cv2')],
    ]


def picture(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Random picture with the spectrum of a photograph: smooth noise of several scales, edges, fine grain."""
    image = np.zeros((height, width, 3), np.float32)
    for scale in (4, 8, 16, 32, 64, 128):
        noise = rng.standard_normal((height // scale + 2, width // scale + 2, 3)).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * scale**0.6
    image = 127 + image * 45 / image.std()
    for _ in range(12):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        shade = rng.integers(0, 256, 3).tolist()
        cv2.ellipse(image, centre, rng.integers(5, 90, 2).tolist(), float(rng.integers(180)), 0, 360, shade, -1)
    return (image + rng.standard_normal(image.shape) * 4).clip(0, 255).astype(np.uint8)


def write_pictures(folder: Path, count: int, width: int, height: int) -> list[str]:
    """JPEG files in ten class folders; quality 90, chroma at half size, as most of ImageNet."""
    rng = np.random.default_rng(0)
    paths = []
    for index in range(count):
        path = folder / f'class_{index % 10}' / f'{index}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture(rng, width, height), [cv2.IMWRITE_JPEG_QUALITY, 90])
        paths.append(str(path))
    return paths


class Cutout:
    """Cutout on a float tensor by a mask, as published code writes it."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Multiply by a mask with one square hole."""
        height, width = image.shape[1:]
        mask = np.ones((height, width), np.float32)
        y, x = np.random.randint(height), np.random.randint(width)
        top, bottom = (int(np.clip(y + s * self.length // 2, 0, height)) for s in (-1, 1))
        left, right = (int(np.clip(x + s * self.length // 2, 0, width)) for s in (-1, 1))
        mask[top:bottom, left:right] = 0
        return image * torch.from_numpy(mask).expand_as(image)


def torchvision_views(library: Any, small: bool) -> list[Callable]:
    """The two views in torchvision, first or second generation of its transforms."""
    end = [v1.ToTensor()] if library is v1 else [v2.ToDtype(torch.float32, scale=True)]
    scale = [value / 255 for value in MEAN], [value / 255 for value in STD]
    jitter = [
        library.RandomApply([library.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        library.RandomGrayscale(p=0.2),
    ]
    flip, normalise = library.RandomHorizontalFlip(), library.Normalize(*scale)
    if small:
        first = [library.RandomCrop(32, padding=4, fill=128), flip, *end, Cutout(16), normalise]
        second = [library.RandomCrop(32, padding=4), flip, *jitter, *end, normalise]
    else:
        first = [library.RandomResizedCrop(224), flip, *end, normalise]
        second = [library.RandomResizedCrop(224, scale=(0.2, 1.0)), flip, *jitter, *end, normalise]
    return [library.Compose(first), library.Compose(second)]


class TwoCrops(Dataset):
    """Data set in the style of the released code: a PIL image, or a uint8 tensor, and two views of it in float.

    Args:
        images: Paths, or arrays (H, W, 3) RGB.
        views: One transform per view.
        tensors: Whether they take uint8 tensors.
    """

    def __init__(self, images: list, views: list[Callable], tensors: bool) -> None:
        self.images, self.views, self.tensors = images, views, tensors

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple:
        """Views and label."""
        image: Any = self.images[index]
        if isinstance(image, str):
            if self.tensors:
                image = cv2.cvtColor(cv2.imread(image, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
            else:
                with open(image, 'rb') as file:
                    image = Image.open(file).convert('RGB')
        elif not self.tensors:
            image = Image.fromarray(image)
        if self.tensors:
            image = torch.from_numpy(image).permute(2, 0, 1)
        return [view(image) for view in self.views], index % 10


def host_pipeline(backend: str) -> list:
    """MMPretrain's own loading, views and packing."""
    views = dict(type='MultiView', transforms=image_views(backend), num_views=[1, 1])
    return [dict(type='LoadImageFromFile'), views, dict(type='PackInputs')]


def our_pipeline(colors_here: bool, views: list[list[dict]], load: dict) -> list:
    """Loading, both views in one step, packing."""
    transform = MultiViewTransform(views)
    transform.color_on = 'worker' if colors_here else 'device'
    return [load, transform, dict(type='PackSample')]


def run_rounds(contestants: dict[str, Callable[[], Any]], images: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of processor time per image of every contestant in every round.

    Args:
        contestants: What makes the views of ``images`` images.
        images: How many images a call makes.
        seconds: Time to spend; at least three rounds.
    """
    for call in contestants.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    names, start = list(contestants), time.perf_counter()
    while len(times[names[0]]) < 3 or time.perf_counter() - start < seconds:
        names.append(names.pop(0))
        for name in names:
            begin = time.process_time()
            contestants[name]()
            times[name].append((time.process_time() - begin) / images)
    return times


def summarise(times: dict[str, list[float]], reference: str) -> dict[str, dict]:
    """Medians of milliseconds per image and of the ratio to the reference within a round."""
    return {
        name: dict(
            ms=round(median(values) * 1e3, 4),
            fastest_ms=round(min(values) * 1e3, 4),
            ratio=round(median(a / b for a, b in zip(values, times[reference], strict=True)), 4),
            rounds=len(values),
        )
        for name, values in times.items()
    }


def imagenet(seconds: float, folder: Path) -> dict:
    """What a loading process spends on one sample of 500 x 375 pixels."""
    paths = write_pictures(folder / 'train', 64, 500, 375)
    load = dict(type='mmcds.LoadImage')
    list_of = dict(data_root=str(folder), data_prefix='train')
    datasets: dict[str, Any] = {
        'PIL + torchvision': TwoCrops(paths, torchvision_views(v1, small=False), tensors=False),
        'torchvision v2, uint8': TwoCrops(paths, torchvision_views(v2, small=False), tensors=True),
        'MMPretrain MultiView, its defaults': CustomDataset(pipeline=host_pipeline('pillow'), **list_of),
        'MMPretrain MultiView, OpenCV': CustomDataset(pipeline=host_pipeline('cv2'), **list_of),
        'ours, everything in the process': QuickFolders(pipeline=our_pipeline(True, image_views(), load), **list_of),
        'ours, colour on the batch': QuickFolders(pipeline=our_pipeline(False, image_views(), load), **list_of),
    }

    def run(dataset: Any) -> Callable[[], None]:
        def call() -> None:
            for index in range(len(dataset)):
                dataset[index]

        return call

    contestants = {name: run(dataset) for name, dataset in datasets.items()}
    contestants['decoding alone'] = lambda: [cv2.imread(path, cv2.IMREAD_COLOR) for path in paths]
    return summarise(run_rounds(contestants, len(paths), seconds), 'PIL + torchvision')


@DATASETS.register_module()
class RandomSmallImages(InMemory):
    """Random images of 32 x 32 pixels in memory, as CIFAR's are."""

    METAINFO = dict(classes=tuple(map(str, range(10))))

    def load_data_list(self) -> list[dict]:
        """Draw them."""
        images = small_images(int(self.ann_file))
        return [dict(img=image, gt_label=index % 10) for index, image in enumerate(images)]


def small_images(count: int) -> np.ndarray:
    """Smooth random images, (count, 32, 32, 3)."""
    rng = np.random.default_rng(0)
    return np.stack([cv2.resize(picture(rng, 128, 128), (32, 32), interpolation=cv2.INTER_AREA) for _ in range(count)])


def small(seconds: float, folder: Path) -> dict:
    """The whole loader for 32 x 32 pixels, without extra processes: from the array to the normalised batch."""
    count, batch = 512, 128
    images = small_images(count)
    load = dict(type='mmcds.LoadImage', array_order='rgb')
    preprocessor = CDSDataPreprocessor(mean=MEAN, std=STD, to_rgb=True, num_classes=10)
    on_batch = CDSDataPreprocessor(mean=MEAN, std=STD, to_rgb=True, num_classes=10)
    on_batch.view_colors = tuple(MultiViewTransform(small_views()).colors or ())

    def official(library: Any, tensors: bool) -> Callable[[], None]:
        dataset = TwoCrops(list(images), torchvision_views(library, small=True), tensors)
        loader = DataLoader(dataset, batch_size=batch, shuffle=True)

        def call() -> None:
            for views, _ in loader:
                torch.cat(views)

        return call

    def one_by_one() -> Callable[[], None]:
        pipeline = [load, MultiViewTransform(small_views(), fuse=False), dict(type='PackInputs')]
        dataset = RandomSmallImages(ann_file=str(count), pipeline=pipeline)
        loader = DataLoader(dataset, batch_size=batch, shuffle=True, collate_fn=mm_collate)

        def call() -> None:
            for data in loader:
                preprocessor(data, True)

        return call

    def ours(here: bool) -> Callable[[], None]:
        dataset = RandomSmallImages(ann_file=str(count), pipeline=our_pipeline(here, small_views(), load))
        loader = DataLoader(dataset, batch_size=batch, shuffle=True, collate_fn=collate_samples)

        def call() -> None:
            for data in loader:
                (preprocessor if here else on_batch)(data, True)

        return call

    contestants = {
        'PIL + torchvision': official(v1, False),
        'torchvision v2, uint8': official(v2, True),
        'MMPretrain transforms one by one': one_by_one(),
        'ours, colour by OpenCV': ours(True),
        'ours, colour on the batch': ours(False),
    }
    return summarise(run_rounds(contestants, count, seconds), 'PIL + torchvision')


def color(seconds: float, folder: Path) -> dict:
    """Colour of the second ImageNet view alone, 224 x 224, on the CPU, and the same on a GPU if there is one."""
    law = MultiViewTransform(image_views()).fused[1]
    jitter = v1.Compose([v1.RandomApply([v1.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8), v1.RandomGrayscale(p=0.2)])
    rng, count = np.random.default_rng(0), 32
    images = np.stack([picture(rng, 224, 224) for _ in range(count)])
    pillow = [Image.fromarray(image) for image in images]
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    assert law is not None
    assert law.color is not None

    def on(device: str, images: torch.Tensor) -> Callable[[], None]:
        def call() -> None:
            draw = law.color.draw(keyed_uniforms(0, 0, np.arange(len(images)), 1))
            apply_color(images.to(device).float(), draw, law.color)
            if device == 'cuda':
                torch.cuda.synchronize()

        return call

    contestants = {
        'PIL + torchvision': lambda: [jitter(image) for image in pillow],
        'ours, OpenCV in the process': lambda: [
            law.recolor(image, law.draw_color(np.random.random((1, NUM_UNIFORMS)))) for image in images
        ],
        'ours, batch on the CPU': on('cpu', batch),
    }
    if torch.cuda.is_available():
        contestants['ours, batch on the GPU'] = on('cuda', batch)
    return summarise(run_rounds(contestants, count, seconds), 'PIL + torchvision')


def scaled(seconds: float, folder: Path) -> dict:
    """Decoding at half size where both crops are at least twice as large as the views: how often, and what it saves.

    Quality is the mean difference from Pillow's antialiased resize of the whole image, in grey levels.
    """
    result: dict[str, dict] = {}
    for width, height in ((500, 375), (1000, 750), (2000, 1500)):
        path = write_pictures(folder / f'{width}', 1, width, height)[0]
        crops = [view.crop for view in MultiViewTransform(image_views()).fused if view is not None]
        blank = np.empty((height, width), np.uint8)
        draws = [[crop.rand_crop_params(blank) for crop in crops if crop is not None] for _ in range(4000)]
        allowed = np.mean([all(min(box[2:]) >= 448 for box in boxes) for boxes in draws])
        times = run_rounds(
            {
                'full': lambda path=path: cv2.imread(path, cv2.IMREAD_COLOR),
                'half': lambda path=path: cv2.imread(path, cv2.IMREAD_REDUCED_COLOR_2),
            },
            1,
            seconds / 6,
        )
        with Image.open(path) as image:
            reference = np.asarray(image.convert('RGB').resize((224, 224), Image.Resampling.BILINEAR))[..., ::-1]
        views = {
            name: cv2.resize(cv2.imread(path, flag), (224, 224), interpolation=cv2.INTER_LINEAR).astype(float)
            for name, flag in (('full', cv2.IMREAD_COLOR), ('half', cv2.IMREAD_REDUCED_COLOR_2))
        }
        full, half = (median(times[name]) * 1e3 for name in ('full', 'half'))
        result[f'{width} x {height}'] = dict(
            full_ms=round(full, 3),
            half_ms=round(half, 3),
            allowed=round(float(allowed), 4),
            mean_saving_ms=round(float(allowed) * (full - half), 4),
            difference={name: round(float(abs(view - reference).mean()), 2) for name, view in views.items()},
        )
    return result


def listing(seconds: float, folder: Path) -> dict:
    """Start-up and cost per sample over the length of the list; the files are links to a few real images."""
    result: dict[str, dict] = {}
    paths = write_pictures(folder / 'real', 10, 500, 375)
    load = dict(type='mmcds.LoadImage')
    root, made = folder / 'list', 0
    for count in (10_000, 100_000, 1_000_000, 1_300_000):
        for index in range(1000):
            target = root / f'n{index:08d}'
            target.mkdir(parents=True, exist_ok=True)
            for number in range(made, count // 1000):
                name = f'{target}/n{index:08d}_{number}.JPEG'
                if number < 5:
                    os.symlink(paths[number], name)
                else:
                    os.close(os.open(name, os.O_CREAT))
        made = count // 1000
        begin, used = time.perf_counter(), time.process_time()
        dataset = QuickFolders(data_root=str(root), pipeline=our_pipeline(False, image_views(), load))
        row: dict = dict(files=len(dataset), start_s=round(time.perf_counter() - begin, 2))
        row['start_processor_s'] = round(time.process_time() - used, 2)
        if count <= 100_000:
            begin = time.perf_counter()
            CustomDataset(data_root=str(root))
            row['host_start_s'] = round(time.perf_counter() - begin, 2)
        per_class = count // 1000
        order = sorted(range(per_class), key=lambda number: f'n_{number}.JPEG')
        real = [place for place, number in enumerate(order) if number < 5]
        rng = random.Random(0)
        asked = [rng.randrange(1000) * per_class + rng.choice(real) for _ in range(300)]
        rates = []
        for _ in range(5):
            begin = time.process_time()
            for index in asked:
                dataset[index]
            rates.append((time.process_time() - begin) / len(asked))
        result[f'{count}'] = dict(row, ms_per_image=round(median(rates) * 1e3, 4))
    return result


def print_case(name: str, rows: dict) -> None:
    """Print one table."""
    print(f'\n{name}')
    for row, values in rows.items():
        print(f'  {row:36}' + '  '.join(f'{key} {value}' for key, value in values.items()))
    sys.stdout.flush()


def plot(results: dict, path: Path) -> None:
    """Draw milliseconds per image of the contestants, and cost over the length of the list."""
    timed = [name for name in ('imagenet', 'small', 'color') if name in results]
    figure, axes = plt.subplots(1, len(timed) + 1, figsize=(5 * len(timed) + 4, 3.6), squeeze=False)
    titles = dict(imagenet='two views of a JPEG', small='32 pixels, whole loader', color='colour of one view')
    for axis, name in zip(axes[0], timed, strict=False):
        rows = results[name]['rows']
        labels = list(rows)
        ours = ['C0' if label.startswith('ours') else 'C7' for label in labels]
        axis.barh(labels, [rows[label]['ms'] for label in labels], color=ours)
        axis.invert_yaxis()
        axis.set(xlabel='ms per image, one core', title=titles[name])
    axis = axes[0][-1]
    if 'listing' in results:
        rows = results['listing']['rows']
        counts = [int(count) for count in rows]
        axis.plot(counts, [row['ms_per_image'] for row in rows.values()], 'o-', label='ms per image')
        axis.plot(counts, [row['start_s'] for row in rows.values()], 's--', label='seconds to start')
        axis.set(xscale='log', xlabel='files', ylim=(0, None), title='length of the list')
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, write and draw."""
    parser = ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('cases', nargs='*', default=list(CASES), metavar='CASE', help=', '.join(CASES))
    parser.add_argument('--seconds', type=float, default=60, help='of each case; at least three rounds')
    parser.add_argument('--out', type=Path, default=RESULTS, help='folder of views.json and .png')
    parser.add_argument('--scratch', help="folder for the files that are made (default: the system's)")
    parser.add_argument('--plot-only', action='store_true')
    args = parser.parse_args()
    unknown = set(args.cases) - set(CASES)
    if unknown:
        parser.error(f'unknown case {sorted(unknown)[0]}; choose from {", ".join(CASES)}')
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / 'views.json'
    results = json.loads(file.read_text()) if file.exists() else {}
    for name in [] if args.plot_only else args.cases:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        with (
            tempfile.TemporaryDirectory(dir=args.scratch) as folder,
            DefaultScope.overwrite_default_scope('mmpretrain'),
        ):
            rows = globals()[name](args.seconds, Path(folder))
        print_case(name, rows)
        results[name] = dict(
            rows=rows,
            machine=dict(
                processor=next(
                    (
                        line.split(':')[1].strip()
                        for line in Path('/proc/cpuinfo').read_text().splitlines()
                        if line.startswith('model name')
                    ),
                    platform.processor(),
                ),
                threads=1,
                torch=torch.__version__,
                opencv=cv2.__version__,
            ),
        )
        file.write_text(json.dumps(results, indent=1) + '\n')
    plot(results, args.out / 'views.png')


if __name__ == '__main__':
    main()

"""Fashion-Scenes: detection images composed from real Fashion-MNIST items, with COCO annotations."""

import hashlib
import json
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from mmengine.utils import mkdir_or_exist
from mmpretrain.datasets import FashionMNIST
from mmpretrain.datasets.mnist import read_sn3_pascalvincent_tensor

from mmcds.core.errors import ConfigError

#: The official splits of Fashion-MNIST; no item of one is in a scene of the other.
SPLITS = ('train', 'test')
#: Scenes of each that the configs are made for.
COUNTS = dict(train=1000, test=400)
CLASSES: tuple[str, ...] = tuple(FashionMNIST.METAINFO['classes'])
EMBEDDED = Path(__file__).parent / 'fashion_mnist'

_PREFIX = dict(train='train', test='t10k')
_PLACES = 20  # tries to place one item
_SCENES = 10  # tries to place the smallest number of items


@dataclass(frozen=True)
class SceneRecipe:
    """What scenes look like.

    Attributes:
        size: Width and height of an image in pixels.
        items: Smallest and largest number of items of a scene.
        item_size: Smallest and largest item: the longer side of its box in pixels, before others cover it.
            Sizes are spread evenly on a logarithmic scale.
        max_occlusion: No item loses more than this share of its pixels to the items in front of it.
        flip: Mirror half of the items.
        clutter: Brightness of the background, from 0 (black) to 1 (as bright as the items).

    Raises:
        ConfigError: If a value makes no scene.
    """

    size: int = 96
    items: tuple[int, int] = (2, 5)
    item_size: tuple[int, int] = (20, 56)
    max_occlusion: float = 0.3
    flip: bool = True
    clutter: float = 0.5

    def __post_init__(self) -> None:
        for name, lowest in (('items', 1), ('item_size', 4)):
            low, high = getattr(self, name)
            if not lowest <= low <= high:
                raise ConfigError(f'scenes: {name} must be two rising numbers from {lowest} on, got {low} {high}.')
        if self.item_size[1] > self.size:
            raise ConfigError(
                f'scenes: items of up to {self.item_size[1]} pixels do not fit into images of {self.size} pixels. '
                'Lower item_size or raise size.'
            )
        if self.size > 4096:
            raise ConfigError(f'scenes: size is {self.size} pixels; take at most 4096.')
        if not 0 <= self.max_occlusion < 1:
            raise ConfigError(f'scenes: max_occlusion must be in [0, 1), got {self.max_occlusion}.')
        if not 0 <= self.clutter <= 1:
            raise ConfigError(f'scenes: clutter must be in [0, 1], got {self.clutter}.')


@dataclass(frozen=True)
class Scene:
    """One scene.

    Attributes:
        image: Grey levels ``(size, size)``, uint8.
        owner: Which item is seen at a pixel, ``(size, size)``; -1 is background.
        labels: Class of every item, in the order in which they were laid down.
        items: Index of every item in its split.
        whole: Pixels of every item before others covered it.
    """

    image: np.ndarray
    owner: np.ndarray
    labels: list[int]
    items: list[int]
    whole: list[int]

    def boxes(self) -> list[list[int]]:
        """Return the tight boxes ``[x, y, width, height]`` in pixels around what is seen of every item."""
        found = []
        for index in range(len(self.labels)):
            rows, columns = np.nonzero(self.owner == index)
            x, y = int(columns.min()), int(rows.min())
            found.append([x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1])
        return found


def read_items(source: str | Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the items of a split from IDX files, compressed (``.gz``) or not.

    Args:
        source: Folder with the files of Fashion-MNIST.
        split: ``'train'`` or ``'test'``.

    Returns:
        Images ``(N, 28, 28)`` and labels ``(N,)``, uint8.

    Raises:
        ConfigError: If a file is missing or damaged, or if the two do not belong together.
    """
    arrays = []
    for name in (f'{_PREFIX[split]}-images-idx3-ubyte', f'{_PREFIX[split]}-labels-idx1-ubyte'):
        files = [file for file in (Path(source, name), Path(source, f'{name}.gz')) if file.is_file()]
        if not files:
            raise ConfigError(
                f'scenes: {source} holds neither {name} nor {name}.gz. Name the folder of Fashion-MNIST with '
                '--source, or leave it out to take the embedded images.'
            )
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings('ignore', message='The given NumPy array is not writable')
                arrays.append(read_sn3_pascalvincent_tensor(str(files[0])).numpy())
        except (AssertionError, EOFError, OSError, LookupError, ValueError) as error:
            raise ConfigError(f'scenes: {files[0]} is no IDX file or is cut off ({error!r}). Get it again.') from error
    images, labels = arrays
    if images.ndim != 3 or labels.shape != images.shape[:1] or labels.max(initial=0) >= len(CLASSES):
        raise ConfigError(
            f'scenes: the {split} images {images.shape} and labels {labels.shape} of {source} do not belong '
            f'together, or have more than {len(CLASSES)} classes. Get both files again.'
        )
    return images, labels


def _background(rng: np.random.Generator, images: np.ndarray, recipe: SceneRecipe) -> np.ndarray:
    """Cover a canvas with darkened, turned and stretched crops of items, so that texture alone betrays nothing."""
    size = recipe.size
    canvas = np.zeros((size, size), np.uint8)
    for _ in range(round(3 * (size / 20) ** 2)):  # patches of 20 pixels on average: three layers
        item = images[rng.integers(len(images))]
        crop = int(rng.integers(8, 21))
        top, left = rng.integers(0, np.array(item.shape) - crop + 1)
        side = int(rng.integers(8, 33))
        patch = np.rot90(item[top : top + crop, left : left + crop], int(rng.integers(4)))
        patch = cv2.resize(np.ascontiguousarray(patch), (side, side)) * (recipe.clutter * rng.uniform(0.4, 1.0))
        y, x = rng.integers(-side // 2, size - side // 2, 2)
        part = patch[max(-y, 0) : size - y, max(-x, 0) : size - x]
        canvas[max(y, 0) : max(y, 0) + part.shape[0], max(x, 0) : max(x, 0) + part.shape[1]] = part
    return canvas


def _sized(item: np.ndarray, longer: int, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    """Cut an item out by its own mask (pixels above 0) and scale it: grey levels and mask of the same shape."""
    rows, columns = np.nonzero(item)
    item = item[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    if flip:
        item = np.ascontiguousarray(item[:, ::-1])
    scale = longer / max(item.shape)
    shape = (max(round(item.shape[1] * scale), 1), max(round(item.shape[0] * scale), 1))
    mask = cv2.resize((item > 0).astype(np.float32), shape) >= 0.5
    return np.maximum(cv2.resize(item, shape), 1), mask


def compose_scene(
    index: int, images: np.ndarray, labels: np.ndarray, split: str, recipe: SceneRecipe, seed: int
) -> Scene:
    """Compose one scene; it depends on the arguments alone, not on the scenes before it.

    Args:
        index: Number of the scene.
        images: Items ``(N, 28, 28)``.
        labels: Their classes ``(N,)``.
        split: Split that the items are from.
        recipe: What the scene looks like.
        seed: Seed of the data set.

    Returns:
        The scene. Items lie wholly inside the image; later ones lie in front.

    Raises:
        ConfigError: If the smallest number of items finds no place.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    background = _background(rng, images, recipe)
    fewest, most = recipe.items
    smallest, largest = np.log(recipe.item_size)
    for _ in range(_SCENES):
        image, owner = background.copy(), np.full((recipe.size, recipe.size), -1)
        used: list[int] = []
        seen = np.zeros(most)  # pixels of every item that are seen
        whole = np.zeros(most)  # pixels that it has
        for _ in range(rng.integers(fewest, most + 1)):
            item, flip = int(rng.integers(len(images))), bool(rng.integers(2)) and recipe.flip
            for _ in range(_PLACES):
                pixels, mask = _sized(images[item], round(np.exp(rng.uniform(smallest, largest))), flip)
                y, x = rng.integers(0, recipe.size - np.array(mask.shape) + 1)
                place = np.s_[y : y + mask.shape[0], x : x + mask.shape[1]]
                hidden = np.bincount(owner[place][mask] + 1, minlength=most + 1)[1:]
                if mask.any() and (seen - hidden >= (1 - recipe.max_occlusion) * whole).all():
                    image[place][mask] = pixels[mask]
                    owner[place][mask] = len(used)
                    seen -= hidden
                    seen[len(used)] = whole[len(used)] = mask.sum()
                    used.append(item)
                    break
        if len(used) >= fewest:
            return Scene(
                image, owner, [int(labels[item]) for item in used], used, whole[: len(used)].astype(int).tolist()
            )
    raise ConfigError(
        f'scenes: {fewest} items of {recipe.item_size[0]} to {recipe.item_size[1]} pixels find no place in an image '
        f'of {recipe.size} pixels with max_occlusion {recipe.max_occlusion}. Take fewer or smaller items, larger '
        'images, or allow more occlusion.'
    )


_SHARED: dict[str, np.ndarray] = {}  # what every process of a pool needs


def _share(images: np.ndarray, labels: np.ndarray) -> None:
    _SHARED.update(images=images, labels=labels)


def _write_scene(index: int, folder: Path, split: str, recipe: SceneRecipe, seed: int) -> list[tuple[int, list[int]]]:
    scene = compose_scene(index, _SHARED['images'], _SHARED['labels'], split, recipe, seed)
    file = folder / f'{index:06d}.png'
    if not cv2.imwrite(str(file), scene.image):
        raise OSError(f'scenes: {file} cannot be written.')
    return list(zip(scene.labels, scene.boxes(), strict=True))


@contextmanager
def _mapper(workers: int, images: np.ndarray, labels: np.ndarray) -> Iterator:
    if workers == 1:
        _share(images, labels)
        yield map
    else:
        with ProcessPoolExecutor(workers, initializer=_share, initargs=(images, labels)) as pool:
            yield partial(pool.map, chunksize=32)


def write_scenes(
    out: str | Path,
    split: str,
    count: int,
    recipe: SceneRecipe | None = None,
    *,
    seed: int = 0,
    source: str | Path = EMBEDDED,
    workers: int = 1,
    overwrite: bool = False,
) -> tuple[Path, bool]:
    """Write the scenes of one split: ``<split>/000000.png``, ... and ``annotations/<split>.json``.

    The annotations are those of COCO's detection task: ``bbox`` is tight around what is seen of the item, ``area``
    is the area of that box (so that small, medium and large mean the size of the box), ``iscrowd`` is 0, and the
    categories 1 to 10 are the classes of Fashion-MNIST. Scene i depends on seed, split and i alone, so a smaller
    data set is the start of a larger one, and the number of workers changes nothing.

    Args:
        out: Folder of the data set.
        split: ``'train'`` or ``'test'``, the official split that the items are from.
        count: Number of scenes.
        recipe: What they look like.
        seed: Seed of the data set.
        source: Folder with the IDX files of Fashion-MNIST, compressed or not; by default the embedded images.
        workers: Number of processes.
        overwrite: Replace scenes that were made in another way.

    Returns:
        The annotation file, and whether anything was written; the same scenes are not made twice.

    Raises:
        ConfigError: If an option or a source file is wrong, or if the folder holds other scenes.
    """
    recipe = recipe or SceneRecipe()
    for name, value, lowest in (('count', count, 1), ('workers', workers, 1), ('seed', seed, 0)):
        if value < lowest:
            raise ConfigError(f'scenes: {name} must be at least {lowest}, got {value}.')
    images, labels = read_items(source, split)
    filled = images.any(axis=(1, 2))
    images, labels = images[filled], labels[filled]
    info = dict(
        description='Fashion-Scenes: items of Fashion-MNIST on a background of their patches',
        split=split,
        count=count,
        seed=seed,
        items_sha256=hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest(),
        **json.loads(json.dumps(asdict(recipe))),  # tuples as they will be read
    )
    file, folder = Path(out, 'annotations', f'{split}.json'), Path(out, split)
    if file.exists():
        found = json.loads(file.read_text()).get('info', {})
        if found == info and all((folder / f'{index:06d}.png').exists() for index in range(count)):
            return file, False
        differing = {key: found.get(key) for key in info if found.get(key) != info[key]}
        if differing and not overwrite:
            raise ConfigError(
                f'scenes: {file} holds other scenes, with {differing} where '
                f'{ {key: info[key] for key in differing} } is asked for. Give --overwrite, or another --out.'
            )
        file.unlink()  # it is written last, so where it stands the data set is whole
    mkdir_or_exist(folder)
    mkdir_or_exist(file.parent)
    with _mapper(workers, images, labels) as mapper:
        write = partial(_write_scene, folder=folder, split=split, recipe=recipe, seed=seed)
        scenes = list(mapper(write, range(count)))
    annotations = [
        dict(
            id=number,
            image_id=image_id,
            category_id=label + 1,
            bbox=box,
            area=box[2] * box[3],
            iscrowd=0,
        )
        for number, (image_id, label, box) in enumerate(
            ((image_id, *item) for image_id, scene in enumerate(scenes, 1) for item in scene), 1
        )
    ]
    content = dict(
        info=info,
        images=[
            dict(id=index + 1, file_name=f'{index:06d}.png', width=recipe.size, height=recipe.size)
            for index in range(count)
        ],
        annotations=annotations,
        categories=[dict(id=number, name=name) for number, name in enumerate(CLASSES, 1)],
    )
    file.write_text(json.dumps(content))
    return file, True

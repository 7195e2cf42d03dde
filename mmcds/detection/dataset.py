"""COCO annotations that are checked while they are read: what MMDetection would leave out without a word."""

import math
import os
from pathlib import Path

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.logging import print_log
from mmpretrain.registry import DATASETS

from mmcds.core.errors import ConfigError

#: Fields that every entry of a list of the file must have.
NEEDED = dict(
    images=('id', 'file_name', 'height', 'width'),
    categories=('id', 'name'),
    annotations=('id', 'image_id', 'category_id', 'bbox'),
)


class CheckedCoco(COCO):
    """A file in COCO's format, whose fields are checked before it is indexed.

    Raises:
        ConfigError: If a field is missing, a box has not four numbers, or an annotation is of no image.
    """

    def __init__(self, annotation_file: str) -> None:
        self.file = Path(annotation_file).name
        super().__init__(annotation_file)

    def createIndex(self) -> None:
        """Check the fields, and index the entries by their numbers."""
        for group, fields in NEEDED.items():
            if group not in self.dataset and group != 'annotations':  # those of a test may be kept from us
                raise ConfigError(f'{self.file} lacks the field {group!r}. Add it, or name a file that has it.')
            for place, entry in enumerate(self.dataset.get(group, ())):
                for field in fields:
                    if entry.get(field) is None:
                        raise ConfigError(
                            f'{self.file}: {group}[{place}] (id {entry.get("id")}) lacks the field {field!r}. '
                            'Add it to this entry, and to all others that lack it.'
                        )
        images = {image['id'] for image in self.dataset['images']}
        for annotation in self.dataset.get('annotations', ()):
            box, image = annotation['bbox'], annotation['image_id']
            if len(box) != 4 or not all(isinstance(value, int | float) for value in box):
                raise ConfigError(
                    f'{self.file}: annotation {annotation["id"]} has the bbox {box}, but a box is four numbers, '
                    '[x, y, width, height]. Correct the annotation.'
                )
            if image not in images:
                some = next(iter(images), None)
                raise ConfigError(
                    f'{self.file}: annotation {annotation["id"]} has the image_id {image!r} '
                    f'({type(image).__name__}), which is the id of none of the {len(images)} images; theirs are '
                    f'like {some!r} ({type(some).__name__}). Correct the annotation, or take it out.'
                )
        super().createIndex()


@DATASETS.register_module()
class CheckedCocoDataset(CocoDataset):
    """MMDetection's :class:`CocoDataset` that refuses annotations it would drop or mix up.

    An annotation without ``area`` gets that of its box, but not in a test: the metric reads the file again itself.

    Args:
        max_empty_boxes: So many boxes without area, or wholly outside of their image, are left out and named in the
            log; one more is an error. (COCO train2017 has two.)
        subset: Whether the file may hold boxes of categories that are not among the classes; they are left out.
        **kwargs: Of :class:`mmdet.datasets.CocoDataset`.

    Raises:
        ConfigError: If a needed field is missing, an annotation is of no image, a class is not a category of the
            file, a box has a category that is not among the classes, a box is inverted, not finite or empty, an
            image file is missing, or no image is left.
    """

    COCOAPI = CheckedCoco

    def __init__(self, *args, max_empty_boxes: int = 0, subset: bool = False, **kwargs) -> None:
        self.max_empty_boxes, self.subset = max_empty_boxes, subset
        self.empty_boxes: list[str] = []
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read the file; check categories and boxes on the way, then the image files."""
        self.empty_boxes.clear()
        data_list = super().load_data_list()
        if self.empty_boxes:
            print_log(f'{self.ann_file}: left out {"; ".join(self.empty_boxes)}.', logger='current')
        if not self.backend_args:  # the files are local
            missing = [info['img_path'] for info in data_list if not os.path.isfile(info['img_path'])]
            if missing:
                raise ConfigError(
                    f'{self.ann_file}: {len(missing)} of {len(data_list)} image files are missing, such as '
                    f'{missing[0]}. Check data_prefix.img of the data set, or take the images out of the file.'
                )
        return data_list

    def filter_data(self) -> list[dict]:
        """Return what MMPretrain keeps of the images, which must not be nothing."""
        kept = super().filter_data()
        if not kept:
            raise ConfigError(
                f'{self.ann_file}: of {len(self.data_list)} images none is left. Check data_root, ann_file and '
                f'filter_cfg={self.filter_cfg} of the data set.'
            )
        return kept

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """Check the annotations of one image before MMPretrain sorts them out."""
        image = raw_data_info['raw_img_info']
        if getattr(self, '_names', None) is not self.coco.cats:  # the first image
            self._check_classes()
        for annotation in raw_data_info['raw_ann_info']:
            self._check_box(annotation, image)
        return super().parse_data_info(raw_data_info)

    def _check_classes(self) -> None:
        self._names = self.coco.cats
        names = [category['name'] for category in self._names.values()]
        unknown = [name for name in self.metainfo['classes'] if name not in names]
        if unknown:
            raise ConfigError(
                f'{self.ann_file}: {len(unknown)} of {len(self.metainfo["classes"])} classes are not among its '
                f'categories, such as {unknown[0]!r}; it has {", ".join(map(repr, names[:5]))}'
                f'{", ..." if len(names) > 5 else ""}. Set metainfo=dict(classes=...) of the data set to the names '
                'in the file.'
            )

    def _check_box(self, annotation: dict, image: dict) -> None:
        where = f'{Path(self.ann_file).name}: annotation {annotation.get("id")} of {image["file_name"]}'
        category = annotation['category_id']
        if category not in self._names:
            raise ConfigError(
                f'{where} has category_id {category}, but the categories of the file are {sorted(self._names)[:5]}'
                f'{"..." if len(self._names) > 5 else ""}. Correct the annotation or add the category.'
            )
        if category not in self.cat_ids and not self.subset:
            raise ConfigError(
                f'{where} has the category {self._names[category]["name"]!r}, which is not among the '
                f'{len(self.cat_ids)} classes. Add it to metainfo=dict(classes=...) of the data set and set '
                'num_classes of the heads, or set subset=True of the data set to leave such boxes out.'
            )
        missing = [field for field in ('area', 'iscrowd') if annotation.get(field) is None]
        if missing and self.test_mode:
            raise ConfigError(
                f'{where} lacks the field {missing[0]!r}, which the evaluation reads from the file. Add it to all '
                'annotations: area is width * height of the box, and iscrowd is 0.'
            )
        x, y, width, height = box = annotation['bbox']
        if not all(map(math.isfinite, box)) or width < 0 or height < 0:
            raise ConfigError(
                f'{where} has the box {box}, which is inverted or not finite; a box is [x, y, width, height]. '
                'Correct the annotation.'
            )
        if 'area' in missing:
            annotation['area'] = width * height
        inside = min(x + width, image['width']) > max(x, 0) and min(y + height, image['height']) > max(y, 0)
        if inside or annotation.get('ignore'):
            return
        self.empty_boxes.append(f'{where}, box {box}')
        if len(self.empty_boxes) > self.max_empty_boxes:
            raise ConfigError(
                f'{where} has the box {box}, which is empty or lies outside of the image ({image["width"]} x '
                f'{image["height"]}). Correct the annotation, or raise max_empty_boxes={self.max_empty_boxes} of '
                'the data set to leave such boxes out.'
            )

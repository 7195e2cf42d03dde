"""COCO annotations that are checked while they are read: what MMDetection would leave out without a word."""

import math
import os
from pathlib import Path

from mmdet.datasets import CocoDataset
from mmengine.logging import print_log
from mmpretrain.registry import DATASETS

from mmcds.core.errors import ConfigError


@DATASETS.register_module()
class CheckedCocoDataset(CocoDataset):
    """MMDetection's :class:`CocoDataset` that refuses annotations it would drop or mix up.

    Args:
        max_empty_boxes: So many boxes without area, or wholly outside of their image, are left out and named in the
            log; one more is an error. (COCO train2017 has two.)
        subset: Whether the file may hold boxes of categories that are not among the classes; they are left out.
        **kwargs: Of :class:`mmdet.datasets.CocoDataset`.

    Raises:
        ConfigError: If a class is not a category of the file, a box has a category that is not among the classes, a
            box is inverted, not finite or empty, an image file is missing, or no image is left.
    """

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
        x, y, width, height = box = annotation['bbox']
        if not all(map(math.isfinite, box)) or width < 0 or height < 0:
            raise ConfigError(
                f'{where} has the box {box}, which is inverted or not finite; a box is [x, y, width, height]. '
                'Correct the annotation.'
            )
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

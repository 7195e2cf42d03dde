"""Loading: every image enters the pipeline as uint8 BGR with three channels, whatever it was on disk."""

from mmcds.after_import import require

require('mmpretrain', 'openmmlab', __name__)

from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmengine.logging import MMLogger
from mmpretrain.registry import TRANSFORMS

from mmcds.core.errors import ConfigError
from mmcds.views.keyed import mix, seed_streams


def read_image(path: str, backend_args: dict | None = None) -> tuple[np.ndarray | None, str]:
    """Return an image file as a uint8 array, BGR if it has colours, or None and why it cannot be read."""
    try:
        content = fileio.get(path, backend_args)
        if not content:
            return None, 'it is empty'
        image = mmcv.imfrombytes(content, flag='color_ignore_orientation', backend='cv2')
        return image, '' if image is not None else 'it cannot be decoded'
    except (OSError, cv2.error) as error:
        return None, str(error).strip().splitlines()[-1]


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Read the image of a sample, or take the array that the data set holds.

    Grey images are repeated over three channels and alpha is dropped. Files are decoded without applying the
    EXIF orientation, as PIL does in the released code.

    **Required keys:** ``img_path`` or ``img``. **Added keys:** ``img`` (H, W, 3) uint8 BGR, ``img_shape``,
    ``ori_shape``.

    An image that some loader has decoded before (it carries ``img_shape``), as in MMPretrain's inferencer,
    passes unchanged.

    Args:
        array_order: Channel order of colour arrays held by the data set: ``'rgb'`` (CIFAR) or ``'bgr'``.
        max_unreadable: How many unreadable files are replaced by another random image, each with a warning that
            names it, before the run stops. 0, as in test pipelines, stops at the first.
        backend_args: File backend of :mod:`mmengine.fileio`.

    Attributes:
        record: Text file of the run that lists the unreadable files, line by line, for all its processes, so that each
            file counts once; :class:`mmcds.openmmlab.hooks.CheckDataHook` sets it. Without it each process counts.

    Raises:
        ConfigError: If ``array_order`` is unknown, if an image has neither 1, 3 nor 4 channels, or at the unreadable
            file after ``max_unreadable``; it lists all of them.
    """

    record: Path | None = None

    def __init__(self, array_order: str = 'bgr', max_unreadable: int = 0, backend_args: dict | None = None) -> None:
        super().__init__()
        if array_order not in ('rgb', 'bgr'):
            raise ConfigError(f"LoadImage: array_order is {array_order!r}; choose 'rgb' or 'bgr'.")
        self.array_order = array_order
        self.max_unreadable = max_unreadable
        self.backend_args = backend_args
        self.unreadable: list[str] = []
        self._missed = 0

    def transform(self, results: dict) -> dict | None:
        """Return the results with ``img``, or None for an unreadable file that is to be replaced."""
        if 'img' in results and 'img_shape' in results:
            return results
        image = results['img'] if 'img' in results else self._read(results['img_path'])
        if image is None:
            # Streams that begin anew for every image would lead from one unreadable image to the same next one, and
            # back; so the draw of the next one depends on all that were missed in a row.
            self._missed = mix(self._missed, np.random.randint(2**31))
            seed_streams(self._missed)
            return None
        self._missed = 0
        if image.ndim == 2 or image.shape[2] == 1:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        elif image.shape[2] not in (3, 4):
            raise ConfigError(
                f'LoadImage: sample {results.get("sample_idx")} has shape {image.shape}; an image '
                'needs 1 (grey), 3 or 4 channels, last.'
            )
        elif 'img_path' not in results and self.array_order == 'rgb':
            image = np.ascontiguousarray(image[..., 2::-1])
        else:
            image = image[..., :3]
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def transform_batch(self, images: np.ndarray, indices: np.ndarray | None = None) -> np.ndarray:
        """Do to many arrays what :meth:`transform` does to one, without a copy.

        Args:
            images: uint8, (N, C, H, W), channels in ``array_order``.
            indices: Index of every image in its data set, (N,).

        Returns:
            uint8 BGR, (N, 3, H, W).
        """
        count, channels, *size = images.shape
        if channels == 1:
            return np.broadcast_to(images, (count, 3, *size))
        if channels not in (3, 4):
            raise ConfigError(f'LoadImage: the images have {channels} channels; they need 1 (grey), 3 or 4.')
        return images[:, 2::-1] if self.array_order == 'rgb' else images[:, :3]

    def _read(self, path: str) -> np.ndarray | None:
        image, reason = read_image(path, self.backend_args)
        if image is None and self._note(path):
            if len(self.unreadable) > self.max_unreadable:
                raise ConfigError(
                    f'LoadImage: cannot read {path} ({reason}). Unreadable so far: {", ".join(self.unreadable)}; '
                    f'allowed: {self.max_unreadable}. Repair or remove these files, or raise max_unreadable.'
                )
            MMLogger.get_current_instance().warning(
                f'LoadImage: cannot read {path} ({reason}); another image takes its place '
                f'({len(self.unreadable)} of {self.max_unreadable} allowed).'
            )
        return image

    def _note(self, path: str) -> bool:
        """Add a file to those that cannot be read; return whether it counts, which one that is allowed does once."""
        name = path.replace('\n', ' ')
        if self.record is not None:
            listed = self.record.read_text() if self.record.is_file() else ''
            self.unreadable = list(dict.fromkeys(listed.splitlines()))
        known = name in self.unreadable
        if not known:
            self.unreadable.append(name)
            if self.record is not None:
                with self.record.open('a') as file:  # one short write, which the system appends whole
                    file.write(f'{name}\n')
        return not known or len(self.unreadable) > self.max_unreadable

    def __repr__(self) -> str:
        return f'LoadImage(array_order={self.array_order!r}, max_unreadable={self.max_unreadable})'

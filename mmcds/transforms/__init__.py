"""From a file or an array to the V uint8 views of one image."""

from mmcds.transforms.cutout import CenteredCutout
from mmcds.transforms.loading import LoadImage
from mmcds.transforms.multi_view import MultiViewTransform, pipeline_steps
from mmcds.transforms.packing import PackSample
from mmcds.transforms.rotation import RightAngleRotation

__all__ = [
    'CenteredCutout',
    'LoadImage',
    'MultiViewTransform',
    'PackSample',
    'RightAngleRotation',
    'pipeline_steps',
]

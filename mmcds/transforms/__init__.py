"""From a file or an array to the V uint8 views of one image."""

from mmcds.transforms.cutout import CenteredCutout
from mmcds.transforms.loading import LoadImage
from mmcds.transforms.multi_view import MultiViewTransform, pipeline_steps

__all__ = ['CenteredCutout', 'LoadImage', 'MultiViewTransform', 'pipeline_steps']

"""From a decoded image to normalised views on the device.

``color.py`` and ``batch.py`` work on batches and need PyTorch alone; the other files are transforms of MMPretrain.
"""

from mmcds.views.color import ColorDraw, RandomColor, apply_color, keyed_uniforms

__all__ = ['ColorDraw', 'RandomColor', 'apply_color', 'keyed_uniforms']

"""From a decoded image to normalised views on the device.

``color.py`` works on batches and needs PyTorch alone; the other files are for the transforms of MMPretrain.
"""

from mmcds.views.color import ColorDraw, RandomColor, apply_color, keyed_uniforms

__all__ = ['ColorDraw', 'RandomColor', 'apply_color', 'keyed_uniforms']

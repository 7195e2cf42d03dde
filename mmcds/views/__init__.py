"""From a decoded image to normalised views on the device.

``color.py`` and ``color_kernel.py`` work on batches and need PyTorch alone (the kernel Triton too, which comes with
it); the other files are for the transforms of MMPretrain.
"""

from mmcds.views.color import ColorDraw, RandomColor, apply_color, keyed_uniforms

__all__ = ['ColorDraw', 'RandomColor', 'apply_color', 'keyed_uniforms']

"""Detection transfer: mmcv's operators without a compiler, and what a detector's run is checked for.

Importing this package is all that a config of MMDetection needs: ``custom_imports=dict(imports=['mmcds.detection'])``.
"""

from mmcds.detection.operators import install_operators

install_operators()

"""The adapter: everything that makes mmcds a plugin of MMPretrain and MMDetection.

Importing it registers every class of the package there, the ``mmcds::`` config prefix and the model index.
"""

from mmcds.after_import import require

for _package in ('mmengine', 'mmcv', 'mmpretrain'):
    require(_package, 'openmmlab', __name__)

from mmcds.openmmlab.registration import register

register()

from mmcds.openmmlab.classifier import CDSClassifier, ONEClassifier
from mmcds.openmmlab.teacher import LoadedTeacher

__all__ = ['CDSClassifier', 'LoadedTeacher', 'ONEClassifier', 'register']

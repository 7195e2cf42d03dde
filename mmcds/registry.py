"""The `mmcds` registry scope.

Classes of this package register in MMPretrain's registries, so configs use their bare names. The nodes below
hold nothing: each has MMPretrain's node as its parent, so that a config inherited as
``_base_ = 'mmcds::cds/resnet50_in1k.py'`` (where MMEngine sets ``_scope_='mmcds'``) still finds every class
of MMPretrain and of this package.
"""

from mmengine.registry import Registry
from mmpretrain import registry as _host

__all__ = [name for name in _host.__all__ if isinstance(getattr(_host, name), Registry)]

for _name in __all__:
    _parent = getattr(_host, _name)
    globals()[_name] = Registry(  # MMEngine imports the locations of the node that it asks, not of its parents
        _parent.name, parent=_parent, scope='mmcds', locations=['mmcds', *_parent._locations]
    )

"""Contrastive Deep Supervision (CDS, ECCV 2022) as a plugin of MMPretrain and MMDetection.

The parts, in the order in which an image meets them::

    datasets/        data sets that the host lacks, the embedded images, partially labelled sets and their batches
    transforms/      loading, and V views of one image
    preprocessor.py  what happens to the batch on the device
    networks/        networks that the host lacks, and forms of its own for small images
    classifiers/     the training step: one forward pass, one Trace, the losses of all supervisions; the teacher
    supervisions/    the protocol of an extra loss, and the paper's own methods
    baselines/       rival methods, one file each, with their own heads
    necks/           projection heads
    losses/          NT-Xent, SupCon, and the gather across ranks
    optim.py         mixed precision
    hooks/           reproducible random streams, checks before the run, what is left after it
    export.py        a backbone without heads, for detectors and other libraries
    evaluation/      measures of a trained network beyond its accuracy: calibration, what its stages know
    detection/       mmcv's operators without a compiler, checks of a detector's run, comparison of runs
    paper/           the paper's tables as data, their configs, and our results beside them

Importing this package registers its classes in MMPretrain's registries, its models in
:func:`mmpretrain.list_models` and its configs as ``mmcds::...``.
"""

from mmcds.host import register_in_host
from mmcds.version import __version__

register_in_host()

__all__ = ['__version__']

"""What the tests of detection share: a replica of COCO and pre-trained backbones."""

from pathlib import Path

import pytest
import replicas
import torch
from detection_runs import write_classifier

import mmcds.detection  # noqa: F401  (mmcv.ops cannot be imported without it)
from mmcds.openmmlab.export import export_backbone


@pytest.fixture(scope='session')
def coco_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('detection')
    replicas.write_coco(root / 'coco')
    return root


@pytest.fixture(scope='session')
def classifier(tmp_path_factory) -> Path:
    """Training checkpoint of CDS with ResNet-50: backbone, head and supervisions."""
    torch.manual_seed(1)
    return write_classifier(tmp_path_factory.mktemp('classifier') / 'epoch_90.pth', 'cds/resnet50_in1k.py')


@pytest.fixture(scope='session')
def backbone(classifier) -> Path:
    """Its exported backbone."""
    out = classifier.with_name('backbone_epoch_90.pth')
    export_backbone(classifier, out)
    return out

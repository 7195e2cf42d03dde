"""Runs of detectors that take seconds: options, and classifiers to start from."""

import copy
import functools
from pathlib import Path

import torch
from conftest import load_tool
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from mmcds.detection import CheckedCocoDataset
from mmcds.openmmlab.runner import Runner

ROOT = Path(__file__).resolve().parents[1]

#: Options of a short run: small images, few regions, no worker, and no box too uncertain to be counted.
SHORT = [
    'train_dataloader.num_workers=0',
    'train_dataloader.dataset.indices=2',
    'train_dataloader.dataset.pipeline.2.scale="(64,48)"',
    'val_dataloader.num_workers=0',
    'val_dataloader.dataset.pipeline.1.scale="(64,48)"',
    'test_dataloader.num_workers=0',
    'test_dataloader.dataset.pipeline.1.scale="(64,48)"',
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.max_keep_ckpts=1',
    'default_hooks.checkpoint.save_best=None',
]
SHORT_TWO_STAGE = [
    'model.train_cfg.rcnn.sampler.num=16',
    'model.train_cfg.rpn_proposal.max_per_img=16',
    'model.test_cfg.rpn.max_per_img=16',
    'model.test_cfg.rcnn.score_thr=0.0',
]


def short(leaf: Path | str) -> list[str]:
    """Options for one config."""
    return [*SHORT, 'model.test_cfg.score_thr=0.0'] if 'retinanet' in str(leaf) else [*SHORT, *SHORT_TWO_STAGE]


def write_classifier(path: Path, config: str) -> Path:
    """A checkpoint as tools/train.py writes it, of a classifier with random weights."""
    config = Config.fromfile(ROOT / 'configs' / config)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(config.model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict(), meta=dict(cfg=config.pretty_text, epoch=90)), path)
    return path


def train(leaf: Path | str, work_dir: Path, data_root: Path, backbone: Path, *arguments: str, options=()) -> Runner:
    """Run tools/train.py on a detection config."""
    settings = [f'model.backbone.init_cfg.checkpoint={backbone}', *short(leaf), *options]
    folders = ['--work-dir', str(work_dir), '--data-root', str(data_root)]
    return load_tool('train').main([str(ROOT / leaf), *folders, *arguments, '--cfg-options', *settings])


def tiny_backbone(**changes) -> dict:
    """A ResNet of MMPretrain that a detector can afford in a test; strides 4, 8, 16 and 32."""
    backbone = dict(type='mmpretrain.ResNet', depth=18, base_channels=8, stem_channels=8, out_indices=(0, 1, 2, 3))
    return {**backbone, 'norm_cfg': dict(type='BN', requires_grad=True), **changes}


@functools.cache
def host_model(name: str) -> ConfigDict:
    return get_config(name).model  # MMEngine reads every metafile of MMDetection to find it


@functools.cache
def our_config() -> Config:
    return Config.fromfile(ROOT / 'configs/detection/retinanet_r50-cds_fpn_1x_coco.py')


def tiny_detector(kind: str, num_classes: int, **backbone) -> ConfigDict:
    """MMDetection's Faster R-CNN or RetinaNet around the tiny backbone, with narrow heads."""
    folder = dict(retinanet='retinanet', **{'faster-rcnn': 'faster_rcnn'})[kind]
    model = copy.deepcopy(host_model(f'mmdet::{folder}/{kind}_r50_fpn_1x_coco.py'))
    model.backbone = tiny_backbone(**backbone)
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    if kind == 'retinanet':
        model.bbox_head.update(in_channels=16, feat_channels=16, stacked_convs=1, num_classes=num_classes)
    else:
        model.rpn_head.update(in_channels=16, feat_channels=16)
        model.roi_head.bbox_roi_extractor.out_channels = 16
        model.roi_head.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=num_classes)
        model.train_cfg.rpn_proposal.max_per_img = model.test_cfg.rpn.max_per_img = 100
        model.train_cfg.rcnn.sampler.num = 64
    return model


def tiny_runner(model: ConfigDict, work_dir: Path, data_root: Path, **changes) -> Runner:
    """A run over two images of the replica with all checks of our detection configs."""
    config = copy.deepcopy(our_config())
    config.merge_from_dict(
        {
            'work_dir': str(work_dir),
            'train_cfg.max_epochs': 1,
            'train_dataloader.num_workers': 0,
            'train_dataloader.dataset.indices': 2,
            'train_dataloader.dataset.data_root': str(data_root / 'coco'),
            'train_dataloader.dataset.pipeline.2.scale': (64, 48),
            'default_hooks.checkpoint.interval': 9,
            'default_hooks.checkpoint.save_last': False,
            **changes,
        }
    )
    config.model = model
    config.val_cfg = config.val_dataloader = config.val_evaluator = None
    config.test_cfg = config.test_dataloader = config.test_evaluator = None
    config.default_hooks.report = None
    with DefaultScope.overwrite_default_scope('mmdet'):
        return Runner.from_cfg(config)


def replica_dataset(data_root: Path, split: str = 'train', **settings) -> CheckedCocoDataset:
    """The replica of COCO, or a changed annotation file beside it."""
    given = dict(
        data_root=str(data_root / 'coco'),
        ann_file=f'annotations/instances_{split}2017.json',
        data_prefix=dict(img=f'{split}2017/'),
    )
    return CheckedCocoDataset(**{**given, **settings})

"""Detectors with emulated operators learn: on one image the loss falls until the boxes are found."""

import pytest
import torch
from detection_runs import replica_dataset, tiny_detector
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from torchvision.ops import box_iou


@pytest.mark.parametrize('kind', ['faster-rcnn', 'retinanet'])
def test_the_loss_falls_on_one_image_until_its_boxes_are_found(kind, coco_root):
    torch.manual_seed(0)
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale=(128, 96)),
        dict(type='PackDetInputs'),
    ]
    with DefaultScope.overwrite_default_scope('mmdet'):
        sample = replica_dataset(coco_root, pipeline=pipeline)[0]
        model = MODELS.build(tiny_detector(kind, 80))
        model.init_weights()
        batch = dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        totals = []
        for _ in range(50):
            data = model.data_preprocessor(batch, True)
            total, _ = model.parse_losses(model(**data, mode='loss'))
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            totals.append(float(total.detach()))
        model.eval()
        with torch.no_grad():
            found = model.test_step(batch)[0].pred_instances
    truth = sample['data_samples'].gt_instances
    assert totals[-1] < 0.3 * totals[0]
    scale = torch.tensor(sample['data_samples'].scale_factor).repeat(2)
    overlap = box_iou(found.bboxes * scale, truth.bboxes.tensor)
    for i, label in enumerate(truth.labels):
        hits = (overlap[:, i] > 0.5) & (found.labels == label) & (found.scores > 0.3)
        assert hits.any(), f'box {i} of class {label} is not found'

"""The switches of docs/released_code.md: each gives what the released code does."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS, TRANSFORMS
from PIL import Image
from torchvision.transforms import v2

from mmcds.openmmlab.runner import Runner
from mmcds.paper import cell, compose
from mmcds.paper.compose import file, read

TEXT = (Path(__file__).resolve().parents[2] / 'docs' / 'released_code.md').read_text()


def option(name):
    """A switch, which must stand in the document as it is given here."""
    assert f'`{name}`' in TEXT or f' {name} ' in TEXT.replace('\n', ' '), name
    key, value = name.split('=')
    return {key: {'None': None, 'False': False}.get(value, value)}


def test_the_classifier_gets_the_first_weights_of_pytorch():
    config = compose(cell('table1/resnet18_cifar100/cds'))
    limit = 512**-0.5
    for options, largest, spread in (({}, 0.06, 0.01), (option('model.head.init_cfg=None'), limit, limit / 3**0.5)):
        config.merge_from_dict(options)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            model = MODELS.build(config.model)
        model.init_weights()
        weight = model.head.fc.weight
        assert weight.abs().max() < largest
        assert weight.std().item() == pytest.approx(spread, rel=0.02)
        assert bool(model.head.fc.bias.any()) == bool(options)


def test_the_last_images_of_an_epoch_make_a_smaller_batch():
    config = read(file('cds/resnet18w16_fashion'))
    config.train_dataloader.dataset.indices = 200
    config.train_dataloader.num_workers = 0
    sizes = []
    for options in ({}, option('train_dataloader.drop_last=False')):
        config.merge_from_dict(options)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            loader = Runner.build_dataloader(config.train_dataloader, seed=0)
        sizes.append([len(batch['data_samples']) for batch in loader])
    assert sizes == [[64] * 3, [64] * 3 + [8]]
    assert -(-50_000 // 128) == 391


def test_a_teacher_in_train_mode_is_what_the_switch_asks_for():
    config = compose(cell('table8/resnet18_cifar100/cds_distill'))
    assert config.model.teacher.get('mode', 'eval') == 'eval'
    config.merge_from_dict(option('model.teacher.mode=train'))
    assert config.model.teacher.mode == 'train'


@pytest.mark.parametrize('size', [(500, 375), (333, 500), (1024, 768), (256, 256)])
def test_resizing_by_pillow_is_that_of_torchvision(size):
    rng = np.random.default_rng(0)
    image = np.asarray(
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    )
    config = compose(cell('table3/resnet18_in1k/cds'))
    config.merge_from_dict(option('val_dataloader.dataset.pipeline.1.backend=pillow'))
    expected = np.asarray(v2.CenterCrop(224)(v2.Resize(256)(Image.fromarray(image))))
    found = dict(img=image, img_shape=image.shape[:2])
    for step in config.val_dataloader.dataset.pipeline[1:3]:
        found = TRANSFORMS.build({**step, 'type': f'mmpretrain.{step.type}'} if '.' not in step.type else step)(found)
    np.testing.assert_array_equal(found['img'], expected)


def test_random_crops_are_resized_by_pillow_too():
    config = compose(cell('table3/resnet18_in1k/cds'))
    image = np.random.default_rng(1).integers(0, 256, (400, 600, 3), np.uint8)
    for view in (0, 1):
        config.merge_from_dict(option(f'train_dataloader.dataset.pipeline.1.views.{view}.0.backend=pillow'))
        step = config.train_dataloader.dataset.pipeline[1].views[view][0]
        crop = TRANSFORMS.build({**step, 'type': 'mmpretrain.RandomResizedCrop'})
        torch.manual_seed(0)
        np.random.seed(0)
        top, left, height, width = crop.rand_crop_params(image)
        np.random.seed(0)
        found = crop(dict(img=image, img_shape=image.shape[:2]))['img']
        part = Image.fromarray(image[top : top + height, left : left + width])
        np.testing.assert_array_equal(found, np.asarray(part.resize((224, 224), Image.Resampling.BILINEAR)))


def test_the_document_names_configs_and_options_that_exist():
    root = file('').parent.parent
    for pattern in re.findall(r'`(configs/[^`]+)`', TEXT):
        assert list(root.glob(pattern)), pattern
    dks = compose(cell('table1/resnet18_cifar100/dks'))
    assert '`model.supervisions.dks.direction=top-down model.supervisions.dks.taps=(0,1,2)`' in TEXT
    dks.merge_from_dict({'model.supervisions.dks.direction': 'top-down', 'model.supervisions.dks.taps': (0, 1, 2)})
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        own = MODELS.build(dks.model).supervisions.dks
    assert len(own.classifiers.heads) == 3
    assert own.direction == 'top-down'

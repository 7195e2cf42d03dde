"""Batches from one array: the images and labels that the pipeline gives one by one."""

import pickle

import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample

from mmcds.data import (
    EmbeddedFashionMNIST,
    InMemoryCIFAR10,
    InMemoryCIFAR100,
    PartiallyLabelledDataset,
    SampleBatch,
    collate_samples,
)
from mmcds.data.sample_batch import ViewBatch, make_sample

TEST = [dict(type='LoadImage'), dict(type='PackSample')]
VIEWS = [dict(type='MultiViewTransform', views=[[], [dict(type='RandomFlip', prob=1.0, direction='horizontal')]])]


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def fashion(pipeline, **kwargs) -> EmbeddedFashionMNIST:
    return EmbeddedFashionMNIST(pipeline=pipeline, indices=kwargs.pop('indices', 12), **kwargs)


def same(batch, samples):
    """A batch made in one go against samples made one by one."""
    assert torch.equal(batch['inputs'], torch.stack([sample['inputs'] for sample in samples]))
    for ours, theirs in zip(batch['data_samples'], [sample['data_samples'] for sample in samples], strict=True):
        assert ours.gt_label.equal(theirs.gt_label)
        assert ours.metainfo == theirs.metainfo


@pytest.mark.parametrize('pipeline', [TEST, [TEST[0], *VIEWS, TEST[1]]], ids=['images', 'views'])
@pytest.mark.parametrize('source', [InMemoryCIFAR10, InMemoryCIFAR100, EmbeddedFashionMNIST])
def test_a_batch_holds_what_the_pipeline_gives_one_by_one(source, pipeline, data_root, any_checksum):
    if source is EmbeddedFashionMNIST:
        dataset = fashion(pipeline)
    else:
        root = data_root / source.__name__.removeprefix('InMemory').lower()
        dataset = source(data_root=str(root), pipeline=[dict(pipeline[0], array_order='rgb'), *pipeline[1:]])
    indices = [3, 0, 7, 7]
    batch = dataset.__getitems__(indices)
    assert isinstance(batch, ViewBatch)
    same(collate_samples(batch), [dataset[index] for index in indices])
    same(default_collate(batch), [dataset[index] for index in indices])


def test_subsets_hold_their_own_images():
    dataset = fashion(TEST)
    part = dataset.get_subset([5, 2])
    same(collate_samples(part.__getitems__([0, 1])), [part[0], part[1]])
    assert torch.equal(part[1]['inputs'], dataset[2]['inputs'])
    dataset.get_subset_([5, 2])
    same(collate_samples(dataset.__getitems__([0, 1])), [dataset[0], dataset[1]])


def test_other_pipelines_run_image_by_image():
    other = dict(type='MultiViewTransform', views=[[dict(type='Invert', prob=1.0)]])
    for pipeline in ([TEST[0], other, TEST[1]], [TEST[0], dict(type='Invert', prob=1.0), TEST[1]], [TEST[0]]):
        dataset = fashion(pipeline)
        batch = dataset.__getitems__([1, 2])
        assert isinstance(batch, list)
        assert batch[0].keys() == dataset[1].keys()
    same(
        collate_samples(fashion([TEST[0], other, TEST[1]]).__getitems__([1])), [fashion([TEST[0], other, TEST[1]])[1]]
    )


def test_partially_labelled_batches_never_show_a_hidden_label():
    dataset = PartiallyLabelledDataset(fashion(TEST, indices=40), fraction=0.5)
    indices = list(range(40))
    batch = dataset.__getitems__(indices)
    assert isinstance(batch, ViewBatch)
    same(collate_samples(batch), [dataset[index] for index in indices])
    assert (batch.samples.labels == torch.from_numpy(dataset.get_gt_labels())).all()
    assert (batch.samples.labels < 0).any()


def test_the_loader_delivers_the_same_batches_with_and_without_processes():
    from mmengine.dataset import DefaultSampler

    from mmcds.data import SemiBatchSampler

    dataset = PartiallyLabelledDataset(fashion([TEST[0], *VIEWS, TEST[1]], indices=40), fraction=0.5)
    batches = []
    for workers in (0, 1):
        sampler = SemiBatchSampler(DefaultSampler(dataset, shuffle=True, seed=0), batch_size=6, num_unlabelled=2)
        loader = torch.utils.data.DataLoader(
            dataset, batch_sampler=sampler, num_workers=workers, collate_fn=collate_samples
        )
        batches.append(list(loader))
    for first, second in zip(*batches, strict=True):
        assert torch.equal(first['inputs'], second['inputs'])
        assert [sample.sample_idx for sample in first['data_samples']] == [
            sample.sample_idx for sample in second['data_samples']
        ]
        assert (first['data_samples'].labels < 0).tolist() == [False] * 4 + [True] * 2


def sample(label, **meta) -> DataSample:
    return DataSample(metainfo=meta).set_gt_label(label)


def test_a_sample_made_quickly_is_the_one_of_the_host():
    ours, theirs = (
        make_sample(dict(sample_idx=3, img_path='a'), torch.tensor([5])),
        sample(5, sample_idx=3, img_path='a'),
    )
    assert repr(ours).split(' at ')[0] == repr(theirs).split(' at ')[0]
    assert ours.to_dict().keys() == theirs.to_dict().keys()
    ours.set_pred_label(1)
    assert set(ours.keys()) == {'gt_label', 'pred_label'}
    assert set(make_sample(dict(sample_idx=1), None).all_keys()) == {'sample_idx'}


def test_a_batch_of_samples_survives_the_way_between_processes():
    samples = [sample(label, sample_idx=label, img_path=str(label)) for label in (3, -1, 2)]
    batch = pickle.loads(pickle.dumps(SampleBatch.pack(samples)))
    assert len(batch) == 3
    for ours, theirs in zip(batch, samples, strict=True):
        assert ours.metainfo == theirs.metainfo
        assert ours.gt_label.equal(theirs.gt_label)
    batch[0].set_gt_label(9)
    assert batch.samples[0].gt_label == 9, 'always the same objects'
    assert list(batch.to('cpu').labels) == [3, -1, 2]
    unlabelled = SampleBatch.pack([DataSample(metainfo=dict(sample_idx=i)) for i in range(2)])
    assert unlabelled.labels is None
    assert [s.sample_idx for s in unlabelled.to('cpu')] == [0, 1]


def test_the_collate_function_can_be_inherited_from_another_package():
    from functools import partial

    inherited = partial(collate_samples, _scope_='mmcds')  # what MMEngine's runner makes of the config
    assert inherited([dict(inputs=torch.zeros(2))] * 3)['inputs'].shape == (3, 2)


def test_samples_with_more_than_a_label_stay_as_they_are():
    scored = [sample(1).set_gt_score(torch.rand(3)), sample(2)]
    assert SampleBatch.pack(scored) is scored
    several = [sample([1, 2]), sample([0, 1])]
    assert SampleBatch.pack(several) is several
    batch = collate_samples([dict(inputs=torch.zeros(2), data_samples=s) for s in scored])
    assert batch['data_samples'] == scored
    assert collate_samples([dict(inputs=torch.zeros(2))] * 2).keys() == {'inputs'}


def test_packing_is_the_one_of_the_host():
    from mmpretrain.datasets.transforms import PackInputs

    from mmcds.views.packing import PackSample

    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    for extra in (dict(gt_label=3), dict(), dict(gt_label=[1, 2]), dict(gt_label=1, gt_score=[0.1, 0.9])):
        results = dict(img=image, sample_idx=4, img_shape=(2, 4), img_path='a', flip=None, **extra)
        ours, theirs = (pack(dict(results)) for pack in (PackSample(), PackInputs()))
        assert torch.equal(ours['inputs'], theirs['inputs'])
        assert repr(ours['data_samples']).split(' at ')[0] == repr(theirs['data_samples']).split(' at ')[0]
    with pytest.raises(TypeError, match='not an available label type'):
        PackSample()(dict(img=image, gt_label='cat'))

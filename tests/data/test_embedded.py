"""The embedded emoji: what the splits have in common and what not; wrong labels."""

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from mmpretrain.registry import DATASETS

from mmcds.core.errors import ConfigError
from mmcds.data import EmbeddedEmoji, EmbeddedFashionMNIST, NoisyLabels
from mmcds.data.embedded import EMOJI

PIPELINE = [dict(type='LoadImage', array_order='rgb'), dict(type='PackSample')]


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        yield


def pixels(dataset):
    return {dataset[index]['inputs'].numpy().tobytes() for index in range(len(dataset))}


@pytest.mark.parametrize(('held_out', 'sizes'), [('style', (1973, 219, 1096)), ('concept', (2286, 501, 501))])
def test_the_splits_share_no_image_and_not_what_is_held_out(held_out, sizes):
    parts = [EmbeddedEmoji(split, held_out=held_out, pipeline=PIPELINE) for split in ('train', 'val', 'test')]
    assert tuple(map(len, parts)) == sizes
    seen = [pixels(part) for part in parts]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 3288
    with np.load(EMOJI) as stored:
        fields = {name: stored[name] for name in stored.files}
    assert (np.bincount(fields['concept']) == 3).all(), 'every emoji in every style'
    held = [set(fields[held_out][fields[f'split_{held_out}'] == part].tolist()) for part in range(3)]
    assert not held[2] & (held[0] | held[1])
    for part in parts:
        labels = part.get_gt_labels()
        assert len(set(labels.tolist())) >= (57 if part.test_mode else 58), (
            'two styles have no room for all in a tenth'
        )
        assert len(part.metainfo['classes']) == 58
    assert parts[1].test_mode
    assert not parts[0].test_mode


@pytest.mark.parametrize(('classes', 'number'), [('category', 8), ('concept', 1096)])
def test_the_classes(classes, number):
    train, test = (EmbeddedEmoji(split, classes=classes, pipeline=PIPELINE) for split in ('train', 'test'))
    assert len(train.metainfo['classes']) == number
    assert set(train.get_gt_labels().tolist()) == set(test.get_gt_labels().tolist()) == set(range(number))


def test_images_are_rgb():
    """The first emoji of the class of hearts that is red is red."""
    hearts = EmbeddedEmoji('test', pipeline=PIPELINE)
    with np.load(EMOJI) as stored:
        rows = stored['split_style'] == 2
        names = stored['concept_names'][stored['concept'][rows]]
    sample = hearts[int(np.flatnonzero(names == 'heart')[0])]['inputs']
    blue, green, red = sample[:, 16, 16].tolist()  # as OpenCV reads files; the preprocessor turns it
    assert red > 150 > max(green, blue)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(split='training'), "split is 'training'; choose 'train', 'val', 'test'"),
        (dict(classes='animal'), "classes is 'animal'; choose 'category', 'subgroup', 'concept'"),
        (dict(held_out='colour'), "held_out is 'colour'; choose 'style', 'concept'"),
        (dict(classes='concept', held_out='concept'), "Set held_out to 'style'"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        EmbeddedEmoji(**arguments)


def test_wrong_labels_are_a_share_of_every_class_and_another_class_each():
    clean = EmbeddedFashionMNIST(pipeline=PIPELINE)
    labels = clean.get_gt_labels()
    noisy = {share: NoisyLabels(clean, share).get_gt_labels() for share in (0.0, 0.2, 0.4)}
    assert np.array_equal(noisy[0.0], labels)
    for share in (0.2, 0.4):
        wrong = noisy[share] != labels
        assert np.bincount(labels[wrong]).tolist() == [round(500 * share)] * 10
        drawn = np.bincount((noisy[share] - labels)[wrong] % 10, minlength=10)
        expected = wrong.sum() / 9
        assert drawn[0] == 0
        assert ((drawn[1:] - expected) ** 2 / expected).sum() < 27.9, 'chi-squared of 8 degrees, p = 0.0005'
    assert np.array_equal(noisy[0.4][noisy[0.2] != labels], noisy[0.2][noisy[0.2] != labels])
    assert not np.array_equal(NoisyLabels(clean, 0.2, seed=1).get_gt_labels(), noisy[0.2])


def test_wrong_labels_reach_the_batches_and_do_not_depend_on_the_order():
    whole = DATASETS.build(
        dict(type='NoisyLabels', share=0.4, dataset=dict(type='EmbeddedFashionMNIST', pipeline=PIPELINE))
    )
    batch = whole.__getitems__([3, 4000, 7])
    assert batch.samples.labels.tolist() == whole.get_gt_labels()[[3, 4000, 7]].tolist()
    order = np.random.default_rng(0).permutation(5000)
    mixed = NoisyLabels(EmbeddedFashionMNIST(pipeline=PIPELINE, indices=order.tolist()), 0.4)
    assert np.array_equal(mixed.get_gt_labels(), whole.get_gt_labels()[order])


@pytest.mark.parametrize('share', [-0.1, 1.0])
def test_a_share_is_one(share):
    with pytest.raises(ConfigError, match=r'must lie in \[0, 1\)'):
        NoisyLabels(EmbeddedFashionMNIST(pipeline=PIPELINE, indices=20), share)

"""What is in the batches, on one rank and on several."""

from types import SimpleNamespace

import numpy as np
import pytest
from torch.utils.data import SequentialSampler

from mmcds.core.errors import ConfigError
from mmcds.data import SemiBatchSampler
from mmcds.data.semi_batch_sampler import draw_batches


class Labels:
    def __init__(self, labelled, unlabelled):
        self.labels = np.array([1] * labelled + [-1] * unlabelled)

    def get_gt_labels(self):
        return self.labels


def sampler(labelled=20, unlabelled=60, rank=0, world_size=1, seed=0, epoch_number=0, **arguments):
    inner = SimpleNamespace(
        dataset=Labels(labelled, unlabelled), seed=seed, epoch=epoch_number, rank=rank, world_size=world_size
    )
    return SemiBatchSampler(inner, **{**dict(batch_size=8, num_unlabelled=6), **arguments})


def split(batch, labelled=20):
    return [index for index in batch if index < labelled], [index for index in batch if index >= labelled]


@pytest.mark.parametrize('world_size', [1, 2, 3])
@pytest.mark.parametrize('drop_last', [True, False])
@pytest.mark.parametrize('epoch', ['labelled', 'unlabelled', 'all', 7])
def test_every_batch_of_every_rank_has_the_given_numbers_and_no_image_twice(world_size, drop_last, epoch):
    ranks = [
        list(sampler(rank=rank, world_size=world_size, epoch=epoch, drop_last=drop_last)) for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1, 'all ranks take as many steps'
    assert len(ranks[0]) == len(sampler(world_size=world_size, epoch=epoch, drop_last=drop_last))
    for step in zip(*ranks, strict=True):
        for batch in step:
            assert [len(part) for part in split(batch)] == [2, 6]
        together = [index for batch in step for index in batch]
        assert len(set(together)) == len(together), 'ranks share no image'


@pytest.mark.parametrize('world_size', [1, 2, 3])
@pytest.mark.parametrize('epoch, part, pool', [('labelled', 0, range(20)), ('unlabelled', 1, range(20, 80))])
def test_an_epoch_shows_every_image_of_the_kind_that_defines_it(world_size, epoch, part, pool):
    shown = [
        index
        for rank in range(world_size)
        for batch in sampler(rank=rank, world_size=world_size, epoch=epoch, drop_last=False)
        for index in split(batch)[part]
    ]
    assert set(shown) == set(pool)
    dropped = [
        index
        for rank in range(world_size)
        for batch in sampler(rank=rank, world_size=world_size, epoch=epoch)
        for index in split(batch)[part]
    ]
    assert len(set(dropped)) == len(dropped) <= len(pool), 'with drop_last none comes twice'
    assert len(pool) - len(dropped) < (2, 6)[part] * world_size


def test_an_epoch_of_all_has_as_many_batches_as_with_all_labels():
    assert len(sampler(epoch='all')) == 80 // 2
    assert len(sampler(epoch='all', world_size=2)) == 80 // 4
    assert len(sampler(epoch='all', batch_size=14, num_unlabelled=5)) == 8
    assert len(sampler(epoch='all', batch_size=14, num_unlabelled=5, drop_last=False)) == 9


@pytest.mark.parametrize('labelled', [20, 40, 80])
def test_runs_with_any_share_of_labels_with_or_without_unlabelled_images_take_as_many_steps(labelled):
    share = dict(labelled=labelled, unlabelled=80 - labelled)
    assert len(sampler(**share, batch_size=4, num_unlabelled=0)) == 20
    if labelled < 80:
        assert len(sampler(**share, batch_size=10, num_unlabelled=6)) == 20
    assert all(max(batch) < labelled for batch in sampler(**share, num_unlabelled=0))


def test_batches_depend_on_seed_and_epoch_alone():
    first = list(sampler(epoch_number=3))
    assert list(sampler(epoch_number=3)) == first
    assert list(sampler(epoch_number=4)) != first
    assert list(sampler(epoch_number=3, seed=1)) != first


def test_all_images_of_a_pool_come_equally_often_up_to_one():
    drawn = draw_batches(np.arange(10), size=4, count=13, rng=np.random.default_rng(0))
    assert set(np.bincount(drawn.ravel())) <= {5, 6}
    assert all(len(set(batch)) == 4 for batch in drawn.tolist())


def test_fewer_labelled_images_than_places_come_equally_often():
    batches = list(sampler(labelled=3, unlabelled=40, batch_size=16, num_unlabelled=8))
    for batch in batches:
        assert sorted(np.bincount(split(batch, 3)[0])) == [2, 3, 3]


def test_batches_of_labelled_images_alone_are_possible():
    assert len(sampler(labelled=16, unlabelled=0, num_unlabelled=0)) == 2


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(num_unlabelled=9), 'num_unlabelled is 9 of batch_size 8 images; let it lie from 0 to batch_size - 1'),
        (dict(num_unlabelled=-1), 'num_unlabelled is -1'),
        (dict(labelled=0), 'hold 2 labelled images on each of 1 rank.* has 0'),
        (dict(unlabelled=11, world_size=2), 'hold 6 unlabelled images on each of 2 rank.* has 11'),
        (dict(epoch='half'), "epoch is 'half'; choose"),
        (dict(num_unlabelled=8), 'a batch without any label teaches the classifier nothing'),
        (dict(labelled=1, epoch='labelled'), "epoch of 'labelled' has no batch with 2 labelled"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        sampler(**arguments)


def test_a_sampler_without_ranks_and_epochs_is_refused():
    with pytest.raises(ConfigError, match='SequentialSampler does not know its dataset'):
        SemiBatchSampler(SequentialSampler(range(4)), batch_size=2, num_unlabelled=1)

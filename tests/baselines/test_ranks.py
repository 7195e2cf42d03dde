"""Two gloo ranks of unequal size: CRD has one memory for all, RKD, SP and CC compare the images of a rank."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.testing import assert_close

sys.path.insert(0, str(Path(__file__).parents[1]))

from baseline_cases import network, outputs

from mmcds.baselines import CCSupervision, CRDSupervision, RKDSupervision, SPSupervision

LABELS = torch.arange(60) % 3
INDICES = torch.tensor([3, 9, 14, 58, 0, 9])  # image 9 is seen by both ranks
PARTS = (slice(0, 4), slice(4, 6))
RELATIONAL = {'rkd': RKDSupervision, 'sp': SPSupervision, 'cc': CCSupervision}


def whole():
    return replace(outputs(images=6), sample_idx=INDICES)


def part_of(found, rows):
    def one(part):
        return replace(
            part,
            features={tap: maps[rows] for tap, maps in part.features.items()},
            pooled=part.pooled[rows],
            logits=part.logits[rows],
            labels=part.labels[rows],
            sample_idx=part.sample_idx[rows],
        )

    return replace(one(found), teacher=one(replace(found.teacher, sample_idx=INDICES)))


def build(kind, **arguments):
    torch.manual_seed(0)
    supervision = kind(**arguments)
    supervision.build(network())
    return supervision.double()


def crd():
    # all 40 images of other classes are negatives, so nothing is random
    return build(CRDSupervision, num_negatives=40, out_channels=6, loss_weight=1.0)


def worker(rank, folder):
    torch.set_num_threads(1)
    os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
    dist.init_process_group('gloo', init_method=f'file://{folder}/init', rank=rank, world_size=2)
    supervision = crd()
    torch.manual_seed(rank)  # the memories must agree all the same
    supervision.prepare(LABELS)
    supervision.double()
    start = supervision.student_memory.clone(), supervision.teacher_memory.clone()
    mine = part_of(whole(), PARTS[rank])
    values = {name: value.detach() for name, value in supervision(mine).items()}
    others = {name: sum(build(kind)(mine).values()).detach() for name, kind in RELATIONAL.items()}
    torch.save((start, values, dict(supervision.named_buffers()), others), f'{folder}/rank{rank}.pt')
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    from rank_processes import run_ranks  # the processes do not find it

    run_ranks(__file__, folder, 2)
    return [torch.load(folder / f'rank{rank}.pt') for rank in range(2)]


def test_crd_keeps_one_memory_and_its_losses_average_to_that_of_one_process(ranks):
    (start, first, buffers, _), (other, second, again, _) = ranks
    assert torch.equal(start[0], other[0])
    for name, value in buffers.items():
        assert torch.equal(value, again[name]), name
    one = crd()
    one.prepare(LABELS)
    one.student_memory, one.teacher_memory = (memory.clone() for memory in start)
    values = one(whole())
    for name, value in one.named_buffers():
        assert_close(buffers[name], value)
    for name, value in values.items():
        assert_close((4 * first[name] + 2 * second[name]) / 6, value.detach())


@pytest.mark.parametrize('name', RELATIONAL)
def test_relations_are_those_of_the_images_of_a_rank(ranks, name):
    for rank, part in enumerate(PARTS):
        alone = sum(build(RELATIONAL[name])(part_of(whole(), part)).values())
        assert_close(ranks[rank][3][name], alone.detach())
    assert abs(ranks[0][3][name] - ranks[1][3][name]) > 1e-6


if __name__ == '__main__':
    worker(int(sys.argv[1]), sys.argv[2])

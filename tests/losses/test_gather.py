"""The gather: two and three gloo processes equal one, and unequal ranks stop together."""

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from mmcds.core.errors import ConfigError
from mmcds.core.outputs import StepOutputs
from mmcds.losses import NTXentLoss, SINCERELoss, SupConLoss, gather_embeddings
from mmcds.methods import ContrastiveSupervision

VIEWS, WIDTH = 2, 6
SIZES = {2: (5, 5), 3: (2, 5, 3)}  # three ranks bring different numbers of images


class Heads(nn.Module):
    """An encoder with a loss, whose parameters the ranks share."""

    def __init__(self, loss=SupConLoss, **options):
        super().__init__()
        torch.manual_seed(1)
        self.project = nn.Linear(4, WIDTH)
        self.loss = loss(loss_weight=0.5, **options)
        self.double()

    def forward(self, images, labels):
        whole = gather_embeddings(F.normalize(self.project(images), dim=2), labels)
        return self.loss(whole.embeddings, whole.labels, local=whole.local, num_ranks=whole.num_ranks)


class TwoTerms(nn.Module):
    """Equation 6 with its terms apart, in the place of a loss: it finds the images of this rank in both sets."""

    def __init__(self, loss_weight):
        super().__init__()
        self.supervision = ContrastiveSupervision(
            (0,), loss=dict(type='SupConLoss', loss_weight=loss_weight), gather=True, unlabelled_weight=0.8
        )
        self.supervision.name = 'cds'

    def forward(self, rows, labels, local, num_ranks):
        own = StepOutputs(VIEWS, {}, rows, rows, labels[local], None, 0.0, {'cds': {0: rows[:, local]}})
        values = self.supervision(own)
        return values['stage0.loss_contrast'] + values['stage0.loss_unlabelled']


CASES = [
    dict(),
    dict(positives='in', temperature=0.2),
    dict(temperature=0.01),  # two exponentials per pair
    dict(learn_temperature=True, block_size=3),
    dict(loss=NTXentLoss),
    dict(loss=SINCERELoss),
    dict(loss=TwoTerms),  # of three ranks, the first has no unlabelled image
]


def batch():
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(VIEWS, 10, 4, generator=generator, dtype=torch.float64)
    return images, torch.tensor([0, 1, -1, 0, 2, 2, -1, 0, 1, 3])


def share(rank, sizes):
    start = sum(sizes[:rank])
    part = slice(start, start + sizes[rank])
    images, labels = batch()
    return images[:, part], labels[part]


def wrong_batches(rank):
    """What the others bring differs from rank 0's; each must be refused by all."""
    rows, labels = F.normalize(torch.ones(2, 3, 4), dim=2), torch.zeros(3, dtype=torch.int64)
    yield 'another width', (rows[..., :3] if rank else rows, labels)
    yield 'another number of views', (torch.cat([rows, rows]) if rank else rows, labels)
    yield 'another type', (rows.double() if rank else rows, labels)
    yield 'no labels', (rows, None if rank else labels)
    yield 'too many labels', (rows, torch.zeros(7, dtype=torch.int64) if rank else labels)
    yield 'a wrong shape', (rows[0] if rank else rows, labels)


def worker(rank, ranks, folder):
    torch.set_num_threads(1)
    os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
    dist.init_process_group('gloo', init_method=f'file://{folder}/init', rank=rank, world_size=ranks)
    found = []
    for case in CASES:
        model = DistributedDataParallel(Heads(**case))
        loss = model(*share(rank, SIZES[ranks]))
        loss.backward()
        total = loss.detach().clone()
        dist.all_reduce(total)
        found.append((total / ranks, {name: p.grad for name, p in model.module.named_parameters()}))
    messages = {}
    for name, arguments in wrong_batches(rank):
        try:
            gather_embeddings(*arguments)
        except ConfigError as error:
            messages[name] = str(error)
    torch.save((found, messages), f'{folder}/rank{rank}.pt')
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope='module', params=[2, 3])
def ranks(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f'ranks{request.param}')
    children = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(request.param), str(folder)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(request.param)
    ]
    for child in children:
        _, errors = child.communicate(timeout=120)
        assert child.returncode == 0, errors[-3000:]
    return [torch.load(folder / f'rank{rank}.pt') for rank in range(request.param)]


@pytest.mark.parametrize('case', range(len(CASES)))
def test_ranks_together_are_one_process_in_loss_and_parameter_gradients(ranks, case):
    model = Heads(**CASES[case])
    loss = model(*batch())
    loss.backward()
    for found, _ in ranks:
        total, grads = found[case]
        assert_close(total, loss.detach(), rtol=1e-11, atol=1e-12)
        for name, parameter in model.named_parameters():
            assert_close(grads[name], parameter.grad, rtol=1e-9, atol=1e-11)
            assert parameter.grad.abs().max() > 1e-6


def test_ranks_that_do_not_fit_together_stop_on_every_rank_with_one_message(ranks):
    first, *others = (messages for _, messages in ranks)
    assert all(messages == first for messages in others)
    assert set(first) == {name for name, _ in wrong_batches(0)}
    for message in first.values():
        assert 'every rank must bring embeddings (V, N, D) of the same V, D' in message
    assert 'rank 0: V=2, N=3, D=4, type=torch.float32, labels=3; rank 1: V=2, N=3, D=3' in first['another width']


def test_without_a_process_group_nothing_changes():
    rows, labels = torch.ones(2, 3, 4), torch.arange(3)
    whole = gather_embeddings(rows, labels)
    assert whole.embeddings is rows
    assert whole.labels is labels
    assert whole.local == slice(0, 3)
    assert whole.num_ranks == 1


if __name__ == '__main__':
    worker(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

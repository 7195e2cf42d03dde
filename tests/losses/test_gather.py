"""The gather: two and three gloo processes equal one, and unequal ranks stop together."""

import gc
import os
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from mmcds.core.errors import ConfigError
from mmcds.core.outputs import StepOutputs
from mmcds.losses import NTXentLoss, SINCERELoss, SupConLoss, gather, gather_embeddings
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
    yield 'labels per view', (rows, torch.zeros(3, 2, dtype=torch.int64) if rank else labels)
    yield 'labels that are no integers', (rows, labels.float() if rank else labels)
    yield 'a wrong shape', (rows[0] if rank else rows, labels)


class Sent(TorchDispatchMode):
    """Remembers what was sent."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == 'c10d':
            self.names.append(function._opname)
        return function(*args, **(kwargs or {}))


def rows_and_labels(rank, images, width=3, dtype=torch.bfloat16):
    """Rows that say where they come from, and labels that no floating-point type holds."""
    rows = torch.arange(2 * images * width, dtype=dtype).view(2, images, width) + 100 * rank
    return rows, torch.arange(images) + 2**62 + 1000 * rank


def collected(ranks, *sizes, **kind):
    """What must come out."""
    rows, labels = zip(*(rows_and_labels(rank, sizes[rank], **kind) for rank in range(ranks)), strict=True)
    return torch.cat(rows, 1), torch.cat(labels)


def changing_batches(ranks):
    """Images of every rank, and kinds of rows: growing, shrinking, unequal, none, and those of another call."""
    for sizes in ((2, 2, 2), (3, 1, 2), (1, 1, 1), (0, 5, 1), (5, 0, 0), (2, 2, 2)):
        yield sizes[:ranks], {}
        yield sizes[:ranks], dict(width=4, dtype=torch.float64)


def count_sent(rank):
    """What is sent by two steps, forward and backward."""
    for _ in range(2):
        rows, labels = rows_and_labels(rank, 40, dtype=torch.float32)
        with Sent() as forward:
            whole = gather_embeddings(rows.requires_grad_(), labels)
        with Sent() as backward:
            whole.embeddings.sum().backward()
        yield forward.names, backward.names


#: Calls where the host does not read: images of rank 0 and of the others, and whether all go on.
UNREAD = [
    ((7, 7), True),
    ((7, 7), True),
    ((6, 6), True),  # new to all
    ((7, 7), True),
    ((6, 6), True),
    ((7, 6), False),  # each known, but not together
    ((7, 5), False),  # new to some
    ((5, 7), False),
    ((9, 9), True),  # they need more room than was agreed
    ((7, 9), False),
]


def without_reading(rank, ranks):
    """As on a GPU: what comes out of :data:`UNREAD`, or the error, and what was sent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, '_host_reads', lambda device: False)
        for sizes, _ in UNREAD:
            with Sent() as sent:
                try:
                    whole = gather_embeddings(*rows_and_labels(rank, sizes[rank > 0], width=50))
                    found = whole.embeddings, whole.labels
                except ConfigError as error:
                    found = str(error)
            yield found, sent.names


def worker(rank, ranks, folder):
    dist.init_process_group('gloo', init_method=f'file://{folder}/init{ranks}', rank=rank, world_size=ranks)
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
    changes = []
    for sizes, kind in changing_batches(ranks):
        whole = gather_embeddings(*rows_and_labels(rank, sizes[rank], **kind))
        assert whole.local == slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
        changes.append((whole.embeddings, whole.labels))
    others = changes, list(count_sent(rank)), list(without_reading(rank, ranks))
    torch.save((found, messages, others), f'{folder}/rank{rank}of{ranks}.pt')
    del model
    gc.collect()  # the wrapped model holds the group
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Results of three processes, and then of two of them in a process group of their own."""
    folder = tmp_path_factory.mktemp('ranks')
    from rank_processes import run_ranks  # the processes do not find it

    run_ranks(__file__, folder, 3)
    return folder


@pytest.fixture(scope='module', params=[2, 3])
def ranks(request, folder):
    return [torch.load(folder / f'rank{rank}of{request.param}.pt') for rank in range(request.param)]


@pytest.mark.parametrize('case', range(len(CASES)))
def test_ranks_together_are_one_process_in_loss_and_parameter_gradients(ranks, case):
    model = Heads(**CASES[case])
    loss = model(*batch())
    loss.backward()
    for found, *_ in ranks:
        total, grads = found[case]
        assert_close(total, loss.detach(), rtol=1e-11, atol=1e-12)
        for name, parameter in model.named_parameters():
            assert_close(grads[name], parameter.grad, rtol=1e-9, atol=1e-11)
            assert parameter.grad.abs().max() > 1e-6


def test_ranks_that_do_not_fit_together_stop_on_every_rank_with_one_message(ranks):
    first, *others = (messages for _, messages, _ in ranks)
    assert all(messages == first for messages in others)
    assert set(first) == {name for name, _ in wrong_batches(0)}
    for message in first.values():
        assert 'every rank must bring embeddings (V, N, D) of the same V, D' in message
    assert 'rank 0: V=2, N=3, D=4, type=torch.float32, labels=3; rank 1: V=2, N=3, D=3' in first['another width']


def test_numbers_of_images_and_kinds_of_rows_may_change_from_call_to_call_on_a_cpu(ranks):
    expected = [collected(len(ranks), *sizes, **kind) for sizes, kind in changing_batches(len(ranks))]
    for *_, (changes, _, _) in ranks:
        for found, right in zip(changes, expected, strict=True):
            assert_close(found, right, rtol=0, atol=0)


def test_sizes_are_agreed_once_and_then_a_step_sends_once_each_way(ranks):
    for *_, (_, sent, _) in ranks:
        first, second = sent
        assert first == (['_allgather_base_'] * 2, ['_reduce_scatter_base_'])
        assert second == (['_allgather_base_'], ['_reduce_scatter_base_'])


def test_where_the_host_does_not_read_what_was_agreed_goes_on_and_else_all_ranks_stop(ranks):
    for number, (sizes, goes_on) in enumerate(UNREAD):
        found, sent = zip(*(others[2][number] for *_, others in ranks), strict=True)
        assert all(names == sent[0] for names in sent)
        assert sent[0] == ['_allgather_base_'] * len(sent[0])
        if goes_on:
            right = collected(len(ranks), sizes[0], *[sizes[1]] * (len(ranks) - 1), width=50)
            assert_close(list(found), [right] * len(ranks), rtol=0, atol=0)
            assert len(sent[0]) == 1 or sizes not in [earlier for earlier, _ in UNREAD[:number]]
        else:
            assert all('Set drop_last=True in the data loader' in message for message in found)


@pytest.fixture
def two_ranks_on_a_gpu_without_one():
    """A process group of two ranks that sends nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group('fake', store=FakeStore(), rank=1, world_size=2)
    yield
    dist.destroy_process_group()


def test_a_gpu_is_not_waited_for_once_sizes_are_agreed(two_ranks_on_a_gpu_without_one):
    from fake_gpu import FakeTensorMode, Waits  # not found by the other processes

    with FakeTensorMode():
        rows = torch.empty(2, 3, 4, device='cuda', requires_grad=True)
        labels = torch.empty(3, dtype=torch.int64, device='cuda')
        header = gather.Header.of(rows, labels, 3 * 8 + 2 * 3 * 4 * 4)
        known = [header] * 2, torch.empty(2, len(header), dtype=torch.int64, device='cuda')
        gather._agreements[dist.group.WORLD] = gather._Agreement(header.size, {header: known})
        with Waits() as counted:
            whole = gather_embeddings(rows, labels)
    assert whole.embeddings.shape == (2, 6, 4)
    assert whole.local == slice(3, 6)
    assert not counted.found


def test_without_a_process_group_nothing_changes():
    rows, labels = torch.ones(2, 3, 4), torch.arange(3)
    whole = gather_embeddings(rows, labels)
    assert whole.embeddings is rows
    assert whole.labels is labels
    assert whole.local == slice(0, 3)
    assert whole.num_ranks == 1


if __name__ == '__main__':
    torch.set_num_threads(1)
    os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
    for number in (3, 2):
        if int(sys.argv[1]) < number:
            worker(int(sys.argv[1]), number, sys.argv[2])

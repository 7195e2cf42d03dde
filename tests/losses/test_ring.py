"""The ring: two and three gloo processes equal one, in memory of one rank's share."""

import gc
import math
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
from torch.utils._pytree import tree_leaves

from mmcds.core.errors import ConfigError, DivergedError
from mmcds.losses import gather, supcon_loss
from mmcds.losses.ring import ring_contrast_loss

VIEWS = 2
WIDTHS = (6, 3)
SIZES = {2: (6, 4), 3: (2, 5, 3)}
LABELS = torch.tensor([0, 1, -1, 0, 2, 2, -1, 0, 1, 3])


class Heads(nn.Module):
    """Two heads, whose parameters the ranks share, and the sum of their losses; ranks and taps have weights."""

    def __init__(self, loss, learned=None, labelled=True, **options):
        super().__init__()
        torch.manual_seed(1)
        self.heads = nn.ModuleList(nn.Linear(4, width) for width in WIDTHS)
        self.temperature = None if learned is None else nn.Parameter(torch.tensor(learned))
        self.loss, self.labelled, self.options = loss, labelled, options
        self.double()

    def forward(self, images, labels):
        taps = [F.normalize(head(images), dim=2) for head in self.heads]
        options = self.options if self.temperature is None else {**self.options, 'temperature': self.temperature}
        first, second = self.loss(taps, labels if self.labelled else None, **options)
        return first + 3 * second


def dense(taps, labels, temperature=0.07, positives='out', block_size=None, weights=1.0):
    """The equations of the paper on the matrix of all pairs; with a weight per anchor image, (N,)."""
    views, images, _ = taps[0].shape
    ids = torch.arange(images) if labels is None else torch.where(labels >= 0, labels, 100 + torch.arange(images))
    ids = ids.repeat(views)
    itself = torch.eye(len(ids), dtype=torch.bool)
    positive = (ids[:, None] == ids) & ~itself
    losses = []
    for tap in taps:
        rows = tap.flatten(0, 1)
        log_share = (rows @ rows.T / temperature).masked_fill(itself, -math.inf).log_softmax(1)
        if positives == 'out':
            terms = -log_share.masked_fill(~positive, 0).sum(1) / positive.sum(1)
        else:
            terms = -(log_share.exp() * positive).sum(1).div(positive.sum(1)).log()
        losses.append((terms.view(views, images) * weights).mean())
    return losses


CASES = {
    'out': {},
    'in': dict(positives='in', temperature=0.2),
    'sharp': dict(temperature=0.005),
    'small tiles': dict(block_size=3),
    'small tiles, in': dict(block_size=1, positives='in', temperature=0.1),
    'learned': dict(learned=0.3),
    'learned, in': dict(learned=0.1, positives='in'),
    'no labels': dict(labelled=False),
    'no labels, in': dict(labelled=False, positives='in', temperature=0.5),
    'a rank without images': {},
}


def batch():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(VIEWS, len(LABELS), 4, generator=generator, dtype=torch.float64)


def share(rank, sizes):
    part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    return batch()[:, part], LABELS[part]


def refused(rank):
    """One rank brings something wrong, the others do not."""
    rows, labels = F.normalize(torch.ones(2, 3, 4), dim=2), torch.zeros(3, dtype=torch.int64)
    yield 'another width', (rows[..., :3] if rank else rows, labels)
    yield 'no labels', (rows, None if rank else labels)
    yield 'a row too long', (2 * rows if rank else rows, labels)
    yield 'not finite', (rows / 0 if rank else rows, labels)


def sizes_of(case, ranks):
    """Images of every rank."""
    first, *others, last = SIZES[ranks]
    return (0, *others, first + last) if case == 'a rank without images' else SIZES[ranks]


class Watch(TorchDispatchMode):
    """Remembers the size of the largest tensor that was made, in bytes, and what was sent."""

    def __init__(self):
        super().__init__()
        self.largest, self.sent = 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self.largest = max(self.largest, leaf.untyped_storage().nbytes())
        if function.namespace == 'c10d':
            self.sent.append(function._opname)
        return made


MEMORY = dict(images=40, width=32, block=16)  # of one rank; two together are 40 KiB, a matrix of one 50 KiB


def largest_tensor(positives):
    rows = F.normalize(torch.randn(VIEWS, MEMORY['images'], MEMORY['width'], dtype=torch.float64), dim=2)
    rows.requires_grad_()
    labels = torch.arange(MEMORY['images'])
    with Watch() as found:
        ring_contrast_loss(rows, labels, positives=positives, block_size=MEMORY['block']).backward()
    return found.largest


def communication():
    """What is sent in a call for two taps, and in its backward pass."""
    rows = F.normalize(torch.ones(2, 3, 4), dim=2).requires_grad_()
    with Watch() as forward:
        losses = ring_contrast_loss([rows, rows])
    with Watch() as backward:
        sum(losses).backward()
    return forward.sent, backward.sent


def differentiate_twice():
    rows = F.normalize(torch.ones(2, 3, 4), dim=2).requires_grad_()
    (first,) = torch.autograd.grad(ring_contrast_loss(rows), rows, create_graph=True)
    try:
        first.sum().backward()
    except RuntimeError as error:
        return str(error)


def without_reading(rank):
    """As on a GPU, where the host does not read: the same again, and then one rank brings another size."""
    rows = F.normalize(torch.ones(2, 3, 4), dim=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, '_host_reads', lambda device: False)
        values = [ring_contrast_loss(rows), ring_contrast_loss(rows)]
        try:
            ring_contrast_loss(rows[:, : 2 if rank else 3])
        except ConfigError as error:
            return values, str(error)


def worker(rank, ranks, folder):
    dist.init_process_group('gloo', init_method=f'file://{folder}/init{ranks}', rank=rank, world_size=ranks)
    found = {}
    for name, case in CASES.items():
        model = DistributedDataParallel(Heads(ring_contrast_loss, **case))
        loss = (1 + rank) * model(*share(rank, sizes_of(name, ranks)))
        loss.backward()
        total = loss.detach().clone()
        dist.all_reduce(total)
        found[name] = total / ranks, {key: value.grad for key, value in model.module.named_parameters()}
    messages = {}
    for name, arguments in refused(rank):
        try:
            ring_contrast_loss(*arguments)
        except (ConfigError, DivergedError) as error:
            messages[name] = str(error)
    found |= dict(
        messages=messages,
        largest=[largest_tensor(positives) for positives in ('out', 'in')],
        communication=communication(),
        twice=differentiate_twice(),
        without_reading=without_reading(rank),
    )
    torch.save(found, f'{folder}/rank{rank}of{ranks}.pt')
    del model
    gc.collect()  # the wrapped model holds the group
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Results of three processes, and then of two of them in a process group of their own."""
    folder = tmp_path_factory.mktemp('ring')
    from rank_processes import run_ranks  # the processes do not find it

    run_ranks(__file__, folder, 3)
    return folder


@pytest.fixture(scope='module', params=[2, 3])
def ranks(request, folder):
    return [torch.load(folder / f'rank{rank}of{request.param}.pt') for rank in range(request.param)]


@pytest.mark.parametrize('case', CASES)
def test_ranks_together_are_the_matrix_of_all_pairs_in_loss_and_gradients(ranks, case):
    weights = torch.arange(1, len(ranks) + 1).repeat_interleave(torch.tensor(sizes_of(case, len(ranks))))
    model = Heads(dense, weights=weights, **CASES[case])
    loss = model(batch(), LABELS)
    loss.backward()
    for found in ranks:
        total, grads = found[case]
        assert_close(total, loss.detach(), rtol=1e-10, atol=1e-10)
        for name, parameter in model.named_parameters():
            assert_close(grads[name], parameter.grad, rtol=1e-10, atol=1e-10)
            assert parameter.grad.abs().max() > 1e-6


def test_no_tensor_is_larger_than_the_rows_of_one_rank_with_a_few_numbers_each(ranks):
    rows = VIEWS * MEMORY['images'] * (MEMORY['width'] + 6) * 8
    gathered = len(ranks) * VIEWS * MEMORY['images'] * MEMORY['width'] * 8
    matrix = (VIEWS * MEMORY['images']) ** 2 * 8
    assert rows < min(gathered, matrix)
    for found in ranks:
        assert max(found['largest']) <= rows


def test_a_step_sends_one_header_and_every_block_once_each_way_for_all_taps(ranks):
    for found in ranks:
        forward, backward = found['communication']
        turn = ['send', 'recv_'] * (len(ranks) - 1)
        assert forward == ['_allgather_base_', 'allreduce_', *turn]  # the second is of the lengths, on a CPU
        assert backward == turn


def test_what_one_rank_does_wrong_is_refused_by_all_with_one_message(ranks):
    first, *others = (found['messages'] for found in ranks)
    assert all(messages == first for messages in others)
    assert set(first) == {name for name, _ in refused(0)}
    assert 'ring_contrast_loss: every rank must bring embeddings' in first['another width']
    assert 'labels=3; rank 1: V=2, N=3, D=4, type=torch.float32, labels=None' in first['no labels']
    assert 'the longest has 2. Set normalize' in first['a row too long']
    assert 'NaN or infinity' in first['not finite']


def test_it_is_not_differentiated_twice(ranks):
    assert all('no second derivative' in found['twice'] for found in ranks)


def test_sizes_are_agreed_once_where_the_host_does_not_read(ranks):
    rows = 2 * 3 * len(ranks)
    for found in ranks:
        values, message = found['without_reading']
        assert_close(values, [torch.tensor(math.log(rows - 1))] * 2)
        assert 'Set drop_last=True' in message


@pytest.fixture
def two_ranks_on_a_gpu_without_one():
    """A process group of two ranks that sends nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group('fake', store=FakeStore(), rank=1, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize('positives', ['out', 'in'])
def test_a_gpu_is_not_waited_for_once_sizes_are_agreed(two_ranks_on_a_gpu_without_one, positives):
    from fake_gpu import FakeTensorMode, Waits  # not found by the other processes

    with FakeTensorMode():
        taps = [torch.empty(2, 3, width, device='cuda') for width in WIDTHS]
        labels = torch.empty(3, dtype=torch.int64, device='cuda')
        header = gather.Header.of(torch.cat(taps, 2), labels, 0)
        known = [header] * 2, torch.empty(2, len(header), dtype=torch.int64, device='cuda')
        gather._agreements[dist.group.WORLD] = gather._Agreement(known={header: known})
        with Waits() as counted:
            losses = ring_contrast_loss(taps, labels, torch.empty((), device='cuda'), positives=positives)
    assert [loss.shape for loss in losses] == [(), ()]
    assert not counted.found


@pytest.mark.parametrize('positives', ['out', 'in'])
def test_without_a_process_group_it_is_supcon(positives):
    taps = [F.normalize(batch()[..., :width], dim=2) for width in (4, 3)]
    options = dict(labels=LABELS, temperature=0.1, positives=positives)
    expected = [supcon_loss(tap, **options) for tap in taps]
    assert_close(ring_contrast_loss(taps, **options), expected)
    assert_close(ring_contrast_loss(taps[1], **options), expected[1])


if __name__ == '__main__':
    torch.set_num_threads(1)
    os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
    for number in (3, 2):
        if int(sys.argv[1]) < number:
            worker(int(sys.argv[1]), number, sys.argv[2])

"""Two ranks with ``DistributedDataParallel`` and gathered embeddings compute the gradients of one process."""

import gc
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmcds import ContrastiveDeepSupervision

RANKS, IMAGES, SIDE = 2, 8, 32


class Net(nn.Module):
    """Two stages without batch statistics, which two ranks would not share."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3, 4, 1), nn.GroupNorm(2, 4), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.ReLU())
        self.fc = nn.Linear(8, 3)

    def forward(self, images):
        return self.fc(self.layer2(self.layer1(images)).mean((2, 3)))


def build():
    torch.manual_seed(0)
    return ContrastiveDeepSupervision(
        Net(),
        supervisions=dict(
            cds=dict(
                type='ContrastiveSupervision',
                taps=('layer1', 'layer2'),
                neck=dict(type='CDSNeck', head='mlp', out_channels=5),
                loss=dict(type='SupConLoss', temperature=0.2),
                gather=True,
            )
        ),
        image_size=SIDE,
    ).double()


def batch():
    generator = torch.Generator().manual_seed(1)
    views = torch.randn(2, IMAGES, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return views, torch.arange(IMAGES) % 3


def step(module, cds, views, labels):
    losses = module(views, labels)
    losses.total.backward()
    return losses.total.detach(), {name: value.grad for name, value in cds.named_parameters()}


def work(rank, folder, static_graph):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=RANKS)
    cds = build()
    views, labels = batch()
    rows = slice(rank * IMAGES // RANKS, (rank + 1) * IMAGES // RANKS)
    total, gradients = step(DistributedDataParallel(cds, static_graph=static_graph), cds, views[:, rows], labels[rows])
    torch.save((total, gradients), f'{folder}/rank{rank}.pt')
    gc.collect()  # the wrapped model holds the group
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='gloo through a file')
@pytest.mark.parametrize('graph', ['', 'static'])
def test_two_ranks_give_the_gradients_of_one_process(tmp_path, graph):
    commands = [[sys.executable, __file__, str(rank), str(tmp_path), graph] for rank in range(RANKS)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(300) for process in processes] == [0] * RANKS
    found = [torch.load(tmp_path / f'rank{rank}.pt') for rank in range(RANKS)]
    cds = build()
    total, gradients = step(cds, cds, *batch())
    assert sum(float(value) for value, _ in found) / RANKS == pytest.approx(float(total), rel=1e-12)
    for _, other in found:
        assert other.keys() == gradients.keys()
        for name, value in gradients.items():
            assert torch.allclose(value, other[name], rtol=1e-9, atol=1e-14), name
    assert all(value.abs().max() > 0 for value in gradients.values())


if __name__ == '__main__':
    work(int(sys.argv[1]), sys.argv[2], bool(sys.argv[3]))

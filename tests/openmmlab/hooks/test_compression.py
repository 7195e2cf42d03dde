"""Gradients in half of their size: the mean over two processes to three digits, and the same on both."""

import subprocess
import sys
from types import SimpleNamespace

import torch
from conftest import child_environment

from mmcds.openmmlab.hooks import GradientCompressionHook

TWO = """
import gc
import torch
import torch.distributed as dist
from types import SimpleNamespace
from torch.nn.parallel import DistributedDataParallel
from mmcds.openmmlab.hooks import GradientCompressionHook

dist.init_process_group('gloo')
torch.manual_seed(0)
net = torch.nn.Linear(50, 30).double()
images = torch.randn(8, 50, dtype=torch.float64)
(expected,) = torch.autograd.grad(net(images).square().mean(), net.weight)
wrapped = DistributedDataParallel(net, gradient_as_bucket_view=True)
GradientCompressionHook().before_train(SimpleNamespace(model=wrapped))
wrapped(images[dist.get_rank() :: 2]).square().mean().backward()
error = (net.weight.grad - expected).norm() / expected.norm()
assert 1e-6 < error < 5e-3, error
assert net.weight.grad.dtype == torch.float64
other = net.weight.grad.clone()
dist.broadcast(other, 0)
assert torch.equal(other, net.weight.grad)
del wrapped
gc.collect()  # the wrapped model holds the group
dist.barrier()
dist.destroy_process_group()
"""


def test_two_processes_average_their_gradients_to_three_digits(tmp_path):
    (tmp_path / 'two.py').write_text(TWO)
    launch = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
    ended = subprocess.run(
        [*launch, str(tmp_path / 'two.py')], capture_output=True, text=True, env=child_environment(), timeout=200
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_a_single_process_is_left_alone():
    GradientCompressionHook().before_train(SimpleNamespace(model=torch.nn.Linear(1, 1)))

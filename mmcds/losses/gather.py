import torch.distributed as dist
from torch.distributed.nn.functional import all_gather
import torch
def gather_embeddings(embeddings, labels=None):
    n = embeddings.shape[1]
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return embeddings, labels, slice(0, n)
    z = torch.cat(all_gather(embeddings.contiguous()), 1)
    r = dist.get_rank()
    if labels is not None:
        l = [torch.empty_like(labels) for _ in range(dist.get_world_size())]
        dist.all_gather(l, labels); labels = torch.cat(l)
    return z, labels, slice(r*n, (r+1)*n)

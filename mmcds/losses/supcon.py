import torch
from torch import nn
from mmpretrain.registry import MODELS
def supcon_loss(embeddings, labels=None, temperature=.07, local=None):
    v, n, d = embeddings.shape
    z = embeddings.flatten(0, 1)
    ids = torch.arange(n, device=z.device)
    lab = ids if labels is None else torch.where(labels >= 0, labels, -1 - ids)
    lab = lab.repeat(v)
    keep = torch.ones(n, dtype=bool, device=z.device)
    if local is not None:
        keep[:] = False; keep[local] = True
    keep = keep.repeat(v)
    sim = z @ z.T / temperature
    eye = torch.eye(v * n, dtype=bool, device=z.device)
    pos = (lab[:, None] == lab) & ~eye
    logp = sim - sim.masked_fill(eye, -torch.inf).logsumexp(1, keepdim=True)
    l = -(logp * pos).sum(1) / pos.sum(1)
    return l[keep].mean()
@MODELS.register_module()
class SupConLoss(nn.Module):
    def __init__(self, temperature=.07, loss_weight=1.0):
        super().__init__(); self.temperature=temperature; self.loss_weight=loss_weight
    def forward(self, embeddings, labels=None, *, local=None):
        return self.loss_weight * supcon_loss(embeddings, labels, self.temperature, local)

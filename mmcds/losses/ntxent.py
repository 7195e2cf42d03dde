from mmpretrain.registry import MODELS
from .supcon import supcon_loss, SupConLoss
def ntxent_loss(embeddings, temperature=.07, local=None):
    return supcon_loss(embeddings, None, temperature, local)
@MODELS.register_module()
class NTXentLoss(SupConLoss):
    def forward(self, embeddings, labels=None, *, local=None):
        return self.loss_weight * ntxent_loss(embeddings, self.temperature, local)

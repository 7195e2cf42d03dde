"""Contrastive deep supervision as a LightningModule: python examples/lightning_module.py."""

from argparse import ArgumentParser

import lightning
import timm
import torch
from fashion import accuracy, load, random_views
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from mmcds import ContrastiveDeepSupervision


class Supervised(lightning.LightningModule):
    """Trains any network with extra losses on its stages.

    Args:
        model: The network.
        taps: Names of the modules that are supervised.
    """

    def __init__(self, model: torch.nn.Module, taps: tuple[str, ...]) -> None:
        super().__init__()
        self.cds = ContrastiveDeepSupervision(model, taps, image_size=28)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Make two views of every image, log every term and return the total."""
        images, labels = batch
        progress = self.global_step / max(1, self.trainer.estimated_stepping_batches)
        losses = self.cds(random_views(images), labels, progress=progress)
        self.log_dict({f'train/{name}': value.detach() for name, value in losses.items()})
        self.log('loss', losses.total.detach(), prog_bar=True)
        return losses.total

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimise the network and the heads."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def main(argv: list[str] | None = None) -> float:
    """Train, save the network without its heads, and return its accuracy."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--out', default='lightning_module.pth')
    args = parser.parse_args(argv)
    lightning.seed_everything(0)
    block = timm.models.resnet.BasicBlock
    model = timm.models.ResNet(block, [1, 1, 1, 1], num_classes=10, stem_width=16, channels=[16, 32, 64, 128])
    module = Supervised(model, ('layer1', 'layer2', 'layer3'))
    trainer = lightning.Trainer(
        max_epochs=args.epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(module, DataLoader(TensorDataset(*load('train')), batch_size=128, shuffle=True, drop_last=True))
    torch.save(model.state_dict(), args.out)
    return accuracy(model)


if __name__ == '__main__':
    print(f'test accuracy {main():.2f} %')

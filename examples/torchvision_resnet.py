"""A network and the views of torchvision, from PIL-like images: python examples/torchvision_resnet.py."""

from argparse import ArgumentParser

import torch
import torchvision
from fashion import MEAN, STD, accuracy, load
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from mmcds import ContrastiveDeepSupervision

TO_FLOAT = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([MEAN] * 3, [STD] * 3)]
#: View 0 is the one that is classified; view 1 may be changed more.
VIEWS = (
    v2.Compose([v2.RandomCrop(28, padding=3), v2.RandomHorizontalFlip(), *TO_FLOAT]),
    v2.Compose([v2.RandomResizedCrop(28, (0.5, 1)), v2.RandomHorizontalFlip(), v2.ColorJitter(0.4, 0.4), *TO_FLOAT]),
)


class TwoViews(Dataset):
    """Images with two random views each."""

    def __init__(self) -> None:
        self.images, self.labels = load('train')

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[list[Tensor], Tensor]:
        return [view(self.images[index]) for view in VIEWS], self.labels[index]


def main(argv: list[str] | None = None) -> float:
    """Train, save the network without its heads, and return its accuracy."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('--epochs', type=int, default=6)
    parser.add_argument('--out', default='torchvision_resnet.pth')
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    model = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)
    model.conv1 = torch.nn.Conv2d(3, 64, 3, 2, 1, bias=False)  # for small images
    cds = ContrastiveDeepSupervision(model, taps=('layer1', 'layer2', 'layer3', 'layer4'), image_size=28)
    optimiser = torch.optim.SGD(cds.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    for epoch in range(args.epochs):
        cds.train()
        for views, labels in DataLoader(TwoViews(), batch_size=128, shuffle=True, drop_last=True):
            losses = cds(views, labels)  # a list of V tensors (N, 3, H, W)
            optimiser.zero_grad()
            losses.total.backward()
            optimiser.step()
        print(f'epoch {epoch + 1}: loss {float(losses.total.detach()):.3f}')
    torch.save(cds.model.state_dict(), args.out)
    return accuracy(cds.model)


if __name__ == '__main__':
    print(f'test accuracy {main():.2f} %')

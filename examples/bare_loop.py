"""A network of your own in a loop of your own: python examples/bare_loop.py."""

from argparse import ArgumentParser

import torch
from fashion import accuracy, load, random_views
from torch import nn

from mmcds import ContrastiveDeepSupervision


class SmallNet(nn.Module):
    """Three stages of convolutions, pooling and a classifier."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stage1 = self.stage(3, width)
        self.stage2 = self.stage(width, 2 * width)
        self.stage3 = self.stage(2 * width, 4 * width)
        self.fc = nn.Linear(4 * width, classes)

    @staticmethod
    def stage(inside: int, outside: int) -> nn.Sequential:
        """Build two convolutions, the first of stride 2."""
        return nn.Sequential(
            nn.Conv2d(inside, outside, 3, 2, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (M, 3, H, W) to (M, K)."""
        return self.fc(self.stage3(self.stage2(self.stage1(images))).mean((2, 3)))


def main(argv: list[str] | None = None) -> float:
    """Train, save the network without its heads, and return its accuracy."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('--epochs', type=int, default=10)
    parser.add_argument('--out', default='small_net.pth')
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    images, labels = load('train')
    cds = ContrastiveDeepSupervision(SmallNet(), taps=('stage1', 'stage2', 'stage3'), image_size=28)
    optimiser = torch.optim.SGD(cds.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(args.epochs):
        cds.train()
        for rows in torch.randperm(len(images)).split(128):
            losses = cds(random_views(images[rows]), labels[rows])
            optimiser.zero_grad()
            losses.total.backward()
            optimiser.step()
        print(
            f'epoch {epoch + 1}: '
            + ', '.join(f'{name} {float(value.detach()):.3f}' for name, value in losses.items() if 'loss' in name)
        )
    torch.save(cds.model.state_dict(), args.out)
    return accuracy(cds.model)


if __name__ == '__main__':
    print(f'test accuracy {main():.2f} %')

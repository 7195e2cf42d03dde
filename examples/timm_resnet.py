"""A ResNet of timm, distilled from a wider one: python examples/timm_resnet.py."""

from argparse import ArgumentParser

import timm
import torch
from fashion import accuracy, load, random_views
from torch import nn

from mmcds import ContrastiveDeepSupervision

TAPS = ('layer1', 'layer2', 'layer3')


def resnet(width: int) -> nn.Module:
    """Build a small ResNet-10 for images of 28 pixels."""
    block = timm.models.resnet.BasicBlock
    channels = [width, 2 * width, 4 * width, 8 * width]
    return timm.models.ResNet(block, [1, 1, 1, 1], num_classes=10, stem_width=width, channels=channels)


def train(cds: ContrastiveDeepSupervision, epochs: int) -> float:
    """Train and return the accuracy of the network alone."""
    images, labels = load('train')
    optimiser = torch.optim.SGD(cds.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(epochs):
        cds.train()
        for rows in torch.randperm(len(images)).split(128):
            losses = cds(random_views(images[rows]), labels[rows])
            optimiser.zero_grad()
            losses.total.backward()
            optimiser.step()
    return accuracy(cds.model)


def main(argv: list[str] | None = None) -> float:
    """Train teacher and student; return the student's accuracy."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--out', default='timm_resnet.pth')
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    teacher = ContrastiveDeepSupervision(resnet(32), TAPS, image_size=28)
    print(f'teacher {train(teacher, args.epochs):.2f} %')
    student = ContrastiveDeepSupervision(
        resnet(16),
        TAPS,
        supervisions=dict(
            embedding=dict(type='EmbeddingDistillation', mode='mse_row', loss_weight=1.0),
            logit=dict(type='LogitDistillation', temperature=3.0),
        ),
        teacher=teacher,
        image_size=28,
    )
    found = train(student, args.epochs)
    torch.save(student.model.state_dict(), args.out)
    return found


if __name__ == '__main__':
    print(f'test accuracy {main():.2f} %')

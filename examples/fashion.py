"""The images that the examples train on: 5,000 and 2,000 of Fashion-MNIST, which come with the package."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import mmcds

FOLDER = Path(mmcds.__file__).parent / 'data' / 'fashion_mnist'
MEAN, STD = 0.286, 0.353


def load(split: str) -> tuple[Tensor, Tensor]:
    """Return images (N, 3, 28, 28), uint8, and labels (N,) of ``'train'`` or ``'t10k'``."""
    images = np.fromfile(FOLDER / f'{split}-images-idx3-ubyte', np.uint8)[16:].reshape(-1, 1, 28, 28)
    labels = np.fromfile(FOLDER / f'{split}-labels-idx1-ubyte', np.uint8)[8:].astype(np.int64)
    return torch.from_numpy(images).repeat(1, 3, 1, 1), torch.from_numpy(labels)


def normalise(images: Tensor) -> Tensor:
    """Turn uint8 images into floating-point ones of mean 0 and standard deviation 1."""
    return (images.float() / 255 - MEAN) / STD


def random_views(images: Tensor) -> Tensor:
    """Return two randomly cropped and flipped views of each image, (2, N, 3, 28, 28), normalised."""
    count, padded, views = len(images), F.pad(images, (3, 3, 3, 3)), []
    number, side = (torch.arange(length, device=images.device) for length in (count, 28))
    for _ in range(2):
        top, left = torch.randint(0, 7, (2, count), device=images.device)
        rows, columns = top[:, None] + side, left[:, None] + side
        cut = padded[number[:, None, None], :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
        flip = (torch.rand(count, device=images.device) < 0.5)[:, None, None, None]
        views.append(torch.where(flip, cut.flip(3), cut))
    return normalise(torch.stack(views))


@torch.no_grad()
def accuracy(model: torch.nn.Module) -> float:
    """Return the percentage of the test images that a network puts into their class."""
    images, labels = load('t10k')
    model.eval()
    device = next(model.parameters()).device
    hits = 0
    for part, expected in zip(images.split(500), labels.split(500), strict=True):
        output = model(normalise(part).to(device))
        hits += int((getattr(output, 'logits', output).argmax(1).cpu() == expected).sum())
    return 100 * hits / len(labels)

"""A model of Hugging Face, trained by its Trainer: python examples/hugging_face_trainer.py."""

from argparse import ArgumentParser
from typing import Any

import torch
from fashion import accuracy, load, random_views
from torch import Tensor
from torch.utils.data import TensorDataset
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments, set_seed

from mmcds import ContrastiveDeepSupervision


class ForTrainer(torch.nn.Module):
    """Gives the Trainer what it expects of a model: a dict with ``loss``.

    Args:
        cds: The network with its supervisions.
    """

    def __init__(self, cds: ContrastiveDeepSupervision) -> None:
        super().__init__()
        self.cds = cds

    def forward(self, views: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the losses of one step; views (V, N, 3, H, W)."""
        losses = self.cds(views, labels)
        return {'loss': losses.total, **{name: value.detach() for name, value in losses.items()}}


def collate(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Make two views of every image of a batch."""
    images, labels = (torch.stack(part) for part in zip(*samples, strict=True))
    return dict(views=random_views(images), labels=labels)


def main(argv: list[str] | None = None) -> float:
    """Train, save the network without its heads, and return its accuracy."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--out', default='hugging_face.pth')
    args = parser.parse_args(argv)
    set_seed(0)
    form: dict[str, Any] = dict(embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1], layer_type='basic')
    model = ResNetForImageClassification(ResNetConfig(**form, num_labels=10))
    taps = tuple(f'resnet.encoder.stages.{stage}' for stage in range(3))
    settings = TrainingArguments(
        output_dir='hugging_face',
        num_train_epochs=args.epochs,
        per_device_train_batch_size=128,
        learning_rate=2e-3,
        remove_unused_columns=False,
        save_strategy='no',
        report_to='none',
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
    )
    cds = ForTrainer(ContrastiveDeepSupervision(model, taps, image_size=28))
    Trainer(cds, settings, train_dataset=TensorDataset(*load('train')), data_collator=collate).train()
    torch.save(model.state_dict(), args.out)
    return accuracy(model)


if __name__ == '__main__':
    print(f'test accuracy {main():.2f} %')

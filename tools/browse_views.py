#!/usr/bin/env python
"""Picture of the views as they reach the network: python tools/browse_views.py CONFIG --out views.png."""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

from argparse import ArgumentParser

import torch
from matplotlib.figure import Figure
from mmengine.registry import MODELS, DefaultScope

from mmcds.cli.launch import (
    PICTURES,
    add_common_arguments,
    check_data_root,
    load_config,
    output_file,
    positive,
    run_tool,
    seed_number,
    set_loader_defaults,
)
from mmcds.core.errors import ConfigError
from mmcds.evaluation.summary import plain
from mmcds.openmmlab.runner import Runner


def main(argv: list[str] | None = None) -> None:
    """Draw one row of images per view, from the preprocessor's output with the normalisation undone."""
    parser = ArgumentParser(description=__doc__)
    add_common_arguments(parser)
    parser.add_argument('-n', '--num-images', type=positive, default=12, help='images to show')
    parser.add_argument('--out', type=output_file(*PICTURES), default='views.png', help='picture to write')
    parser.add_argument('--seed', type=seed_number, default=0, help='seed of the augmentations')
    args = parser.parse_args(argv)
    config = load_config(args)
    if not config.get('data_preprocessor'):
        raise ConfigError(
            f'{args.config} describes a {config.model.get("type")} without a data_preprocessor at the top of the '
            'config, so there are no views to show. Name the config of a classifier.'
        )
    set_loader_defaults(config)
    check_data_root(config, ('train_dataloader',))
    loader = dict(config.train_dataloader, batch_size=args.num_images, num_workers=0, persistent_workers=False)
    loader.pop('batch_sampler', None)  # any images will do
    loader['drop_last'] = False  # and as many as there are
    with DefaultScope.overwrite_default_scope(config.get('default_scope', 'mmpretrain')):
        import mmpretrain.utils

        mmpretrain.utils.register_all_modules(init_default_scope=False)
        torch.manual_seed(args.seed)
        loader = Runner.build_dataloader(loader, seed=args.seed)
        preprocessor = MODELS.build({'type': 'CDSDataPreprocessor', **config.data_preprocessor})
    batch = preprocessor(next(iter(loader)), training=True)
    views = batch['inputs'] if batch['inputs'].ndim == 5 else batch['inputs'][None]
    pixels = ((views * preprocessor.std + preprocessor.mean) / 255).clamp(0, 1).permute(0, 1, 3, 4, 2)
    classes = loader.dataset.metainfo.get('classes')
    figure = Figure(figsize=(1.2 * views.shape[1], 1.3 * len(views) + 0.5), layout='constrained')
    axes = figure.subplots(len(views), views.shape[1], squeeze=False)
    for v, row in enumerate(axes):
        for n, cell in enumerate(row):
            cell.imshow(pixels[v, n].numpy() if preprocessor.to_rgb else pixels[v, n].flip(-1).numpy())
            cell.set(xticks=[], yticks=[])
            if v == 0:
                label = int(batch['data_samples'][n].gt_label)
                name = 'unlabelled' if label < 0 else classes[label] if classes else label
                cell.set_title(plain(name), fontsize=7)
        row[0].set_ylabel(f'view {v}')
    figure.savefig(args.out, dpi=150)
    print(f'{args.out}: {views.shape[1]} images, {len(views)} view(s) of {views.shape[3]} x {views.shape[4]} pixels')


if __name__ == '__main__':
    run_tool(main)

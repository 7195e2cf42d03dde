#!/usr/bin/env python
"""Strip heads, supervisions and prefix from a checkpoint: python tools/export_backbone.py CHECKPOINT OUT."""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

from argparse import ArgumentParser

from mmcds.cli.launch import add_trust_argument, output_file, run_tool
from mmcds.openmmlab.export import LAYOUTS, export_backbone
from mmcds.openmmlab.zoo import find


def main(argv: list[str] | None = None) -> None:
    """Export and say what was written."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('checkpoint', help='checkpoint of a training run')
    parser.add_argument(
        'out',
        type=output_file('.pth', '.safetensors'),
        help='file to write, .pth or .safetensors; its manifest OUT.json is put beside it',
    )
    parser.add_argument('--layout', choices=LAYOUTS, default='openmmlab', help='whose names the tensors get')
    parser.add_argument('--with-head', action='store_true', help='also the classifier (torchvision, timm)')
    parser.add_argument('--no-ema', action='store_true', help='raw weights of a run with EMAHook')
    parser.add_argument('--overwrite', action='store_true', help='replace existing files')
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    manifest = export_backbone(
        find(args.checkpoint),
        args.out,
        ema=not args.no_ema,
        layout=args.layout,
        with_head=args.with_head,
        overwrite=args.overwrite,
    )
    print(
        f'{args.out}: {manifest["architecture"]["type"]}, {manifest["num_tensors"]} tensors, '
        f'{manifest["num_parameters"]:,} parameters, layout {args.layout}, {manifest["weights"]} weights, '
        f'sha256 {manifest["sha256"][:16]}'
    )


if __name__ == '__main__':
    run_tool(main)

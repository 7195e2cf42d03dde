#!/usr/bin/env python
"""Take a classifier elsewhere: python tools/export_model.py CHECKPOINT OUT.

Raw pixels go in (RGB, 0 to 255), logits come out. OUT is a file, FILE.onnx or FILE.pt2, or with hf a folder in the
form of the Hugging Face Hub. For a backbone without its classifier there is tools/export_backbone.py.
"""

import mmcds.cli  # noqa: F401  (registers everything, or says in one line what is missing)

# isort: split

from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from pathlib import Path

from mmcds.cli.launch import add_trust_argument, output_file, output_folder, positive, run_tool
from mmcds.core.errors import ConfigError
from mmcds.openmmlab.hub import load_classifier, save_pretrained
from mmcds.openmmlab.programs import FORMATS, PIXELS, export_program
from mmcds.openmmlab.zoo import find


def main(argv: list[str] | None = None) -> None:
    """Export and say what was written."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='checkpoint of a classifier, such as work_dirs/NAME/epoch_90.pth')
    parser.add_argument('out', help='file to write, .onnx or .pt2, or with --format hf a folder')
    parser.add_argument(
        '--format', choices=[*FORMATS, 'hf'], help='what to write (default: by the ending of OUT, hf without one)'
    )
    parser.add_argument('--pixels', choices=PIXELS, help='input of onnx and torch-export (default: uint8)')
    parser.add_argument('--size', type=positive, nargs='+', help='side, or height and width, if no config says it')
    parser.add_argument('--license', help='of the weights, by its name on the Hub, such as apache-2.0 (hf)')
    parser.add_argument('--no-ema', action='store_true', help='raw weights of a run with EMAHook')
    parser.add_argument('--overwrite', action='store_true', help='replace existing files')
    add_trust_argument(parser)
    args = parser.parse_args(argv)
    if args.size and len(args.size) > 2:
        parser.error('--size takes one or two numbers')
    format = args.format or next((name for name, end in FORMATS.items() if args.out.endswith(end)), 'hf')
    if args.license and format != 'hf':
        parser.error(f'--license is for the format hf, not {format}')
    if args.pixels and format == 'hf':
        parser.error('--pixels is for the formats onnx and torch-export; hf takes both types')
    if format == 'hf' and Path(args.out).suffix in ('.pth', '.safetensors'):
        raise ConfigError(f'{args.out} is the name of a backbone (tools/export_backbone.py). Name a folder.')
    try:
        (output_folder if format == 'hf' else output_file(FORMATS[format]))(args.out)
    except ArgumentTypeError as error:
        parser.error(str(error))
    size = (args.size[0], args.size[-1]) if args.size else None
    model = load_classifier(find(args.checkpoint), ema=not args.no_ema, size=size)
    height, width = model.info['image_size']
    what = f'{model.info["num_classes"]} classes, RGB images of {height} x {width} pixels'
    if format == 'hf':
        save_pretrained(model, args.out, licence=args.license, overwrite=args.overwrite)
        print(f'{args.out}: {what}, in the form of the Hugging Face Hub')
        return
    pixels = args.pixels or 'uint8'
    worst = export_program(model, args.out, format, pixels=pixels, overwrite=args.overwrite)
    print(f'{args.out}: {what} ({pixels}), logits differ from PyTorch by {worst:.1e} of the largest')


if __name__ == '__main__':
    run_tool(main)

"""The command ``mmcds``: one name for all tools. ``mmcds train CONFIG`` is ``python tools/train.py CONFIG``."""

import difflib
import sys
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from types import ModuleType

from mmcds.resources import resources
from mmcds.version import __version__

#: Name, script in ``tools``, what it does.
COMMANDS = {
    'train': ('train', 'train on a folder of images (--data FOLDER), a config, or a cell of the paper'),
    'test': ('test', 'evaluate a checkpoint'),
    'predict': ('predict', 'say what is on images'),
    'export': ('export_model', 'write a classifier as ONNX, torch.export, or in the form of the Hugging Face Hub'),
    'export-backbone': ('export_backbone', 'write the backbone of a checkpoint without heads'),
    'data': ('check_data', 'check a data set before a training does'),
    'views': ('browse_views', 'draw the views as they reach the network'),
    'curves': ('plot_curves', 'draw loss and accuracy of runs'),
    'calibration': ('calibration', 'calibration errors and reliability diagrams'),
    'probe': ('probe', 'what the stages of trained networks know'),
    'profile': ('profile_step', 'where the time of a training step goes'),
    'paper': ('paper', "list, run and compare the paper's tables"),
    'study': ('study', 'what the contrast adds: the study of docs/study.md'),
    'scenes': ('make_fashion_scenes', 'write detection scenes of the embedded images'),
    'detections': ('draw_detections', 'draw detections beside the ground truth'),
    'compare-detection': ('compare_detection', 'AP of several detectors, averaged over seeds'),
    'scenes-transfer': ('scenes_transfer', 'detectors on scenes from random, plain and CDS weights'),
    'doctor': (None, 'say what this installation can do'),
}


def usage() -> str:
    """Return the list of commands."""
    width = max(map(len, COMMANDS))
    lines = [f'  {name:<{width}}  {text}' for name, (_, text) in COMMANDS.items()]
    return '\n'.join(
        ['usage: mmcds COMMAND [options]', '', *lines, '', 'mmcds COMMAND --help lists the options of a command.']
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its status. Nothing is imported before it is known which one."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ('-h', '--help', 'help'):
        print(usage())
        return 0
    if arguments[0] in ('-V', '--version'):
        print(f'mmcds {__version__}')
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        print(
            f'mmcds: error: there is no command {name}. '
            + (f'Did you mean {near[0]}?' if near else '`mmcds --help` lists them.'),
            file=sys.stderr,
        )
        return 2
    script = COMMANDS[name][0]
    if script is None:
        from mmcds.cli.doctor import main as doctor

        return doctor()
    loader = SourceFileLoader(f'mmcds_{script}', str(resources() / 'tools' / f'{script}.py'))
    tool = sys.modules[loader.name] = ModuleType(loader.name)
    loader.exec_module(tool)
    sys.argv = [f'mmcds {name}', *rest]  # so that messages name the command

    from mmcds.cli.launch import run_tool

    run_tool(tool.main)
    return 0


if __name__ == '__main__':
    sys.exit(main())

"""Say what this installation can do: python -m mmcds.cli.doctor."""

import importlib
import importlib.util
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console
from rich.table import Table

#: Import name, distribution that we test with, and whether everything needs it.
PACKAGES = (
    ('torch', 'torch', True),
    ('torchvision', 'torchvision', True),
    ('numpy', 'numpy', True),
    ('mmengine', 'onedl-mmengine', True),
    ('mmcv', 'onedl-mmcv', True),
    ('mmpretrain', 'onedl-mmpretrain', True),
    ('mmdet', 'onedl-mmdetection', False),
)
#: Distributions that put files where the ones above put theirs.
CONFLICTING = {
    'mmengine': ('mmengine', 'mmengine-lite'),
    'mmcv': ('mmcv', 'mmcv-full', 'mmcv-lite'),
    'mmpretrain': ('mmpretrain', 'mmcls'),
    'mmdet': ('mmdet',),
}


def installed(distribution: str) -> str | None:
    """Return the version of a distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def import_problem(module: str) -> str | None:
    """Return why a module cannot be imported, in one line, or None."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return f'{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else module}'
    return None


def detection_problem() -> str | None:
    """Return why detectors cannot be trained here, in one line, or None."""
    if importlib.util.find_spec('mmdet') is None:
        return 'MMDetection is not installed (pip install onedl-mmdetection)'
    return import_problem('mmcds.detection')


def examine() -> tuple[list[tuple[str, str]], list[str]]:
    """Look at everything.

    Returns:
        Rows of (what, finding), and what keeps pre-training from working.
    """
    rows = [('python', f'{platform.python_version()} on {platform.platform()}')]
    faults = []
    for module, distribution, needed in PACKAGES:
        found = installed(distribution)
        others = [name for name in CONFLICTING.get(module, ()) if installed(name)]
        rows.append((module, f'{found} ({distribution})' if found else f'missing (pip install {distribution})'))
        if others:
            faults.append(
                f'{distribution} and {", ".join(others)} overwrite each other: pip uninstall '
                f'{" ".join(others)}, then pip install --force-reinstall --no-deps {distribution}'
            )
        if needed:
            problem = import_problem(module)
            if problem:
                faults.append(f'import {module} fails: {problem}')
    problem = import_problem('mmcv._ext')  # before anything emulates them
    rows.append(
        (
            'mmcv operators',
            'compiled'
            if problem is None
            else f'not compiled ({problem}); pre-training needs none, detection emulates them by torchvision',
        )
    )
    cvs = [
        f'{name} {installed(name)}'
        for name in ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python')
        if installed(name)
    ]
    rows.append(
        (
            'OpenCV',
            ', '.join(cvs) + ('; they share one folder: if cv2 fails, reinstall one of them' if len(cvs) > 1 else ''),
        )
    )
    problem = import_problem('cv2')
    if problem:
        faults.append(f'import cv2 fails: {problem}')
    if not faults:
        import torch

        rows.append(
            (
                'GPU',
                ', '.join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
                or 'none, training runs on the CPU',
            )
        )
        problem = import_problem('mmcds')
        if problem:
            faults.append(f'import mmcds fails: {problem}')
        else:
            from mmpretrain.apis.model import ModelHub
            from mmpretrain.registry import MODELS

            from mmcds.resources import resources

            names = [
                name for name in ('CDSClassifier', 'CDSNeck', 'NTXentLoss', 'SupConLoss') if MODELS.get(name) is None
            ]
            rows.append(('registries', 'all classes found' if not names else f'missing: {names}'))
            configs = str(resources() / 'configs')
            count = sum(str(model.config).startswith(configs) for model in ModelHub._models_dict.values())
            rows.append(('configs', f'{configs}, {count} models by name'))
            faults += [f'{name} is not registered' for name in names]
    return rows, faults


def main() -> int:
    """Print the findings and one verdict line; return 0 if pre-training works."""
    rows, faults = examine()
    table = Table('what', 'finding', title='mmcds doctor')
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(table)
    for fault in faults:
        console.print(f'fault: {fault}', markup=False)
    if faults:
        verdict = f'not ready, {len(faults)} fault(s) to repair'
    else:
        problem = detection_problem()
        verdict = 'ready for pre-training' + (f'; not for detection: {problem}' if problem else ' and detection')
    console.print(f'verdict: {verdict}', markup=False)
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main())

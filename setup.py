"""Installation of mmcds: `pip install .`, or `pip install -e .` to work on it."""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = ('configs', 'tools', 'model-index.yml')


class BuildWithResources(build_py):
    """Ship configs, tools and the model index as ``mmcds/.mim``, where MIM and MMEngine look for them.

    An editable installation gets links, so it never sees a stale copy; a wheel gets files.
    """

    def run(self):
        """Build the package and add the resources."""
        super().run()
        editable = self.editable_mode
        folder = (ROOT if editable else Path(self.build_lib)) / 'mmcds' / '.mim'
        folder.mkdir(parents=True, exist_ok=True)
        for name in SHIPPED:
            target = folder / name
            if target.is_symlink() or target.is_file():
                target.unlink()
            elif target.is_dir():
                shutil.rmtree(target)
            if editable:
                target.symlink_to(Path(os.path.relpath(ROOT / name, folder)))
            elif (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns('__pycache__'))
            else:
                shutil.copy2(ROOT / name, target)


def readme():
    """Return the README as it can be read elsewhere: links into the repository become their text."""
    return re.sub(r'\[([^\]]+)\]\((?!https?:)[^)]+\)', r'\1', (ROOT / 'README.md').read_text())


version = {}
exec((ROOT / 'mmcds' / 'version.py').read_text(), version)

OPENMMLAB = [
    'torchvision>=0.26,<0.30',
    'matplotlib>=3.8',
    'rich>=13',
    'safetensors>=0.4.3',
    'onedl-mmengine>=0.10.12,<0.11',
    'onedl-mmcv>=2.3.6,<2.4',
    'onedl-mmpretrain>=1.3.6,<1.4',
]

setup(
    name='mmcds',
    version=version['__version__'],
    description='Contrastive Deep Supervision for PyTorch, MMPretrain and MMDetection',
    long_description=readme(),
    long_description_content_type='text/markdown',
    author='The mmcds contributors',
    license_expression='Apache-2.0',
    license_files=['LICENSE', 'mmcds/data/fashion_mnist/LICENSE', 'mmcds/data/emoji/LICENSES/*'],
    project_urls={'Paper': 'https://arxiv.org/abs/2207.05306'},
    keywords=['deep supervision', 'contrastive learning', 'image classification', 'knowledge distillation'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        *(f'Programming Language :: Python :: 3.{minor}' for minor in (10, 11, 12, 13)),
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
    ],
    packages=find_packages(include=['mmcds', 'mmcds.*']),
    package_data={
        'mmcds': [
            'py.typed',
            'data/fashion_mnist/*',
            'data/emoji/*',
            'data/emoji/LICENSES/*',
            'paper/*.csv',
            'zoo/*',
        ]
    },
    cmdclass={'build_py': BuildWithResources},
    entry_points={'console_scripts': ['mmcds = mmcds.command:main']},
    python_requires='>=3.10,<3.14',
    install_requires=[
        'torch>=2.11,<2.15,!=2.13.0',  # the CPU build of 2.13.0 breaks torchvision's operators
        'numpy>=1.26,<3',
    ],
    extras_require={
        'openmmlab': OPENMMLAB,
        'det': [*OPENMMLAB, 'onedl-mmdetection>=3.5.1,<3.6'],
        'calib': ['torchmetrics>=1.4'],
        'timm': ['timm>=1.0.21'],  # older ones cannot be built without memory for the weights
        'export': ['onnx>=1.18', 'onnxruntime>=1.22', 'onnxscript>=0.5'],
        'tensorboard': ['tensorboard>=2.14'],
        # the examples and the tests of the inner folders; transformers 5 and MMPretrain exclude each other
        'plain': [
            'torchvision>=0.26,<0.30',
            'timm>=1.0.21',
            'lightning>=2.4',
            'transformers>=5',
            'accelerate',
            'pytest>=8',
        ],
        # `make site`; MkDocs 2 has no plugins
        'docs': [
            'mkdocs>=1.6,<2',
            'mkdocs-material>=9.7; python_version >= "3.11"',
            'mkdocstrings>=1.0.8; python_version >= "3.11"',
            'mkdocstrings-python>=2.0.11; python_version >= "3.11"',
            'latex2mathml>=3.78',
            'ruff',  # formats signatures
        ],
        'dev': [
            'pytest>=8',
            'pytest-xdist',
            'nbformat>=5.10',  # this and the next two execute the notebooks
            'nbclient>=0.10',
            'ipykernel>=6.29',
            'pytorch-metric-learning==2.9.0',
            'scipy>=1.11',  # writes the .mat files of the replicas
            'ruff==0.17.6',
            'mypy==2.4.1',
        ],
    },
    zip_safe=False,
)

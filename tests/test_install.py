"""Installation: what a wheel ships, links of an editable installation, and the doctor."""

import email
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import mmcds
from mmcds.cli import doctor

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel of a copy of the tracked files, so that no leftover of this checkout can help."""
    source, out = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    tracked = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip('this copy of the project is no git checkout')
    for name in tracked.stdout.split('\0'):
        if name and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', str(out), str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return next(out.glob('mmcds-*.whl'))


def test_wheel_ships_configs_tools_index_images_and_licences(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {
        f'mmcds/.mim/{path.relative_to(ROOT)}'
        for folder in ('configs', 'tools')
        for path in (ROOT / folder).rglob('*.*')
        if '__pycache__' not in path.parts and tracked(path)
    }
    assert shipped <= names
    assert {
        'mmcds/.mim/model-index.yml',
        'mmcds/data/fashion_mnist/LICENSE',
        'mmcds/data/fashion_mnist/train-images-idx3-ubyte',
        'mmcds/data/emoji/emoji32.npz',
        'mmcds/data/emoji/LICENSES/twemoji.CC-BY-4.0.txt',
        'mmcds/py.typed',
    } <= names
    assert any(name.endswith('LICENSE') and 'dist-info' in name for name in names)
    assert not any('work_dirs' in name or name.startswith('tests') for name in names)


def test_what_an_index_says_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('dist-info/METADATA'))
        said = email.message_from_bytes(archive.read(name))
    assert said['License-Expression'] == 'Apache-2.0'
    assert 'Paper, https://arxiv.org/abs/2207.05306' in said.get_all('Project-URL')
    assert said['Author'] == 'The mmcds contributors'
    assert 'Programming Language :: Python :: 3.13' in said.get_all('Classifier')
    text = said.get_payload()
    assert text.startswith('# ')
    assert not re.findall(r'\]\((?!https?:)', text), 'links into the repository lead nowhere else'


def test_the_citation_is_that_of_the_readme():
    found = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert found['version'] == mmcds.__version__
    paper, readme = found['preferred-citation'], (ROOT / 'README.md').read_text()
    assert f'{{{paper["title"]}}}' in readme
    authors = ' and '.join(f'{each["family-names"]}, {each["given-names"]}' for each in paper['authors'])
    assert f'{{{authors}}}' in readme
    assert str(paper['year']) in readme


def tracked(path: Path) -> bool:
    done = subprocess.run(['git', 'ls-files', '--error-unmatch', str(path)], cwd=ROOT, capture_output=True)
    return not done.returncode


def test_an_installed_wheel_finds_its_configs_and_images(wheel, tmp_path, environment):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / 'site')
    script = """
import mmcds.openmmlab, mmengine.hub
from mmcds.resources import resources
from mmpretrain import get_model
print(mmcds.__file__)
print(resources())
print(mmengine.hub.get_config('mmcds::cds/resnet50_in1k.py').train_cfg.max_epochs)
print(type(get_model('cds_resnet18w16_fashion')).__name__)
from mmcds.data import EmbeddedEmoji, EmbeddedFashionMNIST
print(len(EmbeddedFashionMNIST(split='train')), len(EmbeddedFashionMNIST(split='test')))
print(len(EmbeddedEmoji('test')))
"""
    done = subprocess.run(
        [sys.executable, '-c', script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**environment, 'PYTHONPATH': str(tmp_path / 'site')},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [
        str(tmp_path / 'site/mmcds/__init__.py'),
        str(tmp_path / 'site/mmcds/.mim'),
        '90',
        'CDSClassifier',
        '5000',
        '2000',
        '1096',
    ]


def test_an_editable_installation_has_links_and_never_a_stale_copy():
    folder = ROOT / 'mmcds' / '.mim'
    if not folder.exists():
        pytest.skip('mmcds is not installed in editable form')
    for name in ('configs', 'tools', 'model-index.yml'):
        assert (folder / name).is_symlink(), name
        assert (folder / name).resolve() == ROOT / name


def test_tested_pins_lie_within_the_ranges_of_setup():
    from packaging.requirements import Requirement

    pins: dict[str, list[str]] = {}
    for line in (ROOT / 'constraints.txt').read_text().splitlines():
        if '==' in line and not line.startswith('#'):
            name, version = line.partition(';')[0].split('==')
            pins.setdefault(name, []).append(version)
    text = (ROOT / 'setup.py').read_text()
    before, plain = text.split("'plain': [")  # an environment of its own, which MMPretrain cannot share
    seen = 0
    for line in (before.split('OPENMMLAB = [')[1] + plain.split(']', 1)[1]).splitlines():
        for part in line.split("'")[1::2]:
            if part.startswith(('tensorboard', 'mmcds')):  # an option of MMEngine that we do not test; the command
                continue
            requirement = Requirement(part) if part[0].isalpha() and any(c in part for c in '<>=') else None
            if requirement is not None:
                assert requirement.name in pins, requirement
                assert all(map(requirement.specifier.contains, pins[requirement.name])), requirement
                seen += 1
    assert seen >= 14


def test_the_lowest_versions_are_the_floors_of_setup():
    from packaging.version import Version

    asked = (ROOT / 'setup.py').read_text().split('OPENMMLAB = [')[1].split("'plain': [")[0]  # what users install
    floors = dict(re.findall(r"'([\w-]+)>=([\d.]+)", asked))
    del floors['tensorboard']  # an option of MMEngine that we do not test
    lowest = dict(re.findall(r'^([\w-]+)==(\S+)', (ROOT / 'constraints-lowest.txt').read_text(), re.M))
    assert {name: Version(value) for name, value in lowest.items()} == {
        name: Version(value) for name, value in floors.items()
    }


def test_python_range_is_the_same_everywhere():
    assert '>=3.10,<3.14' in (ROOT / 'setup.py').read_text()
    assert '(3, 10) <= sys.version_info[:2] <= (3, 13)' in (ROOT / 'Makefile').read_text()
    assert 'MATRIX ?= 3.10 3.11 3.12 3.13 lowest newest\n' in (ROOT / 'Makefile').read_text()
    assert 'On a machine with Python 3.10 to 3.13' in (ROOT / 'README.md').read_text()
    assert 'target-version = "py310"' in (ROOT / 'pyproject.toml').read_text()


def test_the_doctor_finds_this_installation_healthy(capsys):
    assert doctor.main() == 0
    said = capsys.readouterr().out
    for word in ('torch', 'onedl-mmengine', 'mmcv operators', 'OpenCV', 'GPU', 'registries', 'configs'):
        assert word in said
    assert said.strip().splitlines()[-1] == 'verdict: ready for pre-training and detection'


def test_the_doctor_says_what_detection_lacks(monkeypatch, capsys):
    monkeypatch.setattr(doctor, 'import_problem', lambda name: 'ImportError: broken' if 'detection' in name else None)
    assert doctor.main() == 0
    assert capsys.readouterr().out.strip().endswith('ready for pre-training; not for detection: ImportError: broken')
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert 'MMDetection is not installed (pip install onedl-mmdetection)' in doctor.detection_problem()


def test_the_doctor_names_a_missing_package(monkeypatch, capsys):
    monkeypatch.setattr(doctor, 'PACKAGES', (*doctor.PACKAGES, ('no_such_module', 'no-such-module', True)))
    assert doctor.main() == 1
    said = capsys.readouterr().out
    assert 'fault: import no_such_module fails: ModuleNotFoundError' in said
    assert said.strip().splitlines()[-1] == 'verdict: not ready, 1 fault(s) to repair'


def test_the_doctor_finds_distributions_that_overwrite_each_other(monkeypatch):
    real = doctor.installed
    monkeypatch.setattr(doctor, 'installed', lambda name: '2.1.0' if name == 'mmcv' else real(name))
    _, faults = doctor.examine()
    assert any('onedl-mmcv and mmcv overwrite each other: pip uninstall mmcv' in fault for fault in faults)

"""The site builds without a warning, its pages and links are whole, and what its guides say is run."""

import ast
import base64
import json
import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/migration.md').read_text(), re.S)
MESSAGES = re.findall(r'```text\n(.*?)\n```', (ROOT / 'docs/faq.md').read_text(), re.S)


class Anchors(HTMLParser):
    """The addresses to which a page links, what it loads, and the names that it can be linked by."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.loaded, self.names = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.names |= {found[key] for key in ('id', 'name') if found.get(key)}
        address = found.get('href') or found.get('src')
        if address:
            self.links.append(address)
        if tag in ('script', 'img', 'link') and address and found.get('rel') != 'canonical':
            self.loaded.append(address)


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    missing = [name for name in ('mkdocs', 'material', 'mkdocstrings', 'latex2mathml') if find_spec(name) is None]
    if missing:
        pytest.skip(f'{", ".join(missing)} is not installed: pip install ".[docs]"')
    out = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return {page.relative_to(out).as_posix(): page.read_text() for page in out.rglob('*.html')}, out


def shown(text: str) -> str:
    """What a reader sees of a page, without code in blocks."""
    return unescape(re.sub(r'<[^>]+>', '', re.sub(r'<(pre|script|math)\b.*?</\1>', '', text, flags=re.S)))


def test_no_page_shows_a_role_or_a_formula_as_it_is_written(site):
    pages, _ = site
    for name, text in pages.items():
        if not name.startswith('source/'):
            assert not re.search(r':(class|func|meth|mod|data|math|attr):', shown(text)), name
            assert not re.search(r'arithmatex|\.\. math|\\(frac|sum|lVert|text|operatorname)\b', shown(text)), name
        for formula in re.findall(r'<math\b.*?</math>', text, re.S):
            assert '\\' not in unescape(re.sub(r'<[^>]+>', '', formula)), f'{name}: {formula}'


def test_every_registered_supervision_has_a_page_with_its_formula_and_is_in_the_list(site):
    from mmcds.core import MODELS, Supervision

    pages, _ = site
    found = []
    MODELS.mirror(found.append)
    names = {cls.__name__ for cls in found if issubclass(cls, Supervision) and cls.__module__.startswith('mmcds.')}
    assert len(names) > 15
    assert {name.split('/')[1] for name in pages if re.fullmatch(r'methods/\w+/index\.html', name)} == names
    for cls in found:
        if cls.__name__ in names:
            page = pages[f'methods/{cls.__name__}/index.html']
            assert ('.. math' not in cls.__doc__) or '<math' in page, cls
            assert f'href="{cls.__name__}/"' in pages['methods/index.html']


def test_every_module_with_a_public_name_is_in_the_reference(site):
    pages, _ = site
    text = ''.join(page for name, page in pages.items() if name.startswith('api/'))
    for path in (ROOT / 'mmcds').rglob('*.py'):
        module = '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
        if not any(part.startswith('_') for part in module.split('.')):
            assert f'id="{module}"' in text or f'api/{module}/index.html' in pages, module


def test_every_link_within_the_site_resolves_and_nothing_is_loaded_from_elsewhere(site):
    pages, out = site
    read = {name: Anchors(text) for name, text in pages.items()}
    for name, page in read.items():
        assert not [address for address in page.loaded if urlsplit(address).netloc], name
        if name == '404.html':  # it is served from any address, so its links start at the root of a server
            continue
        for link in page.links:
            there = urlsplit(link)
            if there.scheme or there.netloc:
                continue
            target = (out / name).parent / unquote(there.path) if there.path else out / name
            target = target / 'index.html' if target.is_dir() else target
            assert target.is_file(), f'{name}: {link}'
            key = target.resolve().relative_to(out.resolve()).as_posix()
            if there.fragment and key in read:
                assert unquote(there.fragment) in read[key].names, f'{name}: {link}'


@pytest.mark.parametrize('name', ['first_steps', 'stages'])
def test_the_page_of_a_notebook_shows_its_cells_what_they_print_and_every_picture(name, site):
    pages, out = site
    page = pages[f'notebooks/{name}/index.html']
    text = unescape(re.sub(r'<[^>]+>', '', page))
    drawn = []
    for cell in json.loads((ROOT / f'docs/notebooks/{name}.ipynb').read_text())['cells']:
        if cell['cell_type'] == 'code':
            assert ''.join(cell['source']) in text
        for output in cell.get('outputs', ()):
            assert ''.join(output.get('text', '')).rstrip() in text
            if 'image/png' in output.get('data', {}):
                drawn.append(base64.b64decode(output['data']['image/png']))
    shown = re.findall(r'<img alt="what the cell draws" src="([^"]+)"', page)
    assert [(out / 'notebooks' / name / source).read_bytes() for source in shown] == drawn


def test_wide_pictures_alone_scroll_on_a_phone_and_a_number_stays_beside_its_spread(site):
    pages, _ = site
    assert '86.38\u00a0±\u00a00.51' in pages['calibration/index.html']
    assert re.search(r'<span class="wide"><img [^>]*curves_mini.png', pages['calibration/index.html'])
    assert 'wide"><img' not in pages['baselines/index.html']


def texts_of(node: ast.AST) -> str:
    """The text of an expression, with … for what is filled in when it is shown."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return ''.join(texts_of(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return texts_of(node.left) + texts_of(node.right)
    return '…'


@pytest.fixture(scope='module')
def raised():
    """All texts in the package that are handed to a call."""
    calls = [
        node
        for path in (ROOT / 'mmcds').rglob('*.py')
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]
    return [texts_of(argument) for call in calls for argument in call.args]


def test_the_questions_are_many_and_each_has_one_message():
    text = (ROOT / 'docs/faq.md').read_text()
    assert len(MESSAGES) >= 20
    assert len(re.findall(r'^### ', text, re.M)) == len(MESSAGES) == len(set(MESSAGES))


@pytest.mark.parametrize('message', MESSAGES, ids=lambda message: message[:40])
def test_a_message_of_the_questions_is_one_of_the_package(message, raised):
    assert any(message in text for text in raised)


@pytest.mark.parametrize('number', [0, 1], ids=['before', 'after'])
def test_the_configs_of_mmpretrain_train(number, data_root, any_checksum, tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').symlink_to(data_root)
    (tmp_path / 'mine.py').write_text(BLOCKS[number])
    options = ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0', 'train_dataloader.batch_size=10']
    options += ['train_cfg.max_epochs=1', 'param_scheduler.milestones=[1]', 'default_hooks.logger.interval=1']
    runner = tool('train').main(['mine.py', '--work-dir', 'run', '--cfg-options', *options])
    assert runner.iter == 2
    logged = {key for key in runner.message_hub.log_scalars if 'loss' in key}
    contrast = {f'train/cds.stage{stage}.loss_contrast' for stage in range(4)}
    assert logged & contrast == (contrast if number else set())


class SmallNet(nn.Module):
    """Four stages named as those of a ResNet."""

    def __init__(self):
        super().__init__()
        for number in range(4):
            self.add_module(
                f'layer{number + 1}', nn.Sequential(nn.Conv2d(3 if number == 0 else 8, 8, 3, 1, 1), nn.ReLU())
            )
        self.fc = nn.Linear(8, 3)

    def forward(self, images):
        for number in range(4):
            images = self.get_submodule(f'layer{number + 1}')(images)
        return self.fc(images.mean((2, 3)))


def test_the_two_loops_save_networks_of_the_same_form_that_have_learned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loader = [(torch.randn(6, 3, 16, 16), torch.arange(6) % 3)] * 2
    start = SmallNet().state_dict()
    saved = []
    for block in BLOCKS[2:4]:
        model = SmallNet()
        model.load_state_dict(start)
        exec(block, dict(torch=torch, model=model, loader=loader, augment=lambda images: images.flip(3)))
        saved.append(torch.load('model.pth', weights_only=True))
    assert [*saved[0]] == [*saved[1]] == [*start]
    for state in saved:
        assert all(not torch.equal(state[key], start[key]) for key in start)
    first, second = (state['layer1.0.weight'] for state in saved)
    assert not torch.equal(first, second), 'the contrast reaches stage 1'


def test_the_losses_of_pytorch_metric_learning_and_ours_are_equal():
    torch.manual_seed(0)
    given = dict(torch=torch, first=torch.randn(6, 8), second=torch.randn(6, 8), labels=torch.arange(6) % 3)
    theirs, ours = dict(given), dict(given)
    exec(BLOCKS[4], theirs)
    exec(BLOCKS[5], ours)
    torch.testing.assert_close(ours['supcon'], theirs['supcon'])
    torch.testing.assert_close(ours['simclr'], theirs['simclr'])


def test_features_of_the_released_code_give_the_loss_of_its_formula():
    features, labels = nn.functional.normalize(torch.randn(5, 2, 8), dim=2), torch.tensor([0, 1, 0, 2, 1])
    found = dict(features=features, labels=labels)
    exec(BLOCKS[6], found)
    rows, classes = features.flatten(0, 1).double(), labels.repeat_interleave(2)  # row by row, image by image
    terms = []
    for anchor in range(10):
        others = [row for row in range(10) if row != anchor]
        scores = {row: float(rows[anchor] @ rows[row]) / 0.07 for row in others}
        whole = torch.tensor([*scores.values()]).logsumexp(0).item()
        right = [scores[row] - whole for row in others if classes[row] == classes[anchor]]
        terms.append(-sum(right) / len(right))
    assert len(BLOCKS) == 7
    assert found['loss'].item() == pytest.approx(sum(terms) / 10, rel=1e-5)

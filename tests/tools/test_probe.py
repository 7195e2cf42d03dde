"""tools/probe.py: the same images through every network, the measures of their features, and the files."""

import csv

import numpy as np
import pytest
import torch
from conftest import ROOT
from matplotlib.image import imread
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch.nn import functional as F
from torch.testing import assert_close

from mmcds.core.errors import ConfigError
from mmcds.data import EmbeddedFashionMNIST
from mmcds.evaluation import fit_linear_probe, knn_accuracy, linear_cka
from mmcds.losses import alignment, uniformity

PLAIN, CDS = (str(ROOT / f'configs/{method}/resnet18w16_fashion.py') for method in ('plain', 'cds'))
NO_WORKER = 'test_dataloader.num_workers=0'


def build(config):
    read = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build({**read.model, 'data_preprocessor': read.data_preprocessor}).eval()


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Untrained checkpoints: two seeds of the plain network, and CDS with the weights of the first."""
    folder, found = tmp_path_factory.mktemp('checkpoints'), {}
    for name, config, seed in (('plain0', PLAIN, 0), ('plain1', PLAIN, 1), ('cds', CDS, 0)):
        torch.manual_seed(seed)
        found[name] = str(folder / f'{name}.pth')
        torch.save(dict(state_dict=build(config).state_dict()), found[name])
    return found


@pytest.fixture(scope='module')
def images():
    """Every 34th test image or so, as the network gets it, and the classes of such training and test images."""
    tests = EmbeddedFashionMNIST('test')
    rows = np.linspace(0, 1999, 60).round().astype(int)
    pixels = torch.stack([torch.from_numpy(tests[row]['img'].copy()) for row in rows])
    grey = (pixels.view(60, 1, 28, 28).float() - 72.94) / 90.02
    trains = EmbeddedFashionMNIST('train')
    labels = torch.tensor([int(trains[row]['gt_label']) for row in np.linspace(0, 4999, 60).round().astype(int)])
    return grey.expand(-1, 3, -1, -1), labels, torch.tensor([int(tests[row]['gt_label']) for row in rows])


def test_all_networks_are_measured_on_the_same_images(tool, files, images, tmp_path, capsys):
    options = ['--images', '60', '--out', str(tmp_path), '--cfg-options', NO_WORKER]
    arguments = [PLAIN, files['plain0'], PLAIN, files['plain1'], CDS, files['cds'], '--names', 'plain', 'plain', 'cds']
    first, second, cds = tool('probe').main([*arguments, *options])
    inputs, train_labels, test_labels = images
    model = build(PLAIN)
    model.load_state_dict(torch.load(files['plain0'])['state_dict'])
    with torch.no_grad():
        assert_close(first.test[3], model.extract_feat(inputs)[0])
    assert first.taps == cds.taps == (0, 1, 2, 3)
    assert [first.test[tap].shape for tap in first.taps] == [(60, width) for width in (16, 32, 64, 128)]
    assert_close(cds.test, first.test)  # supervisions take no part
    assert (second.test[3] - first.test[3]).abs().max() > 0.01

    pairs, rows = (F.normalize(feature.double(), dim=-1) for feature in (first.pairs[2], first.test[2]))
    assert_close(first.pairs, cds.pairs)
    assert first.values[2] == pytest.approx(
        dict(
            probe=fit_linear_probe(first.train[2], train_labels, 10).accuracy(first.test[2], test_labels),
            knn=knn_accuracy(first.train[2], train_labels, first.test[2], test_labels),
            alignment=alignment(pairs).item(),
            uniformity=uniformity(rows[None]).item(),
        )
    )
    assert pairs.shape == (2, 60, 64)
    assert first.values[2]['alignment'] > 0

    lines = (tmp_path / 'probe.md').read_text().splitlines()
    assert len(lines) == 2 + 2 * 4
    assert lines[2].startswith('| plain | stage0 | 2 | ')
    assert (' ± ' in lines[2], ' ± ' in lines[6]) == (True, False)
    assert len(list(csv.DictReader((tmp_path / 'probe.csv').open()))) == 3 * 4
    with (tmp_path / 'cka.csv').open() as stream:
        cka = {tuple(row[:4]): row[4:] for row in csv.reader(stream)}
    assert len(cka) == 1 + 3 * 16
    assert cka['cds', 'stage1', 'cds', 'stage1'] == ['1.0000', '0']
    assert cka['plain', 'stage1', 'plain', 'stage3'] == cka['plain', 'stage3', 'plain', 'stage1']
    assert cka['plain', 'stage1', 'plain', 'stage3'][1] == '1'
    mean = (1 + linear_cka(second.test[1], cds.test[1])) / 2
    assert cka['plain', 'stage1', 'cds', 'stage1'] == [f'{mean:.4f}', '2']
    assert all(imread(tmp_path / f'{name}.png')[..., :3].std() > 0.1 for name in ('probe', 'cka'))
    assert 'uniformity' in capsys.readouterr().out


def test_a_single_view_is_drawn_twice_and_a_seed_repeats_it(tool, files, monkeypatch):
    few = ['--cfg-options', NO_WORKER, *(f'{split}_dataloader.dataset.indices=9' for split in ('train', 'test'))]

    def pairs():
        module = tool('probe')
        monkeypatch.setattr(module, 'write', lambda *_: [])
        (network,) = module.main([PLAIN, files['plain0'], '--taps', 'layer1.0', '1', *few])
        assert network.taps == ('layer1.0', 1)
        return network.pairs['layer1.0']

    found = pairs()
    assert found.shape == (2, 9, 16)
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert torch.equal(found, pairs())


def test_stages_are_all_that_a_backbone_has(tool):
    stages = tool('probe').stages
    swin = dict(embed_dims=8, depths=[1, 1], num_heads=[1, 1])
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        assert stages(dict(type='ResNet', depth=18, out_indices=(3,))) == (0, 1, 2, 3)
        assert stages(dict(type='SwinTransformer', arch=swin, img_size=32, window_size=4, out_indices=(1,))) == (0, 1)
        assert stages(dict(type='MobileNetV2', widen_factor=0.25)) == (7,)


@pytest.mark.parametrize(
    'arguments, message',
    [
        ([PLAIN], '1 files were named; give CONFIG CHECKPOINT for every network'),
        ([PLAIN, 'a.pth', '--names', 'a', 'b'], r'--names has 2 name\(s\) for 1 network'),
        ([PLAIN, 'nowhere.pth'], r'checkpoint nowhere\.pth does not exist'),
        ([PLAIN, 'a.pth', '--l2', '0'], r'--l2 0\.0; at least 4, at least 1 and a positive number'),
        ([PLAIN, '{cds}', '--cfg-options', 'model.backbone.depth=34'], 'cds.pth is of another architecture'),
        ([PLAIN, '{plain0}', '--taps', '4'], 'ResNet_CIFAR has no stage 4; its stages are 0 to 3'),
        (['plain.py', '{plain0}'], r'config plain\.py does not exist'),
    ],
)
def test_mistakes_are_named(tool, files, arguments, message):
    with pytest.raises(ConfigError, match=message):
        tool('probe').main([argument.format(**files) for argument in arguments])


def test_networks_of_one_name_have_the_same_stages(tool):
    module = tool('probe')
    networks = [module.Network('a', '', None, taps, {}, {}, {}, {}) for taps in ((0, 1), (0, 1, 2))]
    with pytest.raises(ConfigError, match=r'a: networks of one name must have the same stages, got \(0, 1\) and'):
        module.groups(networks)


def test_the_picture_says_which_way_is_better_and_tells_networks_apart_without_colour(tool, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    module, figures, save = tool('probe'), [], Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda self, *a, **more: (figures.append(self), save(self, *a, **more)))
    networks = []
    for number, name in enumerate(['plain', 'plain', 'dsn', 'cds']):
        values = {tap: dict.fromkeys(module.MEASURES, 10 * tap + number) for tap in (0, 1, 2)}
        networks.append(module.Network(name, '', None, (0, 1, 2), {}, {}, {}, values))
    module.draw_measures(networks, tmp_path / 'probe.png')
    (figure,) = figures
    better = {axes.get_title(): axes.get_ylabel() for axes in figure.axes}
    assert {title: label.split(':')[0] for title, label in better.items()} == {
        'linear probe (%)': '↑ higher is better',
        'nearest neighbours (%)': '↑ higher is better',
        'alignment': '↓ lower is better',
        'uniformity': '↓ lower is better',
    }
    for axes in figure.axes:
        plain, dsn, cds = axes.containers
        assert len({series[0].get_marker() for series in (plain, dsn, cds)}) == 3
        assert plain[0].get_ydata().tolist() == [0.5, 10.5, 20.5]
        (bars,) = plain[2]
        assert [np.ptp(segment[:, 1]) for segment in bars.get_segments()] == pytest.approx([2 * 0.5**0.5] * 3)
        assert not dsn[2], 'a single network has no spread'
        places = [series[0].get_xdata() for series in (plain, dsn, cds)]
        assert all(np.abs(each - np.arange(3)).max() < 0.2 for each in places)
        assert min(np.diff(places, axis=0).ravel()) > 0, 'beside each other'
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ['plain (n=2)', 'dsn (n=1)', 'cds (n=1)']
    figure.draw_without_rendering()  # at its own resolution, not that of the file
    assert not any(legend.get_window_extent().overlaps(axes.get_tightbbox()) for axes in figure.axes)

"""The paper as data: every cell composes or says why not, numbers have a source, and the tool does what it says."""

import csv
import json
import re
import shutil
import sys
from argparse import Namespace
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
import torch
from conftest import ONE_STEP, build_on_meta

from mmcds.cli.launch import read_config
from mmcds.core.errors import ConfigError
from mmcds.evaluation.sweep import RESULT, Run, execute, final_losses
from mmcds.heads import SepConv
from mmcds.paper import METHODS, NETWORKS, TABLES, Cell, cell, cells, collect, compose, why_not, write_report
from mmcds.paper.compose import _read as read_once
from mmcds.paper.compose import read
from mmcds.paper.report import run_folder, to_texts
from mmcds.paper.tables import (
    BASELINES,
    BEYOND,
    DEEP,
    FINE_GRAINED,
    MINI_COLOUR,
    MINI_SOURCE,
    NO_NUMBER,
    RIVALS,
    SMALL_SCALES,
)

ROOT = Path(__file__).resolve().parents[2]
ONE_VIEW = (*DEEP[:4], 'semi_plain', 'plain_autoaug', 'supcon', 'byol', 'byol_dsn')
ALL = [(scale, each) for scale in ('paper', *SMALL_SCALES) for table in TABLES for each in cells(table, scale)]


def test_every_cell_composes_or_says_why_this_build_does_not_run_it():
    composed = 0
    for scale, each in ALL:
        assert each.table in TABLES
        assert each.network in NETWORKS
        if why_not(each):
            with pytest.raises(ConfigError, match='is not run by this build: '):
                compose(each)
            continue
        config = compose(each)
        composed += 1
        if each.dataset == 'coco':
            assert config.model.type in ('FasterRCNN', 'RetinaNet')
            assert f'/{each.method}/resnet50_in1k/' in config.model.backbone.init_cfg.checkpoint
            continue
        assert config.model.type == 'CDSClassifier', each.name
        assert config.model.head.num_classes == config.num_classes, each.name
        assert config.data_preprocessor.num_classes == config.num_classes, each.name
        views = next(len(step['views']) for step in config.train_pipeline if step['type'] == 'MultiViewTransform')
        expected = 4 if each.method == 'sskd' else 1 if each.method in (*ONE_VIEW, *BASELINES, *RIVALS) else 2
        assert views == expected, each.name
        assert scale == 'paper' or config.train_cfg.max_epochs == (100 if scale == 'mini' else 50)
        assert (each.teacher is not None) == bool(config.model.get('teacher')), each.name
        assert cell(each.name, scale) == each
    assert composed >= 640


def test_names_of_cells_are_unique_and_tables_have_the_size_of_the_paper():
    for scale in ('paper', *SMALL_SCALES):
        counts = Counter(each.name for where, each in ALL if where == scale)
        assert max(counts.values()) == 1
    assert len(cells('table8')) == 16 * 8 * 2
    assert [each.method for each in cells('table1')[:5]] == list(DEEP)


def test_a_number_of_the_paper_has_a_source_and_a_cell_without_one_says_so():
    for scale, each in ALL:
        assert bool(each.paper) == (each.source not in (NO_NUMBER, BEYOND, MINI_SOURCE)), each.name
        if scale != 'paper' or each.table in ('networks', 'sweeps', 'rivals'):
            assert not each.paper, each.name
        elif each.table not in ('figure2', 'figure3'):
            assert each.number is not None, each.name
    assert cell('table3/resnet18_in1k/dks').paper == {'top1': 71.32, 'top5': 89.20}
    assert cell('table9/resnet50_in1k/cds_distill-Ours2').paper == {'top1': 78.7}
    assert cell('figure5/resnet18_cifar100/cds').paper == {'top1': 80.84, 'ece': 5.27}


@pytest.mark.parametrize('dataset, leaf', [('cifar100', 'resnet18_cifar100'), ('in1k', 'resnet50_in1k')])
@pytest.mark.parametrize('method', DEEP)
def test_the_cell_of_a_leafs_own_network_is_the_leaf(dataset, leaf, method):
    from mmengine.config import Config

    table = 'table1' if dataset == 'cifar100' else 'table3'
    config = compose(cell(f'{table}/{leaf.split("_")[0]}_{dataset}/{method}'))
    assert config.to_dict() == Config.fromfile(ROOT / f'configs/{method}/{leaf}.py').to_dict()


@pytest.mark.parametrize('preset', ['paper', 'tuned'])
@pytest.mark.parametrize('table, leaf', [('table1', 'resnet18_cifar100'), ('table3', 'resnet50_in1k')])
def test_another_preset_of_a_leafs_own_network_is_the_leaf_of_that_preset(table, leaf, preset):
    config = compose(cell(f'{table}/{leaf}/cds'), preset)
    assert config.to_dict() == read(ROOT / f'configs/cds/{leaf}-{preset}.py').to_dict()


@pytest.mark.parametrize(
    'scale, methods',
    [('paper', {'cds', 'cds_autoaug', 'semi_cds'}), ('mini', {'cds', 'cds_both', 'semi_cds'})],
)
def test_the_tuned_preset_gives_cds_without_a_teacher_both_views_and_a_weight_and_no_more(scale, methods):
    changed = set()
    for each in (each for table in TABLES for each in cells(table, scale) if not why_not(each)):
        official, tuned = compose(each), compose(each, 'tuned')
        if tuned.to_dict() == official.to_dict():
            continue
        changed.add(each.method)
        assert tuple(tuned.model.ce_views) == (0, 1)
        weight = 'model.supervisions.cds.loss.loss_weight'
        assert tuned.model.supervisions.cds.loss.loss_weight == dict(each.options).get(weight, 0.3), each.name
        for form in (official, tuned):
            form.model.pop('ce_views', None)
            form.model.supervisions.cds.loss.pop('loss_weight')
        assert tuned.to_dict() == official.to_dict()
    assert changed == methods


#: One cell of every kind that has a contrastive head: network, data, teacher, labels, start.
TEXT_CELLS = (
    *(each for table in ('table1', 'table3', 'table7', 'table9') for each in cells(table)),
    *(each for each in cells('table8') if each.dataset == 'cifar100' and not NETWORKS[each.network].residual),
    *(each for table in ('table5', 'table6', 'figure2') for each in cells(table)[:5]),
)


@pytest.mark.parametrize(
    'each', [each for each in TEXT_CELLS if 'cds' in each.method], ids=lambda each: each.name.replace('/', '-')
)
def test_in_the_text_preset_every_stage_but_the_last_has_a_head_that_ends_in_a_projection(each):
    official, config = compose(each), compose(each, 'paper')
    taps = tuple(official.model.supervisions.cds.taps)
    assert tuple(config.model.supervisions.cds.taps) == taps[:-1]
    if each.teacher:
        config.model.teacher.config = compose(each.teacher, 'paper')
    model = build_on_meta(config.model)
    for head in model.supervisions.cds.neck.heads.values():
        kinds = [type(layer) for layer in head]
        assert kinds[-3:] == [torch.nn.Linear, torch.nn.ReLU, torch.nn.Linear]
        assert SepConv in kinds  # every stage but the last is larger than it
        assert head[-1].out_features == 128
    if each.teacher:
        assert len(model.supervisions.embedding.tap_pairs) == len(taps) - 1
    for form in (official, config):  # and nothing else is different
        form.model.teacher = None
        for name in ('cds', 'embedding'):
            form.model.supervisions.pop(name, None)
    assert config.to_dict() == official.to_dict()


def test_the_presets_differ_in_cds_alone_and_a_cell_that_asks_for_its_heads_keeps_them():
    for name in (
        'table1/resnet18_cifar100/dks',
        'table4/resnet50_coco/cds-RetinaNet',
        'table9/resnet50_in1k/byol-BYOL',
    ):
        assert compose(cell(name), 'paper').to_dict() == compose(cell(name)).to_dict()
    asked = compose(cell('figure3/resnet18_cifar100/cds-4_heads'), 'paper').model.supervisions.cds
    assert (tuple(asked.taps), asked.neck.head) == ((0, 1, 2, 3), 'sepconv+mlp')
    with pytest.raises(ConfigError, match="preset is 'text'; choose among 'official', 'paper', 'tuned'"):
        compose(cell('table1/resnet18_cifar100/cds'), 'text')


@pytest.mark.parametrize(
    'name, preset',
    [
        *product(
            ('table7/resnet18_in1k/sskd', 'figure3/resnet18_cifar100/cds_distill-5_heads'), ('official', 'paper')
        ),
        ('table1/resnet18_cifar100/cds', 'tuned'),
    ],
)
def test_show_prints_what_run_trains(name, preset, tool, tmp_path, capsys, monkeypatch):
    module = tool('paper')
    monkeypatch.setattr(module, 'execute', lambda *_: [])
    common = [name, '--preset', preset, '--out', str(tmp_path)]
    module.main(['show', *common])
    shown = capsys.readouterr().out
    module.main(['run', *common, '--seeds', '0'])
    assert (tmp_path / name / 'seed_0/cell.txt').read_text().strip() == shown.strip()
    assert all((folder / 'cell.py').is_file() for folder in tmp_path.glob('*/*/*/seed_0'))


@pytest.mark.parametrize('table, form', [('table5', ''), ('table6', '-finetune')])
@pytest.mark.parametrize('method', ['plain', 'cds'])
def test_a_fine_grained_cell_is_the_leaf_for_cub_with_other_images(table, form, method, monkeypatch):
    monkeypatch.delenv('MMCDS_BACKBONE', raising=False)
    leaf = read(ROOT / f'configs/{method}/resnet50_cub200{form}.py')
    assert compose(cell(f'{table}/resnet50_cub200/{method}')).to_dict() == leaf.to_dict()
    for dataset in FINE_GRAINED[1:]:
        config = compose(cell(f'{table}/resnet50_{dataset}/{method}'))
        images = read(ROOT / f'configs/_base_/datasets/{dataset}.py')
        assert config.num_classes == config.model.head.num_classes == config.data_preprocessor.num_classes
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            pipeline = leaf[loader].dataset.pipeline
            assert config[loader].dataset == {**images[loader].dataset, 'pipeline': pipeline}
            config[loader].dataset = leaf[loader].dataset
        for each, other in ((config, leaf), (config.model.head, leaf.model.head)):
            each.num_classes = other.num_classes
        config.data_root, config.data_preprocessor = leaf.data_root, leaf.data_preprocessor
        assert config.to_dict() == leaf.to_dict()


@pytest.mark.parametrize('name', ['table4/resnet50_coco/dsn-RetinaNet', 'table6/resnet50_dogs/dks'])
def test_a_cell_starts_from_the_backbone_of_its_method_or_of_the_environment(name, monkeypatch):
    for variable, expected in (
        (None, f'work_dirs/{name.split("/")[2].split("-")[0]}/resnet50_in1k/backbone_epoch_90.pth'),
        ('my.pth', 'my.pth'),
    ):
        monkeypatch.delenv('MMCDS_BACKBONE', raising=False)
        if variable:
            monkeypatch.setenv('MMCDS_BACKBONE', variable)
        read_once.cache_clear()  # a file is read with the environment of its time
        config = compose(cell(name))
        assert config.checkpoint == config.model.backbone.init_cfg.checkpoint == expected
        assert config.model.backbone.init_cfg.type == 'Pretrained'
    read_once.cache_clear()


@pytest.mark.parametrize('table', ['table5', 'table6'])
def test_fine_grained_cells_differ_in_method_and_start_only_and_classify_all_classes(table):
    classes = dict(cub200=200, cars=196, flowers=102, dogs=120, aircraft=100)
    assert len(cells(table)) == 25
    for each in cells(table):
        config, plain = compose(each), compose(cell(f'{table}/resnet50_{each.dataset}/plain'))
        assert config.model.head.num_classes == classes[each.dataset]
        for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'val_dataloader', 'default_hooks'):
            assert config[key] == plain[key], (each.name, key)
        supervised = compose(cell(f'table3/resnet50_in1k/{each.method}')).model.get('supervisions')
        assert config.model.get('supervisions') == supervised, each.name
        if each.dataset == 'flowers':
            heads = [m for m in build_on_meta(config.model).modules() if isinstance(m, torch.nn.Linear)]
            assert {head.out_features for head in heads} == {102}, each.name
        start = f'work_dirs/{each.method}/resnet50_in1k/backbone_epoch_90.pth' if table == 'table6' else None
        assert (config.model.backbone.get('init_cfg') or {}).get('checkpoint') == start


def test_taps_count_from_the_last_stage_and_branches_need_residual_blocks():
    shallow = compose(cell('networks/shufflenet_v1_cifar100/cds')).model.supervisions.cds
    assert tuple(shallow.taps) == (0, 1, 2)
    mobile = compose(cell('networks/mobilenet_v2_cifar100/dks')).model.supervisions.dks
    assert (tuple(mobile.taps), mobile.trunk) == ((2, 4), 'sepconv')
    assert compose(cell('table1/seresnet50_cifar100/dks')).model.supervisions.dks.trunk == 'branch'


def test_every_cell_of_the_distillation_tables_runs_and_names_what_is_trained_first():
    for table in ('table7', 'table8'):
        for scale in ('paper', 'mini'):
            assert not any(why_not(each) for each in cells(table, scale))
    mobile = cell('table8/mobilenet_v2_cifar100/at')
    attention = compose(mobile).model.supervisions['at']
    assert (tuple(attention.taps), tuple(attention.teacher_taps)) == ((1, 2, 4, 7), (0, 1, 2, 3))
    embedding = compose(cell('table8/shufflenet_v1_cifar10/cds_distill')).model.supervisions.embedding
    assert (tuple(embedding.taps), tuple(embedding.teacher_taps)) == ((0, 1, 2), (1, 2, 3))
    assert [each.name for each in mobile.first] == ['table1/resnet50_cifar100/cds']
    quoted = cell('table7/resnet18_in1k/sskd')
    assert [each.name for each in quoted.first] == [
        'table3/resnet34_in1k/plain',
        'table3/resnet34_in1k/sskd_teacher-plain',
    ]
    stage = compose(quoted.first[1])
    assert (stage.model.backbone.depth, tuple(stage.model.frozen)) == (34, ('backbone', 'neck', 'head'))
    assert cell('table8/mini_teacher_fashion/sskd_teacher', 'mini').start == cell(
        'table8/mini_teacher_fashion/cds', 'mini'
    )
    kd = compose(cell('table8/resnet18_cifar100/kd'))
    assert kd.model.head.loss.loss_weight == 0.1


@pytest.mark.parametrize('each', cells('rivals'), ids=lambda each: each.method)
def test_a_rival_is_its_leaf_and_on_small_images_the_same_method_beside_its_twin_in_table_8(each):
    leaf = read(ROOT / f'configs/{METHODS[each.method].leaf.format(base="resnet18_cifar100")}.py')
    config, small = compose(each), compose(cell(f'rivals/mini_fashion/{each.method}', 'mini'))
    teacher = config.model.get('teacher')
    assert config.to_dict() == leaf.to_dict()
    assert bool(teacher) == bool(each.teacher) == (each.method not in ('plain', 'okd', 'uskd'))
    if each.method in RIVALS:
        assert small.model.supervisions == config.model.supervisions
        assert small.model.head.loss == config.model.head.loss
        assert not teacher or small.model.teacher.config == 'mmcds::distill/resnet18w16s_fashion-teacher.py'
        assert small.train_dataloader.dataset.indices == 1000
    else:
        twin = cell(f'table8/mini_fashion/{each.method}', 'mini')
        assert small.to_dict() == compose(twin).to_dict()
        assert twin.teacher == cell(f'rivals/mini_fashion/{each.method}', 'mini').teacher


@pytest.mark.parametrize(
    'table, methods', [('table1', DEEP), ('figure4', ('plain', 'cds')), ('figure5', ('plain', 'cds'))]
)
def test_mini_scale_has_the_rows_that_tell_contrast_from_a_second_view(table, methods):
    found = {each.method: compose(each) for each in cells(table, 'mini')}
    assert set(found) == {*methods, 'plain_both', 'cds_both'}
    assert tuple(found['plain_both'].model.ce_views) == tuple(found['cds_both'].model.ce_views) == (0, 1)
    assert not found['plain_both'].model.get('supervisions')
    assert found['cds'].model.supervisions.cds == found['cds_both'].model.supervisions.cds
    for config in found.values():
        assert config.train_dataloader.dataset.indices == 1000
    sizes = {
        sum(p.numel() for k, p in build_on_meta(config.model).named_parameters() if not k.startswith('supervisions'))
        for config in found.values()
    }
    assert len(sizes) == 1


def built(each):
    """Model of a cell; the tool names the teacher's config in the same way."""
    config = compose(each)
    if each.teacher:
        config.model.teacher.config = compose(each.teacher)
    return build_on_meta(config.model)


@pytest.mark.parametrize('scale', ['paper', 'mini'])
def test_the_number_of_heads_is_that_of_the_teacher_too(scale):
    found = cells('figure3', scale)
    assert not any(why_not(each) for each in found)
    assert len(found) == (20 if scale == 'paper' else 5)
    for each in found:
        count = int(each.setting[0])
        assert dict(each.swept) == {'heads': count}
        assert bool(each.teacher) == (each.method == 'cds_distill')
        assert len(compose(each).model.supervisions.cds.taps) == count
        if each.network == 'resnet50':
            continue
        model = built(each)
        assert len(model.supervisions.cds.taps) == count
        if each.teacher:
            assert len(model.supervisions.embedding.tap_pairs) == count
            assert all(own == other for own, other in model.supervisions.embedding.tap_pairs)
    assert model.supervisions.cds.taps[0] == 'relu'
    heads = model.supervisions.cds.neck.heads.values()
    halvings = [sum(isinstance(layer, SepConv) for layer in head) for head in heads]
    assert halvings == [3, 3, 2, 1, 0]  # stem and first stage are equally large, the last one is pooled as it is


def test_every_ablation_changes_one_thing():
    official = dict(taps=(0, 1, 2, 3), loss='SupConLoss', temperature=0.07, weight=0.1, linear=0)
    changes = {
        'uniform taps': dict(taps=('relu', 1, 3)),
        'downsampling taps': dict(taps=(0, 1, 2)),
        'shallow taps': dict(taps=('relu', 0, 1)),
        'deep taps': dict(taps=(1, 2, 3)),
        'official': {},
        'SimCLR': dict(loss='NTXentLoss'),
        'sepconv+mlp heads': dict(linear=8),
        'mlp heads': dict(linear=8),
        **{f'lambda {value:g}': dict(weight=value) for value in (0.01, 0.03, 0.3, 1)},
        **{f'temperature {value:g}': dict(temperature=value) for value in (0.03, 0.1, 0.2, 0.5)},
    }
    for scale in ('paper', 'mini'):
        found = [each for table in ('ablations', 'sweeps') for each in cells(table, scale) if each.method == 'cds']
        assert [each.setting for each in found] == list(changes)
        for each in found:
            supervision = built(each).supervisions.cds
            heads = supervision.neck.heads
            assert {
                'taps': supervision.taps,
                'loss': type(supervision.loss).__name__,
                'temperature': supervision.loss.temperature,
                'weight': supervision.loss.loss_weight,
                'linear': sum(isinstance(layer, torch.nn.Linear) for layer in heads.modules()),
            } == {**official, **changes[each.setting]}, each.name
            convolutions = any(isinstance(layer, torch.nn.Conv2d) for layer in heads.modules())
            assert convolutions == (each.setting != 'mlp heads')
            axes = {'lambda': supervision.loss.loss_weight, 'temperature': supervision.loss.temperature}
            assert dict(each.swept) == {axis: axes[axis] for axis in each.swept}
    assert {each.method for table in ('ablations', 'sweeps') for each in cells(table, 'mini')} == {'cds'}


def test_the_small_scale_in_colour_has_the_methods_of_the_grey_one_on_other_images():
    """All that has no teacher: the same supervisions, network and cross-entropy, on views with hue and grey."""
    for table in TABLES:
        grey, colour = ({each.method + each.setting: each for each in cells(table, scale)} for scale in SMALL_SCALES)
        assert {not why_not(each) for each in colour.values()} == {table in MINI_COLOUR}
        if table not in MINI_COLOUR:
            continue
        assert colour.keys() == grey.keys()
        for name, each in colour.items():
            ours, theirs = compose(each), compose(grey[name])
            assert ours.model.get('supervisions') == theirs.model.get('supervisions')
            assert ours.model.backbone == theirs.model.backbone
            assert ours.model.get('ce_views') == theirs.model.get('ce_views')
            assert ours.train_dataloader.dataset.type == 'EmbeddedEmoji'
    views = compose(cell('table1/mini_emoji/cds', 'mini-colour')).train_pipeline[1]['views']
    assert 'hue' in str(views[1])
    assert read_config('paper::table1/mini_emoji/cds').model.head.num_classes == 58


def test_feature_distillation_stands_beside_cds():
    found = [each for table in ('sweeps', 'ablations') for each in cells(table) if each.method == 'cds_feature']
    assert [(each.network, each.number) for each in found] == [('resnet18', None), ('resnet50', 82.26)]
    for each in found:
        model = built(each)
        assert set(model.supervisions) == {'cds', 'feature', 'logit'}
        assert model.supervisions.feature.taps == (0, 1, 2, 3)


@pytest.mark.parametrize('scale', ['paper', 'mini'])
def test_figure_5_measures_calibration_beside_accuracy_and_table_1_does_not(scale):
    from mmengine.evaluator import Evaluator
    from mmpretrain.registry import METRICS

    for table, wanted in (('figure5', ['Accuracy', 'CalibrationError']), ('table1', ['Accuracy'])):
        for each in cells(table, scale)[:4]:
            config = compose(each)
            for evaluator in (config.val_evaluator, config.test_evaluator):
                listed = evaluator if isinstance(evaluator, list) else [evaluator]
                metrics = Evaluator([METRICS.build(metric) for metric in listed]).metrics
                assert [type(metric).__name__ for metric in metrics] == wanted


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: cells('table10'), "there is no 'table10'; choose one of table1, table2"),
        (lambda: cell('table1/resnet18_cifar100/cd'), 'similar names: table1/resnet18_cifar100/cds'),
        (
            lambda: compose(cell('table4/mini_fashion/cds-RetinaNet', 'mini')),
            'is not run by this build: tools/scenes_transfer.py is its small form',
        ),
        (
            lambda: compose(Cell('table3', 'resnet50', 'in1k', 'cds_feature')),
            r'CDS and naive feature distillation has no config .*configs/distill/resnet50_in1k-feature\.py',
        ),
    ],
)
def test_what_is_not_there_is_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


# ---- results


def write_result(out, each, seed, accuracy, best):
    folder = run_folder(out, each, seed)
    folder.mkdir(parents=True)
    (folder / RESULT).write_text(json.dumps(dict(label=each.name, seed=seed, accuracy=accuracy, best=best)))


def test_results_are_compared_with_the_paper_in_markdown_csv_and_plot(tmp_path):
    found = cells('table1')[20:25]
    ours = next(each for each in cells('table1') if each.name == 'table1/resnet50_cifar100/cds')
    for seed, accuracy in enumerate((80.0, 81.0, 82.0)):
        write_result(tmp_path, ours, seed, accuracy, accuracy + 0.5)
    rows = collect([*found, ours], tmp_path)
    assert (rows[-1].last, rows[-1].best) == ((80.0, 81.0, 82.0), (80.5, 81.5, 82.5))
    assert rows[-1].difference == pytest.approx(81 - 81.31)
    files = write_report('Table 1', rows, tmp_path / 'report', 'table1')
    assert [path.name for path in files] == ['table1.md', 'table1.csv', 'table1.png']
    text = files[0].read_text()
    line = next(line for line in text.splitlines() if '81.50 ± 1.00' in line)
    assert '3 runs trained with versions that were not recorded' in text
    assert line.split(' | ')[4:9] == ['81.31', '81.00 ± 1.00', '81.50 ± 1.00', '3', '-0.31']
    table = list(csv.DictReader(files[1].open()))
    assert (table[-1]['cell'], table[-1]['last']) == (ours.name, '80.00 81.00 82.00')
    from matplotlib.image import imread

    assert imread(files[2])[..., :3].std() > 0.1


def test_calibration_gets_columns_where_it_was_measured(tmp_path):
    plain, cds = cells('figure5')
    for seed, error in enumerate((0.05, 0.07)):
        write_result(tmp_path, cds, seed, 80.0, 81.0)
        file = run_folder(tmp_path, cds, seed) / RESULT
        metrics = dict(ece=error, adaptive_ece=0.04, classwise_ece=0.00125, nll=1.5)
        record = {**json.loads(file.read_text()), 'metrics': {f'calibration/{k}': v for k, v in metrics.items()}}
        file.write_text(json.dumps(record))
    markdown, table, _ = write_report('Figure 5', collect([plain, cds], tmp_path), tmp_path, 'figure5')
    header, _, first, second = (line.strip('| ').split(' | ') for line in markdown.read_text().splitlines()[2:6])
    measured = ['5.27', '6.00 ± 1.41', '4.00 ± 0.00', '0.125 ± 0.000', '1.500 ± 0.000']
    assert header[9:14] == ['ECE (%), paper', 'ECE (%)', 'adaptive ECE (%)', 'class-wise ECE (%)', 'NLL (nats)']
    assert second[9:14] == measured
    assert first[9:14] == ['11.92', '', '', '', '']
    written = list(csv.DictReader(table.open()))[1]
    assert (written['ece_paper'], written['ece']) == ('5.27', '5.0000 7.0000')


def test_every_metric_of_the_paper_is_compared(tmp_path):
    found = cells('table4')
    write_result(tmp_path, found[0], 0, 37.0, 37.5)
    file = run_folder(tmp_path, found[0], 0) / RESULT
    parts = {f'coco/bbox_mAP_{size}': value for size, value in (('s', 0.21), ('m', 0.4), ('l', 0.48))}
    file.write_text(json.dumps({**json.loads(file.read_text()), 'metrics': parts}))
    header, texts = to_texts(collect(found, tmp_path))
    row = dict(zip(header, texts[0], strict=True))
    assert (row['paper'], row['last'], row['difference']) == ('37.40', '37.00', '-0.40')
    assert [row[f'AP_{size}, paper'] for size in 'SML'] == ['21.2', '41.0', '48.1']
    assert [row[f'AP_{size}'] for size in 'SML'] == ['21.0', '40.0', '48.0']


def test_the_cross_entropy_of_a_converged_training_is_that_of_its_last_fifteenth():
    logged = [{'loss_ce': float(300 - epoch), 'epoch': epoch} for epoch in range(1, 301)]
    assert final_losses([*logged[:20], {'loss': 3.0}, *logged[20:]]) == {'train/loss_ce': sum(range(20)) / 20}
    assert final_losses([{'loss': 1.0}]) == {}


def test_a_training_of_figure_5_leaves_calibration_where_it_is_collected(tool, tmp_path):
    from mmcds.evaluation.curves import read_scalars

    compose(cell('figure5/mini_fashion/plain', 'mini')).dump(tmp_path / 'cell.py')
    short = [*ONE_STEP, 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'train_dataloader.dataset.indices=64']
    tool('train').main([str(tmp_path / 'cell.py'), '--work-dir', str(tmp_path / 'run'), '--cfg-options', *short])
    found = read_scalars(tmp_path / 'run')[1][-1]
    assert {f'calibration/{key}' for key in ('ece', 'adaptive_ece', 'classwise_ece', 'nll')} < set(found)
    assert 0 < found['calibration/ece'] <= 1


def test_a_table_without_any_number_gets_no_plot(tmp_path):
    files = write_report('Figure 2', collect(cells('figure2'), tmp_path), tmp_path, 'figure2')
    assert [path.name for path in files] == ['figure2.md', 'figure2.csv']


def test_what_was_swept_is_drawn_over_its_axis(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = {}
    save = Figure.savefig

    def listen(figure, out, **options):
        drawn[out.name] = figure.axes[0]
        save(figure, out, **options)

    monkeypatch.setattr(Figure, 'savefig', listen)
    swept = {each.setting: each for table in ('ablations', 'sweeps') for each in cells(table, 'mini')}
    for name, values in {
        'official': (80, 82),
        'lambda 1': (70,),
        'lambda 0.01': (77, 78, 79),
        'deep taps': (81,),
    }.items():
        for seed, value in enumerate(values):
            write_result(tmp_path, swept[name], seed, value, value)
    files = write_report('Ablations', collect(list(swept.values()), tmp_path), tmp_path, 'ablations')
    assert [file.name for file in files[2:]] == ['ablations.png', 'ablations-lambda.png', 'ablations-temperature.png']
    line = drawn['ablations-lambda.png'].containers[0]
    assert line[0].get_xydata().tolist() == [[0.01, 78], [0.1, 81], [1, 70]]
    assert [text.get_text() for text in drawn['ablations.png'].get_yticklabels()] == [
        'CDS deep taps',
        'CDS official',
    ]
    (heads,) = (each for each in cells('figure3', 'mini') if each.setting == '2 heads')
    write_result(tmp_path, heads, 0, 50, 60)
    files = write_report('Figure 3', collect(cells('figure3', 'mini'), tmp_path), tmp_path, 'figure3')
    assert [file.name for file in files] == ['figure3.md', 'figure3.csv', 'figure3.png']
    assert drawn['figure3.png'].get_xlabel() == 'number of heads'


def test_runs_are_spread_over_the_devices(monkeypatch, tmp_path):
    seen = []

    def fake(command, log, environment):
        seen.append(environment.get('CUDA_VISIBLE_DEVICES'))
        log.touch()
        return 1

    monkeypatch.setattr('mmcds.evaluation.sweep.call', fake)
    runs = [Run('a', 'c.py', seed, tmp_path / str(seed)) for seed in range(6)]
    with pytest.raises(ConfigError, match='a, seed 0: training ended with status 1'):
        execute(runs, jobs=2, devices=('4', '7'))
    assert len(seen) == 6, 'a failure does not stop the others'
    assert set(seen) <= {'4', '7'}


def test_a_result_of_an_older_epoch_than_the_last_checkpoint_is_refused(monkeypatch, tmp_path):
    (tmp_path / 'now/vis_data').mkdir(parents=True)
    (tmp_path / 'now/vis_data/scalars.json').write_text('{"accuracy/top1": 10.6, "step": 2}\n')
    (tmp_path / 'last_checkpoint').write_text('elsewhere/epoch_3.pth')
    monkeypatch.setattr('mmcds.evaluation.sweep.call', lambda *_: 0)
    with pytest.raises(
        ConfigError, match=r'last validation is that of step 2, but the last checkpoint is epoch_3\.pth'
    ):
        execute([Run('a', 'c.py', 0, tmp_path)])
    (tmp_path / 'last_checkpoint').write_text('elsewhere/epoch_2.pth')
    (record,) = execute([Run('a', 'c.py', 0, tmp_path, processes=2)])
    assert (record['accuracy'], record['checkpoint']) == (10.6, 'epoch_2.pth')
    assert record['provenance']['device'].startswith('2 x ')


# ---- the tool


def test_tool_lists_and_shows(tool, capsys):
    main = tool('paper').main
    main(['list'])
    assert '256' in capsys.readouterr().out
    main(['list', 'table3'])
    assert '71.29' in capsys.readouterr().out
    main(['show', 'table1/resnet50_cifar100/dsn'])
    shown = capsys.readouterr().out
    assert "type='DSNSupervision'" in shown
    assert 'depth=50' in shown


def test_tool_runs_what_is_missing_only_and_collects(tool, tmp_path, capsys, monkeypatch):
    tiny = [
        *ONE_STEP,
        'train_cfg.max_epochs=2',
        'train_cfg.val_interval=1',
        'param_scheduler.1.end=2',
        'default_hooks.checkpoint.interval=1',
        'train_dataloader.dataset.indices=8',
        'train_dataloader.batch_size=4',
    ]
    arguments = ['run', 'table1/mini_fashion/dks', '--scale', 'mini', '--out', str(tmp_path / 'runs')]
    arguments += ['--seeds', '3', '--cfg-options', *tiny]
    module = tool('paper')
    main = module.main
    main(arguments)
    capsys.readouterr()
    folder = tmp_path / 'runs/table1/mini_fashion/dks/seed_3'
    foretold = Namespace(preset='official', networks='library', cfg_options={'train_cfg.max_epochs': 2})
    assert module.last_name(cell('table1/mini_fashion/dks', 'mini'), foretold) == 'epoch_2.pth'
    assert (folder / 'last_checkpoint').read_text().endswith('/epoch_2.pth')
    record = json.loads((folder / RESULT).read_text())
    assert (record['seed'], record['best'] >= record['accuracy']) == (3, True)
    assert f'torch {torch.__version__.partition("+")[0]}' in record['provenance']['versions']
    assert any(
        key.startswith('supervisions.dks')
        for key in torch.load(folder / 'epoch_2.pth', weights_only=False)['state_dict']
    )
    monkeypatch.setattr('mmcds.evaluation.sweep.call', lambda *_: pytest.fail('an ended run is not repeated'))
    main(arguments)
    (tmp_path / 'runs').rename(tmp_path / 'moved')
    arguments[5] = str(tmp_path / 'moved')
    main(arguments)
    main(['collect', 'table1', '--scale', 'mini', '--out', str(tmp_path / 'moved'), '--write', str(tmp_path / 'docs')])
    assert f'{record["accuracy"]:.2f}' in capsys.readouterr().out
    assert 'plain, both views' in (tmp_path / 'docs/table1.md').read_text()


def test_tool_trains_the_teacher_first_and_hands_its_checkpoint_over(tool, tmp_path, monkeypatch, capsys):
    from mmengine.config import Config

    seen = []

    def fake(runs, jobs, devices):
        for run in runs:
            seen.append((run.label, Config.fromfile(run.config)))
            (run.work_dir / 'last_checkpoint').write_text(f'{run.work_dir}/epoch_300.pth')
        return []

    module = tool('paper')
    monkeypatch.setattr(module, 'execute', fake)
    module.main(['run', 'table8/resnet18_cifar100/cds_distill', '--seeds', '0', '--out', str(tmp_path)])
    folder = tmp_path / 'table1/resnet50_cifar100/cds/seed_0'
    assert [label for label, *_ in seen] == ['table1/resnet50_cifar100/cds', 'table8/resnet18_cifar100/cds_distill']
    taught = seen[1][1].model.teacher.to_dict()
    assert taught == dict(config=str(folder / 'cell.py'), checkpoint=f'{folder}/epoch_300.pth')
    seen.clear()
    module.main(['run', 'table8/mini_fashion/sskd', '--scale', 'mini', '--seeds', '4', '--out', str(tmp_path)])
    assert [label.split('/', 1)[1] for label, *_ in seen] == [
        'mini_teacher_fashion/cds',
        'mini_teacher_fashion/sskd_teacher',
        'mini_fashion/sskd',
    ]
    stage = tmp_path / 'table8/mini_teacher_fashion/sskd_teacher/seed_4'
    assert Config.fromfile(stage / 'cell.py').load_from.endswith('mini_teacher_fashion/cds/seed_4/epoch_300.pth')
    taught = seen[2][1].model.teacher.to_dict()
    assert taught == dict(config=str(stage / 'cell.py'), checkpoint=f'{stage}/epoch_300.pth')
    seen.clear()
    pair = [f'figure3/{name}-2_heads' for name in ('resnet18_cifar100/cds_distill', 'resnet50_cifar100/cds')]
    module.main(['run', *pair, '--seeds', '1', '--out', str(tmp_path)])
    assert [label for label, *_ in seen] == pair[::-1]
    assert seen[1][1].model.teacher.config == str(tmp_path / pair[1] / 'seed_1' / 'cell.py')
    seen.clear()
    module.main(['run', 'figure2', '--seeds', '5', '--out', str(tmp_path)])
    assert {config.train_dataloader.dataset.seed for _, config in seen} == {5}


def test_equal_cells_are_trained_once_and_an_unequal_run_is_not_continued(tool, tmp_path, monkeypatch, capsys):
    trained = []

    def fake(runs, jobs, devices):
        for run in runs:
            trained.append((run.label, run.work_dir))
            (run.work_dir / 'last_checkpoint').write_text(f'{run.work_dir}/epoch_100.pth')
            record = dict(label=run.label, seed=run.seed, accuracy=10.0 * len(trained), best=90.0)
            (run.work_dir / RESULT).write_text(json.dumps(record))
        return []

    module = tool('paper')
    monkeypatch.setattr(module, 'execute', fake)
    out = ['--scale', 'mini', '--out', str(tmp_path / 'runs'), '--seeds', '0']
    heads = [f'figure3/mini_fashion/cds-{count}_heads' for count in (3, 4)]
    twins = ['ablations/mini_fashion/cds-deep_taps', 'table8/mini_fashion/cds']
    module.main(['run', *twins, *heads, *out])
    assert [label for label, _ in trained] == twins
    first, second = (cell(name, 'mini') for name in ('figure3/mini_fashion/cds-3_heads', 'table8/mini_fashion/cds'))
    assert [row.last for row in collect([first, second], tmp_path / 'runs')] == [(10.0,), (20.0,)]
    # the whole folder can be moved, and a later command finds what is equal to a link
    (tmp_path / 'runs').rename(tmp_path / 'moved')
    out[3] = str(tmp_path / 'moved')
    trained.clear()
    module.main(['run', 'table1/mini_fashion/cds', *out])
    assert trained == [(twins[1], tmp_path / 'moved' / twins[1] / 'seed_0')]
    assert 'is the same training as table8/mini_fashion/cds/seed_0' in capsys.readouterr().out
    # another seed is another training
    module.main(['run', 'table1/mini_fashion/cds', *out[:-1], '1'])
    assert trained[-1][0] == 'table1/mini_fashion/cds'
    # a link whose run was deleted, and a folder left by a command that was killed, become runs of their own
    shutil.rmtree(tmp_path / 'moved' / twins[0])
    (tmp_path / 'moved/sweeps/mini_fashion/cds-official/seed_0').mkdir(parents=True)
    trained.clear()
    module.main(['run', heads[0], 'sweeps/mini_fashion/cds-official', *out])
    assert [label for label, _ in trained] == [heads[0], 'sweeps/mini_fashion/cds-official']
    # and other settings are refused; what was asked for first stays
    before = (tmp_path / 'moved' / twins[1] / 'seed_0' / 'cell.txt').read_text()
    with pytest.raises(ConfigError, match=r"holds a run with another config: it has '.*0\.1.*' where '.*0\.7.*' is"):
        module.main(['run', *twins, *out, '--cfg-options', 'model.supervisions.cds.loss.loss_weight=0.7'])
    assert (tmp_path / 'moved' / twins[1] / 'seed_0' / 'cell.txt').read_text() == before


def test_tool_trains_the_start_first_and_hands_its_checkpoint_over(tool, tmp_path, monkeypatch):
    from mmengine.config import Config

    seen = []

    def fake(runs, jobs, devices):
        for run in runs:
            seen.append((run.label, run.seed, Config.fromfile(run.config).model.backbone.get('init_cfg')))
            (run.work_dir / 'last_checkpoint').write_text(f'{run.work_dir}/epoch_90.pth')
        return []

    module = tool('paper')
    monkeypatch.setattr(module, 'execute', fake)
    asked = ['table6/resnet50_dogs/dsn', 'table6/resnet50_cars/dsn', 'table5/resnet50_cars/dsn']
    module.main(['run', *asked, '--seeds', '1', '2', '--out', str(tmp_path)])
    first, *rest = 'table3/resnet50_in1k/dsn', *asked
    order = [entry[:2] for entry in seen]
    assert sorted(order) == sorted((name, seed) for name in (first, *rest) for seed in (1, 2))
    assert all(order.index((first, seed)) < order.index((name, seed)) for name in asked[:2] for seed in (1, 2))
    for name, seed, init in seen:
        start = f'{tmp_path}/{first}/seed_{seed}/epoch_90.pth'
        assert init == (dict(type='Pretrained', checkpoint=start) if name.startswith('table6') else None)


def test_tool_says_that_nothing_of_a_table_is_run(tool):
    with pytest.raises(ConfigError, match='none of table4 is run by this build'):
        tool('paper').main(['run', 'table4', '--scale', 'mini'])


@pytest.mark.parametrize(
    'option, message', [('train_cgf.max_epochs=2', 'Did you mean train_cfg'), ('epochs=2', 'no epochs')]
)
def test_an_option_that_would_change_no_cell_is_refused(tool, tmp_path, option, message):
    command = ['run', 'table1/mini_fashion/dks', '--scale', 'mini', '--out', str(tmp_path), '--cfg-options', option]
    with pytest.raises(ConfigError, match=message):
        tool('paper').main(command)
    assert not list(tmp_path.rglob('*.pth'))


def test_what_is_trained_first_is_handed_over_for_encoders_self_supervision_and_detectors(tool, tmp_path, monkeypatch):
    from mmengine.config import Config

    seen = {}

    def fake(runs, jobs, devices):
        for run in runs:
            seen[run.label] = Config.fromfile(run.config), run.validated, run.processes
            (run.work_dir / 'last_checkpoint').write_text(f'{run.work_dir}/last.pth')
        return []

    module = tool('paper')
    monkeypatch.setattr(module, 'execute', fake)
    asked = [
        'table9/resnet50_in1k/supcon-SupCon2',
        'table9/resnet50_in1k/byol_dsn-BYOL+DSN',
        'table4/resnet50_coco/dks-RetinaNet',
    ]
    module.main(['run', *asked, '--seeds', '0', '--out', str(tmp_path)])
    backbone, encoder, byol, *_ = seen
    assert (encoder, byol) == (
        'table9/resnet50_in1k/supcon_encoder-SupCon2',
        'table9/resnet50_in1k/byol_pretrain-1000_epochs',
    )
    assert backbone == 'table3/resnet50_in1k/dks'
    assert [seen[name][2] for name in (backbone, encoder, byol)] == [1, 8, 16], 'these need all their images at once'
    assert seen[backbone][0].optim_wrapper.accumulative_counts == 8
    assert seen[asked[0]][0].load_from == f'{tmp_path}/{encoder}/seed_0/last.pth'
    assert seen[asked[1]][0].load_from == f'{tmp_path}/{byol}/seed_0/last.pth'
    assert seen[asked[1]][0].model.supervisions.dsn.type == 'DSNSupervision'
    assert seen[asked[2]][0].model.backbone.init_cfg.checkpoint == f'{tmp_path}/{backbone}/seed_0/last.pth'
    assert [name for name, (_, validated, _) in seen.items() if not validated] == [byol]
    large = compose(cell('table9/resnet50_in1k/supcon-SupCon3').start)
    assert (large.train_cfg.max_epochs, large.param_scheduler[1].end) == (100, 100)
    assert large.optim_wrapper.optimizer.lr == pytest.approx(7.2)


# ---- adding a method


def test_the_guide_to_adding_a_method_works_to_the_letter(tool, tmp_path, monkeypatch):
    text = (ROOT / 'docs/adding_a_method.md').read_text()
    blocks = re.findall(r'```python\n(.*?)```', text, re.S)
    names = re.findall(r'`(ring_\w+\.py)`', text)
    assert len(blocks) == 2
    for name, block in zip(dict.fromkeys(names), blocks, strict=True):
        (tmp_path / name).write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    runner = tool('train').main(
        [
            str(tmp_path / 'ring_fashion.py'),
            '--work-dir',
            str(tmp_path / 'run'),
            '--cfg-options',
            *ONE_STEP,
            'train_cfg.max_epochs=1',
            'train_dataloader.batch_size=4',
            'train_dataloader.dataset.indices=8',
        ]
    )
    assert {'train/ring.loss_ring', 'train/ring.length'} <= set(runner.message_hub.log_scalars)
    assert 'supervisions.ring.radius' in torch.load(tmp_path / 'run/epoch_1.pth', weights_only=False)['state_dict']
    manifest = json.loads((tmp_path / 'run/backbone_epoch_1.pth.json').read_text())
    assert 'ring' not in json.dumps(manifest['architecture'])
    sys.modules.pop('ring_loss')

"""Both settings end to end: every config on its replica, all labels, lambda 0, EMA, resume, two ranks, the tools."""

import hashlib
import json
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import NO_REPORT, ONE_STEP, check_accuracy
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.testing import assert_close

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.teacher import LoadedTeacher, read_model_config

ROOT = Path(__file__).resolve().parents[1]
SEMI = sorted(path.name for path in (ROOT / 'configs/semi').glob('*.py'))
DISTILL = sorted(path.name for path in (ROOT / 'configs/distill').glob('*.py'))
FASHION = ROOT / 'configs/distill/resnet18w8s_fashion.py'


@pytest.fixture(scope='module')
def teacher_files(tmp_path_factory):
    """Checkpoints of untrained teachers, made once per config."""
    folder, made = tmp_path_factory.mktemp('teachers'), {}

    def make(config: str) -> str:
        if config not in made:
            model, _ = read_model_config(config)
            torch.manual_seed(0)
            with DefaultScope.overwrite_default_scope('mmpretrain'):
                made[config] = folder / f'{len(made)}.pth'
                torch.save(dict(state_dict=MODELS.build(model).state_dict()), made[config])
        return str(made[config])

    return make


def trains_and_resumes(tool, leaf, folder, data, *options):
    def run(epochs, *arguments):
        return tool('train').main(
            [
                str(leaf),
                '--work-dir',
                str(folder),
                '--data-root',
                str(data),
                *arguments,
                '--cfg-options',
                *ONE_STEP,
                *options,
                *([] if epochs > 1 else [NO_REPORT]),
                f'train_cfg.max_epochs={epochs}',
            ]
        )

    first = run(1)
    check_accuracy(first)
    second = run(2, '--resume')
    assert (second.epoch, second.iter) == (2, 4), 'the second run must go on where the first one stopped'
    checkpoint = torch.load(folder / 'epoch_2.pth', weights_only=False)
    for path in folder.glob('*.pth'):  # these files are large
        path.unlink()
    return checkpoint, second


@pytest.mark.parametrize('name', SEMI)
def test_semi_supervised_config_trains_validates_saves_and_resumes(name, tool, tmp_path, data, any_checksum):
    config = Config.fromfile(ROOT / 'configs/semi' / name)
    unlabelled = config.train_dataloader.batch_sampler.num_unlabelled and 2
    _, runner = trains_and_resumes(
        tool,
        ROOT / 'configs/semi' / name,
        tmp_path,
        data,
        'train_dataloader.batch_size=4',
        f'train_dataloader.batch_sampler.num_unlabelled={unlabelled}',
        'train_dataloader.batch_sampler.epoch=2',
    )
    assert runner.train_dataloader.batch_sampler.sampler.epoch == 1, 'each epoch has an order of its own'
    labels = runner.train_dataloader.dataset.get_gt_labels()
    for batch in runner.train_dataloader.batch_sampler:
        assert (labels[batch] < 0).sum() == unlabelled


@pytest.mark.parametrize('name', DISTILL)
def test_distillation_config_trains_validates_saves_and_resumes(
    name, tool, tmp_path, data, any_checksum, teacher_files
):
    teacher = Config.fromfile(ROOT / 'configs/distill' / name).model.get('teacher')
    options = [f'model.teacher.checkpoint={teacher_files(teacher.config)}'] if teacher else []
    checkpoint, _ = trains_and_resumes(
        tool,
        ROOT / 'configs/distill' / name,
        tmp_path,
        data,
        'train_dataloader.batch_size=2',
        'train_dataloader.dataset.indices=4',
        *options,
    )
    assert ('teacher' in checkpoint['meta']) == bool(teacher)
    if teacher:
        assert checkpoint['meta']['teacher']['config'] == teacher.config
        assert not any('teacher' in key for key in checkpoint['state_dict'])


def test_the_profile_of_a_distillation_names_the_teacher_and_leaves_a_trace(tool, tmp_path, teacher_files):
    config = ROOT / 'configs/distill/resnet18w8s_fashion.py'
    teacher = teacher_files(Config.fromfile(config).model.teacher.config)
    options = [
        f'model.teacher.checkpoint={teacher}',
        'train_dataloader.batch_size=4',
        'train_dataloader.num_workers=0',
    ]
    trace = tmp_path / 'trace.json'
    table = tool('profile_step').main(
        [str(config), '--steps=2', '--warmup=0', f'--trace={trace}', '--cfg-options', *options]
    )
    assert set(table['parts']) == set(tool('profile_step').PARTS)
    assert '"traceEvents"' in trace.read_text()


@pytest.mark.parametrize('leaf', [f'semi/{name}' for name in SEMI] + [f'distill/{name}' for name in DISTILL])
def test_header_gives_the_command_that_runs_this_file(leaf):
    assert f'python tools/train.py configs/{leaf}' in (ROOT / 'configs' / leaf).read_text().split('"""')[1]


@pytest.mark.parametrize('name', [name for name in SEMI if '-' not in name])
def test_the_baseline_has_the_same_labels_steps_and_view_0(name):
    ours = Config.fromfile(ROOT / 'configs/semi' / name)
    plain = Config.fromfile(ROOT / 'configs/semi' / name.replace('.py', '-plain.py'))
    assert plain.model.get('supervisions') is None
    ours.model.pop('supervisions')
    ours.model.pop('ce_views', None)
    for key in ('model', 'optim_wrapper', 'param_scheduler', 'train_cfg', 'data_preprocessor', 'val_dataloader'):
        assert ours[key] == plain[key], key
    more = ours.train_dataloader.batch_sampler.num_unlabelled
    assert ours.train_dataloader.pop('batch_size') - more == plain.train_dataloader.pop('batch_size')
    assert ours.train_pipeline[1]['views'][:1] == plain.train_pipeline[1]['views']
    for config in (ours, plain):
        config.train_dataloader.dataset.dataset.pop('pipeline')
        config.train_dataloader.batch_sampler.pop('num_unlabelled')
    assert ours.train_dataloader == plain.train_dataloader


@pytest.mark.parametrize(
    'name, weights, temperature',
    [
        ('resnet18_cifar100.py', (0.1, 0.1, 1.0), 3.0),
        ('resnet50_in1k.py', (0.5, 0.5, 1.0), 1.0),
    ],
)
def test_weights_and_temperature_are_those_of_the_released_scripts(name, weights, temperature):
    used = Config.fromfile(ROOT / 'configs/distill' / name).model.supervisions
    assert (used.cds.loss.loss_weight, used.embedding.loss_weight, used.logit.loss_weight) == weights
    assert (used.logit.temperature, used.embedding.mode) == (temperature, 'frobenius')
    assert not used.logit.get('scale_by_temperature')


# ---- semi-supervised


def last_state(folder):
    return torch.load(folder / 'epoch_1.pth', weights_only=False)['state_dict']


def test_with_all_labels_kept_training_equals_the_supervised_one_bit_for_bit(tool, tmp_path):
    leaf = tmp_path / 'kept.py'
    leaf.write_text(
        "_base_ = 'mmcds::cds/resnet18w16_fashion.py'\n"
        "train_dataloader = dict(dataset=dict(_delete_=True, type='PartiallyLabelledDataset', "
        'fraction=1.0, dataset={{_base_.train_dataloader.dataset}}))\n'
    )
    for name, config, key in (
        ('all', ROOT / 'configs/cds/resnet18w16_fashion.py', 'dataset'),
        ('kept', leaf, 'dataset.dataset'),
    ):
        tool('train').main(
            [
                str(config),
                '--work-dir',
                str(tmp_path / name),
                '--cfg-options',
                *ONE_STEP,
                'train_dataloader.batch_size=8',
                f'train_dataloader.{key}.indices=24',
                'train_cfg.max_epochs=1',
            ]
        )
    full, kept = last_state(tmp_path / 'all'), last_state(tmp_path / 'kept')
    assert full.keys() == kept.keys()
    for key, value in full.items():
        assert torch.equal(value, kept[key]), key


def network(**kwargs):
    groups = dict(type='mmpretrain.GN', num_groups=2)  # BatchNorm would see the unlabelled images
    return MODELS.build(
        dict(
            type='mmpretrain.CDSClassifier',
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            backbone=dict(type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4, norm_cfg=groups),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=5, in_channels=32),
            **kwargs,
        )
    ).double()


def supervision(loss_weight):
    return dict(
        cds=dict(
            type='mmpretrain.ContrastiveSupervision',
            loss=dict(type='mmpretrain.SupConLoss', loss_weight=loss_weight),
            taps=(0, 3),
            neck=dict(type='mmpretrain.CDSNeck', norm_cfg=dict(type='GN', num_groups=2)),
        )
    )


def samples(labels):
    return [DataSample().set_gt_label(label) for label in labels]


def test_with_lambda_near_zero_a_step_equals_the_baseline_on_the_labelled_images():
    torch.manual_seed(0)
    images = torch.randn(2, 6, 3, 16, 16, dtype=torch.float64)
    ours, baseline = network(supervisions=supervision(1e-12)), network()
    baseline.load_state_dict(ours.state_dict(), strict=False)
    losses = ours.loss(images, samples([3, -1, 0, -1, -1, 4]))
    expected = baseline.loss(images[:1, [0, 2, 5]], samples([3, 0, 4]))
    assert_close(losses['loss_ce'], expected['loss_ce'])
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    expected['loss_ce'].backward()
    for name, parameter in baseline.named_parameters():
        assert_close(ours.get_parameter(name).grad, parameter.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_unlabelled_images_are_contrasted_as_classes_of_their_own():
    torch.manual_seed(0)
    images = torch.randn(2, 4, 3, 16, 16, dtype=torch.float64)
    model = network(supervisions=supervision(1.0))
    alone = model.loss(images, samples([-1, 1, -1, 1]))
    apart = model.loss(images, samples([0, 1, 2, 1]))
    assert_close(alone['cds.stage3.loss_contrast'], apart['cds.stage3.loss_contrast'])
    merged = model.loss(images, samples([0, 1, 0, 1]))
    assert abs(alone['cds.stage3.loss_contrast'] - merged['cds.stage3.loss_contrast']) > 1e-6


@pytest.mark.parametrize('labels', [[-1, -1, -1], [0, 1, 2]])
def test_a_batch_without_any_label_or_without_any_unlabelled_image_uses_every_parameter(labels):
    model = network(supervisions=supervision(0.1))
    losses = model.loss(torch.randn(2, 3, 3, 16, 16, dtype=torch.float64), samples(labels))
    total = sum(value for key, value in losses.items() if 'loss' in key)
    total.backward()
    assert torch.isfinite(total)
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    if labels[0] < 0:
        assert losses['loss_ce'] == 0
        assert model.head.fc.weight.grad.abs().max() == 0


def test_a_second_folder_of_unlabelled_images_trains_beside_the_labelled_set(tool, tmp_path):
    for index in range(6):
        image = np.random.default_rng(index).integers(0, 256, (28, 28), dtype=np.uint8)
        (tmp_path / 'more').mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / 'more' / f'{index}.png'), image)
    (tmp_path / 'x2.py').write_text(
        "_base_ = 'mmcds::semi/resnet18w16s_fashion.py'\n"
        'train_dataloader = dict(batch_size=6, batch_sampler=dict(num_unlabelled=3), dataset=dict(\n'
        '    fraction=None, dataset=dict(indices=12), unlabelled=dict(\n'
        f"        type='CustomDataset', data_root={str(tmp_path / 'more')!r}, with_label=False)))\n"
    )
    runner = tool('train').main(
        [
            str(tmp_path / 'x2.py'),
            '--work-dir',
            str(tmp_path / 'run'),
            '--cfg-options',
            *ONE_STEP,
            'train_cfg.max_epochs=1',
        ]
    )
    assert runner.iter == 6, '18 images would be 6 batches of 3, were all labelled'
    assert all(min(batch[3:]) >= 12 > max(batch[:3]) for batch in runner.train_dataloader.batch_sampler)


# ---- distillation


@pytest.fixture
def distill_leaf(tmp_path, teacher_files):
    """The distillation config with averaged weights, on 16 images."""
    file = teacher_files('mmcds::distill/resnet18w16s_fashion-teacher.py')
    leaf = tmp_path / 'ema.py'
    leaf.write_text(
        "_base_ = 'mmcds::distill/resnet18w8s_fashion.py'\n"
        "custom_hooks = [dict(type='EMAHook', momentum=0.1)]\n"
        f'model = dict(teacher=dict(checkpoint={file!r}))\n'
        'train_dataloader = dict(batch_size=4, dataset=dict(indices=16))\n'
    )
    return leaf, file


def network_hash(model):
    return hashlib.sha256(
        b''.join(value.numpy().tobytes() for value in model.teacher._network.state_dict().values())
    ).hexdigest()


def test_with_ema_save_and_resume_the_teacher_stays_and_the_run_equals_one_never_stopped(tool, tmp_path, distill_leaf):
    leaf, file = distill_leaf

    def run(name, epochs, *arguments):
        return tool('train').main(
            [
                str(leaf),
                '--work-dir',
                str(tmp_path / name),
                *arguments,
                '--cfg-options',
                *ONE_STEP,
                'default_hooks.checkpoint.max_keep_ckpts=2',
                f'train_cfg.max_epochs={epochs}',
            ]
        )

    never_stopped = run('whole', 2)
    run('parts', 1)
    resumed = run('parts', 2, '--resume')
    untouched = LoadedTeacher(never_stopped.model.supervisions, **never_stopped.cfg.model.teacher)
    untouched.load()
    expected = hashlib.sha256(
        b''.join(value.numpy().tobytes() for value in untouched._network.state_dict().values())
    ).hexdigest()
    assert network_hash(never_stopped.model) == network_hash(resumed.model) == expected
    whole, parts = (torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False) for name in ('whole', 'parts'))
    for key in ('state_dict', 'ema_state_dict'):
        assert not any('teacher' in name for name in whole[key])
        for name, value in whole[key].items():
            assert torch.equal(value, parts[key][name]), name
    assert whole['meta']['teacher']['sha256'] == hashlib.sha256(Path(file).read_bytes()).hexdigest()


def test_a_student_is_tested_without_the_file_of_its_teacher(tool, tmp_path, distill_leaf):
    leaf, _ = distill_leaf
    runner = tool('train').main(
        [str(leaf), '--work-dir', str(tmp_path / 'run'), '--cfg-options', *ONE_STEP, 'train_cfg.max_epochs=1']
    )
    metrics = tool('test').main(
        [
            str(leaf),
            str(tmp_path / 'run' / 'epoch_1.pth'),
            '--work-dir',
            str(tmp_path / 'test'),
            '--cfg-options',
            'test_dataloader.dataset.indices=6',
            'test_dataloader.num_workers=0',
            'model.teacher.checkpoint=gone.pth',
        ]
    )
    assert metrics['accuracy/top1'] == runner.message_hub.get_scalar('val/accuracy/top1').current()


def test_resuming_with_another_teacher_is_refused(tool, tmp_path, distill_leaf):
    leaf, file = distill_leaf
    run = [str(leaf), '--work-dir', str(tmp_path / 'run')]
    tool('train').main([*run, '--cfg-options', *ONE_STEP, 'train_cfg.max_epochs=1'])
    other = torch.load(file)
    other['state_dict']['head.fc.bias'] += 1
    torch.save(other, tmp_path / 'other.pth')
    with pytest.raises(ConfigError, match=r'started with the teacher \d\.pth .* but other\.pth is another file'):
        tool('train').main(
            [
                *run,
                '--resume',
                '--cfg-options',
                *ONE_STEP,
                'train_cfg.max_epochs=2',
                f'model.teacher.checkpoint={tmp_path / "other.pth"}',
            ]
        )


def test_two_ranks_train_with_batches_that_lack_labels_and_with_a_teacher(tmp_path, environment, teacher_files):
    leaf = tmp_path / 'two.py'
    leaf.write_text(
        "_base_ = 'mmcds::distill/resnet18w8s_fashion.py'\n"
        f'model = dict(teacher=dict(checkpoint='
        f'{teacher_files("mmcds::distill/resnet18w16s_fashion-teacher.py")!r}))\n'
        'train_dataloader = dict(batch_size=2, num_workers=0, dataset=dict(_delete_=True,\n'
        "    type='PartiallyLabelledDataset', per_class=1, dataset=dict(type='EmbeddedFashionMNIST', split='train',\n"
        '    indices=[*range(0, 24)], pipeline={{_base_.train_pipeline}})))\n'
    )
    done = subprocess.run(
        [
            'tools/dist_train.sh',
            str(leaf),
            '2',
            '--work-dir',
            str(tmp_path / 'run'),
            '--cfg-options',
            *ONE_STEP,
            'train_cfg.max_epochs=1',
        ],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    scalars = [
        json.loads(line)
        for file in (tmp_path / 'run').glob('*/vis_data/scalars.json')
        for line in file.read_text().splitlines()
    ]
    steps = [record for record in scalars if 'loss' in record]
    assert len(steps) == 6
    assert all(np.isfinite(record['loss']) for record in steps)
    checkpoint = torch.load(tmp_path / 'run' / 'epoch_1.pth', weights_only=False)
    assert checkpoint['meta']['teacher']['checkpoint'].endswith('.pth')


# ---- the tools


def test_views_of_a_partially_labelled_set_can_be_looked_at(tool, tmp_path, capsys):
    tool('browse_views').main(
        [str(ROOT / 'configs/semi/resnet18w16s_fashion.py'), '-n', '4', '--out', str(tmp_path / 'views.png')]
    )
    assert 'views.png: 4 images, 2 view(s) of 28 x 28 pixels' in capsys.readouterr().out

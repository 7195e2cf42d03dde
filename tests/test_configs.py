"""Every config is executed on a replica of its data set: train step, validation, checkpoint, resume."""

from pathlib import Path

import pytest
import torch
from conftest import NO_REPORT, ONE_STEP, check_accuracy, forget_runs
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.model_index import model_index, to_text
from mmcds.paper.tables import FINE_GRAINED

ROOT = Path(__file__).resolve().parents[1]
METHODS = ('cds', 'dhm', 'dks', 'dsn', 'plain')  # other folders are executed by the tests of their methods
LEAVES = sorted(path.relative_to(ROOT) for method in METHODS for path in (ROOT / 'configs' / method).glob('*.py'))
SMALL = [*ONE_STEP, 'train_dataloader.batch_size=2', 'train_dataloader.dataset.indices=4']
BASELINES = ('dhm', 'dks', 'dsn')  # their heads are large: executed on networks of 4 channels
NARROW = dict(base_channels=4, stem_channels=4)
#: Backbones of other families, executed at a size that costs nothing.
TINY = {
    'swin': (
        'backbone=dict(arch=dict(_delete_=True, embed_dims=8, depths=[2, 2, 6, 2], num_heads=[1] * 4)), '
        'head=dict(in_channels=64)'
    ),
    'convnext': (
        'backbone=dict(arch=dict(_delete_=True, depths=[1] * 4, channels=[8, 16, 32, 64])), head=dict(in_channels=64)'
    ),
    'vit': (
        'backbone=dict(arch=dict(_delete_=True, embed_dims=16, num_layers=12, num_heads=1, feedforward_channels=16)), '
        'head=dict(in_channels=16)'
    ),
}


def fine_grained(leaf):
    """Whether the data set of a leaf is one of Tables 5 and 6."""
    return leaf.stem.split('_')[1].split('-')[0] in FINE_GRAINED


def small(leaf, folder):
    """The leaf itself, or one that inherits it and makes its network small."""
    kind = leaf.name.split('-')[0]
    model = TINY.get(kind)
    if leaf.parts[1] in BASELINES or fine_grained(leaf):
        width = 128 if 'resnet50' in leaf.name else 32
        model = f'backbone={NARROW}, head=dict(in_channels={width})'
    if model is None:
        return ROOT / leaf
    path = folder / leaf.name
    schedule = "param_scheduler = [dict(type='ConstantLR', factor=1.0)]" if kind in TINY else ''
    path.write_text(f"_base_ = '{ROOT / leaf}'\nmodel = dict({model})\n{schedule}\n")
    return path


@pytest.fixture(scope='session')
def narrow_start(tmp_path_factory):
    """A backbone that a finetuned config can start from, once it is small, and its file."""
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        network = MODELS.build(dict(type='ResNet', depth=50, **NARROW))
    path = tmp_path_factory.mktemp('start') / 'epoch_90.pth'
    torch.save(dict(state_dict={f'backbone.{key}': value for key, value in network.state_dict().items()}), path)
    return path


@pytest.mark.parametrize('leaf', LEAVES, ids=str)
def test_config_trains_validates_saves_and_resumes(
    leaf, tool, tmp_path, data_root, any_checksum, narrow_start, monkeypatch
):
    # the others differ from these in depth or data set alone, resume what these resume, and report like them
    fine = ('resnet50_cub200', 'resnet50_cub200-finetune')
    typical = ('resnet18_cifar100', 'resnet50_in1k', 'resnet18w16_fashion', *fine)
    whole = leaf.stem in typical or not (leaf.parts[1] in BASELINES or fine_grained(leaf))
    monkeypatch.setenv('MMCDS_BACKBONE', str(narrow_start))

    def run(epochs, *arguments):
        return tool('train').main(
            [
                str(small(leaf, tmp_path)),
                '--work-dir',
                str(tmp_path),
                '--data-root',
                str(data_root),
                *arguments,
                '--cfg-options',
                *SMALL,
                f'train_cfg.max_epochs={epochs}',
                *([] if epochs > 1 else [NO_REPORT]),
            ]
        )

    first = run(1)
    check_accuracy(first)
    if not whole:
        assert (tmp_path / 'epoch_1.pth').exists()
        return
    second = run(2, '--resume')
    assert (second.epoch, second.iter) == (2, 4), 'the second run must go on where the first one stopped'
    assert (tmp_path / 'epoch_2.pth').exists()
    assert (tmp_path / 'backbone_epoch_2.pth.json').exists()
    for path in tmp_path.glob('*.pth'):  # these files are large
        path.unlink()


@pytest.mark.parametrize('leaf', LEAVES, ids=str)
def test_header_gives_the_command_that_runs_this_file(leaf):
    text = (ROOT / leaf).read_text()
    assert f'python tools/train.py {leaf}' in text.split('"""')[1]


@pytest.mark.parametrize('leaf', [leaf for leaf in LEAVES if leaf.parts[1] == 'cds'], ids=str)
def test_plain_twin_differs_in_method_and_views_only(leaf, monkeypatch):
    monkeypatch.delenv('MMCDS_BACKBONE', raising=False)
    twin = ROOT / 'configs' / 'plain' / leaf.name.replace('-paper', '').replace('-tuned', '')
    ours, plain = Config.fromfile(ROOT / leaf), Config.fromfile(twin)
    assert plain.model.get('supervisions') is None
    ours.model.pop('supervisions')
    assert (ours.model.pop('ce_views', (0,)) == (0, 1)) == leaf.stem.endswith('-tuned')
    if leaf.stem.endswith('-finetune'):
        checkpoints = [config.model.backbone.init_cfg.pop('checkpoint') for config in (ours, plain)]
        assert checkpoints[0].replace('/cds/', '/plain/') == checkpoints[1] != checkpoints[0]
    for key in (
        'model',
        'optim_wrapper',
        'param_scheduler',
        'train_cfg',
        'data_preprocessor',
        'val_dataloader',
        'randomness',
        'auto_scale_lr',
    ):
        assert ours[key] == plain[key], key
    assert ours.train_pipeline[1]['views'][0] == plain.train_pipeline[1]['views'][0]
    assert len(ours.train_pipeline[1]['views']) == 2
    assert len(plain.train_pipeline[1]['views']) == 1


@pytest.mark.parametrize(
    'name, epochs, batch, lr, decay, milestones',
    [('resnet50_in1k', 90, 256, 0.1, 1e-4, [30, 60]), ('resnet18_cifar100', 300, 128, 0.1, 5e-4, [90, 180, 280])],
)
def test_recipe_is_the_one_of_paper_and_released_code(name, epochs, batch, lr, decay, milestones):
    config = Config.fromfile(ROOT / f'configs/cds/{name}.py')
    assert config.train_cfg.max_epochs == epochs
    assert config.auto_scale_lr.base_batch_size == batch
    assert config.optim_wrapper.optimizer.to_dict() == dict(type='SGD', lr=lr, momentum=0.9, weight_decay=decay)
    assert config.param_scheduler[0].milestones == milestones
    cds = config.model.supervisions.cds
    assert (cds.loss.type, cds.loss.temperature, cds.loss.loss_weight) == ('SupConLoss', 0.07, 0.1)
    assert (tuple(cds.taps), cds.neck.head) == ((0, 1, 2, 3), 'sepconv')
    paper = Config.fromfile(ROOT / f'configs/cds/{name}-paper.py').model.supervisions.cds
    assert (tuple(paper.taps), paper.neck.head) == ((0, 1, 2), 'sepconv+mlp')


def test_a_finetuned_classifier_starts_from_the_backbone_or_not_at_all(
    tool, tmp_path, data_root, narrow_start, monkeypatch
):
    leaf = Path('configs/plain/resnet50_cub200-finetune.py')
    arguments = [str(small(leaf, tmp_path)), '--work-dir', str(tmp_path / 'run'), '--data-root', str(data_root)]
    state = torch.load(narrow_start)['state_dict']
    still = [*SMALL, 'train_cfg.max_epochs=1', 'optim_wrapper.optimizer.lr=0.0']

    def run(weights):
        torch.save(dict(state_dict=weights), tmp_path / 'start.pth')
        return tool('train').main([*arguments, '--cfg-options', *still])

    monkeypatch.setenv('MMCDS_BACKBONE', str(tmp_path / 'start.pth'))
    with pytest.raises(ConfigError, match=r'start\.pth gives ResNet only 52 of its 53 convolutions'):
        run({key: value for key, value in state.items() if 'layer4.2.conv3' not in key})
    forget_runs()
    found = run(state).model.backbone.named_parameters()
    assert all(torch.equal(value, state[f'backbone.{key}']) for key, value in found)


def test_the_model_index_is_what_the_config_files_say():
    assert (ROOT / 'configs' / 'metafile.yml').read_text() == to_text(ROOT)
    for collection in model_index(ROOT)['Collections']:
        assert (ROOT / collection['README']).is_file()


def test_every_config_has_the_hooks_of_a_safe_run_by_name():
    """So that custom_hooks of a user add to them, whatever they are."""
    bare = ('epoch_seed', 'progress', 'finite', 'checkpoint')
    ours = ('check_data', 'check_checkpoint', 'check_backbone', 'sync_buffers', 'report')
    names = [path for path in sorted((ROOT / 'configs').rglob('*.py')) if '_base_' not in path.parts]
    for path in names:
        config = Config.fromfile(path)
        hooks = config.default_hooks
        assert hooks.checkpoint.type.endswith('SafeCheckpointHook'), path
        assert not config.get('custom_hooks'), path
        wanted = bare if path.parent.name == 'byol' and path.stem == 'resnet50_in1k' else bare + ours
        assert set(wanted) <= set(hooks), path


def test_configs_are_plain_assignments():
    for path in (ROOT / 'configs').rglob('*.py'):
        text = path.read_text()
        assert text.startswith('"""'), f'{path} needs a header'
        assert 'import ' not in text.split('"""')[2], f'{path} holds code'

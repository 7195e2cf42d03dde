"""Nothing in a file that somebody else wrote is executed, whichever way it comes in."""

import ast
import io
import pickle
from pathlib import Path

import mmengine
import numpy as np
import pytest
import torch
from conftest import NO_REPORT, few_images, load_tool
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.checkpoint import load_training_checkpoint, read_weights
from mmcds.openmmlab.export import export_backbone
from mmcds.openmmlab.untrusted import TRUST, _statistic, read_checkpoint, read_config_text

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / 'configs/cds/resnet18w16_fashion.py')
SHORT = [
    '--cfg-options',
    'train_cfg.max_epochs=1',
    *few_images(16, 8, 8),
    NO_REPORT,
    'test_dataloader.dataset.indices=8',
    'test_dataloader.num_workers=0',
]


class Touch:
    """Leaves a file when it is unpickled by a reader that executes."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return (open, (self.file, 'w'))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A work dir of one epoch."""
    folder = tmp_path_factory.mktemp('run')
    load_tool('train').main([CONFIG, '--work-dir', str(folder), *SHORT])
    return folder


@pytest.fixture
def evil(run, tmp_path):
    """A training checkpoint that leaves a file when it is read by a reader that executes."""
    checkpoint = torch.load(run / 'epoch_1.pth', weights_only=False)
    checkpoint['meta']['note'] = Touch(tmp_path / 'ran')
    torch.save(checkpoint, tmp_path / 'evil.pth')
    return tmp_path / 'evil.pth'


def initialised(evil):
    from mmpretrain import get_model

    config = Config.fromfile(CONFIG)
    config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=str(evil), prefix='backbone.')
    get_model(config).init_weights()


def infer(evil):
    from mmpretrain import ImageClassificationInferencer

    ImageClassificationInferencer('cds_resnet18w16_fashion', pretrained=str(evil))


def get(evil):
    from mmpretrain import get_model

    get_model('cds_resnet18w16_fashion', pretrained=str(evil))


def teacher(evil):
    from mmcds.core.step import Supervisions
    from mmcds.openmmlab.teacher import LoadedTeacher

    LoadedTeacher(Supervisions({}), CONFIG, str(evil)).load()


ROUTES = {
    'load_from': lambda evil, tool: tool('train').main(
        [CONFIG, '--work-dir', str(evil.parent / 'w'), *SHORT, f'load_from={evil}']
    ),
    'resume': lambda evil, tool: tool('train').main(
        [CONFIG, '--work-dir', str(evil.parent / 'w'), '--resume', str(evil), *SHORT]
    ),
    'backbone': lambda evil, tool: tool('train').main(
        [
            *(CONFIG, '--work-dir', str(evil.parent / 'w'), *SHORT),
            "model.backbone.init_cfg.type='Pretrained'",
            f'model.backbone.init_cfg.checkpoint={evil}',
        ]
    ),
    'init_cfg': lambda evil, tool: initialised(evil),
    'teacher': lambda evil, tool: teacher(evil),
    'test': lambda evil, tool: tool('test').main([CONFIG, str(evil), '--work-dir', str(evil.parent / 'w'), *SHORT]),
    'export': lambda evil, tool: export_backbone(evil, evil.parent / 'out.pth'),
    'probe': lambda evil, tool: tool('probe').main([CONFIG, str(evil), '--out', str(evil.parent / 'p')]),
    'calibration': lambda evil, tool: tool('calibration').main([CONFIG, str(evil), '--out', str(evil.parent / 'c')]),
    'get_model': lambda evil, tool: get(evil),
    'inferencer': lambda evil, tool: infer(evil),
    'draw': lambda evil, tool: read_weights(str(evil)),
}


@pytest.mark.parametrize('route', ROUTES)
def test_a_pickle_that_runs_code_is_refused_on_every_route_and_named(route, evil, tool, monkeypatch):
    monkeypatch.setenv('MMCDS_DATA_ROOT', str(evil.parent))
    with pytest.raises(ConfigError, match=r'evil\.pth is not read, because it could run code.*--trust-checkpoint'):
        ROUTES[route](evil, tool)
    assert not (evil.parent / 'ran').exists()


def test_a_config_that_runs_code_is_refused_by_every_reader(run, tmp_path):
    for place in ('cfg', 'config'):
        checkpoint = torch.load(run / 'epoch_1.pth', weights_only=False)
        checkpoint['meta'][place] = f"model = dict(x=open({str(tmp_path / 'ran')!r}, 'w'))"
        torch.save(checkpoint, tmp_path / 'config.pth')
        for read in (read_weights, load_training_checkpoint, CheckpointLoader.load_checkpoint):
            with pytest.raises(ConfigError, match=r'config\.pth is not read.*not plain data: a call of open'):
                read(str(tmp_path / 'config.pth'))
    checkpoint['meta'].pop('config')
    checkpoint['message_hub']['runtime_info']['cfg'] = 'import os'
    torch.save(checkpoint, tmp_path / 'config.pth')
    with pytest.raises(ConfigError, match='not plain data: import os'):
        read_checkpoint(tmp_path / 'config.pth')
    assert not (tmp_path / 'ran').exists()


def test_a_trusted_file_is_read_as_it_is_with_a_warning(evil, monkeypatch, caplog):
    monkeypatch.setenv(TRUST, '1')
    assert 'state_dict' in read_checkpoint(evil)
    assert (evil.parent / 'ran').exists()


def test_the_option_of_the_tools_trusts(evil, tool, monkeypatch):
    monkeypatch.setenv(TRUST, '0')
    tool('export_backbone').main([str(evil), str(evil.parent / 'out.pth'), '--trust-checkpoint'])
    assert (evil.parent / 'ran').exists()
    assert (evil.parent / 'out.pth').exists()


def test_our_own_checkpoints_need_no_trust_and_lose_nothing(run):
    mine = read_checkpoint(run / 'epoch_1.pth')
    theirs = torch.load(run / 'epoch_1.pth', weights_only=False)
    assert mine['meta'] == theirs['meta']
    assert mine['message_hub']['log_scalars'].keys() == theirs['message_hub']['log_scalars'].keys()
    for name, history in theirs['message_hub']['log_scalars'].items():
        again = mine['message_hub']['log_scalars'][name]
        assert type(again) is HistoryBuffer
        assert np.array_equal(again.data[0], history.data[0])
        assert again.mean() == history.mean()
    assert all(torch.equal(mine['state_dict'][key], value) for key, value in theirs['state_dict'].items())
    config = load_training_checkpoint(run / 'epoch_1.pth')[1]
    assert config.to_dict() == Config.fromstring(theirs['meta']['cfg'], '.py').to_dict()


@pytest.mark.parametrize('place', [0, 1, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_damaged_and_named(run, tmp_path, place):
    whole = (run / 'epoch_1.pth').read_bytes()
    (tmp_path / 'part.pth').write_bytes(whole[: int(place * len(whole)) if place != 1 else 1])
    with pytest.raises(ConfigError, match=r'part\.pth is damaged or no checkpoint'):
        read_weights(str(tmp_path / 'part.pth'))


def test_one_byte_of_a_weight_that_another_program_has_changed_is_noticed(run, tmp_path):
    """PyTorch reads it without a word: it compares no checksum."""
    content = bytearray((run / 'epoch_1.pth').read_bytes())
    content[len(content) // 3] ^= 1
    changed = tmp_path / 'changed.pth'
    changed.write_bytes(content)
    torch.load(changed, weights_only=False)
    with pytest.raises(ConfigError, match=r'changed\.pth is damaged: a checksum in it does not fit'):
        read_checkpoint(changed)


def test_complex_weights_are_refused(run, tmp_path):
    checkpoint = torch.load(run / 'epoch_1.pth', weights_only=False)
    weights = checkpoint['state_dict']
    weights['backbone.conv1.weight'] = weights['backbone.conv1.weight'].to(torch.complex64)
    torch.save(checkpoint, tmp_path / 'complex.pth')
    with pytest.raises(ConfigError, match=r'backbone\.conv1\.weight holds complex numbers'):
        read_weights(str(tmp_path / 'complex.pth'))
    with pytest.raises(ConfigError, match=r'conv1\.weight holds complex numbers'):
        export_backbone(tmp_path / 'complex.pth', tmp_path / 'out.pth')


@pytest.mark.parametrize(
    'change',
    [
        lambda checkpoint: checkpoint['meta'].update(epoch='one'),
        lambda checkpoint: checkpoint['meta'].pop('iter'),
        lambda checkpoint: checkpoint.update(optimizer=None),
        lambda checkpoint: checkpoint['optimizer'].update(state='text'),
        lambda checkpoint: checkpoint.update(meta=[1]),
    ],
    ids=['word', 'missing', 'no optimiser', 'text', 'list'],
)
def test_a_training_does_not_go_on_from_a_damaged_state(run, tmp_path, tool, change):
    checkpoint = torch.load(run / 'epoch_1.pth', weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, tmp_path / 'wrong.pth')
    with pytest.raises(ConfigError, match=r'wrong\.pth is damaged'):
        ROUTES['resume'](tmp_path / 'wrong.pth', tool)


@pytest.mark.parametrize(
    'content', [[], {}, {'state_dict': []}, {'state_dict': {'a': 'b'}}, torch.zeros(2), None, 'x']
)
def test_a_file_without_weights_is_named(tmp_path, content):
    torch.save(content, tmp_path / 'other.pth')
    with pytest.raises(ConfigError, match=r'other\.pth holds no weights'):
        read_weights(str(tmp_path / 'other.pth'))


def test_weights_that_are_not_finite_are_refused(run, tmp_path):
    checkpoint = torch.load(run / 'epoch_1.pth', weights_only=False)
    for value in (float('nan'), float('inf')):
        checkpoint['state_dict']['backbone.conv1.weight'][0, 0, 0, 0] = value
        torch.save(checkpoint, tmp_path / 'nan.pth')
        with pytest.raises(ConfigError, match=r'nan\.pth: 1 of \d+ tensors .*backbone\.conv1\.weight.*diverged'):
            read_weights(str(tmp_path / 'nan.pth'))
        with pytest.raises(ConfigError, match=r'nan\.pth: 1 of \d+ tensors of the backbone are not finite'):
            export_backbone(tmp_path / 'nan.pth', tmp_path / 'out.pth')
        assert not (tmp_path / 'out.pth').exists()
    checkpoint['state_dict']['backbone.conv1.weight'][0, 0, 0, 0] = -float('inf')  # as in a mask
    torch.save(checkpoint, tmp_path / 'mask.pth')
    assert read_weights(str(tmp_path / 'mask.pth'))


def test_attributes_of_a_history_alone_can_be_asked_for():
    assert _statistic(HistoryBuffer, 'mean') is HistoryBuffer.mean
    for owner, name in ((HistoryBuffer, '__init__'), (io, 'open'), (HistoryBuffer.mean, '__globals__')):
        with pytest.raises(pickle.UnpicklingError):
            _statistic(owner, name)


@pytest.mark.parametrize(
    'text',
    [
        'a = __import__("os").system("true")',
        'a = [x for x in (1,)]',
        'a = dict(**{})',
        'a = dict([(1, 2)])',
        'import os',
        'a.b = 1',
        'a = b = 1',
        'a = lambda: 1',
        'a = f"{1}"',
        'a = (',
        'a = 1 if True else 2',
        'a = other',
    ],
)
def test_what_is_no_literal_is_refused(text):
    with pytest.raises(ConfigError, match='not plain data'):
        read_config_text(text, 'x.pth')


def test_literals_are_read_as_python_reads_them():
    text = "a = dict(b=[1, -2.5, (None, True)], c={1: 'x', (2, 3): 1e-3}, d={4, 5})\nw = -inf\nn = 'n'"
    found = read_config_text(text, 'x.pth').to_dict()
    assert found == dict(a=dict(b=[1, -2.5, (None, True)], c={1: 'x', (2, 3): 1e-3}, d={4, 5}), w=-float('inf'), n='n')


@pytest.mark.parametrize(
    'name', ['mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py', 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py']
)
def test_what_mmengine_writes_of_a_config_is_plain_data(name):
    config = get_config(name)
    text = config.pretty_text
    ast.parse(text)
    assert read_config_text(text, name).to_dict() == Config.fromstring(text, '.py').to_dict()


def test_the_readers_of_mmengine_are_the_guarded_ones(tmp_path):
    torch.save(dict(state_dict=dict(weight=torch.ones(1, 1), bias=Touch(tmp_path / 'ran'))), tmp_path / 'x.pth')
    with pytest.raises(ConfigError, match='could run code'):
        load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / 'x.pth'))
    (tmp_path / 'hub/checkpoints').mkdir(parents=True)
    (tmp_path / 'x.pth').rename(tmp_path / 'hub/checkpoints/y.pth')
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / 'hub'))
    try:
        with pytest.raises(ConfigError, match=r'https://a\.b/y\.pth is not read'):
            CheckpointLoader.load_checkpoint('https://a.b/y.pth')
    finally:
        torch.hub.set_dir(before)
    assert not (tmp_path / 'ran').exists()
    assert hasattr(mmengine.runner.checkpoint, 'get_torch_safe_globals')


def test_an_address_and_an_open_file_are_read_as_a_file_is(run, tmp_path, monkeypatch):
    (tmp_path / 'checkpoints').mkdir()
    (tmp_path / 'checkpoints/z.pth').write_bytes((run / 'epoch_1.pth').read_bytes())
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(tmp_path))
    state = read_weights(str(run / 'epoch_1.pth'))
    assert read_weights('https://a.b/z.pth').keys() == state.keys()
    assert read_checkpoint(io.BytesIO((run / 'epoch_1.pth').read_bytes()))['state_dict'].keys() == state.keys()

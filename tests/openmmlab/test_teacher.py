"""The teacher: what it sees, that nothing moves it, and what is said when it does not fit."""

import copy
import hashlib
import http.server
import threading
from functools import partial
from pathlib import Path

import pytest
import references
import torch
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm
from mmpretrain import get_model
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.nn import functional as F
from torch.optim import SGD
from torch.testing import assert_close

from mmcds.core.errors import ConfigError
from mmcds.core.step import Supervisions
from mmcds.openmmlab.teacher import LoadedTeacher, read_model_config
from mmcds.openmmlab.zoo import find

STATS = dict(mean=[10.0, 20.0, 30.0], std=[2.0, 3.0, 4.0], to_rgb=True)
EMBEDDING = dict(type='mmpretrain.EmbeddingDistillation')
LOGIT = dict(type='mmpretrain.LogitDistillation')
FEATURE = dict(type='mmpretrain.FeatureDistillation', taps=(1, 'layer3.0.conv1'))


def contrastive(taps=(0, 1, 2, 3)):
    return dict(
        type='mmpretrain.ContrastiveSupervision',
        loss=dict(type='mmpretrain.SupConLoss', loss_weight=0.1),
        taps=taps,
        neck=dict(type='mmpretrain.CDSNeck', head='sepconv'),
    )


def model_config(width=8, num_classes=5, cds=True, **kwargs) -> dict:
    return dict(
        type='mmpretrain.CDSClassifier',
        backbone=dict(type='mmpretrain.ResNet_CIFAR', depth=18, base_channels=width, stem_channels=width),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(
            type='mmpretrain.LinearClsHead',
            num_classes=num_classes,
            in_channels=8 * width,
            loss=dict(type='mmpretrain.CrossEntropyLoss'),
        ),
        supervisions=dict(cds=contrastive()) if cds else None,
        data_preprocessor=dict(STATS),
        **kwargs,
    )


@pytest.fixture(scope='module')
def teacher_file(tmp_path_factory) -> str:
    """Checkpoint of a CDS teacher with running statistics of its own."""
    torch.manual_seed(1)
    network = MODELS.build(model_config(width=12))
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name.endswith(('running_mean', 'running_var')):
                buffer.add_(torch.rand_like(buffer))
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.save(dict(state_dict=network.state_dict(), meta={}), path)
    return str(path)


def student_config(checkpoint, supervisions=None, mode='eval', teacher_model=None, **kwargs) -> dict:
    config = model_config(**kwargs)
    config['supervisions'].update(supervisions or dict(embedding=EMBEDDING, logit=LOGIT, feature=FEATURE))
    config['teacher'] = dict(config=teacher_model or model_config(width=12), checkpoint=checkpoint, mode=mode)
    return config


def student(checkpoint, **kwargs):
    return MODELS.build(student_config(checkpoint, **kwargs))


def batch(num_images=4, dtype=torch.float32):
    images = torch.randn(2, num_images, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return images, [DataSample().set_gt_label(index % 5) for index in range(num_images)]


def total(losses):
    return sum(value for key, value in losses.items() if 'loss' in key)


def fingerprint(model) -> str:
    network = model.teacher._network
    return hashlib.sha256(b''.join(value.numpy().tobytes() for value in network.state_dict().values())).hexdigest()


def step(model, optimizer):
    optimizer.zero_grad()
    total(model.loss(*batch())).backward()
    optimizer.step()


# ---- what it sees


def test_the_trace_carries_what_the_teacher_alone_makes_of_the_images_in_eval(teacher_file):
    model = student(teacher_file)
    alone = MODELS.build(model_config(width=12, taps=FEATURE['taps']))
    alone.load_state_dict(torch.load(teacher_file)['state_dict'])
    alone.eval()
    images, samples = batch()
    found = model.train().outputs(images, samples).teacher
    with torch.no_grad():
        expected = alone.outputs(images, samples)
    assert_close(found.logits, expected.logits)
    assert_close(dict(found.features), dict(expected.features))
    assert_close(found.embeddings['cds'], expected.embeddings['cds'])
    assert not found.logits.requires_grad
    assert not any(value.requires_grad for value in found.embeddings['cds'].values())


def test_the_losses_of_all_three_equations_stand_beside_those_of_cds(teacher_file):
    losses = student(teacher_file).loss(*batch())
    assert {key for key in losses if 'loss' in key} == {
        'loss_ce',
        *(f'cds.stage{s}.loss_contrast' for s in range(4)),
        'logit.loss_logit',
        *(f'embedding.stage{s}.loss_embedding' for s in range(4)),
        'feature.stage1.loss_feature',
        'feature.layer3-0-conv1.loss_feature',
    }


def test_the_total_of_the_released_code_equals_a_sum_by_hand(teacher_file):
    model = student(
        teacher_file, supervisions=dict(embedding=dict(EMBEDDING, loss_weight=0.1), logit=dict(LOGIT, temperature=3.0))
    ).double()
    images, samples = batch(dtype=torch.float64)
    outputs, labels = model.outputs(images, samples), torch.arange(4)
    expected = F.cross_entropy(outputs.logits[:4], labels)
    for tap in range(4):
        rows = outputs.embeddings['cds'][tap].flatten(0, 1)
        expected = expected + 0.1 * references.contrastive_reference(rows.unflatten(0, (2, 4)), labels, 0.07)
        layer = model.supervisions['embedding'].adapters[f'stage{tap}']
        expected = expected + 0.1 * torch.dist(
            F.linear(rows, layer.weight, layer.bias), outputs.teacher.embeddings['cds'][tap].flatten(0, 1), p=2
        )
    soft = (outputs.teacher.logits[:4] / 3).softmax(1)
    expected = expected - (soft * (outputs.logits[:4] / 3).log_softmax(1)).sum() / 4
    assert_close(total(model.loss(images, samples)), expected)


def test_swapping_the_views_changes_cross_entropy_and_logits_alone(teacher_file):
    model = student(teacher_file, supervisions=dict(embedding=EMBEDDING, logit=LOGIT)).double()
    images, samples = batch(dtype=torch.float64)
    losses, swapped = model.loss(images, samples), model.loss(images.flip(0), samples)
    for key in losses:
        if 'loss_contrast' in key or 'loss_embedding' in key:
            assert_close(losses[key], swapped[key], msg=key)
        elif 'loss' in key:
            assert abs(losses[key] - swapped[key]) > 1e-6, key


@pytest.mark.parametrize('mode', ['frobenius', 'mse_row'])
def test_a_teacher_equal_to_the_student_gives_loss_zero_and_a_finite_gradient(tmp_path, mode):
    config = model_config()
    twin = MODELS.build(config)
    torch.save(twin.state_dict(), tmp_path / 'twin.pth')
    model = student(
        str(tmp_path / 'twin.pth'),
        mode='train',
        teacher_model=config,
        supervisions=dict(
            embedding=dict(EMBEDDING, mode=mode), feature=dict(FEATURE, mode=mode), logit=dict(LOGIT, mode='kl')
        ),
    )
    model.load_state_dict(twin.state_dict(), strict=False)
    losses = model.loss(*batch())
    for key in losses:
        if 'embedding' in key or 'feature' in key:
            assert losses[key].item() == 0, key
    assert_close(losses['logit.loss_logit'].item(), 0.0, rtol=0, atol=1e-7)
    assert losses['logit.teacher_agreement'] == 1
    sum(value for key, value in losses.items() if 'embedding' in key or 'feature' in key).backward()
    assert all(parameter.grad is None or parameter.grad.abs().max() == 0 for parameter in model.parameters())


def test_every_parameter_of_the_student_gets_a_gradient(teacher_file):
    model = student(teacher_file)
    total(model.loss(*batch())).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_a_teacher_with_another_normalisation_sees_the_pixels_as_it_was_trained(teacher_file):
    own, other = model_config(width=12), model_config(width=12)
    other['data_preprocessor'] = dict(mean=[1.0, 2.0, 3.0], std=[5.0, 6.0, 7.0])
    pixels = torch.rand(2, 4, 3, 16, 16) * 255
    image = [
        (pixels - torch.tensor(stats['mean']).view(-1, 1, 1)) / torch.tensor(stats['std']).view(-1, 1, 1)
        for stats in (STATS, other['data_preprocessor'])
    ]
    converted = student(teacher_file, teacher_model=other).outputs(image[0], batch()[1]).teacher.logits
    straight = student(teacher_file, teacher_model=own).outputs(image[1], batch()[1]).teacher.logits
    assert_close(converted, straight, rtol=1e-4, atol=1e-4)


def test_in_train_mode_the_statistics_of_the_batch_count_and_no_weight_changes(teacher_file):
    images, samples = batch()
    model = student(teacher_file, mode='train')
    alone = MODELS.build(model_config(width=12))
    alone.load_state_dict(torch.load(teacher_file)['state_dict'])
    found = model.outputs(images, samples).teacher
    assert_close(found.logits, alone.train().outputs(images, samples).logits.detach())
    before = torch.load(teacher_file)['state_dict']
    for name, parameter in model.teacher._network.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert not torch.equal(model.teacher._network.backbone.bn1.running_mean, before['backbone.bn1.running_mean'])


# ---- nothing moves it


def test_twenty_steps_leave_weights_and_statistics_of_the_teacher_bit_for_bit(teacher_file):
    model = student(teacher_file)
    model.init_weights()
    before = fingerprint(model)
    optimizer = SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(20):
        model.train()
        step(model, optimizer)
    assert fingerprint(model) == before
    assert any(not torch.equal(value, first[name]) for name, value in model.state_dict().items())


def test_the_teacher_is_in_no_state_parameter_or_module_of_the_student(teacher_file):
    without = model_config()
    without['supervisions'].update(logit=None)
    plain = MODELS.build(without)
    model = student(teacher_file, supervisions=dict(logit=LOGIT))
    model.loss(*batch())
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert len(list(model.parameters())) == len(list(plain.parameters()))
    model.load_state_dict(plain.state_dict(), strict=True)


def test_train_eval_sync_batchnorm_and_copies_leave_the_teacher_alone(teacher_file):
    model = student(teacher_file)
    model.init_weights()
    network, before = model.teacher._network, fingerprint(model)
    model.eval()
    model.train()
    converted = convert_sync_batchnorm(model)
    clone = copy.deepcopy(model)
    assert clone.teacher is model.teacher is converted.teacher
    assert not network.training
    assert not any(isinstance(module, torch.nn.SyncBatchNorm) for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert fingerprint(model) == before


def test_the_teacher_follows_the_student_to_another_type(teacher_file):
    model = student(teacher_file).double()
    losses = model.loss(*batch(dtype=torch.float64))
    assert total(losses).dtype == torch.float64
    assert next(model.teacher._network.parameters()).dtype == torch.float64


def test_half_precision_by_autocast_trains(teacher_file):
    model = student(teacher_file)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model.loss(*batch())
    assert torch.isfinite(total(losses))
    assert losses['embedding.stage0.loss_embedding'].dtype == torch.float32
    total(losses).backward()


def test_the_student_starts_from_the_weights_of_its_twin_without_teacher(teacher_file):
    states = []
    for config in (model_config(), student_config(teacher_file)):
        torch.manual_seed(5)
        model = MODELS.build(config)
        model.init_weights()
        states.append(model.state_dict())
    for key, value in states[0].items():
        if not key.startswith('supervisions.'):
            assert torch.equal(value, states[1][key]), key


# ---- when it is loaded, and from what


def test_building_testing_and_using_a_student_needs_no_checkpoint_of_the_teacher():
    model = get_model(Config(dict(model=student_config('nowhere.pth'))))
    assert model(torch.rand(2, 3, 16, 16), mode='tensor') is not None
    assert model.teacher._network is None
    assert model.teacher.identity is None


@pytest.mark.parametrize('start', [lambda model: model.init_weights(), lambda model: model.loss(*batch())])
def test_training_without_the_checkpoint_says_how_to_get_it(start):
    with pytest.raises(ConfigError, match=r'checkpoint nowhere.pth does not exist. Train the teacher first'):
        start(student('nowhere.pth'))
    with pytest.raises(ConfigError, match=r'comes without weights. Set model.teacher.checkpoint'):
        start(student(None))


def test_a_network_of_the_zoo_is_named_by_its_name():
    name = 'cds_resnet18w16_fashion'
    assert student(name).teacher.checkpoint == find(name) != name


def test_the_identity_is_config_file_name_and_hash(teacher_file):
    model = student(teacher_file)
    model.init_weights()
    assert model.teacher.identity == dict(
        config='mmpretrain.ResNet_CIFAR',
        checkpoint='teacher.pth',
        mode='eval',
        sha256=hashlib.sha256(Path(teacher_file).read_bytes()).hexdigest(),
    )


def test_a_distilled_student_can_be_a_teacher(teacher_file, tmp_path):
    first = student(teacher_file)
    torch.save(dict(state_dict=first.state_dict()), tmp_path / 'first.pth')
    second = student(
        str(tmp_path / 'first.pth'),
        teacher_model=student_config('grand_teacher_is_gone.pth'),
        supervisions=dict(embedding=EMBEDDING, logit=LOGIT),
    )
    images, samples = batch()
    found = second.outputs(images, samples).teacher
    with torch.no_grad():
        expected = first.eval().run(images, torch.zeros(4), None, 0.0)
    assert_close(found.logits, expected.logits)
    assert_close(found.embeddings['cds'], expected.embeddings['cds'])
    assert second.teacher._network.teacher is None


def test_a_teacher_of_another_family_is_distilled_by_logits_and_tapped_modules(tmp_path):
    teacher = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='mmpretrain.MobileNetV2', widen_factor=0.25),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        train_cfg=dict(augments=dict(type='Mixup')),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=5, in_channels=1280),
    )
    network = MODELS.build({**teacher, 'train_cfg': None})
    torch.save(
        dict(state_dict={f'module.{key}': value for key, value in network.state_dict().items()}),
        tmp_path / 'mobile.pth',
    )
    model = student(
        str(tmp_path / 'mobile.pth'),
        teacher_model=teacher,
        supervisions=dict(
            logit=LOGIT, feature=dict(type='mmpretrain.FeatureDistillation', taps=(0, 2), teacher_taps=('layer2', 7))
        ),
    )
    images = torch.randn(2, 2, 3, 32, 32)
    losses = model.loss(images, batch(2)[1])
    assert torch.isfinite(total(losses))
    assert model.supervisions['feature'].adapters['stage2'].out_channels == 1280
    with torch.no_grad():
        expected = network.eval().head(network.extract_feat(images.flatten(0, 1)))
    assert_close(model.outputs(images, batch(2)[1]).teacher.logits, expected)


def test_weights_at_an_address_are_fetched_and_hashed(teacher_file, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(Path(teacher_file).parent))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        teacher = LoadedTeacher(
            Supervisions(), model_config(width=12), f'http://127.0.0.1:{server.server_port}/teacher.pth'
        )
        teacher.load()
        server.shutdown()
    assert teacher.identity['sha256'] == hashlib.sha256(Path(teacher_file).read_bytes()).hexdigest()


def test_a_config_is_a_file_a_path_in_the_package_a_name_or_a_dict(tmp_path):
    root = Path(__file__).resolve().parents[2]
    by_file, _ = read_model_config(str(root / 'configs/cds/resnet18w16_fashion.py'))
    by_path, _ = read_model_config('mmcds::cds/resnet18w16_fashion.py')
    by_name, weights = read_model_config('cds_resnet18w16_fashion')
    whole, _ = read_model_config(Config.fromfile(root / 'configs/cds/resnet18w16_fashion.py'))
    assert by_file == by_path == by_name == whole
    assert by_file['data_preprocessor']['mean'] == [72.94] * 3
    assert weights == find('cds_resnet18w16_fashion'), 'a network of the package comes with its weights'
    assert read_model_config('cds_resnet18_cifar100')[1] is None
    assert read_model_config('resnet18_8xb16_cifar10')[1].startswith('https://')
    assert read_model_config(model_config())[0]['backbone'] == model_config()['backbone']


# ---- what does not fit


EMBEDDED = dict(type='ContrastiveSupervision', taps=(0,))


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(config='nowhere.py'), 'config nowhere.py does not exist. Name a file'),
        (
            dict(config='resnet19_8xb16_cifar10'),
            "no model named 'resnet19_8xb16_cifar10'; similar names: resnet18_8xb16",
        ),
        (dict(config=dict(type='mmpretrain.SimCLR', backbone={})), 'describes a mmpretrain.SimCLR; a teacher is'),
        (dict(config=model_config(), mode='test'), "mode is 'test'; choose 'eval' or 'train'"),
        (
            dict(config=model_config(cds=False)),
            "embeddings of supervision 'cds' are to be distilled, but its config has no supervisions",
        ),
    ],
)
def test_a_config_that_is_no_teacher_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        LoadedTeacher(Supervisions(dict(cds=EMBEDDED, e=dict(type='EmbeddingDistillation'))), **arguments)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda c: c.update(teacher=None), r"'embedding' needs a teacher. Give one \(model.teacher"),
        (lambda c: c['supervisions'].update(embedding=None), 'there is a teacher, but no supervision listens'),
        (
            lambda c: c['supervisions'].update(embedding=dict(EMBEDDING, student='sdc')),
            r"reads the embeddings of 'sdc', but the supervisions are \['cds', 'embedding'\]",
        ),
        (
            lambda c: c['supervisions'].update(embedding=dict(EMBEDDING, teacher='sdc')),
            "embeddings of supervision 'sdc'",
        ),
        (lambda c: c['supervisions'].update(cds=contrastive((0, 1, 2))), 'they do not correspond'),
        (
            lambda c: c['backbone'].update(strides=(2, 2, 2, 2)),
            "student's stage0 has stride 2 and the teacher's stage0 1",
        ),
        (
            lambda c: c['supervisions'].update(logit=LOGIT) or c['head'].update(num_classes=6),
            'the teacher has 5 classes and the student 6',
        ),
        (lambda c: c['supervisions'].update(f=dict(FEATURE, teacher_taps=(1, 'layer9'))), "no module 'layer9' to tap"),
    ],
)
def test_a_student_that_does_not_fit_its_teacher_is_refused_when_it_is_built(change, message):
    config = student_config('any.pth', supervisions=dict(embedding=EMBEDDING))
    change(config)
    with pytest.raises(ConfigError, match=message):
        MODELS.build(config)


def test_a_checkpoint_without_heads_is_refused_where_embeddings_are_distilled(tmp_path):
    torch.save(MODELS.build(model_config(width=12, cds=False)).state_dict(), tmp_path / 'plain.pth')
    with pytest.raises(ConfigError, match=r"plain.pth holds no projection heads of supervision 'cds'"):
        student(str(tmp_path / 'plain.pth')).init_weights()
    student(str(tmp_path / 'plain.pth'), supervisions=dict(logit=LOGIT)).init_weights()


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    torch.save(MODELS.build(model_config(width=16)).state_dict(), tmp_path / 'wide.pth')
    with pytest.raises(ConfigError, match=r'does not fit .*conv1.weight \(16, 3, 3, 3\) instead of \(12, 3, 3, 3\)'):
        student(str(tmp_path / 'wide.pth')).init_weights()
    state = MODELS.build(model_config(width=12)).state_dict()
    state.pop('head.fc.bias')
    torch.save(state, tmp_path / 'cut.pth')
    with pytest.raises(ConfigError, match=r'does not fit .*head.fc.bias is missing'):
        student(str(tmp_path / 'cut.pth')).init_weights()

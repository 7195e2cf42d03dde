"""A classifier elsewhere: raw pixels in, the logits of MMPretrain out, in every format and for every batch."""

import json

import pytest
import safetensors.torch
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmpretrain.models.utils import ShiftWindowMSA
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.testing import assert_close

from mmcds.core.errors import ConfigError
from mmcds.openmmlab import programs
from mmcds.openmmlab.hub import classifier_of, from_pretrained, image_size, load_classifier, save_pretrained
from mmcds.openmmlab.programs import export_program

CLASSES = [f'garment {number}' for number in range(10)]
#: Different for every channel, so that their order matters.
NORMALISATION = dict(mean=[10.0, 100.0, 200.0], std=[30.0, 60.0, 90.0])


def write_run(folder, to_rgb=True, backbone=None):
    """What a training leaves: checkpoint with statistics that are all different, and the log beside it."""
    config = get_config('mmcds::cds/resnet18w16_fashion.py')
    config.data_preprocessor.update(NORMALISATION, to_rgb=to_rgb)
    config.model.data_preprocessor = config.data_preprocessor
    config.model.head.init_cfg = dict(type='Normal', layer='Linear', std=0.01)
    if backbone:
        config.model.update(supervisions=None, channels_last=False)
        config.model.backbone, config.model.head.in_channels = backbone, 8
    torch.manual_seed(1)
    model = MODELS.build(Config(dict(config.model, _scope_='mmpretrain')))
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name.endswith(('mean', 'bias')) and 'preprocessor' not in name:
            value.data.normal_()
        elif name.endswith('var'):
            value.uniform_(0.5, 1.5)
    meta = dict(cfg=config.pretty_text, epoch=3, experiment_name='a run', dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'epoch_3.pth')
    log = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    records = [{'accuracy/top1': 10.0 * epoch, 'accuracy/top5': 99.5, 'step': epoch} for epoch in (2, 3, 4)]
    log.write_text('\n'.join(map(json.dumps, records)))
    return folder / 'epoch_3.pth', model.eval()


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp('run'))


def images(batch, side=28):
    return torch.randint(
        256, (batch, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(batch)
    )


@torch.no_grad()
def probabilities(model, rgb):
    """What MMPretrain says of these images when a test loads them, blue first."""
    data = dict(inputs=list(rgb.flip(1)), data_samples=[DataSample() for _ in rgb])
    return torch.stack([sample.pred_score for sample in model.test_step(data)])


@pytest.mark.parametrize('to_rgb', [True, False])
def test_raw_pixels_give_what_a_test_of_mmpretrain_gives(tmp_path, to_rgb):
    path, model = write_run(tmp_path, to_rgb)
    pixels, classifier = images(3), load_classifier(path)
    with torch.no_grad():
        logits = classifier(pixels)
        assert torch.equal(classifier(pixels.float()), logits)
        assert not torch.allclose(classifier(pixels.flip(1)), logits), 'the order of the channels must matter here'
    assert_close(logits.softmax(1), probabilities(model, pixels))
    assert classifier.classes == tuple(CLASSES)


def test_the_form_of_the_hub_gives_the_same_logits_to_the_last_bit(run, tmp_path):
    path, model = run
    classifier = load_classifier(path)
    assert save_pretrained(classifier, tmp_path / 'hf') == tmp_path / 'hf'
    loaded = from_pretrained(tmp_path / 'hf')
    with torch.no_grad():
        for batch in (1, 4):
            assert torch.equal(loaded(images(batch)), classifier(images(batch)))
    assert_close(loaded(images(2)).softmax(1).detach(), probabilities(model, images(2)))
    assert loaded.info == classifier.info
    assert sorted(file.name for file in (tmp_path / 'hf').iterdir()) == [
        'README.md',
        'config.json',
        'model.safetensors',
    ]
    state = safetensors.torch.load_file(tmp_path / 'hf' / 'model.safetensors')
    assert {key.split('.')[0] for key in state} == {'backbone', 'head'}, 'nothing that only the training needs'
    save_pretrained(loaded, tmp_path / 'again')
    for name in ('config.json', 'model.safetensors', 'README.md'):
        assert (tmp_path / 'again' / name).read_bytes() == (tmp_path / 'hf' / name).read_bytes()


def test_config_and_card_say_what_is_known(run, tmp_path):
    save_pretrained(load_classifier(run[0]), tmp_path, licence='mit')
    config = json.loads((tmp_path / 'config.json').read_text())
    assert config['id2label'] == {str(number): name for number, name in enumerate(CLASSES)}
    assert config['label2id']['garment 7'] == 7
    assert (config['image_mean'], config['image_std']) == (NORMALISATION['mean'], NORMALISATION['std'])
    assert config['image_size'] == [28, 28]
    assert config['metrics'] == {'accuracy/top1': 30.0, 'accuracy/top5': 99.5}, 'those of epoch 3'
    assert config['training']['supervisions'] == {'cds': 'ContrastiveSupervision'}
    assert 'init_cfg' not in json.dumps(config)
    card = (tmp_path / 'README.md').read_text()
    for words in ('license: mit', 'EmbeddedFashionMNIST', 'ContrastiveSupervision', '| accuracy/top1 | 30 |'):
        assert words in card
    example = card.split('```python\n')[1].split('```')[0].replace("'FOLDER'", repr(str(tmp_path)))
    scope = {}
    exec(example, scope)
    assert len(scope['names']) == 2
    assert set(scope['names']) <= set(CLASSES)


def test_a_model_of_get_model_and_the_same_weights_as_a_checkpoint_are_one(run):
    from mmpretrain import get_model

    model = get_model(Config.fromstring(torch.load(run[0])['meta']['cfg'], '.py'), pretrained=str(run[0])).eval()
    with torch.no_grad():
        assert torch.equal(classifier_of(model)(images(2)), load_classifier(run[0])(images(2)))
    with pytest.raises(ConfigError, match='Linear does not know its config'):
        classifier_of(torch.nn.Linear(2, 2))


def test_onnx_takes_raw_pixels_in_batches_of_any_size(run, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    out = tmp_path / 'model.onnx'
    assert export_program(load_classifier(run[0]), out, 'onnx') < 1e-5
    assert [file.name for file in tmp_path.iterdir()] == ['model.onnx'], 'the weights are in the file'
    session = onnxruntime.InferenceSession(out, providers=['CPUExecutionProvider'])
    (pixels,) = session.get_inputs()
    assert (pixels.name, pixels.type, pixels.shape[1:]) == ('pixels', 'tensor(uint8)', [3, 28, 28])
    for batch in (1, 2, 5):
        (logits,) = session.run(['logits'], {'pixels': images(batch).numpy()})
        found = torch.from_numpy(logits).softmax(1)
        assert_close(found, probabilities(run[1], images(batch)), rtol=1e-4, atol=1e-6)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata['classes']) == CLASSES
    assert json.loads(metadata['image_mean']) == NORMALISATION['mean']


def test_a_program_of_torch_takes_raw_pixels_in_batches_of_any_size(run, tmp_path):
    out = tmp_path / 'model.pt2'
    assert export_program(load_classifier(run[0]), out, 'torch-export', pixels='float32') < 1e-5
    files = {'mmcds.json': ''}
    module = torch.export.load(out, extra_files=files).module()
    for batch in (1, 2, 5):
        logits = module(images(batch).float()).detach()
        assert_close(logits.softmax(1), probabilities(run[1], images(batch)), rtol=1e-4, atol=1e-6)
    assert json.loads(json.loads(files['mmcds.json'])['classes']) == CLASSES


def test_windows_of_a_swin_transformer_are_joined_as_by_mmpretrain():
    windows = torch.randn(2 * 3 * 2, 4, 4, 5)
    expected = ShiftWindowMSA.window_reverse(windows, 12, 8, 4)
    assert torch.equal(programs._join_windows(windows, 12, 8, 4), expected)
    assert expected.shape == (2, 12, 8, 5)


def test_a_swin_transformer_is_exported_for_batches_of_any_size(tmp_path):
    arch = dict(embed_dims=8, depths=[2], num_heads=[2])  # the second block shifts its windows
    backbone = dict(type='SwinTransformer', arch=arch, img_size=32, window_size=4, out_indices=(0,))
    path, model = write_run(tmp_path, backbone=backbone)
    before = ShiftWindowMSA.window_reverse
    export_program(load_classifier(path, size=(32, 32)), tmp_path / 'model.pt2', 'torch-export')
    assert ShiftWindowMSA.window_reverse is before
    module = torch.export.load(tmp_path / 'model.pt2').module()
    for batch in (1, 3):
        logits = module(images(batch, 32)).detach()
        assert_close(logits.softmax(1), probabilities(model, images(batch, 32)), rtol=1e-4, atol=1e-6)


def test_the_size_of_the_images_is_that_of_the_test_or_else_of_the_training():
    def config(test=(), train=()):
        loaders = dict(test_dataloader=test, train_dataloader=train)
        return Config({name: dict(dataset=dict(pipeline=list(steps))) for name, steps in loaders.items()})

    crop, view = dict(type='CenterCrop', crop_size=224), dict(type='RandomResizedCrop', scale=160)
    several = dict(type='MultiViewTransform', views=[[view], [view]])
    assert image_size(config([dict(type='ResizeEdge', scale=256), crop], [several])) == (224, 224)
    assert image_size(config([dict(type='Resize', scale=(64, 48))])) == (48, 64), 'MMCV gives the width first'
    assert image_size(config([dict(type='LoadImage')], [several])) == (160, 160)
    assert image_size(config([dict(type='RandomResizedCrop', scale=(64, 48))])) == (64, 48), 'MMPretrain the height'
    assert image_size(config()) is None


def test_misuse_ends_in_one_line(run, tmp_path):
    path, _ = run
    classifier = load_classifier(path)
    for out, kind, message in (
        ('a.onnx', 'tflite', "format is 'tflite'"),
        ('a.pt2', 'onnx', r"ends with '\.pt2'; onnx files end with \.onnx"),
    ):
        with pytest.raises(ConfigError, match=message):
            export_program(classifier, tmp_path / out, kind)
    (tmp_path / 'a.pt2').write_text('mine')
    with pytest.raises(ConfigError, match=r'a\.pt2 exists and is not overwritten'):
        export_program(classifier, tmp_path / 'a.pt2', 'torch-export')
    assert (tmp_path / 'a.pt2').read_text() == 'mine'
    with pytest.raises(ConfigError, match=r'a\.pt2 is a file\. Name a folder'):
        save_pretrained(classifier, tmp_path / 'a.pt2')
    with pytest.raises(ConfigError, match="licence is 'my own'"):
        save_pretrained(classifier, tmp_path / 'hf', licence='my own')
    with pytest.raises(ConfigError, match=r'hf has no config\.json'):
        from_pretrained(tmp_path / 'hf')
    save_pretrained(classifier, tmp_path / 'hf')
    with pytest.raises(ConfigError, match=r'model\.safetensors exists'):
        save_pretrained(classifier, tmp_path / 'hf')
    save_pretrained(classifier, tmp_path / 'hf', overwrite=True)
    whole = (tmp_path / 'hf' / 'model.safetensors').read_bytes()
    (tmp_path / 'hf' / 'model.safetensors').write_bytes(whole[:1000])
    with pytest.raises(ConfigError, match='hf is damaged'):
        from_pretrained(tmp_path / 'hf')
    state = safetensors.torch.load(whole)
    del state['head.fc.bias']
    (tmp_path / 'hf' / 'model.safetensors').write_bytes(safetensors.torch.save(state))
    with pytest.raises(ConfigError, match=r'head\.fc\.bias is missing'):
        from_pretrained(tmp_path / 'hf')
    (tmp_path / 'hf' / 'config.json').write_text('{"model_type": "vit"}')
    with pytest.raises(ConfigError, match='describes no model of mmcds'):
        from_pretrained(tmp_path / 'hf')


def test_what_computes_something_else_or_lacks_a_package_is_not_written(run, tmp_path, monkeypatch):
    classifier = load_classifier(run[0])
    monkeypatch.setattr(programs, '_write_pt2', lambda model, program, path: lambda images: model(images) * 1.001)
    with pytest.raises(ConfigError, match=r'differs from PyTorch by 1\.0e-03'):
        export_program(classifier, tmp_path / 'a.pt2', 'torch-export')
    monkeypatch.setitem(__import__('sys').modules, 'onnxscript', None)
    with pytest.raises(ConfigError, match=r'needs onnxscript: pip install onnx onnxruntime onnxscript'):
        export_program(classifier, tmp_path / 'a.onnx', 'onnx')
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_does_not_say_enough_is_named(run, tmp_path):
    checkpoint = torch.load(run[0])
    config = Config.fromstring(checkpoint['meta']['cfg'], '.py')
    for change, message in (
        (dict(test_dataloader=None, train_dataloader=None), 'does not say how large its images are'),
        (dict(model=dict(config.model, head=None)), 'gives no classes'),
        (dict(model=dict(config.model, data_preprocessor=dict(pad_size_divisor=32))), 'pad_size_divisor is 32'),
    ):
        text = Config({**config.to_dict(), **change}).pretty_text
        torch.save({**checkpoint, 'meta': {**checkpoint['meta'], 'cfg': text}}, tmp_path / 'a.pth')
        with pytest.raises(ConfigError, match=message):
            load_classifier(tmp_path / 'a.pth')


def test_the_command_chooses_the_format_by_the_ending(run, tmp_path, tool, capsys):
    main = tool('export_model').main
    main([str(run[0]), str(tmp_path / 'a.pt2')])
    assert '10 classes, RGB images of 28 x 28 pixels (uint8)' in capsys.readouterr().out
    assert torch.export.load(tmp_path / 'a.pt2').module()(images(1)).shape == (1, 10)
    main([str(run[0]), str(tmp_path / 'hf'), '--license', 'mit', '--size', '28'])
    assert from_pretrained(tmp_path / 'hf')(images(1)).shape == (1, 10)
    with pytest.raises(ConfigError, match='is the name of a backbone'):
        main([str(run[0]), str(tmp_path / 'a.pth')])
    for wrong in (['--format', 'onnx', '--license', 'mit'], ['--pixels', 'uint8'], ['--size', '1', '2', '3']):
        with pytest.raises(SystemExit):
            main([str(run[0]), str(tmp_path / 'b'), *wrong])


@pytest.mark.parametrize('name', ['resnet18_8xb16_cifar10', 'mmcds::cds/resnet18_cifar10.py'])
def test_arrays_of_cifar_are_rgb_in_an_export(name):
    """MMPretrain's configs hand them on as they are, ours turn them into BGR and back."""
    config = get_config(name if '::' in name else f'mmpretrain::resnet/{name}.py')
    model = MODELS.build({**config.model, 'data_preprocessor': config.data_preprocessor}).eval()
    model._config = config
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    seen = images if 'mmcds' not in name else images.flip(1)  # LoadImage gives BGR
    with torch.no_grad():
        data = model.data_preprocessor(dict(inputs=seen.clone(), data_samples=None), False)
        expected = model(data['inputs'], mode='tensor')
        assert_close(classifier_of(model)(images), expected)

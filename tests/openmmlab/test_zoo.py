"""The networks that come with the package: what their cards say is so, offline."""

import csv
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import few_images
from mmpretrain import ImageClassificationInferencer, get_model

from mmcds.core.errors import ConfigError
from mmcds.data import EmbeddedFashionMNIST
from mmcds.data.fashion_scenes import CLASSES, write_scenes
from mmcds.openmmlab import zoo
from mmcds.openmmlab.checkpoint import file_sha256
from mmcds.openmmlab.hub import load_classifier, model_card
from mmcds.openmmlab.registration import ZOO

CARDS = zoo.cards()
DETECTOR = 'detection_faster-rcnn_resnet18w16_scenes-cds'
CLASSIFIERS = sorted(CARDS.keys() - {DETECTOR})


def test_every_file_has_its_card_and_nothing_of_the_machine():
    assert {path.stem for path in ZOO.glob('*.pth')} == CARDS.keys()
    assert CLASSIFIERS == [
        'cds_resnet18w16_fashion',
        'cds_resnet18w16_fashion-tuned',
        'distill_resnet18w8s_fashion',
        'dsn_resnet18w16_fashion',
        'plain_resnet18w16_fashion',
    ]
    for name, card in CARDS.items():
        file = Path(zoo.find(name))
        assert file_sha256(file) == card['sha256']
        assert card['threads'] in (1, 2), 'without their number nobody gets the same weights'
        assert file.stat().st_size < (8e6 if name == DETECTOR else 4e6)
        checkpoint = torch.load(file, weights_only=True)
        assert checkpoint.keys() == {'meta', 'state_dict'}
        meta = checkpoint['meta']
        assert (meta['name'], meta['epoch'], meta['metrics']) == (name, card['epoch'], card['metrics'])
        text = meta['cfg'] + json.dumps(card)
        assert not re.search(r"['\"]/\w", text), 'a path of the machine'


@pytest.mark.parametrize('name', sorted(CARDS))
def test_the_log_ends_with_what_the_card_says(name):
    records = [json.loads(line) for line in (ZOO / f'{name}.jsonl').read_text().splitlines()]
    assert records[-1]['step'] == CARDS[name]['epoch']
    assert {key: round(records[-1][key], 4) for key in CARDS[name]['metrics']} == CARDS[name]['metrics']
    losses = [record['loss'] for record in records if 'loss' in record]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_the_recorded_accuracy_is_reproduced(name, tool, tmp_path):
    card = CARDS[name]
    metrics = tool('test').main([card['config'], name, '--work-dir', str(tmp_path)])
    assert metrics['accuracy/top1'] == pytest.approx(card['accuracy'], abs=0.051), 'one image of 2,000'


@pytest.mark.parametrize('name', CLASSIFIERS)
def test_a_model_card_says_epoch_and_accuracy(name):
    text = model_card(load_classifier(zoo.find(name)).info)
    assert 'epoch 15 of 15.' in text
    assert f'| accuracy/top1 | {CARDS[name]["accuracy"]:.4g} |' in text


def test_a_name_is_enough_for_a_model_an_inferencer_and_predict(tool, tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise AssertionError('the network was asked')

    monkeypatch.setattr('socket.socket.connect', no_network)
    name, images = CLASSIFIERS[0], EmbeddedFashionMNIST('test')
    model = get_model(name, pretrained=True)
    state = torch.load(zoo.find(name), weights_only=True)['state_dict']
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    info = images.get_data_info(0)
    cv2.imwrite(str(tmp_path / 'image.png'), np.squeeze(info['img']))
    inferencer = ImageClassificationInferencer(name, pretrained=True)
    found = inferencer(str(tmp_path / 'image.png'))[0]['pred_label']
    (row,) = tool('predict').main([name, str(tmp_path / 'image.png')])
    assert row[1] == EmbeddedFashionMNIST.METAINFO['classes'][found]
    assert found == info['gt_label']


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """The first of the 400 scenes on which the detector was tested: a scene depends on its number alone."""
    folder = tmp_path_factory.mktemp('data')
    write_scenes(folder / 'fashion_scenes', 'test', 100)
    return folder


def test_the_recorded_ap_is_reproduced_on_the_first_scenes(tool, scenes, tmp_path):
    card = CARDS[DETECTOR]
    command = [card['config'], DETECTOR, '--data-root', str(scenes), '--work-dir', str(tmp_path)]
    metrics = tool('test').main([*command, '--cfg-options', 'test_dataloader.num_workers=0'])
    assert metrics['coco/bbox_mAP'] == pytest.approx(card['metrics']['coco/bbox_mAP'], abs=0.03)


@pytest.mark.filterwarnings('ignore:Failed to add')  # the inferencer's own: it has no folder to draw into
def test_a_detector_is_an_inferencer_and_predict_says_the_same(tool, scenes, tmp_path, capsys):
    from mmdet.apis import DetInferencer

    import mmcds.detection  # noqa: F401  (operators, before MMDetection is imported)

    files = [str(scenes / f'fashion_scenes/test/{number:06}.png') for number in range(3)]
    Path(tmp_path / 'cut.png').write_bytes(Path(files[0]).read_bytes()[:40])
    out = tmp_path / 'boxes.csv'
    rows = tool('predict').main([DETECTOR, *files, str(tmp_path / 'cut.png'), '--out', str(out), '--score', '0.5'])
    assert '1 of 4 images cannot be read' in capsys.readouterr().err
    found = DetInferencer(weights=zoo.find(DETECTOR), show_progress=False)(files)['predictions']
    for row, file, other in zip(rows, files, found, strict=True):
        kept = [index for index, score in enumerate(other['scores']) if score >= 0.5]
        assert row[0] == file
        assert row[1::3] == [CLASSES[other['labels'][index]] for index in kept]
        assert row[2::3] == pytest.approx([other['scores'][index] for index in kept], abs=1e-3)
        corners = [[float(value) for value in text.split()] for text in row[3::3]]
        assert np.ravel(corners) == pytest.approx(np.ravel([other['bboxes'][index] for index in kept]), abs=0.1)
    assert len(rows[0]) > 3, 'the first scene is not empty'
    header, *lines = csv.reader(out.open())
    assert header == ['image', 'class', 'score', 'left', 'top', 'right', 'bottom']
    assert [line[1] for line in lines] == [name for row in rows for name in row[1::3]]
    (best,) = tool('predict').main([DETECTOR, files[0], '--top', '1', '--score', '0'])
    assert best == rows[0][:4]
    (none,) = tool('predict').main([DETECTOR, files[0], '--score', '1.1'])
    assert none == files[:1]
    assert f'{files[0]}  nothing' in capsys.readouterr().out


def test_a_run_is_taken_in_with_what_it_was(tool, tmp_path):
    run, folder = tmp_path / 'run', tmp_path / 'zoo'
    folder.mkdir()
    with pytest.raises(ConfigError, match='names no checkpoint'):
        zoo.add(run, 'plain_resnet18w16_fashion', folder=folder)
    options = ['--seed', '3', '--work-dir', str(run), '--cfg-options', *few_images(8, 8, 10), 'train_cfg.max_epochs=1']
    runner = tool('train').main(['mmcds::plain/resnet18w16_fashion.py', *options])
    card = zoo.add(run, 'plain_resnet18w16_fashion', ['make scenes'], folder)
    assert card == json.loads((folder / 'plain_resnet18w16_fashion.json').read_text())
    assert (card['seed'], card['epoch'], card['config']) == (3, 1, 'mmcds::plain/resnet18w16_fashion.py')
    assert card['threads'] == torch.get_num_threads()
    assert card['accuracy'] == pytest.approx(runner.message_hub.get_scalar('val/accuracy/top1').current(), abs=1e-4)
    taken = torch.load(folder / 'plain_resnet18w16_fashion.pth', weights_only=True)['state_dict']
    assert all(torch.equal(value, taken[key]) for key, value in runner.model.state_dict().items())
    assert card['command'].startswith(
        'make scenes && python tools/train.py configs/plain/resnet18w16_fashion.py --seed'
    )
    (scalars,) = run.glob('*/vis_data/scalars.json')
    log = folder / 'plain_resnet18w16_fashion.jsonl'
    assert log.read_text() == scalars.read_text()
    scalars.write_text(scalars.read_text().splitlines(keepends=True)[0])
    with pytest.raises(ConfigError, match='has no validation of its last epoch'):
        zoo.add(run, 'plain_resnet18w16_fashion', folder=folder)


def test_names_of_no_network_and_paths_are_left_alone():
    for given in ('epoch_9.pth', '../zoo/cds_resnet18w16_fashion', 'cds_resnet50_in1k'):
        assert zoo.find(given) == given


def test_a_name_is_enough_for_an_export_a_probe_and_a_picture(tool, scenes, tmp_path, capsys):
    name = 'plain_resnet18w16_fashion'
    tool('export_backbone').main([name, str(tmp_path / 'backbone.pth')])
    taken = torch.load(tmp_path / 'backbone.pth', weights_only=True)['state_dict']
    state = torch.load(zoo.find(name), weights_only=True)['state_dict']
    assert all(torch.equal(value, state[f'backbone.{key}']) for key, value in taken.items())
    few = ['--images', '20', '--neighbours', '2', '--taps', '3', '--out', str(tmp_path / 'probe')]
    (network,) = tool('probe').main([CARDS[name]['config'], name, *few])
    assert torch.equal(network.model.head.fc.weight.cpu(), state['head.fc.weight'])
    command = [CARDS[DETECTOR]['config'], DETECTOR, '--data-root', str(scenes), '-n', '1']
    tool('draw_detections').main([*command, '--out', str(tmp_path / 'boxes.png')])
    assert '1 images, 0 detections' not in capsys.readouterr().out
    assert (tmp_path / 'boxes.png').stat().st_size > 1000

"""The networks that come with the package: what their cards say is so, offline."""

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
from mmcds.openmmlab import zoo
from mmcds.openmmlab.checkpoint import file_sha256
from mmcds.openmmlab.registration import ZOO

NAMES = sorted(zoo.cards())


def test_every_file_has_its_card_and_nothing_of_the_machine():
    assert (
        {path.stem for path in ZOO.glob('*.pth')}
        == set(NAMES)
        >= {
            'cds_resnet18w16_fashion',
            'plain_resnet18w16_fashion',
        }
    )
    for name, card in zoo.cards().items():
        file = Path(zoo.find(name))
        assert file_sha256(file) == card['sha256']
        assert file.stat().st_size < 4e6
        checkpoint = torch.load(file, weights_only=True)
        assert checkpoint.keys() == {'meta', 'state_dict'}
        text = checkpoint['meta']['cfg'] + json.dumps(card)
        assert not re.search(r"['\"]/\w", text), 'a path of the machine'


@pytest.mark.parametrize('name', NAMES)
def test_the_recorded_accuracy_is_reproduced(name, tool, tmp_path):
    card = zoo.cards()[name]
    metrics = tool('test').main([card['config'], name, '--work-dir', str(tmp_path)])
    assert metrics['accuracy/top1'] == pytest.approx(card['accuracy'], abs=0.051), 'one image of 2,000'


def test_a_name_is_enough_for_a_model_an_inferencer_and_predict(tool, tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise AssertionError('the network was asked')

    monkeypatch.setattr('socket.socket.connect', no_network)
    name, images = NAMES[0], EmbeddedFashionMNIST('test')
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


def test_a_run_is_taken_in_with_what_it_was(tool, tmp_path):
    run, folder = tmp_path / 'run', tmp_path / 'zoo'
    folder.mkdir()
    with pytest.raises(ConfigError, match='names no checkpoint'):
        zoo.add(run, 'plain_resnet18w16_fashion', folder)
    options = ['--seed', '3', '--work-dir', str(run), '--cfg-options', *few_images(8, 8, 10), 'train_cfg.max_epochs=1']
    runner = tool('train').main(['mmcds::plain/resnet18w16_fashion.py', *options])
    card = zoo.add(run, 'plain_resnet18w16_fashion', folder)
    assert card == json.loads((folder / 'plain_resnet18w16_fashion.json').read_text())
    assert (card['seed'], card['epoch'], card['config']) == (3, 1, 'mmcds::plain/resnet18w16_fashion.py')
    assert card['accuracy'] == pytest.approx(runner.message_hub.get_scalar('val/accuracy/top1').current(), abs=1e-4)
    taken = torch.load(folder / 'plain_resnet18w16_fashion.pth', weights_only=True)['state_dict']
    assert all(torch.equal(value, taken[key]) for key, value in runner.model.state_dict().items())


def test_names_of_no_network_and_paths_are_left_alone():
    for given in ('epoch_9.pth', '../zoo/cds_resnet18w16_fashion', 'cds_resnet50_in1k'):
        assert zoo.find(given) == given

"""A folder of images is all that a training needs, and the config that it leaves is an ordinary one."""

import re
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from conftest import build_on_meta
from mmengine.config import Config
from safetensors.torch import save_file

from mmcds.cli.check_config import check_config
from mmcds.cli.own_data import crop_size, find_parts, place, split, usual_epochs, write_config
from mmcds.core.errors import ConfigError
from mmcds.networks.timm_stages import timm_stages
from mmcds.resources import resources

CLASSES = {'blue': 0, "gr'een": 1, 'red ü': 2}
TINY = ['train_dataloader.num_workers=0', 'val_dataloader.num_workers=0', 'default_hooks.logger.interval=1']


def write_images(folder, classes=CLASSES, count=15, size=(40, 30)):
    """Images whose class is their colour."""
    for name, channel in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 60, (*size, 3), np.uint8)
            pixels[:, :, channel] += 150
            cv2.imwrite(str(folder / name / f'{number} x.png'), pixels)
    return folder


def arguments(folder, work_dir, **other):
    usual = dict.fromkeys(('unlabelled', 'model', 'pretrained', 'method', 'epochs'))
    return Namespace(**{**usual, **dict(data=folder, work_dir=work_dir, overwrite=False), **other})


def test_a_folder_is_trained_on_with_one_command_and_learned(tool, tmp_path, capsys):
    data = write_images(tmp_path / 'data')
    command = ['--data', str(data), '--work-dir', str(tmp_path / 'run'), '--epochs', '4']
    runner = tool('train').main(
        [
            *command,
            '--cfg-options',
            *TINY,
            'model.backbone.base_channels=8',
            'model.backbone.stem_channels=8',
            'model.head.in_channels=64',
        ]
    )
    said = capsys.readouterr().out
    assert '38 training and 7 validation images of 3 classes, crops of 32 pixels, 4 epochs of 2 steps' in said
    assert runner.model.head.num_classes == 3
    assert (tmp_path / 'run/backbone_epoch_4.pth').is_file()
    listed = (tmp_path / 'run/config/train.txt').read_text(encoding='utf-8').splitlines()
    assert len(listed) == 38
    assert all(re.fullmatch(r'(blue|gr\'een|red ü)/\d+ x\.png [012]', line) for line in listed)
    assert not set(listed) & set((tmp_path / 'run/config/val.txt').read_text(encoding='utf-8').splitlines())
    with pytest.raises(ConfigError, match='holds a run already'):
        tool('train').main([*command, '--cfg-options', *TINY])
    config = Config.fromfile(tmp_path / 'run/config/own.py')
    assert config.train_dataloader.dataset.classes == list(CLASSES)
    assert config.work_dir == str(tmp_path / 'run'), 'what is run with this config later goes there too'
    tool('browse_views').main([str(tmp_path / 'run/config/own.py'), '--out', str(tmp_path / 'views.png'), '-n', '50'])
    assert '38 images, 2 view(s) of 32 x 32 pixels' in capsys.readouterr().out, 'as many as there are'


@pytest.mark.parametrize('method', ['plain', 'dsn', 'cds'])
@pytest.mark.parametrize('model, size', [('resnet18', 40), ('resnet50', 300)])
def test_configs_are_ordinary_ones_that_fit_the_images(tmp_path, method, model, size):
    data = write_images(tmp_path / 'data', count=5, size=(size, size))
    args = arguments(str(data), str(tmp_path / 'run'), model=model, method=method)
    config = Config.fromfile(write_config(args))
    check_config(config)
    assert config.model.backbone.depth == int(model[6:])
    assert config.model.backbone.type == ('ResNet_CIFAR' if size == 40 else 'ResNet')
    assert list(config.model.get('supervisions') or {}) == ([] if method == 'plain' else [method])
    if method == 'cds':
        tuned = Config.fromfile(resources() / 'configs/cds/resnet50_in1k-tuned.py').model
        assert (config.model.ce_views, config.model.supervisions) == (tuned.ce_views, tuned.supervisions)
    assert config.size == (32 if size == 40 else 224)
    assert config.train_cfg.max_epochs == config.param_scheduler[1].end == 200
    assert config.val_evaluator.topk == (1,)
    build_on_meta(config.model)


@pytest.mark.parametrize(
    'train_name, other',
    [
        ('train', 'test'),
        ('Training', 'Testing'),
        ('Train', 'Test'),
        ('train', 'testing'),
        ('TRAIN', 'eval'),
        ('training', 'Evaluation'),
        ('train', 'dev'),
    ],
)
def test_given_splits_are_kept_however_they_are_called(tmp_path, train_name, other):
    for part, count in ((train_name, 6), (other, 4)):
        write_images(tmp_path / 'data' / part, count=count)
    names, train, val = find_parts(tmp_path / 'data')
    assert names == tuple(CLASSES)
    assert (len(train.images), len(val.images)) == (18, 12)
    assert (train.root.name, val.root.name) == (train_name, other)


def test_what_is_called_validation_goes_before_a_test(tmp_path):
    for part in ('train', 'Test', 'Validation'):
        write_images(tmp_path / 'data' / part, count=2)
    assert find_parts(tmp_path / 'data')[2].root.name == 'Validation'


def test_splits_of_unknown_names_are_not_taken_for_classes(tmp_path):
    for part in ('fold_1', 'train'):
        write_images(tmp_path / 'data' / part, count=3)
    with pytest.raises(ConfigError, match=r'fold_1, train hold no images but the same .*Rename them to train and'):
        find_parts(tmp_path / 'data')
    for name, sub_folders in (('one', {'images': 0}), ('several', {'left': 0, 'right': 1})):
        write_images(tmp_path / name / 'cat', sub_folders, count=2)
        write_images(tmp_path / name / 'dog', dict(list(sub_folders.items())[:1]), count=2)
        assert find_parts(tmp_path / name)[0] == ('cat', 'dog'), 'classes may have folders within'
    write_images(tmp_path / 'data', {'fold_1': 0}, count=1)  # an image beside the folders
    assert find_parts(tmp_path / 'data')[0] == ('fold_1', 'train')


def test_a_split_is_stratified_and_stays_when_images_are_added():
    some = {name: [f'{name}/{number}.png' for number in range(50)] for name in 'ab'}
    train, val = split(some)
    assert all(sorted(train[name] + val[name]) == sorted(some[name]) for name in 'ab')
    more = {name: [f'{name}/{number}.png' for number in range(2000)] for name in 'ab'}
    more_train, more_val = split(more)
    for name in 'ab':
        assert set(train[name]) <= set(more_train[name])
        assert set(val[name]) <= set(more_val[name])
        assert len(more_val[name]) == pytest.approx(400, abs=60), 'three standard deviations and more'


def test_every_class_has_an_image_on_either_side():
    classes = {f'c{number}': [f'c{number}/{image}' for image in 'xy'] for number in range(100)}
    train, val = split(classes)
    assert all(len(train[name]) == len(val[name]) == 1 for name in classes)
    reversed_order = {name: images[::-1] for name, images in classes.items()}
    assert split(reversed_order) == (train, val), 'by the names alone'


def test_sizes_and_epochs_are_chosen_by_the_images():
    assert [crop_size([side]) for side in (28, 32, 40, 41, 64, 100, 160, 161, 900)] == [
        32,
        32,
        32,
        64,
        64,
        128,
        128,
        224,
        224,
    ]
    assert [usual_epochs(images) for images in (10, 2_000, 2_001, 50_000, 1_300_000)] == [200, 200, 100, 60, 90]


def test_folders_that_do_not_fit_are_named_with_the_fix(tmp_path):
    work = str(tmp_path / 'run')
    with pytest.raises(ConfigError, match='nowhere is no folder'):
        write_config(arguments(str(tmp_path / 'nowhere'), work))
    (tmp_path / 'empty/a').mkdir(parents=True)
    with pytest.raises(ConfigError, match=r'holds 0 folder\(s\) with images'):
        write_config(arguments(str(tmp_path / 'empty'), work))
    one = write_images(tmp_path / 'one', {'blue': 0})
    with pytest.raises(ConfigError, match=r'holds 1 folder\(s\) with images'):
        write_config(arguments(str(one), work))
    few = write_images(tmp_path / 'few', count=1)
    with pytest.raises(ConfigError, match='class blue has one image'):
        write_config(arguments(str(few), work))
    other = tmp_path / 'other'
    write_images(other / 'train')
    write_images(other / 'val', {'blue': 0, 'yellow': 1})
    with pytest.raises(ConfigError, match=r"train/ and val/ differ in their classes, such as gr'een, red ü, yellow"):
        write_config(arguments(str(other), work))
    bad = write_images(tmp_path / 'bad')
    (bad / 'blue/3 x.png').write_bytes(b'no image')
    with pytest.raises(ConfigError, match=r'3 x\.png cannot be read as an image'):
        write_config(arguments(str(bad), work))
    assert not Path(work).exists()


def test_another_config_is_not_overwritten(tmp_path):
    data = write_images(tmp_path / 'data')
    first = write_config(arguments(str(data), str(tmp_path / 'run')))
    assert write_config(arguments(str(data), str(tmp_path / 'run'))) == first
    with pytest.raises(ConfigError, match=r'own\.py exists and says something else.*mmcds train'):
        write_config(arguments(str(data), str(tmp_path / 'run'), epochs=3))
    with pytest.raises(ConfigError, match='--epochs is 0'):
        write_config(arguments(str(data), str(tmp_path / 'new'), epochs=0))


def test_lists_change_freely_until_there_is_a_run_and_never_silently_then(tmp_path):
    data, work = write_images(tmp_path / 'data', count=70), tmp_path / 'run'

    def state():
        return {path.name: (path.read_text(), path.stat().st_mtime_ns) for path in (work / 'config').iterdir()}

    write_config(arguments(str(data), str(work), epochs=3))
    write_images(data, count=80)
    write_config(arguments(str(data), str(work), epochs=3))
    assert state()['train.txt'][0].count('\n') + state()['val.txt'][0].count('\n') == 240, 'no run was there'
    (work / 'epoch_1.pth').touch()
    assert write_config(arguments(str(data), str(work), epochs=3)), 'the same images'
    before = state()
    train = before['train.txt'][0].count('\n')
    write_images(data, count=90)
    _, now, _ = find_parts(data)
    words = rf'{len(now.images)} training images, the run there has {train}.*Choose another --work-dir'
    with pytest.raises(ConfigError, match=words) as found:
        write_config(arguments(str(data), str(work), epochs=3))
    assert 'config' not in str(found.value).split('Choose')[0], 'the config is the same'
    with pytest.raises(ConfigError, match=r'another config\. Choose another --work-dir, or .*own\.py.* --resume'):
        write_config(arguments(str(data), str(work), epochs=4))
    assert state() == before, 'nothing is written'
    write_config(arguments(str(data), str(work), epochs=3, overwrite=True))
    assert state()['train.txt'][0].count('\n') == len(now.images), 'that run is set aside'


def test_other_images_of_the_same_number_are_another_run_too(tmp_path):
    data, work = write_images(tmp_path / 'data', count=20), tmp_path / 'run'
    write_config(arguments(str(data), str(work)))
    (work / 'last_checkpoint').touch()
    name = (work / 'config/train.txt').read_text().splitlines()[0].rpartition(' ')[0]
    number = next(n for n in range(1000) if place(f'blue/new {n}.png') > 0.2)
    (data / name).rename(data / f'blue/new {number}.png')
    with pytest.raises(ConfigError, match=r'\d+ training images as the run there, but other ones\. Choose'):
        write_config(arguments(str(data), str(work)))


def test_a_run_of_another_config_is_not_joined(tmp_path):
    data, work = write_images(tmp_path / 'data', count=3), tmp_path / 'run'
    work.mkdir()
    (work / 'epoch_1.pth').touch()
    with pytest.raises(ConfigError, match=r'holds a run that --data did not begin\. Choose another --work-dir\.$'):
        write_config(arguments(str(data), str(work)))
    assert [path.name for path in work.iterdir()] == ['epoch_1.pth']


@pytest.mark.parametrize('given', [[], ['config.py', '--data', 'folder']])
def test_either_a_config_or_a_folder_is_needed(tool, given):
    with pytest.raises(ConfigError, match='either a config or --data FOLDER'):
        tool('train').main(given)


@pytest.mark.parametrize(
    'given',
    [
        ['--unlabelled', 'folder'],
        ['--pretrained'],
        ['--pretrained', 'net.pth'],
        ['--model', 'resnet18'],
        ['--method', 'cds'],
        ['--epochs', '0'],
    ],
)
def test_options_of_a_folder_are_refused_beside_a_config(tool, given):
    with pytest.raises(ConfigError, match=rf'{given[0]}: only for --data.*config\.py.* train_cfg\.max_epochs=N'):
        tool('train').main(['config.py', *given])


def test_the_options_have_the_defaults_that_the_help_names(tool, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tool('train').main(['--help'])
    said = ' '.join(capsys.readouterr().out.split())
    assert '(default: resnet18)' in said
    assert '(default: cds)' in said
    args = arguments(str(write_images(tmp_path / 'data', count=2)), str(tmp_path / 'run'))
    assert (args.model, args.method) == (None, None)
    config = Config.fromfile(write_config(args))
    assert (config.model.backbone.depth, list(config.model.supervisions)) == (18, ['cds'])


@pytest.mark.parametrize(
    'model, side, strides, optimizer',
    [
        ('resnet18', 64, [1, 2, 4, 8], 'SGD'),
        ('convnext-tiny', 128, [4, 8, 16], 'AdamW'),
        ('swin-tiny', 224, [4, 8, 16], 'AdamW'),
        ('vit-base', 224, [16, 16, 16], 'AdamW'),
        ('timm/test_convnext', 128, [4, 8, 16], 'AdamW'),
        ('timm/test_maxvit', 160, [4, 8, 16], 'SGD'),
        ('timm/levit_128.fb_dist_in1k', 224, [16, 32], 'SGD'),
    ],
)
def test_every_network_is_built_as_its_config_says(tmp_path, model, side, strides, optimizer):
    data = str(write_images(tmp_path / 'data', count=2, size=(70, 70)))
    for method in ('cds', 'dsn'):
        config = Config.fromfile(write_config(arguments(data, str(tmp_path / method), model=model, method=method)))
        check_config(config)
        network = build_on_meta(config.model)
        assert config.size == side
        assert config.optim_wrapper.optimizer.type == optimizer
        own = config.model.supervisions[method]
        forms = ('sepconv', 'sepconv') if optimizer == 'SGD' else ('mlp', 'pool')
        assert (own.neck.head if method == 'cds' else own.trunk) == forms[method == 'dsn']
        taps = network.measure().taps
        assert list(taps) == list(config.model.supervisions[method].taps)
        assert [tap.stride for tap in taps.values()] == (strides if method == 'cds' else strides[:3])
    with torch.no_grad():  # the head fits what is classified
        assert network(torch.zeros(2, 3, side, side, device='meta')).shape == (2, 3)


def test_a_network_of_timm_is_trained_from_its_weights_and_timm_reads_it_back(tool, tmp_path):
    data = write_images(tmp_path / 'data', count=4)
    start = timm.create_model('test_resnet', num_classes=7)
    save_file(start.state_dict(), tmp_path / 'start.safetensors')
    command = ['--data', str(data), '--model', 'timm/test_resnet', '--epochs', '1', '--cfg-options', *TINY]
    work = ['--work-dir', str(tmp_path / 'run'), '--pretrained', str(tmp_path / 'start.safetensors')]
    frozen = ['optim_wrapper.optimizer.lr=0', 'optim_wrapper.optimizer.weight_decay=0']
    runner = tool('train').main([*work, *command, *frozen])
    config = Config.fromfile(tmp_path / 'run/config/own.py')
    assert config.data_preprocessor.mean == pytest.approx([255 * m for m in start.pretrained_cfg['mean']], abs=1e-3)
    back = timm.create_model('test_resnet', num_classes=0)
    state = torch.load(tmp_path / 'run/backbone_epoch_1.pth', weights_only=True)['state_dict']
    back.load_state_dict(state)  # strict
    for key, value in back.named_parameters():
        assert torch.equal(value, start.state_dict()[key]), key
    # a run's own checkpoint is a start too, and one of another network is refused
    again = ['--work-dir', str(tmp_path / 'again'), '--pretrained', str(tmp_path / 'run/epoch_1.pth')]
    second = tool('train').main([*again, *command, *frozen])
    for key, value in second.model.backbone.named_parameters():
        assert torch.equal(value, start.state_dict()[key]), key
    other = ['--work-dir', str(tmp_path / 'other'), '--pretrained', str(tmp_path / 'run/epoch_1.pth')]
    with pytest.raises(ConfigError, match=r'gives TimmEfficientNet only \d+ of its \d+ convolutions'):
        tool('train').main([*other, '--data', str(data), '--model', 'timm/test_efficientnet', '--epochs', '1'])
    assert runner.model.backbone.out_indices == (1, 2, 3)


def test_weights_of_timm_are_asked_of_timm_and_kept_beside_the_config(tmp_path, monkeypatch):
    data = str(write_images(tmp_path / 'data', count=2))
    asked = []

    def hub(name, *args, **kwargs):
        asked.append(name)
        if 'vit' in name:
            raise OSError('no network')
        return timm.create_model('test_resnet').state_dict()

    monkeypatch.setattr('timm.models._builder.load_state_dict_from_hf', hub)
    given = arguments(data, str(tmp_path / 'run'), model='timm/test_resnet.r160_in1k', pretrained=True)
    config = Config.fromfile(write_config(given))
    assert asked == ['timm/test_resnet.r160_in1k']
    kept = torch.load(tmp_path / 'run/config/weights.pth', weights_only=True)['state_dict']
    assert kept.keys() == timm_stages('test_resnet').state_dict().keys()
    assert config.model.backbone.init_cfg == dict(
        type='Pretrained', checkpoint=str(tmp_path / 'run/config/weights.pth')
    )
    with pytest.raises(ConfigError, match=r'cannot load the weights of timm/test_vit.r160_in1k \(no network\)'):
        write_config(arguments(data, str(tmp_path / 'b'), model='timm/test_vit.r160_in1k', pretrained=True))
    with pytest.raises(ConfigError, match='resnet18 has no weights of its own'):
        write_config(arguments(data, str(tmp_path / 'b'), pretrained=True))
    with pytest.raises(ConfigError, match=r'--pretrained nowhere\.pth does not exist'):
        write_config(arguments(data, str(tmp_path / 'b'), pretrained='nowhere.pth'))
    with pytest.raises(ConfigError, match=r'--model resnet81 is unknown. Did you mean resnet18\?'):
        write_config(arguments(data, str(tmp_path / 'b'), model='resnet81'))
    assert not (tmp_path / 'b').exists()


def test_images_without_labels_are_contrasted_beside_the_others(tool, tmp_path, capsys):
    data = write_images(tmp_path / 'data', count=5)  # 11 to train on
    more = write_images(tmp_path / 'more', {'any/depth': 0}, count=9)
    command = ['--data', str(data), '--unlabelled', str(more), '--work-dir', str(tmp_path / 'run'), '--epochs', '1']
    small = ['model.backbone.base_channels=8', 'model.backbone.stem_channels=8', 'model.head.in_channels=64']
    runner = tool('train').main([*command, '--cfg-options', *TINY, *small])
    assert '11 training and 4 validation images of 3 classes and 9 without labels' in capsys.readouterr().out
    assert runner.iter == (11 + 9) // 5
    labels = runner.train_dataloader.dataset.get_gt_labels()
    assert [(labels == label).sum() for label in (-1, 0, 1, 2)] == [9, 3, 4, 4]
    for batch in runner.train_dataloader.batch_sampler:
        assert (len(batch), (labels[batch] < 0).sum()) == (5 + 2, 2)
    files = {runner.train_dataloader.dataset.get_data_info(index)['img_path'] for index in (labels < 0).nonzero()[0]}
    assert files == {str(path) for path in more.rglob('*.png')}


def test_unlabelled_folders_that_do_not_fit_are_named_with_the_fix(tmp_path):
    data, work = write_images(tmp_path / 'all/data'), str(tmp_path / 'run')
    (tmp_path / 'empty').mkdir()
    more = write_images(tmp_path / 'more', {'a': 0})
    for method in ('plain', 'dsn'):
        with pytest.raises(ConfigError, match=f'the method {method} has no use for images without labels'):
            write_config(arguments(str(data), work, unlabelled=str(more), method=method))
    for folder, words in (
        (data / 'blue', 'where every folder is a class'),
        (data, 'where every folder is a class'),
        (tmp_path / 'all', 'contains the labelled images'),
        (tmp_path / 'empty', 'holds no image'),
        (tmp_path / 'nowhere', 'is no folder'),
    ):
        with pytest.raises(ConfigError, match=words):
            write_config(arguments(str(data), work, unlabelled=str(folder)))
    assert not Path(work).exists()
    given = write_images(tmp_path / 'split/train'), write_images(tmp_path / 'split/val')
    beside = write_images(tmp_path / 'split/unlabelled', {'a': 0})
    assert write_config(arguments(str(given[0].parent), work, unlabelled=str(beside)))

"""tools/check_data.py: counts are those of the replica, what is broken or missing is named, and the status says it."""

import re
import shutil

import pytest
import replicas
from PIL import Image

from mmcds.core.errors import ConfigError

#: Images and classes of the replicas' training and test split; files that have no class of their own are left out.
REPLICA = dict(
    cub200=((200, 200), (200, 200)),
    cars=((196, 196), (196, 196)),
    flowers=((204, 102), (102, 102)),
    dogs=((120, 120), (120, 120)),
    aircraft=((200, 100), (100, 100)),
    fashion=((5000, 10), (2000, 10)),
)


@pytest.fixture
def check(tool, capsys):
    """A function that runs the tool and returns the exit status, the numbers of its table, and the lines below it."""

    def run(name, root, *options):
        status = 0
        try:
            tool('check_data').main([str(name), '--data-root', str(root), *options])
        except SystemExit as stop:
            status = stop.code
        said = capsys.readouterr().out
        rows = re.findall(r'^│ (\S+) +' + r'│ ([\d,]+|) +' * 6 + '│$', said, re.M)
        numbers = {row[0]: tuple(int(value.replace(',', '') or -1) for value in row[1:]) for row in rows}
        return status, numbers, said

    return run


@pytest.mark.parametrize('name', REPLICA)
def test_counts_are_those_of_the_replica(name, check, data_root):
    status, numbers, said = check(name, data_root, '--subset')
    assert status == 0, said
    assert [(images, classes) for images, _, classes, *_ in numbers.values()] == list(REPLICA[name])
    for images, _, classes, smallest, median, largest in numbers.values():
        assert smallest == median == largest == images // classes


@pytest.mark.parametrize('name', ['dogs', 'fashion'])
def test_fewer_images_than_the_official_set_are_a_fault_unless_allowed(name, check, data_root):
    status, _, said = check(name, data_root)
    assert (status == 0) == (name == 'fashion'), said
    assert ('train: 120 images, but the official set has 12,000' in said) == (name == 'dogs')


def test_cifar_and_imagenet_are_counted_by_class(check, data_root, any_checksum):
    status, numbers, said = check('cifar100', data_root)
    assert status == 1
    assert [row[0] for row in numbers.values()] == [20, 6]
    assert re.search(r'test: 9\d of 100 classes are empty', said)
    status, numbers, _ = check('in1k', data_root, '--subset', '--quick')
    assert status == 0
    assert numbers['train'] == (1000, 1281167, 1000, 1, 1, 1)


def test_a_broken_and_a_missing_image_are_named(check, tmp_path):
    replicas.write_dogs(tmp_path / 'stanford_dogs', train=3, test=1, classes=4)
    images = sorted((tmp_path / 'stanford_dogs/Images').glob('*/*.jpg'))
    images[1].write_bytes(b'<html>not found</html>')
    images[6].unlink()
    status, _, said = check('dogs', tmp_path, '--subset')
    assert status == 1
    assert set(said.splitlines()[-3:]) == {
        'missing or unreadable files: 2',
        f'    unreadable: {images[1]} (UnidentifiedImageError)',
        f'    missing: {images[6]}',
    }
    status, _, said = check('dogs', tmp_path, '--subset', '--quick')
    assert said.splitlines()[-2:] == ['missing or unreadable files: 1', f'    missing: {images[6]}']
    images[2].unlink()
    status, _, said = check('dogs', tmp_path, '--subset', '--show', '1')
    assert said.splitlines()[-1] == '    ... and 2 more; --show N names more of them'


def test_what_cannot_be_loaded_is_said_beside_the_layout(check, data_root, tmp_path):
    status, numbers, said = check('dogs', tmp_path)
    assert (status, numbers) == (1, {})
    assert f'Stanford Dogs, expected in {tmp_path}/stanford_dogs:\n    Images/nXXXXXXXX-Name/*.jpg' in said
    assert 'train cannot be loaded: StanfordDogs: ' in said
    shutil.copytree(data_root / 'flowers102', tmp_path / 'flowers102')
    (tmp_path / 'flowers102/setid.mat').write_bytes(b'nothing of use' * 20)
    status, _, said = check('flowers', tmp_path)
    assert status == 1
    assert 'trainval cannot be loaded: Can only read from Matlab level 5 MAT-files' in said
    assert check('coco', tmp_path)[0] == check('cifar10', tmp_path)[0] == 1


def test_a_label_beyond_the_classes_is_a_fault(check, tmp_path):
    replicas.write_cub(tmp_path / 'CUB_200_2011')
    table = tmp_path / 'CUB_200_2011/image_class_labels.txt'
    table.write_text(table.read_text().replace('\n1 1\n', '').replace('3 2\n', '3 201\n'))
    status, _, said = check('cub200', tmp_path, '--subset')
    assert status == 1
    assert 'train: labels [200] are not among the 200 classes' in said


def test_boxes_of_coco_are_counted_by_category(check, tmp_path):
    pytest.importorskip('mmdet')
    import mmcds.detection  # noqa: F401

    replicas.write_coco(tmp_path / 'coco')
    status, numbers, said = check('coco', tmp_path, '--subset')
    assert status == 0, said
    assert numbers['train2017'][0] == 4
    assert numbers['val2017'][:2] == (2, 5000)
    (tmp_path / 'coco/val2017/000000000002.jpg').unlink()
    assert f'missing: {tmp_path}/coco/val2017/000000000002.jpg' in check('coco', tmp_path, '--subset')[2]


def write_images(root, counts):
    for name, count in counts.items():
        for number in range(count):
            path = root / f'{name}/{number}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (8, 8), (number, 0, 0)).save(path)


def test_a_folder_of_ones_own_is_counted_as_it_will_be_split(check, tmp_path):
    write_images(tmp_path / 'photos', dict(cat=10, dog=5))
    status, numbers, said = check(tmp_path / 'photos', tmp_path)
    assert status == 0, said
    assert numbers == dict(train=(10, -1, 2, 4, 6, 6), val=(5, -1, 2, 1, 4, 4))
    (tmp_path / 'photos/dog/3.png').write_bytes(b'no image')
    (tmp_path / 'photos/cat/0.png').write_bytes(b'')
    status, _, said = check(tmp_path / 'photos', tmp_path)
    assert status == 1
    assert 'missing or unreadable files: 2' in said
    assert 'dog/3.png' in said


def test_a_config_is_looked_at_through_its_loaders(check, tmp_path):
    status, numbers, said = check('mmcds::semi/resnet18w16s_fashion.py', tmp_path)
    assert status == 0, said
    assert numbers == dict(train=(5000, -1, 10, 50, 50, 50), val=(2000, -1, 10, 200, 200, 200)), (
        'labels that are hidden'
    )
    write_images(tmp_path / 'set/train', dict(a=4, b=3))
    write_images(tmp_path / 'set/val', dict(a=2, b=2))
    config = tmp_path / 'own.py'
    loader = "dict(dataset=dict(type='CustomDataset', data_root='{}'))"
    lines = [f'{part}_dataloader = {loader.format(tmp_path / "set" / part)}' for part in ('train', 'val')]
    config.write_text('\n'.join([*lines, 'model = dict(head=dict(num_classes=3))']))
    status, numbers, said = check(config, tmp_path)
    assert status == 1
    assert numbers == dict(train=(7, -1, 2, 3, 4, 4), val=(4, -1, 2, 2, 2, 2))
    assert 'train: 1 of 3 classes are empty, such as [2]' in said


def test_what_is_none_of_these_is_named(check, tmp_path):
    with pytest.raises(ConfigError, match=r'imagnet is no folder.*The known ones are fashion'):
        check('imagnet', tmp_path)
    with pytest.raises(ConfigError, match='Did you mean flowers'):
        check('flower', tmp_path)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ConfigError, match='holds 0 folder'):
        check(tmp_path / 'empty', tmp_path)

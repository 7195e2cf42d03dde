"""Where a tool writes is looked at before it works, and names from outside are shown as they are."""

import pytest
from conftest import few_images
from matplotlib.figure import Figure

from mmcds.core.errors import ConfigError
from mmcds.data.fashion_scenes import SceneRecipe
from mmcds.evaluation.curves import plot_curves
from mmcds.evaluation.summary import markdown_cell, markdown_table, plain

CONFIG = 'mmcds::plain/resnet18w16_fashion.py'
#: Names that matplotlib, Markdown or HTML would take for something else.
NASTY = (r'$\frac{$', r'a|b<i>`c`[d](e)\|', '$x$ & $y', '{}', '%s', '_x_', '\\')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    from conftest import load_tool

    folder = tmp_path_factory.mktemp('outputs') / 'run'
    command = [CONFIG, '--work-dir', str(folder), '--cfg-options', *few_images(16, 8, 10), 'train_cfg.max_epochs=1']
    load_tool('train').main(command)
    return folder


#: What a tool needs, and an ending that its ``--out`` knows; none if that is a folder.
TOOLS = {
    'test': (['CONFIG', 'CHECKPOINT'], '.json'),
    'predict': (['CHECKPOINT', 'IMAGE'], '.csv'),
    'browse_views': (['CONFIG'], '.png'),
    'draw_detections': (['CONFIG', 'CHECKPOINT'], '.png'),
    'plot_curves': (['RUN'], '.png'),
    'compare_detection': (['RUN'], '.md'),
    'probe': (['CONFIG', 'CHECKPOINT'], None),
    'calibration': (['CONFIG', 'CHECKPOINT'], None),
    'make_fashion_scenes': ([], None),
    'scenes_transfer': ([], None),
}


@pytest.mark.parametrize('name', TOOLS)
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_read(name, tool, tmp_path, capsys):
    needs, ending = TOOLS[name]
    file = tmp_path / f'file{ending or ""}'
    file.write_text('mine')
    wrong = {tmp_path / 'table.foo': 'must end with', file / f'in{ending}': 'cannot be made'}
    if ending:
        folder = tmp_path / f'folder{ending}'
        folder.mkdir()
        wrong[folder] = 'is a folder; name a file'
    else:
        wrong = {file: 'cannot be made: File exists', file / 'deep': 'cannot be made: Not a directory'}
    for out, message in wrong.items():
        with pytest.raises(SystemExit) as caught:
            tool(name).main([*needs, '--out', str(out)])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err
    assert file.read_text() == 'mine'


@pytest.mark.parametrize(
    'name, out',
    [('export_backbone', 'x.pth'), ('export_model', 'x.onnx'), ('export_model', 'x.pt2'), ('export_model', 'x')],
)
def test_an_export_is_refused_before_the_checkpoint_is_read(name, out, tool, tmp_path, monkeypatch, capsys):
    (tmp_path / 'file').touch()
    with pytest.raises(SystemExit):
        tool(name).main(['nowhere.pth', str(tmp_path / 'file' / out)])
    assert 'cannot be made: ' in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r'nowhere\.pth does not exist'):
        tool(name).main(['nowhere.pth', str(tmp_path / 'new' / out)])
    monkeypatch.setattr('os.access', lambda *_: False)
    with pytest.raises(SystemExit):
        tool(name).main(['nowhere.pth', str(tmp_path / 'new' / out)])
    assert 'cannot be written to' in capsys.readouterr().err


@pytest.mark.parametrize('name', ['test', 'calibration', 'probe'])
def test_a_config_without_a_test_is_refused(name, tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match='the config of BYOL has no test_dataloader'):
        tool(name).main(['mmcds::byol/resnet50_in1k.py', 'plain_resnet18w16_fashion'])


def test_a_detector_has_no_views_to_show(tool, tmp_path):
    config = 'mmcds::detection/faster-rcnn_resnet18w16_scenes-cds.py'
    with pytest.raises(ConfigError, match=f'{config} describes a FasterRCNN without a data_preprocessor'):
        tool('browse_views').main([config, '--out', str(tmp_path / 'v.png')])


def test_a_folder_without_the_right_to_write_is_refused(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('os.access', lambda *_: False)  # a superuser may write everywhere
    with pytest.raises(SystemExit):
        tool('probe').main(['CONFIG', 'CHECKPOINT', '--out', str(tmp_path)])
    assert f'folder {tmp_path} cannot be written to' in capsys.readouterr().err


@pytest.mark.parametrize('option', ['--json', '--trace'])
def test_a_profile_is_written_where_it_can_be(option, tool, tmp_path, capsys):
    with pytest.raises(SystemExit):
        tool('profile_step').main([CONFIG, option, str(tmp_path / 'table.foo')])
    assert f'{tmp_path}/table.foo must end with .json' in capsys.readouterr().err


@pytest.mark.parametrize('option', [['--num-images', '0'], ['--num-images', '-1'], ['--num-images', 'x']])
def test_a_number_of_images_is_one(option, tool, capsys):
    with pytest.raises(SystemExit):
        tool('browse_views').main([CONFIG, *option])
    assert 'is no whole number from 1 on' in capsys.readouterr().err


@pytest.mark.parametrize(
    'command',
    [
        ['paper', 'run', 'table1', '--seeds', '0', 'SEED'],
        ['scenes_transfer', '--seeds', 'SEED'],
        ['probe', 'CONFIG', 'CHECKPOINT', '--seed', 'SEED'],
        ['browse_views', 'CONFIG', '--seed', 'SEED'],
        ['make_fashion_scenes', '--seed', 'SEED'],
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize('wrong', ['-1', '1.5', 'x', str(2**32)])
def test_a_seed_is_one_that_every_library_takes(command, wrong, tool, capsys):
    name, *rest = command
    with pytest.raises(SystemExit):
        tool(name).main([each if each != 'SEED' else wrong for each in rest])
    assert f'{wrong!r} is no whole number from 0 to 4294967295' in capsys.readouterr().err


def test_folders_are_made(run, tool, tmp_path):
    tool('plot_curves').main([str(run), '--out', str(tmp_path / 'a/b/curves.png')])
    tool('browse_views').main([CONFIG, '-n', '2', '--out', str(tmp_path / 'c/views.PDF')])
    assert (tmp_path / 'a/b/curves.png').stat().st_size > 1000
    assert (tmp_path / 'c/views.PDF').read_bytes().startswith(b'%PDF')


def test_a_metric_that_was_not_measured_is_not_drawn_as_nothing(run, tmp_path):
    with pytest.raises(ConfigError, match=r'has no zzz\. Choose one of accuracy/top1, accuracy/top5\.'):
        plot_curves(run, tmp_path / 'curves.png', 'zzz')


def test_scenes_have_a_size_that_ends():
    with pytest.raises(ConfigError, match='size is 100000 pixels; take at most 4096'):
        SceneRecipe(size=100_000)


@pytest.mark.parametrize('name', NASTY)
def test_any_name_can_be_drawn_and_is_what_is_seen(name, run, tool, tmp_path):
    text = Figure().text(0, 0, plain(name))
    shown, is_math = text._preprocess_math(text.get_text())
    assert (shown.lstrip(), is_math) == (name, False)
    checkpoint = str(run / 'epoch_1.pth')
    tool('plot_curves').main([str(run), '--out', str(tmp_path / 'c.png'), '--names', name, '--smooth', '0'])
    if name == NASTY[0]:  # the others are as quick or slow, and draw the same way
        few = ['--cfg-options', 'test_dataloader.dataset.indices=20', 'test_dataloader.num_workers=0']
        pair = [CONFIG, checkpoint, '--names', name, '--out', str(tmp_path / 'out')]
        tool('probe').main([*pair, '--images', '20', '--neighbours', '2'])
        tool('calibration').main([*pair, *few])
        for table in ('probe.md', 'calibration.md'):
            assert r'| $\\frac{$ |' in (tmp_path / 'out' / table).read_text()


def test_a_cell_of_markdown_holds_a_text_and_nothing_else():
    assert markdown_cell('resnet18_cifar10 ± 0.3 %') == 'resnet18_cifar10 ± 0.3 %'
    assert markdown_cell('a|b') == r'a\|b'
    assert markdown_cell('<script>&') == '&lt;script>&amp;'
    assert markdown_cell('[x](http://y)`z`') == r'\[x\](http://y)\`z\`'
    assert markdown_cell('two\nlines') == 'two lines'
    for name in NASTY:
        table = markdown_table(('name', 'n'), [(name, '1')]).splitlines()
        assert len(table) == 3
        columns = table[2].replace('\\\\', '').replace(r'\|', '').count('|')
        assert columns == 3, 'an escaped bar begins no column'

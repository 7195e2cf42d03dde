"""What a person sees of a training: short lines that add up; files have the rest."""

import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import few_images
from mmengine.logging import MMLogger

from mmcds.openmmlab.log import ROOM, WIDTH, ShortLogProcessor, shorten

LINE = re.compile(
    r'\d\d/\d\d [\d:]{8}  Epoch 1/1 \[(\d)/4\]  eta [\d:]+  \S+ s/step  lr (\S+)  '
    r'loss (\S+) = ce (\S+) \+ cds (\S+)(  waits for data \d+ %)?'
)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The terminal of a run, and the folder with its log."""
    import contextlib
    import io

    from conftest import load_tool

    folder = tmp_path_factory.mktemp('log')
    command = ['mmcds::cds/resnet18w16_fashion.py', '--work-dir', str(folder), '--cfg-options']
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.redirect_stderr(shown):
        load_tool('train').main([*command, *few_images(32, 8, 10), 'train_cfg.max_epochs=1'])
    (log,) = folder.glob('*/*.log')
    return shown.getvalue(), log


def test_the_first_step_comes_soon_in_lines_that_fit_and_add_up(run):
    shown, log = run
    lines = shown.splitlines()
    steps = [number for number, line in enumerate(lines) if ' Epoch 1/1 [' in line]
    assert len(steps) == 4
    assert steps[0] < 10
    for number, line in enumerate(lines[index] for index in steps):
        assert len(line) <= WIDTH
        step, _, total, first, second, _ = LINE.fullmatch(line).groups()
        assert int(step) == number + 1
        assert float(total) == pytest.approx(float(first) + float(second), abs=2e-4)
    assert str(log) in shown
    (validation,) = (line[16:] for line in lines if 'accuracy/top5' in line)
    assert re.fullmatch(r'Epoch 1/1  validation  accuracy/top1 [\d.]+  accuracy/top5 [\d.]+', validation)
    for text in ('System environment', 'Config:', 'Hooks will be executed', 'deprecated', 'SyncBatchNorm'):
        assert text not in shown, text


def test_the_files_have_everything(run):
    _, log = run
    text = log.read_text()
    for expected in ('System environment', 'PyTorch:', 'Config:\n', "type='CDSClassifier'", 'Hooks will be executed'):
        assert expected in text, expected
    records = [json.loads(line) for line in (log.parent / 'vis_data/scalars.json').read_text().splitlines()]
    assert {'cds.stage0.loss_contrast', 'cds.stage3.uniformity', 'loss_ce', 'data_time', 'lr'} <= set(records[0])
    line = next(line for line in text.splitlines() if ' Epoch 1/1 [1/4]' in line)
    terms = sum(value for name, value in records[0].items() if name.startswith('cds.') and 'loss' in name)
    assert f'cds {terms:.4f}' in line


def line_of(by_epoch=True, **tag):
    runner = SimpleNamespace(
        train_dataloader=range(312),
        max_epochs=60,
        max_iters=4000,
        epoch=0,
        iter=49,
        train_loop=SimpleNamespace(_iter=49),
        message_hub=SimpleNamespace(runtime_info={}),
        _train_loop=None,
    )
    processor = ShortLogProcessor(by_epoch=by_epoch)
    processor._get_epoch = lambda *_: 1
    processor._get_iter = lambda *_: 50
    return processor._line(runner, 49, tag)


def test_what_a_line_has():
    assert line_of(loss=1.5, loss_ce=1.5) == 'Epoch 1/60 [ 50/312]  loss 1.5000', 'one term is the total'
    assert line_of(by_epoch=False, loss=1.0) == 'Step [  50/4000]  loss 1.0000'
    assert line_of(time=0.5, data_time=0.049, lr=0.1) == 'Epoch 1/60 [ 50/312]  0.5 s/step  lr 0.1'
    slow = line_of(time=0.5, data_time=0.05, grad_norm=12.345, memory=2048)
    assert slow == 'Epoch 1/60 [ 50/312]  0.5 s/step  waits for data 10 %  gradient 12.3  2.0 GiB'
    detector = line_of(loss=1.0, loss_rpn_cls=0.25, loss_rpn_bbox=0.25, loss_cls=0.25, loss_bbox=0.25, acc=90.0)
    assert detector.endswith('loss 1.0000 = rpn_cls 0.2500 + rpn_bbox 0.2500 + cls 0.2500 + bbox 0.2500')


def test_a_line_with_too_many_terms_ends_at_the_width():
    line = line_of(loss=1.0, memory=2048, **{f'loss_of_a_long_name_{number}': 0.1 for number in range(9)})
    assert line == 'Epoch 1/60 [ 50/312]  loss 1.0000 = ' + ' + '.join(
        [*(f'of_a_long_name_{number} 0.1000' for number in range(2)), '...  2.0 GiB']
    )
    assert len(line) <= ROOM < len(line.replace('...', 'of_a_long_name_2 0.1000')), 'as many as fit, none cut'


def test_a_terminal_names_the_level_of_what_is_no_news(tmp_path, capsys):
    logger = MMLogger(name='levels', log_file=str(tmp_path / 'all.log'))
    shorten(logger)
    logger.info('news')
    logger.warning('careful')
    logger.info('Config:\nlong')
    logger.info('paramwise_options -- head.fc.bias:weight_decay=0.0')
    try:
        raise KeyError('lost')
    except KeyError:
        logger.exception('oh')
    logging.shutdown([])
    said = capsys.readouterr()
    lines = (said.out + said.err).splitlines()
    assert [line[16:] for line in lines[1:4]] == ['news', 'WARNING: careful', 'ERROR: oh']
    assert lines[-1] == "KeyError: 'lost'", 'with its traceback'
    assert 'all.log' in lines[0]
    text = Path(tmp_path / 'all.log').read_text()
    assert 'Config:\nlong' in text
    assert 'head.fc.bias' in text


def test_a_processor_of_a_user_stays(tool, tmp_path):
    config = tmp_path / 'own.py'
    config.write_text(
        "_base_ = 'mmcds::plain/resnet18w16_fashion.py'\n"
        "log_processor = dict(type='mmengine.LogProcessor', num_digits=2)\n"
    )
    options = ['--work-dir', str(tmp_path / 'run'), '--cfg-options', *few_images(8, 8, 8), 'train_cfg.max_epochs=1']
    runner = tool('train').main([str(config), *options])
    assert not isinstance(runner.log_processor, ShortLogProcessor)
    assert runner.log_processor.num_digits == 2

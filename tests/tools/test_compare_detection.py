"""The table of detectors: means and spreads of the runs that were named, and refusals of what cannot be averaged."""

import csv
import json

import pytest

from mmcds.core.errors import ConfigError


def write_run(folder, seed, aps, config='faster', kind='bbox', small=0.1):
    """What a run of MMDetection leaves: its config and its scalars."""
    data = folder / '20260101_000000' / 'vis_data'
    data.mkdir(parents=True)
    (folder / f'{config}.py').write_text(f'randomness = dict(seed={seed})\n')
    lines = [{'loss': 1.0, 'step': 1, 'epoch': 1}]
    for epoch, ap in enumerate(aps, 1):
        names = {'mAP': ap, 'mAP_50': 2 * ap, 'mAP_75': ap / 2, 'mAP_s': small, 'mAP_m': ap, 'mAP_l': ap}
        lines.append({**{f'coco/{kind}_{name}': value for name, value in names.items()}, 'step': epoch})
    (data / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    return folder


def rows(table):
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines()]


def test_runs_of_one_config_are_averaged_and_compared_with_the_first(tool, tmp_path, capsys):
    plain = [write_run(tmp_path / f'p{seed}', seed, [0.1, ap], 'plain') for seed, ap in enumerate((0.30, 0.34))]
    ours = write_run(tmp_path / 'c', 0, [0.1, 0.35], 'cds')
    table = tool('compare_detection').main([*map(str, plain), str(ours)])
    assert capsys.readouterr().out == table
    head, _, first, second = rows(table)
    assert head[4:] == ['AP', 'AP50', 'AP75', 'AP_S', 'AP_M', 'AP_L', 'AP - first']
    assert first[:6] == ['plain', '2', '0, 1', '2', '32.0 ± 2.8', '64.0 ± 5.7']  # 0.04 / sqrt(2) apart from the mean
    assert second == ['cds', '1', '0', '2', '35.0', '70.0', '17.5', '10.0', '35.0', '35.0', '+3.0']


def test_labels_files_and_the_best_epoch(tool, tmp_path):
    run = write_run(tmp_path / 'r', 7, [0.4, 0.3])
    arguments = [f'a=b={run}', '--best', '--out', str(tmp_path / 't.md'), '--csv', str(tmp_path / 't.csv')]
    table = tool('compare_detection').main(arguments)
    assert rows(table)[2][:5] == ['a=b', '1', '7', '1', '40.0']
    assert (tmp_path / 't.md').read_text(encoding='utf-8') == table
    header, line = csv.reader((tmp_path / 't.csv').open())
    assert dict(zip(header, line, strict=True)) == {
        'run': 'a=b',
        'work_dir': str(run),
        'seed': '7',
        'epoch': '1',
        'AP': '40.0',
        'AP50': '80.0',
        'AP75': '20.0',
        'AP_S': '10.0',
        'AP_M': '40.0',
        'AP_L': '40.0',
    }


def test_no_object_of_a_size_is_a_dash_and_masks_are_another_metric(tool, tmp_path):
    run = write_run(tmp_path / 'r', 0, [0.5], kind='segm', small=-1)
    assert rows(tool('compare_detection').main([str(run), '--metric', 'segm']))[2][7] == '-'
    with pytest.raises(ConfigError, match='holds no evaluation with coco/bbox_mAP'):
        tool('compare_detection').main([str(run)])


def test_runs_that_cannot_be_averaged_are_refused(tool, tmp_path):
    long, short = write_run(tmp_path / 'l', 0, [0.1, 0.2]), write_run(tmp_path / 's', 1, [0.1])
    with pytest.raises(ConfigError, match=r'faster: the last evaluations are of different epochs \(1, 2\).*--best'):
        tool('compare_detection').main([str(long), str(short)])
    with pytest.raises(ConfigError, match=r'was named twice for faster\. Name every run once'):
        tool('compare_detection').main([str(long), f'{long}/'])
    with pytest.raises(ConfigError, match='Name the work_dir of a training run'):
        tool('compare_detection').main([str(tmp_path / 'nowhere')])

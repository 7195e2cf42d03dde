"""The command-line tools: options arrive in the run, and every mistake gets one line that says what to do."""

import json
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import few_images

from mmcds.cli.launch import run_tool
from mmcds.core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / 'configs/cds/resnet18w16_fashion.py')
SMALL = ['--cfg-options', *few_images(16, 8, 20), 'train_cfg.max_epochs=1']


def train(tool, work_dir, *arguments, more=()):
    return tool('train').main([CONFIG, '--work-dir', str(work_dir), *arguments, *SMALL, *more])


def one_line(capsys, main) -> str:
    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    assert '\n' not in str(stop.value)
    return str(stop.value)


def test_amp_runs_the_network_in_bfloat16_and_keeps_float32_weights(tool, tmp_path):
    seen = []
    from mmcds.openmmlab import CDSClassifier

    outputs = CDSClassifier.outputs_of

    def listen(self, *args):
        found = outputs(self, *args)
        seen.append((found.logits.dtype, self.backbone.conv1.weight.dtype))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CDSClassifier, 'outputs_of', listen)
        half = train(tool, tmp_path / 'half', '--amp')
    assert set(seen) == {(torch.bfloat16, torch.float32)}
    full = train(tool, tmp_path / 'full')
    first, second = (runner.message_hub.get_scalar('train/loss').data[0][0] for runner in (half, full))
    assert first == pytest.approx(second, rel=0.02)


def test_fp16_scales_its_loss_and_needs_a_gpu(tool, tmp_path, monkeypatch):
    from mmcds.cli.launch import load_config

    module = tool('train')
    args = module.parse_args([CONFIG, '--work-dir', str(tmp_path), '--amp-dtype', 'fp16'])
    config = load_config(args)
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    with pytest.raises(ConfigError, match='--amp-dtype fp16 needs a GPU'):
        module.merge_train_arguments(config, args)
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    module.merge_train_arguments(config, args)
    wrapper = config.optim_wrapper
    assert (wrapper.type, wrapper.dtype, wrapper.loss_scale) == ('AmpOptimWrapper', 'float16', 'dynamic')


def first_losses(runner) -> list[float]:
    return runner.message_hub.get_scalar('train/loss').data[0].tolist()


@pytest.mark.parametrize(
    ('arguments', 'tolerance'),
    [
        (['--no-fused'], 1e-5),
        (['--memory-format', 'contiguous'], 1e-4),
        (['--recompute'], 1e-5),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else '',
)
def test_an_option_of_the_step_changes_no_loss_beyond_rounding(tool, tmp_path, arguments, tolerance):
    more = ['train_dataloader.dataset.indices=24', 'optim_wrapper.optimizer.lr=1e-3']
    default, other = (train(tool, tmp_path / name, *given, more=more) for name, given in (('a', []), ('b', arguments)))
    assert first_losses(other) == pytest.approx(first_losses(default), rel=tolerance)
    fused = [runner.optim_wrapper.optimizer.defaults['fused'] for runner in (default, other)]
    assert fused == [True, None if '--no-fused' in arguments else True]
    layout = [runner.model.channels_last for runner in (default, other)]
    assert layout == [True, 'contiguous' not in arguments]
    assert bool(other.model.recompute_stages) is ('--recompute' in arguments)


def test_compile_adds_its_hook_and_options_of_our_classifier_are_refused_for_others(tool):
    from mmcds.cli.launch import load_config, merge_step_arguments

    args = tool('train').parse_args([CONFIG, '--compile'])
    config = load_config(args)
    merge_step_arguments(config, args)
    assert config.custom_hooks[-1]['type'] == 'mmpretrain.CompileHook'
    config.model.type = 'ImageClassifier'
    for option in (['--recompute'], ['--memory-format', 'contiguous']):
        args = tool('train').parse_args([CONFIG, *option])
        with pytest.raises(ConfigError, match=f'{option[0]} is an option of CDSClassifier'):
            merge_step_arguments(config, args)


def test_options_of_several_processes_reach_their_wrapper(tool, monkeypatch):
    from mmcds.cli.launch import load_config, merge_step_arguments

    def merged(*options, launcher='pytorch', **changes):
        args = tool('train').parse_args([CONFIG, *options])
        config = load_config(args)
        config.update(launcher=launcher, **changes)
        merge_step_arguments(config, args)
        return config

    plain = merged()
    assert plain.model_wrapper_cfg == dict(
        broadcast_buffers=False, find_unused_parameters=False, gradient_as_bucket_view=True
    )
    assert merged('--static-graph').model_wrapper_cfg.static_graph
    assert merged('--compress-gradients').custom_hooks[-1].type == 'mmpretrain.GradientCompressionHook'
    assert 'model_wrapper_cfg' not in merged(launcher='none')
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    assert merged('--sync-bn').sync_bn == 'torch'
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    for options, changes, message in (
        (['--sync-bn'], {}, '--sync-bn needs GPUs'),
        (['--static-graph'], dict(launcher='none'), '--static-graph is for several processes'),
        (['--compress-gradients'], dict(model_wrapper_cfg=dict(type='MMFullyShardedDataParallel')), 'names MMFully'),
    ):
        with pytest.raises(ConfigError, match=message):
            merged(*options, **changes)


def test_the_profile_accounts_for_the_whole_step(tool, tmp_path):
    table = tool('profile_step').main(
        [
            CONFIG,
            '--steps',
            '2',
            '--warmup',
            '1',
            '--json',
            str(tmp_path / 'p.json'),
            *SMALL[:4],
            'train_cfg.max_epochs=1',
        ]
    )
    assert json.loads((tmp_path / 'p.json').read_text()) == table
    assert {'data wait', 'backbone', 'heads', 'losses', 'backward', 'optimiser'} <= set(table['parts'])
    assert 'teacher' not in table['parts']
    assert sum(table['parts'].values()) == pytest.approx(table['seconds'], rel=0.5)
    assert table['images'] == 8
    with pytest.raises(ConfigError, match='--steps is 0'):
        tool('profile_step').main([CONFIG, '--steps', '0'])


def test_the_profile_computes_colours_where_training_does(tool, monkeypatch):
    from mmcds.views.preprocessor import CDSDataPreprocessor

    seen, draws = [], CDSDataPreprocessor._draws

    def listen(self, *args):
        seen.append(draws(self, *args))
        return seen[-1]

    monkeypatch.setattr(CDSDataPreprocessor, '_draws', listen)
    tool('profile_step').main([CONFIG, '--steps', '1', '--warmup', '0', *SMALL[:4]])
    assert [[draw is not None for draw in step] for step in seen] == [[False, True]], 'view 1 alone has a colour'


def test_seed_decides_the_weights(tool, tmp_path):
    first, again, other = (
        train(tool, tmp_path / str(i), '--seed', seed).model.backbone.conv1.weight
        for i, seed in enumerate(('3', '3', '4'))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_auto_scale_lr_follows_the_batch(tool, tmp_path):
    runner = train(tool, tmp_path, '--auto-scale-lr', more=['param_scheduler=[]'])
    assert runner.optim_wrapper.param_groups[0]['lr'] == pytest.approx(0.1 * 8 / 64)


def test_another_batch_than_the_lr_was_chosen_for_is_reported(tool, tmp_path):
    train(tool, tmp_path)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'The total batch is 1 process(es) x 8 = 8 images, but the learning rate was chosen for 64' in log


def test_no_validate_leaves_validation_out(tool, tmp_path):
    runner = train(tool, tmp_path, '--no-validate')
    assert runner.val_loop is None
    assert (tmp_path / 'backbone_epoch_1.pth').exists()


def test_a_finished_run_is_not_overwritten_silently(tool, tmp_path):
    train(tool, tmp_path)
    before = (tmp_path / 'epoch_1.pth').read_bytes()
    with pytest.raises(ConfigError, match=r'holds a run already .* Go on with it by --resume, start anew by'):
        train(tool, tmp_path)
    assert (tmp_path / 'epoch_1.pth').read_bytes() == before
    train(tool, tmp_path, '--overwrite', '--seed', '5')
    assert (tmp_path / 'epoch_1.pth').read_bytes() != before


def test_test_tool_writes_the_metrics_that_training_saw(tool, tmp_path):
    runner = train(tool, tmp_path)
    seen = runner.message_hub.get_scalar('val/accuracy/top1').current()
    metrics = tool('test').main(
        [
            CONFIG,
            str(tmp_path / 'epoch_1.pth'),
            '--work-dir',
            str(tmp_path / 'test'),
            '--out',
            str(tmp_path / 'm.json'),
            '--cfg-options',
            'test_dataloader.dataset.indices=20',
        ]
    )
    assert json.loads((tmp_path / 'm.json').read_text()) == metrics
    assert metrics['accuracy/top1'] == pytest.approx(seen)


def test_the_views_are_drawn_as_they_reach_the_network(tool, tmp_path, capsys):
    from matplotlib.image import imread

    tool('browse_views').main([CONFIG, '--out', str(tmp_path / 'v.png'), '-n', '6'])
    assert '6 images, 2 view(s) of 28 x 28 pixels' in capsys.readouterr().out
    assert imread(tmp_path / 'v.png').std() > 0.1


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['configs/cds/resnet51_in1k.py'], r'config configs/cds/resnet51_in1k\.py does not exist'),
        ([CONFIG, '--resume', 'nowhere.pth'], r'--resume: nowhere\.pth does not exist'),
        ([CONFIG, '--auto-scale-lr', '--cfg-options', 'auto_scale_lr=None'], 'has no auto_scale_lr'),
        (
            [CONFIG, '--cfg-options', 'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=True'],
            r'persistent_workers=True needs num_workers >= 1, got 0',
        ),
        (
            [str(ROOT / 'configs/cds/resnet50_in1k.py'), '--data-root', '/no/such/folder'],
            r'data folder /no/such/folder/imagenet of QuickImageNet does not exist.*--data-root FOLDER',
        ),
        ([CONFIG, '--cfg-options', 'model.supervisions.cds.loss.temperature=0.'], 'temperature'),
    ],
)
def test_mistakes_of_training_get_one_line(tool, tmp_path, capsys, monkeypatch, arguments, message):
    import re

    monkeypatch.setenv('MMCDS_DATA_ROOT', str(tmp_path))
    said = one_line(
        capsys, lambda: tool('train').main([arguments[0], '--work-dir', str(tmp_path / 'w'), *arguments[1:]])
    )
    assert said.startswith('mmcds: error: ')
    assert re.search(message, said), said


def test_an_empty_data_folder_gets_one_line(tool, tmp_path, capsys):
    (tmp_path / 'imagenet').mkdir()
    arguments = [
        str(ROOT / 'configs/plain/resnet50_in1k.py'),
        '--data-root',
        str(tmp_path),
        '--work-dir',
        str(tmp_path / 'w'),
    ]
    assert 'is empty. Put the data there' in one_line(capsys, lambda: tool('train').main(arguments))
    (tmp_path / 'imagenet/train').mkdir()
    (tmp_path / 'imagenet/val').mkdir()
    said = one_line(capsys, lambda: tool('train').main(arguments))
    assert 'train has 0 class folders, but there are 1000 classes' in said
    assert '--data-root' in said


def test_a_truncated_data_file_gets_one_line(tool, tmp_path, capsys):
    from mmcds.data import embedded

    source = Path(embedded.__file__).parent / 'fashion_mnist'
    for path in source.glob('*ubyte'):
        (tmp_path / path.name).write_bytes(path.read_bytes()[:100_000])
    said = one_line(
        capsys, lambda: train(tool, tmp_path / 'w', more=[f'train_dataloader.dataset.data_root={tmp_path}'])
    )
    assert said.startswith(f'mmcds: error: EmbeddedFashionMNIST cannot be loaded from {tmp_path}: ')


def test_a_keyword_that_a_data_set_has_not_is_named_and_no_folder(tool, tmp_path, capsys):
    said = one_line(capsys, lambda: train(tool, tmp_path, more=['train_dataloader.dataset.folder=images']))
    assert said.startswith('mmcds: error: EmbeddedFashionMNIST: ')
    assert "unexpected keyword argument 'folder'. Leave it out, or correct its name." in said


def test_a_cell_of_the_paper_stands_for_a_config():
    from argparse import ArgumentParser

    from mmcds.cli.launch import add_common_arguments, load_config
    from mmcds.paper import cell, compose

    parser = ArgumentParser()
    add_common_arguments(parser)
    for name, scale in (('table3/resnet34_in1k/dsn', 'paper'), ('table8/mini_fashion/kd', 'mini')):
        config = load_config(parser.parse_args([f'paper::{name}']))
        assert config.pop('work_dir') == f'work_dirs/{name}'
        assert config.pop('launcher') == 'none'
        assert config.to_dict() == compose(cell(name, scale)).to_dict()


def test_a_training_that_diverged_gets_one_line():
    from mmcds.cli.launch import run_tool
    from mmcds.core.errors import DivergedError

    def diverge():
        raise DivergedError('the embeddings contain NaN')

    with pytest.raises(SystemExit, match=r'^mmcds: error: the embeddings contain NaN$'):
        run_tool(diverge)


def test_a_damaged_matlab_file_gets_one_line(tool, tmp_path, capsys):
    (tmp_path / 'stanford_cars').mkdir()
    (tmp_path / 'stanford_cars/cars_annos.mat').write_bytes(b'<html>not found</html>' * 20)
    config = 'paper::table5/resnet50_cars/plain'
    arguments = [config, '--data-root', str(tmp_path), '--work-dir', str(tmp_path / 'w')]
    said = one_line(capsys, lambda: tool('train').main(arguments))
    assert said.startswith(f'mmcds: error: StanfordCars cannot be loaded from {tmp_path}/stanford_cars: Can only read')


def test_an_error_of_the_program_keeps_its_traceback():
    def broken():
        raise ValueError('a fault of ours')

    with pytest.raises(ValueError, match='a fault of ours'):
        run_tool(broken)


def test_a_missing_download_gets_one_line(capsys):
    from urllib.error import URLError

    def offline():
        raise URLError('no network')

    assert 'cannot be downloaded (no network). Put the data there' in one_line(capsys, offline)


def test_split_and_test_mode_that_disagree_are_refused():
    from mmcds.data import EmbeddedFashionMNIST

    assert len(EmbeddedFashionMNIST(split='test')) == 2000
    with pytest.raises(ConfigError, match="split is 'train', but test_mode says the opposite"):
        EmbeddedFashionMNIST(split='train', test_mode=True)


def test_a_missing_checkpoint_is_named(tool, tmp_path):
    with pytest.raises(ConfigError, match=r'checkpoint nowhere\.pth does not exist'):
        tool('test').main([CONFIG, 'nowhere.pth', '--work-dir', str(tmp_path)])


def test_the_command_itself_ends_with_one_line_and_status_1(environment, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools/train.py'), 'nowhere.py'],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        'mmcds: error: config nowhere.py does not exist. Name a file such as configs/cds/resnet50_in1k.py.'
    )
    assert not list(tmp_path.iterdir())


def fake(folder, name):
    """A program that prints its arguments, in front of the real one."""
    (folder / name).write_text('#!/bin/sh\necho "$0" "$@"\n')
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    'script, arguments, variables, expected',
    [
        (
            'dist_train.sh',
            ['c.py', '8', '--amp'],
            {},
            'torchrun --standalone --nproc-per-node=8 TOOLS/train.py c.py --launcher pytorch --amp',
        ),
        (
            'dist_train.sh',
            ['c.py', '8'],
            dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='host', MASTER_PORT='123'),
            'torchrun --nnodes=2 --node-rank=1 --master-addr=host --master-port=123 --nproc-per-node=8 '
            'TOOLS/train.py c.py --launcher pytorch',
        ),
        (
            'dist_test.sh',
            ['c.py', 'm.pth', '4', '--out', 'm.json'],
            {},
            'torchrun --standalone --nproc-per-node=4 TOOLS/test.py c.py m.pth --launcher pytorch --out m.json',
        ),
        (
            'slurm_train.sh',
            ['gpu', 'job', 'c.py', '--amp'],
            dict(GPUS='16', SRUN_ARGS='--time=9 --exclusive'),
            'srun --partition=gpu --job-name=job --ntasks=16 --ntasks-per-node=8 --gres=gpu:8 --cpus-per-task=8 '
            '--kill-on-bad-exit=1 --time=9 --exclusive python -u TOOLS/train.py c.py --launcher slurm --amp',
        ),
    ],
)
def test_scripts_start_what_they_say(tmp_path, environment, script, arguments, variables, expected):
    fake(tmp_path, 'torchrun')
    fake(tmp_path, 'srun')
    clean = {k: v for k, v in environment.items() if k not in ('NNODES', 'MASTER_PORT', 'GPUS', 'GPUS_PER_NODE')}
    done = subprocess.run(
        ['bash', str(ROOT / 'tools' / script), *arguments],
        capture_output=True,
        text=True,
        env={**clean, **variables, 'PATH': f'{tmp_path}:{environment["PATH"]}'},
    )
    found = done.stdout.strip().replace(f'{tmp_path}/', '').replace(str(ROOT / 'tools'), 'TOOLS')
    assert found == expected
    missing = subprocess.run(['bash', str(ROOT / 'tools' / script)], capture_output=True, text=True, env=clean)
    assert missing.returncode != 0
    assert 'usage: ' in missing.stderr
    logging.getLogger().debug(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc' or torch.cuda.is_available(), reason='it does nothing there')
@pytest.mark.parametrize('environment, kept', [({}, True), ({'MALLOC_ARENA_MAX': '2'}, False)])
def test_memory_that_a_step_frees_is_used_again_unless_the_environment_configures_it(environment, kept):
    script = """
import resource, torch
from mmcds.cli.launch import keep_freed_memory
done = keep_freed_memory()
for step in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2**21) for _ in range(8)]  # 64 MiB, 16,384 pages of 4 KiB
    del tensors
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(('MALLOC_', 'GLIBC_'))}
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, env={**clean, **environment})
    answer, faults = done.stdout.split()
    assert answer == str(kept), done.stderr
    assert not kept or int(faults) < 100  # what malloc does by itself depends on what else lies in the heap

"""What the command-line tools share: load a config, merge options, check paths, report errors in one line."""

import ctypes
import gc
import io
import os
import platform
import re
import signal
import sys
import traceback
from argparse import Action, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torch.distributed
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.config.utils import ConfigParsingError
from mmengine.hub import get_config
from mmengine.registry.build_functions import build_from_cfg, build_scheduler_from_cfg
from rich.console import Console
from rich.table import Table

from mmcds.cli.check_config import check_config, check_options
from mmcds.core.errors import ConfigError, DivergedError
from mmcds.core.registry import Registry
from mmcds.openmmlab.colors import place_colors
from mmcds.openmmlab.hooks.stop import Stopped, receive_signals, received
from mmcds.openmmlab.runner import inner_dataset
from mmcds.openmmlab.untrusted import TRUST
from mmcds.openmmlab.work_dir import check_work_dir, make_folder
from mmcds.openmmlab.zoo import find

#: Environment variable that shows where errors come from which are otherwise told in one line.
TRACEBACK = 'MMCDS_TRACEBACK'
#: What the kernel sends a process when its parent dies, see prctl(2).
PR_SET_PDEATHSIG = 1
OPTIONS_HELP = (
    'override settings of the config, e.g. train_cfg.max_epochs=10 '
    'param_scheduler.0.milestones="[5,8]" model.supervisions.cds.loss.temperature=0.1'
)


def positive(text: str) -> int:
    """Read a whole number from 1 on, as the type of an option."""
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f'{text!r} is no whole number from 1 on')
    return int(text)


def seed_number(text: str) -> int:
    """Read a seed, as the type of an option."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise ArgumentTypeError(f'{text!r} is no whole number from 0 to {2**32 - 1}')
    return int(text)


#: What each launcher tells its processes.
LAUNCHERS = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'),
}
#: Functions that build objects from their settings.
BUILDERS = {build_from_cfg.__code__, build_scheduler_from_cfg.__code__, Registry.build.__code__}
PICTURES = ('.png', '.pdf', '.svg', '.jpg')


def output_file(*endings: str) -> Callable[[str], str]:
    """Return the type of an option that names a file to write; its folder is made at once, not after the work.

    Args:
        endings: Of which the name must have one.
    """

    def check(text: str) -> str:
        if not text.lower().endswith(endings):
            raise ArgumentTypeError(f'{text} must end with {" or ".join(endings)}')
        if Path(text).is_dir():
            raise ArgumentTypeError(f'{text} is a folder; name a file')
        return str(Path(output_folder(Path(text).parent), Path(text).name))

    return check


def output_folder(name: str | Path) -> str:
    """Make the folder that an option names, as its type, before any work is done for it."""
    fault = make_folder(name)
    if fault:
        raise ArgumentTypeError(f'folder {name} {fault}')
    return str(name)


class Options(DictAction):
    """Read ``KEY=VALUE`` options, and refuse what is none."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: Any = None) -> None:
        """Check the form, then let MMEngine read the values."""
        wrong = [value for value in values if '=' not in value or value.startswith('=')]
        if wrong:
            parser.error(f'{option_string}: {wrong[0]!r} is not KEY=VALUE')
        super().__call__(parser, namespace, values, option_string)


class _Trust(Action):
    """Set the environment variable that lets every checkpoint be read, for this process and those that it starts."""

    def __call__(self, *_: object) -> None:
        os.environ[TRUST] = '1'


def add_trust_argument(parser: ArgumentParser) -> None:
    """Add the option that reads checkpoints which could run code."""
    parser.add_argument(
        '--trust-checkpoint',
        action=_Trust,
        nargs=0,
        help='read checkpoints that could run code; for old files of a known origin',
    )


def add_common_arguments(parser: ArgumentParser, config_needed: bool = True) -> None:
    """Add the options that training and testing share."""
    parser.add_argument(
        'config',
        nargs=None if config_needed else '?',
        help='config file, mmcds::cds/resnet50_in1k.py, or a cell of the paper: paper::CELL',
    )
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: work_dirs/METHOD/CONFIG)')
    parser.add_argument('--data-root', help='folder that holds the data sets (default: $MMCDS_DATA_ROOT or data)')
    parser.add_argument('--cfg-options', nargs='+', action=Options, metavar='KEY=VALUE', help=OPTIONS_HELP)
    add_trust_argument(parser)
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='how several processes were started (default: none)',
    )
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help='set by the launcher')


def add_step_arguments(parser: ArgumentParser) -> None:
    """Add the options that change how a training step is computed, and not what comes out of it."""
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument('--amp-dtype', choices=('bf16', 'fp16'), help='its type (default: bf16); implies --amp')
    parser.add_argument(
        '--memory-format',
        choices=('channels_last', 'contiguous'),
        help='layout of images and weights (default: what the config says, otherwise channels_last)',
    )
    parser.add_argument('--compile', action='store_true', help='run the whole loss through torch.compile')
    parser.add_argument(
        '--cuda-graph', action='store_true', help='launch a step as one CUDA graph (one GPU, batches of one size)'
    )
    parser.add_argument('--no-fused', action='store_true', help='update weights tensor by tensor, not in one kernel')
    parser.add_argument(
        '--recompute', action='store_true', help='keep less for the backward pass: a third more time, less memory'
    )
    parser.add_argument(
        '--data-on-device',
        action='store_true',
        help='hold the training images on the GPU and cut the views there: small images, no RandomResizedCrop',
    )
    several = parser.add_argument_group('several processes')
    several.add_argument('--sync-bn', action='store_true', help='normalise with the statistics of all GPUs')
    several.add_argument(
        '--static-graph', action='store_true', help='trust that all steps use the same parameters in the same order'
    )
    several.add_argument(
        '--compress-gradients', action='store_true', help='average gradients in bfloat16, which halves what is sent'
    )


#: What makes several processes of one model.
WRAPPER = 'MMDistributedDataParallel'
#: Optimisers of PyTorch that have a fused kernel on CPU and GPU.
FUSED = ('SGD', 'Adam', 'AdamW', 'Adagrad')


def merge_step_arguments(config: Config, args: Namespace) -> None:
    """Write the options of :func:`add_step_arguments` into the config.

    Raises:
        ConfigError: If an option does not fit the model or the machine.
    """
    if args.amp or args.amp_dtype:
        if args.amp_dtype != 'fp16':
            config.optim_wrapper.type = 'mmpretrain.BF16OptimWrapper'
        elif torch.cuda.is_available():
            config.optim_wrapper.update(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')
        else:
            raise ConfigError(
                '--amp-dtype fp16 needs a GPU, and none is visible. Use --amp-dtype bf16, which needs none.'
            )
    optimiser = config.optim_wrapper.get('optimizer') or {}
    if args.no_fused:
        optimiser.pop('fused', None)
    elif optimiser.get('type') in FUSED and 'foreach' not in optimiser:
        optimiser.setdefault('fused', True)
    ours = str(config.model.get('type')).rpartition('.')[2] == 'CDSClassifier'
    for value, option in ((args.memory_format, '--memory-format'), (args.recompute, '--recompute')):
        if value and not ours:
            raise ConfigError(
                f'{option} is an option of CDSClassifier, but the model is {config.model.get("type")}. Leave it out.'
            )
    if ours and (args.memory_format or 'channels_last' not in config.model):
        config.model.channels_last = {'channels_last': True, 'contiguous': False, None: 'auto'}[args.memory_format]
    if args.recompute:
        config.model.recompute_stages = True
    if args.data_on_device:
        config.train_dataloader.on_device = True
    if args.compile:
        config.custom_hooks = [*config.get('custom_hooks', ()), dict(type='mmpretrain.CompileHook')]
    if args.cuda_graph:
        config.custom_hooks = [*config.get('custom_hooks', ()), dict(type='mmpretrain.CUDAGraphHook')]
    _merge_several(config, args)


def _merge_several(config: Config, args: Namespace) -> None:
    """Write the options of several processes into the config; gradients share the memory in which they are sent."""
    chosen = [name for name in ('sync_bn', 'static_graph', 'compress_gradients') if getattr(args, name)]
    if config.get('launcher', 'none') == 'none':
        if chosen:
            raise ConfigError(
                f'--{chosen[0].replace("_", "-")} is for several processes, but this is one. Start them by '
                'tools/dist_train.sh or tools/slurm_train.sh, or leave it out.'
            )
        return
    if args.sync_bn:
        if not torch.cuda.is_available():
            raise ConfigError("--sync-bn needs GPUs: PyTorch's SyncBatchNorm has no form for a CPU. Leave it out.")
        config.sync_bn = 'torch'
    if config.get('model_wrapper_cfg') is None:
        unused = config.get('find_unused_parameters', False)
        config.model_wrapper_cfg = dict(broadcast_buffers=False, find_unused_parameters=unused)
    wrapper = config.model_wrapper_cfg
    if wrapper.get('type', WRAPPER) == WRAPPER:
        wrapper.setdefault('gradient_as_bucket_view', True)
        if args.static_graph:
            wrapper.static_graph = True
    elif args.static_graph or args.compress_gradients:
        raise ConfigError(
            f'--{chosen[-1].replace("_", "-")} is an option of {WRAPPER}, but model_wrapper_cfg names '
            f'{wrapper["type"]}. Leave one of them out.'
        )
    if args.compress_gradients:
        config.custom_hooks = [*config.get('custom_hooks', ()), dict(type='mmpretrain.GradientCompressionHook')]


#: Parameters of glibc's mallopt: M_TRIM_THRESHOLD and M_MMAP_THRESHOLD, with the largest values that it takes.
MALLOC_OPTIONS = {-1: 2**31 - 1, -3: 2**25}


def keep_freed_memory() -> bool:
    """Let this process use freed memory again instead of handing it back to the system, when it trains on a CPU.

    A step frees and takes hundreds of megabytes, and every page that comes from the system is cleared first, which can
    be a tenth of a step. Nothing is changed where a GPU does the work, where the C library is not glibc, and where
    the environment configures its allocator (``MALLOC_...``, ``GLIBC_TUNABLES``).

    Returns:
        Whether it was set.
    """
    configured = any(name.startswith('MALLOC_') or name == 'GLIBC_TUNABLES' for name in os.environ)
    if configured or torch.cuda.is_available() or platform.libc_ver()[0] != 'glibc':
        return False
    libc = ctypes.CDLL(None)
    return all(libc.mallopt(option, value) == 1 for option, value in MALLOC_OPTIONS.items())


def read_config(name: str) -> Config:
    """Read a config file, that of an installed library (``mmcds::PATH``) or that of a cell (``paper::CELL``).

    Raises:
        ConfigError: If there is no such file or cell.
    """
    library, _, rest = name.rpartition('::')
    if library == 'paper':
        from mmcds.paper import cell, compose
        from mmcds.paper.tables import SMALL_SCALES

        small = (scale for scale, dataset in SMALL_SCALES.items() if re.search(rf'/mini\w*_{dataset}/', rest))
        return compose(cell(rest, next(small, 'paper')))
    if not library and not Path(name).is_file():
        raise ConfigError(f'config {name} does not exist. Name a file such as configs/cds/resnet50_in1k.py.')
    if not library and Path(name).suffix not in ('.py', '.json', '.yaml', '.yml'):
        raise ConfigError(f'{name} is no config: it ends with {Path(name).suffix!r} and not with .py.')
    try:
        config = get_config(name) if library else Config.fromfile(name)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError(f'config {name} is not Python: {error}.') from error
    except (
        KeyError,
        AssertionError,
        FileNotFoundError,
        ConfigParsingError,
        ValueError,
        NameError,
        TypeError,
    ) as error:
        reason = ' '.join(str(error.args[0] if isinstance(error, KeyError) else error).split())
        if library:
            reason = f'{library} has no config {rest}, or is not installed'
        raise ConfigError(f'config {name} cannot be read: {reason}.') from error
    if not config.get('model'):
        raise ConfigError(f'config {name} has no model, so it describes nothing to train or to test.')
    return config


def load_config(args: Namespace) -> Config:
    """Read the config of the common arguments and merge them into it.

    Raises:
        ConfigError: If the config file does not exist, or inherits from a library that is not installed.
    """
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.data_root is not None:
        os.environ['MMCDS_DATA_ROOT'] = args.data_root
    try:
        config = read_config(args.config)
    except ModuleNotFoundError as error:
        if 'mmdet is not installed' not in str(error):
            raise
        raise ConfigError(
            f'{args.config} needs MMDetection, which is not installed: pip install onedl-mmdetection (not mmdet).'
        ) from error
    lacking = [name for name in LAUNCHERS.get(args.launcher, ()) if name not in os.environ]
    if lacking:
        raise ConfigError(
            f'--launcher {args.launcher}: {lacking[0]} is not set, so nothing has started this process as one of '
            'several. Use tools/dist_train.sh or tools/slurm_train.sh, or leave --launcher out.'
        )
    config.launcher = args.launcher
    if args.cfg_options is not None:
        check_options(config, args.cfg_options)
        merge_options(config, args.cfg_options)
    check_config(config)
    if args.data_root is not None and not reads_below(config.to_dict(), args.data_root):
        print(f'mmcds: --data-root {args.data_root} changes nothing: the config reads no data below it.')
    if args.work_dir is not None:
        config.work_dir = args.work_dir
    elif config.get('work_dir') is None:
        library, _, name = args.config.rpartition('::')
        path = Path(name)
        folder = path if library == 'paper' else Path(path.parent.name, path.stem)
        config.work_dir = str('work_dirs' / folder)
    if args.launcher == 'pytorch' and not torch.cuda.is_available():
        use_cpu_processes(config)
    return config


def reads_below(value: Any, folder: str) -> bool:
    """Return whether a config names a path below a folder."""
    if isinstance(value, str):
        return f'{value}/'.startswith(f'{folder.rstrip("/")}/')
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return any(reads_below(each, folder) for each in inner)


def merge_options(config: Config, options: Mapping[str, Any]) -> None:
    """Write options of the command line into a config.

    Raises:
        ConfigError: Naming the option that leads into something which is neither a dict nor a list of dicts.
    """
    for name, value in options.items():
        try:
            config.merge_from_dict({name: value})
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f'--cfg-options {name}={value!r:.60} does not fit the config ({reason_of(error)}). Set the whole '
                'dict or list in a config of your own.'
            ) from error


def is_first_process() -> bool:
    """Return whether this is the process of rank 0, before any group of processes exists."""
    names = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')
    return int(next((os.environ[name] for name in names if name in os.environ), 0)) == 0


def use_cpu_processes(config: Config) -> None:
    """Let several processes of a machine without GPU work together through gloo; MMEngine expects GPUs."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    config.model_wrapper_cfg = dict(type=WRAPPER, device_ids=None, broadcast_buffers=False)


def check_data_root(config: Config, loaders: tuple[str, ...]) -> None:
    """Fail before anything is built if a data folder is missing or empty (and MMPretrain cannot download it).

    Raises:
        ConfigError: Naming the folder and how to say where the data is.
    """
    for loader in loaders:
        dataset = inner_dataset((config.get(loader) or {}).get('dataset', {}))
        root = dataset.get('data_root')
        if not root or '://' in root or dataset.get('download'):
            continue
        state = 'does not exist' if not Path(root).is_dir() else '' if any(Path(root).iterdir()) else 'is empty'
        if state:
            raise ConfigError(
                f'{loader}: the data folder {root} of {dataset.get("type")} {state}. Put the data there, or say '
                'where it is with --data-root FOLDER or MMCDS_DATA_ROOT=FOLDER, the folder that holds '
                f'{Path(root).name}/.'
            )


def set_loader_defaults(config: Config) -> None:
    """Give every loader the defaults that users of MMPretrain expect, and decide where colours are computed.

    Raises:
        ConfigError: If a loader wants persistent workers without any worker.
    """
    defaults: dict = {'pin_memory': torch.cuda.is_available(), 'persistent_workers': False}
    if config.get('default_scope', 'mmpretrain') == 'mmpretrain':
        defaults['collate_fn'] = dict(type='default_collate')  # images of one size; a detector's are collated later
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if config.get(name) is None:
            continue
        config[name] = ConfigDict({**defaults, **config[name]})
        if config[name].persistent_workers and not config[name].get('num_workers', 0):
            raise ConfigError(
                f'{name}: persistent_workers=True needs num_workers >= 1, got '
                f'{config[name].get("num_workers", 0)}. Change one of them.'
            )
    place_colors(config)


def check_has_test(config: Config) -> None:
    """Refuse a config that describes no test.

    Raises:
        ConfigError: Naming what is missing.
    """
    if config.get('test_dataloader') is None:
        raise ConfigError(
            f'the config of {config.model.get("type")} has no test_dataloader, so nothing can be tested. Name the '
            'config of a classifier or detector, or add test_dataloader, test_cfg and test_evaluator.'
        )


def prepare_testing(config: Config, checkpoint: str) -> None:
    """Make a config evaluate a checkpoint on its test set, and nothing else.

    Raises:
        ConfigError: If the config has no test, the checkpoint does not exist, the work dir cannot be written to, or
            the data folder is missing or empty.
    """
    check_has_test(config)
    checkpoint = find(checkpoint)
    if not Path(checkpoint).is_file():
        raise ConfigError(f'checkpoint {checkpoint} does not exist. Name a file such as work_dirs/NAME/epoch_90.pth.')
    check_work_dir(config.work_dir)
    config.load_from, config.resume = checkpoint, False
    config.train_dataloader = config.train_cfg = config.optim_wrapper = config.param_scheduler = None
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    set_loader_defaults(config)
    check_data_root(config, ('test_dataloader',))


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, 200 columns wide when stdout is not a terminal."""
    table = Table(title=title)
    for name in header:
        table.add_column(name, overflow='fold')  # names can be copied whole
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)


def run_tool(main: Callable[[], object]) -> None:
    """Run a tool; print an error that the user can repair, or a training that went wrong, as one line.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 end it with one line as well, and with the status 128 + number of the signal,
    which schedulers understand.
    """
    receive_signals()
    end_with_launcher()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # as stderr: names of files may be of any bytes
    try:
        main()
        leave_group()
    except (Stopped, Exception) as error:
        number = received()
        if number is None:
            if not os.environ.get(TRACEBACK):
                report_error(error)
            raise
        # what fails after a signal, such as a loading process that got it too, fails because of it
        name = signal.Signals(number).name
        print(
            f'mmcds: stopped by {name}. A training goes on when its command is given again with --resume.',
            file=sys.stderr,
        )
        sys.exit(128 + number)


def end_with_launcher() -> None:
    """Let the kernel end this process when torchrun, its parent, is killed; it would wait for the others for ever."""
    if 'TORCHELASTIC_RUN_ID' not in os.environ or sys.platform != 'linux':
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1 and b'torch' not in Path('/proc/1/cmdline').read_bytes():
        sys.exit('mmcds: torchrun has ended while this process started.')


def leave_group() -> None:
    """Wait for the other processes of a training, and end the group: none exits while another one needs it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # a wrapped model holds the group, and a process that exits with it can be aborted
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def report_error(error: BaseException) -> None:
    """End the process with one line if the error is one that a user can repair, or a training that went wrong."""
    if isinstance(error, ConfigError | DivergedError | FileNotFoundError):
        text, name = str(error), type(error).__name__
        if text.startswith('Caught '):  # a loading process puts its traceback before what it says
            text = text.rpartition(f'{name}: ')[2].strip()
        sys.exit(f'mmcds: error: {text}')
    if isinstance(error, URLError):
        sys.exit(
            f'mmcds: error: the data set is not in its folder and cannot be downloaded ({error.reason}). Put the data '
            'there, or say where it is with --data-root FOLDER or MMCDS_DATA_ROOT=FOLDER.'
        )
    for settings in being_built(error):
        sys.exit(
            f'mmcds: error: {in_words(settings)}: {reason_of(error)}. Correct the config; {TRACEBACK}=1 shows where '
            'this comes from.'
        )


def being_built(error: BaseException) -> list[Any]:
    """Return the settings of what a registry was building when an error came up; nothing if it built nothing then."""
    found = []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code in BUILDERS:
            found = [frame.f_locals.get('cfg', frame.f_locals.get('config'))]
    return found


def in_words(settings: Any) -> str:
    """Return which object cannot be built, and from what."""
    if not isinstance(settings, Mapping):
        return f'{settings!r:.80} describes no object'
    kind = settings.get('type', 'an object without a type')
    text = ', '.join(f'{key}={value!r:.60}' for key, value in settings.items() if key != 'type')
    return f'{getattr(kind, "__name__", kind)} cannot be built from {text or "nothing"}'


def reason_of(error: BaseException) -> str:
    """Return what an error says; an assertion without words says what it checks."""
    text = ' '.join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split()).rstrip('.')
    return text or f'{traceback.extract_tb(error.__traceback__)[-1].line} does not hold'

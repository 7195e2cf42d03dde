"""The folder of a run: whole files only, one training at a time, and the newest checkpoint that can be read.

A file is written under the name ``FILE.partial``, brought to the disk, and renamed; so a name stands for a whole file
at every moment, whatever kills the process. ``last_checkpoint`` names the checkpoint to go on from. If it is missing
or leads nowhere, the newest intact checkpoint in the folder takes its place.
"""

import os
import re
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mmcds.core.errors import ConfigError

if TYPE_CHECKING:
    from mmengine.runner import Runner

try:
    import fcntl
except ModuleNotFoundError:  # Windows has no lock of this kind
    fcntl = None  # type: ignore[assignment]

POINTER = 'last_checkpoint'
#: Names the step whose validation has ended, with everything that follows from it.
VALIDATED = '.validated'
LOCK = '.lock'
PARTIAL = '.partial'
#: Checkpoint within an epoch, with the number of epochs before it.
WITHIN = 'within_epoch_{}.pth'


def put_in_place(partial: Path, target: Path) -> None:
    """Bring a file that was written beside its place to the disk, and rename it."""
    for path in (partial, partial.parent):
        if path is not partial:
            partial.replace(target)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(folder: str | Path) -> str | None:
    """Make a folder that is to be written to, before any work is done for it; return what keeps it from that."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f'cannot be made: {error.strerror}'
    return None if os.access(folder, os.W_OK) else 'cannot be written to'


def check_work_dir(work_dir: str | Path) -> None:
    """Make the folder of a run, before any work is done for it.

    Raises:
        ConfigError: If there is a file in its place, or if it cannot be made or written to.
    """
    if Path(work_dir).is_file():
        raise ConfigError(f'--work-dir {work_dir} is a file. Name a folder.')
    fault = make_folder(work_dir)
    if fault:
        raise ConfigError(f'--work-dir {work_dir} {fault}. Name another folder.')


def write_whole(target: Path, text: str) -> None:
    """Write a text so that the name never stands for a part of it; names of files in it may be of any bytes."""
    partial = target.with_name(f'{target.name}.{os.getpid()}{PARTIAL}')
    partial.write_text(text, encoding='utf-8', errors='surrogateescape')
    put_in_place(partial, target)


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Let one process at a time change a file, and the others wait; the lock lies beside it, and stays there empty."""
    if fcntl is None:
        yield
        return
    with target.with_name(f'.{target.name}{LOCK}').open('a') as stream:
        fcntl.lockf(stream, fcntl.LOCK_EX)
        yield


def is_intact(path: Path) -> bool:
    """Return whether a checkpoint is a whole archive: its directory is there, and every checksum fits."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error):
        return False


def step_of(path: Path) -> int:
    """Return the number in ``[within_]epoch_12.pth``, ``iter_12.pth`` or ``best_..._epoch_12.pth``; -1 without one."""
    found = re.search(r'(?:epoch|iter)_(\d+)\.pth$', path.name)
    return int(found[1]) if found else -1


def config_copy(runner: 'Runner') -> Path:
    """Return where MMEngine writes the config of a run."""
    return Path(runner.work_dir, Path(runner.cfg.filename or f'{runner.timestamp}.py').name)


def named_checkpoint(work_dir: str | Path) -> str:
    """Return what ``last_checkpoint`` says, or nothing; a crash of the machine can leave it empty or full of zeros."""
    pointer = Path(work_dir, POINTER)
    return pointer.read_text(errors='replace').strip('\0 \n') if pointer.is_file() else ''


def checkpoints(work_dir: str | Path) -> list[Path]:
    """Return the training checkpoints of a folder, the one to go on from first, then the newest ones."""
    folder = Path(work_dir)
    found = [*folder.glob('epoch_*.pth'), *folder.glob('iter_*.pth'), *folder.glob(WITHIN.format('*'))]
    found.sort(key=lambda path: (step_of(path), path.name.startswith('within')), reverse=True)
    found = [path for path in found if step_of(path) >= 0]
    text = named_checkpoint(folder)
    named = [path for path in (Path(text), folder / Path(text).name) if text and path.is_file()][:1]
    return [*named, *(path for path in found if path.resolve() not in [each.resolve() for each in named])]


def latest_checkpoint(work_dir: str | Path) -> Path | None:
    """Return the checkpoint to go on from: the one that ``last_checkpoint`` names, or else the newest intact one.

    Where it is another one than ``last_checkpoint`` says, that file is mended and one line printed.

    Raises:
        ConfigError: If there are checkpoints and none of them is intact.
    """
    found = checkpoints(work_dir)
    pointer = Path(work_dir, POINTER)
    named = named_checkpoint(work_dir)
    intact = next((path for path in found if is_intact(path)), None)
    if intact is None:
        if found or named:
            raise ConfigError(
                f'{work_dir} holds no intact checkpoint: {", ".join(path.name for path in found) or named} cannot be '
                'read. Start anew by --overwrite, which sets what is there aside, or choose another --work-dir.'
            )
        return None
    if not named or intact.resolve() != Path(named).resolve():
        write_whole(pointer, str(intact))
        print(f'mmcds: {pointer} said {named or "nothing"!r}; the newest intact checkpoint is {intact.name}.')
    return intact


def set_aside(work_dir: str | Path) -> Path:
    """Move checkpoints, logs and results of a run into a folder of their own within its folder."""
    folder = Path(work_dir)
    aside = folder / time.strftime('before_%Y%m%d_%H%M%S')
    moved = [path.parent for path in folder.glob('*/vis_data')]
    for pattern in ('*.pth', '*.safetensors', '*.json', '*.png', '*.log', POINTER, VALIDATED, f'*{PARTIAL}'):
        moved += folder.glob(pattern)
    aside.mkdir()
    for path in moved:
        path.rename(aside / path.name)
    print(f'mmcds: what was in {folder} is in {aside} now.')
    return aside


@contextmanager
def only_training(work_dir: str | Path) -> Iterator[None]:
    """Let one training at a time write into a folder; the lock ends with its process, however that ends.

    Raises:
        ConfigError: If another process trains there, or if the folder cannot be made or written to.
    """
    check_work_dir(work_dir)
    if fcntl is None:
        yield
        return
    with Path(work_dir, LOCK).open('a+') as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            stream.seek(0)
            raise ConfigError(
                f'another training writes into {work_dir} (process {stream.read().strip() or "unknown"}). Wait for '
                'its end, stop it, or choose another --work-dir.'
            ) from error
        stream.truncate(0)
        stream.write(f'{os.getpid()} on {os.uname().nodename}')
        stream.flush()
        yield

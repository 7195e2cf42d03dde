"""The end of a pre-training run: export, curves, and a block that says where everything is."""

import datetime
import shlex
import sys
import time
from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS

from mmcds.command import COMMANDS
from mmcds.core.errors import ConfigError
from mmcds.evaluation.curves import plot_curves, read_scalars, to_percent
from mmcds.openmmlab.export import read_backbone, write_backbone
from mmcds.openmmlab.work_dir import config_copy, named_checkpoint
from mmcds.resources import resources


def command(name: str) -> str:
    """Return how a user starts another tool: by its path if this training was started so, else by ``mmcds``.

    A host's ``train.py`` has other tools beside it, so what it trained is tested by the command too.
    """
    started = Path(sys.argv[0])
    ours = started.name == 'train.py' and started.parent.resolve() == (resources() / 'tools').resolve()
    script = started.with_name(f'{COMMANDS[name][0]}.py')
    return f'python {shlex.quote(str(script))}' if ours else f'mmcds {name}'


@HOOKS.register_module()
class RunReportHook(Hook):
    """After training, export the last checkpoint's backbone, draw the curves and print where to find them.

    Args:
        metric: Validation metric that the report quotes, in percent, or a COCO metric, which is a fraction.
        export: Whether to export the backbone; a detector is the last in the chain.
    """

    priority = 'LOWEST'

    def __init__(self, metric: str = 'accuracy/top1', export: bool = True) -> None:
        self.metric, self.export = metric, export

    def before_train(self, runner: Runner) -> None:
        """Start the clock of this run."""
        self._start = time.time()

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Write the files and log the block."""
        work_dir = Path(runner.work_dir)
        named = named_checkpoint(work_dir)
        if not named:
            runner.logger.warning('RunReportHook: the run kept no checkpoint, so there is nothing to export.')
            return
        checkpoint = Path(named)
        backbone = work_dir / f'backbone_{checkpoint.stem}.pth'
        export = self.export and '://' not in named  # only a file is exported
        if export:
            state, manifest = read_backbone(checkpoint)
            for suffix in ('.pth', '.safetensors'):
                write_backbone(backbone.with_suffix(suffix), state, manifest)
        curves, scores = None, []
        try:
            curves = plot_curves(work_dir, work_dir / 'curves.png', self.metric)
            factor = to_percent(self.metric)
            scores = [(r[self.metric] * factor, r['epoch']) for r in read_scalars(work_dir)[1] if self.metric in r]
        except ConfigError as error:  # the run logs elsewhere only, such as to TensorBoard; that is no fault
            runner.logger.warning(f'RunReportHook: no curves are drawn. {error}')
        # The copy that MMEngine writes has the options of the command line, such as the folder of the data. A test
        # in the same folder would write over it.
        paths = (config_copy(runner), named, work_dir, work_dir / 'test')
        config, last, folder, test = (shlex.quote(str(path)) for path in paths)
        spent = datetime.timedelta(seconds=round(time.time() - self._start))
        lines = ['-' * 78, f'Finished {runner.experiment_name}: {runner.epoch} epochs, {spent} in this process.']
        if scores:
            best, epoch = max(scores)
            lines.append(
                f'  {self.metric:<18} {scores[-1][0]:.2f} % after the last epoch, {best:.2f} % at best (epoch {epoch})'
            )
        lines.append(f'  checkpoint         {named}')
        if export:
            lines.append(f'  exported backbone  {backbone} (also .safetensors; manifest .json)')
        lines += [
            f'  curves             {curves or "none"}',
            'What to run next:',
            f'  {command("test")} {config} {last} --work-dir {test}',
        ]
        if export:
            lines += [
                f'  {command("predict")} {last} IMAGE_OR_FOLDER',
                f'  {command("views")} {config} --out views.png',
                f'  {command("export-backbone")} {last} OUT.pth   (--help: torchvision, timm, EMA)',
                f'  {command("export")} {last} OUT.onnx   (or .pt2, or a folder for the Hugging Face Hub)',
            ]
        elif not self.export:
            lines.append(f'  {command("compare-detection")} {folder} OTHER_WORK_DIR ...   (AP of several runs)')
        runner.logger.info('\n'.join(['', *lines, '-' * 78]))

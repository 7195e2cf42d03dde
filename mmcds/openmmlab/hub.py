"""A trained classifier that takes pixels, and its form on the Hugging Face Hub: a folder that loads anywhere.

Whoever uses a classifier elsewhere should know neither its mean nor the order of its channels. So
:class:`PixelClassifier` takes RGB pixels from 0 to 255, and every export is made of it.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from mmcds.core.errors import ConfigError
from mmcds.evaluation.curves import read_scalars
from mmcds.openmmlab.checkpoint import check_finite, file_sha256, load_model, load_training_checkpoint
from mmcds.openmmlab.export import channel_order, select_weights, steps_of
from mmcds.openmmlab.runner import inner_dataset
from mmcds.openmmlab.work_dir import put_in_place, write_whole
from mmcds.version import __version__

WEIGHTS, CONFIG, CARD = 'model.safetensors', 'config.json', 'README.md'
#: Settings of a model that only its training needs.
TRAINING = ('supervisions', 'teacher', 'taps', 'ce_views', 'frozen', 'recompute_stages', 'pretrained', 'train_cfg')


class PixelClassifier(nn.Module):
    """A classifier of MMPretrain with its normalisation inside.

    Args:
        network: The classifier, without supervisions.
        info: What ``config.json`` says, see :func:`describe`.

    Raises:
        ConfigError: If the network pads its images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, info: dict[str, Any]) -> None:
        super().__init__()
        preprocessor: Any = network.data_preprocessor
        if preprocessor.pad_size_divisor > 1:
            raise ConfigError(
                f'data_preprocessor.pad_size_divisor is {preprocessor.pad_size_divisor}, but an exported '
                'classifier pads no images. Train without it.'
            )
        self.network, self.info = network, info
        for name, neutral in (('mean', 0.0), ('std', 1.0)):
            value = getattr(preprocessor, name, torch.full((1, 1, 1), neutral)).clone()
            self.register_buffer(name, value, persistent=False)
        self.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        return tuple(self.info['id2label'][str(number)] for number in range(self.info['num_classes']))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits (N, K) of RGB images (N, 3, H, W), uint8 or float, from 0 to 255."""
        if self.info['channel_order_of_network'] == 'bgr':
            pixels = pixels.flip(1)
        return self.network((pixels.float() - self.mean) / self.std, mode='tensor')


def class_names(meta: Any, count: int) -> tuple[str, ...]:
    """Return the names that the training data had, or numbers where it had none.

    Args:
        meta: ``dataset_meta`` of a checkpoint or of a model.
        count: K, the number of classes.
    """
    names = tuple((meta.get('classes') if isinstance(meta, Mapping) else None) or ())
    return names if len(names) == count else tuple(map(str, range(count)))


def image_size(config: Config) -> tuple[int, int] | None:
    """Return height and width of the images that a config tests on; where its test changes none, trains on."""
    for name in ('test_dataloader', 'train_dataloader'):
        pipeline = inner_dataset((config.get(name) or {}).get('dataset', {})).get('pipeline', ())
        for step in reversed(list(steps_of(pipeline))):
            size = step.get('crop_size')
            kind = str(step.get('type')).split('.')[-1]
            if size is None and kind in ('Resize', 'RandomResizedCrop'):
                size = step.get('scale')
                if kind == 'Resize' and isinstance(size, list | tuple):  # of MMCV: width, height
                    size = size[::-1]
            if size is not None:
                height, width = (size, size) if isinstance(size, int) else size
                return height, width
    return None


def describe(config: Config, classes: Sequence[str], size: tuple[int, int] | None, source: str) -> dict[str, Any]:
    """Return all that is known of a classifier beside its weights, as plain data.

    Args:
        config: Of its training.
        classes: Their names.
        size: Height and width of its images; None looks into the config.
        source: Where it comes from, for messages.

    Raises:
        ConfigError: If it is no classifier, or nothing says how large its images are.
    """
    head, size = config.model.get('head') or {}, size or image_size(config)
    if not head.get('num_classes'):
        raise ConfigError(f'{source} is a {config.model.get("type")} that gives no classes. Name a classifier.')
    if size is None:
        raise ConfigError(f'{source} does not say how large its images are. Say it with size (--size PIXELS).')
    preprocessor = config.model.get('data_preprocessor') or config.get('data_preprocessor') or {}
    model = {key: value for key, value in config.model.to_dict().items() if key not in TRAINING}
    test, train = (
        inner_dataset((config.get(f'{name}_dataloader') or {}).get('dataset', {})) for name in ('test', 'train')
    )
    preparation = [
        step
        for step in test.get('pipeline', ())
        if not str(step.get('type')).split('.')[-1].startswith(('Load', 'Pack'))
    ]
    information = dict(
        architectures=[model['type']],
        model_type='mmcds',
        mmcds_version=__version__,
        num_classes=head['num_classes'],
        id2label=dict(enumerate(classes)),
        label2id={name: number for number, name in enumerate(classes)},
        image_size=list(size),
        image_mean=preprocessor.get('mean'),
        image_std=preprocessor.get('std'),
        channel_order_of_network=channel_order(config),
        preparation=preparation,
        training=dict(
            data=train.get('type'),
            epochs=(config.get('train_cfg') or {}).get('max_epochs'),
            supervisions={
                name: value['type'] for name, value in (config.model.get('supervisions') or {}).items() if value
            },
        ),
        model=_without_init({**model, 'data_preprocessor': dict(preprocessor)}),
    )
    return json.loads(json.dumps(information))  # as it will be read


def _without_init(value: Any) -> Any:
    """Drop ``init_cfg`` at any depth: the weights are there, and it may name a file of another machine."""
    if isinstance(value, Mapping):
        return {key: _without_init(each) for key, each in value.items() if key != 'init_cfg'}
    return [_without_init(each) for each in value] if isinstance(value, list | tuple) else value


def _build(info: dict[str, Any], state: dict[str, Tensor], source: str) -> PixelClassifier:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return PixelClassifier(load_model(Config(dict(model=info['model'])), state, source).cpu(), info)


def load_classifier(
    checkpoint: str | Path, *, ema: bool = True, size: tuple[int, int] | None = None
) -> PixelClassifier:
    """Build the classifier of a checkpoint.

    Args:
        checkpoint: Of a training run.
        ema: Averaged weights where the run kept them; False takes the raw ones.
        size: Height and width of its images, where its config does not say it.

    Raises:
        ConfigError: If the checkpoint cannot be read or holds no classifier, or nothing says how large its images
            are.
    """
    path = Path(checkpoint)
    loaded, config = load_training_checkpoint(path)
    meta = loaded['meta']
    classes = class_names(meta.get('dataset_meta'), (config.model.get('head') or {}).get('num_classes', 0))
    info = describe(config, classes, size, path.name)
    state = select_weights(loaded, ema)
    check_finite(state, path, 'tensors')
    raw = not ema and 'ema_state_dict' in loaded
    info['source'] = dict(
        file=path.name,
        sha256=file_sha256(path),
        epoch=meta.get('epoch'),
        experiment=meta.get('experiment_name'),
        weights='ema' if ema and 'ema_state_dict' in loaded else 'raw',
    )
    info['metrics'] = {} if raw else meta.get('metrics') or _metrics(path.parent, meta.get('epoch'))  # not of raw ones
    return _build(info, state, str(path))


def _metrics(folder: Path, epoch: int | None) -> dict[str, float]:
    """Return the validation of an epoch from the log beside a checkpoint; nothing if there is none."""
    if not any(folder.glob('*/vis_data/scalars.json')):
        return {}
    found = [record for record in read_scalars(folder)[1] if record['epoch'] == epoch]
    return {key: value for record in found for key, value in record.items() if '/' in key}


def classifier_of(model: nn.Module) -> PixelClassifier:
    """Return a model as a :class:`PixelClassifier`, with weights of its own.

    Args:
        model: One, or a classifier of ``mmpretrain.get_model``, which knows its config.

    Raises:
        ConfigError: If it is something else.
    """
    if isinstance(model, PixelClassifier):
        return model
    config, head = getattr(model, '_config', None), getattr(model, 'head', None)
    if config is None:
        raise ConfigError(
            f'a {type(model).__name__} does not know its config. Take load_classifier(CHECKPOINT), or a model of '
            'mmpretrain.get_model.'
        )
    classes = class_names(getattr(model, '_dataset_meta', None), getattr(head, 'num_classes', 0))
    info = describe(config, classes, None, 'the model')
    return _build(info, {key: value.detach().cpu() for key, value in model.state_dict().items()}, 'the model')


def save_pretrained(
    model: nn.Module, folder: str | Path, *, licence: str | None = None, overwrite: bool = False
) -> Path:
    """Write weights, ``config.json`` and a model card into a folder.

    Args:
        model: See :func:`classifier_of`.
        folder: To write into.
        licence: Of the weights, by its name on the Hub, such as ``apache-2.0``.
        overwrite: Replace files that exist.

    Returns:
        The folder.

    Raises:
        ConfigError: If one of the files exists, or the model is no classifier that knows its config.
    """
    folder = Path(folder)
    if licence is not None and not re.fullmatch(r'[A-Za-z0-9.-]+', licence):
        raise ConfigError(f'licence is {licence!r}; give its name on the Hub, such as apache-2.0 or cc-by-4.0.')
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f'{folder} is a file. Name a folder.')
    for name in (WEIGHTS, CONFIG, CARD):
        if (folder / name).exists() and not overwrite:
            raise ConfigError(f'{folder / name} exists. Choose another folder, or overwrite it (--overwrite).')
    classifier = classifier_of(model)
    state = {key: value.detach().cpu().contiguous() for key, value in classifier.network.state_dict().items()}
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f'.{WEIGHTS}.partial'
    partial.write_bytes(save(state, metadata={'format': 'pt'}))
    put_in_place(partial, folder / WEIGHTS)
    write_whole(folder / CARD, model_card(classifier.info, licence))
    write_whole(folder / CONFIG, json.dumps(classifier.info, indent=2) + '\n')
    return folder


def from_pretrained(folder: str | Path) -> PixelClassifier:
    """Load what :func:`save_pretrained` wrote; its logits are the same to the last bit.

    Args:
        folder: A local one. Nothing is downloaded, and nothing in it is executed.

    Raises:
        ConfigError: If a file is missing, damaged, or from something else.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ConfigError(f'{folder} has no {name}. Name a folder that save_pretrained wrote.')
    try:
        info = json.loads((folder / CONFIG).read_text())
        state = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        reason = ' '.join(str(error).split())[:120]
        raise ConfigError(f'{folder} is damaged: {reason}. Take an intact copy.') from error
    wanted = {'model', 'num_classes', 'id2label', 'image_size', 'channel_order_of_network'}
    if not isinstance(info, dict) or info.get('model_type') != 'mmcds' or not wanted <= info.keys():
        raise ConfigError(f'{folder / CONFIG} describes no model of mmcds. Name a folder of save_pretrained.')
    return _build(info, state, str(folder / WEIGHTS))


def model_card(info: Mapping[str, Any], licence: str | None = None) -> str:
    """Return the model card: data, method, metrics, licence and use, as far as they are known."""
    training, source = info['training'], info.get('source') or {}
    backbone, (height, width) = info['model']['backbone'], info['image_size']
    size = backbone.get('depth') or backbone.get('arch') or ''
    network = f'{str(backbone["type"]).split(".")[-1]}{f" ({size})" if size else ""}'
    methods = [f'`{kind}`' for kind in training['supervisions'].values()]
    header = ['library_name: mmcds', 'pipeline_tag: image-classification', 'tags: [image-classification, mmcds]']
    header += [f'license: {licence}'] if licence else []
    names = list(info['label2id'])
    shown = ', '.join(names[:10]) + (f', ... ({len(names)} in all)' if len(names) > 10 else '')
    metrics = info.get('metrics') or {}
    rows = ['| metric of the validation | value |', '| --- | --- |']
    rows += [f'| {name} | {value:.4g} |' for name, value in metrics.items()]
    example = f'batch = torch.randint(256, (2, 3, {height}, {width}), dtype=torch.uint8)'
    return '\n'.join(
        [
            '---',
            *header,
            '---',
            '',
            f'# {network}, {info["num_classes"]} classes',
            '',
            f'- Data: `{training["data"]}`. Classes: {shown}.',
            f'- Method: cross-entropy{" with " + ", ".join(methods) if methods else " alone"}, mmcds '
            f'{info["mmcds_version"]}, epoch {source.get("epoch", "unknown")} of {training["epochs"]}. What '
            'only the training needs is not in the weights.',
            f'- Input: RGB, {height} x {width} pixels, 0 to 255; the normalisation is inside. Images are '
            f'prepared by {_preparation(info["preparation"])}.',
            f'- Licence: {licence or "not stated"}. The terms of the data apply too. mmcds itself: Apache-2.0.',
            '',
            *(rows if metrics else ['No metrics: the log of the training was not beside its checkpoint.']),
            '',
            '```python',
            'import torch',
            'from mmcds.openmmlab.hub import from_pretrained',
            '',
            "model = from_pretrained('FOLDER')  # this folder",
            f'{example}  # RGB',
            'with torch.no_grad():',
            '    names = [model.classes[number] for number in model(batch).argmax(1).tolist()]',
            '```',
            '',
        ]
    )


def _preparation(steps: Sequence[Mapping[str, Any]]) -> str:
    """Return the transforms of the test as words."""
    words = []
    for step in steps:
        settings = ', '.join(f'{key}={value!r}' for key, value in step.items() if key != 'type')
        words.append(f'`{step["type"]}({settings})`')
    return ', '.join(words) or 'nothing but decoding'

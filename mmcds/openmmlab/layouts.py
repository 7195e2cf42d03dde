"""The layouts of torchvision and timm: what they call the networks of MMPretrain, and the tensors in them."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcds.core.errors import ConfigError

#: How the name of a tensor changes: patterns and what takes their place, one after the other. ``{n}`` is the first
#: number of a match and ``{m}`` the second; ``{even}`` is 2 n, ``{odd}`` 2 n + 1,
#: ``{after}`` n + 1, ``{after_odd}`` 2 n + 2.
RULES: dict[tuple[str, str], dict[str, str]] = {
    ('ConvNeXt', 'torchvision'): {
        r'^downsample_layers\.(\d+)': 'features.{even}',
        r'^stages\.(\d+)': 'features.{odd}',
        r'\.gamma$': '.layer_scale',
        r'\.depthwise_conv\.': '.block.0.',
        r'\.norm\.': '.block.2.',
        r'\.pointwise_conv1\.': '.block.3.',
        r'\.pointwise_conv2\.': '.block.5.',
        r'^norm3\.': 'classifier.0.',
        r'^fc\.': 'classifier.2.',
    },
    ('ConvNeXt', 'timm'): {
        r'^stages\.(\d+)\.(\d+)': 'stages.{n}.blocks.{m}',
        r'^downsample_layers\.0': 'stem',
        r'^downsample_layers\.(\d+)': 'stages.{n}.downsample',
        r'\.depthwise_conv\.': '.conv_dw.',
        r'\.pointwise_conv(\d)\.': '.mlp.fc{n}.',
        r'^norm3\.': 'head.norm.',
        r'^fc\.': 'head.fc.',
    },
    ('SwinTransformer', 'torchvision'): {
        r'^patch_embed\.projection\.': 'features.0.0.',
        r'^patch_embed\.norm\.': 'features.0.2.',
        r'^stages\.(\d+)\.blocks': 'features.{odd}',
        r'^stages\.(\d+)\.downsample': 'features.{after_odd}',
        r'\.attn\.w_msa\.': '.attn.',
        r'\.ffn\.layers\.0\.0\.': '.mlp.0.',
        r'\.ffn\.layers\.1\.': '.mlp.3.',
        r'^norm3\.': 'norm.',
        r'^fc\.': 'head.',
    },
    ('SwinTransformer', 'timm'): {
        r'^patch_embed\.projection\.': 'patch_embed.proj.',
        r'^stages\.(\d+)\.blocks': 'layers.{n}.blocks',
        r'^stages\.(\d+)\.downsample': 'layers.{after}.downsample',
        r'\.attn\.w_msa\.': '.attn.',
        r'\.ffn\.layers\.0\.0\.': '.mlp.fc1.',
        r'\.ffn\.layers\.1\.': '.mlp.fc2.',
        r'^norm3\.': 'norm.',
        r'^fc\.': 'head.fc.',
    },
}
#: Largest difference of two outputs in float64, as a share of the largest output.
TOLERANCE = 1e-6


def network_name(backbone: Mapping[str, Any], layout: str) -> str:
    """Return what torchvision or timm calls a backbone of MMPretrain.

    Raises:
        ConfigError: If it has no name there.
    """
    kind, depth, arch = str(backbone['type']).split('.')[-1], backbone.get('depth'), backbone.get('arch', 'tiny')
    name = ''
    if kind == 'ResNet':
        name = {64: f'resnet{depth}', 128: f'wide_resnet{depth}_2'}.get(backbone.get('base_channels', 64), '')
    elif kind == 'ResNeXt':
        name = f'resnext{depth}_{backbone.get("groups", 32)}x{backbone.get("width_per_group", 4)}d'
    elif kind == 'TimmStages' and layout == 'timm':
        name = backbone['model_name']
    elif kind == 'ConvNeXt' and not backbone.get('use_grn'):
        name = f'convnext_{arch}'
    elif kind == 'SwinTransformer' and isinstance(arch, str):
        size = {'t': 'tiny', 's': 'small', 'b': 'base', 'l': 'large'}.get(arch, arch)
        window = f'window{backbone.get("window_size", 7)}_{backbone.get("img_size", 224)}'
        name = f'swin_{size[0]}' if layout == 'torchvision' else f'swin_{size}_patch4_{window}'
    if not _exists(name, layout):
        named = ('type', 'depth', 'arch', 'base_channels', 'groups', 'width_per_group', 'window_size', 'img_size')
        shown = {key: backbone[key] for key in named if key in backbone}
        raise ConfigError(
            f'{layout} has no network like the backbone {shown}; the layout exists for the ResNet, Wide ResNet, '
            f'ResNeXt, ConvNeXt and SwinTransformer of MMPretrain in the sizes that {layout} has. Use the layout '
            'openmmlab.'
        )
    return name


def _exists(name: str, layout: str) -> bool:
    if layout == 'torchvision':
        import torchvision

        return name in torchvision.models.list_models(torchvision.models)
    import timm

    return timm.is_model(name)


def build_network(name: str, layout: str, num_classes: int) -> nn.Module:
    """Build a network of torchvision or timm without drawing on the random stream.

    Args:
        name: What the library calls it.
        layout: Which library.
        num_classes: K; 0 leaves the classifier out, so that the network returns pooled features.
    """
    with torch.random.fork_rng(devices=[]):
        if layout == 'timm':
            import timm

            return timm.create_model(name, pretrained=False, num_classes=num_classes)
        import torchvision

        network = torchvision.models.get_model(name, weights=None, num_classes=num_classes or 1)
    if not num_classes:
        linear = [key for key, layer in network.named_modules() if isinstance(layer, nn.Linear)]
        parent, _, name = linear[-1].rpartition('.')
        setattr(network.get_submodule(parent), name, nn.Identity())
    return network


def convert(state: Mapping[str, Tensor], backbone: Mapping[str, Any], layout: str) -> dict[str, Tensor]:
    """Give the tensors of a backbone, and of its classifier ``fc``, the names and the order of another library.

    Args:
        state: Tensors by their names in MMPretrain.
        backbone: Its config.
        layout: ``torchvision`` or ``timm``.
    """
    kind = str(backbone['type']).split('.')[-1]
    rules = RULES.get((kind, layout), {})  # the family of ResNet has the same names everywhere
    if kind == 'TimmStages':
        import timm

        known = timm.get_pretrained_cfg(backbone['model_name'])
        classifier = known.classifier if known is not None else 'fc'
        return {re.sub(r'^fc\.(?=weight$|bias$)', f'{classifier}.', key): value for key, value in state.items()}
    converted = {}
    for key, value in state.items():
        if re.match(r'norm[0-2]\.', key) or (layout == 'timm' and key.endswith('.relative_position_index')):
            continue  # the norm of a stage that is not the last, and what timm computes
        if '.downsample.' in key and kind == 'SwinTransformer':
            # of four pixels that become one: channel, row, column in MMPretrain; column, row, channel elsewhere
            value = value.unflatten(-1, (-1, 2, 2)).transpose(-1, -3).flatten(-3).contiguous()
        elif key.endswith('.relative_position_index'):
            value = value.flatten()
        elif key.endswith('.gamma') and layout == 'torchvision':
            value = value[:, None, None]
        converted[_rename(key, rules)] = value
    return converted


def _rename(key: str, rules: Mapping[str, str]) -> str:
    for pattern, template in rules.items():

        def replace(match: re.Match, template: str = template) -> str:
            n, m = ([int(number) for number in match.groups()] + [0, 0])[:2]
            return template.format(n=n, m=m, even=2 * n, odd=2 * n + 1, after=n + 1, after_odd=2 * n + 2)

        key = re.sub(pattern, replace, key)
    return key


@torch.no_grad()
def same_outputs(
    host: nn.Module, state: Mapping[str, Tensor], network: nn.Module, converted: Mapping[str, Tensor], side: int
) -> bool:
    """Return whether another library's network computes what the backbone computes, on a random image in float64.

    Names and shapes alone prove too little: a stride in another place has the same, for instance.

    Args:
        host: The backbone of MMPretrain; its weights become those of ``state``.
        state: Tensors of the backbone, and of the classifier ``fc`` if ``network`` has one.
        network: The other network; its weights become those of ``converted``.
        converted: The same tensors in its layout.
        side: Of the image, in pixels.
    """
    host.load_state_dict({key: value for key, value in state.items() if not key.startswith('fc.')})
    network.load_state_dict(converted)
    images = torch.randn(1, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    nn.Module.train(host.double(), False)
    expected = host(images)[-1]
    expected = expected.mean((2, 3)) if expected.ndim == 4 else expected
    if 'fc.weight' in state:
        expected = F.linear(expected, state['fc.weight'].double(), state['fc.bias'].double())
    found = network.double().eval()(images)
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())

"""CheckBackboneHook on classifiers of other families; its refusals are tested with detectors."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS

from mmcds.core.errors import ConfigError
from mmcds.openmmlab.hooks import CheckBackboneHook

ARCH = dict(embed_dims=16, num_layers=1, num_heads=1, feedforward_channels=16)


def start(size, path=None):
    """A vision transformer for images of this size, and a run of it that has not begun."""
    init = dict(type='Pretrained', checkpoint=str(path)) if path else None
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        network = MODELS.build(dict(type='VisionTransformer', arch=ARCH, img_size=size, patch_size=16, init_cfg=init))
    model = torch.nn.Module()
    model.backbone = network
    state = dict(model=model, _train_loop=True, _load_from=None, _resume=False, logger=MMLogger.get_current_instance())
    return network, SimpleNamespace(**state)


def test_a_transformer_fits_its_positions_to_other_images_and_takes_all_else(tmp_path):
    source, _ = start(32)
    state = {f'backbone.{key}': value for key, value in source.state_dict().items()}
    torch.save(dict(state_dict=state), tmp_path / 'x')
    network, run = start(48, tmp_path / 'x')
    hook = CheckBackboneHook()
    hook.before_run(run)
    network.init_weights()
    hook.before_train(run)
    assert network.pos_embed.shape == (1, 1 + 9, 16)
    assert torch.equal(network.pos_embed[:, 0], source.pos_embed[:, 0])
    assert all(torch.equal(network.state_dict()[k], v) for k, v in source.state_dict().items() if k != 'pos_embed')
    hook.before_run(run)
    torch.nn.init.ones_(network.cls_token)
    with pytest.raises(ConfigError, match=r'1 of \d+ tensors of the backbone do not have the values of .*cls_token'):
        hook.before_train(run)

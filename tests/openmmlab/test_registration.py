"""What users of OpenMMLab get after `import mmcds`: names, models, configs, scopes."""

import subprocess
import sys
from pathlib import Path

import cv2
import mmengine.hub
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain import ImageClassificationInferencer, get_model, list_models
from mmpretrain.registry import MODELS

from mmcds.openmmlab.registration import register
from mmcds.resources import resources

ROOT = Path(__file__).resolve().parents[2]


def test_models_are_listed_by_name_and_by_task():
    names = list_models('*cds*')
    assert {'cds_resnet50_in1k', 'cds_resnet18_cifar100', 'cds_resnet18w16_fashion', 'plain_resnet50_in1k'} <= {
        *names,
        *list_models('plain_*'),
    }
    assert 'cds_resnet50_in1k' in list_models(task='Image Classification')


def test_get_model_builds_by_name_and_leaves_the_scope_alone():
    model = get_model('cds_resnet18w16_fashion', pretrained=False)
    assert type(model).__name__ == 'CDSClassifier'
    assert sum(p.numel() for p in model.backbone.parameters()) == 700_176
    assert DefaultScope.get_current_instance() is None or DefaultScope.get_current_instance().scope_name != 'mmcds'


@pytest.mark.parametrize('name', ['colour.png', 'grey.png', 'rgba.png'])
def test_the_inferencer_classifies_a_file_as_the_model_does(tmp_path, name):
    model = get_model('cds_resnet18w16_fashion', pretrained=False)
    model.init_weights()
    torch.save(
        dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=[f'class {i}' for i in range(10)]))),
        tmp_path / 'model.pth',
    )
    channels = {'colour.png': (3,), 'grey.png': (), 'rgba.png': (4,)}[name]
    image = np.random.default_rng(0).integers(0, 256, (28, 28, *channels), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / name), image)
    inferencer = ImageClassificationInferencer(
        'cds_resnet18w16_fashion', pretrained=str(tmp_path / 'model.pth'), device='cpu'
    )
    found = inferencer(str(tmp_path / name), show=False)[0]
    colour = np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image[..., :3]
    pixels = (torch.from_numpy(colour[..., ::-1].copy()).permute(2, 0, 1).float() - 72.94) / 90.02
    model.eval()
    with torch.no_grad():
        expected = model(pixels[None], mode='tensor').softmax(-1)[0]
    np.testing.assert_allclose(found['pred_scores'], expected.numpy(), rtol=1e-4)


def test_get_config_finds_our_configs():
    config = mmengine.hub.get_config('mmcds::cds/resnet50_in1k.py')
    assert config.model.supervisions.cds.type == 'ContrastiveSupervision'


def test_a_config_in_any_folder_can_inherit_and_change_ours(tmp_path):
    (tmp_path / 'mine.py').write_text(
        "_base_ = 'mmcds::cds/resnet18_cifar100.py'\n"
        'model = dict(supervisions=dict(cds=dict(taps=(1, 2), loss=dict(loss_weight=0.2))))\n'
        "train_dataloader = dict(dataset=dict(data_root='/elsewhere'))\n"
    )
    config = Config.fromfile(tmp_path / 'mine.py')
    assert config.train_dataloader.dataset.data_root == '/elsewhere'
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(config.model)
    assert list(model.supervisions['cds'].neck.heads) == ['stage1', 'stage2']
    assert model.supervisions['cds'].loss.loss_weight == 0.2


def test_every_class_of_the_host_is_found_from_the_mmcds_scope():
    import mmpretrain.registry as host

    from mmcds import registry

    for name in ('ResNet', 'LinearClsHead', 'CDSNeck', 'ContrastiveSupervision'):
        assert registry.MODELS.get(name) is not None, name
    for node, name in (
        ('VISUALIZERS', 'UniversalVisualizer'),
        ('HOOKS', 'EMAHook'),
        ('DATASETS', 'ImageNet'),
        ('TRANSFORMS', 'PackInputs'),
        ('METRICS', 'Accuracy'),
        ('OPTIMIZERS', 'Lamb'),
    ):
        assert getattr(registry, node).get(name) is not None, name
    assert {n for n in host.__all__ if hasattr(getattr(host, n), 'build')} == set(registry.__all__)


@pytest.mark.parametrize(
    'order',
    [
        'import mmdet.registry; import mmpretrain; import mmcds.detection',
        'import mmcds; import mmdet.registry; assert "mmcds.detection" not in sys.modules; import mmcds.detection',
    ],
)
def test_an_mmdet_config_can_name_our_classes_in_either_import_order(environment, order):
    script = f"""
import sys
{order}
from mmengine.registry import DefaultScope, MODELS
from mmdet.registry import MODELS as detection
with DefaultScope.overwrite_default_scope('mmdet'):
    neck = detection.build(dict(type='mmpretrain.CDSNeck', taps=(0,), in_channels=(8,), strides=(4,)))
    backbone = detection.build(dict(type='mmpretrain.ResNet_CIFAR', depth=18))
    loss = MODELS.build(dict(type='mmpretrain.NTXentLoss'))
from mmcv.ops import batched_nms
from mmdet.models.dense_heads import rpn_head
assert rpn_head.batched_nms is batched_nms, 'imported too early, and left without operators'
print(type(neck).__name__, type(backbone).__name__, type(loss).__name__, DefaultScope.get_current_instance())
"""
    done = subprocess.run([sys.executable, '-c', script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == 'CDSNeck ResNet_CIFAR NTXentLoss None'


def test_import_is_silent_and_may_be_repeated(environment):
    script = 'import mmcds.openmmlab; mmcds.openmmlab.register(); print("ready")'
    done = subprocess.run([sys.executable, '-c', script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == 'ready'
    assert 'NMS' not in done.stderr
    register()


@pytest.mark.parametrize('before', ['', 'from mmpretrain.models.utils import ResLayerExtraNorm'])
def test_a_start_leaves_detection_alone_where_it_cannot_work(environment, before):
    """MMPretrain alone tries, and has the same class or none; detection works afterwards."""
    script = f"""
import importlib.util, sys
compiled = importlib.util.find_spec('mmcv._ext') is not None
{before}
import mmcds.openmmlab
from mmpretrain.models.utils import ResLayerExtraNorm
assert (ResLayerExtraNorm is not None) is compiled
loaded = any(name.startswith('mmdet.models.') for name in sys.modules)
assert loaded is (compiled or bool({before!r})), loaded
import mmcds.detection
from mmdet.models import FasterRCNN
"""
    done = subprocess.run([sys.executable, '-c', script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_resources_hold_what_mim_looks_for():
    for name in ('configs/cds/resnet50_in1k.py', 'tools/train.py', 'model-index.yml'):
        assert (resources() / name).is_file(), name


def test_an_incomplete_installation_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr('mmcds.resources.__file__', str(tmp_path / 'mmcds' / 'resources.py'))
    with pytest.raises(FileNotFoundError, match=r'the installation is incomplete\. Reinstall'):
        resources()

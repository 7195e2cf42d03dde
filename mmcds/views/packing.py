"""The end of a pipeline: what the batch is made of."""

from mmcds.after_import import require

require('mmpretrain', 'openmmlab', __name__)

from mmpretrain.datasets.transforms import PackInputs
from mmpretrain.registry import TRANSFORMS
from mmpretrain.structures.utils import format_label

from mmcds.data.sample_batch import make_sample


@TRANSFORMS.register_module()
class PackSample(PackInputs):
    """What MMPretrain's ``PackInputs`` makes of an image and its label, in a tenth of the time.

    Samples with more than that, such as scores or masks, are packed by MMPretrain.

    Args:
        **kwargs: See :class:`mmpretrain.datasets.PackInputs`.
    """

    def transform(self, results: dict) -> dict:
        """Pack the image and a data sample."""
        if self.algorithm_keys or 'gt_score' in results or 'mask' in results or self.input_key not in results:
            return super().transform(results)
        label = format_label(results['gt_label']) if 'gt_label' in results else None
        meta = {key: results[key] for key in self.meta_keys if key in results}
        return dict(inputs=self.format_input(results[self.input_key]), data_samples=make_sample(meta, label))

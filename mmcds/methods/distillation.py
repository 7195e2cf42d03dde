"""Distillation from a frozen teacher: Equations 7 to 9, between the two Traces and the total loss.

Each equation is a supervision of its own, so any of them can be combined under names of the user's choice.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmcds.core.errors import ConfigError
from mmcds.core.numerics import at_least_float32
from mmcds.core.outputs import StepOutputs, Tap, tap_name
from mmcds.core.registry import MODELS
from mmcds.core.supervision import TeacherSupervision
from mmcds.core.taps import NetworkInfo

MODES = ('frobenius', 'mse_row')


def distance(student: Tensor, teacher: Tensor, mode: str) -> Tensor:
    r"""Measure how far the student's rows are from the teacher's.

    ``'frobenius'``: :math:`\sqrt{\sum_{m,d} (S_{md} - T_{md})^2}`, not squared and not divided by the number of
    rows, as in the released code. Its gradient has length 1 at any distance but 0, where it is 0; its value grows
    with the root of the number of rows, and it depends on how a batch is split over ranks.
    ``'mse_row'``: :math:`\frac{1}{M} \sum_m \lVert S_m - T_m \rVert^2`, which vanishes smoothly.

    Args:
        student: Rows (M, D); more dimensions are flattened into D.
        teacher: Rows of the same shape.
        mode: One of the two.

    Returns:
        Scalar, at least float32.

    References:
        https://arxiv.org/abs/2207.05306, Equations 7 and 8.
    """
    difference = (at_least_float32(student) - at_least_float32(teacher)).flatten(1)
    if mode == 'frobenius':
        return torch.linalg.vector_norm(difference)
    return difference.square().sum(1).mean()


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    r"""Return the cross-entropy of the student's softened classes against the teacher's.

    :math:`-\frac{1}{N} \sum_n \sum_k \operatorname{softmax}(T_n / \tau)_k \log \operatorname{softmax}(S_n /
    \tau)_k`, the Kullback-Leibler divergence of Eq. 9 plus the teacher's entropy, so with the same gradient.

    Args:
        student: Logits (N, K).
        teacher: Logits (N, K).
        temperature: tau > 0.

    Returns:
        Scalar, at least float32; there is no factor tau^2.

    References:
        https://arxiv.org/abs/2207.05306, Equation 9.
    """
    student, teacher = at_least_float32(student) / temperature, at_least_float32(teacher) / temperature
    return -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the Kullback-Leibler divergence of the student's softened classes from the teacher's, Eq. 9.

    :func:`soft_cross_entropy` minus the entropy of the teacher, so that 0 means equal.

    Args:
        student: Logits (N, K).
        teacher: Logits (N, K).
        temperature: tau > 0.

    Returns:
        Scalar >= 0, at least float32; there is no factor tau^2.
    """
    student, teacher = at_least_float32(student) / temperature, at_least_float32(teacher) / temperature
    return F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction='batchmean', log_target=True)


@MODELS.register
class EmbeddingDistillation(TeacherSupervision):
    r"""Draw the student's contrastive embeddings to the teacher's, on every stage and in all views.

    .. math:: \lambda_2 \sum_{s} \lVert c^T_s(x^T_s) - c^S_s(x^S_s) \rVert_2 \qquad \text{(Eq. 8)}

    Where the widths differ, a linear layer with bias maps the student's unit rows to the teacher's width; its
    output is not normalised again, as in the released code. The contrastive loss keeps the rows before it.

    Args:
        student: Name of the student's :class:`ContrastiveSupervision` in ``supervisions``.
        teacher: Name of the teacher's in its config.
        mode: See :func:`distance`.
        loss_weight: lambda_2. 0.1 on CIFAR and 0.5 on ImageNet in the released code.
        taps: The student's taps to use. By default all, paired with the teacher's in order; then both must lie
            at the same strides.
        teacher_taps: The teacher's taps that belong to them.

    Raises:
        ConfigError: If mode or weight are wrong, or, when built, if the taps do not correspond.
    """

    def __init__(
        self,
        student: str = 'cds',
        teacher: str = 'cds',
        mode: str = 'frobenius',
        loss_weight: float = 0.1,
        taps: Sequence[Tap] | None = None,
        teacher_taps: Sequence[Tap] | None = None,
    ) -> None:
        super().__init__(loss_weight, views=None)
        self.check_choice('mode', mode, MODES)
        self.embeddings_of, self.teacher_embeddings_of = (student,), (teacher,)
        self.mode = mode
        self._chosen = taps, teacher_taps

    def build(self, network: NetworkInfo) -> None:
        """Pair the taps and build an adapter where the widths differ."""
        assert network.teacher is not None
        own = network.embeddings[self.embeddings_of[0]]
        others = network.teacher.embeddings[self.teacher_embeddings_of[0]]
        taps, teacher_taps = self._chosen
        for who, asked, there in (('taps', taps, own), ('teacher_taps', teacher_taps, others)):
            for tap in asked or ():
                if tap not in there:
                    raise ConfigError(
                        f'EmbeddingDistillation: {who} names {tap!r}, but embeddings exist for '
                        f'{tuple(there)}. Choose among them.'
                    )
        self.check_pairs(tuple(taps or own), tuple(teacher_taps or others))
        self.tap_pairs = tuple(zip(taps or own, teacher_taps or others, strict=True))
        for tap, teacher_tap in self.tap_pairs:
            stride, expected = network.taps[tap].stride, network.teacher.taps[teacher_tap].stride
            if self._chosen == (None, None) and stride != expected:
                raise ConfigError(
                    f"EmbeddingDistillation: the student's {tap_name(tap)} has stride {stride:g} and the "
                    f"teacher's {tap_name(teacher_tap)} {expected:g}, so they may not correspond. Say which "
                    'belong together by taps and teacher_taps.'
                )
        self.adapters = nn.ModuleDict(
            {
                tap_name(tap): nn.Linear(own[tap], others[teacher_tap])
                for tap, teacher_tap in self.tap_pairs
                if own[tap] != others[teacher_tap]
            }
        )

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``<tap>.loss_embedding`` for every tap of the student."""
        assert outputs.teacher is not None
        own = outputs.embeddings[self.embeddings_of[0]]
        others = outputs.teacher.embeddings[self.teacher_embeddings_of[0]]
        losses = {}
        with torch.autocast(outputs.logits.device.type, enabled=False):
            for tap, teacher_tap in self.tap_pairs:
                name, rows = tap_name(tap), own[tap].flatten(0, 1)
                if name in self.adapters:
                    rows = self.adapters[name](rows.to(next(self.adapters[name].parameters()).dtype))
                losses[f'{name}.loss_embedding'] = self.loss_weight * distance(
                    rows, others[teacher_tap].flatten(0, 1), self.mode
                )
        return losses


@MODELS.register
class LogitDistillation(TeacherSupervision):
    r"""Draw the student's class probabilities to the teacher's.

    .. math:: \lambda_3 L_{KL}\bigl(c^T_K(x), c^S_K(x)\bigr) \qquad \text{(Eq. 9)}

    Unlabelled images take part.

    Args:
        temperature: Softens both. 3 on CIFAR and 1 on ImageNet in the released code.
        mode: ``'soft_ce'``, as in the released code, or ``'kl'``; they differ by the teacher's entropy and have
            the same gradient.
        scale_by_temperature: Multiply by the square of the temperature, as Hinton et al. do and the released
            code does not.
        views: Views that take part, averaged. The released code uses view 0 only.
        loss_weight: lambda_3.

    Raises:
        ConfigError: If a value is out of range, or, when built, if the teacher has other classes.
    """

    def __init__(
        self,
        temperature: float = 3.0,
        mode: str = 'soft_ce',
        scale_by_temperature: bool = False,
        views: Sequence[int] = (0,),
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight, views)
        self.check_choice('mode', mode, ('soft_ce', 'kl'))
        self.check_positive(temperature=temperature)
        self.temperature = temperature
        self.function = soft_cross_entropy if mode == 'soft_ce' else kl_divergence
        self.loss_weight = loss_weight * (temperature**2 if scale_by_temperature else 1)

    def build(self, network: NetworkInfo) -> None:
        """Compare the number of classes."""
        assert network.teacher is not None
        if network.teacher.num_classes != network.num_classes:
            raise ConfigError(
                f'LogitDistillation: the teacher has {network.teacher.num_classes} classes and the student '
                f'{network.num_classes}. Take a teacher that was trained on the same classes.'
            )

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``loss_logit`` and the share of images that both put into the same class."""
        student, teacher = self.logits(outputs)
        return {
            'loss_logit': self.loss_weight * self.function(student, teacher, self.temperature),
            'teacher_agreement': (student.argmax(1) == teacher.argmax(1)).float().mean(),
        }


@MODELS.register
class FeatureDistillation(TeacherSupervision):
    r"""Draw the backbone's own features to the teacher's: the naive form that Section 5.3 compares with.

    .. math:: \lambda \sum_{s} \lVert x^T_s - x^S_s \rVert_2 \qquad \text{(Eq. 7)}

    Where widths differ, a 1x1 convolution without bias maps the student's feature to the teacher's width; where
    sizes differ, the larger map is average-pooled to the size of the smaller one.

    Args:
        taps: Taps of the student.
        teacher_taps: Taps of the teacher that belong to them. Defaults to the same.
        mode: See :func:`distance`; a row is the feature of one image.
        loss_weight: The weight; the paper gives none.

    Raises:
        ConfigError: If mode, weight or taps are wrong.
    """

    def __init__(
        self,
        taps: Sequence[Tap],
        teacher_taps: Sequence[Tap] | None = None,
        mode: str = 'frobenius',
        loss_weight: float = 0.1,
    ) -> None:
        super().__init__(loss_weight, None, taps, teacher_taps)
        self.check_taps()
        self.check_choice('mode', mode, MODES)
        self.mode = mode

    def build(self, network: NetworkInfo) -> None:
        """Build an adapter where the widths differ."""
        assert network.teacher is not None
        self.adapters = nn.ModuleDict()
        for tap, teacher_tap in zip(self.taps, self.teacher_taps, strict=True):
            width, expected = network.taps[tap].channels, network.teacher.taps[teacher_tap].channels
            if width != expected:
                self.adapters[tap_name(tap)] = nn.Conv2d(width, expected, 1, bias=False)

    def forward(self, outputs: StepOutputs) -> dict[str, Tensor]:
        """Return ``<tap>.loss_feature`` for every tap of the student."""
        losses = {}
        for tap, (student, teacher) in zip(self.taps, self.pairs(outputs), strict=True):
            name = tap_name(tap)
            if name in self.adapters:
                student = self.adapters[name](student)
            size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
            student, teacher = (F.adaptive_avg_pool2d(value, size) for value in (student, teacher))
            losses[f'{name}.loss_feature'] = self.loss_weight * distance(student, teacher, self.mode)
        return losses

"""Temperature scaling: one number, fitted to held-out images, that corrects the confidence of all predictions."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcds.core.errors import ConfigError
from mmcds.evaluation.calibration import check_predictions, log_scores


def scale(scores: Tensor, temperature: float) -> Tensor:
    """Return the probabilities of the logits divided by a temperature; the predicted class stays. (N, K), float64."""
    return (log_scores(scores) / temperature).softmax(1)


def fit_temperature(scores: Tensor, labels: Tensor) -> float:
    """Find the temperature of lowest negative log-likelihood.

    The likelihood is concave in 1 / temperature, so LBFGS finds the one maximum there is.

    Args:
        scores: Predicted probability of every class, of images that are not used otherwise. (N, K).
        labels: Class of every image. (N,).

    Returns:
        The temperature, > 0; above 1 for a network that is too sure of itself.

    Raises:
        ConfigError: If no positive and finite temperature is the best: every image is classified correctly, or the
            right class scores no higher than the average class.

    References:
        https://arxiv.org/abs/1706.04599, Section 4.2.
    """
    check_predictions(scores, labels)
    logits = log_scores(scores)
    of_label = logits.gather(1, labels[:, None])[:, 0]
    if bool((of_label >= logits.max(1).values).all()) or bool(of_label.mean() <= logits.mean()):
        raise ConfigError(
            f'no temperature fits these {len(labels)} images: the network is right on all of them or no better than '
            'chance. Fit it to other images, or leave temperature scaling out.'
        )
    inverse = torch.ones((), dtype=logits.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [inverse], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn='strong_wolfe'
    )

    def step() -> float:
        optimiser.zero_grad()
        loss = F.cross_entropy(inverse * logits, labels)
        loss.backward()
        return loss.item()

    optimiser.step(step)
    return 1 / inverse.item()

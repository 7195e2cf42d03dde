"""Calibration: closed forms, equality with loops and torchmetrics, invariances, and two ranks that equal one."""

import multiprocessing
import os
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
from mmengine.evaluator import Evaluator
from mmpretrain.registry import METRICS
from mmpretrain.structures import DataSample
from torch.testing import assert_close

from mmcds.core.errors import ConfigError
from mmcds.evaluation import CalibrationError
from mmcds.evaluation.calibration import (
    adaptive_calibration_error,
    calibration,
    classwise_calibration_error,
    expected_calibration_error,
    negative_log_likelihood,
    top_class,
)
from mmcds.evaluation.reliability import draw_reliability, reliability
from mmcds.evaluation.temperature import fit_temperature, scale

IMAGES, CLASSES = 501, 7  # no multiple of the bins or the ranks


def predictions(images=IMAGES, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    scores = (3 * torch.randn(images, CLASSES, generator=generator, dtype=torch.float64)).softmax(1)
    labels = torch.multinomial(scores.sqrt(), 1, generator=generator)[:, 0]  # so the scores are too sure
    return scores.to(dtype), labels


def one_hot(classes):
    return torch.eye(CLASSES, dtype=torch.float64)[classes]


def loop_error(confidence, correct, bins):
    """Eq. 3 of Guo et al. as it is written."""
    total = 0.0
    for b in range(bins):
        inside = [
            (p, c)
            for p, c in zip(confidence.tolist(), correct.tolist(), strict=True)
            if b / bins <= p < (b + 1) / bins or (p == 1 and b == bins - 1)
        ]
        if inside:
            accuracy = sum(c for _, c in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - sum(p for p, _ in inside) / len(inside))
    return total


@pytest.mark.parametrize('bins', [1, 4, 15, 100])
def test_errors_equal_their_formulas_as_loops(bins):
    scores, labels = predictions()
    confidence, correct = top_class(scores, labels)
    assert expected_calibration_error(confidence, correct, bins).item() == pytest.approx(
        loop_error(confidence, correct, bins), abs=1e-12
    )
    by_class = [loop_error(scores[:, k], labels == k, bins) for k in range(CLASSES)]
    assert classwise_calibration_error(scores, labels, bins).item() == pytest.approx(np.mean(by_class), abs=1e-12)


def test_ece_equals_that_of_torchmetrics():
    from torchmetrics.functional.classification import multiclass_calibration_error

    scores, labels = predictions(dtype=torch.float32)
    expected = multiclass_calibration_error(scores, labels, CLASSES, n_bins=15)
    assert calibration(scores, labels)['ece'] == pytest.approx(expected.item(), abs=1e-6)
    assert expected > 0.05


def test_a_confidence_of_exactly_1_is_in_the_last_bin():
    confidence, correct = torch.tensor([1.0, 0.95], dtype=torch.float64), torch.tensor([False, True])
    assert expected_calibration_error(confidence, correct, 10).item() == pytest.approx(0.975 - 0.5)


def test_a_perfect_predictor_has_no_error_and_one_that_is_certain_and_wrong_has_all():
    labels = torch.arange(40) % CLASSES
    perfect = calibration(one_hot(labels), labels)
    assert perfect == dict.fromkeys(perfect, pytest.approx(0, abs=1e-12))
    wrong = calibration(one_hot((labels + 1) % CLASSES), labels)
    assert (wrong['ece'], wrong['adaptive_ece']) == (pytest.approx(1), pytest.approx(1))
    # an image is wrong in its own class and in the predicted one: 2 of K probabilities
    assert wrong['classwise_ece'] == pytest.approx(2 / CLASSES)
    assert wrong['nll'] == pytest.approx(-np.log(np.finfo(np.float32).tiny)), 'finite'


def test_a_uniform_predictor_has_the_likelihood_of_chance():
    labels = torch.arange(3 * CLASSES) % CLASSES
    found = calibration(torch.full((len(labels), CLASSES), 1 / CLASSES), labels)
    assert found['nll'] == pytest.approx(np.log(CLASSES), rel=1e-6)
    assert found['ece'] == pytest.approx(0, abs=1e-6)
    assert found['classwise_ece'] == pytest.approx(0, abs=1e-6)


def test_likelihood_equals_cross_entropy_of_the_logits():
    logits = 5 * torch.randn(50, CLASSES, dtype=torch.float64)
    labels = torch.arange(50) % CLASSES
    expected = torch.nn.functional.cross_entropy(logits, labels)
    assert_close(negative_log_likelihood(logits.softmax(1), labels), expected)


def test_classwise_error_of_a_tiny_example():
    """Two bins. Class 0: [.2, .4 | .9], labels 0 0 1; class 1 mirrors it."""
    scores = torch.tensor([[0.2, 0.8], [0.4, 0.6], [0.9, 0.1]], dtype=torch.float64)
    labels = torch.tensor([1, 0, 0])
    low, high = abs(1 / 2 - 0.3) * 2 / 3, abs(1 - 0.9) / 3
    assert classwise_calibration_error(scores, labels, 2).item() == pytest.approx(low + high)
    assert expected_calibration_error(*top_class(scores, labels), 2).item() == pytest.approx(abs(2 / 3 - 2.3 / 3))


def test_adaptive_bins_hold_equally_many_images():
    """Bins of equal width would hold thirty images each, and right and wrong ones would cancel."""
    confidence = torch.linspace(0.5, 0.5 + 1e-6, 30, dtype=torch.float64)
    correct = torch.tensor([True] * 10 + [False] * 20)
    sure = torch.linspace(0.9, 0.9 + 1e-6, 30, dtype=torch.float64)
    found = adaptive_calibration_error(torch.cat([confidence, sure]), torch.cat([correct, ~correct]), 6)
    # bins of 10: |1 - .5|, |0 - .5| twice, |0 - .9|, |1 - .9| twice
    assert found.item() == pytest.approx((3 * 0.5 + 0.9 + 2 * 0.1) / 6, abs=1e-5)


def test_with_one_bin_both_kinds_of_bins_give_accuracy_minus_confidence():
    confidence, correct = top_class(*predictions())
    gap = (correct.double().mean() - confidence.mean()).abs()
    assert_close(adaptive_calibration_error(confidence, correct, 1), gap)
    assert_close(expected_calibration_error(confidence, correct, 1), gap)


def test_more_adaptive_bins_than_images_leave_the_others_empty():
    confidence, correct = torch.tensor([0.4, 0.7], dtype=torch.float64), torch.tensor([True, True])
    assert adaptive_calibration_error(confidence, correct, 15).item() == pytest.approx((0.6 + 0.3) / 2)


def test_the_order_of_the_images_plays_no_part():
    scores, labels = predictions()
    scores = (scores * 20).round().clamp(min=1)  # many images of equal confidence
    scores = scores / scores.sum(1, keepdim=True)
    order = torch.randperm(len(labels))
    first, second = calibration(scores, labels), calibration(scores[order], labels[order])
    assert second == pytest.approx(first, abs=1e-12)
    assert len(scores.max(1).values.unique()) < len(scores) / 2


# ---- temperature


def test_temperature_of_synthetic_logits_is_recovered():
    """Labels are drawn from the softmax of the logits; the scores come from three times these logits."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(40_000, CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    scores = (3 * logits).softmax(1)
    temperature = fit_temperature(scores, labels)
    assert temperature == pytest.approx(3, rel=0.02)
    assert fit_temperature(scale(scores, temperature), labels) == pytest.approx(1, abs=1e-6), (
        'nothing is left to scale'
    )
    before, after = calibration(scores, labels), calibration(scale(scores, temperature), labels)
    assert before['ece'] > 0.1 > 0.01 > after['ece']
    assert after['nll'] < before['nll']


def test_scaling_by_1_changes_nothing_and_no_temperature_changes_the_class():
    scores, _ = predictions()
    assert_close(scale(scores, 1.0), scores)
    assert torch.equal(scale(scores, 4.0).argmax(1), scores.argmax(1))


def test_the_best_temperature_is_a_minimum_of_the_likelihood():
    scores, labels = predictions()
    best = fit_temperature(scores, labels)
    low, middle, high = (negative_log_likelihood(scale(scores, best * f), labels) for f in (0.99, 1, 1.01))
    assert middle < low
    assert middle < high


@pytest.mark.parametrize('wrong', [0, 1], ids=['all right', 'all wrong'])
def test_images_without_a_best_temperature_are_refused(wrong):
    labels = torch.arange(20) % CLASSES
    scores = 0.5 * one_hot((labels + wrong) % CLASSES) + 0.5 / CLASSES
    with pytest.raises(ConfigError, match='no temperature fits these 20 images'):
        fit_temperature(scores, labels)


# ---- diagram


def test_bars_of_the_diagram_add_up_to_the_error():
    confidence, correct = top_class(*predictions())
    accuracy, mean, count = reliability(confidence, correct, 15)
    assert count.sum() == IMAGES
    gap = np.nansum(count * abs(accuracy - mean)) / IMAGES
    assert gap == pytest.approx(expected_calibration_error(confidence, correct, 15).item(), abs=1e-12)
    assert (np.isnan(accuracy) == (count == 0)).all()


@pytest.fixture
def figures(monkeypatch):
    """What is saved, in turn."""
    from matplotlib.figure import Figure

    saved, save = [], Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda self, *args, **more: (saved.append(self), save(self, *args, **more)))
    return saved


def test_the_diagram_says_what_it_shows(tmp_path):
    confidence, correct = top_class(*predictions())
    text = draw_reliability(confidence, correct, 15, 'a model', tmp_path / 'd.svg').read_text()
    error = 100 * expected_calibration_error(confidence, correct, 15).item()
    for wanted in (
        'a model',
        f'ECE (mean gap) {error:.2f} %, {IMAGES} images',
        'confidence (%)',
        'gap, over-confident: confidence above accuracy',
        'gap, under-confident: confidence below accuracy',
        f'accuracy of all images: {100 * correct.double().mean().item():.2f} %',
    ):
        assert f'<!-- {wanted} -->' in text, wanted


def test_a_gap_goes_from_accuracy_to_confidence_and_its_colour_says_which_is_higher(tmp_path, figures):
    confidence = torch.tensor([0.25, 0.25, 0.65, 0.65])
    correct = torch.tensor([True, True, False, True])
    draw_reliability(confidence, correct, 2, 'a model', tmp_path / 'd.png')
    accuracy, over, under = figures[0].axes[0].containers
    assert [bar.get_height() for bar in accuracy] == [100, 50]
    assert [over[1].get_y(), over[1].get_height()] == pytest.approx([50, 15])
    assert [under[0].get_y(), under[0].get_height()] == pytest.approx([100, -75])
    assert np.isnan([over[0].get_height(), under[1].get_height()]).all()
    assert over[0].get_facecolor() != under[0].get_facecolor()
    assert over[0].get_hatch() != under[0].get_hatch()


def test_nothing_is_written_on_the_bars(tmp_path, figures):
    draw_reliability(*top_class(*predictions()), 15, 'a model', tmp_path / 'd.png')
    (figure,) = figures
    figure.draw_without_rendering()  # at the figure's own resolution, not that of the file
    (legend,) = figure.legends
    bars = [bar for axes in figure.axes for bars in axes.containers for bar in bars]
    assert len(bars) == 4 * 15
    written = [legend.get_window_extent(), figure._suptitle.get_window_extent()]
    written += [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    assert len(written) == 3
    assert not any(box.overlaps(axes.get_window_extent()) for box in written for axes in figure.axes)
    assert not any(box.overlaps(bar.get_window_extent()) for box in written for bar in bars)
    assert not any(axes.texts or axes.get_legend() for axes in figure.axes)
    assert all(figure.bbox.containsx(box.x1) and figure.bbox.containsy(box.y0) for box in written)


# ---- the metric


def samples(scores, labels):
    return [DataSample().set_pred_score(s).set_gt_label(y) for s, y in zip(scores, labels, strict=True)]


def evaluate(batches, size):
    evaluator = Evaluator(METRICS.build(dict(type='CalibrationError', bins=10)))
    for batch in batches:
        evaluator.process(batch)
    return evaluator.evaluate(size)


def test_the_metric_gives_the_functions_over_all_batches():
    scores, labels = predictions(dtype=torch.float32)
    whole = samples(scores, labels)
    found = evaluate([whole[:200], whole[200:]], IMAGES)
    expected = {f'calibration/{key}': value for key, value in calibration(scores, labels, 10).items()}
    assert found == expected


def test_what_the_ranks_send_each_other_is_as_large_as_its_numbers():
    metric = METRICS.build(dict(type='CalibrationError'))
    metric.process(None, [sample.to_dict() for sample in samples(*predictions(dtype=torch.float32))])
    numbers = sum(row.nbytes + label.nbytes for row, label in metric.results)
    assert (
        sum(row.untyped_storage().nbytes() + label.untyped_storage().nbytes() for row, label in metric.results)
        == numbers
    )


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(scores=[[2.0, -1.0]]), 'the scores are no probabilities: the lowest is -1'),
        (dict(scores=[[0.4, 0.4]]), r'sum to 0\.8 to 0\.8'),
        (dict(scores=[[float('nan'), 1.0]]), 'the scores are no probabilities'),
        (dict(scores=[[1.0]]), r'needs scores \(images, classes >= 2\)'),
        (dict(labels=[-1]), 'labels go from -1 to -1, but there are 2 classes'),
        (dict(labels=[2]), 'labels go from 2 to 2, but there are 2 classes'),
        (dict(labels=[[0, 1]]), 'an image has several labels'),
    ],
)
def test_what_cannot_be_calibrated_is_named_with_the_first_batch(wrong, message):
    given = {**dict(scores=[[0.3, 0.7]], labels=[1]), **wrong}
    batch = samples(map(torch.tensor, given['scores']), map(torch.tensor, given['labels']))
    with pytest.raises(ConfigError, match=message):
        CalibrationError().process(None, [sample.to_dict() for sample in batch])


@pytest.mark.parametrize('key, what', [('pred_score', 'scores'), ('gt_label', 'label')])
def test_missing_scores_or_labels_are_named(key, what):
    sample = samples(torch.tensor([[0.3, 0.7]]), torch.tensor([1]))[0].to_dict()
    del sample[key]
    with pytest.raises(ConfigError, match=rf'a prediction has no {what} \({key}\)'):
        CalibrationError().process(None, [sample])


@pytest.mark.parametrize('bins', [0, -3, 2.5, True])
def test_a_wrong_number_of_bins_is_refused_when_the_metric_is_built(bins):
    with pytest.raises(ConfigError, match=f'bins is {bins}, but calibration needs at least 1 bin'):
        CalibrationError(bins=bins)


def test_without_torchmetrics_the_metric_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchmetrics', None)
    with pytest.raises(ConfigError, match=r"pip install 'torchmetrics>=1\.4'"):
        CalibrationError()


# ---- two ranks


def worker(rank, folder):
    """Images as MMEngine's sampler deals them: in turn, the first ones again until all ranks have equally many."""
    torch.set_num_threads(1)
    os.chdir(folder)  # MMEngine collects results through files there
    os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
    dist.init_process_group('gloo', init_method=f'file://{folder}/init', rank=rank, world_size=2)
    scores, labels = predictions(dtype=torch.float32)
    own = [index % IMAGES for index in range(rank, IMAGES + 1, 2)]
    torch.save(evaluate([samples(scores[own], labels[own])], IMAGES), f'rank{rank}.pt')
    dist.barrier()
    dist.destroy_process_group()


def test_two_ranks_with_a_padded_image_equal_one_process(tmp_path):
    context = multiprocessing.get_context('fork')  # nothing has to be imported again
    children = [context.Process(target=worker, args=(rank, tmp_path)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0, 0]
    alone = evaluate([samples(*predictions(dtype=torch.float32))], IMAGES)
    assert [torch.load(tmp_path / f'rank{rank}.pt') for rank in range(2)] == [alone, alone]

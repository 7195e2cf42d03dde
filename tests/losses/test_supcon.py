"""The contrastive losses: equality with plain formulas, closed forms, invariances, edges, memory, bad input."""

import math
import random

import pytest
import torch
from mmpretrain.registry import MODELS
from references import contrastive_reference
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmcds.core.errors import ConfigError, DivergedError
from mmcds.losses import NTXentLoss, SupConLoss, ntxent_loss, number_classes, supcon_loss


def unit(*shape, seed=0, dtype=torch.float64):
    return F.normalize(
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1
    ).to(dtype)


def value_and_grads(loss, *inputs):
    return loss.detach(), torch.autograd.grad(loss, inputs, retain_graph=True, materialize_grads=True)


def assert_same(found, expected, inputs, rtol_value=1e-10, rtol_grad=1e-9):
    """Relative to 1 + the largest entry: gradients by small temperatures are sums of large terms that cancel."""
    value, grads = value_and_grads(found, *inputs)
    value_expected, grads_expected = value_and_grads(expected, *inputs)
    assert abs(value - value_expected) <= rtol_value * (1 + abs(value_expected))
    for grad, grad_expected in zip(grads, grads_expected, strict=True):
        assert (grad - grad_expected).abs().max() <= rtol_grad * (1 + grad_expected.abs().max())


def draw(seed):
    """A random problem: embeddings, labels, temperature, options."""
    torch.manual_seed(seed)
    pick = random.Random(seed)
    views, images, width = pick.randint(2, 4), pick.randint(1, 7), pick.randint(1, 9)
    embeddings = unit(views, images, width, seed=seed).requires_grad_()
    temperature = torch.tensor(
        pick.choice([0.005, 0.01, 0.07, 0.5, 1.0, 10.0]), dtype=torch.float64, requires_grad=True
    )
    labels = pick.choice([None, torch.randint(-1, 3, (images,)), torch.full((images,), -1)])
    options = dict(positives=pick.choice(['out', 'in']))
    return embeddings, labels, temperature, options, pick


@pytest.fixture
def threads(seed):
    """One to three threads: on a CPU the tiles are summed in as many parts."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 + seed % 3)
    yield
    torch.set_num_threads(before)


# ---- equality with the plain formula


@pytest.mark.usefixtures('threads')
@pytest.mark.parametrize('seed', range(60))
def test_equals_the_plain_formula_in_value_and_gradients_for_any_tiling(seed):
    embeddings, labels, temperature, options, pick = draw(seed)
    expected = contrastive_reference(embeddings, labels, temperature, **options)
    for block_size in (None, 1, pick.randint(2, 5)):
        found = supcon_loss(embeddings, labels, temperature, block_size=block_size, **options)
        assert_same(found, expected, (embeddings, temperature))
        fixed = supcon_loss(embeddings, labels, temperature.item(), block_size=block_size, **options)
        assert_same(fixed, expected, (embeddings,))


@pytest.mark.usefixtures('threads')
@pytest.mark.parametrize('seed', range(20))
def test_the_mean_over_shares_of_the_anchors_is_the_loss_of_all(seed):
    embeddings, labels, temperature, options, pick = draw(seed)
    images = embeddings.shape[1]
    cut = pick.randint(0, images)
    shares = [
        supcon_loss(embeddings, labels, temperature, local=part, num_ranks=2, block_size=3, **options)
        for part in (slice(0, cut), slice(cut, images))
    ]
    assert_same(sum(shares) / 2, supcon_loss(embeddings, labels, temperature, **options), (embeddings, temperature))


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize('positives', ['out', 'in'])
def test_low_precision_input_is_computed_in_float32(dtype, tolerance, positives):
    exact = unit(2, 50, 16).to(dtype)  # what matters is the arithmetic, not the rounding of the input
    given = exact.clone().requires_grad_()
    double = exact.double().requires_grad_()
    labels = torch.arange(50) % 7
    found = supcon_loss(given, labels, positives=positives, block_size=33)
    expected = contrastive_reference(double, labels, positives=positives)
    assert found.dtype == torch.float32
    assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    found.backward()
    expected.backward()
    assert given.grad.dtype == dtype
    assert_close(given.grad.double(), double.grad, rtol=tolerance, atol=tolerance * float(double.grad.abs().max()))


def test_autocast_changes_neither_value_nor_gradient():
    rows, labels = unit(2, 20, 8, dtype=torch.float32).requires_grad_(), torch.arange(20) % 3
    plain = value_and_grads(supcon_loss(rows, labels, block_size=16), rows)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        mixed = value_and_grads(supcon_loss(rows, labels, block_size=16), rows)
    assert_close(mixed, plain, rtol=0, atol=0)


@pytest.mark.slow
def test_compiled_code_gives_the_same_value_and_gradient():
    rows, labels = unit(2, 20, 8).requires_grad_(), torch.arange(20) % 3

    def step(rows, labels):
        return supcon_loss(F.normalize(rows * 2, dim=2), labels, block_size=16) * 3

    compiled = torch.compile(step, backend='aot_eager')
    assert_close(
        value_and_grads(compiled(rows, labels), rows),
        value_and_grads(step(rows, labels), rows),
        rtol=1e-12,
        atol=1e-12,
    )


def test_input_need_not_be_contiguous():
    rows = unit(2, 9, 4)
    strided = rows.permute(2, 1, 0).contiguous().permute(2, 1, 0).requires_grad_()
    assert not strided.is_contiguous()
    assert_same(supcon_loss(strided, block_size=4), contrastive_reference(strided), (strided,))


@pytest.mark.parametrize('positives', ['out', 'in'])
@pytest.mark.parametrize('temperature', [0.5, 0.01])  # with one exponential per pair, and with two
@pytest.mark.parametrize('block_size', [None, 3])
@pytest.mark.parametrize('local', [None, slice(1, 3)])
def test_gradcheck(positives, temperature, block_size, local):
    labels = torch.tensor([0, 0, -1, 1])
    raw = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)

    def function(raw, tau):
        return supcon_loss(raw, labels, tau, positives=positives, normalize=True, block_size=block_size, local=local)

    # numeric differences of a loss with scores of up to 1 / tau lose digits
    assert torch.autograd.gradcheck(function, (raw, tau), eps=1e-6 * temperature, atol=1e-4, rtol=1e-4)


def test_backward_can_run_twice_on_a_kept_graph():
    rows = unit(2, 5, 4).requires_grad_()
    loss = supcon_loss(rows)
    (first,) = torch.autograd.grad(loss, rows, retain_graph=True)
    (second,) = torch.autograd.grad(loss, rows)
    assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize('local', [None, slice(0, 2)])
def test_second_derivatives_are_refused(local):
    rows = unit(2, 5, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(supcon_loss(rows, local=local), rows, create_graph=True)
    with pytest.raises(RuntimeError, match='have no second derivative'):
        gradient.square().sum().backward()


# ---- an independent implementation


@pytest.mark.parametrize('temperature', [0.07, 0.5])
@pytest.mark.parametrize('seed', range(3))
def test_equals_pytorch_metric_learning(seed, temperature):
    pml = pytest.importorskip('pytorch_metric_learning.losses')
    rows, labels = unit(2, 12, 8, seed=seed).mul(2).requires_grad_(), torch.arange(12) % (seed + 2)
    flat = rows.flatten(0, 1)  # they bring it to unit length
    theirs = pml.SupConLoss(temperature=temperature)(flat, labels.repeat(2))
    assert_same(supcon_loss(rows, labels, temperature, normalize=True), theirs, (rows,))
    theirs = pml.NTXentLoss(temperature=temperature)(flat, torch.arange(12).repeat(2))
    assert_same(ntxent_loss(rows, temperature, normalize=True), theirs, (rows,))


# ---- closed forms


@pytest.mark.parametrize('temperature', [0.005, 0.07, 10.0])
@pytest.mark.parametrize('labels', [None, [0, 0, 0, 0], [0, 1, -1, 0]])
@pytest.mark.parametrize('positives', ['out', 'in'])
def test_equal_rows_give_log_of_all_rows_but_one(temperature, labels, positives):
    rows = F.normalize(torch.ones(2, 4, 3, dtype=torch.float64), dim=2)
    labels = None if labels is None else torch.tensor(labels)
    assert_close(supcon_loss(rows, labels, temperature, positives=positives).item(), math.log(7))


@pytest.mark.parametrize('temperature', [1.0, 0.5, 0.07])
def test_two_orthogonal_images_have_a_closed_form(temperature):
    rows = torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    expected = math.log(1 + 2 * math.exp(-1 / temperature))
    assert_close(supcon_loss(rows, torch.tensor([0, 1]), temperature).item(), expected, rtol=1e-8, atol=1e-14)
    assert_close(ntxent_loss(rows, temperature).item(), expected, rtol=1e-8, atol=1e-14)


def test_one_image_with_two_views_has_no_loss_and_no_gradient():
    rows = unit(2, 1, 5).requires_grad_()
    value, (grad,) = value_and_grads(supcon_loss(rows, torch.tensor([3]), 0.07), rows)
    assert_close(value.item(), 0.0, rtol=0, atol=1e-12)
    assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-12)


def test_supcon_with_all_labels_distinct_is_ntxent():
    rows = unit(3, 6, 5)
    assert_close(supcon_loss(rows, torch.randperm(6), 0.1), ntxent_loss(rows, 0.1), rtol=1e-13, atol=0)
    assert_close(supcon_loss(rows, torch.full((6,), -1), 0.1), ntxent_loss(rows, 0.1), rtol=1e-13, atol=0)


def test_inside_and_outside_means_agree_where_each_anchor_has_one_positive_and_else_in_is_smaller():
    rows, labels = unit(2, 6, 5), torch.tensor([0, 0, 0, 1, 1, 2])
    assert_close(ntxent_loss(rows, positives='in'), ntxent_loss(rows), rtol=1e-12, atol=0)
    assert supcon_loss(rows, labels, positives='in') < supcon_loss(rows, labels)


# ---- invariances


@pytest.mark.parametrize('positives', ['out', 'in'])
def test_order_of_images_and_views_rotation_and_names_of_classes_do_not_matter(positives):
    rows, labels = unit(3, 8, 5), torch.tensor([0, 1, 1, -1, 2, 0, -1, 2])
    loss = supcon_loss(rows, labels, 0.1, positives=positives)
    order = torch.randperm(8)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    for other_rows, other_labels in (
        (rows[:, order], labels[order]),
        (rows.flip(0), labels),
        (rows @ rotation, labels),
        (rows, torch.where(labels < 0, -1, 90 - labels * 7)),
    ):
        assert_close(
            supcon_loss(other_rows, other_labels, 0.1, positives=positives, block_size=5), loss, rtol=1e-12, atol=0
        )


def test_unlabelled_images_are_nobodys_class():
    rows = unit(2, 4, 5)
    assert_close(supcon_loss(rows, torch.tensor([0, 0, -1, -1])), supcon_loss(rows, torch.tensor([0, 0, 1, 2])))


def test_normalize_makes_the_length_of_rows_irrelevant():
    rows = unit(2, 5, 4)
    lengths = torch.rand(2, 5, 1, dtype=torch.float64) + 0.5
    assert_close(supcon_loss(rows * lengths, normalize=True), supcon_loss(rows), rtol=1e-13, atol=0)


def test_numbered_classes_are_the_labels_and_may_stand_for_them():
    labels = torch.tensor([7, -1, 3, 7, -1, 3, 7])
    ids, counts = number_classes(labels)
    same = (labels[:, None] == labels) & (labels >= 0) | torch.eye(7, dtype=torch.bool)
    assert torch.equal(ids[:, None] == ids, same)
    assert torch.equal(counts[ids], same.sum(1))
    assert counts.sum() == 7
    rows = unit(2, 7, 5)
    assert torch.equal(supcon_loss(rows, number_classes(labels)), supcon_loss(rows, labels))
    assert number_classes(labels[:0]).ids.shape == (0,)


# ---- edges: finite loss and gradient


EDGES = {
    'zero rows': (torch.zeros(2, 3, 4), [0, 1, 0]),
    'a zero row': (torch.cat([unit(2, 2, 4), torch.zeros(2, 1, 4)], 1), [0, 1, 0]),
    'one class': (unit(2, 3, 4), [5, 5, 5]),
    'one image': (unit(2, 1, 4), [0]),
    'no image': (unit(2, 0, 4), []),
    'all unlabelled': (unit(2, 3, 4), [-1, -1, -1]),
    'opposite vectors': (torch.eye(4)[:1].expand(2, 2, 4) * torch.tensor([1.0, -1.0])[:, None, None], [0, 1]),
    'equal vectors': (torch.eye(4)[:1].expand(2, 3, 4), [0, 1, -1]),
}


@pytest.mark.parametrize('name', EDGES)
@pytest.mark.parametrize('temperature', [0.005, 0.07, 10.0])
@pytest.mark.parametrize('positives', ['out', 'in'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('normalize', [False, True])
def test_edge_cases_give_finite_loss_and_gradient(name, temperature, positives, dtype, normalize):
    rows, labels = EDGES[name]
    rows = rows.to(dtype).clone().requires_grad_()
    for block_size in (None, 2):
        loss = supcon_loss(
            rows,
            torch.tensor(labels, dtype=torch.int64),
            temperature,
            positives=positives,
            normalize=normalize,
            block_size=block_size,
        )
        loss.backward()
        assert loss.isfinite()
        assert rows.grad.isfinite().all()


def test_opposite_views_at_a_tiny_temperature_cost_their_whole_distance():
    rows = torch.eye(2)[:1].expand(2, 2, 2) * torch.tensor([1.0, -1.0])[:, None, None]  # float32
    loss = ntxent_loss(rows, 0.005)  # to its positive -200, to one negative +200
    assert_close(loss.item(), 400.0)


@pytest.mark.parametrize('temperature', [0.02, 0.04])  # on either side of where two exponentials are needed
def test_float32_agrees_with_float64_for_separated_classes(temperature):
    centre = unit(4, 32, seed=1)
    labels = torch.arange(40) % 4
    rows = F.normalize(centre[labels] + 0.15 * torch.randn(2, 40, 32, dtype=torch.float64), dim=2)
    for positives in ('out', 'in'):
        single, double = rows.float().requires_grad_(), rows.clone().requires_grad_()
        supcon_loss(single, labels, temperature, positives=positives, block_size=32).backward()
        supcon_loss(double, labels, temperature, positives=positives).backward()
        largest = float(double.grad.abs().max())
        assert largest > 1e-3
        assert_close(single.grad.double(), double.grad, rtol=0, atol=1e-3 * largest)


# ---- memory


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation returned."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.largest = max([self.largest, *sizes])
        return out


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(positives='in'),
        dict(local=slice(50, 250)),
        dict(temperature=0.01),
    ],
)
def test_no_tensor_is_larger_than_the_rows_or_a_tile(options):
    rows, labels = unit(2, 500, 8, dtype=torch.float32).requires_grad_(), torch.arange(500) % 10
    with LargestTensor() as mode:
        supcon_loss(rows, labels, block_size=64, **options).backward()
    assert rows.grad is not None
    assert mode.largest <= max(rows.numel(), 64 * 64)


def test_nothing_larger_than_the_rows_is_kept_for_backward():
    rows, kept = unit(2, 600, 4, dtype=torch.float32).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        supcon_loss(rows, block_size=512)
    assert kept
    assert max(kept) <= rows.numel()


# ---- the registered modules


@pytest.mark.parametrize('positives', ['out', 'in'])
def test_modules_are_the_functions_times_their_weight(positives):
    rows, labels = unit(2, 6, 4), torch.tensor([0, 1, 0, 1, -1, 2])
    options = dict(local=slice(1, 4), num_ranks=2)
    supcon = MODELS.build(dict(type='SupConLoss', temperature=0.2, loss_weight=3.0, positives=positives))
    ntxent = MODELS.build(dict(type='NTXentLoss', temperature=0.2, loss_weight=3.0, positives=positives))
    assert_close(supcon(rows, labels, **options), 3 * supcon_loss(rows, labels, 0.2, positives=positives, **options))
    assert_close(ntxent(rows, labels, **options), 3 * ntxent_loss(rows, 0.2, positives=positives, **options))
    assert not list(supcon.parameters())


def test_a_learned_temperature_falls_for_separated_images_and_stops_at_its_bound():
    loss = SupConLoss(temperature=0.1, learn_temperature=True)
    assert_close(loss.temperature.item(), 0.1)
    rows = torch.eye(4).expand(2, 4, 4)
    optimizer = torch.optim.SGD(loss.parameters(), lr=1e5)
    for _ in range(5):
        optimizer.zero_grad()
        loss(rows).backward()
        optimizer.step()
    loss(rows)
    assert_close(loss.temperature.item(), SupConLoss.min_temperature)


# ---- bad input


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(embeddings=torch.ones(4, 3)), r'embeddings must be a floating-point tensor \(V, N, D\), got \(4, 3\)'),
        (dict(embeddings=torch.ones(2, 4, 3, dtype=torch.int64)), 'got .* of torch.int64'),
        (dict(embeddings=unit(1, 4, 3)), 'V = 1 view per image'),
        (dict(embeddings=2 * unit(2, 4, 3)), 'unit length, but the longest has 2. Set normalize=True'),
        (dict(embeddings=0.1 * unit(2, 4, 3)), 'unit length, but the longest has 0.1'),
        (dict(labels=torch.zeros(8, dtype=torch.int64)), r'labels must be integers of shape \(4,\).*got \(8,\)'),
        (dict(labels=torch.zeros(4)), 'labels must be integers .* of torch.float32'),
        (dict(temperature=0.0), 'temperature must be > 0, got 0.0'),
        (dict(temperature=torch.tensor(-1.0)), 'temperature must be > 0, got -1.0'),
        (dict(temperature=math.nan), 'temperature must be > 0, got nan'),
        (dict(positives='both'), "positives is 'both'; choose 'out' or 'in'"),
        (dict(block_size=0), 'block_size must be >= 1, got 0'),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        supcon_loss(**{'embeddings': unit(2, 4, 3), **change})


@pytest.mark.parametrize('value, options', [(math.nan, {}), (math.nan, dict(normalize=True)), (math.inf, {})])
def test_rows_that_are_not_finite_say_that_the_training_diverged(value, options):
    with pytest.raises(DivergedError, match=r'contain NaN or infinity. The training has diverged'):
        supcon_loss(unit(2, 4, 3) * value, **options)


@pytest.mark.parametrize('cls', [SupConLoss, NTXentLoss])
@pytest.mark.parametrize(
    'change, message',
    [
        (dict(temperature=0), 'temperature must be > 0, got 0'),
        (dict(positives='both'), "positives is 'both'"),
        (dict(loss_weight=-1.0), 'loss_weight must be a finite number >= 0, got -1.0'),
        (dict(loss_weight=math.inf), 'loss_weight must be a finite number >= 0, got inf'),
        (dict(learn_temperature=True, temperature=0.005), 'a learned temperature starts at 0.01 or above, got 0.005'),
        (dict(block_size=0), 'block_size must be >= 1, got 0'),
    ],
)
def test_a_bad_setting_fails_when_the_module_is_built(cls, change, message):
    with pytest.raises(ConfigError, match=f'{cls.__name__}: {message}'):
        cls(**change)

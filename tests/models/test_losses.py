"""Each loss is its formula, adds up over the parts of a batch, and has the gradient of the formula."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from unetcli.config import LOSSES as NAMES
from unetcli.models.losses import LOSSES, Term, class_probabilities, counts, loss

SHAPES = [(1, 5, 4), (3, 2, 7), (2, 3, 4, 5), (1, 1, 1)]
CASES = [(name, shape, k) for name in LOSSES for shape in SHAPES for k in ((1,) if name == "bce" else (2, 5))]
cases = pytest.mark.parametrize(("name", "shape", "k"), CASES, ids=lambda value: str(value).replace(" ", ""))
names = pytest.mark.parametrize("name", LOSSES)


def probabilities_of(logits):
    """Return the probability of each class, (k, pixels), of one sample's logits."""
    if len(logits) == 1:
        p = 1 / (1 + np.exp(-logits))
        return np.concatenate([1 - p, p])
    e = np.exp(logits - logits.max(axis=0))
    return e / e.sum(axis=0)


def cross_entropy(logits, target, weights):
    total = 0.0
    for a, t, w in zip(logits, target, weights, strict=True):
        p = probabilities_of(a.reshape(len(a), -1))
        total -= sum(v * np.log(p[c, i]) for i, (c, v) in enumerate(zip(t.ravel(), w.ravel(), strict=True)))
    return total / weights.sum()


def dice(logits, target, weights):
    scores = []
    for a, t, w in zip(logits, target, weights, strict=True):
        p, t, counted = probabilities_of(a.reshape(len(a), -1)), t.ravel(), w.ravel() > 0
        for c in range(1, len(p)):
            found, true = p[c][counted], (t == c)[counted]
            scores.append((2 * found[true].sum() + 1) / (found.sum() + true.sum() + 1))
    return 1 - np.mean(scores)


ORACLES = {
    "weighted-cross-entropy": cross_entropy,
    "cross-entropy": lambda a, t, w: cross_entropy(a, t, (w > 0).astype(float)),
    "bce": cross_entropy,
    "dice": dice,
    "dice-cross-entropy": lambda a, t, w: dice(a, t, w) + cross_entropy(a, t, w),
}


def example(shape, k, seed=0):
    """Return logits, target and weights as float64; every fourth pixel or so has no weight."""
    rng = np.random.default_rng(seed)
    logits, weights = rng.normal(0, 3, (shape[0], k, *shape[1:])), rng.uniform(0, 12, shape)
    weights[rng.random(shape) < 0.25] = 0
    weights[0].flat[0] = 1.5
    return logits, rng.integers(0, max(k, 2), shape), weights


def tensors(shape, k, seed=0):
    return [torch.from_numpy(a) for a in example(shape, k, seed)]


def channels(name):
    return 1 if name == "bce" else 3


def test_names_are_those_of_the_settings():
    assert tuple(LOSSES) == NAMES
    assert set(ORACLES) == set(LOSSES)


@cases
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_equals_the_formula(name, shape, k, dtype, tolerance):
    logits, target, weights = example(shape, k)
    made = loss(
        LOSSES[name],
        torch.tensor(logits, dtype=dtype),
        torch.tensor(target),
        torch.tensor(weights, dtype=dtype),
    )
    assert (made.shape, made.dtype) == ((), dtype)
    assert float(made) == pytest.approx(ORACLES[name](logits, target, weights), rel=tolerance, abs=tolerance)


@cases
def test_the_gradient_is_that_of_the_formula(name, shape, k):
    logits, target, weights = tensors(shape, k)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: loss(LOSSES[name], a, target, weights), logits)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_entropy_is_that_of_torch(shape):
    logits, target, weights = tensors(shape, 4)
    weights[0].view(-1)[0] = 1.5
    expected = F.cross_entropy(logits, target.where(weights > 0, -100), ignore_index=-100)
    torch.testing.assert_close(loss(LOSSES["cross-entropy"], logits, target, weights), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weighted_cross_entropy_with_a_weight_for_each_class_is_that_of_torch(shape):
    logits, target, _ = tensors(shape, 4)
    of_class = torch.tensor([0.5, 2.0, 3.0, 7.0], dtype=torch.float64)
    expected = F.cross_entropy(logits, target, weight=of_class)
    torch.testing.assert_close(loss(LOSSES["weighted-cross-entropy"], logits, target, of_class[target]), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bce_is_that_of_torch(shape):
    logits, target, weights = tensors(shape, 1)
    summed = F.binary_cross_entropy_with_logits(logits[:, 0], target.double(), weights, reduction="sum")
    torch.testing.assert_close(loss(LOSSES["bce"], logits, target, weights), summed / weights.sum())


def test_bce_is_the_softmax_of_a_logit_against_0():
    logits, target, weights = tensors((2, 5, 4), 1)
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(
        loss(LOSSES["bce"], logits, target, weights), loss(LOSSES["weighted-cross-entropy"], two, target, weights)
    )
    torch.testing.assert_close(class_probabilities(logits), class_probabilities(two))


@names
@given(parts=st.lists(st.integers(0, 2), min_size=5, max_size=5), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_parts_of_a_batch_add_up_to_its_loss(name, parts, seed):
    """Any partition: each part's total over the whole count, as accumulation and processes compute it."""
    logits, target, weights = tensors((5, 3, 4), channels(name), seed)
    parts = torch.tensor(parts)
    subsets = [parts == part for part in parts.unique()]
    whole = sum(counts(LOSSES[name], weights[s]) for s in subsets)
    torch.testing.assert_close(whole, counts(LOSSES[name], weights))
    added = sum(loss(LOSSES[name], logits[s], target[s], weights[s], whole) for s in subsets)
    torch.testing.assert_close(added, loss(LOSSES[name], logits, target, weights))


@names
def test_pixels_without_weight_do_not_count_even_if_they_are_far_off(name):
    logits, target, weights = tensors((2, 4, 4), channels(name))
    weights[:, :2] = 0
    logits.requires_grad_()
    before = loss(LOSSES[name], logits, target, weights)
    before.backward()
    assert not logits.grad[:, :, :2].any()
    assert logits.grad[:, :, 2:].any()
    changed = logits.detach().clone()
    changed[:, :, :2] = 1e4 * changed[:, :, :2].sign()
    assert loss(LOSSES[name], changed, target, weights) == before


@pytest.mark.parametrize(
    ("name", "by_value"),
    [
        ("weighted-cross-entropy", True),
        ("cross-entropy", False),
        ("bce", True),
        ("dice", False),
        ("dice-cross-entropy", True),
    ],
)
def test_which_losses_take_the_values_of_weights(name, by_value):
    logits, target, weights = tensors((2, 6, 5), channels(name))
    ones = (weights > 0).double()
    weighted, plain = (loss(LOSSES[name], logits, target, w) for w in (weights, ones))
    assert (weighted != plain) == by_value
    torch.testing.assert_close(loss(LOSSES[name], logits, target, 7 * weights), weighted)  # only ratios count


@names
def test_without_any_weight_there_is_nothing_to_learn(name):
    logits, target, weights = tensors((2, 4, 4), channels(name))
    logits.requires_grad_()
    made = loss(LOSSES[name], logits, target, 0 * weights)
    made.backward()
    assert made == 0
    assert not logits.grad.any()


@names
@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_large_logits_do_not_overflow(name, scale):
    logits, target, weights = tensors((2, 4, 4), channels(name))
    logits = (scale * logits.sign()).float().requires_grad_()
    made = loss(LOSSES[name], logits, target, weights)
    made.backward()
    assert made.isfinite()
    assert logits.grad.isfinite().all()


@names
def test_bfloat16_is_computed_in_float32(name):
    logits, target, weights = tensors((2, 8, 8), channels(name))
    half = logits.bfloat16()
    exact = loss(LOSSES[name], half.float(), target, weights.float())
    with torch.autocast("cpu", torch.bfloat16):
        made = loss(LOSSES[name], half, target, weights.float())
    assert made.dtype == torch.float32
    assert made == exact
    assert class_probabilities(half).dtype == torch.float32


def test_a_class_that_is_not_there_and_not_found_costs_nothing():
    target, weights = torch.zeros(1, 4, 4, dtype=torch.int64), torch.ones(1, 4, 4)
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 0] = 40
    assert float(loss(LOSSES["dice"], logits, target, weights)) == pytest.approx(0, abs=1e-6)
    logits[:, 2] = 80  # found where it is not
    assert float(loss(LOSSES["dice"], logits, target, weights)) == pytest.approx((1 - 1 / 17) / 2)


@names
def test_of_several_outputs_the_mean_counts(name):
    logits, target, weights = tensors((2, 8, 6), channels(name))
    other = torch.randn(2, channels(name), 4, 6, dtype=torch.float64)
    whole = counts(LOSSES[name], weights)
    middle = loss(LOSSES[name], other, target[:, 2:6], weights[:, 2:6], whole)
    expected = (loss(LOSSES[name], logits, target, weights) + middle) / 2
    torch.testing.assert_close(loss(LOSSES[name], [logits, other], target, weights), expected)
    torch.testing.assert_close(
        loss(LOSSES[name], [logits], target, weights), loss(LOSSES[name], logits, target, weights)
    )


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("k", [1, 2, 4])
def test_probabilities(shape, k):
    logits, *_ = example(shape, k)
    made = class_probabilities(torch.from_numpy(logits))
    assert made.shape == (shape[0], max(k, 2), *shape[1:])
    for sample, a in zip(made.numpy(), logits, strict=True):
        np.testing.assert_allclose(sample.reshape(len(sample), -1), probabilities_of(a.reshape(k, -1)), rtol=1e-12)


def test_small_probabilities_of_a_single_logit_are_kept():
    made = class_probabilities(torch.tensor([[[[40.0]]]]))
    assert float(made[0, 0, 0, 0]) == pytest.approx(np.exp(-40), rel=1e-5)


def test_terms_may_be_of_ones_own():
    squares = Term(lambda a, t, w: (w * (class_probabilities(a)[:, 1] - t) ** 2).sum(), torch.sum)
    logits, target, weights = tensors((2, 4, 4), 2)
    expected = (weights * (logits.softmax(1)[:, 1] - target) ** 2).sum() / weights.sum()
    torch.testing.assert_close(loss((squares,), logits, target, weights), expected)


@names
def test_each_loss_teaches(name):
    """Bright pixels are of class 1; pixels that say otherwise have no weight."""
    torch.manual_seed(0)
    image = torch.randn(4, 1, 16, 16)
    bright, wrong = image[:, 0] > 0.3, torch.rand(4, 16, 16) < 0.4
    target, weights = (bright ^ wrong).long(), (~wrong).float()
    network = torch.nn.Conv2d(1, 1 if name == "bce" else 2, 1)
    optimizer = torch.optim.Adam(network.parameters(), 0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss(LOSSES[name], network(image), target, weights).backward()
        optimizer.step()
    found = class_probabilities(network(image)).argmax(dim=1)
    assert float((found == bright).float().mean()) > 0.95

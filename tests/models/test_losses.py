"""The loss is the paper's formula."""

import numpy as np
import pytest
import torch

from unetcli.models.losses import weighted_cross_entropy


def oracle(logits, target, weights):
    """Equation 1, pixel by pixel, in float64."""
    total = 0.0
    for n, *at in np.ndindex(target.shape):
        a = logits[(n, slice(None), *at)]
        p = np.exp(a - a.max()) / np.exp(a - a.max()).sum()
        total -= weights[(n, *at)] * np.log(p[target[(n, *at)]])
    return total / weights.sum()


def example(shape, classes, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (shape[0], classes, *shape[1:]))
    return logits, rng.integers(0, classes, shape), rng.uniform(0, 12, shape)


@pytest.mark.parametrize("shape", [(1, 5, 4), (3, 2, 7), (2, 3, 4, 5), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_equals_the_formula(shape, classes, dtype, tolerance):
    logits, target, weights = example(shape, classes)
    tensors = torch.tensor(logits, dtype=dtype), torch.tensor(target), torch.tensor(weights, dtype=dtype)
    loss = weighted_cross_entropy(*tensors)
    assert loss.shape == ()
    assert float(loss) == pytest.approx(oracle(logits, target, weights), rel=tolerance)


def test_the_gradient_is_that_of_the_formula():
    logits, target, weights = (torch.tensor(a) for a in example((2, 4, 3), 3))
    logits.requires_grad_()
    weighted_cross_entropy(logits, target, weights).backward()
    one_hot = torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    expected = (logits.detach().softmax(1) - one_hot) * weights[:, None] / weights.sum()
    torch.testing.assert_close(logits.grad, expected)


def test_pixels_without_weight_do_not_count_even_if_they_are_far_off():
    logits, target, weights = (torch.tensor(a) for a in example((1, 4, 4), 2))
    weights[0, :2] = 0
    before = weighted_cross_entropy(logits, target, weights)
    logits[0, :, :2] = torch.tensor([1e4, -1e4])[:, None, None]
    assert weighted_cross_entropy(logits, target, weights) == before


def test_only_ratios_of_weights_count():
    logits, target, weights = (torch.tensor(a) for a in example((1, 4, 4), 2))
    torch.testing.assert_close(
        weighted_cross_entropy(logits, target, 7 * weights), weighted_cross_entropy(logits, target, weights)
    )


def test_large_logits_do_not_overflow():
    logits = torch.tensor([[[[1e4]], [[-1e4]]]])
    assert float(weighted_cross_entropy(logits, torch.tensor([[[1]]]), torch.ones(1, 1, 1))) == pytest.approx(2e4)
    assert float(weighted_cross_entropy(logits, torch.tensor([[[0]]]), torch.ones(1, 1, 1))) == 0


def test_without_any_weight_there_is_nothing_to_learn():
    logits, target, weights = (torch.tensor(a) for a in example((1, 4, 4), 2))
    logits.requires_grad_()
    loss = weighted_cross_entropy(logits, target, 0 * weights)
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()

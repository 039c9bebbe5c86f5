"""Losses over logits, as sums of terms that add up over patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor


@dataclass(frozen=True)
class Term:
    """A part of a loss: a total over a batch, and what this is divided by.

    Both add up: the totals of the parts of a batch, wherever they were computed, summed and divided by the sum
    of their counts, are the term of the whole batch.

    Parameters
    ----------
    total
        Takes logits ``(n, k, [z,] y, x)``, target ``(n, [z,] y, x)`` int64 and weights ``(n, [z,] y, x)``, >= 0.
        Pixels of weight 0 count in no term.
    count
        Takes the weights.
    """

    total: Callable[[Tensor, Tensor, Tensor], Tensor]
    count: Callable[[Tensor], Tensor]


def class_probabilities(logits: Tensor) -> Tensor:
    """Return the probability of each class.

    Parameters
    ----------
    logits : (n, k, [z,] y, x) float
        One for each class, for a softmax; or a single one, of class 1, for a sigmoid.

    Returns
    -------
    (n, classes, [z,] y, x) float32
        Float64 for logits of float64.
    """
    logits = _precise(logits)
    if logits.shape[1] > 1:
        return logits.softmax(dim=1)
    return torch.cat([-logits, logits], dim=1).sigmoid()  # not 1 - p, which is 0 where p rounds to 1


def totals(terms: Sequence[Term], outputs: Tensor | Sequence[Tensor], target: Tensor, weights: Tensor) -> Tensor:
    """Return the total of each term, ``(terms,)``, of what `loss` takes; totals of parts of a batch add up."""
    several = [outputs] if isinstance(outputs, Tensor) else outputs
    parts = [
        torch.stack([
            term.total(_precise(logits), *(_middle(image, logits.shape[2:]) for image in (target, weights)))
            for term in terms
        ])
        for logits in several
    ]  # fmt: skip
    return torch.stack(parts).mean(dim=0)


def counts(terms: Sequence[Term], weights: Tensor) -> Tensor:
    """Return what the total of each term is divided by, ``(terms,)``; counts of parts of a batch add up."""
    return torch.stack([term.count(weights).to(weights.dtype) for term in terms])


def loss(
    terms: Sequence[Term],
    outputs: Tensor | Sequence[Tensor],
    target: Tensor,
    weights: Tensor,
    divisors: Tensor | None = None,
) -> Tensor:
    """Return the sum over the terms of total / count.

    Parameters
    ----------
    terms
        One of `LOSSES`.
    outputs : (n, k, [z,] y, x) float, or a sequence of them
        Logits. Of several (deep supervision) the mean counts; one that is smaller lies in the middle.
    target : (n, [z,] y, x) int64
        Class of each pixel.
    weights : (n, [z,] y, x) float
        Weight map, >= 0; where all are 0, the loss is 0.
    divisors : (terms,) float
        The `counts` of the whole batch, if this is a part of it: the losses of the parts then add up to that of
        the batch. By default, those of these weights.

    Returns
    -------
    () float
    """
    divisors = counts(terms, weights) if divisors is None else divisors
    return (totals(terms, outputs, target, weights) / divisors.clamp_min(torch.finfo(divisors.dtype).tiny)).sum()


def _precise(logits: Tensor) -> Tensor:
    """Return logits of at least float32: in bfloat16 a logarithm has two digits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _middle(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Cut the middle out of ``(n, [z,] y, x)``."""
    starts = [(size - wanted) // 2 for size, wanted in zip(image.shape[1:], shape, strict=True)]
    return image[(slice(None), *(slice(a, a + n) for a, n in zip(starts, shape, strict=True)))]


def _cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    return (F.cross_entropy(logits, target, reduction="none") * weights).sum()


def _plain_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    return _cross_entropy(logits, target, (weights > 0).to(weights.dtype))


def _binary_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits[:, 0], target.to(logits.dtype), weights, reduction="sum")


SMOOTH_PX = 1.0
"""Pixels that every class has, and that are found, in `_dice`: a class that is not there and not found scores 1."""


def _dice(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Sum ``1 - Dice`` over samples; Dice is the mean over the classes but background."""
    classes = torch.arange(1, max(2, logits.shape[1]), device=logits.device)
    counted = (weights > 0).flatten(1)[:, None]  # (n, 1, pixels)
    found = class_probabilities(logits)[:, 1:].flatten(2) * counted  # (n, classes - 1, pixels)
    truth = (target.flatten(1)[:, None] == classes[:, None]) & counted
    overlap, size = (found * truth).sum(dim=2), found.sum(dim=2) + truth.sum(dim=2)
    return (1 - (2 * overlap + SMOOTH_PX) / (size + SMOOTH_PX)).mean(dim=1).sum()


WEIGHTED = Term(_cross_entropy, torch.sum)
DICE = Term(_dice, lambda weights: weights.new_tensor(len(weights)))
LOSSES: dict[str, tuple[Term, ...]] = {
    "weighted-cross-entropy": (WEIGHTED,),
    "cross-entropy": (Term(_plain_cross_entropy, torch.count_nonzero),),
    "bce": (Term(_binary_cross_entropy, torch.sum),),
    "dice": (DICE,),
    "dice-cross-entropy": (DICE, WEIGHTED),
}
"""Losses by name; ``bce`` takes a single logit, the others one for each class.

For pixels x of class l, weights w, probabilities p and classes c = 1, 2, ... but background:

- ``weighted-cross-entropy``: ``-sum w log p_l / sum w``: eq. 1 of [1]_, divided by the sum of the weights, so that
  a learning rate means the same for any size of patch and any weight map.
- ``cross-entropy``: the same with weight 1 wherever w > 0.
- ``bce``: ``-sum w (l log p_1 + (1 - l) log(1 - p_1)) / sum w`` with a sigmoid for p_1: two classes only.
- ``dice``: the mean over samples and classes of ``1 - (2 sum p_c g_c + 1) / (sum p_c + sum g_c + 1)``, where g_c is
  1 on the class and 0 elsewhere, over pixels of w > 0. [2]_ has squares in the denominator, and no 1.
- ``dice-cross-entropy``: the sum of ``dice`` and ``weighted-cross-entropy``, as in [3]_.

References
----------
.. [1] Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015. arXiv:1505.04597
.. [2] Milletari, Navab, Ahmadi, "V-Net", 3DV 2016. arXiv:1606.04797
.. [3] Isensee, Jaeger, Kohl, Petersen, Maier-Hein, "nnU-Net", Nature Methods 2021
"""

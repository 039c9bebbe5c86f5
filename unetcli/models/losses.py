"""Losses over logits, weighted per pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor


def weighted_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted softmax cross-entropy, ``-sum w(x) log p_l(x)(x) / sum w(x)``.

    Parameters
    ----------
    logits : (n, classes, [z,] y, x) float
        Output of the network.
    target : (n, [z,] y, x) int64
        Class of each pixel.
    weights : (n, [z,] y, x) float
        Weight map, >= 0; where all are 0, the loss is 0.

    Returns
    -------
    () float

    Notes
    -----
    Eq. 1 of [1]_, divided by the sum of the weights, so that the learning rate means the same for any tile
    size and any weight map.

    References
    ----------
    .. [1] Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015. arXiv:1505.04597
    """
    total = weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
    return (F.cross_entropy(logits, target, reduction="none") * weights).sum() / total


def class_probabilities(logits: Tensor) -> Tensor:
    """Return the probability of each class.

    Parameters
    ----------
    logits : (n, k, [z,] y, x) float
        One for each class, for a softmax; or a single one, of class 1, for a sigmoid.

    Returns
    -------
    (n, classes, [z,] y, x) float32
    """
    logits = logits.float()
    if logits.shape[1] > 1:
        return logits.softmax(dim=1)
    return torch.cat([-logits, logits], dim=1).sigmoid()  # not 1 - p, which is 0 where p rounds to 1

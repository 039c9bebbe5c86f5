"""Scores of a division into segments: Rand, V_Rand, V_Info, variation of information; border thinning."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label

from unetcli.errors import ConfigError
from unetcli.metrics.compiled import compiled
from unetcli.metrics.tables import ContingencyTable, Counts, ratio

SegmentImage = NDArray[np.signedinteger[Any]]
NEIGHBOURS = {2: (4, 8), 3: (6, 18, 26)}
"""By number of dimensions: how many neighbours a pixel may have, those with a common face only first."""

_DAM, _MEMBRANE, _QUEUED, _OUTSIDE = 0, -1, -2, -3  # states of a pixel in the flooding; > 0: a segment


# --- segments ---------------------------------------------------------------------------------------------


def components(mask: NDArray[np.bool_], connectivity: int | None = None) -> SegmentImage:
    """Label the connected components of a mask.

    Parameters
    ----------
    mask : ([z,] y, x) bool
        Foreground.
    connectivity
        Neighbours of a pixel: 4 or 8 in a plane, 6, 18 or 26 in a volume; None: the least.

    Returns
    -------
    ([z,] y, x) int
        Ids 1, 2, ... of the components, 0 = background.

    Raises
    ------
    ConfigError
        A pixel of such an image has no such number of neighbours.
    """
    steps = NEIGHBOURS[mask.ndim]
    if connectivity is not None and connectivity not in steps:
        expected = " or ".join(map(str, steps))
        raise ConfigError(f"connectivity: {connectivity}; expected {expected} in {mask.ndim} dimensions")
    segments: SegmentImage = label(mask, connectivity=1 if connectivity is None else steps.index(connectivity) + 1)
    return segments


def thin_borders(segments: NDArray[Any]) -> SegmentImage:
    """Let the segments grow until only dams of one pixel part them.

    Parameters
    ----------
    segments : (y, x) int
        Segment ids, 0 = membrane.

    Returns
    -------
    (y, x) int64
        The same ids, grown; 0 = dam. An image without a segment becomes one segment. Where an id is too large for the
        type, the segments are numbered anew.

    Notes
    -----
    The flooding of Vincent and Soille [1]_ from the segments over a flat membrane, in the order of Fiji: the
    queue starts with the membrane pixels at an edge of a segment, column by column; neighbours are looked at
    left, up, right, down. A watershed that floods in another order puts the dams elsewhere.

    References
    ----------
    .. [1] Vincent, Soille, "Watersheds in digital spaces", IEEE PAMI 13(6), 1991.
    """
    if not segments.any():
        return np.ones(segments.shape, np.int64)
    if segments.dtype.kind == "u" and segments.max() > np.iinfo(np.int64).max:
        segments = np.where(segments == 0, 0, 1 + np.unique(segments, return_inverse=True)[1])
    state = np.where(segments == 0, _MEMBRANE, segments.astype(np.int64))
    state = np.pad(state, 1, constant_values=_OUTSIDE)
    _flood(state.ravel(), state.shape[1])
    return np.ascontiguousarray(state[1:-1, 1:-1])


@compiled
def _flood(state: SegmentImage, width: int) -> None:
    """Flood the membrane of a flattened, padded image in place."""
    queue, n = _first_queue(state, width)
    head = 0
    may_relabel = False  # one flag for the whole image: a dam set beside a dam may still take a label
    while head < n:
        pixel = queue[head]
        head += 1
        for step in (-1, -width, 1, width):
            other = pixel + step
            if state[other] > 0:
                if state[pixel] == _QUEUED or (state[pixel] == _DAM and may_relabel):
                    state[pixel] = state[other]
                elif state[pixel] > 0 and state[pixel] != state[other]:
                    state[pixel] = _DAM
                    may_relabel = False
            elif state[other] == _DAM and state[pixel] == _QUEUED:
                state[pixel] = _DAM
                may_relabel = True
            elif state[other] == _MEMBRANE:
                state[other] = _QUEUED
                queue[n] = other
                n += 1


@compiled
def _first_queue(state: SegmentImage, width: int) -> tuple[NDArray[np.int64], int]:
    """Queue the membrane pixels with a segment at an edge, column by column."""
    queue = np.empty(state.size, np.int64)
    n = 0
    for x in range(1, width - 1):
        for pixel in range(width + x, state.size - width, width):
            if state[pixel] != _MEMBRANE:
                continue
            around = max(max(state[pixel - 1], state[pixel + 1]), max(state[pixel - width], state[pixel + width]))
            if around > 0:
                state[pixel] = _QUEUED
                queue[n] = pixel
                n += 1
    return queue, n


# --- Rand: pairs of pixels --------------------------------------------------------------------------------


class PairSums(NamedTuple):
    """Sums of squared sizes, in pixels squared and exact: ordered pairs of pixels that share a segment.

    Parameters
    ----------
    both
        Over the overlaps: pairs that are together in truth and in prediction.
    truth, prediction
        Over the segments of one side.
    """

    both: int
    truth: int
    prediction: int


class VRand(NamedTuple):
    """The foreground-restricted Rand F-score and its parts, each 0..1, 1 = perfect.

    Parameters
    ----------
    fscore
        Harmonic mean of split and merge.
    split
        Recall: pairs together in the truth that stay together. Low when objects are split.
    merge
        Precision: pairs together in the prediction that belong together. Low when objects are merged.
    """

    fscore: float
    split: float
    merge: float


def pair_sums(table: ContingencyTable) -> PairSums:
    """Sum the squared sizes of overlaps and segments, 0 being a segment like any other.

    Parameters
    ----------
    table
        Overlaps of truth and prediction.

    Returns
    -------
    PairSums
    """
    return PairSums(*(_sum_squares(sizes) for sizes in (table.counts, table.truth.sizes, table.prediction.sizes)))


def foreground_pair_sums(table: ContingencyTable) -> PairSums:
    """Sum the squared sizes where the truth is foreground.

    Parameters
    ----------
    table
        Overlaps of truth and prediction.

    Returns
    -------
    PairSums

    Notes
    -----
    Pixels of truth 0 are left out. A pixel of prediction 0 is a segment of its own, so it adds 1 to the sums
    of overlaps and of predicted segments.
    """
    both, truth, prediction = pair_sums(table.foreground)
    shared = table.foreground.counts[table.foreground.prediction_ids == 0]
    n_single = int(shared.sum())
    return PairSums(both - _sum_squares(shared) + n_single, truth, prediction - n_single**2 + n_single)


def rand_error(table: ContingencyTable) -> float:
    """Compute the share of pairs of pixels on which truth and prediction disagree.

    Parameters
    ----------
    table
        Overlaps of truth and prediction; 0 is a segment like any other.

    Returns
    -------
    float
        0..1, 0 = perfect; nan with fewer than two pixels.

    Notes
    -----
    ``(sum a_i**2 + sum b_j**2 - 2 sum n_ij**2) / (N (N - 1))``: 1 minus the Rand index [1]_.

    References
    ----------
    .. [1] Rand, "Objective criteria for the evaluation of clustering methods", JASA 66, 1971.
    """
    sums, n = pair_sums(table), table.n_pixels
    return ratio(sums.truth + sums.prediction - 2 * sums.both, n * (n - 1))


def v_rand(*tables: ContingencyTable) -> VRand:
    """Compute V_Rand, the foreground-restricted Rand F-score, and its split and merge parts.

    Parameters
    ----------
    *tables
        Overlaps of the 4-connected components of truth and prediction, the prediction thinned for the score
        of the challenge (`thin_borders`). Of several tables the pairs are pooled.

    Returns
    -------
    VRand
        nan where the truth has no foreground.

    Notes
    -----
    Over the pixels of the truth's foreground, with ``q`` pixels of prediction 0 as segments of their own,
    ``split = (sum n_ij**2 + q) / sum a_i**2``, ``merge = (sum n_ij**2 + q) / (sum b_j**2 + q)`` [1]_.

    References
    ----------
    .. [1] Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for
       connectomics", Front. Neuroanat. 9:142, 2015.
    """
    return _v_rand(*(sum(sums) for sums in zip(*map(foreground_pair_sums, tables), strict=True)))


def fg_rand_fscore(*tables: ContingencyTable) -> float:
    """Compute `v_rand(...).fscore`: the name of the score where the prediction is not thinned.

    Parameters
    ----------
    *tables
        Overlaps of truth and prediction; of several tables the pairs are pooled.

    Returns
    -------
    float
        0..1, 1 = perfect; nan where the truth has no foreground.
    """
    return v_rand(*tables).fscore


def fscore_of_sums(both: int, truth: int, prediction: int) -> float:
    """Compute `fg_rand_fscore` of `foreground_pair_sums`, which add up over images."""
    return _v_rand(both, truth, prediction).fscore


def adapted_rand_error(table: ContingencyTable) -> float:
    """Compute the adapted Rand error as the code of CREMI does.

    Parameters
    ----------
    table
        Overlaps of truth and prediction.

    Returns
    -------
    float
        0..1, 0 = perfect; nan where the truth has no foreground.

    Notes
    -----
    1 minus the F-score of `v_rand`, but with ``q / N`` in place of ``q``, where N counts **all** pixels: the
    singletons hardly count. See `adapted_rand_error_paper`, `adapted_rand_error_scikit_image` and [1]_.

    References
    ----------
    .. [1] CREMI challenge, https://github.com/cremi/cremi_python, `cremi/evaluation/rand.py`.
    """
    return 1 - adapted_rand(table).fscore


def adapted_rand(table: ContingencyTable) -> VRand:
    """Compute what `adapted_rand_error` is 1 minus the F-score of, with recall (split) and precision (merge).

    Parameters
    ----------
    table
        Overlaps of truth and prediction.

    Returns
    -------
    VRand
        nan where the truth has no foreground.
    """
    sums, kept = foreground_pair_sums(table), table.foreground
    n_single = int(kept.counts[kept.prediction_ids == 0].sum())
    surplus = n_single - ratio(n_single, table.n_pixels)
    return _v_rand(sums.both - surplus, sums.truth, sums.prediction - surplus)


def adapted_rand_error_paper(table: ContingencyTable) -> float:
    """Compute the adapted Rand error as the paper defines it: 1 minus `fg_rand_fscore`.

    Parameters
    ----------
    table
        Overlaps of truth and prediction.

    Returns
    -------
    float
        0..1, 0 = perfect; nan where the truth has no foreground.
    """
    return 1 - fg_rand_fscore(table)


def adapted_rand_error_scikit_image(table: ContingencyTable) -> float:
    """Compute the adapted Rand error as scikit-image does.

    Parameters
    ----------
    table
        Overlaps of truth and prediction.

    Returns
    -------
    float
        0..1, 0 = perfect; nan where no two pixels share a segment.

    Notes
    -----
    Pixels of truth 0 are left out, and prediction 0 is **one** segment there. Pairs are ``n (n - 1)``.
    """
    sums, n = pair_sums(table.foreground), table.foreground.n_pixels
    return 1 - ratio(2 * (sums.both - n), sums.truth + sums.prediction - 2 * n)


ADAPTED_RAND_VARIANTS: dict[str, Callable[[ContingencyTable], float]] = {
    "cremi": adapted_rand_error,
    "paper": adapted_rand_error_paper,
    "scikit-image": adapted_rand_error_scikit_image,
}
"""The three numbers that go by the name of adapted Rand error; `adapted_rand_error` is the default."""


# --- information ------------------------------------------------------------------------------------------


class Vi(NamedTuple):
    """The variation of information and its parts, in bits, 0 = perfect.

    Parameters
    ----------
    split
        ``H(prediction | truth)``: high when objects are split.
    merge
        ``H(truth | prediction)``: high when objects are merged.
    """

    split: float
    merge: float


def v_info(table: ContingencyTable) -> float:
    """Compute V_Info, the foreground-restricted F-score of information.

    Parameters
    ----------
    table
        Overlaps of truth and prediction, the prediction thinned for the score of the challenge.

    Returns
    -------
    float
        0..1, 1 = perfect. 0 where a side has a single segment, which holds no information, even if the sides
        are identical; nan where the truth has no foreground.

    Notes
    -----
    ``2 I(T, S) / (H(T) + H(S))``, ``I = H(T) + H(S) - H(T, S)``, over the pixels of the truth's foreground,
    each pixel of prediction 0 a segment of its own [1]_.

    References
    ----------
    .. [1] Arganda-Carreras et al., Front. Neuroanat. 9:142, 2015.
    """
    truth, prediction, joint = _foreground_entropies(table)
    if truth + prediction == 0:
        return 0.0  # 0/0: a single segment on both sides, 0 by the rule above
    return 2 * max(truth + prediction - joint, 0.0) / (truth + prediction)


def fg_vi_nats(table: ContingencyTable) -> float:
    """Compute the foreground-restricted variation of information, in nats.

    Parameters
    ----------
    table
        Overlaps of truth and prediction.

    Returns
    -------
    float
        ``2 H(T, S) - H(T) - H(S)`` with the entropies of `v_info`, 0 = perfect; nan where the truth has no
        foreground.
    """
    truth, prediction, joint = _foreground_entropies(table)
    return 2 * joint - truth - prediction


def vi(table: ContingencyTable, *, ignore_truth_background: bool = False) -> Vi:
    """Compute the variation of information, split and merge.

    Parameters
    ----------
    table
        Overlaps of truth and prediction; 0 is a segment like any other.
    ignore_truth_background
        Leave out the pixels of truth 0, as CREMI does.

    Returns
    -------
    Vi
        nan without a pixel.

    Notes
    -----
    ``split = -sum p_ij log2(p_ij / a_i)``, ``merge = -sum p_ij log2(p_ij / b_j)`` [1]_.

    References
    ----------
    .. [1] Meila, "Comparing clusterings by the variation of information", COLT 2003.
    """
    if ignore_truth_background:
        table = table.foreground
    split, merge = (
        ratio(math.fsum(table.counts * np.log2(side.sizes[side.of_pair] / table.counts)), table.n_pixels)
        for side in (table.truth, table.prediction)
    )
    return Vi(split, merge)


# --- sums -------------------------------------------------------------------------------------------------


def _v_rand(both: float, truth: float, prediction: float) -> VRand:
    """Turn foreground pair sums into F-score, split and merge."""
    return VRand(ratio(2 * both, truth + prediction), ratio(both, truth), ratio(both, prediction))


def _foreground_entropies(table: ContingencyTable) -> tuple[float, float, float]:
    """H(T), H(S), H(T, S) in nats over the truth's foreground, prediction 0 being singletons."""
    kept = table.foreground
    matched, n = kept.select(kept.prediction_ids != 0), kept.n_pixels
    single = ratio(n - matched.n_pixels, n) * math.log(n) if n else math.nan
    truth, prediction = _entropy(kept.truth.sizes, n), _entropy(matched.prediction.sizes, n)
    return truth, prediction + single, _entropy(matched.counts, n) + single


def _sum_squares(counts: Counts) -> int:
    """Sum squares exactly, without overflow."""
    if counts.sum() < 2**31:  # the sum of squares is no more than the square of the sum
        return int(counts @ counts)
    return sum(count * count for count in counts.tolist())


def _entropy(counts: Counts, n: int) -> float:
    """Compute -sum p ln p of ``p = counts / n``, in nats; nan without a pixel."""
    if n == 0:
        return math.nan
    shares = counts / n
    return -math.fsum(shares * np.log(shares)) + 0.0  # no -0.0

"""Calibration: whether foreground is as frequent as its probability says; from a table that adds up over tiles."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError
from unetcli.metrics.compiled import compiled
from unetcli.metrics.tables import Counts, ratio

N_BINS = 10
_ONE = 1 << 24  # a probability of 1 in the table: whole numbers add up to the same in any order


class CalibrationBin(NamedTuple):
    """The pixels whose probability lies in one interval.

    Parameters
    ----------
    low, high
        The interval, ``low <= p < high``; the last one includes 1.
    n_pixels
        Number of pixels; 0: the next two are nan.
    confidence
        Their mean probability of foreground, 0..1.
    frequency
        The share of them that is foreground in the truth, 0..1.
    """

    low: float
    high: float
    n_pixels: int
    confidence: float
    frequency: float


def calibration_table(truth: NDArray[Any], probabilities: NDArray[np.floating[Any]], n_bins: int = N_BINS) -> Counts:
    """Count pixels, foreground and probability in intervals of the probability.

    Parameters
    ----------
    truth : (...) int or bool
        Foreground is nonzero.
    probabilities : (...) float, 0..1
        Of foreground.
    n_bins
        Number of intervals of the same width.

    Returns
    -------
    (n_bins, 3) int64
        Pixels, pixels of foreground, and the sum of probabilities in steps of 2**-24. Tables of tiles add up with
        ``+``, to the same however an image is cut.

    Raises
    ------
    InputError
        The shapes differ, or a value is no probability.
    """
    if truth.shape != probabilities.shape:
        raise InputError(f"prediction: shape is {probabilities.shape}; expected the truth's, {truth.shape}")
    if probabilities.size and not (probabilities.min() >= 0 and probabilities.max() <= 1):  # nan fails both
        found = f"values are {probabilities.min()} to {probabilities.max()}"
        raise InputError(f"prediction: {found}; expected probabilities, 0 to 1")
    table = np.zeros((n_bins, 3), np.int64)
    native = probabilities.dtype.newbyteorder("=") if probabilities.dtype.itemsize > 2 else np.float32
    _fill((truth != 0).ravel(), probabilities.ravel().astype(native, copy=False), table)
    return table


def reliability(table: Counts) -> list[CalibrationBin]:
    """Return the intervals of a table: a reliability diagram is their frequency over their confidence.

    Parameters
    ----------
    table : (n_bins, 3) int64
        Of one image, or the sum of several: `calibration_table`.

    Returns
    -------
    list
        One for each interval.
    """
    n = len(table)
    return [
        CalibrationBin(k / n, (k + 1) / n, pixels, ratio(total / _ONE, pixels), ratio(hits, pixels))
        for k, (pixels, hits, total) in enumerate(table.tolist())
    ]


def expected_calibration_error(table: Counts) -> float:
    """Compute the mean distance of confidence and frequency, weighted by pixels.

    Parameters
    ----------
    table : (n_bins, 3) int64
        From `calibration_table`.

    Returns
    -------
    float
        0..1, 0 = calibrated; nan without a pixel.

    Notes
    -----
    ``sum over intervals of n_k / N |frequency_k - confidence_k|`` [1]_, of the probability of **foreground**. For
    classifiers the confidence is often that of the class that won, from 1/2 on: another number.

    References
    ----------
    .. [1] Naeini, Cooper, Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.
    """
    return ratio(float(np.abs(table[:, 1] - table[:, 2] / _ONE).sum()), int(table[:, 0].sum()))


@compiled
def _fill(is_foreground: NDArray[np.bool_], probabilities: NDArray[Any], table: Counts) -> None:
    """Add pixels to a table."""
    n_bins = len(table)
    for i in range(len(probabilities)):
        p = float(probabilities[i])
        k = min(int(p * n_bins), n_bins - 1)
        table[k, 0] += 1
        table[k, 1] += is_foreground[i]
        table[k, 2] += int(p * _ONE + 0.5)

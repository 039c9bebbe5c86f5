"""Scores of outlines: how far apart they are, and how many of their pixels meet."""

from __future__ import annotations

import math
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import InputError
from unetcli.metrics.compiled import compiled

Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]

BOUNDARY_TOLERANCE_PX = 2
"""How far apart, in pixels, contours may be that `boundary_f` takes for the same."""
_FAR = 1 << 30  # no edge along this line; its square does not overflow


# --- distances between edges ------------------------------------------------------------------------------


class EdgeDistances(NamedTuple):
    """How far the edge of either side is from that of the other, pixel by pixel, in no order.

    Parameters
    ----------
    truth : (n_truth,) float64
        Distance of each edge pixel of the truth to the nearest of the prediction, in pixels.
    prediction : (n_prediction,) float64
        The same from the prediction to the truth.
    """

    truth: Distances
    prediction: Distances

    @property
    def is_defined(self) -> bool:
        """Whether both sides have an edge."""
        return len(self.truth) > 0 and len(self.prediction) > 0


def edge_distances(truth: NDArray[Any], prediction: NDArray[Any]) -> EdgeDistances:
    """Measure the distances between the edges of two masks.

    Parameters
    ----------
    truth, prediction : ([z,] y, x) bool or int
        Foreground is nonzero.

    Returns
    -------
    EdgeDistances
        Both empty if a side has no foreground.

    Raises
    ------
    InputError
        The shapes differ.

    Notes
    -----
    The edge of a mask is the mask without its erosion by the neighbours with a common face; the outside of the image
    is background, so the rim counts. Distances are Euclidean, between centres of pixels. From the distance along y,
    of all pixels, a pixel of the edge looks along x (and z) until nothing nearer can come: the cost grows with the
    distances, not with the image.
    """
    truth_edge, prediction_edge = (_edge(mask != 0) for mask in _as_pair(truth, prediction))
    if not (truth_edge.any() and prediction_edge.any()):
        return EdgeDistances(np.empty(0), np.empty(0))
    return EdgeDistances(_distances(truth_edge, prediction_edge), _distances(prediction_edge, truth_edge))


def hausdorff(distances: EdgeDistances) -> float:
    """Return the largest of the distances, in pixels; nan if a side has no foreground."""
    return float(max(d.max() for d in distances)) if distances.is_defined else math.nan


def hd95(distances: EdgeDistances) -> float:
    """Return the larger of the 95th percentiles of both directions, in pixels; nan if a side has no foreground.

    Notes
    -----
    With linear interpolation, as MONAI does. medpy pools both directions; surface-distance weights pixels by the length
    of their contour: other numbers.
    """
    return float(max(np.percentile(d, 95) for d in distances)) if distances.is_defined else math.nan


def assd(distances: EdgeDistances) -> float:
    """Return the mean of all distances of both directions, in pixels; nan if a side has no foreground."""
    return float(np.concatenate(distances).mean()) if distances.is_defined else math.nan


# --- contours that meet -----------------------------------------------------------------------------------


def boundary_f(truth: NDArray[Any], prediction: NDArray[Any], tolerance_px: float = BOUNDARY_TOLERANCE_PX) -> float:
    """Compute the F-score of the pixels of contours, which may lie some pixels apart.

    Parameters
    ----------
    truth, prediction : ([z,] y, x) bool or int
        Foreground is nonzero.
    tolerance_px
        Largest distance between pixels that meet, >= 0.

    Returns
    -------
    float
        0 .. 1, 1 = perfect. 1 if neither side has a contour, which is so if each is empty or full; 0 if one has none.

    Raises
    ------
    InputError
        The shapes differ.

    Notes
    -----
    ``2 P R / (P + R)``: P is the share of the prediction's contour within the tolerance of the truth's, R the
    opposite, as in DAVIS [1]_. A pixel is of the contour if it differs from its right, lower or lower right
    neighbour. DAVIS takes 0.008 of the diagonal, rounded up, as the tolerance.

    References
    ----------
    .. [1] Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016.
    """
    contours = [_contour(mask != 0) for mask in _as_pair(truth, prediction)]
    sizes = [int(np.count_nonzero(contour)) for contour in contours]
    if not all(sizes):
        return float(sizes[0] == sizes[1])
    pairs = (contours, contours[::-1])
    met = [np.count_nonzero(_distances(at, of, tolerance_px) <= tolerance_px) for at, of in pairs]
    recall, precision = (n / size for n, size in zip(met, sizes, strict=True))
    return 2 * precision * recall / (precision + recall) if any(met) else 0.0


# --- edges, contours, distances ---------------------------------------------------------------------------


def _as_pair(truth: NDArray[Any], prediction: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Check the shapes."""
    if truth.shape != prediction.shape:
        raise InputError(f"prediction: shape is {prediction.shape}; expected the truth's, {truth.shape}")
    return truth, prediction


def _edge(mask: Mask) -> Mask:
    """Mark the foreground with a neighbour of background, or at the rim."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    for axis in range(mask.ndim):
        for start in (0, 2):
            steps = [slice(1, -1)] * mask.ndim
            steps[axis] = slice(start, start + mask.shape[axis])
            inside &= padded[tuple(steps)]
    return np.logical_and(mask, ~inside)


def _contour(mask: Mask) -> Mask:
    """Mark the pixels that differ from a neighbour one step on along one axis or several."""
    contour = np.zeros(mask.shape, np.bool_)
    for steps in product((False, True), repeat=mask.ndim):
        here = tuple(slice(-1) if step else slice(None) for step in steps)
        there = tuple(slice(1, None) if step else slice(None) for step in steps)
        contour[here] |= mask[here] != mask[there]
    return contour


def _distances(at: Mask, of: Mask, reach: float = math.inf) -> Distances:
    """Measure how far the pixels of one mask are from the nearest of another; beyond the reach, anything beyond it."""
    beyond = np.int64(min(reach**2, _FAR**2)) + 1  # squared distances are integers
    at, of = (mask.reshape((-1, *mask.shape[-2:])) for mask in (at, of))  # a plane is a volume of one
    squared = _squared_distances(at, _gaps_along_y(of), int(np.count_nonzero(at)), beyond)
    distances: Distances = np.sqrt(squared)
    return distances


@compiled
def _gaps_along_y(mask: Mask) -> NDArray[np.int32]:
    """Count the steps along y to the nearest pixel of a mask, `_FAR` or more without one."""
    gaps = np.full(mask.shape, _FAR, np.int32)
    n_z, n_y, n_x = mask.shape
    for z in range(n_z):
        for y in range(n_y):
            for x in range(n_x):
                if mask[z, y, x]:
                    gaps[z, y, x] = 0
                elif y > 0:
                    gaps[z, y, x] = gaps[z, y - 1, x] + 1
        for y in range(n_y - 2, -1, -1):
            for x in range(n_x):
                gaps[z, y, x] = min(gaps[z, y, x], gaps[z, y + 1, x] + 1)
    return gaps


@compiled
def _squared_distances(at: Mask, gaps: NDArray[np.int32], n_at: int, beyond: np.int64) -> NDArray[np.int64]:
    """Measure from each pixel of a mask to the nearest from which `gaps` are counted."""
    found = np.empty(n_at, np.int64)
    n_z, n_y, n_x = at.shape
    n = 0
    for z in range(n_z):
        for y in range(n_y):
            for x in range(n_x):
                if at[z, y, x]:
                    found[n] = _look_around(gaps, z, y, x, beyond)
                    n += 1
    return found


@compiled
def _look_around(gaps: NDArray[np.int32], z: int, y: int, x: int, nearest: np.int64) -> np.int64:
    """Look along x, then on both sides along z, while something nearer may come."""
    n_z, _, n_x = gaps.shape
    for dz in range(n_z):
        if dz * dz >= nearest:
            break
        for v in (z - dz, z + dz):
            for dx in range(n_x if 0 <= v < n_z else 0):
                aside = dz * dz + dx * dx
                if aside >= nearest:
                    break
                for u in (x - dx, x + dx):
                    if 0 <= u < n_x:
                        gap = np.int64(gaps[v, y, u])
                        nearest = np.int64(min(nearest, aside + gap * gap))
    return nearest

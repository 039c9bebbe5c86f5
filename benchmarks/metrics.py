"""Scores beside the software that offers them too, each as its users call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray
from skimage import metrics as skimage_metrics
from skimage.metrics import _contingency_table as skimage_table

from benchmarks.cells import Cells
from benchmarks.machine import Timing, describe, interleaved, named, table
from unetcli.metrics.distances import boundary_f, edge_distances, hd95
from unetcli.metrics.objects import AP_TWENTIETHS, average_precision
from unetcli.metrics.partitions import ADAPTED_RAND_VARIANTS, components, thin_borders, v_rand, vi
from unetcli.metrics.tables import contingency_table
from unetcli.metrics.topology import warp

Labels = NDArray[np.uint32]
Mask = NDArray[np.bool_]
Functions = dict[str, Callable[[], object]]

READ = "both images read once: the sum of each"
COPY = "one pass over the memory: int32 to float32, of twice the side"
FIJI_S, FIJI_COPY_S = 84.0, 6.2e-3
"""Seconds of Fiji's warping error of 2048 squared, 95,670 pixels left, and of such a pass of 4096 squared, as they were
measured on a machine of two shared cores, taken for the same one; Fiji itself is not run here."""
TABLE, SKIMAGE_TABLE = "contingency table", "scikit-image: contingency table"
ALL, SKIMAGE_ALL = "table, adapted Rand, VI, AP at ten thresholds", "scikit-image: adapted Rand, VI"
STARDIST = "StarDist: matching at ten thresholds"
WARP, V_RAND = "warping error", "V_Rand, thinned"
HD95, MONAI = "HD95", "MONAI: HD95"
BOUNDARY, OPENCV = "boundary F, 2 pixels", "OpenCV: dilated by a disc, as DAVIS"
TOLERANCE_PX = 2


def run(side: int = 4096, plane: int = 2048, n_objects: int = 5000, rounds: int = 5) -> None:
    """Print the tables, and what follows from them."""
    print(f"\n{describe()}, {', '.join(map(named, ('scikit-image', 'stardist', 'monai', 'opencv-python-headless')))}")
    truth, prediction = pair_of(side, n_objects)
    timings = interleaved(of_labels(truth, prediction), rounds)
    table(f"labels, {side} squared, about {n_objects:,} objects", timings, truth.size / 1e6)
    print(claims(timings))
    masks = [labels > 0 for labels in pair_of(plane, n_objects // 4)]
    timings = interleaved(of_masks(*masks), rounds)
    n_left = warp(*masks).n_leftover
    table(f"masks, {plane} squared, unlike ({n_left:,} pixels left by the warping)", timings, masks[0].size / 1e6)
    print(claim_of_warping(timings))


def pair_of(side: int, n: int) -> tuple[Labels, Labels]:
    """Draw cells, and others of another size elsewhere."""
    truth, prediction = (Cells.random((1, side, side), k, seed=k).labels()[0] for k in (n, 6 * n // 7))
    return truth, prediction


def of_labels(truth: Labels, prediction: Labels) -> Functions:
    """List what is timed on labels; refuse results that differ from scikit-image's."""
    check_labels(truth, prediction)
    functions: Functions = {
        TABLE: lambda: contingency_table(truth, prediction),
        SKIMAGE_TABLE: lambda: skimage_table.contingency_table(truth, prediction),
        ALL: lambda: ours(truth, prediction),
        SKIMAGE_ALL: lambda: skimage(truth, prediction),
        READ: lambda: (truth.sum(), prediction.sum()),
    }
    if find_spec("stardist"):
        from stardist.matching import matching

        thresholds = [k / 20 for k in AP_TWENTIETHS]
        theirs = [found.accuracy for found in matching(truth, prediction, thresh=thresholds)]
        np.testing.assert_allclose(ours(truth, prediction)[3:], theirs, atol=1e-6)
        functions[STARDIST] = lambda: matching(truth, prediction, thresh=thresholds)
    return functions


def ours(truth: Labels, prediction: Labels) -> list[float]:
    """Return adapted Rand error as scikit-image has it, variation of information, AP."""
    found = contingency_table(truth, prediction)
    rand = ADAPTED_RAND_VARIANTS["scikit-image"](found)
    return [rand, *vi(found), *(average_precision(found, k) for k in AP_TWENTIETHS)]


def skimage(truth: Labels, prediction: Labels) -> list[float]:
    """Return the first three of `ours`."""
    rand, _, _ = skimage_metrics.adapted_rand_error(truth, prediction)
    return [rand, *skimage_metrics.variation_of_information(truth, prediction)]


def check_labels(truth: Labels, prediction: Labels) -> None:
    """Refuse to time a wrong result."""
    theirs = skimage_table.contingency_table(truth, prediction).tocoo()
    order = np.lexsort((theirs.col, theirs.row))
    np.testing.assert_array_equal(contingency_table(truth, prediction).counts, np.round(theirs.data[order]))
    np.testing.assert_allclose(ours(truth, prediction)[:3], skimage(truth, prediction), atol=1e-9)


def of_masks(truth: Mask, prediction: Mask) -> Functions:
    """List what is timed on masks; refuse results that differ from a peer's."""
    numbers = np.ones([2 * n for n in truth.shape], np.int32)
    written = np.empty(numbers.shape, np.float32)
    functions: Functions = {
        WARP: lambda: warp(truth, prediction),
        V_RAND: lambda: v_rand(contingency_table(components(truth), thin_borders(components(prediction)))),
        HD95: lambda: hd95(edge_distances(truth, prediction)),
        BOUNDARY: lambda: boundary_f(truth, prediction, TOLERANCE_PX),
        COPY: lambda: np.copyto(written, numbers),
    }
    peers = {MONAI: ("monai", HD95, monai_hd95), OPENCV: ("cv2", BOUNDARY, opencv_boundary_f)}
    for name, (module, own, peer) in peers.items():
        if find_spec(module):
            np.testing.assert_allclose(functions[own](), peer(truth, prediction), rtol=1e-5)
            functions[name] = lambda peer=peer: peer(truth, prediction)
    return functions


def monai_hd95(truth: Mask, prediction: Mask) -> float:
    """Return HD95 of MONAI, which takes a batch of classes."""
    import torch
    from monai.metrics import compute_hausdorff_distance

    batch = [torch.from_numpy(mask)[None, None].float() for mask in (prediction, truth)]
    return float(compute_hausdorff_distance(*batch, include_background=True, percentile=95))


def opencv_boundary_f(truth: Mask, prediction: Mask) -> float:
    """Return boundary F by dilation of contours."""
    import cv2

    contours = []
    for mask in (truth, prediction):
        contour = np.zeros(mask.shape, np.bool_)
        contour[:, :-1] |= mask[:, :-1] != mask[:, 1:]
        contour[:-1] |= mask[:-1] != mask[1:]
        contour[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
        contours.append(contour.astype(np.uint8))
    y, x = np.indices((2 * TOLERANCE_PX + 1,) * 2) - TOLERANCE_PX
    disc = (y**2 + x**2 <= TOLERANCE_PX**2).astype(np.uint8)
    true, predicted = contours
    recall = (true & cv2.dilate(predicted, disc)).sum() / true.sum()
    precision = (predicted & cv2.dilate(true, disc)).sum() / predicted.sum()
    return float(2 * precision * recall / (precision + recall))


def claims(timings: Mapping[str, Timing]) -> str:
    """Say by how much ours is faster, in CPU time, and its share of the speed of reading."""
    cpu = {name: timing.cpu for name, timing in timings.items()}
    peers = [name for name in (SKIMAGE_ALL, STARDIST) if name in cpu]
    together = " and ".join(name.partition(":")[0] for name in peers)
    return (
        f"CPU: table {cpu[SKIMAGE_TABLE] / cpu[TABLE]:.1f}x scikit-image, {cpu[READ] / cpu[TABLE]:.0%} of reading; all "
        f"{sum(cpu[name] for name in peers) / cpu[ALL]:.1f}x {together}, {cpu[READ] / cpu[ALL]:.0%} of reading"
    )


def claim_of_warping(timings: Mapping[str, Timing]) -> str:
    """Say by how much ours is faster than Fiji would be here: by as much slower as a pass over the memory is."""
    fiji_s = FIJI_S * timings[COPY].cpu / FIJI_COPY_S
    return f"CPU: warping error {fiji_s / timings[WARP].cpu:.0f}x Fiji, which would take {fiji_s:.0f} s here"

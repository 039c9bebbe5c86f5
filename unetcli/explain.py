"""The formula of the weights at one pixel: finds a narrow border in a weight map, and measures it again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.image.store import Level
from unetcli.image.tiling import Box, Shape
from unetcli.kernels.distance import nearest_two
from unetcli.kernels.weight_map import Borders
from unetcli.labelling import connected_parts, grid_over, over_volumes
from unetcli.objects import ImageLabels, Spacing, TargetRule
from unetcli.report.explain import Explanation, Formula, Nearest, draw_explanation

Block = NDArray[Any]
WINDOW = 160
"""Side of the part of an image that is shown, pixels."""
CONTEXT = 128
"""What is read around it to see which parts are connected, pixels."""
LEAST_REACH = 20.0
"""Distances up to this are shown, even where the formula has no use for them."""
VISIBLE = 2.0
"""From so far, in pixels, the line to an object can be seen."""


@dataclass(frozen=True)
class Explained:
    """What is known about an image once its weights are computed.

    Parameters
    ----------
    labels
        What they were computed from.
    weights, target
        As stored.
    """

    labels: ImageLabels
    weights: Level
    target: Level


def explain_weights(
    images: Sequence[Explained], rule: TargetRule, borders: Borders, background: float, ndim: int, path: Path
) -> None:
    """Draw labels, distances and weights around a narrow border, and work the formula at one pixel of it.

    Parameters
    ----------
    images
        Those of a complete store. They are looked through, tile by tile, for a border whose term is above half
        of its greatest height; where there is none, the highest is taken.
    rule
        How labels become target and objects.
    borders, background
        The formula, and the class weight of background.
    ndim
        2: distances in planes, 3: in volumes.
    path
        The PNG.
    """
    image, at = _find_border(images, borders, background, ndim)
    window = _window(at, image.weights.shape)
    reach = max(borders.reach, LEAST_REACH)
    spacing = image.labels.spacing(ndim)
    objects, is_background, shown = _objects_around(image.labels, window, rule, reach, ndim)
    d1, d2 = (d[shown][0] for d in nearest_two(objects, spacing=spacing, reach=reach))
    weights = image.weights.read(window)[0, 0, 0]
    is_exact = np.abs(weights - background - borders_at(borders, d1, d2)) < 1e-3 * (1 + weights)
    pixel = _choose_pixel(is_background[shown][0] & is_exact, d1, d2, borders)
    origin = (shown[0].start, shown[1].start, shown[2].start)
    t, _, z, first_y, first_x = window.start
    planes = [
        f"{a} {n}" for a, n, size in (("t", t, image.weights.shape[0]), ("z", z, image.weights.shape[2])) if size > 1
    ]
    explanation = Explanation(
        place=", ".join([image.labels.name, *planes]),
        corner=(first_y, first_x),
        labels=objects[shown][0],
        d1=d1,
        d2=d2,
        weights=weights,
        pixel=pixel,
        nearest=_nearest(objects, origin, pixel, spacing, reach),
        has_ids=not image.labels.connected,
        formula=Formula(background, borders.w0, borders.sigma, borders.w1, borders.sigma1),
        reach=reach,
    )
    draw_explanation(explanation, path)


def borders_at(borders: Borders, d1: NDArray[np.float32], d2: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return what background pixels gain by their distances to objects, as `Borders` says."""
    total = d1.astype(np.float64) + d2
    narrow = borders.w0 * np.exp(-(total**2) / (2 * borders.sigma**2))
    surroundings: NDArray[np.float64] = borders.w1 * np.exp(-(d1.astype(np.float64) ** 2) / (2 * borders.sigma1**2))
    return narrow + surroundings


def _find_border(
    images: Sequence[Explained], borders: Borders, background: float, ndim: int
) -> tuple[Explained, Shape]:
    """Return an image and a pixel (t, c, z, y, x) of it on a narrow border."""
    best, found = -1.0, (images[0], tuple(n // 2 for n in images[0].weights.shape))
    for image in images:
        for tile in grid_over(image.weights.shape, ndim):
            gain = image.weights.read(tile.core) - background
            gain[image.target.read(tile.core) > 0] = 0
            gain = np.maximum(gain, 0)  # ignored pixels have less than none
            highest = float(gain.max())
            if highest > best:
                high = np.argwhere(gain >= 0.9 * highest)
                middle = np.array(gain.shape) / 2
                chosen = high[np.argmin(((high - middle) ** 2).sum(axis=1))]
                best, found = highest, (image, tuple(int(a + b) for a, b in zip(tile.core.start, chosen, strict=True)))
            if best > borders.w0 / 2 > 0:
                return found
    return found


def _window(at: Shape, shape: Shape) -> Box:
    """Return the part of a plane around a pixel that is shown."""
    start, stop = list(at), [a + 1 for a in at]
    for axis in (3, 4):
        side = min(WINDOW, shape[axis])
        start[axis] = min(max(at[axis] - side // 2, 0), shape[axis] - side)
        stop[axis] = start[axis] + side
    return Box(tuple(start), tuple(stop))


def _objects_around(
    labels: ImageLabels, window: Box, rule: TargetRule, reach: float, ndim: int
) -> tuple[Block, NDArray[np.bool_], tuple[slice, slice, slice]]:
    """Return the objects around a window and where background is, (z, y, x), and where the window lies in them."""
    depth, *sides = rule.halo(reach, labels.spacing(ndim), ndim)
    halo = [depth, *(side + (CONTEXT if labels.connected else 0) for side in sides)]
    box = window.grow((0, 0, *halo)).clip(labels.truth.shape)
    truth, values = labels.truth.read(box), labels.values.read(box)
    ids = connected_parts(values, ndim) if labels.connected else values
    target, objects = over_volumes(rule, ndim, truth, ids)
    shown = window.relative_to(box.start).slices[2:]
    return objects[0, 0], ((target == 0) & ~rule.is_ignored(truth))[0, 0], (shown[0], shown[1], shown[2])


def _choose_pixel(
    candidates: NDArray[np.bool_], d1: NDArray[np.float32], d2: NDArray[np.float32], borders: Borders
) -> tuple[int, int]:
    """Choose the pixel (y, x) that shows most: on a border, off both objects, not on its middle."""
    gain = np.where(candidates, borders_at(borders, d1, d2), -1)
    telling = (gain >= 0.2 * borders.w0) & (d1 >= VISIBLE)
    for better in (telling & (d2 >= d1 + 0.5), telling, candidates & (d1 >= VISIBLE) & np.isfinite(d1)):
        if better.any():
            gain = np.where(better, gain, -1)
            break
    high = np.argwhere(gain >= gain.max() - 1e-9)
    y, x = high[np.argmin(((high - np.array(gain.shape) / 2) ** 2).sum(axis=1))]
    return int(y), int(x)


def _nearest(
    objects: Block, origin: tuple[int, int, int], pixel: tuple[int, int], spacing: Spacing, reach: float
) -> tuple[Nearest, ...]:
    """Find the nearest pixel of the nearest two objects, the slow way: all pixels within reach are measured."""
    at = np.array([origin[0], origin[1] + pixel[0], origin[2] + pixel[1]])
    radius = [math.ceil(reach / s) for s in spacing]
    low = [max(0, int(a) - r) for a, r in zip(at, radius, strict=True)]
    part = objects[tuple(slice(a, int(b) + r + 1) for a, b, r in zip(low, at, radius, strict=True))]
    sites = np.argwhere(part > 0)
    ids = part[tuple(sites.T)]
    distance = np.sqrt((((sites + low - at) * spacing) ** 2).sum(axis=1))
    found: list[Nearest] = []
    for k in np.argsort(distance, kind="stable"):
        if distance[k] > reach or len(found) == 2:
            break
        if all(ids[k] != other.label for other in found):
            dz, y, x = (int(n) for n in sites[k] + low - np.array(origin))
            found.append(Nearest(int(ids[k]), float(distance[k]), (y, x), dz))
    return tuple(found)

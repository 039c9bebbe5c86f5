"""Elastic deformation of an image with its labels, beside all others that do it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cells import Cells
from benchmarks.deformers import PEERS, Case, Deform, Deformed, NotOfferedError, elasticdeform, opencv, scipy
from benchmarks.machine import describe, interleaved, named, table
from unetcli.kernels.deformation import random_deformation, source_box, source_positions
from unetcli.kernels.warp import Layer, warp

THREADS = 2
GRAY_TOLERANCE = 2e-4
"""Ours are float32 of values around 1 that change by as much from pixel to pixel."""
TIES = 1e-4
"""Share of pixels that may lie so near to the middle between two that rounding decides."""
OURS = "ours: two threads, mirrored at the edges within the time"


def run(side: int = 2048, volume: tuple[int, int, int] = (64, 256, 256), std_px: float = 10.0, rounds: int = 3) -> None:
    """Print a table for planes and for volumes, linear and cubic."""
    print(f"\n{describe()}\n{', '.join(named(package) for _, package in PEERS.values())}")
    torch.set_num_threads(THREADS)
    for shape in ((1, side, side), volume):
        for order, word in ((1, "linear"), (3, "cubic")):
            case = make_case(shape, order, std_px)
            for line in check(case):
                print(line)
            size = " x ".join(map(str, case.image.shape))
            _measure(f"elastic deformation of float32 image and uint32 labels, {size}, {word}", case, rounds)


def make_case(shape: tuple[int, int, int], order: int, std_px: float = 10.0) -> Case:
    """Draw noise, cells and a deformation."""
    rng = np.random.default_rng(0)
    labels = Cells.random(shape, max(9, int(np.prod(shape)) // 10_000)).labels()
    image = (labels > 0) + rng.normal(0, 0.1, shape)
    flat = shape[1:] if shape[0] == 1 else shape
    deformation = random_deformation(rng, shape, std_px=std_px)
    return Case(image.astype(np.float32).reshape(flat), labels.reshape(flat), deformation, order, std_px)


def ours(case: Case) -> Deformed:
    """Deform in bands on two threads: all that depends on our kernels."""
    deformation, shape = case.deformation, case.deformation.shape
    low, high = source_box(deformation, (0, 0, 0), shape, order=case.order)
    widths = [(int(max(0, -a)), int(max(0, b - n))) for a, b, n in zip(low, high, shape, strict=True)]
    origin = tuple(-before for before, _ in widths)
    image = np.pad(case.image.reshape(1, *shape), [(0, 0), *widths], mode="reflect")
    labels = np.pad(case.labels.reshape(1, *shape), [(0, 0), *widths], mode="reflect")
    warped, moved = np.empty((1, *shape), np.float32), np.empty(shape, np.uint32)
    axis = 1 if shape[0] == 1 else 0
    cuts = np.linspace(0, shape[axis], 2 * THREADS + 1).astype(int)

    def band(a: int, b: int) -> None:
        start, stop = [0, 0, 0], list(shape)
        start[axis], stop[axis] = a, b
        inside = tuple(map(slice, start, stop))
        gray, ids = Layer(image, origin, start, stop, case.order), Layer(labels, origin, start, stop, 0)
        warped[:, *inside], found = warp(deformation, [gray, ids])
        moved[inside] = found[0]

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(band, cuts[:-1], cuts[1:]))
    return warped.reshape(case.image.shape), moved.reshape(case.image.shape)


def peers(case: Case) -> dict[str, Deform]:
    """Prepare those that are installed and offer what the case asks for."""
    found = {}
    for name, (prepare, _) in PEERS.items():
        try:
            found[name] = prepare(case)
        except (ImportError, NotOfferedError):
            continue
    return found


def check(case: Case) -> list[str]:
    """Refuse to time a wrong result; say how far the fields of the same recipe are apart."""
    lines = []
    if case.order == 1:
        image, labels = ours(case)
        expected_image, expected_labels = scipy(case)()
        np.testing.assert_allclose(image, expected_image, atol=GRAY_TOLERANCE)
        differing = float(np.mean(labels != expected_labels))
        if differing > TIES:
            raise AssertionError(f"{differing:.2%} of the labels differ from SciPy's")
        lines.append(f"ours: SciPy's gray values to {GRAY_TOLERANCE}, and its labels but for {differing:.1e} of them")
        lines += _if_possible(
            lambda: f"OpenCV's gray values are off by up to {_error(opencv(case), expected_image):.1e}"
        )
    lines += _if_possible(lambda: f"elasticdeform's field differs from ours by at most {field_difference(case):.1e} px")
    return lines


def _if_possible(compare: Callable[[], str]) -> list[str]:
    """Return a line that compares with a peer, if it is there."""
    try:
        return [compare()]
    except (ImportError, NotOfferedError):
        return []


def _error(deform: Deform, expected: NDArray[Any]) -> float:
    """Return the largest error of a peer's gray values."""
    return float(np.abs(deform()[0] - expected).max())


def field_difference(case: Case) -> float:
    """Return the largest difference of displacements to elasticdeform's, pixels.

    Its field is seen by deforming images whose values are their own coordinates, where it stays within them.
    """
    shape = case.image.shape
    positions = source_positions(case.deformation, [np.arange(n) for n in case.deformation.shape])
    expected = positions.reshape(3, *shape)[3 - len(shape) :]
    ends = np.array(shape).reshape(-1, *[1] * len(shape)) - 1
    within = ((expected >= 0) & (expected <= ends)).all(axis=0)
    return max(
        float(np.abs(_deform_alone(case, ramp) - there)[within].max())
        for ramp, there in zip(np.indices(shape, dtype=float), expected, strict=True)
    )


def _deform_alone(case: Case, image: NDArray[Any]) -> NDArray[Any]:
    return elasticdeform(Case(image, case.labels, case.deformation, 1, case.std_px))()[0]


def _measure(title: str, case: Case, rounds: int) -> None:
    functions: dict[str, Deform] = {OURS: lambda: ours(case), **peers(case)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what kornia and torchio say of their own defaults
        timings = interleaved(functions, rounds)
    table(title, timings, case.image.size / 1e6)
    first = timings.pop(OURS).wall
    print("speed: " + ", ".join(f"{t.wall / first:.1f}x {name.partition(':')[0]}" for name, t in timings.items()))

"""Elastic deformation of an image with its labels, beside all others that do it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.cells import Cells
from benchmarks.deformers import PEERS, Case, Deform, Deformed, NotOfferedError, elasticdeform, opencv, scipy
from benchmarks.machine import describe, interleaved, named, table
from unetcli.image.source import read_mirrored
from unetcli.image.tiling import Box
from unetcli.kernels.deformation import random_deformation, source_box, source_positions
from unetcli.kernels.warp import Layer, warp

Corner = tuple[int, int, int]
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
    """Deform box by box on two threads: all that depends on our kernels."""
    deformation, shape = case.deformation, case.deformation.shape
    sources = [_Whole(case.image.reshape(shape)), _Whole(case.labels.reshape(shape))]
    warped, moved = np.empty((1, *shape), np.float32), np.empty((1, *shape), np.uint32)

    def box(start: Corner, stop: Corner) -> None:
        inside = (slice(None), *map(slice, start, stop))
        low, high = source_box(deformation, start, stop, order=case.order)
        origin, end = tuple(map(int, low)), tuple(map(int, high))
        gray, ids = (read_mirrored(source, Box((0, 0, *origin), (1, 1, *end)))[0] for source in sources)
        layers = [Layer(gray, origin, start, stop, case.order), Layer(ids, origin, start, stop, 0)]
        warped[inside], moved[inside] = warp(deformation, layers)

    boxes = [(start, stop) for start, stop in _boxes(case) if start[1] < stop[1] and start[2] < stop[2]]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(box, *zip(*boxes, strict=True)))
    return warped.reshape(case.image.shape), moved.reshape(case.image.shape)


def _boxes(case: Case) -> Iterator[tuple[Corner, Corner]]:
    """Cut a plane into bands that need its own pixels alone and a rim that needs its mirror; a volume into slabs."""
    depth, height, width = case.deformation.shape
    if depth > 1:
        for a, b in _pieces(0, depth, 4):
            yield (a, 0, 0), (b, height, width)
        return
    low, high = source_box(case.deformation, (0, 0, 0), (1, height, width), order=case.order)
    y, x = (min(2 * max(0, -int(low[i]), int(high[i]) - n), n // 2) for i, n in ((1, height), (2, width)))
    for a, b in _pieces(y, height - y, 8):
        yield (0, a, x), (1, b, width - x)
    yield from (((0, 0, 0), (1, height, x)), ((0, 0, width - x), (1, height, width)))
    yield from (((0, 0, x), (1, y, width - x)), ((0, height - y, x), (1, height, width - x)))


def _pieces(start: int, stop: int, n: int) -> Iterator[tuple[int, int]]:
    """Cut a range into up to `n` pieces of about the same length."""
    return itertools.pairwise(sorted({start + (stop - start) * i // n for i in range(n + 1)}))


@dataclass(frozen=True)
class _Whole:
    """An array (z, y, x) in memory as what `read_mirrored` reads."""

    pixels: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of pixels along t, c, z, y, x."""
        return (1, 1, *self.pixels.shape)

    def read(self, box: Box) -> NDArray[Any]:
        """Return a view."""
        return self.pixels[None, None][box.slices]


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

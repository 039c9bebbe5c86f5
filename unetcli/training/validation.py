"""Scores of a network in training: overlap-tile prediction of the validation planes, summed over tiles."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unetcli.image.dataset import Dataset
from unetcli.image.source import read_mirrored
from unetcli.image.tiling import Box, TileGrid
from unetcli.metrics.measuring import Measured, combine_slices, measure_slices
from unetcli.metrics.pixels import iou
from unetcli.metrics.scores import SCORES
from unetcli.metrics.slices import SummedPair
from unetcli.metrics.tables import Counts, confusion_table
from unetcli.metrics.thresholds import HALF, foreground
from unetcli.models.geometry import Geometry
from unetcli.models.losses import DICE, LOSSES, WEIGHTED, Term
from unetcli.models.overlap_tile import aligned, predict_core, read_extent
from unetcli.report.predictions import Prediction
from unetcli.sampling import Example, Plane
from unetcli.training.places import classes_of
from unetcli.training.record import Row

VALIDATION_TILE = {2: (512, 512), 3: (32, 128, 128)}
"""Core of a tile of planes (y, x) and of volumes (z, y, x), pixels, before it is rounded up to the network's stride."""
RANKS = ("worst", "best", "median", "first")
"""Slices that a sheet shows, each once: by IoU, and the first of all, which is the same on each sheet."""
PIXEL_SCORES = ("pixel_error", "iou", "dice")
"""What is measured always: of the foreground, as `evaluate` does, from tables that add up over tiles."""


def validation_term(loss: str) -> Term:
    """Return what is validated of a loss: a term that tiles of any size add up to.

    Notes
    -----
    Dice does not, so of losses with Dice it is the weighted cross-entropy. Of two probabilities the binary
    cross-entropy is the weighted one.
    """
    return next((term for term in LOSSES[loss] if term is not DICE and loss != "bce"), WEIGHTED)


SliceName = tuple[str, int, int]
"""Name of the image, t, z."""


class SliceScores(NamedTuple):
    """What was measured on one slice (t, z)."""

    measured: Measured
    """By name and threshold."""
    worst: Box
    """Tile with the most wrong pixels."""

    @property
    def iou(self) -> float:
        """Of the foreground."""
        return SCORES["iou"].combine(self.measured["iou", HALF])


@dataclass(frozen=True)
class Sums:
    """What was measured on some planes; the sums of parts, wherever they were measured, add up with ``+``.

    Parameters
    ----------
    loss : (2,) float64
        Total, and what it is divided by.
    table : (classes, classes) int64
        Pixels by class of the truth and of the prediction.
    slices
        The scores of each slice that has pixels which count.
    """

    loss: NDArray[np.float64]
    table: Counts
    slices: Mapping[SliceName, SliceScores]

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.loss + other.loss, self.table + other.table, {**self.slices, **other.slices})


class Truth(NamedTuple):
    """What is known of the pixels of a core, each (z, y, x)."""

    labels: NDArray[Any]
    """As prepared: classes or object ids."""
    classes: NDArray[np.int64]
    """What scores compare with, as `evaluate` does."""
    target: NDArray[np.int64]
    """What the loss compares with: touching objects may be cut apart."""
    weights: NDArray[np.floating[Any]]
    """In the loss; pixels of weight 0 count nowhere."""


@dataclass(frozen=True)
class Validator:
    """Scores a network on planes that it does not learn from.

    Parameters
    ----------
    planes
        (example, t, z) of each plane, or volume.
    dataset
        Where they are from.
    geometry
        Of the network.
    device
        Where the network is.
    term
        The loss, of one logit a class.
    metrics
        Scores of `evaluate` that need whole planes.
    """

    planes: Sequence[Plane]
    dataset: Dataset
    geometry: Geometry
    device: torch.device
    term: Term = WEIGHTED
    metrics: Sequence[str] = ()

    @property
    def ndim(self) -> int:
        """2: it scores planes; 3: volumes."""
        return len(self.geometry.axes)

    @property
    def _step(self) -> tuple[int, ...]:
        """Core of a tile along each axis."""
        return tuple(aligned(axis, n) for axis, n in zip(self.geometry.axes, VALIDATION_TILE[self.ndim], strict=True))

    @property
    def n_classes(self) -> int:
        """Number of classes that the network tells apart."""
        return max(2, len(self.dataset.classes))

    def score(self, network: nn.Module) -> Row:
        """Return the validation scores; none where there are no planes, or all of their pixels are ignored."""
        return self.row(self.measure(network))

    def measure(self, network: nn.Module) -> Sums:
        """Predict the planes and compare them with the truth."""
        n = self.n_classes
        with _evaluating(network):
            parts = (part for plane in self.planes for part in self._measure_plane(network, plane))
            return functools.reduce(operator.add, parts, Sums(np.zeros(2), np.zeros((n, n), np.int64), {}))

    def faults(self) -> list[str]:
        """Name the planes whose pixels or weights are not all finite."""
        return [
            ", ".join([example.name, *_position(example, t, z)])
            for example, t, z in self.planes
            if not all(
                np.isfinite(example.image.read(core)).all() and np.isfinite(self._truth(example, core).weights).all()
                for core in self._cores((example, t, z))
            )
        ]

    def row(self, sums: Sums) -> Row:
        """Return the scores, each by the name of its column.

        Notes
        -----
        Scores are means over the slices of an image, then over images, as those of `evaluate`. Of more than two
        classes each has its IoU of all pixels together; their mean is over the classes that truth or prediction has.
        """
        if not sums.slices:
            return {}
        total, count = sums.loss
        scores = {"loss": float(total / count), **self._mean_scores(sums)}
        if self.n_classes > 2:
            by_class = {name: iou(sums.table, k) for k, name in enumerate(self.dataset.classes)}
            there = (sums.table.sum(axis=0) + sums.table.sum(axis=1)) > 0
            scores["mean_iou"] = float(np.mean(np.array(list(by_class.values()))[there]))
            scores |= {f"iou_{name}": value for name, value in by_class.items()}
        return {f"validation_{name}": value for name, value in scores.items()}

    def _mean_scores(self, sums: Sums) -> Row:
        names = list(dict.fromkeys([*PIXEL_SCORES, *self.metrics]))
        images = [
            combine_slices([sums.slices[name].measured for name in group], names)
            for _, group in itertools.groupby(sorted(sums.slices), key=lambda name: name[0])
        ]
        defined = {name: [v for scores in images if (v := scores[name]) is not None] for name in names}
        return {name: float(np.mean(values)) for name, values in defined.items() if values}

    def _measure_plane(self, network: nn.Module, plane: Plane) -> Iterator[Sums]:
        """Yield the sums of each slab of slices: tiles with the same z."""
        example = plane[0]
        for _, slab in itertools.groupby(self._cores(plane), key=lambda core: core.start[2]):
            yield self._measure_slab(network, example, list(slab))

    def _measure_slab(self, network: nn.Module, example: Example, cores: Sequence[Box]) -> Sums:
        n, (t, _, z0, _, _), extent = self.n_classes, cores[0].start, (cores[0].shape[2], *example.image.shape[3:])
        loss, tables = np.zeros(2), np.zeros((len(cores), extent[0], n, n), np.int64)
        # Only scores of whole slices need whole slices.
        labels = np.zeros(extent, np.int64) if self.metrics else None
        likely = np.zeros(extent, np.float32) if self.metrics else None
        for core, table in zip(cores, tables, strict=True):
            probabilities, truth = self._predict(network, example, core), self._truth(example, core)
            loss += self._loss(probabilities, truth)
            found, counted = _classes(probabilities), truth.weights > 0
            for z, of_slice in enumerate(counted):
                table[z] = confusion_table(truth.classes[z][of_slice], found[z][of_slice], n)
            if labels is not None and likely is not None:
                place = core.slices[3:]
                labels[:, *place] = np.where(counted, truth.labels, 0)
                likely[:, *place] = np.where(counted, found > 0 if n > 2 else 1 - probabilities[0], 0)
        slices = {}
        for z, table in enumerate(tables.sum(axis=0)):
            if table.any():
                pixels = SummedPair(_foreground_of(table), None, HALF)
                measured: Measured = {(name, HALF): [SCORES[name].measure(pixels)] for name in PIXEL_SCORES}
                if labels is not None and likely is not None:
                    measured |= self._measure_whole(labels[z : z + 1], likely[z : z + 1])
                wrong = tables[:, z].sum(axis=(1, 2)) - np.trace(tables[:, z], axis1=1, axis2=2)
                slices[example.name, t, z0 + z] = SliceScores(measured, cores[int(wrong.argmax())])
        return Sums(loss, tables.sum(axis=(0, 1)), slices)

    def _measure_whole(self, labels: NDArray[Any], likely: NDArray[Any]) -> Measured:
        """Measure the scores of whole slices; of several classes the likeliest counts, as in `evaluate`."""
        truth = labels if self.dataset.label_kind == "instances" else labels > 0
        prediction = likely > 0 if self.n_classes > 2 else likely
        return measure_slices(truth, prediction, names=self.metrics)

    def _cores(self, plane: Plane) -> Iterator[Box]:
        """Yield the cores (t, c, z, y, x) that cover a plane."""
        example, t, z = plane
        _, c, *zyx = example.image.shape
        if self.ndim == 2:
            zyx[0] = 1
        for tile in TileGrid((1, c, *zyx), (1, c, *(1, *self._step)[-3:])):
            core = tile.core.replace(0, t, t + 1)
            yield core if self.ndim == 3 else core.replace(2, z, z + 1)

    def _truth(self, example: Example, core: Box) -> Truth:
        core, kind = core.replace(1, 0, 1), self.dataset.label_kind
        labels = example.truth.read(core)[0, 0]
        classes = classes_of(replace(example, target=None), labels, kind).astype(np.int64)
        target = example.target.read(core)[0, 0].astype(np.int64) if example.target else classes
        weights = example.weights.read(core)[0, 0] if example.weights else np.ones(target.shape, np.float32)
        return Truth(labels, classes, target, weights)

    def _predict(self, network: nn.Module, example: Example, core: Box) -> NDArray[np.float32]:
        """Return the probabilities (classes, z, y, x) of a core."""
        mean, std = self.dataset.normalization()
        first, block = 5 - self.ndim, core
        extent = core.shape[first:]
        for axis, n in enumerate(read_extent(self.geometry, extent, self._step), first):
            start = core.start[axis] - self.geometry.axes[axis - first].halo
            block = block.replace(axis, start, start + n)
        pixels = read_mirrored(example.image, block)[0].astype(np.float32)
        image = (pixels - mean[:, None, None, None]) / std[:, None, None, None]
        image = image.reshape(-1, *block.shape[first:])  # a plane has no z
        result = predict_core(network, self.geometry, torch.from_numpy(image).to(self.device), extent, self._step)
        return result.cpu().numpy().reshape(-1, *core.shape[2:])

    def _loss(self, probabilities: NDArray[np.float32], truth: Truth) -> NDArray[np.float64]:
        """Return total and count of the loss."""
        logits = torch.from_numpy(np.log(probabilities.clip(1e-12)))[None]  # of which these are the softmax
        target, weights = (torch.from_numpy(part)[None] for part in (truth.target, truth.weights))
        return np.array([self.term.total(logits, target, weights).item(), self.term.count(weights).item()])

    def pictures(self, network: nn.Module, sums: Sums) -> list[Prediction]:
        """Predict again what a sheet shows: of the worst, the middle, the best and the first slice, the worst tile."""
        found = {example.name: example for example, _, _ in self.planes}  # of several processes, each has its own
        here = [name for name in sums.slices if name[0] in found]
        ranked = sorted(here, key=lambda name: (sums.slices[name].iou, name))
        if not ranked:
            return []
        ranks: dict[SliceName, str] = {}
        for name, rank in zip((ranked[0], ranked[-1], ranked[len(ranked) // 2], min(ranked)), RANKS, strict=True):
            ranks.setdefault(name, rank)
        with _evaluating(network):
            return [
                self._picture(network, found[name[0]], name, sums.slices[name], rank) for name, rank in ranks.items()
            ]

    def _picture(
        self, network: nn.Module, example: Example, name: SliceName, scores: SliceScores, rank: str
    ) -> Prediction:
        core, (image, t, z) = scores.worst, name
        k, truth = z - core.start[2], self._truth(example, core)
        return Prediction(
            name=", ".join([image, *_position(example, t, z)]),
            rank=rank,
            corner=(core.start[3], core.start[4]),
            image=example.image.read(core.replace(2, z, z + 1))[0, :, 0],
            truth=np.where(truth.weights[k] > 0, truth.classes[k], -1),
            prediction=_classes(self._predict(network, example, core))[k],
            iou=scores.iou,
        )


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Predict with a network in training, and leave it as it was."""
    training = network.training
    network.eval()
    with torch.inference_mode():
        yield
    network.train(training)


def _position(example: Example, t: int, z: int) -> list[str]:
    """Say which slice of an image it is, as far as there are several."""
    n_t, _, n_z, _, _ = example.image.shape
    return [f"{axis} {k}" for axis, k, n in (("t", t, n_t), ("z", example.first_z + z, n_z)) if n > 1]


def _classes(probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the class of each pixel; of two, the foreground is above one half, as in `evaluate`."""
    if len(probabilities) == 2:
        return foreground(1 - probabilities[0], HALF).astype(np.int64)
    likeliest: NDArray[np.int64] = probabilities.argmax(axis=0)
    return likeliest


def _foreground_of(table: Counts) -> Counts:
    """Take all classes but the first together."""
    return np.add.reduceat(np.add.reduceat(table, [0, 1], axis=0), [0, 1], axis=1)

"""Which scores of an image add up over tiles, which need a plane whole, and whether that fits into memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unetcli.config import EvaluateConfig
from unetcli.config.settings import extents_of
from unetcli.errors import InputError
from unetcli.evaluation.pairs import Pair
from unetcli.image.source import Source
from unetcli.image.tiling import Shape, TileGrid
from unetcli.memory import available_memory
from unetcli.metrics.measuring import counts_of, thresholds_of
from unetcli.metrics.scores import CURVES, SCORES
from unetcli.metrics.thresholds import CHALLENGE_THRESHOLDS, HALF

TILE_PIXELS = 2**20
"""Pixels of a tile, about."""
BYTES_PER_PIXEL = 128
"""What measuring a plane whole takes: labels and segments of both sides in int64, queues and masks."""
MEMORY_SHARE = 0.5
"""Part of the memory that is free that planes in work may take together."""

Thresholds = dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Plan:
    """How an image is measured.

    Parameters
    ----------
    names
        Scores of the image, in order.
    wanted
        Thresholds at which the value of each score is measured, and of those that pick the threshold of another.
    summed
        Scores of tables that are summed over tiles, and the thresholds of these.
    whole
        Scores that are measured on a plane, a window or a volume as one, and their thresholds.
    grid
        What is read at once.
    is_volume
        Whether the planes of a time point are one volume.
    """

    names: tuple[str, ...]
    wanted: Thresholds
    summed: Thresholds
    whole: Thresholds
    grid: TileGrid
    is_volume: bool

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Thresholds of the tables."""
        return tuple(sorted({t for ts in self.summed.values() for t in ts}))

    def workers(self, most: int) -> int:
        """Return how many tiles fit into memory at once, of so many threads."""
        return 1 if len(self.grid) == 1 else min(most, _at_once([self.grid.core]))


def images_at_once(plans: Sequence[Plan], most: int) -> int:
    """Return how many images are measured at once, of so many threads: 1 where images have several tiles."""
    if any(len(plan.grid) > 1 for plan in plans):
        return 1
    return min(most, len(plans), _at_once([plan.grid.core for plan in plans]))


def _at_once(cores: Sequence[Shape]) -> int:
    """Return how many such tiles fit into memory, at least one."""
    return max(1, int(MEMORY_SHARE * available_memory() / max(map(_bytes_of, cores))))


def make_plan(pair: Pair, names: Sequence[str], config: EvaluateConfig) -> Plan:
    """Plan how the scores of an image are measured, and those of its curves over thresholds."""
    searched = (config.searched() or CHALLENGE_THRESHOLDS) if pair.has_probabilities else (HALF,)
    wanted = thresholds_of(names, config.threshold if pair.has_probabilities else HALF, searched)
    measured = dict(wanted)
    for name in CURVES if pair.has_probabilities else ():
        if name in measured:
            measured[name] = tuple(sorted({*wanted[name], *searched}))
    summed = {name: ts for name, ts in measured.items() if adds_up(name, pair)}
    whole = {name: ts for name, ts in measured.items() if name not in summed}
    whole |= counts_of({name: wanted[name] for name in whole if name in wanted})
    grid = _grid(pair, config, is_whole=bool(whole))
    return Plan(tuple(names), wanted, summed, whole, grid, config.as_volume)


def adds_up(name: str, pair: Pair) -> bool:
    """Tell whether a score is summed over tiles: the segments of a mask are known from a plane alone."""
    return SCORES[name].sums == "pixels" or (SCORES[name].sums == "segments" and pair.has_ids)


def choose_names(
    pairs: Sequence[Pair], asked: Sequence[str] | None, config: EvaluateConfig
) -> tuple[list[str], list[str]]:
    """Choose the scores that can be measured on all images.

    Parameters
    ----------
    pairs
        The images; none of them is read.
    asked
        Names of the scores; None: all that fit.
    config
        Settings.

    Returns
    -------
    list of str
        Names.
    list of str
        What was left out, in plain words.

    Raises
    ------
    InputError
        If a score that was asked for needs planes of more memory than there is, or is not one of volumes.
    """
    names, notes = list(asked or SCORES), []
    if config.as_volume:
        flat = [name for name in names if SCORES[name].planes_only]
        if flat and asked:
            raise InputError(
                f"--as-volume: {', '.join(flat)} is measured in planes",
                fix=f"--metrics {','.join(n for n in names if n not in flat) or 'iou'}; or without --as-volume",
            )
        names = [name for name in names if name not in flat]
        if flat:
            notes.append(f"scored as volumes, so without what is measured in planes: {', '.join(flat)}")
    available = available_memory()
    for pair in pairs:
        large = [name for name in names if not adds_up(name, pair)]
        core = _grid(pair, config, is_whole=True).core
        if not large or _bytes_of(core) <= MEMORY_SHARE * available:
            continue
        part, smaller = _smaller_part(config, available)
        found = (
            f"{pair.name}: {', '.join(large)} need {part} of "
            f"{' x '.join(map(str, core[2 if config.as_volume else 3 :]))} pixels whole, about "
            f"{_bytes_of(core) / 2**30:.3g} GiB, more than {MEMORY_SHARE:.0%} of the {available / 2**30:.3g} GiB of "
            "memory that are free"
        )
        kept = [name for name in names if name not in large]
        if asked or not kept:
            raise InputError(found, fix=f"{smaller}, or --metrics {','.join(kept) or 'iou'}, which add up over tiles")
        notes.append(f"{found}: left out; they are measured in smaller parts {smaller}")
        names = kept
    return names, notes


def _smaller_part(config: EvaluateConfig, available: int) -> tuple[str, str]:
    """Say what is measured as one, and what makes it smaller: so small that it fits."""
    if config.as_volume:
        return "volumes", "without --as-volume"
    edge = math.isqrt(int(MEMORY_SHARE * available) // BYTES_PER_PIXEL)
    edge = 2 ** min(max(edge.bit_length() - 1, 4), 11)
    return "windows" if config.window else "planes", f"with --window {edge}x{edge}"


def _bytes_of(core: Shape) -> int:
    return BYTES_PER_PIXEL * math.prod(core)


def _grid(pair: Pair, config: EvaluateConfig, *, is_whole: bool) -> TileGrid:
    """Cut an image into what is read at once: tiles, planes, windows of planes, or volumes."""
    shape = pair.truth.shape
    _, _, z, y, x = shape
    if not is_whole:
        return TileGrid(shape, _tile(pair, shape))
    if config.as_volume:
        return TileGrid(shape, (1, 1, z, y, x))
    if config.window is not None:
        height, width = extents_of("--window", config.window.replace("x", ","), 2)
        return TileGrid(shape, (1, 1, 1, min(height, y), min(width, x)))
    return TileGrid(shape, (1, 1, 1, y, x))


def _tile(pair: Pair, shape: Shape) -> Shape:
    """Choose tiles of whole chunks, so that each chunk is decoded once."""
    chunks = [_chunk(source) for source in (pair.truth, pair.prediction)]
    depth, height, width = (min(max(sizes), n) for *sizes, n in zip(*chunks, shape[2:], strict=True))
    edge = math.isqrt(max(1, TILE_PIXELS // depth))
    return (
        1,
        1,
        depth,
        *(min(n, size * math.ceil(edge / size)) for n, size in zip(shape[3:], (height, width), strict=True)),
    )


def _chunk(source: Source) -> tuple[int, int, int]:
    """Return the shape (z, y, x) of what is decoded at once; of files, which do not tell, one pixel."""
    while (inner := getattr(source, "source", None)) is not None:
        source = inner
    _, _, z, y, x = getattr(source, "chunk", (1, 1, 1, 1, 1))
    return z, y, x

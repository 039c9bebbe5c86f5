"""What a prediction will take, and into how many jobs it is best cut: by one tile that is timed."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Sequence
from typing import Any

from unetcli.config.settings import spell
from unetcli.image.levels import Subject
from unetcli.image.parts import MAX_PARTS
from unetcli.image.source import read_mirrored
from unetcli.image.streaming import available_cpus
from unetcli.image.tiling import Box
from unetcli.memory import peak_memory
from unetcli.prediction.predictor import Predictor
from unetcli.prediction.targets import Stored, files_along

JOB_S = 1800.0
"""What a job should take, seconds: so long that starting it does not matter, so short that it finds a gap."""
SPARE, START_S = 1.5, 300.0
"""The time that is asked for is so many times what is expected, and what a job needs to start."""
LONG_S = 5.0
"""A first tile that takes so long is not followed by another one."""


def estimate(
    predictor: Predictor, subjects: Sequence[Subject], stored: Sequence[Stored], workers: int | None
) -> dict[str, Any]:
    """Say what it takes to predict some images.

    Returns
    -------
    dict
        ``images``, ``megapixels``, ``tiles``; ``tile``, ``device``, ``precision`` and ``engine``, as they are chosen;
        ``shards``; ``files`` and ``bytes`` (before compression) of all levels that are written; ``memory_mib``
        of one process; ``seconds`` of one process, by a tile; ``parts``, a number of jobs.
    """
    predictor.choose_tile(subjects)
    shapes = [subject.level.shape for subject in subjects]
    deep, tiles = predictor.header.ndim == 3, predictor.count_tiles(subjects)
    shards = sum(math.prod(files_along((s.shape[0], 1, *s.shape[2:]), deep=deep)) for s in subjects)
    seconds = _tile_seconds(predictor, subjects[0]) * tiles
    written = [(subject.shape, output) for subject in subjects for output in stored]
    return {
        "images": len(shapes),
        "megapixels": sum(math.prod(s) // s[1] for s in shapes) / 1e6,
        "tiles": tiles,
        "tile": f"{spell(predictor.read_sizes(predictor.step))} pixels in, core {spell(predictor.step)}",
        "device": ", ".join(str(engine.device) for engine in predictor.engines),
        "precision": predictor.choices["precision"],
        "engine": predictor.engine_name,
        "shards": shards,
        "files": sum(output.files(shape, deep=deep) for shape, output in written) + 1,
        "bytes": sum(output.bytes(shape) for shape, output in written),
        "memory_mib": math.ceil((peak_memory() + _in_flight(predictor, subjects, workers)) / 2**20),
        "seconds": seconds,
        "parts": max(1, min(math.ceil(seconds / JOB_S), shards, MAX_PARTS)),
    }


def sbatch_line(command: Sequence[str], found: dict[str, Any], device: str) -> str:
    """Return what gives the jobs to SLURM.

    Parameters
    ----------
    command
        Name of the command and its arguments, but for the phase.
    found
        What `estimate` returned.
    device
        ``cpu`` or ``cuda``.
    """
    n = found["parts"]
    part_s = found["seconds"] * math.ceil(found["shards"] / n) / found["shards"]
    minutes = math.ceil((START_S + SPARE * part_s) / 60)
    options = [
        f"--array=0-{n - 1}",
        f"--cpus-per-task={available_cpus()}",
        f"--mem={math.ceil(1.25 * found['memory_mib'] / 1024)}G",
        f"--time={minutes // 60:02}:{minutes % 60:02}:00",
        *(["--gres=gpu:1"] if device == "cuda" else []),
    ]
    return shlex.join(["sbatch", *options, "array.sbatch", str(n), *command])


def _tile_seconds(predictor: Predictor, subject: Subject) -> float:
    """Return the seconds of one pass through the network, with all views, on pixels of the image."""
    box = Box.whole(subject.level.shape).replace(0, 0, 1)
    for axis in range(2, 5):
        n = predictor.step[axis - predictor.first] if axis >= predictor.first else 1
        box = box.replace(axis, 0, min(n, box.stop[axis]))
    block = read_mirrored(subject.level, predictor.read_box(box, box.shape[1]))
    best = math.inf
    for _ in range(2):
        if best < LONG_S or best == math.inf:
            start = time.perf_counter()
            predictor.predict(box, block, predictor.step)
            best = min(best, time.perf_counter() - start)
    return best


def _in_flight(predictor: Predictor, subjects: Sequence[Subject], workers: int | None) -> int:
    """Return the bytes of blocks that are read ahead, computed and written at the same time."""
    largest = 0
    for subject in subjects:
        tile = predictor.tile(subject, predictor.grid(subject)[0])
        read = math.prod(tile.read.shape) * subject.level.dtype.itemsize
        result = 4 * len(predictor.header.classes) * math.prod(tile.core.shape) // tile.core.shape[1]
        largest = max(largest, ((workers or available_cpus()) + 1) * read + 3 * result)
    return largest

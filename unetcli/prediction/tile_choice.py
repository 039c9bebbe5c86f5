"""The tile that a network runs over: of the usual size, or what of it fits into memory, by a real pass; remembered."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from unetcli.atomic import write_atomically
from unetcli.config.settings import spell
from unetcli.memory import rise_of_memory
from unetcli.models.geometry import Geometry
from unetcli.models.memory import available_memory, is_out_of_memory
from unetcli.models.overlap_tile import aligned
from unetcli.node import node_cache
from unetcli.prediction.engine import Engine

logger = logging.getLogger(__name__)
USUAL = {2: {"cpu": 704, "cuda": 2048}, 3: {"cpu": 128, "cuda": 256}}
"""Core of a tile by axes of the network and device. Larger ones waste less context, but outgrow the caches of CPUs."""
SMALL = {2: 128, 3: 32}
"""What is tried without fear on a CPU, to tell the memory of larger tiles."""
SHARE = 0.5
"""Of the memory of a CPU that can be had: the system, readers and writers want some."""


def fitted(geometry: Geometry, core: Sequence[int], size: int) -> tuple[int, ...]:
    """Return the step of about a size that cuts a core into equal parts, so that no tile reaches far past it.

    Parameters
    ----------
    geometry
        Of the network.
    core
        Extent of what is to be cut, along each axis.
    size
        The parts are not larger, but rounded up to the stride.

    Examples
    --------
    A core of 1100 pixels and a size of 1024 make two parts of 560 with a stride of 16, not one of 1024 and one of 76.
    """
    return tuple(aligned(axis, math.ceil(n / math.ceil(n / size))) for axis, n in zip(geometry.axes, core, strict=True))


def choose_step(engine: Engine, core: Sequence[int], held: int = 0) -> tuple[int, ...]:
    """Return the tile for an engine, as it was chosen before on this computer, or by passes through the network.

    Parameters
    ----------
    engine
        Its step changes on the way.
    core
        Largest extent of what is computed of a shard, along each axis of the network.
    held
        Bytes of the device that a shard takes besides.

    Notes
    -----
    The usual size is halved until it fits into the memory: on CUDA a pass tells, on a CPU one of a small tile, for a
    process that takes too much there is ended unasked. Nothing is timed: where memory is not short, all computers with
    the same kind of device choose the same tile, and so end in the same bytes.
    """
    geometry, usual, small = engine.header.geometry, USUAL[engine.header.ndim], SMALL[engine.header.ndim]
    if engine.device.type == "cpu" and (step := fitted(geometry, core, usual["cpu"])) == fitted(geometry, core, small):
        engine.use(step)  # nothing to choose
        return step
    file = node_cache() / f"tile-{_key(engine, core)}.json"
    found = _read(file, geometry)
    if found is None:
        found, is_short = _search(engine, core, held)
        if not is_short:
            with suppress(OSError):
                file.parent.mkdir(exist_ok=True)
                write_atomically(file, json.dumps(found))
    engine.use(found)
    logger.info("tile: a core of %s", spell(found))
    return found


def _search(engine: Engine, core: Sequence[int], held: int) -> tuple[tuple[int, ...], bool]:
    """Return the step, and whether memory was short: then it is not for ever."""
    geometry, usual = engine.header.geometry, USUAL[engine.header.ndim][engine.device.type]
    size, step = usual, fitted(geometry, core, usual)
    fits = _host_test(engine, core, held) if engine.device.type == "cpu" else partial(_fits_device, engine, held)
    while not fits(step) and size >= min(axis.stride for axis in geometry.axes):
        size //= 2
        step = fitted(geometry, core, size)
    return step, size < usual


def _host_test(engine: Engine, core: Sequence[int], held: int) -> Callable[[tuple[int, ...]], bool]:
    """Return what tells whether a step fits into the memory of the host, by that of a small one."""
    known = fitted(engine.header.geometry, core, SMALL[engine.header.ndim])

    @cache
    def pixels_at_once() -> float:
        engine.use(known)
        rise = rise_of_memory(engine.pass_of_tiles) / (engine.batch * _pixels(engine, known))
        return (SHARE * available_memory(engine.device) - held) / max(rise, 1)

    def fits(step: tuple[int, ...]) -> bool:
        return math.prod(step) <= math.prod(known) or _pixels(engine, step) <= pixels_at_once()

    return fits


def _fits_device(engine: Engine, held: int, step: tuple[int, ...]) -> bool:
    """Tell whether a pass fits into the memory of a CUDA device, beside what a shard takes."""
    engine.use(step)
    try:
        shard = torch.empty(held, dtype=torch.uint8, device=engine.device)
        engine.pass_of_tiles()
        del shard
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def _pixels(engine: Engine, step: Sequence[int]) -> int:
    """Return how many pixels a tile reads."""
    return math.prod(axis.read_size(n) for axis, n in zip(engine.header.geometry.axes, step, strict=True))


def _key(engine: Engine, core: Sequence[int]) -> str:
    """Return a name for what the choice depends on: the network but for its parameters, the device, and the shard."""
    device: Any = "cpu", torch.get_num_threads()
    if engine.device.type == "cuda":
        found = torch.cuda.get_device_properties(engine.device)
        device = found.name, found.total_memory
    about = engine.header.arch, dict(engine.header.parameters), device, type(engine.network).__name__
    settings = engine.precision, engine.views, tuple(core), torch.__version__
    return hashlib.sha256(repr((*about, *settings)).encode()).hexdigest()[:16]


def _read(file: Path, geometry: Geometry) -> tuple[int, ...] | None:
    """Return what was remembered; None where nothing is, or nothing that can be a step."""
    try:
        return as_step(json.loads(file.read_text()), geometry)
    except (OSError, ValueError):
        return None


def as_step(found: Any, geometry: Geometry) -> tuple[int, ...] | None:  # noqa: ANN401 - any JSON value
    """Return a step that was written down; None for what can not be one of this network."""
    if not isinstance(found, (list, tuple)) or len(found) != len(geometry.axes):
        return None
    fits = all(type(n) is int and n > 0 and n % a.stride == 0 for n, a in zip(found, geometry.axes, strict=True))
    return tuple(found) if fits else None

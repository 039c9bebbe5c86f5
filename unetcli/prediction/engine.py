"""A network on a device: pixels as they are stored go in, what is written of them comes back; copies overlap."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unetcli.config.settings import spell
from unetcli.errors import DeviceError
from unetcli.models.checkpoint import ModelHeader
from unetcli.models.memory import is_out_of_memory
from unetcli.models.overlap_tile import aligned
from unetcli.models.views import VIEWS, Spans, Views, predict_views

logger = logging.getLogger(__name__)
Block = NDArray[Any]
LAYOUT = {2: torch.channels_last, 3: torch.channels_last_3d}
BATCH_PIXELS = {"cpu": 640**2, "cuda": 2048**2}
"""Tiles go through the network together up to so many pixels: it is not busy with less."""
NOT_LOCAL = {"instance", "group"}
"""Normalizations that look at a whole tile: for these no tiling equals the whole image."""


class Engine:
    """A network on one device, ready to run over the tiles of blocks.

    Parameters
    ----------
    network
        Takes ``(n, channels, [z,] y, x)`` normalized as its header says, returns logits. It moves to the device.
    header
        Of the model.
    device
        Where it runs.
    step
        Extent of the core of one tile, along each axis of the network.
    precision
        ``float32``, or ``bfloat16`` for convolutions and what comes of them; probabilities are float32 in both.
    views
        What to average over.
    variance
        Whether the variance over the views is a channel more.
    """

    def __init__(
        self,
        network: nn.Module,
        header: ModelHeader,
        device: torch.device,
        step: Sequence[int],
        *,
        precision: str = "float32",
        views: Views = VIEWS["none"],
        variance: bool = False,
    ) -> None:
        self.network = network.to(device=device, memory_format=LAYOUT[header.ndim])  # type: ignore[call-overload]
        self.header, self.device, self.precision, self.views = header, device, precision, views
        self._variance = variance
        self.step = tuple(step)
        self.batch = self._batch_of(self.step)
        shape = (-1, *(1,) * header.ndim)
        self._mean, self._std = (torch.tensor(v).reshape(shape).to(device) for v in (header.mean, header.std))
        self._copies = Copies(device)

    def submit(self, block: Block, compute: Callable[[Tensor], Sequence[Tensor]]) -> Callable[[], tuple[Block, ...]]:
        """Begin to compute what is to be written of a block.

        Parameters
        ----------
        block : any shape, any type
            Pixels as they are stored.
        compute
            Makes of them, on the device, what comes back.

        Returns
        -------
        callable
            Waits for it. On CUDA it is under way until then: copies there and back have streams of their own, so
            that the device computes one block while the next one comes and the one before goes.
        """
        with self._current(), torch.inference_mode():
            return self._copies.back(compute(self._copies.there(transferable(block))))

    def probabilities(self, block: Tensor, core: Spans, step: Sequence[int] | None = None) -> Tensor:
        """Return the class probabilities of a core; call it within `submit`.

        Where memory runs out, fewer tiles at once are tried, then smaller ones, and kept to.

        Parameters
        ----------
        block : (t, channels, z, y, x), any type
            What the views read for the core, on the device; see `predict_views`.
        core
            The core along each axis of the network.
        step
            In place of `step` of the engine.

        Returns
        -------
        (t, classes, z, y, x) float32

        Raises
        ------
        DeviceError
            If no tile fits into the memory, or a smaller one would give another result.
        """
        while True:
            try:
                return self._probabilities(block, core, tuple(step or self.step))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._take_less()  # here, where no error keeps alive what the pass held in memory
            step = None

    def pass_of_tiles(self) -> None:
        """Run over as many tiles as go through the network at once, filled with noise; this tells memory and time."""
        core = [(0, n) for n in self.step]
        size = [b - a for a, b in self.views.read(self.header.geometry, core, self.step)]
        noise = torch.randn(self.batch, self.header.channels, *size, device=self.device)
        with self._current(), torch.inference_mode():
            self._run(noise, core, self.step)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

    def use(self, step: Sequence[int]) -> None:
        """Take another tile."""
        self.step, self.batch = tuple(step), self._batch_of(step)

    def _batch_of(self, step: Sequence[int]) -> int:
        read = math.prod(axis.read_size(n) for axis, n in zip(self.header.geometry.axes, step, strict=True))
        return max(1, BATCH_PIXELS[self.device.type] // read)

    def _probabilities(self, block: Tensor, core: Spans, step: tuple[int, ...]) -> Tensor:
        times, planes = block.shape[0], block.shape[2]
        images = block if self.header.ndim == 3 else block.movedim(1, 2).flatten(0, 1)  # planes one by one
        result = torch.empty(0)
        for a in range(0, len(images), self.batch):
            normal = (images[a : a + self.batch].to(torch.float32) - self._mean) / self._std
            part = self._run(normal, core, step)
            if not result.numel():
                result = part.new_empty((len(images), *part.shape[1:]))
            result[a : a + self.batch] = part
        return result if self.header.ndim == 3 else result.reshape(times, planes, *result.shape[1:]).movedim(2, 1)

    def _run(self, images: Tensor, core: Spans, step: Sequence[int]) -> Tensor:
        mixed = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")
        with mixed:
            return predict_views(
                self.network, self.header.geometry, images, core, step, self.views, self.batch, variance=self._variance
            )

    def _take_less(self) -> None:
        """Take fewer tiles at once, or smaller ones."""
        axes = self.header.geometry.axes
        smaller = tuple(aligned(axis, n // 2) for axis, n in zip(axes, self.step, strict=True))
        now, then = ([axis.read_size(n) for axis, n in zip(axes, step, strict=True)] for step in (self.step, smaller))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.batch > 1:
            self.batch = 1
        elif smaller == self.step or self.header.parameters.get("norm") in NOT_LOCAL:
            raise DeviceError(
                f"out of memory on {self.device} with tiles of {spell(now)} pixels",
                fix="a device with more memory, or --device cpu"
                if smaller == self.step
                else f"--tile-size {spell(then, ',')}, which changes the result: --overwrite",
            )
        else:
            logger.warning(
                "out of memory on %s with tiles of %s pixels: from now on %s, equal to rounding",
                self.device,
                spell(now),
                spell(then),
            )
            self.use(smaller)
            self.batch = 1

    def _current(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()


def transferable(block: Block) -> Tensor:
    """Return a block as a tensor: as it is stored, if that is smaller than float32, for less is copied then."""
    small = block.dtype.itemsize < 4 and block.dtype.isnative
    return torch.from_numpy(np.ascontiguousarray(block if small else block.astype(np.float32)))


class Copies:
    """Copies to a device and back, each on a stream of its own; of a CPU nothing is copied.

    Notes
    -----
    Pages are locked, or the copies would wait for what the device does. A tensor that another stream uses is
    recorded there, so that its memory is not given to others before.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        n = 2 if device.type == "cuda" else 0
        self._streams = [torch.cuda.Stream(device) for _ in range(n)]  # type: ignore[no-untyped-call]

    def there(self, block: Tensor) -> Tensor:
        """Return a tensor on the device, for what is begun there from now on."""
        if not self._streams:
            return block
        stream, computing = self._streams[0], torch.cuda.current_stream(self.device)
        with torch.cuda.stream(stream):
            copied = block.pin_memory().to(self.device, non_blocking=True)
        computing.wait_stream(stream)
        copied.record_stream(computing)
        return copied

    def back(self, found: Sequence[Tensor]) -> Callable[[], tuple[Block, ...]]:
        """Return a function that waits for tensors to be on the host."""
        if not self._streams:
            blocks = tuple(tensor.numpy() for tensor in found)
            return lambda: blocks
        stream = self._streams[1]
        arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in found]
            for tensor, copied in zip(found, copies, strict=True):
                copied.copy_(tensor, non_blocking=True)
                tensor.record_stream(stream)
            arrived.record(stream)

        def wait() -> tuple[Block, ...]:
            arrived.synchronize()
            return tuple(copied.numpy() for copied in copies)

        return wait

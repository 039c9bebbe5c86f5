"""What a step takes: its time and its memory, measured before training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from unetcli.memory import peak_memory
from unetcli.models import build_model
from unetcli.models.checkpoint import ModelHeader
from unetcli.models.memory import is_out_of_memory
from unetcli.training.trainer import Trainer

LONG_S = 5.0
"""A first step that takes so long is not followed by another one on a CPU."""


class StepCost(NamedTuple):
    """What a step takes."""

    seconds: float | None
    """`None`: it does not fit into memory."""
    memory: int
    """Bytes, on the device: parameters, gradients, the optimizer's state, and what the passes keep."""


def measure_step(trainer: Trainer, shape: Sequence[int], available: int) -> StepCost:
    """Take steps with random patches, if they can be expected to fit; this spoils the parameters.

    Parameters
    ----------
    trainer
        Whose steps.
    shape
        Of a patch.
    available
        Bytes of memory of the device that can be had.

    Notes
    -----
    On CUDA the memory is the most that torch held; on a CPU, how much the peak of the process rose, which misses
    what was in use and given back before: then it is what `count_memory` counts.
    """
    patches = trainer.config.batch_size // trainer.processes.count // trainer.config.accumulate
    counted = count_memory(trainer.header, patches, shape)
    if counted > available:
        return StepCost(None, counted)
    device = trainer.processes.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before, seconds = peak_memory(), float("inf")
    trainer.network.train()
    try:
        for _ in range(4 if device.type == "cuda" else 2):  # the first one gets ready
            start = time.perf_counter()
            trainer.try_patch(shape)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = min(seconds, time.perf_counter() - start)
            if device.type == "cpu" and seconds > LONG_S:
                break
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return StepCost(None, max(counted, available))
    if device.type == "cuda":
        return StepCost(seconds, torch.cuda.max_memory_allocated(device))
    return StepCost(seconds, max(counted, peak_memory() - before))


def count_memory(header: ModelHeader, patches: int, shape: Sequence[int]) -> int:
    """Count the bytes that a step keeps: parameters, gradients, two moments, and what is saved for the backward pass.

    Parameters
    ----------
    header
        Says how to build the network.
    patches, shape
        Of a batch.

    Notes
    -----
    The network runs on torch's ``meta`` device, which computes shapes only; tensors are counted in float32.
    """
    with torch.device("meta"):
        network = build_model(header.arch, header.parameters).train()
        image = torch.empty(patches, header.channels, *shape)
    own = {part.untyped_storage()._cdata for part in (*network.parameters(), *network.buffers())}
    saved = {image.untyped_storage()._cdata: image.untyped_storage()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            saved[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network(image)
    outputs = [output] if isinstance(output, Tensor) else output
    parameters = sum(p.nbytes for p in network.parameters())
    return 4 * parameters + sum(storage.nbytes() for storage in saved.values()) + sum(o.nbytes for o in outputs)

"""Why a loss is not finite: the patch that made it so, where one did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from unetcli.config import TrainConfig
from unetcli.errors import ConfigError, InputError, UnetcliError
from unetcli.models.losses import LOSSES, loss
from unetcli.sampling import Sample
from unetcli.training.batches import BatchMaker
from unetcli.training.processes import Processes


class Fault(NamedTuple):
    """A patch whose loss is not finite."""

    text: str
    """Which one it is, and what is wrong with it."""
    is_read: bool
    """Whether its pixels or weights are not finite as they are; else the network makes it so."""


def not_finite(value: float, step: int, maker: BatchMaker, network: nn.Module, processes: Processes) -> UnetcliError:
    """Return the error that says at which step a loss was not finite, which patch made it so, and what helps.

    Parameters
    ----------
    value, step
        The loss, and its step, counted from 1.
    maker
        Makes the batch of that step again.
    network
        Its parameters are those of that step, or, on CUDA, of one soon after.
    """
    config = maker.config
    where, first = f"the loss is {value} at step {step}", (step - 1) * config.batch_size
    faults = [fault for part in processes.gather(find_faults(step, maker, network)) for fault in part]
    read = [fault for fault in faults if fault.is_read]
    if read:
        return InputError(
            f"{where}: {read[0].text}", fix="mend that image, or its weights, or leave it out of the data set"
        )
    if faults and len(faults) < config.batch_size:
        where = f"{where}: {faults[0].text}"
    else:
        where = f"{where}, of no single one of its samples {first} to {first + config.batch_size - 1}"
    return _diverged(where, config, processes)


def not_finite_scores(step: int, faults: Sequence[str], config: TrainConfig, processes: Processes) -> UnetcliError:
    """Return the error that says that a validation was not finite; `faults` name its images that are not."""
    where = f"the validation loss is not finite at step {step}"
    if faults:
        return InputError(
            f"{where}: {faults[0]} has pixels or weights that are not finite",
            fix="mend that image, or its weights, or leave it out of the data set",
        )
    return _diverged(f"{where}: the output of the network is not", config, processes)


def _diverged(what: str, config: TrainConfig, processes: Processes) -> ConfigError:
    return ConfigError(
        f"{what}; training can not go on",
        fix=f"a smaller --learning-rate than {config.learning_rate:g}"
        + ("" if config.clip_norm else ", or --clip-norm 12")
        + (", or --precision float32" if processes.precision != "float32" else "")
        + ", with --overwrite",
    )


def find_faults(step: int, maker: BatchMaker, network: nn.Module) -> list[Fault]:
    """Look at the patches of a step, counted from 1, one by one; in one process, at its part of them."""
    batch, samples = maker.place(maker.make(step - 1)), maker.samples(step - 1)
    network.eval()
    found = []
    for k, sample, patch in zip(maker.numbers(step - 1), samples, batch.split(len(samples)), strict=True):
        if not (patch.image.isfinite().all() and patch.weights.isfinite().all()):
            found.append(Fault(f"{_place(sample, k)} has pixels or weights that are not finite", is_read=True))
            continue
        with torch.no_grad():
            value = loss(LOSSES[maker.config.loss], network(patch.image), patch.target, patch.weights)
        if not value.isfinite():
            found.append(Fault(f"{_place(sample, k)} has a loss of {float(value)}", is_read=False))
    return found


def _place(sample: Sample, k: int) -> str:
    """Say where a sample was cut out, before it was deformed."""
    last = np.add(sample.origin, sample.shape) - 1
    z, y, x = (f"{axis} {a} to {b}" for axis, a, b in zip("zyx", sample.origin, last, strict=True))
    return f"sample {k} of {sample.example.name} (t {sample.t}, {z}, {y}, {x})"

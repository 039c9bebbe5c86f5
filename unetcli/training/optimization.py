"""How parameters follow the gradient: optimizers, the learning rate over the steps, averaged parameters."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn, optim

from unetcli.config import TrainConfig

Groups = list[dict[str, Any]]
Schedule = Callable[[float], float]

OPTIMIZERS: dict[str, Callable[[Groups, TrainConfig], optim.Optimizer]] = {
    "sgd": lambda groups, c: optim.SGD(groups, c.learning_rate, momentum=c.momentum, nesterov=c.nesterov),
    "adam": lambda groups, c: optim.Adam(groups, c.learning_rate, fused=True),
    "adamw": lambda groups, c: optim.AdamW(groups, c.learning_rate, fused=True),
}


def make_optimizer(network: nn.Module, config: TrainConfig) -> optim.Optimizer:
    """Make the optimizer of the settings.

    Notes
    -----
    AdamW decays the kernels of convolutions alone: to shrink a bias or the scale of a normalization makes the
    function no simpler. SGD and Adam add ``weight_decay`` times the parameter to every gradient, as published.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    decays = [p.ndim > 1 or config.optimizer != "adamw" for p in parameters]
    groups = [
        {"params": [p for p, d in zip(parameters, decays, strict=True) if d == wanted], "weight_decay": weight_decay}
        for wanted, weight_decay in ((True, config.weight_decay), (False, 0.0))
    ]
    return OPTIMIZERS[config.optimizer]([group for group in groups if group["params"]], config)


def steps_of_epoch(pixels: int, patch_pixels: int, batch_size: int) -> int:
    """Return the steps in which as many patches are seen as the training pixels hold.

    Parameters
    ----------
    pixels
        Of all training planes or volumes.
    patch_pixels
        Of the network's output of one patch.
    batch_size
        Patches in a step.
    """
    return max(1, math.ceil(math.ceil(pixels / patch_pixels) / batch_size))


def _one_cycle(t: float) -> float:
    """Rise from 1/25 to 1 over the first 15 %, then fall to 1/250,000, both along half a cosine."""
    if t < RISE:
        return _between(1 / 25, 1.0, t / RISE)
    return _between(1.0, 1 / 250_000, (t - RISE) / (1 - RISE))


def _between(first: float, last: float, t: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * t)) / 2


RISE = 0.15
SCHEDULES: dict[str, Schedule] = {
    "constant": lambda _: 1.0,
    "one-cycle": _one_cycle,
    "cosine": lambda t: _between(1.0, 0.0, t),
    "poly": lambda t: (1 - t) ** 0.9,
}
"""Factor of the learning rate by the part of the training that is done, 0 to 1; ``step`` counts epochs instead."""


def learning_rate_factor(config: TrainConfig, epoch_steps: int) -> Callable[[int], float]:
    """Return what the learning rate is multiplied by at each step, counted from 0.

    Parameters
    ----------
    config
        Settings; ``steps`` is the length of the training.
    epoch_steps
        Steps of an epoch.
    """

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / (config.warmup + 1))
        if config.schedule == "step":
            return warm * float(config.decay ** (step // epoch_steps // config.decay_every))
        return warm * SCHEDULES[config.schedule](min(1.0, step / config.steps))

    return factor


def make_scheduler(optimizer: optim.Optimizer, config: TrainConfig, epoch_steps: int) -> optim.lr_scheduler.LRScheduler:
    """Make the schedule of the settings: `learning_rate_factor` at each step."""
    return optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor(config, epoch_steps))


class AveragedNetwork:
    """A network whose parameters are the exponential moving average of those of one in training.

    Parameters
    ----------
    network
        In training.
    decay
        What remains of the average at each step, 0 <= decay < 1.

    Notes
    -----
    After n steps a parameter is ``sum_i d^(n-i) p_i / sum_i d^(n-i)``: the start is corrected as in Adam, so that
    the initial parameters never count. Running means of normalizations are taken from the network in training.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the parameters after a step into the average."""
        self.steps += 1
        share = (1 - self.decay) / (1 - self.decay**self.steps)
        for mean, new in _pairs(self.network.parameters(), network.parameters()):
            mean.lerp_(new, share)
        for buffer, new in _pairs(self.network.buffers(), network.buffers()):
            buffer.copy_(new)

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on."""
        return {"steps": self.steps, "network": self.network.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.steps = state["steps"]
        self.network.load_state_dict(state["network"])


def _pairs(first: Iterator[Tensor], second: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(first, second, strict=True)

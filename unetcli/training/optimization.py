"""Optimizers and learning rates over the steps, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn, optim

from unetcli.config import TrainConfig

OPTIMIZERS: dict[str, Callable[[Iterator[nn.Parameter], TrainConfig], optim.Optimizer]] = {
    "sgd": lambda p, c: optim.SGD(p, c.learning_rate, momentum=c.momentum, weight_decay=c.weight_decay),
    "adamw": lambda p, c: optim.AdamW(p, c.learning_rate, weight_decay=c.weight_decay),
}
SCHEDULES: dict[str, Callable[[optim.Optimizer, TrainConfig], optim.lr_scheduler.LRScheduler]] = {
    "constant": lambda o, _: optim.lr_scheduler.ConstantLR(o, factor=1.0),
    "one-cycle": lambda o, c: optim.lr_scheduler.OneCycleLR(
        o, c.learning_rate, total_steps=max(c.steps, 2), pct_start=0.15
    ),
}

"""The training loop, written out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn, optim

from unetcli.config import TrainConfig
from unetcli.errors import ConfigError, Unfinished
from unetcli.image.dataset import Dataset
from unetcli.image.streaming import Progress
from unetcli.models import build_model
from unetcli.models.checkpoint import load_checkpoint, save_checkpoint
from unetcli.models.geometry import Geometry
from unetcli.models.losses import LOSSES, loss
from unetcli.training.batches import BatchMaker, Patches, Plane, ahead
from unetcli.training.optimization import AveragedNetwork, make_optimizer, make_scheduler
from unetcli.training.record import Record, Row
from unetcli.training.validation import Validator

LOSSES_AHEAD = {"cpu": 1, "cuda": 8}
"""Steps that are begun before their losses are looked at: to look at one is to wait for the device."""


@dataclass
class Trainer:
    """A network in training: the loop, written out."""

    config: TrainConfig
    geometry: Geometry
    dataset: Dataset
    fabric: Fabric
    network: nn.Module
    optimizer: Any
    scheduler: optim.lr_scheduler.LRScheduler
    average: AveragedNetwork | None
    rows: list[Row]
    losses: list[float]
    timing: list[Row]
    step: int = 0
    waited: float = 0.0  # seconds for data, since the last validation
    worked: float = 0.0  # and for all else in the steps
    augment_on: str = ""  # empty until it is chosen
    unread: list[Tensor] = field(default_factory=list)  # losses that the device may not have computed yet

    @classmethod
    def build(
        cls,
        config: TrainConfig,
        parameters: Mapping[str, Any],
        geometry: Geometry,
        dataset: Dataset,
        device: torch.device,
        precision: str,
        epoch_steps: int,
    ) -> Trainer:
        """Set up network, optimizer and schedule on a device."""
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the device was said already
        fabric = Fabric(
            accelerator=device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision="bf16-mixed" if precision == "bfloat16" else "32-true",
        )
        network = build_model(config.arch, parameters).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = make_optimizer(network, config)
        scheduler = make_scheduler(optimizer, config, epoch_steps)
        network, optimizer = fabric.setup(network, optimizer)
        average = AveragedNetwork(network.module, config.ema) if config.ema else None
        return cls(config, geometry, dataset, fabric, network, optimizer, scheduler, average, [], [], [])

    @property
    def result(self) -> nn.Module:
        """The network that is validated and saved."""
        return self.average.network if self.average else self.network

    def fit(
        self,
        training: Sequence[Plane],
        validator: Validator,
        record: Record,
        *,
        workers: int,
        progress: Progress,
    ) -> None:
        """Train up to the last step; validate, and save a checkpoint, every so many steps."""
        config = self.config
        self.network.train()
        maker = self.maker(training, self.augment_on)
        depth = max(workers, LOSSES_AHEAD[self.fabric.device.type]) + 1
        asked = time.perf_counter()
        for made in ahead(maker.make, range(self.step, config.steps), workers=workers, depth=depth):
            given = time.perf_counter()
            self._train_on(maker.place(made))
            validate = self.step % config.validate_every == 0 or self.step == config.steps
            if validate or len(self.unread) >= LOSSES_AHEAD[self.fabric.device.type]:
                self._read_losses()
            self.waited, self.worked = self.waited + given - asked, self.worked + time.perf_counter() - given
            if validate:
                self._note_times()
                self._validate(validator, record)
                self.save(record.out / "last.ckpt")
            try:
                progress(self.step, config.steps)
            except (Unfinished, KeyboardInterrupt):
                self._read_losses()
                self.save(record.out / "last.ckpt")
                raise
            asked = time.perf_counter()

    def maker(self, planes: Sequence[Plane], augment_on: str) -> BatchMaker:
        """Return what makes the batches, augmented on the ``host`` or on the ``device``."""
        return BatchMaker(planes, self.config, self.dataset, self.geometry.margin, self.fabric.device, augment_on)

    def _train_on(self, batch: Patches) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch)
        self.fabric.backward(loss)
        if self.config.clip_norm:  # of a gradient that is not finite, the next loss tells
            self.fabric.clip_gradients(
                self.network, self.optimizer, max_norm=self.config.clip_norm, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.scheduler.step()
        if self.average:
            self.average.update(self.network)
        self.step += 1
        self.unread.append(loss.detach())

    def _loss(self, batch: Patches) -> Tensor:
        return loss(LOSSES[self.config.loss], self.network(batch.image), batch.target, batch.weights)

    def _read_losses(self) -> None:
        """Wait for the device; refuse to go on, and to save anything, after a loss that is not finite."""
        values = torch.stack(self.unread).tolist() if self.unread else []
        self.unread = []
        for step, value in enumerate(values, self.step - len(values) + 1):
            if not math.isfinite(value):
                raise ConfigError(
                    f"the loss is {value} at step {step}; training can not go on",
                    fix=f"a smaller --learning-rate than {self.config.learning_rate:g}, with --overwrite",
                )
        self.losses += values

    def seconds_per_step(self, batch: Patches) -> float:
        """Measure passes forward and backward on a CUDA device; leave everything as it was."""
        n, start = 8, 0.0
        before = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.train()
        with torch.random.fork_rng(devices=[self.fabric.device]):
            for k in range(2 * n):
                if k == n:  # what came before was to get ready
                    torch.cuda.synchronize(self.fabric.device)
                    start = time.perf_counter()
                self.fabric.backward(self._loss(batch))
            torch.cuda.synchronize(self.fabric.device)
        seconds = time.perf_counter() - start
        self.optimizer.zero_grad(set_to_none=True)
        self.network.load_state_dict(before)
        return seconds / n

    def _validate(self, validator: Validator, record: Record) -> None:
        """Add a row to the metrics."""
        start = time.perf_counter()
        row: Row = {
            "step": self.step,
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "loss": float(np.mean(self.losses)),
        }
        with self.fabric.autocast():
            sums = validator.measure(self.result)
        self.rows.append(row | validator.row(sums))
        self.timing[-1]["validation_seconds"] = time.perf_counter() - start
        record.add(self.rows, self.timing, self.losses, partial(validator.pictures, self.result, sums))
        self.losses = []

    def _note_times(self) -> None:
        """Add a row to the times: they differ from run to run, so they are kept apart from the metrics."""
        seconds = self.waited + self.worked
        self.timing.append({"step": self.step, "seconds": seconds, "data_wait": self.waited / seconds})
        self.waited = self.worked = 0.0

    def save(self, path: Path) -> None:
        """Write everything that training needs to go on."""
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "rows": self.rows,
            "losses": self.losses,
            "timing": self.timing,
            "waited": self.waited,
            "worked": self.worked,
            "augment_on": self.augment_on,
            "random_state": torch.get_rng_state(),
        }
        save_checkpoint(path, state)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint, if there is one."""
        if not path.exists():
            return
        state = load_checkpoint(path)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.step, self.rows, self.losses = state["step"], state["rows"], state["losses"]
        self.timing, self.waited, self.worked = state["timing"], state["waited"], state["worked"]
        self.augment_on = state["augment_on"]
        torch.set_rng_state(state["random_state"])

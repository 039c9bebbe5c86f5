"""The training loop, written out."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn, optim

from unetcli.config import TrainConfig
from unetcli.errors import Unfinished
from unetcli.image.dataset import Dataset
from unetcli.image.streaming import Progress
from unetcli.models import build_model
from unetcli.models.checkpoint import ModelHeader, load_checkpoint, save_checkpoint, save_model
from unetcli.models.device import LAYOUTS, choose_layout, pays_to_compile
from unetcli.models.losses import LOSSES, counts, loss
from unetcli.training.batches import BatchMaker, Patches, ahead
from unetcli.training.faults import not_finite, not_finite_scores
from unetcli.training.optimization import AveragedNetwork, make_optimizer, make_scheduler
from unetcli.training.places import Places
from unetcli.training.processes import Processes
from unetcli.training.record import Record, Row
from unetcli.training.validation import Sums, Validator

LOSSES_AHEAD = {"cpu": 1, "cuda": 8}
"""Steps that are begun before their losses are looked at: to look at one is to wait for the device."""
LOWER_IS_BETTER = ("validation_loss", "validation_pixel_error")


@dataclass
class History:
    """Where a training stands: what a checkpoint holds beside parameters and the state of the optimizer."""

    step: int = 0
    rows: list[Row] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)  # of the steps since the last validation
    timing: list[Row] = field(default_factory=list)
    waited: float = 0.0  # seconds for data, since the last validation
    worked: float = 0.0  # and for all else in the steps
    augment_on: str = ""  # empty until it is chosen
    best: float | None = None  # score
    stale: int = 0  # validations since the best one


@dataclass
class Trainer:
    """A network in training: the loop, written out.

    Parameters
    ----------
    config
        Settings.
    header
        Of the model files that are written; says how to build the network.
    dataset, places
        A data set, and where in it patches lie.
    processes
        That train together.
    network
        Holds the parameters, by the names that model files have.
    passes
        The network as passes forward and backward go through it: in mixed precision, compiled, and such that the
        gradients are the mean over the processes.
    average
        Of the parameters, where one is kept.
    """

    config: TrainConfig
    header: ModelHeader
    dataset: Dataset
    places: Places
    processes: Processes
    network: nn.Module
    passes: nn.Module
    optimizer: Any
    scheduler: optim.lr_scheduler.LRScheduler
    average: AveragedNetwork | None
    machine: dict[str, Any]
    history: History = field(default_factory=History)
    unread: list[tuple[int, Tensor]] = field(default_factory=list)  # losses that may not have been computed yet

    @classmethod
    def build(
        cls,
        config: TrainConfig,
        header: ModelHeader,
        dataset: Dataset,
        places: Places,
        processes: Processes,
        epoch_steps: int,
    ) -> Trainer:
        """Set up network, optimizer and schedule on a device."""
        device = processes.device
        layout = choose_layout(device, processes.precision, config.norm)
        compiled = config.compile == "on" or (config.compile == "auto" and pays_to_compile(device))
        torch.manual_seed(config.seed)
        network = build_model(header.arch, header.parameters)
        if processes.count > 1 and device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        network.to(device, memory_format=LAYOUTS[layout, header.parameters["ndim"]])  # type: ignore[call-overload]
        average = AveragedNetwork(network, config.ema) if config.ema else None
        optimizer = make_optimizer(network, config)
        scheduler = make_scheduler(optimizer, config, epoch_steps)
        passes, optimizer = processes.setup(network, optimizer, compiled=compiled)
        machine = {
            "device": str(device), "processes": processes.count, "precision": processes.precision,
            "layout": layout, "compiled": compiled,
        }  # fmt: skip
        if device.type == "cpu":
            machine["threads"] = torch.get_num_threads()  # how sums are split, and so rounded
        if config.norm == "batch":  # CUDA devices share their statistics
            shared = processes.count if device.type == "cpu" else 1
            machine["batch_statistics"] = f"of {config.batch_size // config.accumulate // shared} patches"
        return cls(config, header, dataset, places, processes, network, passes, optimizer, scheduler, average, machine)

    @property
    def result(self) -> nn.Module:
        """The network that is validated and saved."""
        return self.average.network if self.average else self.network

    @property
    def is_finished(self) -> bool:
        """Whether the last step is done, or `patience` validations have brought nothing better."""
        patience = self.config.patience
        return self.history.step >= self.config.steps or (patience > 0 and self.history.stale >= patience)

    def maker(self, augment_on: str) -> BatchMaker:
        """Return what makes the batches, augmented on the ``host`` or on the ``device``."""
        processes = self.processes
        return BatchMaker(
            self.places, self.config, self.dataset, self.header.geometry, processes.device, augment_on,
            rank=processes.rank, count=processes.count,
        )  # fmt: skip

    def fit(self, validator: Validator, record: Record, *, workers: int, progress: Progress) -> None:
        """Train up to the last step; save a checkpoint, and validate, every so many steps.

        A step that is due for validation is saved before it is validated: whatever ends a long validation, the
        next call goes on with it.
        """
        history, maker = self.history, self.maker(self.history.augment_on)
        self._validate_if_due(validator, record)
        self.network.train()
        steps = range(history.step, history.step if self.is_finished else self.config.steps)
        depth = max(workers, LOSSES_AHEAD[self.processes.device.type]) + 1
        asked = time.perf_counter()
        for made in ahead(maker.make, steps, workers=workers, depth=depth):
            given = time.perf_counter()
            self.train_on(maker.place(made))
            history.waited += given - asked
            history.worked += time.perf_counter() - given
            self._validate_if_due(validator, record)
            self._stop_if_asked(progress, record.out)
            if self.is_finished:
                break
            asked = time.perf_counter()

    def train_on(self, batch: Patches) -> None:
        """Take one step of optimization.

        The loss is that of the whole step, for any number of parts and processes: its totals are divided by the
        counts of all of them. Random numbers of the network (dropout) are a function of seed, step and process.
        """
        config, processes = self.config, self.processes
        seed = np.random.SeedSequence([config.seed, self.history.step, processes.rank])
        torch.manual_seed(int(seed.generate_state(1, np.uint64)[0]))
        self.optimizer.zero_grad(set_to_none=True)
        divisors = processes.sum(counts(LOSSES[config.loss], batch.weights))
        parts = batch.split(config.accumulate)
        losses: list[Tensor] = []
        for part in parts:
            with processes.without_sum(self.passes, enabled=len(losses) < len(parts) - 1):
                part_loss = self._loss(part, divisors)
                processes.fabric.backward(part_loss * processes.count)  # gradients are the mean over processes
            losses.append(part_loss.detach())
        self.unread.append((self.history.step + 1, torch.stack(losses).sum()))
        if len(self.unread) >= LOSSES_AHEAD[processes.device.type]:  # before the parameters change
            self._read_losses()
        if config.clip_norm:  # of a gradient that is not finite, the next loss tells
            processes.fabric.clip_gradients(
                self.passes, self.optimizer, max_norm=config.clip_norm, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.scheduler.step()
        if self.average:
            self.average.update(self.network)
        self.history.step += 1

    def try_patch(self, shape: Sequence[int]) -> None:
        """Take a step with patches of some shape, to see whether memory suffices; it spoils the parameters."""
        n, device = self.config.batch_size // self.processes.count, self.processes.device
        output = (n, *(size - 2 * a.margin for a, size in zip(self.header.geometry.axes, shape, strict=True)))
        self.unread = []
        self.train_on(
            Patches(
                torch.rand(n, self.header.channels, *shape, device=device),
                torch.zeros(output, dtype=torch.int64, device=device),
                torch.ones(output, device=device),
            )
        )

    def _loss(self, part: Patches, divisors: Tensor | None = None) -> Tensor:
        return loss(LOSSES[self.config.loss], self.passes(part.image), part.target, part.weights, divisors)

    def _read_losses(self) -> None:
        """Wait for the device; refuse to go on, and to save anything, after a loss that is not finite."""
        if not self.unread:
            return
        steps, losses = zip(*self.unread, strict=True)
        self.unread = []
        values = self.processes.sum(torch.stack(losses)).tolist()
        for step, value in zip(steps, values, strict=True):
            if not math.isfinite(value):
                raise not_finite(value, step, self.maker(self.history.augment_on), self.network, self.processes)
        self.history.losses += values

    def _stop_if_asked(self, progress: Progress, out: Path) -> None:
        """Show progress; if it asks one of the processes to stop, all save this step and stop."""
        history, stop = self.history, None
        try:
            progress(history.step, self.config.steps)
        except (Unfinished, KeyboardInterrupt) as asked:
            stop = asked
        if self.processes.any(stop is not None):
            self._read_losses()
            self.save(out)
            raise stop or Unfinished(
                f"stopped with another process after {history.step} of {self.config.steps}; the work so far is saved",
                fix="run the same command again: it continues",
            )

    def _validate_if_due(self, validator: Validator, record: Record) -> None:
        """Save, and add a row to the metrics; a row that is there already is not made again."""
        history, config = self.history, self.config
        is_due = history.step > 0 and (history.step % config.validate_every == 0 or history.step == config.steps)
        if not is_due or (history.rows and history.rows[-1]["step"] == history.step):
            return
        self._read_losses()
        self._note_times()
        self.save(record.out)
        start = time.perf_counter()
        row: Row = {
            "step": history.step,
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "loss": float(np.mean(history.losses)),
        }
        losses, history.losses = history.losses, []
        sums = self._measure(validator)
        row |= validator.row(sums)
        history.rows.append(row)
        history.timing[-1]["validation_seconds"] = time.perf_counter() - start
        self._keep_best(row.get(config.best_by), record.out)
        if self.processes.is_first:
            record.add(history.rows, history.timing, losses, partial(validator.pictures, self.result, sums))

    def _measure(self, validator: Validator) -> Sums:
        """Validate, each process its share of the planes; return what all of them together give.

        Refuse to go on, and to write a model, where that is not finite.
        """
        self.processes.same_buffers(self.result)
        with self.processes.fabric.autocast():
            parts = self.processes.gather(validator.measure(self.result))
        sums = reduce(operator.add, parts)
        if not np.isfinite(sums.loss).all():
            faults = [name for names in self.processes.gather(validator.faults()) for name in names]
            raise not_finite_scores(self.history.step, faults, self.config, self.processes)
        return sums

    def _keep_best(self, score: float | None, out: Path) -> None:
        """Write the model if it is the best so far."""
        history, sign = self.history, -1 if self.config.best_by in LOWER_IS_BETTER else 1
        if score is None:
            return
        if history.best is not None and not sign * score > sign * history.best:
            history.stale += 1
            return
        history.best, history.stale = score, 0
        if self.processes.is_first:
            save_model(out / "best.safetensors", self.result.state_dict(), self.header)

    def _note_times(self) -> None:
        """Add a row to the times: they differ from run to run, so they are kept apart from the metrics."""
        history = self.history
        seconds = history.waited + history.worked
        if seconds:
            history.timing.append({
                "step": history.step, "seconds": seconds, "data_wait": history.waited / seconds
            })  # fmt: skip
            history.waited = history.worked = 0.0

    def seconds_per_step(self, batch: Patches) -> float:
        """Measure passes forward and backward on a CUDA device; leave everything as it was."""
        n, start, device = 8, 0.0, self.processes.device
        before = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.train()
        for k in range(2 * n):
            if k == n:  # what came before was to get ready
                torch.cuda.synchronize(device)
                start = time.perf_counter()
            for part in batch.split(self.config.accumulate):
                self.processes.fabric.backward(self._loss(part))
        torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        self.optimizer.zero_grad(set_to_none=True)
        self.network.load_state_dict(before)
        return seconds / n

    def save(self, out: Path) -> None:
        """Write everything that training needs to go on."""
        if not self.processes.is_first:
            return
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "history": asdict(self.history),
        }
        save_checkpoint(out / "last.ckpt", state)

    def resume(self, out: Path) -> None:
        """Go on from a checkpoint, if there is one: all processes from that of the first one."""
        path = out / "last.ckpt"
        read = load_checkpoint(path) if self.processes.is_first and path.exists() else None
        state = self.processes.from_first(read)
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.history = History(**state["history"])

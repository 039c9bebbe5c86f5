"""The files of a run, and what it shows while it runs: tables, curves, sheets of predictions, TensorBoard."""

from __future__ import annotations

import csv
import io
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unetcli.atomic import write_atomically
from unetcli.errors import InputError
from unetcli.image.streaming import Progress
from unetcli.metrics.scores import LABELS, SCORES
from unetcli.progress import ShowsRows
from unetcli.report.curves import Panel, draw_curves
from unetcli.report.pictures import read_picture
from unetcli.report.predictions import Prediction, draw_predictions

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Row = dict[str, float]
"""Values by column."""
VALIDATION = "validation_"
"""How the columns of validation begin."""
CURVES_INTERVAL_S = 20.0
"""Least time between two drawings of the curves: one takes a second."""
MOST_SHEETS = 10
"""Sheets of predictions that a run draws."""

logger = logging.getLogger(__name__)


@dataclass
class Record:
    """Where it goes what is known of a run after each validation.

    Parameters
    ----------
    out
        Folder of the run.
    steps, validate_every
        Of the run.
    classes
        Name of each class.
    progress
        Shows rows, if it can.
    best_by
        Column that says which row is the best.
    has_tensorboard
        Whether events for TensorBoard are written, where it is installed.
    """

    out: Path
    steps: int
    validate_every: int
    classes: Sequence[str]
    progress: Progress
    best_by: str
    has_tensorboard: bool = True
    events: SummaryWriter | None = None
    drawn: float = field(default_factory=time.monotonic)  # when the curves were drawn; at first, when the run began

    def add(
        self,
        rows: Sequence[Row],
        timing: Sequence[Row],
        losses: Sequence[float],
        pictures: Callable[[], list[Prediction]],
    ) -> None:
        """Write down a validation.

        Parameters
        ----------
        rows
            Of ``metrics.csv``, up to this validation: ``step``, ``learning_rate``, ``loss``, ``validation_...``.
        timing
            Of ``timing.csv``, up to this validation: ``step``, ``seconds`` in its steps, ``data_wait``, the part of
            these spent on waiting, and ``validation_seconds``.
        losses
            Of each step since the last validation.
        pictures
            Makes what a sheet shows; asked only when one is drawn.
        """
        write_rows(self.out / "metrics.csv", rows)
        write_rows(self.out / "timing.csv", timing)
        if time.monotonic() - self.drawn > CURVES_INTERVAL_S:  # else the next time, or at the end
            draw_curves(rows, panels_of(rows), self.out / "curves.png")
            self.drawn = time.monotonic()
        sheet = self._draw_sheet(int(rows[-1]["step"]), pictures)
        if self.has_tensorboard:
            self._write_events(rows[-1], timing[-1], losses, sheet)
        if isinstance(self.progress, ShowsRows):
            best = best_row(rows, self.best_by) if self.best_by in rows[-1] else rows[-1]
            self.progress.show_row(
                _shown(rows[-1], timing), self.steps, is_best=best is rows[-1], seconds_left=self.seconds_left(timing)
            )

    def seconds_left(self, timing: Sequence[Row]) -> float:
        """Estimate the time that is left, from that of the last validations and of the steps before them."""
        last = timing[-5:]
        per_step = sum(row["seconds"] for row in last) / (last[-1]["step"] - _step_before(timing, len(last)))
        per_validation = sum(row["validation_seconds"] for row in last) / len(last)
        left = self.steps - last[-1]["step"]
        return left * per_step + math.ceil(left / self.validate_every) * per_validation

    def close(self) -> None:
        """Write what TensorBoard has not written yet."""
        if self.events is not None:
            self.events.close()

    def _draw_sheet(self, step: int, pictures: Callable[[], list[Prediction]]) -> Path | None:
        """Draw the predictions of a validation, if it is its turn: the last, and those spread over the run."""
        count = math.ceil(self.steps / self.validate_every)
        k = math.ceil(step / self.validate_every)
        if k * MOST_SHEETS // count == (k - 1) * MOST_SHEETS // count or not (shown := pictures()):
            return None
        folder = self.out / "validation"
        folder.mkdir(exist_ok=True)
        path = folder / f"step_{step:0{max(6, len(str(self.steps)))}d}.png"
        draw_predictions(shown, self.classes, f"step {step:,} of {self.steps:,}", path)
        return path

    def _write_events(self, row: Row, times: Row, losses: Sequence[float], sheet: Path | None) -> None:
        step = int(row["step"])
        first = step - len(losses) + 1
        if self.events is None:
            self.events = _open_events(self.out / "tensorboard", first)
            self.has_tensorboard = self.events is not None
        if self.events is None:
            return
        for at, loss in enumerate(losses, first):
            self.events.add_scalar("loss/training", loss, at)
        names = {VALIDATION + "loss": "loss/validation", "learning_rate": "learning_rate"}
        for name, value in row.items():
            if name.startswith(VALIDATION) or name in names:
                self.events.add_scalar(names.get(name, name.replace("_", "/", 1)), value, step)
        for name in ("data_wait", "validation_seconds"):
            self.events.add_scalar(f"time/{name}", times[name], step)
        if sheet is not None:
            self.events.add_image("predictions", read_picture(sheet), step, dataformats="HWC")
        self.events.flush()


def _step_before(timing: Sequence[Row], n: int) -> float:
    """Return the step at which the last `n` rows began."""
    return timing[-n - 1]["step"] if len(timing) > n else 0


def _shown(row: Row, timing: Sequence[Row]) -> Row:
    """Return what a line or a table shows of a validation."""
    rate = (row["step"] - _step_before(timing, 1)) / max(timing[-1]["seconds"], 1e-9)
    left_out = (VALIDATION + "iou_", "learning_rate")
    scores = {name: value for name, value in row.items() if not name.startswith(left_out)}
    last = {"learning_rate": row["learning_rate"], "data_wait": timing[-1]["data_wait"], "steps_per_second": rate}
    return {**scores, **last}


def _open_events(folder: Path, first: int) -> SummaryWriter | None:
    """Open a file of events; those of earlier files from the first step on, after their checkpoint, are hidden."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        logger.info("TensorBoard: is not installed, so no events are written; pip install 'unetcli[tensorboard]'")
        return None
    return SummaryWriter(str(folder), purge_step=first)


# ------------------------------------------------------------------------------------------- scores


def better(column: str) -> str:
    """Tell whether ``higher`` or ``lower`` values of a column are better."""
    name = column.removeprefix(VALIDATION)
    if name in SCORES:
        return SCORES[name].better
    return "lower" if name == "loss" else "higher"


def best_row(rows: Sequence[Row], column: str) -> Row:
    """Return the first of the rows with the best value."""
    sign = 1 if better(column) == "lower" else -1
    return min(rows, key=lambda row: sign * row[column])


def panels_of(rows: Sequence[Row]) -> list[Panel]:
    """Say what the curves show of the scores of validation: IoU and Dice together, that of each class together."""
    names = [name.removeprefix(VALIDATION) for name in rows[-1] if name.startswith(VALIDATION)] if rows else []
    panels = []
    for name in names:
        if name in LABELS and name not in ("iou", "dice"):
            panels.append(Panel(LABELS[name], {LABELS[name]: VALIDATION + name}, better(name)))
    of_classes = {name.removeprefix("iou_"): VALIDATION + name for name in names if name.startswith("iou_")}
    if of_classes:
        panels.insert(0, Panel("IoU of each class", {"mean": VALIDATION + "mean_iou", **of_classes}, "higher"))
    if "iou" in names:
        lines = {LABELS[name]: VALIDATION + name for name in ("iou", "dice")}
        panels.insert(0, Panel("Foreground" if of_classes else "IoU and Dice", lines, "higher"))
    return panels


# ------------------------------------------------------------------------------------------- tables


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a table; the file is there whole or not at all. A value that a row lacks is left empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.8g}" for k, v in row.items()} for row in rows)
    write_atomically(path, text.getvalue())


def _columns(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def read_rows(path: Path) -> list[Row]:
    """Read a table."""
    if not path.is_file():
        raise InputError(f"{path}: is missing; expected a table of this run", fix="--overwrite starts again")
    with path.open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]

"""Progress on a terminal, in a log, or as JSON lines; and the wish to stop in time."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any, Protocol, runtime_checkable

from unetcli.errors import Interrupted, Unfinished

LOG_INTERVAL_S = 30.0
"""Seconds between lines where there is no terminal."""
SHOWN_ROWS = 8
"""Rows of a table on a terminal."""
UNSPOKEN = ("step", "learning_rate", "data_wait", "steps_per_second")
"""Columns that a line leaves out, or says in other words."""


@runtime_checkable
class ShowsRows(Protocol):
    """A progress that also shows rows of a table."""

    def show_row(self, row: Mapping[str, float], *, is_best: bool, seconds_left: float) -> None:
        """Show a row, and how much time is left."""


class Progress:
    """Called with (done, total) after each tile or step; shows it, and raises `Unfinished` after a signal.

    SIGTERM and SIGUSR1, which schedulers send before the wall-time limit, and Ctrl-C are answered here, where what
    is finished can be saved.

    Parameters
    ----------
    command
        Name of the command, shown before the bar.
    style
        ``bar``, ``lines``, ``json`` or ``none``.
    """

    def __init__(self, command: str, style: str) -> None:
        self.command, self.style = command, style
        self.signal: str | None = None
        self.before: dict[signal.Signals, Any] = {}
        self.screen: Screen | None = None
        self.started = self.shown = time.monotonic()
        self.first, self.last = 0, (0, 0)
        self.left: tuple[int, float] | None = None  # done, and the seconds that were left then, as was told

    def __enter__(self) -> Progress:
        heard = [signal.SIGTERM, signal.SIGUSR1]
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # background jobs are deaf to Ctrl-C
            heard.append(signal.SIGINT)
        self.before = {number: signal.signal(number, self._remember) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.screen is not None:
            self.screen.stop()

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        if number == signal.SIGINT:  # now at the next tile or step; again, at once
            signal.signal(number, signal.default_int_handler)

    def __call__(self, done: int, total: int) -> None:
        """Show progress; stop in time if a signal asked for it."""
        now = time.monotonic()
        if done < self.last[0] or total != self.last[1]:  # a new pass; what an earlier run did is not of its rate
            self.first, self.started, self.left = done, now, None
        self.last = (done, total)
        rate = (done - self.first) / max(now - self.started, 1e-9)
        if self.style == "bar":
            self.screen = self.screen or Screen(self.command)
            self.screen.show(done, total, f"{rate:.3g}/s, {self._time_left(rate)}")
        elif self.style != "none" and now - self.shown >= LOG_INTERVAL_S:
            self.shown = now
            self._log(rate)
        if self.signal and done < total:
            kind, by = (Interrupted, "Ctrl-C") if self.signal == "SIGINT" else (Unfinished, self.signal)
            raise kind(
                f"stopped by {by} after {done} of {total}; the work so far is saved",
                fix="run the same command again: it continues",
            )

    def show_row(self, row: Mapping[str, float], *, is_best: bool, seconds_left: float) -> None:
        """Show a row of a table, and how much time is left.

        Parameters
        ----------
        row
            Values by name; ``step`` first.
        is_best
            Whether it is the best so far.
        seconds_left
            Until the last step, with all that comes in between.
        """
        total, step = self.last[1], int(row["step"])
        self.left, self.shown = (step, seconds_left), time.monotonic()
        if self.style == "bar":
            self.screen = self.screen or Screen(self.command)
            self.screen.add(row, is_best=is_best)
        elif self.style == "json":
            entry = {"event": "validation", "command": self.command, **row, "step": step}
            _print_json({**entry, "is_best": is_best, "seconds_left": round(seconds_left, 1)})
        elif self.style == "lines":
            values = [f"{_spoken(name)} {value:.4g}" for name, value in row.items() if name not in UNSPOKEN]
            values.append(f"{row['steps_per_second']:.3g} steps/s, {_minutes(seconds_left)}")
            of = f" of {total}" if total else ""
            print(f"step {step}{of}: {', '.join(values)}", file=sys.stderr, flush=True)

    def _time_left(self, rate: float) -> str:
        """Say how much time is left: in proportion to what was told, else at the rate so far."""
        done, total = self.last
        if self.left is not None and total > self.left[0]:
            return _minutes(self.left[1] * (total - done) / (total - self.left[0]))
        return _minutes((total - done) / rate if rate else float("inf"))

    def _log(self, rate: float) -> None:
        """Write a line: done, total, rate, estimated time left."""
        done, total = self.last
        if self.style == "json":
            entry = {"event": "progress", "command": self.command, "done": done, "total": total}
            _print_json({**entry, "per_second": round(rate, 3)})
        else:
            text = f"{self.command}: {done} of {total}, {rate:.3g}/s, {self._time_left(rate)}"
            print(text, file=sys.stderr, flush=True)


class Screen:
    """A bar, and below it the last rows of a table and the best one, drawn again and again on a terminal."""

    def __init__(self, command: str) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self.rows: list[Mapping[str, float]] = []
        self.best: Mapping[str, float] | None = None
        self.bar = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
        )
        self.task = self.bar.add_task(command, total=None, speed="")
        self.live = Live(get_renderable=self._draw, console=Console(stderr=True), transient=True, refresh_per_second=4)
        self.live.start()

    def show(self, done: int, total: int, speed: str) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=done, total=total, speed=speed)

    def add(self, row: Mapping[str, float], *, is_best: bool) -> None:
        """Add a row to the table."""
        self.rows = [*self.rows, row][-SHOWN_ROWS:]
        self.best = row if is_best or self.best is None else self.best

    def stop(self) -> None:
        """Remove the bar; the table stays."""
        self.live.transient = not self.rows
        self.bar.remove_task(self.task)
        self.live.stop()

    def _draw(self) -> Any:  # noqa: ANN401 - something that rich draws
        from rich.console import Group
        from rich.table import Table

        if not self.rows or self.best is None:
            return self.bar
        rows = self.rows if self.best in self.rows else [self.best, *self.rows[1:]]
        table = Table(box=None, pad_edge=False, padding=(0, 1))
        for name in ("", *rows[-1]):
            table.add_column(_spoken(name, line="\n"), justify="right", header_style="dim")
        for row in rows:
            mark, style = ("best", "bold green") if row is self.best else ("", "")
            table.add_row(mark, *(_short(name, value) for name, value in row.items()), style=style)
        return Group(*([self.bar] if self.bar.tasks else []), table)


def _print_json(entry: Mapping[str, Any]) -> None:
    print(json.dumps(entry), file=sys.stderr, flush=True)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min left"


def _spoken(name: str, line: str = " ") -> str:
    """Return the name of a column for people."""
    short = name if name == "validation_loss" else name.removeprefix("validation_")
    return {"steps_per_second": f"steps{line}/s"}.get(name, short.replace("_", line))


def _short(name: str, value: float) -> str:
    """Return a value for a narrow table."""
    return f"{value:.0f}" if name == "step" else f"{100 * value:.1f} %" if name == "data_wait" else f"{value:.3g}"

"""Progress on a terminal, in a log, or as JSON lines; and the wish to stop in time."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any, NoReturn, Protocol, runtime_checkable

from unetcli.errors import ConfigError, Interrupted, Unfinished

LOG_INTERVAL_S = 30.0
"""Seconds between lines where there is no terminal."""
SHOWN_ROWS = 8
"""Rows of a table on a terminal."""
UNSPOKEN = ("step", "learning_rate", "data_wait", "steps_per_second")
"""Columns that a line leaves out, or says in other words."""

SAME_SIGNAL_S = 2.0
"""Signals within so many seconds are one wish: schedulers send several at once."""
SPARE = 1.5
"""The next tile or step is expected to take so many times the longest so far."""
GRACE_S = 20.0
"""Seconds that a tile has to end after a signal: schedulers kill what is still there after 30."""
NOTHING_KEPT = "nothing is kept: the result comes at the end"
SAVING_S = 20.0
"""What is kept of a job's time to save the work, seconds."""

logger = logging.getLogger(__name__)


@runtime_checkable
class ShowsRows(Protocol):
    """A progress that also shows rows of a table."""

    def show_row(self, row: Mapping[str, float], total: int, *, is_best: bool, seconds_left: float) -> None:
        """Show a row of the last of so many steps, and how much time is left."""


def seconds_until_stop(wish: str) -> float:
    """Return the seconds that ``--stop-after`` leaves: of minutes, or with ``auto``, of what is left of a SLURM job.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    if wish == "auto":
        return _seconds_left_of_job()
    try:
        minutes = float(wish)
    except ValueError:
        minutes = math.nan
    if not minutes > 0:  # of nan too
        raise ConfigError(f"--stop-after {wish}: expected minutes above 0, or auto")
    return 60 * minutes


def _seconds_left_of_job() -> float:
    """Ask SLURM once; without an answer, there is no limit, and it is said."""
    job = os.environ.get("SLURM_JOB_ID", "")
    command = ["squeue", "--noheader", "--jobs", job, "--format", "%L"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
        days, _, clock = answer.rpartition("-")
        hours, minutes, seconds = (int(part) for part in f"0:0:{clock}".split(":")[-3:])
    except (OSError, ValueError, subprocess.SubprocessError):
        logger.warning("--stop-after auto: squeue does not tell the time that is left; there is no limit")
        return math.inf
    left = 86400 * int(days or 0) + 3600 * hours + 60 * minutes + seconds
    logger.info("--stop-after auto: %.0f min are left of job %s", left / 60, job)
    return left - SAVING_S


class Progress:
    """Called with (done, total) after each tile or step; shows it, and raises `Unfinished` when it is time to stop.

    SIGTERM, SIGUSR1 and SIGUSR2, which schedulers send before the wall-time limit, and Ctrl-C are answered here,
    where what is finished can be saved. A second signal, more than `SAME_SIGNAL_S` later, ends the process at once.

    Parameters
    ----------
    command
        Name of the command, shown before the bar.
    style
        ``bar``, ``lines``, ``json`` or ``none``.
    stop_after_s
        Stop before a tile or step that would not end within so many seconds from now, by the longest so far.
    grace_s
        A tile or step that has not ended so many seconds after a signal is given up.
    keeps
        Whether what is done before a stop is kept, for the next call.
    """

    def __init__(
        self,
        command: str,
        style: str,
        stop_after_s: float = math.inf,
        *,
        grace_s: float = math.inf,
        keeps: bool = True,
    ) -> None:
        self.command, self.style, self.grace_s, self.keeps = command, style, grace_s, keeps
        self.signal: str | None = None
        self.heard_at = -math.inf
        self.before: dict[signal.Signals, Any] = {}
        self.screen: Screen | None = None
        self.started = self.shown = time.monotonic()
        self.first, self.last = 0, (0, 0)
        self.left: tuple[int, float] | None = None  # done, and the seconds that were left then, as was told
        self.deadline, self.called, self.calls, self.longest = self.started + stop_after_s, self.started, 0, 0.0

    def __enter__(self) -> Progress:
        heard = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # background jobs are deaf to Ctrl-C
            heard.append(signal.SIGINT)
        self.before = {number: signal.signal(number, self._remember) for number in heard}
        if self.grace_s < math.inf:
            self.before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._give_up)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if signal.SIGALRM in self.before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.screen is not None:
            self.screen.stop()

    def _remember(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal and number != signal.SIGINT and now - self.heard_at > SAME_SIGNAL_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if not self.signal and self.grace_s < math.inf:
            signal.setitimer(signal.ITIMER_REAL, self.grace_s)
        self.signal, self.heard_at = signal.Signals(number).name, now
        if number == signal.SIGINT:  # now at the next tile or step; again, at once
            signal.signal(number, signal.default_int_handler)

    def _give_up(self, _: int, __: FrameType | None) -> None:
        self._stop()

    def _stop(self) -> NoReturn:
        if signal.SIGALRM in self.before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        by = {None: "--stop-after", "SIGINT": "Ctrl-C"}.get(self.signal, self.signal)
        done, total = self.last
        kind = Interrupted if self.signal == "SIGINT" else Unfinished
        raise kind(
            f"stopped by {by} after {done} of {total}; {'the work so far is saved' if self.keeps else NOTHING_KEPT}",
            fix=f"run the same command again: it {'continues' if self.keeps else 'begins anew'}",
        )

    def __call__(self, done: int, total: int) -> None:
        """Show progress; stop in time if a signal asked for it, or the time is over."""
        now = time.monotonic()
        if done < self.last[0] or total != self.last[1]:  # a new pass; what an earlier run did is not of its rate
            self.first, self.started, self.left = done, now, None
        self.last = (done, total)
        rate = (done - self.first) / max(now - self.started, 1e-9)
        if self.style == "bar":
            self.screen = self.screen or Screen(self.command)
            self.screen.show(done, total, self._speed(rate))
        elif self.style != "none" and now - self.shown >= LOG_INTERVAL_S:
            self.shown = now
            self._log(rate)
        is_over = self._is_over()
        if (self.signal or is_over) and done < total:
            self._stop()

    def _is_over(self) -> bool:
        """Tell whether the next tile or step would not fit into the time."""
        now = time.monotonic()
        took, self.called, self.calls = now - self.called, now, self.calls + 1
        # The first one takes long to get ready; it counts until there is another.
        self.longest = max(self.longest, took) if self.calls > 2 else took
        return now + SPARE * self.longest > self.deadline

    def show_row(self, row: Mapping[str, float], total: int, *, is_best: bool, seconds_left: float) -> None:
        """Show a row of a table, and how much time is left.

        Parameters
        ----------
        row
            Values by name; ``step`` first.
        total
            Number of steps.
        is_best
            Whether it is the best so far.
        seconds_left
            Until the last step, with all that comes in between.
        """
        step = int(row["step"])
        self.left, self.shown = (step, seconds_left), time.monotonic()
        if self.style == "bar":
            self.screen = self.screen or Screen(self.command)
            self.screen.add(row, is_best=is_best)
        elif self.style == "json":
            entry = {"event": "validation", "command": self.command, **row, "step": step, "total": total}
            _print_json({**entry, "is_best": is_best, "seconds_left": round(seconds_left, 1)})
        elif self.style == "lines":
            values = [f"{_spoken(name)} {value:.4g}" for name, value in row.items() if name not in UNSPOKEN]
            values.append(f"{row['steps_per_second']:.3g} steps/s, {_minutes(seconds_left)}")
            print(f"step {step} of {total}: {', '.join(values)}", file=sys.stderr, flush=True)

    def _speed(self, rate: float) -> str:
        """Say rate and time left: in proportion to what was told, else at the rate so far, which the first has not."""
        done, total = self.last
        if not rate:
            return "time left not known yet"
        seconds = (total - done) / rate
        if self.left is not None and total > self.left[0]:
            seconds = self.left[1] * (total - done) / (total - self.left[0])
        return f"{rate:.3g}/s, {_minutes(seconds)}"

    def _log(self, rate: float) -> None:
        """Write a line: done, total, rate, estimated time left."""
        done, total = self.last
        if self.style == "json":
            entry = {"event": "progress", "command": self.command, "done": done, "total": total}
            _print_json({**entry, "per_second": round(rate, 3)})
        else:
            print(f"{self.command}: {done} of {total}, {self._speed(rate)}", file=sys.stderr, flush=True)


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
        self.best = row if is_best else self.best  # of a run that goes on, the best one may lie before its rows

    def stop(self) -> None:
        """Remove the bar; the table stays."""
        self.live.transient = not self.rows
        self.bar.remove_task(self.task)
        self.live.stop()

    def _draw(self) -> Any:  # noqa: ANN401 - something that rich draws
        from rich.console import Group
        from rich.table import Table

        if not self.rows:
            return self.bar
        rows = self.rows if self.best is None or self.best in self.rows else [self.best, *self.rows[1:]]
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

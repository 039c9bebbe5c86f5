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
from types import FrameType, TracebackType
from typing import Any

from unetcli.errors import ConfigError, Interrupted, Unfinished

LOG_INTERVAL_S = 30.0
"""Seconds between lines where there is no terminal."""
SAME_SIGNAL_S = 2.0
"""Signals within so many seconds are one wish: schedulers send several at once."""
SPARE = 1.5
"""The next tile or step is expected to take so many times the longest so far."""
SAVING_S = 20.0
"""What is kept of a job's time to save the work, seconds."""

logger = logging.getLogger(__name__)


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
    """

    def __init__(self, command: str, style: str, stop_after_s: float = math.inf) -> None:
        self.command, self.style = command, style
        self.signal: str | None = None
        self.heard_at = -math.inf
        self.before: dict[signal.Signals, Any] = {}
        self.bar: Any = None
        self.started = self.shown = time.monotonic()
        self.first, self.last = 0, (0, 0)
        self.deadline, self.called, self.calls, self.longest = self.started + stop_after_s, self.started, 0, 0.0

    def __enter__(self) -> Progress:
        heard = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # background jobs are deaf to Ctrl-C
            heard.append(signal.SIGINT)
        self.before = {number: signal.signal(number, self._remember) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.bar is not None:
            self.bar.stop()

    def _remember(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal and number != signal.SIGINT and now - self.heard_at > SAME_SIGNAL_S:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal, self.heard_at = signal.Signals(number).name, now
        if number == signal.SIGINT:  # now at the next tile or step; again, at once
            signal.signal(number, signal.default_int_handler)

    def __call__(self, done: int, total: int) -> None:
        """Show progress; stop in time if a signal asked for it, or the time is over."""
        if self.style == "bar":
            self._draw(done, total)
        elif self.style != "none":
            self._log(done, total)
        is_over = self._is_over()
        if (self.signal or is_over) and done < total:
            by = {None: "--stop-after", "SIGINT": "Ctrl-C"}.get(self.signal, self.signal)
            kind = Interrupted if self.signal == "SIGINT" else Unfinished
            raise kind(
                f"stopped by {by} after {done} of {total}; the work so far is saved",
                fix="run the same command again: it continues",
            )

    def _is_over(self) -> bool:
        """Tell whether the next tile or step would not fit into the time."""
        now = time.monotonic()
        took, self.called, self.calls = now - self.called, now, self.calls + 1
        # The first one takes long to get ready; it counts until there is another.
        self.longest = max(self.longest, took) if self.calls > 2 else took
        return now + SPARE * self.longest > self.deadline

    def _draw(self, done: int, total: int) -> None:
        if self.bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("{task.description:<12}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self.bar.start()
            self.bar.add_task(self.command)
        self.bar.update(self.bar.task_ids[0], completed=done, total=total)

    def _log(self, done: int, total: int) -> None:
        """Write a line now and then: done, total, rate, estimated time left."""
        now = time.monotonic()
        if done < self.last[0] or total != self.last[1]:  # a new pass; what an earlier run did is not of its rate
            self.first, self.started = done, now
        self.last = (done, total)
        if now - self.shown < LOG_INTERVAL_S:
            return
        self.shown = now
        rate = (done - self.first) / max(now - self.started, 1e-9)
        left = (total - done) / rate if rate else float("inf")
        if self.style == "json":
            entry = {"event": "progress", "command": self.command, "done": done, "total": total}
            print(json.dumps({**entry, "per_second": round(rate, 3)}), file=sys.stderr, flush=True)
        else:
            text = f"{self.command}: {done} of {total}, {rate:.3g}/s, {left / 60:.1f} min left"
            print(text, file=sys.stderr, flush=True)

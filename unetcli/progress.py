"""Progress on a terminal, in a log, or as JSON lines; and the wish to stop in time."""

from __future__ import annotations

import json
import signal
import sys
import time
from types import FrameType, TracebackType
from typing import Any

from unetcli.errors import Interrupted, Unfinished

LOG_INTERVAL_S = 30.0
"""Seconds between lines where there is no terminal."""


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
        self.bar: Any = None
        self.started = self.shown = time.monotonic()
        self.first, self.last = 0, (0, 0)

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
        if self.bar is not None:
            self.bar.stop()

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        if number == signal.SIGINT:  # now at the next tile or step; again, at once
            signal.signal(number, signal.default_int_handler)

    def __call__(self, done: int, total: int) -> None:
        """Show progress; stop in time if a signal asked for it."""
        if self.style == "bar":
            self._draw(done, total)
        elif self.style != "none":
            self._log(done, total)
        if self.signal and done < total:
            kind, by = (Interrupted, "Ctrl-C") if self.signal == "SIGINT" else (Unfinished, self.signal)
            raise kind(
                f"stopped by {by} after {done} of {total}; the work so far is saved",
                fix="run the same command again: it continues",
            )

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

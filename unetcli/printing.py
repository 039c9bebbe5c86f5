"""What the command line prints: results, tables of what there is, errors for people, log lines."""

from __future__ import annotations

import json
import logging
import sys
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unetcli.errors import Interrupted, Unfinished
from unetcli.options import Common
from unetcli.presets import preset_table

if TYPE_CHECKING:
    from rich.console import Console

MARKS = "¹²³⁴⁵⁶⁷⁸⁹"
ROOM = 40
"""A column of text is narrower than so many characters only if it needs no more."""


def print_presets() -> None:
    """Print in what the presets differ."""
    from rich.console import Console
    from rich.table import Column, Table

    (setting, *names), *rows = preset_table()
    columns = [Column(setting, no_wrap=True), *(Column(name, overflow="fold") for name in names)]
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)


def print_architectures() -> None:
    """Print a table of the architectures."""
    from rich.console import Console
    from rich.table import Column, Table

    from unetcli.models.summary import describe_architectures

    # Numbers in a table that no terminal is too narrow for; words below it.
    rows = describe_architectures()
    names = [name for name in rows[0] if name not in ("paper", "what")]
    columns = [Column(name, no_wrap=name in ("name", "channels", "parameters")) for name in names]
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    words = Table(box=None, pad_edge=False, show_header=False)
    words.add_column(no_wrap=True)
    for row in rows:
        table.add_row(*(row[name] for name in names))
        words.add_row(row["name"], f"{row['what']} ({row['paper']})")
    console = Console(highlight=False)
    console.print(table, "", words, sep="\n")


def start_logging(common: Common) -> None:
    """Send what the package logs to stderr: a line of text each, or of JSON."""
    level = logging.DEBUG if common.verbose else logging.ERROR if common.quiet else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if common.json else logging.Formatter("%(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("unetcli").setLevel(level)


class _JsonLines(logging.Formatter):
    """Write a record as a line of JSON, as progress is written."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"event": "log", "level": record.levelname.lower(), "message": record.getMessage()})


def print_result(name: str, result: dict[str, Any], common: Common) -> None:
    """Print what a stage returned: a table for people, JSON for programs."""
    if not result:  # of several processes one prints
        return
    if common.json:
        print(json.dumps(result))
        return
    if common.quiet:
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for note in result.pop("notes", []):
        console.print(Text.assemble(("note", "yellow"), "  ", note), soft_wrap=True)
    if "mean" in result:
        _print_scores(result, console)
        return
    table = Table(box=None, show_header=False, pad_edge=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    if result.pop("already_done", False):
        table.add_row(name, "was complete already; nothing to do")
    faults, to_copy = result.pop("faults", []), result.pop("sbatch", None)
    for key, value in result.items():
        for k, line in enumerate(value if isinstance(value, list) else [value]):
            shown = _number(line) if isinstance(line, float) else str(line)
            table.add_row(key.replace("_", " ") if k == 0 else "", Text(shown))  # names may hold [brackets]
    console.print(table)
    if to_copy:  # not a cell of the table, which would fold it
        console.print(Text(to_copy), soft_wrap=True)
    for fault in faults:
        console.print(Text.assemble(("fault", "red"), "  ", fault), soft_wrap=True)


def _number(value: float) -> str:
    """Spell a number with four digits, and never as a power of ten where it is large."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def _print_scores(metrics: dict[str, Any], console: Console) -> None:
    """Print the means of a report, each with its convention, or why there is none."""
    from rich.text import Text

    n = len(metrics["images"])
    several = ", mean and its 95 % interval; pooled: all together"
    console.print(Text(f"{n} images{several}" if n > 1 else f"{n} image"))
    rows = [("score", "value", *(("interval", "pooled") if n > 1 else ("", "")), "better", "convention")]
    conventions, notes = _with_marks(metrics["conventions"])
    for name, value in metrics["mean"].items():
        meaning = metrics["undefined"][name] if value is None else conventions[name]
        interval = _spell_interval(metrics["intervals"][name])
        pooled = _number_or_not(metrics["pooled"][name]) if n > 1 and name in metrics["pooled"] else ""
        rows.append((name, _number_or_not(value), interval, pooled, metrics["better"][name], meaning))
    _print_rows(rows, "lrlrl", console)
    for note in notes:
        console.print(Text("\n".join(textwrap.wrap(note, console.width, subsequent_indent="  ")), style="dim"))
    if "comparison" in metrics:
        _print_comparison(metrics, console)
    if "report" in metrics:
        console.print(Text.assemble(("report", "bold"), f"  {metrics['report']}"), soft_wrap=True)


def _with_marks(conventions: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Put what several conventions have in common, behind "; ", into notes, and a mark in its place."""
    parts = {name: text.rpartition("; ") for name, text in conventions.items()}
    n_with = Counter(common for own, _, common in parts.values() if own)
    marks = dict(zip((common for common, n in n_with.items() if n > 1), MARKS, strict=False))
    shown = {
        name: f"{own}\N{NO-BREAK SPACE}{marks[common]}" if own and common in marks else conventions[name]
        for name, (own, _, common) in parts.items()
    }
    return shown, [f"{mark} {common}" for common, mark in marks.items()]


def _print_comparison(metrics: dict[str, Any], console: Console) -> None:
    """Print two predictions side by side, with the interval of the mean of their differences."""
    from rich.text import Text

    found = metrics["comparison"]
    console.print(Text(f"\nA is {found['a']}, B is {found['b']}; differences by image, mean and its 95 % interval"))
    rows = [("score", "A", "B", "B - A", "better", "interval")]
    for name, score in found["scores"].items():
        numbers = map(_number_or_not, (metrics["mean"][name], found["mean"][name], score["difference"]))
        interval = None if score["low"] is None else [score["low"], score["high"]]
        rows.append((name, *numbers, {"a": "A", "b": "B"}.get(score["better"], "neither"), _spell_interval(interval)))
    _print_rows(rows, "lrrrl", console)


def _print_rows(rows: Sequence[tuple[str, ...]], justify: str, console: Console) -> None:
    """Print rows below their heads; the last column goes below each row where the terminal has no room beside it."""
    from rich.text import Text

    *widths, longest = (max(map(len, column)) for column in zip(*rows, strict=True))
    left = sum(width + 2 for width in widths if width)
    is_beside = console.width - left >= min(longest, ROOM)
    indent = left if is_beside else 4
    for k, (*cells, last) in enumerate(rows):
        padded = [c.rjust(w) if j == "r" else c.ljust(w) for c, w, j in zip(cells, widths, justify, strict=True) if w]
        line = Text("  ".join(padded), style="dim" if k == 0 else "")
        line.stylize("bold" if k else "", 0, widths[0])
        first, *rest = [*textwrap.wrap(last, console.width - indent), ""] if is_beside else ["", last]
        line.append(f"  {first}", style="dim")
        line.rstrip()
        console.print(line, soft_wrap=True)
        below = textwrap.wrap(" ".join(rest), console.width - indent)
        if below:
            console.print(Text(textwrap.indent("\n".join(below), " " * indent), style="dim"), soft_wrap=True)


def _number_or_not(value: float | None) -> str:
    return "undefined" if value is None else _number(value)


def _spell_interval(interval: list[float] | None) -> str:
    return "" if interval is None else " to ".join(f"{value:.3g}" for value in interval)


def fail(message: str, code: int, *, fix: str | None = None, debug: bool = False) -> int:
    """Print an error for people; return its exit code."""
    if debug:
        import traceback

        traceback.print_exc()
    kind = "stopped" if code in (Unfinished.exit_code, Interrupted.exit_code) else "error"
    print(f"{kind}: {message}", file=sys.stderr)
    if fix:
        print(f"  fix: {fix}", file=sys.stderr)
    return code

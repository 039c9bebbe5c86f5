"""What the command line prints: results, tables of what there is, errors for people, log lines."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING, Any

from unetcli.errors import Interrupted, Unfinished
from unetcli.options import Common
from unetcli.presets import preset_table

if TYPE_CHECKING:
    from rich.console import Console


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
    """Print the means of a report, one a line; what does not fit on the line is in ``metrics.json``."""
    from rich.table import Table
    from rich.text import Text

    n = len(metrics["images"])
    several = ", mean and its 95 % interval; pooled: all together"
    console.print(Text(f"{n} images{several}" if n > 1 else f"{n} image"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for header in ("score", "value", *(("interval", "pooled") if n > 1 else ()), "better"):
        table.add_column(header, no_wrap=True, justify="right" if header in ("value", "pooled") else "left")
    table.add_column("convention", style="dim")  # the one column that gives way where it is narrow
    for name, value in metrics["mean"].items():
        interval, pooled = metrics["intervals"][name], metrics["pooled"].get(name)
        of_several = (_spell_interval(interval), "" if pooled is None else _number(pooled)) if n > 1 else ()
        shown = ("undefined" if value is None else _number(value), *of_several, metrics["better"][name])
        meaning = Text(metrics["conventions"][name], no_wrap=True, overflow="ellipsis")
        if value is None:
            meaning = Text(metrics["undefined"][name])
        table.add_row(Text(name, style="bold"), *map(Text, shown), meaning)
    console.print(table)
    if "comparison" in metrics:
        _print_comparison(metrics, console)
    if "report" in metrics:
        console.print(Text.assemble(("report", "bold"), f"  {metrics['report']}"), soft_wrap=True)


def _print_comparison(metrics: dict[str, Any], console: Console) -> None:
    """Print two predictions side by side, with the interval of the mean of their differences."""
    from rich.table import Table
    from rich.text import Text

    found = metrics["comparison"]
    console.print(Text(f"\nA is {found['a']}, B is {found['b']}; differences by image, mean and its 95 % interval"))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for header, justify in zip(("score", "A", "B", "B - A", "interval", "better"), "lrrrll", strict=True):
        table.add_column(header, no_wrap=True, justify="right" if justify == "r" else "left")
    for name, score in found["scores"].items():
        numbers = [metrics["mean"][name], found["mean"][name], score["difference"]]
        interval = None if score["low"] is None else [score["low"], score["high"]]
        better = score["better"].upper() if score["better"] else "?"
        shown = ["undefined" if v is None else _number(v) for v in numbers]
        table.add_row(Text(name, style="bold"), *map(Text, (*shown, _spell_interval(interval), better)))
    console.print(table)


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

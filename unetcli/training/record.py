"""The files of a run: its tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from unetcli.atomic import write_atomically

Row = dict[str, float]
"""Values by column."""


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write a table; the file is there whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.8g}" for k, v in row.items()} for row in rows)
    write_atomically(path, text.getvalue())


def read_rows(path: Path) -> list[Row]:
    """Read a table."""
    with path.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]

"""The record of finished tiles: what lets a run that was killed go on where it stood.

Beside a store ``OUT`` that is being written lies the folder ``OUT.unetcli``::

    plan.json     the fingerprint of the run: its stage, settings and inputs
    *.done        finished tiles, one name a line, one file for each process that ever worked on the store

A line is added after the tile's bytes were written, never before, so what is recorded is there. A line cut
short by a kill has no newline and does not count. Each process writes a file of its own, so no locks are
needed, on no file system. When the store is complete the folder goes away.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unetcli.atomic import write_atomically
from unetcli.errors import ConfigError, InputError


def ledger_path(out: Path) -> Path:
    """Return the folder that holds the ledger of a store."""
    return out.with_name(out.name + ".unetcli")


def require_complete(path: Path) -> None:
    """Raise an `InputError` if a store is still being written."""
    if ledger_path(path).exists():
        raise InputError(f"{path}: is not complete", fix="run the command that writes it again: it continues")


class Ledger:
    """Finished tiles of one store, kept on disk.

    Parameters
    ----------
    out
        The store that is being written.
    fingerprint
        What the store's bytes follow from. JSON values only.

    Raises
    ------
    ConfigError
        If the store was begun with another fingerprint; the message says what differs.
    """

    def __init__(self, out: Path, fingerprint: Mapping[str, Any]) -> None:
        self.path = ledger_path(out)
        self._lock = threading.Lock()
        plan = self.path / "plan.json"
        if plan.exists():
            check_fingerprint(out, json.loads(plan.read_text()), fingerprint)
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(plan, json.dumps(fingerprint, indent=1))
        self._done = {name for file in self.path.glob("*.done") for name in _whole_lines(file)}
        self._file = self.path / f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}.done"

    def __contains__(self, name: str) -> bool:
        return name in self._done

    def record(self, name: str) -> None:
        """Write down that a tile is finished; call it after its bytes were written."""
        with self._lock, self._file.open("a") as file:
            file.write(name + "\n")
            file.flush()
            os.fsync(file.fileno())
            self._done.add(name)

    def scratch(self, name: str) -> Path:
        """Return a place for intermediate results, which goes away with the ledger."""
        return self.path / name

    def remove(self) -> None:
        """Forget everything: the store is complete."""
        shutil.rmtree(self.path)


class JointLedger:
    """The ledgers of stores that are written together: a tile is finished when it is on record in each."""

    def __init__(self, ledgers: Sequence[Ledger]) -> None:
        self.ledgers = ledgers

    def __contains__(self, name: str) -> bool:
        return all(name in ledger for ledger in self.ledgers)

    def record(self, name: str) -> None:
        """Write down in each that a tile is finished."""
        for ledger in self.ledgers:
            ledger.record(name)


def check_fingerprint(out: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with a store that was begun otherwise, and say what is different.

    Raises
    ------
    ConfigError
        With each entry that differs, its old and its new value.
    """
    old, new = dict(_flatten(found)), dict(_flatten(json.loads(json.dumps(wanted))))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if changed:
        texts = [f"{key} was {_short(old.get(key))}, is {_short(new.get(key))}" for key in changed]
        raise ConfigError(
            f"{out}: was made with other inputs or settings: {'; '.join(texts[:6])}",
            fix="--overwrite to make it again, or another -o",
        )


def _whole_lines(file: Path) -> list[str]:
    return file.read_text().split("\n")[:-1]


def _flatten(value: Any, name: str = "") -> list[tuple[str, Any]]:  # noqa: ANN401 - any JSON value
    if isinstance(value, Mapping):
        return [pair for k, v in value.items() for pair in _flatten(v, f"{name} {k}".strip())]
    return [(name, value)]


def _short(value: Any) -> str:  # noqa: ANN401 - any JSON value
    text = json.dumps(value) if value is not None else "not set"
    return text if len(text) <= 60 else text[:57] + "..."

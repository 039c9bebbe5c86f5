"""The record of finished tiles: what lets a run that was killed go on where it stood.

Beside a store ``OUT`` that is being written lies the folder ``OUT.unetcli``::

    plan.json     the fingerprint of the run: its stage, settings and inputs; empty while an older store is removed
    *.done        finished tiles, one name a line, files of its own for each process that ever worked on the store

A line is added after the tile's bytes were written, never before, so what is recorded is there. Each process writes
files of its own, each time whole (nothing can be added to an object on a server), so no locks are needed, on no
file system. A line cut short has no newline and does not count. When the store is complete the folder goes away,
the plan last.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from unetcli.errors import ConfigError, InputError
from unetcli.image.location import Location, empty, write

PLAN = "plan.json"
L = TypeVar("L", bound=Location)
LINES = 1000
"""A file of finished tiles gets about so many lines, so that writing it stays cheap."""


def ledger_path(out: L) -> L:
    """Return the folder that holds the ledger of a store."""
    named = out if out.name else out.resolve()
    return named.with_name(named.name + ".unetcli") if named.name else named / ".unetcli"  # type: ignore[return-value]


def require_complete(path: Location) -> None:
    """Raise an `InputError` if a store is still being written."""
    if (ledger_path(path) / PLAN).is_file():
        raise InputError(f"{path}: is not complete", fix="run the command that writes it again: it continues")


def read_plan(out: Location) -> dict[str, Any] | None:
    """Return the fingerprint of the run that is writing a store; empty while an older store is removed."""
    plan = ledger_path(out) / PLAN
    return dict(json.loads(plan.read_text())) if plan.is_file() else None


def begin_anew(out: Location) -> None:
    """Forget what is on record; from then on the store is not complete, and may be removed."""
    folder = ledger_path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / PLAN, "{}")
    empty(folder, but=PLAN)


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

    def __init__(self, out: Location, fingerprint: Mapping[str, Any]) -> None:
        self.path = ledger_path(out)
        plan = read_plan(out)
        if plan:
            check_fingerprint(out, plan, fingerprint)
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            write(self.path / PLAN, json.dumps(fingerprint, indent=1))
        files = [file for file in self.path.iterdir() if file.name.endswith(".done")]
        self._done = {name for file in files for name in _whole_lines(file)}
        self._own = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self._names: list[str] = []
        self._n_written = 0
        self._lock = threading.Lock()

    def __contains__(self, name: str) -> bool:
        return name in self._done

    def record(self, name: str) -> None:
        """Write down that a tile is finished; call it after its bytes were written."""
        self._names.append(name)
        with self._lock:  # one thread writes; those that wait for it find their names written
            n = len(self._names)
            if self._n_written < n:
                first = self._n_written // LINES * LINES
                lines = "".join(f"{done}\n" for done in self._names[first:n])
                write(self.path / f"{self._own}-{first // LINES}.done", lines)
                self._n_written = n
        self._done.add(name)

    def scratch(self, name: str) -> Location:
        """Return a place for intermediate results, which goes away with the ledger."""
        return self.path / name

    def remove(self) -> None:
        """Forget everything: the store is complete."""
        empty(self.path, but=PLAN)
        (self.path / PLAN).unlink()
        self.path.rmdir()


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


def check_fingerprint(out: Location, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse to go on with a store that was begun otherwise, and say what is different.

    Raises
    ------
    ConfigError
        With each entry that differs, its old and its new value.
    """
    old, new = dict(_flatten(found)), dict(_flatten(json.loads(json.dumps(wanted))))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if changed:
        names = {f"inputs images {k}": f" ({name})" for k, name in enumerate(_names(wanted))}
        texts = [f"{key}{names.get(key, '')} was {_short(old.get(key))}, is {_short(new.get(key))}" for key in changed]
        raise ConfigError(
            f"{out}: was made with other inputs or settings: {'; '.join(texts[:6])}",
            fix="--overwrite to make it again, or another -o",
        )


def _names(fingerprint: Mapping[str, Any]) -> list[str]:
    """Return what the images are called, if the fingerprint says it of each."""
    names = fingerprint.get("settings", {}).get("names", [])
    return names if len(names) == len(fingerprint.get("inputs", {}).get("images", [])) else []


def _whole_lines(file: Location) -> list[str]:
    return file.read_text().split("\n")[:-1]


def _flatten(value: Any, name: str = "") -> list[tuple[str, Any]]:  # noqa: ANN401 - any JSON value
    if isinstance(value, Mapping):
        return [pair for k, v in value.items() for pair in _flatten(v, f"{name} {k}".strip())]
    if isinstance(value, list) and len(value) == 1:
        return _flatten(value[0], name)
    if isinstance(value, list) and value:
        return [pair for k, v in enumerate(value) for pair in _flatten(v, f"{name} {k}")]
    return [(name, value)]


def _short(value: Any) -> str:  # noqa: ANN401 - any JSON value
    text = json.dumps(value) if value is not None else "not set"
    return text if len(text) <= 60 else text[:57] + "..."

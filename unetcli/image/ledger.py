"""The record of finished tiles: what lets a run that was killed go on where it stood.

Beside a store ``OUT`` that is being written lies the folder ``OUT.unetcli``::

    plan.json      the fingerprint of the run: its stage, settings and inputs; empty while an older store is removed
    *.done         finished tiles, one name a line, files of its own for each process that ever worked on the store
    *.settled.json what the first process that came to it decided for all, such as the size of a tile
    *.parts        says by its name into how many parts the work was cut

A line is added after the tile's bytes were written, never before, so what is recorded is there. Each process writes
files of its own, each time whole (nothing can be added to an object on a server), so no locks are needed, on no
file system. What processes must agree on is written by the one that is first. A line cut short has no newline and
does not count. When the store is complete the folder goes away, the plan first: as long as that is there, so is all
else, and what was read before is true.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from unetcli.errors import ConfigError, InputError, Unfinished, first_line
from unetcli.image.location import Location, empty, write

PLAN = "plan.json"
SETTLED = ".settled.json"
L = TypeVar("L", bound=Location)
LINES = 1000
"""A file of finished tiles gets about so many lines, so that writing it stays cheap."""
REMOVALS = 10
"""So often the folder is removed again, when others write there at the same time."""


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
    try:
        return _parsed(plan, _text(plan)) if plan.is_file() else None
    except FileNotFoundError:  # it was removed just now
        return None


def read_settled(out: Location) -> dict[str, Any]:
    """Return what the processes that write a store agreed on, by name; nothing where none is written."""
    try:
        return _settled(ledger_path(out))
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _settled(folder: Location) -> dict[str, Any]:
    texts = _texts(folder, SETTLED)
    return {name.removesuffix(SETTLED): _parsed(folder / name, text) for name, text in texts.items()}


def _texts(folder: Location, ending: str) -> dict[str, str]:
    """Return the text of all files of a kind by their names."""
    return {file.name: _text(file) for file in folder.iterdir() if file.name.endswith(ending)}


def _text(file: Location) -> str:
    try:
        return file.read_text()
    except ValueError as error:
        raise _damaged(file, error) from error


def _parsed(file: Location, text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text).items())
    except (ValueError, AttributeError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Location, error: Exception) -> InputError:
    return InputError(
        f"{file}: is damaged ({first_line(error)})",
        fix="remove the folder that it lies in; the same command then makes all again",
    )


def has_remains(out: Location) -> bool:
    """Tell whether the folder holds more than a plan, which is always written before the rest."""
    folder, names = ledger_path(out), list[str]()
    with suppress(FileNotFoundError):
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return any(name != PLAN and not name.endswith(".partial") for name in names)


def begin_anew(out: Location) -> None:
    """Forget what is on record; from then on the store is not complete, and may be removed."""
    folder = ledger_path(out)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / PLAN, "{}")
    empty(folder, but=PLAN)


def forget(out: Location) -> None:
    """Remove the record of a store that is complete, the plan first.

    What another process writes there meanwhile is removed, too: it finds the plan gone, and stops. What can not be
    removed without a plan means nothing, and goes away when the store is opened for writing the next time.
    """
    folder = ledger_path(out)
    (folder / PLAN).unlink(missing_ok=True)
    for _ in range(REMOVALS):
        if not folder.is_dir():
            return
        with suppress(OSError):
            empty(folder)
            folder.rmdir()


class Ledger:
    """Finished tiles of one store, kept on disk.

    Parameters
    ----------
    out
        The store that is being written.
    fingerprint
        What the store's bytes follow from. JSON values only.
    is_begun
        Whether the store was seen to be begun: then a ledger that is gone says that another process finished it.

    Raises
    ------
    ConfigError
        If the store was begun with another fingerprint; the message says what differs.
    """

    def __init__(self, out: Location, fingerprint: Mapping[str, Any], *, is_begun: bool = False) -> None:
        self.path = ledger_path(out)
        plan = read_plan(out)
        if plan is None and is_begun:
            raise self._is_gone()
        if plan:
            check_fingerprint(out, plan, fingerprint)
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            write(self.path / PLAN, json.dumps(fingerprint, indent=1), is_first=plan is None)
            check_fingerprint(out, read_plan(out) or {}, fingerprint)  # of two that begin at once, one writes it
        self._done = {name for text in self._read(".done").values() for name in text.split("\n")[:-1]}
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
                self._write(f"{self._own}-{first // LINES}.done", lines)
                self._n_written = n
        self._done.add(name)

    def settle(self, name: str, proposal: Mapping[str, Any]) -> dict[str, Any]:
        """Decide something for all processes that write this store: return what the first of them proposed."""
        place = self.path / (name + SETTLED)
        if not place.is_file():
            self._write(place.name, json.dumps(proposal), is_first=True)
        found = dict(self.settled()[name])
        if found.keys() != proposal.keys():
            raise _damaged(place, ValueError(f"holds {', '.join(found) or 'nothing'}; expected {', '.join(proposal)}"))
        return found

    def settled(self) -> dict[str, Any]:
        """Return all that was decided, by name."""
        with self.present():
            return _settled(self.path)

    def note_parts(self, n: int) -> None:
        """Note that the work is being done in `n` parts."""
        self._write(f"{n}.parts", "")

    def noted_parts(self) -> list[int]:
        """Return into how many parts the work was cut, each number once, sorted."""
        return sorted(int(name.partition(".")[0]) for name in self._read(".parts"))

    def _read(self, ending: str) -> dict[str, str]:
        with self.present():
            return _texts(self.path, ending)

    def _write(self, name: str, content: str, *, is_first: bool = False) -> None:
        with self.present():
            write(self.path / name, content, is_first=is_first)

    @contextmanager
    def present(self) -> Iterator[None]:
        """Do something that needs the ledger, to the end.

        Raises
        ------
        Unfinished
            If it is gone then, whatever else went wrong.
        """
        try:
            yield
        except Unfinished:
            raise
        except Exception as error:
            self._require_plan(error)
            raise
        self._require_plan()

    def _require_plan(self, cause: Exception | None = None) -> None:
        if not (self.path / PLAN).is_file():
            raise self._is_gone() from cause

    def _is_gone(self) -> Unfinished:
        return Unfinished(
            f"{self.path}: was removed; another process has finished, or removed, the store",
            fix="run the same command again: it finds out which",
        )

    def scratch(self, name: str) -> Location:
        """Return a place for intermediate results, which goes away with the ledger."""
        return self.path / name


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

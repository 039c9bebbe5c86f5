"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, content: str | bytes, *, is_first: bool = False) -> None:
    """Write a file under another name, flush it to the disk, and rename it.

    Parameters
    ----------
    is_first
        Leave a file alone that is there: of several processes, on any machines, the first one writes it.
    """
    # Processes on two machines that share a disk may have the same number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        if is_first:
            _link(temporary, path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    """Give a file its name, unless there is another of that name; where links can not be made, nearly so."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:
        if not path.exists():
            temporary.replace(path)

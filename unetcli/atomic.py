"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: str | bytes, *, is_first: bool = False) -> None:
    """Write a file as `writing_atomically` does."""
    with writing_atomically(path, is_first=is_first) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def writing_atomically(path: Path, *, is_first: bool = False) -> Iterator[BinaryIO]:
    """Open a file under another name; at the end flush it to the disk, and rename it.

    Parameters
    ----------
    is_first
        Leave a file alone that is there: of several processes, on any machines, the first one writes it.
    """
    # Processes on two machines that share a disk may have the same number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
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

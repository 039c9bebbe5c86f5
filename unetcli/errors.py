"""What can go wrong by the user's doing, each kind with its exit code."""

from __future__ import annotations

import errno
from typing import Any


class UnetcliError(Exception):
    """A mistake that the user can mend.

    Parameters
    ----------
    message
        Where, what was found, what was expected: ``labels.tif: shape is 10 x 12; expected 512 x 512``.
    fix
        What to do about it; printed on a line of its own.
    """

    exit_code = 1
    is_spoken: bool | None = None
    """Whether this process tells it, of several that work together; `None`: not decided."""

    def __init__(self, message: str, *, fix: str | None = None) -> None:
        super().__init__(message)
        self.fix = fix


class InputError(UnetcliError):
    """A file or a store can not be read, or is not what the command needs."""

    exit_code = 3


class FaultsError(InputError):
    """Faults were found in what was looked at; `result` is what was found all the same."""

    def __init__(self, message: str, *, result: dict[str, Any]) -> None:
        super().__init__(message)
        self.result = result


class ConfigError(UnetcliError):
    """An option, or a combination of options, is not possible."""

    exit_code = 4


class GeometryError(UnetcliError):
    """A size that the network can not take."""

    exit_code = 4


class DeviceError(UnetcliError):
    """The device asked for is missing, or its memory (or the disk) is full."""

    exit_code = 5


class MissingShardsError(UnetcliError):
    """Parts of the work on a store are missing where it is to be finished; `result` says which."""

    exit_code = 6

    def __init__(self, message: str, *, result: dict[str, Any], fix: str | None = None) -> None:
        super().__init__(message, fix=fix)
        self.result = result


class BelowBoundError(UnetcliError):
    """A result is below the bound that was asked for; `result` is what was found all the same."""

    exit_code = 7

    def __init__(self, message: str, *, result: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.result = result


class Unfinished(UnetcliError):  # noqa: N818 - not an error: stopped in time, nothing is lost
    """Stopped in time with the work so far saved; the same command continues."""

    exit_code = 75


class Interrupted(Unfinished):
    """Stopped by Ctrl-C; the same command continues."""

    exit_code = 130


def is_disk_full(error: BaseException | None) -> bool:
    """Tell whether a disk, or the quota on it, is used up: of bytes or of files."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def first_line(error: BaseException) -> str:
    """Return the first line of a message of others; the kind of error where there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

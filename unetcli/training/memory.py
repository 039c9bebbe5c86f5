"""Memory that is used up: which patch would fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from unetcli.models.memory import is_out_of_memory

T = TypeVar("T")


def largest_that_fits(candidates: Sequence[T], attempt: Callable[[T], object]) -> T | None:
    """Return the last candidate with which an attempt does not run out of memory; `None` where all do.

    Parameters
    ----------
    candidates
        In the order of the memory they take.
    attempt
        Raises the error of a full memory; called about ``log2(len(candidates))`` times.
    """
    fits, fails = -1, len(candidates)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if _fits(candidates[middle], attempt):
            fits = middle
        else:
            fails = middle
    return candidates[fits] if fits >= 0 else None


def _fits(candidate: T, attempt: Callable[[T], object]) -> bool:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        attempt(candidate)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True

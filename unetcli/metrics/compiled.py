"""The one way in which the loops of this package are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from numba import njit

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a loop over pixels: GIL released, result cached on disk, types kept for the type checker.

    Parameters
    ----------
    function
        Serial code that numba compiles without Python objects.

    Returns
    -------
    Callable
        ``njit(nogil=True, cache=True)`` of the function, without `fastmath`: scores are exact.
    """
    return cast(Callable[P, R], njit(nogil=True, cache=True)(function))

"""Whether an LZW stream is sound: a damaged one must not reach a decoder that trusts it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import imagecodecs
import numpy as np
from numba import njit
from numpy.typing import NDArray

CLEAR, END = 256, 257
WIDEST = 12


def check_lzw(data: bytes, *, is_reversed: bool) -> None:
    """Refuse an LZW stream in which the first code after a CLEAR is not a byte.

    Parameters
    ----------
    data
        The stream as stored.
    is_reversed
        Whether the bits of each byte are stored in reverse (``FillOrder`` 2).

    Raises
    ------
    ValueError
        If the stream is damaged so.

    Notes
    -----
    A CLEAR empties the table of strings, so that the next code can only be a byte. The decoder of imagecodecs
    does not check this one: it copies from an entry that was never made, that is, from anywhere in memory, and
    the whole process crashes, where no exception can be caught. It checks every other code against the size of
    its table, and every copy against the room that is left. To walk through the codes costs a part of decoding
    them, since nothing is copied; to decode in a process of its own would cost more than decoding.
    """
    stored = imagecodecs.bitorder_decode(data) if is_reversed else data
    if not _is_sound(np.frombuffer(stored, np.uint8)):
        raise ValueError("damaged LZW stream: a string is used before there is any")


def _walk(data: NDArray[np.uint8]) -> bool:
    """Follow the codes of a stream; tell whether each CLEAR is followed by a byte, CLEAR or END."""
    is_old = len(data) > 1 and data[0] == 0 and data[1] & 1 == 1  # lowest bit first, as before TIFF 5
    at, width, size, is_first = 0, 9, 258, False
    while at + width <= 8 * len(data):
        word, start, shift = 0, at >> 3, at & 7
        for i in range(3):
            byte = int(data[start + i]) if start + i < len(data) else 0
            word |= byte << (8 * i if is_old else 16 - 8 * i)
        code = (word >> shift if is_old else word >> (24 - shift - width)) & ((1 << width) - 1)
        at += width
        if code == END:
            return True
        if code == CLEAR:
            width, size, is_first = 9, 258, True
        elif is_first:
            if code > END:
                return False
            is_first = False
        else:
            size += 1
            if size + (not is_old) == 1 << width and width < WIDEST:  # of old, codes grow one string later
                width += 1
    return True


_is_sound = cast(Callable[[NDArray[np.uint8]], bool], njit(nogil=True, cache=True)(_walk))

"""Decoded pieces of image files that several tiles need: one cache for all files, so that memory stays bounded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from unetcli.image.source import MEMORY_BUDGET, AnyArray

CACHE_BYTES = 256 * 2**20
LARGEST_BAND = 2**30
"""Bytes up to which the cache grows, so that each strip of a wide image is decoded once."""


class DecodedCache:
    """Decoded pieces, the least recently used dropped first; safe to share between threads.

    Parameters
    ----------
    budget
        Bytes that the kept pieces may take together.
    """

    def __init__(self, budget: int = CACHE_BYTES) -> None:
        self.budget = budget
        self.n_bytes = 0
        self._kept: OrderedDict[Hashable, AnyArray] = OrderedDict()
        self._lock = threading.Lock()
        self._busy: dict[Hashable, threading.Lock] = {}

    def make_room(self, n_bytes: int) -> None:
        """Grow the budget to what a file needs: a band of its tiles up to 1 GiB, or one piece of any legal size."""
        self.budget = max(self.budget, min(n_bytes, MEMORY_BUDGET))

    def get(self, key: Hashable, decode: Callable[[], AnyArray]) -> AnyArray:
        """Return a piece, decoded now if it is not kept; threads that ask for the same one wait for the first."""
        with self._lock:
            busy = self._busy.setdefault(key, threading.Lock())
        with busy:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    self._busy.pop(key, None)
                    return self._kept[key]
            try:
                piece = decode()
                self._keep(key, piece)
            finally:
                with self._lock:
                    self._busy.pop(key, None)
        return piece

    def _keep(self, key: Hashable, piece: AnyArray) -> None:
        with self._lock:
            if key in self._kept or piece.nbytes > self.budget:
                return
            self._kept[key] = piece
            self.n_bytes += piece.nbytes
            while self.n_bytes > self.budget:
                self.n_bytes -= self._kept.popitem(last=False)[1].nbytes


SHARED = DecodedCache()
"""The cache of this process. One for all files: a folder of thousands keeps no more than a single one."""

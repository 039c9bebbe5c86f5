"""Decoded pieces are kept within a budget, and decoded once however many threads ask."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from unetcli.image.cache import DecodedCache
from unetcli.image.source import MEMORY_BUDGET


def test_it_stays_within_its_budget():
    cache = DecodedCache(budget=1000)
    for i in range(50):
        assert cache.get(i, lambda i=i: np.full(300, i, "u1"))[0] == i
        assert cache.n_bytes <= 1000
    assert cache.n_bytes == 900
    assert cache.get(49, lambda: pytest.fail("was dropped"))[0] == 49
    cache.get("large", lambda: np.zeros(2000, "u1"))
    assert cache.n_bytes == 900


def test_it_grows_only_up_to_the_memory_budget():
    cache = DecodedCache(budget=1000)
    for n_bytes, budget in ((500, 1000), (3000, 3000), (2000, 3000), (2**50, MEMORY_BUDGET)):
        cache.make_room(n_bytes)
        assert cache.budget == budget


def test_threads_that_want_the_same_piece_wait_for_the_first():
    cache, calls = DecodedCache(), []

    def decode():
        calls.append(1)
        time.sleep(0.05)
        return np.zeros(10)

    with ThreadPoolExecutor(8) as pool:
        assert len({id(piece) for piece in pool.map(lambda _: cache.get("a", decode), range(8))}) == 1
    assert len(calls) == 1


def test_a_piece_that_fails_is_tried_again():
    cache = DecodedCache()
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 / 0)
    assert cache.get("a", lambda: np.ones(1)) == 1

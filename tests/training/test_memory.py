"""Memory that is used up: how it is recognized, and the search for a patch that fits."""

import pytest
import torch

from unetcli.models.memory import is_out_of_memory
from unetcli.training.memory import largest_that_fits

ALLOCATOR = "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError(ALLOCATOR), True),
        (RuntimeError("size mismatch"), False),
        (OSError("can't allocate memory"), False),
    ],
    ids=repr,
)
def test_out_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) == expected


def test_what_torch_says_of_a_huge_tensor_is_recognized():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 30])
def test_the_largest_that_fits_is_found_in_few_tries(n):
    for limit in range(n + 1):
        tried = []

        def attempt(size, limit=limit, tried=tried):
            tried.append(size)
            if size >= limit:
                raise MemoryError

        assert largest_that_fits(range(n), attempt) == (limit - 1 if limit else None)
        assert len(tried) <= n.bit_length()


def test_other_errors_of_an_attempt_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        largest_that_fits(range(3), lambda size: size // 0)

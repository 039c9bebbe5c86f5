"""What is made of class probabilities."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from unetcli.prediction.outputs import most_probable


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 9), *[st.integers(1, 5)] * 3), elements=st.sampled_from([0, 0.25, 1])
    )
)
def test_the_most_probable_class_is_the_first_of_the_largest(found):
    np.testing.assert_array_equal(most_probable(torch.from_numpy(found)), found.argmax(0, keepdims=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_classes_beyond_255_are_told_apart(dtype):
    found = torch.zeros(300, 1, 2, dtype=dtype)
    found[299, 0, 0] = found[256, 0, 1] = 1
    assert most_probable(found).tolist() == [[[299, 256]]]

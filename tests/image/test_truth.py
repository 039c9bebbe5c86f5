"""Values of labels, counted tile by tile."""

from collections import Counter

import numpy as np
import pytest

from unetcli.image import truth
from unetcli.image.inputs import open_inputs
from unetcli.image.truth import count_values

ARRAYS = {
    "small": np.array([[0, 1, 1], [3, 3, 3]], np.uint8),
    "large": np.array([[0, 2**63 + 1, 2**63 + 3], [3, 3, 3]], np.uint64),
    "two": np.array([[0, 70_000, 1_200_000, 1_200_000]], np.int64),
}


@pytest.mark.parametrize("merged", [1, 3, 10**6])
@pytest.mark.parametrize("names", [["small"], ["large"], ["small", "large", "two"]], ids=str)
def test_values_are_counted_exactly_however_they_are_added_up(tmp_path, monkeypatch, names, merged):
    monkeypatch.setattr(truth, "SAMPLE_TILE", (1, 1, 1, 1, 2))
    monkeypatch.setattr(truth, "MERGED", merged)
    sources = []
    for name in names:
        np.save(tmp_path / f"{name}.npy", ARRAYS[name])
        sources += [item.source for item in open_inputs([tmp_path / f"{name}.npy"], is_label=True)]
    assert count_values(sources) == Counter(v for name in names for v in ARRAYS[name].ravel().tolist())

"""The table of samples says what people see, and loses nothing."""

import csv
import io

import numpy as np
import pytest

from tests.conftest import Pixels
from unetcli.config import DeformConfig
from unetcli.image.axes import Axes
from unetcli.sample_table import affine_parameters, describe, read_table, table_of
from unetcli.sampling import Example, draw_sample

ALL = DeformConfig(blur=2, shift=9)


def example(shape, scale=()):
    image = Pixels(np.zeros(shape, "float32"), axes=Axes.of("tczyx", dict(scale)))
    return Example("a", image, Pixels(np.zeros((shape[0], 1, *shape[2:]), "uint8")))


CASES = [
    pytest.param((1, 1, 1, 40, 50), None, 2, id="plane"),
    pytest.param((3, 2, 5, 40, 50), 16, 2, id="patch of two channels"),
    pytest.param((2, 3, 9, 40, 50), None, 3, id="volume"),
    pytest.param((1, 1, 9, 10, 12), 20, 3, id="larger than the image"),
]


@pytest.mark.parametrize(("shape", "size", "ndim"), CASES)
def test_a_sample_is_the_same_after_writing_and_reading(tmp_path, shape, size, ndim):
    found = example(shape)
    drawn = {k: draw_sample([(found, shape[0] - 1, 0)], ALL, 0, k, size, ndim) for k in (0, 3, 99, 123456)}
    (tmp_path / "table.csv").write_text(table_of(drawn.items()))
    read = read_table(tmp_path / "table.csv", {"a": found})
    assert list(read) == list(drawn)
    for k, sample in drawn.items():
        for part in ("grid", "matrix", "offset"):
            written = getattr(read[k].deformation, part)
            assert written.tobytes() == getattr(sample.deformation, part).tobytes()
        same = ("example", "t", "origin", "shape", "gray", "interpolation")
        assert [getattr(read[k], name) for name in same] == [getattr(sample, name) for name in same]


@pytest.mark.parametrize(("ndim", "often"), [(2, 0.5), (3, 0.9)], ids=["planes", "volumes"])
def test_an_image_is_shown_as_often_as_it_has_pixels(ndim, often):
    planes = [(example((1, 1, depth, 10, 10)), 0, 0) for depth in (9, 1)]
    shown = [draw_sample(planes, ALL, 0, k, None, ndim).example is planes[0][0] for k in range(400)]
    assert abs(np.mean(shown) - often) < 0.08


def test_each_line_has_the_same_columns():
    samples = [(k, draw_sample([(example((1, 2, 1, 40, 50)), 0, 0)], ALL, 0, k, None, 2)) for k in range(3)]
    lines = list(csv.reader(io.StringIO(table_of(samples))))
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert lines[0][:4] == ["sample", "image", "t", "z"]
    assert {"contrast_0", "contrast_1", "blur_1"} <= set(lines[0])
    assert "contrast_2" not in lines[0]


def test_pixels_that_are_not_square_do_not_change_what_is_seen():
    config = DeformConfig(rotation=80, scaling=1.5)
    for k in range(5):
        square, oblong = (
            draw_sample([(example((1, 1, 1, 40, 50), scale), 0, 0)], config, 0, k, None, 2)
            for scale in ({}, {"y": 2.5})
        )
        seen = affine_parameters(square)
        assert affine_parameters(oblong)[1] == seen[1]
        np.testing.assert_allclose(np.take(affine_parameters(oblong), [0, 2]).astype(float), [seen[0], seen[2]])
        assert describe(oblong)[0].rpartition("vectors")[2] == describe(square)[0].rpartition("vectors")[2]


def test_samples_are_described_with_units():
    sample = draw_sample([(example((1, 2, 9, 40, 50)), 0, 0)], ALL, 0, 1, None, 3)
    turned, varied = describe(sample)
    assert turned.startswith("turned ")
    assert turned.endswith(" px")
    assert [part.split()[0] for part in varied.split(", ")] == ["contrast", "brightness", "gamma", "noise", "blur"]
    assert f"blur {sample.gray.blur[0]:.2f} / {sample.gray.blur[1]:.2f} px" in varied

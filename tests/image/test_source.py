"""Reading past the edge of an image shows its mirror image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unetcli.errors import InputError
from unetcli.image.source import FileSource, check_order, decoding, file_source, read_mirrored
from unetcli.image.tiling import Box


class Spy:
    """A source in memory that remembers what was read."""

    name, notes, axes = "spy", (), None

    def __init__(self, pixels):
        self.pixels, self.shape, self.dtype, self.boxes = pixels, pixels.shape, pixels.dtype, []

    def read(self, box):
        assert box.clip(self.shape) == box
        self.boxes.append(box)
        return self.pixels[box.slices]


def numbered(*shape):
    return np.arange(np.prod(shape)).reshape(shape)


@settings(max_examples=150)
@given(st.data())
def test_equals_numpy_reflection(data):
    shape = tuple(data.draw(st.integers(1, 7)) for _ in range(3))
    start = tuple(data.draw(st.integers(-12, n + 5)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, a + 20)) for a in start)
    image = numbered(1, 1, *shape)
    pad = [(max(0, -a), max(0, b - n)) for a, b, n in zip(start, stop, shape, strict=True)]
    padded = np.pad(image[0, 0], pad, mode="reflect")
    cut = tuple(slice(a + p[0], b + p[0]) for a, b, p in zip(start, stop, pad, strict=True))
    block = read_mirrored(Spy(image), Box((0, 0, *start), (1, 1, *stop)))
    np.testing.assert_array_equal(block[0, 0], padded[cut])


def test_reads_only_what_the_box_shows():
    spy = Spy(numbered(1, 1, 1, 100, 100))
    read_mirrored(spy, Box((0, 0, 0, -5, 40), (1, 1, 1, 10, 60)))
    assert spy.boxes == [Box((0, 0, 0, 0, 40), (1, 1, 1, 10, 60))]


def test_a_box_inside_is_read_as_it_is():
    spy = Spy(numbered(1, 1, 1, 9, 9))
    box = Box((0, 0, 0, 2, 3), (1, 1, 1, 5, 9))
    np.testing.assert_array_equal(read_mirrored(spy, box), spy.pixels[box.slices])


def test_a_box_wholly_past_the_edge():
    spy = Spy(numbered(1, 1, 1, 1, 6))
    block = read_mirrored(spy, Box((0, 0, 0, 0, 6), (1, 1, 1, 1, 9)))
    assert block.ravel().tolist() == [4, 3, 2]


def test_file_order_is_shown_as_tczyx(tmp_path):
    stored = numbered(4, 5, 3)
    source = file_source(tmp_path / "a.tif", "yxc", (4, 5, 3), stored.dtype, lambda region: stored[region])
    assert isinstance(source, FileSource)
    assert (source.name, source.shape, source.axes.names) == ("a.tif", (1, 3, 1, 4, 5), "cyx")
    block = source.read(Box((0, 1, 0, 2, 0), (1, 3, 1, 4, 5)))
    np.testing.assert_array_equal(block[0, :, 0], stored.transpose(2, 0, 1)[1:3, 2:4])
    assert block.flags.c_contiguous


def test_a_box_outside_is_a_mistake_of_the_caller(tmp_path):
    source = file_source(tmp_path / "a", "yx", (4, 5), np.dtype("u1"), lambda region: np.zeros((4, 5))[region])
    with pytest.raises(ValueError, match="past the image"):
        source.read(Box((0, 0, 0, 0, 0), (1, 1, 1, 4, 6)))


@pytest.mark.parametrize("error", [ValueError("a\nb"), MemoryError(), ZeroDivisionError(), SyntaxError("x")])
def test_what_a_decoder_raises_becomes_an_input_error(tmp_path, error):
    said = r"a\.tif: can not be read at y 0:5: " + type(error).__name__
    with (
        pytest.raises(InputError, match=said) as caught,
        decoding(tmp_path / "a.tif", "can not be read at y 0:5"),
    ):
        raise error
    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("axes", ["yx", "zyxc", "zzx", "zyq", "zcy"])
def test_wrong_axes_are_refused(tmp_path, axes):
    with pytest.raises(InputError, match=f"--axes {axes}"):
        check_order(tmp_path / "a.tif", axes, (3, 4, 5))


def test_axes_may_be_in_capitals(tmp_path):
    assert check_order(tmp_path / "a.tif", "YXC", (3, 4, 5)) == "yxc"

"""Labels as people have them are shown as one channel of values, the same in any box."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from tests.conftest import Pixels, cells
from unetcli.errors import InputError
from unetcli.image.label_sources import COLOUR, at_least, colour_values, one_channel, open_objects, same_white
from unetcli.image.tiling import Box


def whole(source):
    return source.read(Box.whole(source.shape))


def save_objects(folder, labels, *, dtype=np.uint8, white=255):
    """Write a file for each object, in the order of their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(1, labels.max() + 1):
        Image.fromarray(np.where(labels == i, white, 0).astype(dtype)).save(folder / f"object_{i:03d}.png")
    return folder


def value_of(red, green, blue):
    return red if red == green == blue else COLOUR + 65536 * red + 256 * green + blue


@given(hnp.arrays(np.uint8, st.sampled_from([(1, 3, 1, 2, 3), (2, 4, 1, 1, 2)]), elements=st.sampled_from([0, 7, 255])))
def test_each_colour_has_a_value_and_greys_keep_theirs(block):
    found = colour_values(block)
    assert found.shape == (block.shape[0], 1, *block.shape[2:])
    for t, _, z, y, x in np.ndindex(found.shape):
        assert found[t, 0, z, y, x] == value_of(*map(int, block[t, :3, z, y, x]))


@pytest.mark.parametrize(
    ("dtype", "channels", "threshold", "shown"),
    [
        ("uint8", 3, None, "colours"),
        ("uint8", 4, None, "colours"),
        ("uint16", 3, None, "as it is"),
        ("uint8", 2, None, "as it is"),
        ("uint8", 2, 5, "as it is"),
        ("uint16", 1, None, "as it is"),
        ("uint16", 1, 5, "two values"),
        ("uint8", 3, 5, "two values"),
        ("bool", 1, 128, "two values"),
    ],
)
def test_what_is_shown(dtype, channels, threshold, shown):
    pixels = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 9, (1, channels, 2, 5, 6)).astype(dtype)
    source = one_channel(Pixels(pixels), threshold=threshold)
    if shown == "as it is":
        assert isinstance(source, Pixels)
        return
    limit = 1 if dtype == "bool" else threshold
    expected = colour_values(pixels) if shown == "colours" else pixels.max(axis=1, keepdims=True) >= limit
    assert source.shape == (1, 1, 2, 5, 6)
    assert source.axes.names == "tzyx"
    box = Box((0, 0, 1, 2, 1), (1, 1, 2, 5, 4))
    np.testing.assert_array_equal(source.read(box), expected[box.slices])
    assert source.read(box).dtype == source.dtype


def test_a_threshold_belongs_to_the_foreground():
    assert at_least(128, np.array([0, 127, 128, 255]).reshape(1, 1, 1, 1, 4)).ravel().tolist() == [0, 0, 1, 1]


def test_white_is_white_however_many_bits_it_has():
    one_bit, eight_bits = np.eye(4, dtype=bool)[None, None, None], np.uint8(255) * np.eye(4, dtype=np.uint8)
    a, b = same_white([Pixels(one_bit), Pixels(eight_bits[None, None, None])])
    np.testing.assert_array_equal(whole(a), whole(b))
    assert whole(same_white([Pixels(one_bit)])[0]).dtype == bool


@pytest.mark.parametrize(("dtype", "white"), [("uint8", 255), ("uint8", 1), ("bool", 1), ("uint16", 65535)])
def test_a_file_for_each_object(tmp_path, dtype, white):
    labels = cells((40, 50), 1)[1]
    source = open_objects(save_objects(tmp_path / "masks", labels, dtype=np.dtype(dtype), white=white))
    np.testing.assert_array_equal(whole(source)[0, 0, 0], labels)
    box = Box((0, 0, 0, 7, 3), (1, 1, 1, 30, 44))
    np.testing.assert_array_equal(source.read(box)[0, 0, 0], labels[7:30, 3:44])
    assert source.n_overlapping() == 0
    assert source.notes


def test_smooth_edges_of_objects_are_cut_at_half(tmp_path):
    tmp_path.joinpath("m").mkdir()
    yx = np.stack(np.indices((60, 60))) - 30
    disk = np.clip(128 + 8 * (15 - np.hypot(*yx)) * 4, 0, 255).round().astype(np.uint8)
    assert len(np.unique(disk)) > 10
    Image.fromarray(disk).save(tmp_path / "m" / "a.png")
    np.testing.assert_array_equal(whole(open_objects(tmp_path / "m"))[0, 0, 0], disk > 127)


def test_where_objects_overlap_the_first_one_stays(tmp_path):
    tmp_path.joinpath("m").mkdir()
    masks = np.zeros((3, 9, 9), np.uint8)
    masks[0, 2:5], masks[1, 4:8], masks[2, 4:6, :3] = 255, 255, 255
    for name, mask in zip("bac", masks, strict=True):
        Image.fromarray(mask).save(tmp_path / "m" / f"{name}.png")
    source = open_objects(tmp_path / "m")
    ids = np.zeros((9, 9), int)
    for k, mask in ((3, masks[2]), (2, masks[0]), (1, masks[1])):  # in the order of their names, the first one last
        ids[mask > 0] = k
    np.testing.assert_array_equal(whole(source)[0, 0, 0], ids)
    assert source.n_overlapping() == np.count_nonzero((masks > 0).sum(axis=0) > 1)


def test_files_of_objects_that_make_no_sense(tmp_path):
    labels = cells((40, 50), 1)[1].astype(np.uint8)
    folder = save_objects(tmp_path / "m", labels)
    Image.fromarray(labels).save(folder / "z_many.png")
    with pytest.raises(InputError, match=r"z_many\.png: holds \d+ values; expected two"):
        whole(open_objects(folder))
    Image.fromarray(labels[:30] // 9 * 255).save(folder / "z_many.png")
    with pytest.raises(InputError, match=r"z_many\.png: is yx 30 x 50; expected yx 40 x 50, as object_001"):
        open_objects(folder)

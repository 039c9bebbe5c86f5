"""Channels and planes, chosen by number or by name: what is chosen is read, and nothing between."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Pixels
from unetcli.errors import InputError
from unetcli.image.axes import Channel, known_names
from unetcli.image.selection import Selection, check_channel_order, select_channels, select_planes
from unetcli.image.tiling import Box

NAMED = (Channel("DAPI", "0000FF"), Channel("GFP", "00FF00"), Channel("RFP", "FF0000"))


@dataclass
class Channelled(Pixels):
    """A source with named channels that remembers what was read."""

    channels: tuple = NAMED
    boxes: list = field(default_factory=list)

    def read(self, box):
        self.boxes.append(box)
        return super().read(box)


def source(shape=(2, 3, 4, 5, 6), channels=NAMED, name="a.tif"):
    return Channelled(np.arange(np.prod(shape), dtype=np.uint16).reshape(shape), name, channels=channels)


@given(st.data())
def test_equals_an_index_of_the_whole(data):
    image = source((3, 4, 5, 2, 3))
    chosen = {
        axis: data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True))
        for axis, n in ((0, 3), (1, 4), (2, 5))
    }
    expected = image.pixels[np.ix_(chosen[0], chosen[1], chosen[2])]
    view = Selection(image, chosen)
    assert view.shape == expected.shape
    start = [data.draw(st.integers(0, n - 1)) for n in view.shape]
    stop = [data.draw(st.integers(a + 1, n)) for a, n in zip(start, view.shape, strict=True)]
    box = Box(tuple(start), tuple(stop))
    np.testing.assert_array_equal(view.read(box), expected[box.slices])


def test_only_what_is_chosen_is_read_and_neighbours_together():
    image = source((1, 6, 1, 5, 6), channels=())
    view = select_channels(image, "4,5,0", None)
    view.read(Box.whole(view.shape))
    assert [(b.start[1], b.stop[1]) for b in image.boxes] == [(4, 6), (0, 1)]


@pytest.mark.parametrize(
    ("channels", "names", "positions", "named"),
    [
        ("0,2", None, [0, 2], ["DAPI", "RFP"]),
        ("rfp, DAPI", None, [2, 0], ["RFP", "DAPI"]),
        ("GFP,0", None, [1, 0], ["GFP", "DAPI"]),
        (None, "a,b,c", [0, 1, 2], ["a", "b", "c"]),
        ("2", "membrane", [2], ["membrane"]),
    ],
    ids=str,
)
def test_channels(channels, names, positions, named):
    image = source()
    view = select_channels(image, channels, names)
    assert [channel.name for channel in view.channels] == named
    assert [channel.color for channel in view.channels] == [NAMED[i].color for i in positions]
    np.testing.assert_array_equal(view.read(Box.whole(view.shape)), image.pixels[:, positions])


def test_channels_without_names_are_called_by_number():
    view = select_channels(source((1, 4, 1, 2, 2), channels=()), "3,1", None)
    assert [channel.name for channel in view.channels] == ["channel_3", "channel_1"]


@pytest.mark.parametrize("choose", [select_channels, lambda image, *_: select_planes(image, None)])
def test_nothing_chosen_is_the_source_itself(choose):
    image = source()
    assert choose(image, None, None) is image


@pytest.mark.parametrize(
    ("channels", "names", "said"),
    [
        ("3", None, r"--channels 3: 3 is not there; a\.tif has the channels 0 DAPI, 1 GFP, 2 RFP"),
        ("YFP", None, "YFP is not there"),
        ("-1", None, "-1 is not there"),
        ("0,0", None, "0 is given twice"),
        ("0,DAPI", None, "DAPI is given twice"),
        ("0,", None, "nothing is not there"),
        ("", None, "nothing is not there"),
        (None, "a,b", "--channel-names a,b: expected 3 different names"),
        (None, "a,b,a", "expected 3 different names"),
        ("0", "", "expected 1 different names"),
    ],
    ids=str,
)
def test_channels_that_make_no_sense(channels, names, said):
    with pytest.raises(InputError, match=said):
        select_channels(source(), channels, names)


@pytest.mark.parametrize(
    ("shape", "planes", "axis", "expected"),
    [
        ((1, 1, 9, 2, 2), "2-4,7", 2, [2, 3, 4, 7]),
        ((9, 1, 1, 2, 2), "0", 0, [0]),
        ((2, 1, 9, 2, 2), "8", 2, [8]),
        ((1, 1, 1, 2, 2), "0", 0, [0]),
    ],
    ids=str,
)
def test_planes(shape, planes, axis, expected):
    image = source(shape)
    view = select_planes(image, planes)
    np.testing.assert_array_equal(view.read(Box.whole(view.shape)), image.pixels.take(expected, axis))
    assert view.channels == image.channels


@pytest.mark.parametrize("planes", ["9", "3-2", "-1", "", "a", "1,1", "4,2", "0-3,3-5", "0-99999999999999", "1.5"])
def test_planes_that_make_no_sense(planes):
    with pytest.raises(InputError, match=r"--planes .* 9 planes along z; expected .* from 0 to 8"):
        select_planes(source((1, 1, 9, 2, 2)), planes)


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (["DAPI", "GFP"], True),
        (["C1-DAPI"], True),
        (["640nm"], True),
        (["channel_0"], False),
        (["Channel:0:1"], False),
        (["C:0"], False),
        (["0"], False),
        ([""], False),
        (["red", "green", "blue"], False),
        (["DAPI", "channel_1"], False),
        ([], False),
    ],
    ids=str,
)
def test_names_that_say_what_was_recorded(names, known):
    assert known_names([Channel(name) for name in names]) == (tuple(names) if known else ())


def test_the_same_channels_in_another_order_are_refused():
    check_channel_order([source(), source(channels=()), source(channels=(Channel("X"), *NAMED[1:]))])
    with pytest.raises(InputError, match=r"b\.tif: its channels are RFP, GFP, DAPI; expected DAPI, GFP, RFP") as error:
        check_channel_order([source(), source(channels=NAMED[::-1], name="b.tif")])
    assert error.value.fix == "--channels DAPI,GFP,RFP"

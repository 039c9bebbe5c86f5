"""Axes keep their one order, their pixel sizes and only units that readers know."""

import itertools

import pytest

from unetcli.errors import ConfigError, InputError
from unetcli.image.axes import AXES, Axes, describe_shape, is_ordered, known_unit, parse_pixel_size

COMBINATIONS = ["".join(extra) + "yx" for n in range(4) for extra in itertools.combinations("tcz", n)]


@pytest.mark.parametrize("names", COMBINATIONS)
def test_expand_fills_up_and_keep_picks_out(names):
    axes, sizes = Axes.of(names), tuple(range(3, 3 + len(names)))
    expanded = axes.expand(sizes)
    assert dict(zip(AXES, expanded, strict=True)) == {
        **dict.fromkeys(AXES, 1),
        **dict(zip(names, sizes, strict=True)),
    }
    assert axes.keep(expanded) == sizes


@pytest.mark.parametrize("names", COMBINATIONS)
def test_channels_come_and_go_and_the_rest_stays(names):
    scale, units = dict(zip(AXES, (5.0, 1.0, 3.0, 2.0, 4.0), strict=True)), {"y": "um", "x": "um", "t": "s"}
    axes = Axes.of(names, scale, units)
    with_c, without_c = axes.with_channels(), axes.without_channels()
    assert "c" in with_c.names
    assert without_c.names == names.replace("c", "")
    assert is_ordered(with_c.names)
    for changed in (with_c, without_c):
        for a in set(changed.names) - {"c"}:
            assert changed.scale_of(a) == axes.scale_of(a)
            assert changed.units[changed.names.index(a)] == axes.units[axes.names.index(a)]
    assert with_c.without_channels() == without_c


@pytest.mark.parametrize("names", ["", "y", "x", "xy", "zxy", "yxc", "ctyx", "zcyx", "yyx", "yxz", "qyx", "YX"])
def test_other_orders_are_refused(names):
    assert not is_ordered(names)
    with pytest.raises(InputError, match=r"expected some of \(t, c, z, y, x\) in this order"):
        Axes(names, (1.0,) * len(names), (None,) * len(names))


@pytest.mark.parametrize("names", ["qyx", "xy", "byx"])
def test_names_that_are_no_axes_are_refused_however_they_come(names):
    with pytest.raises(InputError, match="axes are"):
        Axes.of(names)


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan"), float("inf")])
def test_a_pixel_has_a_size(size):
    with pytest.raises(InputError, match="pixel size"):
        Axes.of("zyx", {"y": size})


def test_spacing_is_in_units_of_x():
    assert Axes.of("zyx", {"z": 50.0, "y": 4.0, "x": 4.0}).spacing == (12.5, 1.0, 1.0)
    assert Axes.of("yx").spacing == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("axis", "unit", "known"),
    [
        ("x", "um", "micrometer"),
        ("x", "µm", "micrometer"),  # micro sign
        ("x", "μm", "micrometer"),  # Greek mu
        ("z", "nm", "nanometer"),
        ("y", "micrometer", "micrometer"),
        ("x", "Micrometer", "micrometer"),
        ("x", "angstrom", "angstrom"),
        ("t", "sec", "second"),
        ("t", "h", "hour"),
        ("x", "pixel", None),
        ("x", "s", None),
        ("t", "um", None),
        ("c", "um", None),
        ("x", "", None),
        ("x", None, None),
    ],
)
def test_only_units_of_ngff_are_kept(axis, unit, known):
    assert known_unit(axis, unit) == known


@pytest.mark.parametrize(
    ("text", "scale", "unit"),
    [
        ("0.65um", {"y": 0.65, "x": 0.65}, "micrometer"),
        ("0.65 µm", {"y": 0.65, "x": 0.65}, "micrometer"),
        ("4,5nm", {"y": 4, "x": 5}, "nanometer"),
        ("50,4,4nm", {"z": 50, "y": 4, "x": 4}, "nanometer"),
        ("50, 4, 4 nm", {"z": 50, "y": 4, "x": 4}, "nanometer"),
        ("1e-3mm", {"y": 1e-3, "x": 1e-3}, "millimeter"),
    ],
)
def test_pixel_size_is_read(text, scale, unit):
    assert parse_pixel_size(text) == (scale, unit)


@pytest.mark.parametrize("text", ["", "um", "0.65", "0.65 s", "0um", "-1um", "1,2,3,4um", "1,,2um", "inf um", "nan um"])
def test_what_is_no_pixel_size_is_refused(text):
    with pytest.raises(ConfigError, match="--pixel-size"):
        parse_pixel_size(text)


def test_descriptions():
    assert Axes.of("zyx", {"z": 50.0, "y": 4.0, "x": 4.0}, dict.fromkeys("zyx", "nm")).describe() == (
        "axes zyx, pixel size z 50 nanometer, y 4 nanometer, x 4 nanometer"
    )
    assert Axes.of("yx").describe() == "axes yx, pixel size not known"
    assert describe_shape((1, 1, 30, 512, 1)) == "zyx 30 x 512 x 1"

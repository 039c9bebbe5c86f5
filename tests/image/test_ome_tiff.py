"""OME-TIFF: every level has the pixels that were given, other programs see the same, and nothing is lost by a kill."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.image.test_new_store import fill, whole
from unetcli.errors import ConfigError, InputError, UnetcliError
from unetcli.image import ledger, ome_tiff
from unetcli.image.axes import Axes, Channel, default_channels
from unetcli.image.files import open_file
from unetcli.image.ledger import ledger_path, require_complete
from unetcli.image.new_output import check_output, is_tiff_name, new_output
from unetcli.image.ngff import ImageMetadata
from unetcli.image.ome_tiff import written_attributes
from unetcli.image.pyramid import build_pyramids, level_shapes, mean_2x2
from unetcli.image.tiling import Box

YX = Axes.of("yx", {"y": 0.5, "x": 0.25}, {"y": "micrometer", "x": "micrometer"})
COLOURS = default_channels(3)


@pytest.fixture
def small(monkeypatch, small_tiles):
    """Make tiles, bands and pyramids of tiny images."""
    monkeypatch.setattr("unetcli.image.pyramid.SMALLEST", 20)
    monkeypatch.setattr(ome_tiff, "TILE", 16)
    monkeypatch.setattr(ome_tiff, "BAND", 32)


def random_pixels(shape, dtype):
    values = np.random.default_rng(0).integers(0, 100, shape)
    return (values if np.dtype(dtype).kind == "u" else values - 50).astype(dtype)


def begin(path, **changes):
    return new_output(path, workers=2, **{"stage": "prep", "settings": {"a": 1}, "inputs": {}, **changes})


def make(path, axes=YX, pixels=None, *, channels=(), classes=None, attributes=None, **changes):
    """Write an image with its pyramid; return the pixels of its levels."""
    pixels = random_pixels((1, 1, 1, 70, 90), "uint8") if pixels is None else pixels
    new = begin(path, **changes)
    level = new.level("", 0, axes, pixels.shape, pixels.dtype)
    fill(level, pixels)
    build_pyramids(new, {"": level}, mean_2x2)
    n_levels = len(level_shapes(pixels.shape))
    levels = [new.level("", k, axes, s, pixels.dtype) for k, s in enumerate(level_shapes(pixels.shape))]
    expected = [whole(level) for level in levels]
    image = ImageMetadata("", axes, "a name", n_levels, channels, (0.0, 100.0), classes)
    new.finish([image], attributes or {})
    return expected


CASES = {
    "gray": ("yx", (1, 1, 1, 70, 90), "uint8", ()),
    "one tile": ("yx", (1, 1, 1, 3, 5), "uint16", ()),
    "one pixel": ("yx", (1, 1, 1, 1, 1), "uint8", ()),
    "one column": ("yx", (1, 1, 1, 60, 1), "uint8", ()),
    "a level of one column": ("zyx", (1, 1, 2, 60, 3), "uint16", ()),
    "colours": ("cyx", (1, 3, 1, 70, 90), "uint8", COLOURS),
    "colours of 16 bits": ("cyx", (1, 3, 1, 40, 50), "uint16", COLOURS),
    "stack of colours": ("tczyx", (2, 3, 4, 40, 50), "uint8", COLOURS),
    "channels": ("cyx", (1, 2, 1, 40, 50), "uint8", (Channel("DAPI", "0000FF"), Channel("µ-opioid <&>", ""))),
    "channels of a stack": ("czyx", (1, 2, 3, 40, 50), "int16", default_channels(2)),
    "time": ("tyx", (4, 1, 1, 40, 33), "int8", ()),
    "all axes": ("tczyx", (2, 5, 3, 40, 33), "uint16", default_channels(5)),
    "ids": ("zyx", (1, 1, 2, 40, 33), "uint32", ()),
    "negative": ("yx", (1, 1, 1, 40, 33), "int32", ()),
    "float32": ("yx", (1, 1, 1, 40, 33), "float32", ()),
    "float64": ("yx", (1, 1, 1, 40, 33), "float64", ()),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("small")
def test_each_level_has_the_pixels_of_the_store(tmp_path, case):
    names, shape, dtype, channels = CASES[case]
    path = tmp_path / "x.ome.tif"
    expected = make(path, Axes.of(names), random_pixels(shape, dtype), channels=channels)
    with tifffile.TiffFile(path) as tiff:
        (series,) = tiff.series
        assert (tiff.is_bigtiff, series.kind) == (True, "ome")
        assert len(series.levels) == len(expected)
        is_rgb = tiff.pages[0].photometric == tifffile.PHOTOMETRIC.RGB
        assert is_rgb == ("colours" in case and dtype == "uint8")
        for level, pixels in zip(series.levels, expected, strict=True):
            found = level.asarray().reshape(
                *pixels.shape[:1], *([*pixels.shape[2:], 3] if is_rgb else pixels.shape[1:])
            )
            np.testing.assert_array_equal(found.transpose(0, 4, 1, 2, 3) if is_rgb else found, pixels)
    again = open_file(path)
    assert (again.shape, again.dtype) == (shape, np.dtype(dtype))
    np.testing.assert_array_equal(again.read(Box.whole(shape)), expected[0])
    assert not ledger_path(path).exists()


@pytest.mark.parametrize("case", ["gray", "colours"])
@pytest.mark.usefixtures("small")
def test_another_reader_sees_the_same(tmp_path, case):
    names, shape, dtype, channels = CASES[case]
    pixels = random_pixels(shape, dtype)
    make(tmp_path / "x.ome.tif", Axes.of(names), pixels, channels=channels)
    with Image.open(tmp_path / "x.ome.tif") as picture:
        found = np.asarray(picture)
    np.testing.assert_array_equal(found, pixels[0, :, 0].transpose(1, 2, 0).squeeze())


def xml_of(path):
    return ElementTree.fromstring(tifffile.tiffcomment(path))


@pytest.mark.usefixtures("small")
def test_metadata(tmp_path):
    path = tmp_path / "x.ome.tif"
    scale, units = {"t": 2.5, "z": 50.0, "y": 4.0, "x": 4.5}, {"t": "minute", "z": "nanometer", "x": "angstrom"}
    pixels = random_pixels((2, 2, 3, 40, 50), "uint16")
    make(path, Axes.of("tczyx", scale, units), pixels, channels=(Channel("DAPI", "0000FF"), Channel("a\x01b µ", "")))
    (image,) = xml_of(path).iterfind("{*}Image")
    assert image.attrib["Name"] == "a name"
    (found,) = image.iterfind("{*}Pixels")
    sizes = {"SizeX": "50", "SizeY": "40", "SizeZ": "3", "SizeC": "2", "SizeT": "2"}
    size_of_pixel = {
        "TimeIncrement": "2.5", "TimeIncrementUnit": "min", "PhysicalSizeZ": "50.0", "PhysicalSizeZUnit": "nm",
        "PhysicalSizeX": "4.5", "PhysicalSizeXUnit": "Å",
    }  # fmt: skip
    assert found.attrib.items() >= {**sizes, **size_of_pixel, "Type": "uint16", "DimensionOrder": "XYZCT"}.items()
    assert "PhysicalSizeY" not in found.attrib  # of no known unit
    first, second = found.iterfind("{*}Channel")
    assert (first.attrib["Name"], second.attrib["Name"]) == ("DAPI", "ab µ")
    assert int(first.attrib["Color"]) == 0x0000FFFF
    assert "Color" not in second.attrib
    axes = open_file(path).axes
    assert (axes.scale_of("t"), axes.units) == (2.5, ("minute", None, "nanometer", None, "angstrom"))


@pytest.mark.parametrize("unit", ome_tiff.UNITS)
@pytest.mark.usefixtures("small")
def test_units_are_read_back(tmp_path, unit):
    axis = "t" if unit in ("millisecond", "second", "minute", "hour", "day") else "x"
    axes = Axes.of("tyx", {axis: 0.3}, {axis: unit})
    make(tmp_path / "x.tif", axes, random_pixels((2, 1, 1, 9, 7), "uint8"))
    assert open_file(tmp_path / "x.tif").axes == axes


@pytest.mark.usefixtures("small")
def test_what_is_written_down_is_read_back(tmp_path):
    made = {"data": {"classes": ["a <&> µ", "\x01"], "statistics": [{"mean": 0.1}]}}
    make(tmp_path / "x.ome.tif", attributes=made)
    found = written_attributes(tmp_path / "x.ome.tif")
    assert found["data"] == made["data"]
    assert (found["stage"], found["fingerprint"]["settings"]) == ("prep", {"a": 1})


def test_other_files_say_nothing(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 4), np.uint8))
    tifffile.imwrite(tmp_path / "b.ome.tif", np.zeros((4, 4), np.uint8), metadata={"MapAnnotation": {"a": "1"}})
    (tmp_path / "c.tif").write_bytes(b"text")
    (tmp_path / "d.tif").write_bytes(b"")
    (tmp_path / "e.tif").write_bytes((tmp_path / "b.ome.tif").read_bytes()[:60])
    (tmp_path / "f.tif").mkdir()
    for path in tmp_path.iterdir():
        assert written_attributes(path) == {}


# ------------------------------------------------------------------------------------------- complete or nothing


@pytest.mark.usefixtures("small")
def test_the_same_run_again_does_nothing_and_another_is_refused(tmp_path):
    path = tmp_path / "x.ome.tif"
    make(path)
    before = path.read_bytes()
    assert begin(path).complete
    with pytest.raises(ConfigError, match="settings a was 1, is 2") as caught:
        begin(path, settings={"a": 2})
    assert "--overwrite" in caught.value.fix
    assert path.read_bytes() == before
    make(path, settings={"a": 2}, overwrite=True)
    assert written_attributes(path)["fingerprint"]["settings"] == {"a": 2}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["tiff", "text", "folder", "empty"])
def test_what_is_not_ours_is_never_touched(tmp_path, kind, overwrite):
    path = tmp_path / "x.tif"
    if kind == "tiff":
        tifffile.imwrite(path, np.zeros((4, 4), np.uint8), ome=True)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"thesis" if kind == "text" else b"")
    before = path.is_file() and path.read_bytes()
    with pytest.raises(InputError, match="was not made by unetcli"):
        begin(path, overwrite=overwrite)
    assert (path.is_file() and path.read_bytes()) == before
    assert list(tmp_path.iterdir()) == [path]


class Killed(BaseException):
    """What ends a process at once."""


@pytest.mark.parametrize("overwrite", [False, True], ids=["new", "overwriting"])
@pytest.mark.usefixtures("small")
def test_killed_at_any_moment_of_finishing(tmp_path, monkeypatch, overwrite):
    make(tmp_path / "whole.tif")
    expected = (tmp_path / "whole.tif").read_bytes()
    steps = [
        (ome_tiff.os, "fsync"), (Path, "replace"), (Path, "unlink"), (ledger, "empty"),
    ]  # fmt: skip
    for owner, name in steps:
        path = tmp_path / f"{name}.tif"
        if overwrite:
            make(path, settings={"a": 2})
        with monkeypatch.context() as patch:
            begun = begin(path, overwrite=overwrite)
            begun.level("", 0, YX, (1, 1, 1, 70, 90), "uint8")
            patch.setattr(owner, name, raise_killed)
            with pytest.raises(Killed):
                make(path)
        if name != "empty":  # by then the file is there, and the plan is gone
            with pytest.raises(InputError, match="is not complete"):
                require_complete(path)
        if not begin(path).complete:
            make(path)
        require_complete(path)
        assert path.read_bytes() == expected


def raise_killed(*_, **__):
    raise Killed


@pytest.mark.usefixtures("small")
def test_what_a_kill_left_of_the_ledger_is_not_continued(tmp_path):
    path = tmp_path / "x.tif"
    make(path)
    ledger_path(path).mkdir()
    (ledger_path(path) / "host-1-ab.done").write_text("/0/0\n")
    assert begin(path).complete
    assert not ledger_path(path).exists()
    path.unlink()
    ledger_path(path).mkdir()
    (ledger_path(path) / "host-1-ab.done").write_text("/0/0\n")
    assert "/0/0" not in begin(path).ledger


# ------------------------------------------------------------------------------------------- what a TIFF can hold


@pytest.mark.parametrize(
    ("name", "expected"),
    [("x.ome.tif", True), ("x.OME.TIFF", True), ("x.tiff", True), ("x.zarr", False), ("tif", False)],
)
def test_names(name, expected):
    assert is_tiff_name(Path(name)) == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"images": 2}, "can not hold 2 images"),
        ({"labels": True}, "can not hold an image with its labels"),
        ({"dtype": "float16"}, "can not hold pixels of float16"),
        ({"ngff": "0.4"}, r"can not hold OME-Zarr 0\.4"),
    ],
    ids=str,
)
def test_what_a_tiff_can_not_hold(tmp_path, asked, message):
    with pytest.raises(ConfigError, match=message) as caught:
        check_output(tmp_path / "x.ome.tif", **{"images": 1, **asked})
    assert caught.value.fix == "-o x.zarr"
    check_output(tmp_path / "x.zarr", **{"images": 1, **asked})
    check_output(tmp_path / "x.ome.tif", images=1)


def test_a_folder_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnetcliError, match="can not be written"):
        begin(tmp_path / "file" / "x.tif")


@pytest.mark.usefixtures("small")
def test_the_annotation_is_plain_json(tmp_path):
    make(tmp_path / "x.tif", attributes={"µ": 1})
    (note,) = xml_of(tmp_path / "x.tif").iterfind(".//{*}CommentAnnotation")
    assert json.loads(note.findtext("{*}Value"))["µ"] == 1

"""Real files of many programs become stores with the pixels that other readers find; broken ones are refused."""

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.image.limited import GIB, prep_each
from unetcli.config import PrepConfig
from unetcli.image.axes import AXES
from unetcli.image.files import open_file
from unetcli.image.store import open_store
from unetcli.image.tiling import Box
from unetcli.stages import prep

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SUFFIXES = {".tif", ".tiff", ".svs", ".ome"}
JPEG_TOLERANCE = 3
"""Gray levels by which decoders of JPEG may differ: they round the colours and the chroma in their own ways."""


def real_files(*patterns):
    found = sorted(p for pattern in patterns for p in DATA.glob(pattern) if p.suffix in SUFFIXES)
    skip = pytest.mark.skip(reason="the folder of real images is not beside the checkout")
    return found or [pytest.param(None, marks=skip, id="missing")]


def by_name(path):
    return path and path.name


def converted(path, out):
    """Convert a file; return the pixels, (t, c, z, y, x), and the notes."""
    notes = prep.run([path], out, PrepConfig())["notes"]
    level = open_store(out).images[0].level
    return level.read(Box.whole(level.shape)), " ".join(notes)


def as_tczyx(array, order):
    names = [a for a in AXES if a in order]
    array = array.transpose([order.index(a) for a in names])
    return array[tuple(slice(None) if a in names else np.newaxis for a in AXES)]


def by_tifffile(path, notes):
    with tifffile.TiffFile(path) as tif:
        pixels, order = tif.series[0].asarray(), tif.series[0].axes
    pixels = as_tczyx(pixels, order.lower().replace("s", "c").replace("i", "z"))
    if "bright is high" in notes:
        pixels = np.invert(pixels)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    return pixels[:, :3] if "alpha" in notes else pixels


def by_pillow(path):
    """Return all pages of the first size; None for what Pillow does not read, stretches, or turns."""
    pages = []
    try:
        with Image.open(path) as image:
            is_odd = image.tag_v2.get(258, (8,))[0] < 8 and image.mode != "P"
            if image.mode not in ("L", "RGB", "RGBA", "P", "F") or is_odd or image.getexif().get(274, 1) != 1:
                return None
            for k in range(image.n_frames):
                image.seek(k)
                page = np.asarray(image.convert("RGB") if image.mode in ("P", "RGBA") else image)
                if pages and page.shape != pages[0].shape:
                    break
                pages.append(page)
    except (OSError, ValueError):
        return None
    return as_tczyx(np.stack(pages), "zyxc"[: 1 + pages[0].ndim])


GOOD = real_files("tiff_odd/good/*", "ome_tiff/*", "ome_tiff/multi_tiff/*", "wsi/*")


@pytest.mark.parametrize("path", GOOD, ids=by_name)
def test_good_files_are_converted(tmp_path, path):
    pixels, notes = converted(path, tmp_path / "a.zarr")
    if "converted to RGB" not in notes:  # tifffile gives the indices of a palette
        np.testing.assert_array_equal(pixels, by_tifffile(path, notes))
    other = by_pillow(path)
    if other is None or other.dtype != pixels.dtype:
        assert "converted to RGB" not in notes, "a palette needs a reader that knows it"
    elif other.shape == pixels.shape:
        tolerance = JPEG_TOLERANCE if is_jpeg(path) else 0
        assert np.abs(other - pixels.astype(float)).max() <= tolerance


def is_jpeg(path):
    with tifffile.TiffFile(path) as tif:
        return tif.pages[0].compression in (6, 7)


MEMBERS = real_files("ome_tiff/multifile/*")


@pytest.mark.parametrize("path", MEMBERS, ids=by_name)
def test_each_file_of_a_set_stands_for_the_whole_image(path):
    source = open_file(path)
    planes = [tifffile.imread(path.parent / f"multifile-Z{z}.ome.tiff") for z in range(1, 6)]
    np.testing.assert_array_equal(source.read(Box.whole(source.shape))[0, 0], planes)
    assert source.axes.names == "zyx"


@pytest.mark.skipif(MEMBERS[0] is None or len(MEMBERS) < 2, reason="the folder of real images is not there")
def test_a_folder_with_a_set_is_one_image(tmp_path):
    prep.run([MEMBERS[0].parent], tmp_path / "a.zarr", PrepConfig())
    (image,) = open_store(tmp_path / "a.zarr").images
    assert (image.name, image.level.shape) == ("multifile", (1, 1, 5, 24, 18))


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("wsi/boxes.tiff", [(250, 300), (125, 150), (62, 75), (31, 37)]),
        ("wsi/vips_pyramid_subifd_jpeg.tif", [(900, 1100), (450, 550), (225, 275), (112, 137)]),
        (
            "tiff_odd/good/tiff_strip_planar_raw_with_overviews.tif",
            [(374, 278), (187, 139), (94, 70), (47, 35), (24, 18)],
        ),
    ],
)
def test_levels_of_pyramids(name, shapes):
    path = DATA / name
    if not path.exists():
        pytest.skip("the folder of real images is not beside the checkout")
    full = open_file(path)
    for level, shape in enumerate(shapes):
        source = open_file(path, level=level)
        assert source.shape[3:] == shape
        with tifffile.TiffFile(path) as tif:
            expected = tif.series[0].levels[level].asarray()
            order = tif.series[0].levels[level].axes.lower().replace("s", "c")
        np.testing.assert_array_equal(source.read(Box.whole(source.shape)), as_tczyx(expected, order))
        for a, n, m in zip("yx", shapes[0], shape, strict=True):
            assert source.axes.scale_of(a) == pytest.approx(
                full.axes.scale_of(a) * (n / m if full.axes.units[-1] else 1)
            )


def test_broken_files_end_in_exit_code_3_in_bounded_time_and_memory(tmp_path):
    paths = [str(p) for p in DATA.glob("tiff_odd/broken/*")]
    if not paths:
        pytest.skip("the folder of real images is not beside the checkout")
    outcome = prep_each(paths, tmp_path / "a.zarr")
    assert outcome.codes == dict.fromkeys(paths, 3)
    assert outcome.peak < GIB
    for path in paths:
        assert f"error: {path}" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_tifffile_is_quiet(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, logger="root")
    for path in (p for p in GOOD if isinstance(p, Path)):
        open_file(path)
    assert not caplog.records

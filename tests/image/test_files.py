"""Image files of many layouts read equal to tifffile, Pillow and NumPy; broken ones are refused."""

import logging
import os
import struct
import tracemalloc
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from unetcli.errors import InputError
from unetcli.image.axes import AXES
from unetcli.image.files import open_file
from unetcli.image.segments import PagedReader
from unetcli.image.tiling import Box, TileGrid

RNG = np.random.default_rng(0)


def pixels(*shape, dtype="u1"):
    return RNG.integers(0, 100, shape).astype(dtype)


def as_tczyx(array, order):
    """Bring an array into the order t, c, z, y, x with five axes."""
    names = [a for a in AXES if a in order]
    array = array.transpose([order.index(a) for a in names])
    return array[tuple(slice(None) if a in names else np.newaxis for a in AXES)]


def random_boxes(shape, n=12):
    for _ in range(n):
        ends = [sorted(RNG.choice(size + 1, 2, replace=False).tolist()) for size in shape]
        yield Box(tuple(a for a, _ in ends), tuple(b for _, b in ends))
    yield Box.whole(shape)


def assert_reads(source, expected):
    """Check a source against the whole array, box by box."""
    assert source.shape == expected.shape
    assert source.dtype == expected.dtype
    assert source.dtype.isnative
    for box in random_boxes(source.shape):
        block = source.read(box)
        assert block.dtype == source.dtype
        np.testing.assert_array_equal(block, expected[box.slices], err_msg=str(box))


def save(tmp_path, array, name="a.tif", **options):
    path = tmp_path / name
    tifffile.imwrite(path, array, **options)
    return path


RGB = {"photometric": "rgb"}
PLANAR = {"photometric": "rgb", "planarconfig": "separate"}
GREY = {"photometric": "minisblack"}
TILED = {"tile": (32, 48)}
ZLIB = {"compression": "zlib"}
IMAGEJ_ZCYX = {"imagej": True, "metadata": {"axes": "ZCYX"}}

LAYOUTS = {
    "strip": ((70, 90), "u2", "yx", {}),
    "strips": ((70, 90), "u1", "yx", {"rowsperstrip": 8}),
    "big-endian": ((70, 90), "f4", "yx", {"byteorder": ">"}),
    "big-endian-deflate": ((70, 90), "u2", "yx", {"byteorder": ">", **ZLIB, "predictor": True}),
    "bigtiff": ((70, 90), "i2", "yx", {"bigtiff": True}),
    "lzw": ((70, 90), "u2", "yx", {"compression": "lzw", "rowsperstrip": 7}),
    "zstd": ((70, 90), "f4", "yx", {"compression": "zstd", "rowsperstrip": 16}),
    "packbits": ((70, 90), "u1", "yx", {"compression": "packbits"}),
    "tiled": ((70, 90), "u2", "yx", TILED),
    "tiled-deflate": ((70, 90), "u2", "yx", {**TILED, "compression": "zlib"}),
    "one-tile-wide": ((64, 48), "u2", "yx", TILED),
    "rgb": ((70, 90, 3), "u1", "yxc", RGB),
    "rgb-big-endian": ((70, 90, 3), "u2", "yxc", {**RGB, "byteorder": ">"}),
    "rgb-tiled-lzw": ((70, 90, 3), "u2", "yxc", {**RGB, **TILED, "compression": "lzw"}),
    "planar": ((3, 70, 90), "u1", "cyx", PLANAR),
    "planar-strips": ((3, 70, 90), "u1", "cyx", {**PLANAR, "rowsperstrip": 9, "compression": "zlib"}),
    "planar-tiled": ((3, 70, 90), "u1", "cyx", {**PLANAR, **TILED, "compression": "zlib"}),
    "pages": ((5, 40, 50), "u2", "zyx", GREY),
    "pages-deflate": ((5, 40, 50), "u2", "zyx", {**GREY, "compression": "zlib"}),
    "pages-tiled": ((5, 40, 50), "u2", "zyx", {**GREY, **TILED}),
    "rgb-pages": ((4, 40, 50, 3), "u1", "zyxc", {**RGB, "compression": "zlib"}),
    "axes-in-description": ((4, 40, 50), "u2", "tyx", {**GREY, "metadata": {"axes": "TYX"}}),
    "imagej": ((2, 3, 2, 40, 50), "u2", "tzcyx", {"imagej": True}),
    "imagej-deflate": ((2, 3, 40, 50), "f4", "zcyx", {**IMAGEJ_ZCYX, **ZLIB}),
    "imagej-rgb": ((40, 50, 3), "u1", "yxc", {"imagej": True, **RGB}),
    "ome": ((2, 3, 4, 20, 30), "u2", "tczyx", {"ome": True, "metadata": {"axes": "TCZYX"}, **GREY}),
    "ome-zc": ((4, 2, 20, 30), "u1", "zcyx", {"ome": True, "metadata": {"axes": "ZCYX"}, **GREY, **ZLIB}),
    "ome-tiled": ((2, 70, 90), "u2", "cyx", {"ome": True, "metadata": {"axes": "CYX"}, **GREY, **TILED}),
    "one-pixel": ((1, 1), "u1", "yx", {}),
    "one-row": ((1, 90), "u1", "yx", {"compression": "zlib"}),
    "one-column": ((90, 1), "u1", "yx", {**TILED}),
    "bool": ((40, 50), "?", "yx", GREY),
    "bool-packed": ((40, 50), "?", "yx", {**GREY, "compression": "packbits"}),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiff_layouts(tmp_path, layout):
    shape, dtype, order, options = LAYOUTS[layout]
    path = save(tmp_path, pixels(*shape, dtype=dtype), **options)
    source = open_file(path)
    assert_reads(source, as_tczyx(tifffile.imread(path), order))
    assert source.axes.names == "".join(a for a in AXES if a in order)
    assert source.pages_unnamed == (layout.startswith(("pages", "rgb-pages")))
    assert any("taken as z planes" in n for n in source.notes) == source.pages_unnamed


@pytest.mark.parametrize("axes", ["tyx", "cyx", "ZYX"])
def test_axes_override_those_of_the_file(tmp_path, axes):
    stack = pixels(4, 20, 30)
    source = open_file(save(tmp_path, stack, **GREY), axes=axes)
    assert (source.pages_unnamed, source.notes) == (False, ())
    assert_reads(source, as_tczyx(stack, axes.lower()))


def test_axes_may_name_axes_of_size_one(tmp_path):
    stack = pixels(1, 20, 30)
    for axes in ("zyx", "yx"):
        source = open_file(save(tmp_path, stack, **GREY), axes=axes)
        assert source.axes.names == axes
        assert_reads(source, stack[np.newaxis, np.newaxis])


def test_ambiguous_axes_are_asked_for(tmp_path):
    stack = pixels(3, 4, 20, 30)
    path = save(tmp_path, stack, **GREY)
    with pytest.raises(InputError, match=r"has 4 axes \(3 x 4 x 20 x 30\)") as caught:
        open_file(path)
    assert "--axes czyx" in caught.value.fix
    assert_reads(open_file(path, axes="tzyx"), as_tczyx(stack, "tzyx"))


def test_pyramid_is_read_at_full_resolution(tmp_path):
    image = pixels(128, 160, 3)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(image, subifds=1, tile=(64, 64), **RGB)
        writer.write(image[::2, ::2], subfiletype=1, tile=(64, 64), **RGB)
    assert_reads(open_file(tmp_path / "a.tif"), as_tczyx(image, "yxc"))


def test_jpeg_tiles(tmp_path):
    path = save(tmp_path, pixels(100, 120, 3), tile=(64, 64), compression="jpeg", **RGB)
    assert_reads(open_file(path), as_tczyx(tifffile.imread(path), "yxc"))


@pytest.mark.parametrize("dtype", ["?", "u1", "u2", "i2"])
def test_white_zero_is_inverted_in_images_but_not_in_labels(tmp_path, dtype):
    image = pixels(20, 30, dtype=dtype)
    path = save(tmp_path, image, photometric="miniswhite", compression="zlib")
    source = open_file(path)
    inverted = (65535 if dtype == "u2" else 255) - image if dtype[0] == "u" else np.invert(image)
    assert_reads(source, as_tczyx(inverted, "yx"))
    assert any("inverted" in n for n in source.notes)
    labels = open_file(path, is_label=True)
    assert_reads(labels, as_tczyx(image, "yx"))
    assert any("not inverted" in n for n in labels.notes)


def test_fax_pages_look_as_in_pillow(tmp_path):
    image = Image.fromarray(pixels(20, 30) > 50)
    image.save(tmp_path / "a.tif", compression="group4")
    source = open_file(tmp_path / "a.tif")
    np.testing.assert_array_equal(source.read(Box.whole(source.shape))[0, 0, 0], np.array(image))


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_alpha_is_left_out_unless_axes_are_given(tmp_path, planar):
    order = "yxc" if planar == "contig" else "cyx"
    image = pixels(*(4 if a == "c" else 20 for a in order))
    path = save(tmp_path, image, photometric="rgb", planarconfig=planar, extrasamples=["unassalpha"])
    source = open_file(path)
    assert any("alpha" in n and f"--axes {order}" in n for n in source.notes)
    assert_reads(source, as_tczyx(image, order)[:, :3])
    assert_reads(open_file(path, axes=order), as_tczyx(image, order))


def test_pixel_size_of_ome(tmp_path):
    metadata = {"axes": "ZYX", "PhysicalSizeX": 4, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5}
    axes = open_file(save(tmp_path, pixels(3, 20, 30), ome=True, metadata=metadata, **GREY)).axes
    assert (axes.scale, axes.units) == ((1, 0.5, 4), (None, "micrometer", "nanometer"))


def test_pixel_size_of_imagej(tmp_path):
    metadata = {"axes": "TZYX", "unit": "um", "spacing": 2.5, "finterval": 30}
    options = {"imagej": True, "resolution": (4, 2), "metadata": metadata}
    axes = open_file(save(tmp_path, pixels(2, 3, 20, 30), **options)).axes
    assert axes.scale == (30, 2.5, 0.5, 0.25)
    assert axes.units == ("second", "micrometer", "micrometer", "micrometer")


@pytest.mark.parametrize(
    ("resolution", "unit", "size"),
    [
        ((20000, 20000), "centimeter", 0.5),
        ((25400, 25400), "inch", 1),
        ((72, 72), "inch", None),
        ((300, 300), "inch", None),
        ((1, 1), "inch", None),
        ((1, 1), "none", None),
    ],
)
def test_pixel_size_of_resolution_tags(tmp_path, resolution, unit, size):
    axes = open_file(save(tmp_path, pixels(9, 9), resolution=resolution, resolutionunit=unit)).axes
    assert axes.scale == (size or 1,) * 2
    assert axes.units == ("micrometer" if size else None,) * 2


def test_each_strip_is_decoded_once_when_read_in_squares(tmp_path, monkeypatch):
    image = pixels(256, 256, dtype="u2")
    source = open_file(save(tmp_path, image, compression="zlib", rowsperstrip=16))
    assert isinstance(source.read_region, PagedReader)
    decoded = []
    decode = PagedReader._decode
    monkeypatch.setattr(
        PagedReader, "_decode", lambda self, file, page, i: decoded.append(i) or decode(self, file, page, i)
    )
    for tile in TileGrid(source.shape, (1, 1, 1, 32, 32)):
        source.read(tile.core)
    assert sorted(decoded) == list(range(16))


def test_only_touched_tiles_are_decoded(tmp_path, monkeypatch):
    source = open_file(save(tmp_path, pixels(256, 256), compression="zlib", tile=(64, 64)))
    decoded = []
    decode = PagedReader._decode
    monkeypatch.setattr(
        PagedReader, "_decode", lambda self, file, page, i: decoded.append(i) or decode(self, file, page, i)
    )
    source.read(Box((0, 0, 0, 64, 100), (1, 1, 1, 128, 130)))
    assert decoded == [5, 6]


def test_threads_share_a_source(tmp_path):
    image = pixels(200, 220, dtype="u2")
    source = open_file(save(tmp_path, image, compression="zlib", rowsperstrip=5))
    expected = as_tczyx(image, "yx")
    boxes = list(random_boxes(source.shape, 100))
    with ThreadPoolExecutor(4) as pool:
        for box, block in zip(boxes, pool.map(source.read, boxes), strict=True):
            np.testing.assert_array_equal(block, expected[box.slices])


@pytest.mark.parametrize("kind", ["tif", "npy"])
def test_a_region_of_an_uncompressed_file_does_not_load_the_rest(tmp_path, kind):
    image = np.zeros((4000, 4000), "u2")
    path = tmp_path / f"a.{kind}"
    tifffile.imwrite(path, image) if kind == "tif" else np.save(path, image)
    del image
    source = open_file(path)
    tracemalloc.start()
    source.read(Box((0, 0, 0, 2000, 1000), (1, 1, 1, 2100, 1100)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


def test_a_huge_compressed_strip_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("unetcli.image.raw.MEMORY_BUDGET", 10_000)
    image = pixels(200, 100)
    with pytest.raises(InputError, match="can only be decoded whole") as caught:
        open_file(save(tmp_path, image, compression="zlib", rowsperstrip=200))
    assert "tiled" in caught.value.fix
    assert_reads(open_file(save(tmp_path, image, compression="zlib", rowsperstrip=50)), as_tczyx(image, "yx"))
    assert_reads(open_file(save(tmp_path, image)), as_tczyx(image, "yx"))


# PNG and JPEG


def save_picture(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((20, 30), "?"), ((20, 30), "u1"), ((20, 30), "u2"), ((20, 30, 3), "u1")],
    ids=["1", "L", "I;16", "RGB"],
)
def test_png_modes(tmp_path, shape, dtype):
    array = pixels(*shape, dtype=dtype)
    path = save_picture(tmp_path, Image.fromarray(array), "png.dat", format="PNG")
    source = open_file(path)
    assert source.notes == ()
    assert_reads(source, as_tczyx(array, "yxc"[: array.ndim]))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_png_alpha_is_left_out(tmp_path, mode):
    array = pixels(20, 30, len(mode))
    source = open_file(save_picture(tmp_path, Image.fromarray(array, mode if mode == "LA" else None)))
    assert any("alpha" in n for n in source.notes)
    assert_reads(source, as_tczyx(array[:, :, :-1] if mode == "RGBA" else array[:, :, 0], "yxc"[: len(mode)]))


def test_png_palette_gives_colours_of_images_and_indices_of_labels(tmp_path):
    image = Image.fromarray(pixels(20, 30) // 10)
    image.putpalette(list(range(100, 130)))
    path = save_picture(tmp_path, image)
    picture, labels = open_file(path), open_file(path, is_label=True)
    assert_reads(picture, as_tczyx(np.array(image.convert("RGB")), "yxc"))
    assert_reads(labels, as_tczyx(np.array(image), "yx"))
    assert "palette" in picture.notes[0]
    assert "indices" in labels.notes[0]


def test_png_keeps_sixteen_bits_of_colours(tmp_path):
    array = pixels(20, 30, 3, dtype="u2") * 600
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(array))
    assert_reads(open_file(tmp_path / "a.png"), as_tczyx(array, "yxc"))


def test_png_labels_of_four_bits_are_not_stretched(tmp_path):
    array = pixels(20, 30) % 16
    path = tmp_path / "a.png"
    path.write_bytes(png_of_four_bits(array))
    assert_reads(open_file(path, is_label=True), as_tczyx(array, "yx"))


def png_of_four_bits(array):
    packed = array[:, ::2] << 4 | array[:, 1::2]
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 4, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    body = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def test_jpeg(tmp_path):
    path = save_picture(tmp_path, Image.fromarray(pixels(20, 30, 3)), "a.jpg")
    assert_reads(open_file(path), as_tczyx(np.array(Image.open(path)), "yxc"))
    assert [c.name for c in open_file(path).channels] == ["red", "green", "blue"]


def test_a_picture_with_a_huge_header_is_refused_before_it_is_decoded(tmp_path):
    path = save_picture(tmp_path, Image.new("L", (8, 8)))
    data = bytearray(path.read_bytes())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"takes 9\.3 GiB once decoded"):
        open_file(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_picture_is_refused(tmp_path, suffix):
    path = save_picture(tmp_path, Image.fromarray(pixels(200, 300, 3)), f"a.{suffix}")
    path.write_bytes(path.read_bytes()[:5000])
    source = open_file(path)
    with pytest.raises(InputError, match="can not be read at c 0:3 y 0:200 x 0:300"):
        source.read(Box.whole(source.shape))
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match=f"a.{suffix}"):
        open_file(path)


# NumPy


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "<f4", "?", "f8"])
@pytest.mark.parametrize("shape", [(20, 30), (7, 20, 30)])
def test_npy(tmp_path, shape, dtype, order):
    array = np.asarray(pixels(*shape, dtype=dtype), order=order)
    np.save(tmp_path / "a.npy", array)
    source = open_file(tmp_path / "a.npy")
    assert source.pages_unnamed == (array.ndim == 3)
    assert_reads(source, as_tczyx(array.astype(array.dtype.newbyteorder("=")), "zyx"[-array.ndim :]))


def test_npy_axes(tmp_path):
    array = pixels(20, 30, 3)
    np.save(tmp_path / "a.npy", array)
    source = open_file(tmp_path / "a.npy")
    assert "colour channels" in source.notes[0]
    assert_reads(source, as_tczyx(array, "yxc"))
    assert_reads(open_file(tmp_path / "a.npy", axes="zyx"), as_tczyx(array, "zyx"))
    np.save(tmp_path / "b.npy", pixels(2, 3, 4, 5))
    with pytest.raises(InputError, match="has 4 axes"):
        open_file(tmp_path / "b.npy")


def test_npz_with_one_array(tmp_path):
    array = pixels(20, 30, dtype="i4")
    np.savez_compressed(tmp_path / "a.npz", array)
    assert_reads(open_file(tmp_path / "a.npz", is_label=True), as_tczyx(array, "yx"))
    np.savez(tmp_path / "b.npz", array, array)
    with pytest.raises(InputError, match="archive of 2 files"):
        open_file(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "c.npz", "w"):
        pass
    with pytest.raises(InputError, match="archive of 0 files"):
        open_file(tmp_path / "c.npz")


def test_numpy_files_never_unpickle(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[{}, 1]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", np.array([[{}, 1]], dtype=object))
    for name in ("a.npy", "a.npz"):
        with pytest.raises(InputError, match="Python objects"):
            open_file(tmp_path / name)


# What is refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.tif: is empty"),
        (
            b"hello world",
            r'a.tif: is not an image file \(starts with "hello wo…"\); expected TIFF, PNG, JPEG',
        ),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"\x01\x02\x03\x04", "starts with bytes 01 02 03 04"),
        (b"\x89HDF\r\n\x1a\n", "can not be read as HDF5"),
        (b"II*\0", "a.tif: can not be read as TIFF"),
        (b"II*\0\xff\xff\0\0", "a.tif"),
        (b"\x93NUMPY\x01\x00\x10\x00{}", "a.tif: is not a valid NumPy file"),
        (b"\x93NUMPY\x09\x00", "a.tif: is not a valid NumPy file"),
        (b"PK\x03\x04", "a.tif: is not a valid NumPy archive"),
    ],
)
def test_what_is_not_an_image(tmp_path, content, message):
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_file(tmp_path / "a.tif")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_file(tmp_path / "a.tif")
    with pytest.raises(InputError, match="is a folder"):
        open_file(tmp_path)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (64, 64)}], ids=["raw", "zlib", "tiled"])
def test_truncated_tiff(tmp_path, options):
    path = save(tmp_path, pixels(300, 300), **options)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match="bytes long; expected at least"):
        open_file(path)


@pytest.mark.parametrize("ome", [False, True])
def test_stack_that_lost_pages(tmp_path, ome):
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=ome) as writer:
        writer.write(pixels(6, 50, 50), compression="zlib", **GREY)
    data = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        cut = tif.pages[4].offset
    (tmp_path / "a.tif").write_bytes(data[:cut])
    with pytest.raises(InputError, match=r"list of pages breaks off|bytes long"):
        open_file(tmp_path / "a.tif")


def test_truncated_npy(tmp_path):
    np.save(tmp_path / "a.npy", pixels(20, 30))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-1])
    with pytest.raises(InputError, match="is 727 bytes long; expected 728 for 20 x 30 pixels of uint8"):
        open_file(tmp_path / "a.npy")


def test_damaged_strip_names_file_and_box(tmp_path):
    path = save(tmp_path, pixels(64, 64), compression="zlib", rowsperstrip=16)
    with tifffile.TiffFile(path) as tif:
        start = tif.pages[0].dataoffsets[2]
    data = bytearray(path.read_bytes())
    data[start : start + 50] = bytes(50)
    path.write_bytes(data)
    source = open_file(path)
    source.read(Box((0, 0, 0, 0, 0), (1, 1, 1, 32, 64)))
    with pytest.raises(InputError, match=r"a\.tif: can not be read at y 30:40 x 5:64"):
        source.read(Box((0, 0, 0, 30, 5), (1, 1, 1, 40, 64)))


@pytest.mark.parametrize("name", ["a.tif", "a.npy"])
@pytest.mark.parametrize(
    ("dtype", "is_label", "message"),
    [
        ("c8", False, "pixels are complex64"),
        ("i8", False, "pixels are int64"),
        ("f4", True, "labels are float32; expected integers"),
    ],
)
def test_types_that_are_refused(tmp_path, name, dtype, is_label, message):
    array = pixels(8, 9, dtype=dtype)
    tifffile.imwrite(tmp_path / name, array) if name == "a.tif" else np.save(tmp_path / name, array)
    with pytest.raises(InputError, match=message):
        open_file(tmp_path / name, is_label=is_label)


@pytest.mark.parametrize("dtype", ["?", "u1", "i4", "i8", "u8"])
def test_types_of_labels(tmp_path, dtype):
    labels = pixels(8, 9, dtype=dtype)
    assert_reads(open_file(save(tmp_path, labels), is_label=True), as_tczyx(labels, "yx"))


@pytest.mark.parametrize("shape", [(0, 10), (10, 0), (5,)])
def test_npy_without_pixels_or_axes(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(InputError, match=r"has no pixels|at least y and x"):
        open_file(tmp_path / "a.npy")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tiff_without_pixels(tmp_path):
    with pytest.raises(InputError, match=r"a\.tif"):
        open_file(save(tmp_path, np.zeros((0, 10), "u1")))


def test_colours_that_are_not_rgb(tmp_path):
    with pytest.raises(InputError, match="colours of kind SEPARATED"):
        open_file(save(tmp_path, pixels(8, 9, 4), photometric="separated"))


def test_tifffile_is_quiet(tmp_path, caplog):
    caplog.set_level(logging.DEBUG, logger="root")
    (tmp_path / "a.tif").write_bytes(b"II*\0\x10\0\0\0")
    with pytest.raises(InputError):
        open_file(tmp_path / "a.tif")
    assert not caplog.records


def test_a_numpy_header_that_lies(tmp_path):
    np.save(tmp_path / "a.npy", pixels(8, 9))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data.replace(b"(8, 9), }      ", b"(8000000, 9), }"))
    with pytest.raises(InputError, match=r"a\.npy: is 200 bytes long; expected 72000128"):
        open_file(tmp_path / "a.npy")


def test_an_archive_that_unpacks_to_more_than_memory(tmp_path):
    header = b"\x93NUMPY\x01\x00\x76\x00{'descr': '|u1', 'fortran_order': False, 'shape': (100000, 100000), }"
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", header.ljust(127) + b"\n" + bytes(10**6))
    with pytest.raises(InputError, match=r"takes 9\.3 GiB once decoded"):
        open_file(tmp_path / "a.npz")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.tif")
    with pytest.raises(InputError, match="is a pipe or a device"):
        open_file(tmp_path / "a.tif")

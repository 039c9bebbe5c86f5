"""Types, compressions, colours, levels, channels and OME-TIFF sets; independent readers are the oracle."""

import os
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.image.test_files import GREY, RGB, TILED, as_tczyx, assert_reads, pixels, save
from unetcli.config import PrepConfig
from unetcli.errors import ConfigError, InputError
from unetcli.image import segments
from unetcli.image.cache import DecodedCache
from unetcli.image.files import open_file
from unetcli.image.inputs import open_inputs
from unetcli.image.segments import PagedReader
from unetcli.image.tiling import Box, TileGrid
from unetcli.stages import prep

SMOOTH = np.add.outer(np.arange(70), np.arange(90))


def smooth(*channels, dtype="u1"):
    """Return pixels that a compression with losses keeps nearly as they are."""
    return np.broadcast_to(SMOOTH[(..., *[None] * len(channels))], (70, 90, *channels)).astype(dtype)


def read_whole(source):
    return source.read(Box.whole(source.shape))


# Types


@pytest.mark.parametrize("dtype", ["?", "u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_types_of_images(tmp_path, dtype, byteorder):
    path = save(tmp_path, pixels(20, 30, dtype=dtype), byteorder=byteorder, **GREY)
    assert_reads(open_file(path), as_tczyx(tifffile.imread(path), "yx"))


@pytest.mark.parametrize("dtype", ["u8", "i8", "c8", "c16"])
def test_types_that_images_can_not_have(tmp_path, dtype):
    with pytest.raises(InputError, match=f"pixels are {np.dtype(dtype)}; expected integers up to 32 bits"):
        open_file(save(tmp_path, pixels(20, 30, dtype=dtype)))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_integers(tmp_path, bits):
    image = pixels(20, 30, dtype="u2") * 10
    assert_reads(open_file(save(tmp_path, image, bitspersample=bits)), as_tczyx(image, "yx"))


@pytest.mark.parametrize("bits", [2, 4])
def test_several_pixels_in_a_byte(tmp_path, bits):
    """Written as bytes, whose header is changed then."""
    image = pixels(20, 32) % 2**bits
    n = 8 // bits
    folded = sum(image[:, i::n] << (8 - bits * (i + 1)) for i in range(n)).astype("u1")
    path = save(tmp_path, folded, **GREY)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[0].tags["ImageWidth"].overwrite(32)
        tif.pages[0].tags["BitsPerSample"].overwrite(bits)
    assert_reads(open_file(path), as_tczyx(image, "yx"))


# Compressions

EXACT = {
    **{name: ("u2", {}) for name in ("lzw", "zlib", "zstd", "lzma", "packbits", "lerc", "png", "jpegxl")},
    "deflate-float": ("f4", {"predictor": True, "compression": "zlib"}),
    "jpeg2000": ("u2", {}),
    "webp": ("u1", {"compressionargs": {"lossless": True}}),
    "jpegxr": ("u1", {"compressionargs": {"level": 1.0}}),
}


@pytest.mark.parametrize("layout", [{"rowsperstrip": 16}, TILED], ids=["strips", "tiled"])
@pytest.mark.parametrize("name", EXACT)
def test_compressions(tmp_path, name, layout):
    dtype, options = EXACT[name]
    channels = (3,) if name == "webp" else ()
    options = {"compression": name, **options, **layout, **(RGB if channels else GREY)}
    image = smooth(*channels, dtype=dtype)
    path = save(tmp_path, image, **options)
    source = open_file(path)
    assert_reads(source, as_tczyx(tifffile.imread(path), "yxc"[: image.ndim]))
    np.testing.assert_array_equal(
        read_whole(source), as_tczyx(smooth(*channels, dtype=dtype), "yxc"[: 2 + len(channels)])
    )


@pytest.mark.parametrize("colours", [{"photometric": "rgb"}, {"photometric": "ycbcr", "subsampling": (2, 2)}])
def test_jpeg_looks_as_in_pillow(tmp_path, colours):
    path = save(tmp_path, smooth(3), compression="jpeg", tile=(32, 48), **colours)
    difference = np.array(Image.open(path).convert("RGB")).astype(int) - read_whole(open_file(path))[0, :, 0].transpose(
        1, 2, 0
    )
    assert np.abs(difference).max() <= 3


@pytest.mark.parametrize("kind", ["1", "group3", "group4", "tiff_ccitt"])
def test_fax(tmp_path, kind):
    image = Image.fromarray(pixels(20, 30) > 50)
    image.save(tmp_path / "a.tif", compression=None if kind == "1" else kind)
    source = open_file(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_whole(source)[0, 0, 0], np.array(image))


@pytest.mark.parametrize("photometric", ["separated", "cielab", "ycbcr", "logluv"])
def test_colours_that_are_not_rgb_are_refused(tmp_path, photometric):
    n = 4 if photometric == "separated" else 3
    with pytest.raises(InputError, match="has colours of kind") as caught:
        open_file(save(tmp_path, pixels(8, 16, n), photometric=photometric))
    assert "convert it to RGB" in caught.value.fix


LOSSY = {
    "jpeg": {"compression": "jpeg"},
    "jpeg2000": {"compression": "jpeg2000", "compressionargs": {"level": 40}},
    "webp": {"compression": "webp", **RGB},
    "jpegxl": {"compression": "jpegxl"},
}


@pytest.mark.parametrize("name", LOSSY)
def test_labels_with_losses_are_refused_unless_allowed(tmp_path, name):
    image = smooth(3) if name == "webp" else smooth()
    path = save(tmp_path, image, **LOSSY[name])
    with pytest.raises(InputError, match="changes pixels") as caught:
        open_file(path, is_label=True)
    assert "PNG or TIFF" in caught.value.fix
    assert "--label-threshold" in caught.value.fix
    assert open_file(path, is_label=True, lossy_ok=True).shape == open_file(path).shape


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_jpeg_file_is_no_label_image_whatever_it_is_called(tmp_path, name):
    Image.fromarray(smooth()).save(tmp_path / name, format="JPEG")
    with pytest.raises(InputError, match="JPEG changes pixels"):
        open_file(tmp_path / name, is_label=True)
    (allowed,) = open_inputs([tmp_path / name], is_label=True, threshold=128)
    assert any("JPEG changes pixels" in note for note in allowed.source.notes)


# Palettes


def palette(seed=0, n=256):
    return np.random.default_rng(seed).integers(0, 65536, (3, n)).astype("u2")


@pytest.mark.parametrize("options", [{}, {"compression": "lzw"}, {**TILED, "compression": "zlib"}], ids=str)
def test_palette_gives_colours_of_images_and_indices_of_labels(tmp_path, options):
    image = pixels(70, 90)
    path = save(tmp_path, image, photometric="palette", colormap=palette(), **options)
    picture, labels = open_file(path), open_file(path, is_label=True)
    assert_reads(picture, as_tczyx(np.array(Image.open(path).convert("RGB")), "yxc"))
    assert_reads(labels, as_tczyx(image, "yx"))
    assert "converted to RGB" in picture.notes[0]
    assert "indices" in labels.notes[0]
    assert [c.name for c in picture.channels] == ["red", "green", "blue"]


def test_each_page_has_its_own_palette(tmp_path):
    stack = pixels(3, 20, 30)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for k, page in enumerate(stack):
            writer.write(page, photometric="palette", colormap=palette(k), contiguous=False, metadata=None)
    expected = np.stack([(palette(k) >> 8)[:, page].transpose(1, 2, 0) for k, page in enumerate(stack)])
    source = open_file(tmp_path / "a.tif")
    assert_reads(source, as_tczyx(expected.astype("u1"), "zyxc"))
    assert_reads(open_file(tmp_path / "a.tif", axes="tyx"), as_tczyx(expected.astype("u1"), "tyxc"))


def test_palette_of_sixteen_bit_indices_and_of_eight_bit_colours(tmp_path):
    image = pixels(20, 30, dtype="u2") * 600
    path = save(tmp_path, image, photometric="palette", colormap=palette(n=65536) >> 8)
    expected = (palette(n=65536) >> 8)[:, image].transpose(1, 2, 0)
    assert_reads(open_file(path), as_tczyx(expected.astype("u1"), "yxc"))


def test_imagej_palettes_only_colour_the_view(tmp_path):
    image = pixels(20, 30)
    path = save(tmp_path, image, imagej=True, colormap=palette())
    source = open_file(path)
    assert_reads(source, as_tczyx(image, "yx"))
    assert any("grey levels are taken" in note for note in source.notes) == (source.shape[1] == 1)


# ImageJ


def test_imagej_stack_of_one_directory(tmp_path):
    """Beyond 4 GB, ImageJ writes one page, and all planes behind one another."""
    stack = pixels(5, 20, 30, dtype=">u2")
    first = save(tmp_path, stack[0], byteorder=">", description="ImageJ=1.11a\nimages=5\nslices=5\n", metadata=None)
    with tifffile.TiffFile(first) as tif:
        assert tif.pages[0].dataoffsets[0] + stack[0].nbytes == first.stat().st_size
    with first.open("ab") as file:
        file.write(stack[1:].tobytes())
    assert_reads(open_file(first), as_tczyx(stack.astype("u2"), "zyx"))


def test_imagej_stack_beyond_4_gb(tmp_path):
    n, side = 600, 3000
    plane = pixels(side, side)
    path = save(tmp_path, plane, byteorder=">", description=f"ImageJ=1.11a\nimages={n}\nslices={n}\n", metadata=None)
    start = path.stat().st_size - plane.nbytes
    os.truncate(path, start + n * plane.nbytes)  # a hole, which takes no room
    with path.open("r+b") as file:
        file.seek(start + (n - 1) * plane.nbytes)
        file.write(plane.tobytes())
    source = open_file(path)
    assert source.shape == (1, 1, n, side, side)
    assert path.stat().st_size > 5e9
    box = Box((0, 0, n - 2, 100, 200), (1, 1, n, 140, 260))
    np.testing.assert_array_equal(source.read(box)[0, 0], [np.zeros((40, 60)), plane[100:140, 200:260]])


# Levels


def write_pyramid(path, image, *, subifds, **options):
    """Write four levels, each of half the size rounded down: in SubIFDs, or as pages behind one another."""
    levels = [image, *(image[::s, ::s][: image.shape[0] // s, : image.shape[1] // s] for s in (2, 4, 8))]
    with tifffile.TiffWriter(path) as writer:
        writer.write(levels[0], subifds=3 if subifds else None, tile=(32, 32), metadata=None, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, tile=(32, 32), metadata=None, **options)
    return levels


@pytest.mark.parametrize("subifds", [True, False], ids=["subifds", "pages"])
def test_levels(tmp_path, subifds):
    options = {**RGB, "resolution": (20000, 20000), "resolutionunit": "centimeter"}
    levels = write_pyramid(tmp_path / "a.tif", pixels(301, 203, 3), subifds=subifds, **options)
    for k, level in enumerate(levels):
        source = open_file(tmp_path / "a.tif", level=k)
        assert_reads(source, as_tczyx(level, "yxc"))
        exact = (0.5 * 301 / level.shape[0], 0.5 * 203 / level.shape[1])
        assert source.axes.scale[1:] == pytest.approx(exact, rel=1e-12)
    (again,) = open_inputs([tmp_path / "a.tif"], level=2)
    assert again.source.shape == (1, 3, 1, 75, 50)


@pytest.mark.parametrize("level", [-1, 4])
def test_a_level_that_is_not_there(tmp_path, level):
    write_pyramid(tmp_path / "a.tif", pixels(301, 203, 3), subifds=True, **RGB)
    with pytest.raises(InputError, match=rf"has 4 levels of resolution, counted from 0; level {level} is not there"):
        open_file(tmp_path / "a.tif", level=level)


@pytest.mark.parametrize("name", ["a.tif", "a.npy", "a.png"])
def test_files_of_one_level(tmp_path, name):
    save(tmp_path, pixels(8, 9))
    np.save(tmp_path / "a.npy", pixels(8, 9))
    Image.fromarray(pixels(8, 9)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="has 1 level of resolution") as caught:
        open_file(tmp_path / name, level=1)
    assert "leave out --level" in caught.value.fix


# Channels


def channels_of(path):
    return [(c.name, c.color) for c in open_file(path).channels]


def test_channels_of_ome(tmp_path):
    described = {"Name": ["DAPI", "GFP"], "Color": [65535, -16776961]}  # opaque blue and red, as signed integers
    path = save(tmp_path, pixels(2, 20, 30), ome=True, metadata={"axes": "CYX", "Channel": described}, **GREY)
    assert channels_of(path) == [("DAPI", "0000FF"), ("GFP", "FF0000")]
    prep.run([path], tmp_path / "a.zarr", PrepConfig())
    assert "DAPI" in (tmp_path / "a.zarr" / "zarr.json").read_text()


def test_channels_of_imagej(tmp_path):
    ramp = np.arange(256, dtype="u1")
    tables = [np.stack([ramp * 0, ramp, ramp * 0]), np.stack([ramp, ramp * 0, ramp])]
    metadata = {"axes": "CYX", "LUTs": tables, "Labels": ["nuclei", "actin"], "mode": "composite"}
    path = save(tmp_path, pixels(2, 20, 30), imagej=True, metadata=metadata)
    assert channels_of(path) == [("nuclei", "00FF00"), ("actin", "FF00FF")]


@pytest.mark.parametrize("options", [RGB, {**RGB, "ome": True}, {**RGB, "compression": "jpeg"}], ids=str)
def test_channels_of_rgb(tmp_path, options):
    found = channels_of(save(tmp_path, pixels(32, 32, 3), **options))
    assert found == [("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF")]


def test_no_channels_where_the_file_is_silent(tmp_path):
    assert channels_of(save(tmp_path, pixels(20, 30))) == []
    assert channels_of(save(tmp_path, pixels(2, 20, 30), ome=True, metadata={"axes": "CYX"}, **GREY)) == []


# OME-TIFF sets

XML = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{root}</OME>"""
IMAGE = """<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="30" SizeY="20"
SizeZ="{n}" SizeC="1" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeY="0.5"><Channel ID="Channel:0" Name="DAPI"/>{data}
</Pixels></Image>"""
PLANE = '<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{file}">urn:uuid:{z}</UUID></TiffData>'
PLANES = pixels(3, 20, 30)


def described(files):
    return XML.format(
        root=IMAGE.format(n=len(files), data="".join(PLANE.format(z=z, file=f) for z, f in enumerate(files)))
    )


def write_set(folder, *, companion, files=("p_z0.ome.tif", "p_z1.ome.tif", "p_z2.ome.tif")):
    """Write a stack with each plane in a file of its own, described in each of them, or in a companion."""
    only = XML.format(root='<BinaryOnly MetadataFile="p.companion.ome" UUID="urn:uuid:c"/>')
    for z, name in enumerate(files):
        xml = (only if companion else described(files)).replace("<OME", f'<OME UUID="urn:uuid:{z}"')
        tifffile.imwrite(folder / name, PLANES[z], description=xml, metadata=None, compression="zlib")
    if companion:
        (folder / "p.companion.ome").write_text(described(files))
    return folder


@pytest.mark.parametrize("name", ["p.companion.ome", "p_z0.ome.tif", "p_z2.ome.tif"])
def test_any_file_of_a_set_opens_the_image(tmp_path, name):
    source = open_file(write_set(tmp_path, companion=True) / name)
    assert_reads(source, as_tczyx(PLANES, "zyx"))
    assert source.axes.scale == (1, 0.5, 0.5)
    assert [c.name for c in source.channels] == ["DAPI"]


def test_a_set_without_a_companion(tmp_path):
    assert_reads(open_file(write_set(tmp_path, companion=False) / "p_z1.ome.tif"), as_tczyx(PLANES, "zyx"))


@pytest.mark.parametrize(("companion", "name"), [(True, "p"), (False, "p_z0")])
def test_a_folder_with_a_set_is_one_image(tmp_path, companion, name):
    write_set(tmp_path, companion=companion)
    save(tmp_path, pixels(20, 30), "other.tif")
    found = open_inputs([tmp_path])
    assert sorted((i.name, i.source.shape[2]) for i in found) == [("other", 1), (name, 3)]


def test_a_changed_member_of_a_set_is_noticed(tmp_path):
    files, out = write_set(tmp_path, companion=True), tmp_path / "out.zarr"
    prep.run([files / "p.companion.ome"], out, PrepConfig())
    assert prep.run([files / "p.companion.ome"], out, PrepConfig())["already_done"]
    tifffile.imwrite(files / "p_z2.ome.tif", PLANES[0])
    with pytest.raises(ConfigError, match="inputs"):
        prep.run([files / "p.companion.ome"], out, PrepConfig())


@pytest.mark.parametrize("companion", [True, False])
def test_missing_files_of_a_set_are_named(tmp_path, companion):
    write_set(tmp_path, companion=companion)
    (tmp_path / "p_z1.ome.tif").unlink()
    with pytest.raises(InputError, match=r"1 of the 3 files of this image are missing: p_z1\.ome\.tif"):
        open_file(tmp_path / "p_z0.ome.tif")


def test_a_missing_companion_is_named(tmp_path):
    write_set(tmp_path, companion=True)
    (tmp_path / "p.companion.ome").unlink()
    with pytest.raises(InputError, match=r"p\.companion\.ome: no such file; it describes the image"):
        open_file(tmp_path / "p_z0.ome.tif")


@pytest.mark.parametrize("name", ["../outside.tif", "/etc/passwd", "sub/plane.tif", ".."])
def test_a_set_reaches_no_file_outside_of_its_folder(tmp_path, name):
    (tmp_path / "a.companion.ome").write_text(described([name, "b.tif"]))
    with pytest.raises(InputError, match="expected a name without a folder"):
        open_file(tmp_path / "a.companion.ome")
    path = save(tmp_path, PLANES[0], description=described([name, "b.tif"]), metadata=None)
    with pytest.raises(InputError, match="expected a name without a folder"):
        open_file(path)


def test_a_renamed_single_file_is_still_itself(tmp_path):
    path = save(tmp_path, PLANES[0], "new.tif", description=described(["old.ome.tif"]), metadata=None)
    assert_reads(open_file(path), as_tczyx(PLANES[0], "yx"))


@pytest.mark.parametrize("text", ["", "<OME", "<OME></OME>", "hello", "<OME><Image/></OME>"])
def test_a_companion_that_is_none(tmp_path, text):
    (tmp_path / "a.companion.ome").write_text(text)
    with pytest.raises(InputError, match=r"a\.companion\.ome"):
        open_file(tmp_path / "a.companion.ome")


def test_a_copy_of_one_file_of_a_set_says_what_is_missing(tmp_path):
    (tmp_path / "a").mkdir()
    write_set(tmp_path / "a", companion=False)
    shutil.copy(tmp_path / "a" / "p_z0.ome.tif", tmp_path / "p_z0.ome.tif")
    with pytest.raises(InputError, match=r"p_z1\.ome\.tif, p_z2\.ome\.tif"):
        open_file(tmp_path / "p_z0.ome.tif")


# Strips


@pytest.mark.parametrize(("rows", "channels"), [(1, 0), (7, 3), (64, 0)])
def test_striped_images_are_decoded_once(tmp_path, monkeypatch, rows, channels):
    """Tiles of 32 rows stand for those of 2,048: the cache holds a band of them, less than the image."""
    shape = (400, 500, channels) if channels else (400, 500)
    cache = DecodedCache(budget=0)
    monkeypatch.setattr(segments, "SHARED", cache)
    monkeypatch.setattr("unetcli.image.tiff.SHARED", cache)
    monkeypatch.setattr(segments, "BAND_ROWS", 32)
    image = pixels(*shape)
    source = open_file(save(tmp_path, image, compression="lzw", rowsperstrip=rows, **(RGB if channels else GREY)))
    assert cache.budget < max(image.nbytes // 2, 5 * rows * image[0].nbytes)
    decoded = []
    decode = PagedReader._decode
    monkeypatch.setattr(
        PagedReader, "_decode", lambda self, file, page, i: decoded.append(i) or decode(self, file, page, i)
    )
    expected = as_tczyx(image, "yxc"[: image.ndim])
    for tile in TileGrid(source.shape, (1, 4, 1, 32, 32)):
        np.testing.assert_array_equal(source.read(tile.core), expected[tile.core.slices])
    assert sorted(decoded) == list(range(-(-400 // rows)))


def test_a_band_that_is_too_large_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("unetcli.image.tiff.LARGEST_BAND", 1000)
    source = open_file(save(tmp_path, pixels(70, 90), compression="lzw", rowsperstrip=8))
    assert any("decoded several times" in note for note in source.notes)


def test_sparse_tiles_are_filled(tmp_path):
    tiles = (None if k % 2 else pixels(32, 32) for k in range(4))
    path = save(tmp_path, tiles, shape=(64, 64), dtype="u1", tile=(32, 32), compression="zlib")
    source = open_file(path)
    assert_reads(source, as_tczyx(tifffile.imread(path), "yx"))
    assert any("2 strips or tiles are not stored" in note for note in source.notes)


# Headers that lie


def lying(tmp_path, **values):
    path = save(tmp_path, pixels(64, 64), tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tif:
        for name, value in values.items():
            tif.pages[0].tags[name].overwrite(value)
    return path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ImageWidth": 2**32 - 1}, "says that it has"),
        ({"ImageLength": 2**31}, "says that it has"),
        ({"ImageLength": 2**20}, "lists 4 strips or tiles; expected 65536"),
        ({"ImageLength": 2**24, "ImageWidth": 2**24}, "says that it has"),
        ({"TileWidth": 2**16, "TileLength": 2**16}, "can only be decoded whole"),
        ({"TileByteCounts": (65535, 9, 9, 9)}, "bytes long; expected at least"),
        ({"TileOffsets": (2**31, 9, 9, 9)}, "bytes long; expected at least"),
    ],
    ids=str,
)
def test_a_tiff_header_that_lies(tmp_path, values, message):
    with pytest.raises(InputError, match=message) as caught:
        open_file(lying(tmp_path, **values))
    assert caught.value.fix


def test_a_page_list_that_runs_in_a_circle(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in pixels(3, 20, 30):
            writer.write(page, contiguous=False, metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        first, last = tif.pages[0].offset, tif.pages[2]
        end = last.offset + 2 + 12 * len(last.tags)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[end : end + 4] = first.to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(InputError, match="the list of pages runs in a circle"):
        open_file(tmp_path / "a.tif")


def test_a_compression_that_nothing_decodes(tmp_path):
    with pytest.raises(InputError, match=r"is compressed as JBIG \(34661\), which can not be decoded"):
        open_file(lying(tmp_path, Compression=34661))

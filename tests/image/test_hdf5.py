"""Datasets of HDF5 files read equal to h5py; what could reach other files is refused."""

import json
import sys

import numpy as np
import pytest

from tests.image.test_files import as_tczyx, assert_reads, pixels
from unetcli.cli import main
from unetcli.config import PrepConfig
from unetcli.errors import InputError
from unetcli.image.cache import DecodedCache
from unetcli.image.files import open_file
from unetcli.image.inputs import open_inputs
from unetcli.image.store import open_store
from unetcli.image.tiling import Box, TileGrid
from unetcli.stages import info, prep

h5py = pytest.importorskip("h5py", reason="HDF5 files are an extra")

CHUNKED = {"chunks": (3, 16, 20), "compression": "gzip", "shuffle": True}


def save(tmp_path, name="a.h5", axes=None, **datasets):
    """Write datasets, arrays or (array, options), with ilastik's axistags."""
    with h5py.File(tmp_path / name, "w") as file:
        for key, given in datasets.items():
            array, options = given if isinstance(given, tuple) else (given, {})
            dataset = file.create_dataset(key.replace("__", "/"), data=array, **options)
            if axes:
                dataset.attrs["axistags"] = json.dumps({"axes": [{"key": a, "typeFlags": 2} for a in axes]})
    return tmp_path / name


@pytest.mark.parametrize("dtype", ["u1", ">u2", "i4", "f4", "?"])
@pytest.mark.parametrize("options", [{}, CHUNKED], ids=["contiguous", "chunked"])
def test_a_dataset_reads_as_in_h5py(tmp_path, options, dtype):
    stack = pixels(7, 40, 50, dtype=dtype)
    path = save(tmp_path, volumes__raw=(stack, options))
    for given in (path, path / "volumes" / "raw"):
        source = open_file(given)
        assert_reads(source, as_tczyx(stack.astype(np.dtype(dtype).newbyteorder("=")), "zyx"))
        assert source.pages_unnamed


@pytest.mark.parametrize("axes", ["zyxc", "tzyxc", "yx"])
def test_axes_of_ilastik(tmp_path, axes):
    image = pixels(*(9 + k for k in range(len(axes))))
    source = open_file(save(tmp_path, axes=axes, exported_data=image))
    assert_reads(source, as_tczyx(image, axes))
    assert not source.pages_unnamed


def test_axes_of_dimension_labels_and_pixel_size(tmp_path):
    path = save(tmp_path, raw=pixels(4, 20, 30))
    with h5py.File(path, "a") as file:
        for dimension, name in zip(file["raw"].dims, "tyx", strict=True):
            dimension.label = name
        file["raw"].attrs["element_size_um"] = (2.0, 0.5, 0.25)
    axes = open_file(path).axes
    assert (axes.names, axes.scale, axes.units) == ("tyx", (1, 0.5, 0.25), (None, "micrometer", "micrometer"))
    assert open_file(path, axes="zyx").axes.scale == (2, 0.5, 0.25)


@pytest.mark.parametrize("tags", ["", "{}", "[1]", '{"axes": [{"key": "q"}, {"key": "y"}, {"key": "x"}]}'])
def test_axes_that_say_nothing_are_left_alone(tmp_path, tags):
    path = save(tmp_path, raw=pixels(4, 20, 30))
    with h5py.File(path, "a") as file:
        file["raw"].attrs["axistags"] = tags
    assert open_file(path).axes.names == "zyx"


def test_several_datasets_are_listed(tmp_path):
    path = save(tmp_path, raw=pixels(20, 30), labels=pixels(20, 30, dtype="u2"), table=np.arange(5))
    with pytest.raises(InputError, match=r"2 datasets: labels \(20 x 30 uint16\), raw \(20 x 30 uint8\)") as caught:
        open_file(path)
    assert caught.value.fix == f"name one: {path}/labels"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", r"none is not in /, which holds group, raw"),
        ("group", r"is a group that holds inner; expected a dataset"),
        ("raw/deeper", r"deeper is not in /raw, which holds a dataset"),
        ("group/../raw", r"\.\. is not in /group"),
    ],
)
def test_a_name_that_is_not_there(tmp_path, name, message):
    path = save(tmp_path, raw=pixels(20, 30), group__inner=pixels(20, 30))
    with pytest.raises(InputError, match=message):
        open_file(path / name)


def test_images_and_labels_in_one_file(tmp_path):
    labels = np.zeros((20, 30), "u2")
    labels[5:9, 5:9] = 7
    path = save(tmp_path, raw=pixels(20, 30), labels=labels)
    assert main(["prep", f"{path}/raw", "--labels", f"{path}/labels", "-o", f"{tmp_path}/a.zarr", "-q"]) == 0
    (image,) = open_store(tmp_path / "a.zarr").images
    assert image.name == "a"
    assert info.run(path / "raw")["size"] == "yx 20 x 30"
    found = open_inputs([path / "raw", path / "labels"])
    assert [i.name for i in found] == ["a_raw", "a_labels"]


def test_a_folder_of_files(tmp_path):
    for k in (10, 9):
        save(tmp_path, f"t{k}.hdf5", raw=pixels(20, 30))
    assert [i.name for i in open_inputs([tmp_path])] == ["t9", "t10"]


def linked(tmp_path, kind):
    other = save(tmp_path, "other.h5", secret=pixels(20, 30))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if kind == "external link":
            file["raw"] = h5py.ExternalLink(str(other), "/secret")
        elif kind == "link to a group":
            file["outside"] = h5py.ExternalLink(str(other), "/")
            return tmp_path / "a.h5" / "outside" / "secret"
        elif kind == "soft link":
            file["raw"] = h5py.SoftLink("/elsewhere")
        elif kind == "virtual":
            layout = h5py.VirtualLayout(shape=(20, 30), dtype="u1")
            layout[:] = h5py.VirtualSource(str(other), "secret", shape=(20, 30))
            file.create_virtual_dataset("raw", layout)
        else:
            file.create_dataset("raw", (20, 30), "u1", external=[(str(other), 0, 600)])
    return tmp_path / "a.h5" / "raw"


@pytest.mark.parametrize("kind", ["external link", "link to a group", "soft link", "virtual", "external storage"])
def test_no_file_reaches_another(tmp_path, kind):
    with pytest.raises(InputError, match=r"is a link to|lie in other datasets or files"):
        open_file(linked(tmp_path, kind))


@pytest.mark.parametrize("kind", ["external link", "soft link", "link to a group"])
def test_links_are_not_even_listed(tmp_path, kind):
    linked(tmp_path, kind)
    with pytest.raises(InputError, match="holds no dataset"):
        open_file(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[b"a", b"b"]]), r"pixels are bytes8"),
        (np.zeros((3, 4), "c8"), "pixels are complex64"),
        (np.zeros((3, 4), "i8"), "pixels are int64"),
        (np.zeros((3, 4), [("a", "u1"), ("b", "f4")]), "Python objects or records"),
        (np.array([["x", "y"]], dtype=object), "Python objects or records"),
    ],
    ids=["text", "complex", "int64", "records", "objects"],
)
def test_types_that_are_refused(tmp_path, array, message):
    options = {"dtype": h5py.string_dtype()} if array.dtype == object else {}
    with pytest.raises(InputError, match=message):
        open_file(save(tmp_path, raw=(array, options)))


@pytest.mark.parametrize(
    ("shape", "chunks", "message"),
    [
        ((2**20, 2**20), (64, 64), "says that it has 1048576 x 1048576 pixels"),
        ((2**20, 2**20), (2**16, 2**15 + 1), "can only be decoded whole"),
        ((64, 64), (64, 64), "has no pixels stored"),
        ((0, 64), None, "has no pixels"),
    ],
)
def test_a_header_that_lies(tmp_path, shape, chunks, message):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("raw", shape, "u1", chunks=chunks)
        if chunks == (64, 64) and shape[0] > 64:
            dataset[:64, :64] = 1
    with pytest.raises(InputError, match=message):
        open_file(tmp_path / "a.h5")


def test_a_truncated_file(tmp_path):
    path = save(tmp_path, raw=pixels(200, 300))
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match="can not be read as HDF5"):
        open_file(path)


def test_a_damaged_chunk_names_file_and_box(tmp_path):
    path = save(tmp_path, raw=(pixels(64, 64), {"chunks": (32, 64), "compression": "gzip"}))
    with h5py.File(path) as file:
        info_ = file["raw"].id.get_chunk_info(1)
    data = bytearray(path.read_bytes())
    data[info_.byte_offset : info_.byte_offset + info_.size] = bytes(info_.size)
    path.write_bytes(data)
    source = open_file(path)
    source.read(Box((0, 0, 0, 0, 0), (1, 1, 1, 32, 64)))
    with pytest.raises(InputError, match=r"a\.h5: can not be read at y 30:40"):
        source.read(Box((0, 0, 0, 30, 0), (1, 1, 1, 40, 64)))


def test_chunks_are_decoded_once(tmp_path, monkeypatch):
    """Chunks of four planes and full rows; tiles of one plane and 20 columns."""
    cache = DecodedCache(budget=0)
    monkeypatch.setattr("unetcli.image.hdf5.SHARED", cache)
    stack = pixels(8, 40, 60)
    source = open_file(save(tmp_path, raw=(stack, {"chunks": (4, 16, 60), "compression": "gzip"})))
    assert 0 < cache.budget < 8 * 40 * 60
    decoded = []
    get = cache.get
    monkeypatch.setattr(cache, "get", lambda key, decode: get(key, lambda: decoded.append(key) or decode()))
    expected = as_tczyx(stack, "zyx")
    for tile in TileGrid(source.shape, (1, 1, 1, 20, 20)):
        np.testing.assert_array_equal(source.read(tile.core), expected[tile.core.slices])
    assert len(decoded) == 2 * 3


def test_one_level_only(tmp_path):
    with pytest.raises(InputError, match="has 1 level"):
        open_file(save(tmp_path, raw=pixels(20, 30)), level=1)


def test_without_h5py_the_remedy_is_named(tmp_path, monkeypatch):
    path = save(tmp_path, raw=pixels(20, 30))
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="is not installed") as caught:
        open_file(path)
    assert caught.value.fix == "pip install 'unetcli[hdf5]'"


def test_a_path_that_continues_into_another_file(tmp_path):
    np.save(tmp_path / "a.npy", pixels(8, 9))
    with pytest.raises(InputError, match=r"a\.npy is a file, and not of HDF5"):
        open_file(tmp_path / "a.npy" / "raw")


def test_a_store_made_of_a_dataset_is_as_the_dataset(tmp_path):
    stack = pixels(7, 40, 50)
    path = save(tmp_path, axes="zyx", raw=(stack, CHUNKED))
    prep.run([path], tmp_path / "a.zarr", PrepConfig())
    level = open_store(tmp_path / "a.zarr").images[0].level
    np.testing.assert_array_equal(level.read(Box.whole(level.shape))[0, 0], stack)
    assert prep.run([path / "raw"], tmp_path / "b.zarr", PrepConfig())["axes"] == "zyx, pixel size not known"

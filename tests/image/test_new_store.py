"""New stores keep every pixel, are complete or nothing, and never take the place of what is not ours."""

import itertools
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr

from unetcli.errors import ConfigError, InputError
from unetcli.image import new_store
from unetcli.image.axes import Axes
from unetcli.image.ledger import ledger_path
from unetcli.image.new_store import Layout, NewStore, collection_groups, create_level
from unetcli.image.ngff import ImageMetadata
from unetcli.image.nodes import is_store
from unetcli.image.pyramid import level_shapes
from unetcli.image.store import open_store
from unetcli.image.tiling import Box, TileGrid

COMBINATIONS = ["".join(extra) + "yx" for n in range(4) for extra in itertools.combinations("tcz", n)]
FORMATS = pytest.mark.parametrize("zarr_format", [3, 2], ids=["0.5", "0.4"])
YX = Axes.of("yx")


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(new_store, "CHUNK", 4)
    monkeypatch.setattr(new_store, "SHARD", 8)


def random_pixels(shape, dtype="uint16"):
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


def fill(level, pixels):
    """Write shard by shard."""
    for tile in TileGrid(level.shape, level.shard):
        level.write(tile.core, pixels[tile.core.slices])


def whole(level):
    return level.read(Box.whole(level.shape))


def begin(path, **changes):
    """Begin a store; by default always the same one."""
    return NewStore(path, **{"stage": "prep", "settings": {"ngff": "0.5"}, "inputs": {}, **changes})


def make(path, names=("",), zarr_format=3, pixels=None, attributes=None):
    """Write and finish a store of images with labels."""
    new = begin(path, zarr_format=zarr_format)
    pixels = random_pixels((1, 1, 1, 9, 7)) if pixels is None else pixels
    images = []
    for name in names:
        fill(new.level(name, 0, YX, pixels.shape, pixels.dtype), pixels)
        fill(new.level(f"{name}/labels/truth".strip("/"), 0, YX, pixels.shape, "uint8"), pixels > 50)
        images.append(ImageMetadata(name, YX, labels=(ImageMetadata("truth", YX, classes={1: "cell"}),)))
    new.finish(images, attributes or {})
    return path


# ------------------------------------------------------------------------------------------- arrays


@FORMATS
@pytest.mark.parametrize("names", COMBINATIONS)
@pytest.mark.usefixtures("small_shards")
def test_what_is_written_is_read(tmp_path, names, zarr_format):
    axes = Axes.of(names)
    shape = axes.expand(axes.keep((2, 5, 3, 9, 13)))
    pixels = random_pixels(shape)
    level = create_level(tmp_path / "a", axes, shape, "uint16", zarr_format=zarr_format)
    fill(level, pixels)
    again = create_level(tmp_path / "a", axes, shape, "uint16", zarr_format=zarr_format)
    assert (again.shape, again.dtype) == (shape, np.uint16)
    np.testing.assert_array_equal(whole(again), pixels)
    box = Box(tuple(n // 3 for n in shape), tuple(max(n // 3 + 1, n - 2) for n in shape))
    np.testing.assert_array_equal(again.read(box), pixels[box.slices])
    plain = zarr.open_array(tmp_path / "a", mode="r")
    np.testing.assert_array_equal(plain[...], pixels.reshape(axes.keep(shape)))


@FORMATS
@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]
)
@pytest.mark.usefixtures("small_shards")
def test_each_type_of_pixel(tmp_path, dtype, zarr_format):
    pixels = random_pixels((1, 1, 1, 11, 5), dtype) - np.array(30, dtype)
    level = create_level(tmp_path / "a", YX, pixels.shape, dtype, zarr_format=zarr_format)
    fill(level, pixels)
    assert whole(level).dtype == np.dtype(dtype)
    np.testing.assert_array_equal(whole(level), pixels)


@pytest.mark.parametrize(
    ("shape", "chunk", "shard"),
    [
        ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
        ((1, 1, 1, 512, 512), (1, 1, 1, 512, 512), (1, 1, 1, 512, 512)),
        ((1, 1, 1, 513, 700), (1, 1, 1, 512, 512), (1, 1, 1, 1024, 1024)),
        ((1, 1, 1, 90_000, 100_000), (1, 1, 1, 512, 512), (1, 1, 1, 2048, 2048)),
        ((9, 3, 1, 2048, 2048), (1, 3, 1, 512, 512), (1, 3, 1, 2048, 2048)),
        ((1, 5, 1, 2048, 2048), (1, 1, 1, 512, 512), (1, 1, 1, 2048, 2048)),
        ((1, 1, 30, 512, 512), (1, 1, 1, 512, 512), (1, 1, 16, 512, 512)),
        ((1, 1, 7, 100, 2000), (1, 1, 1, 100, 512), (1, 1, 7, 100, 2048)),
    ],
)
def test_layout(shape, chunk, shard):
    assert Layout.of(shape) == Layout(chunk, shard)


@pytest.mark.parametrize(
    ("shape", "chunk", "shard"),
    [
        ((1, 1, 1, 100, 5000), (1, 1, 1, 100, 256), (1, 1, 1, 100, 2048)),
        ((1, 1, 128, 512, 512), (1, 1, 1, 256, 256), (1, 1, 64, 256, 256)),
        ((1, 1, 5, 443, 512), (1, 1, 1, 256, 256), (1, 1, 5, 512, 512)),
        ((2, 1, 31, 61, 57), (1, 1, 1, 61, 57), (1, 1, 31, 61, 57)),
    ],
)
def test_deep_layout(shape, chunk, shard):
    assert Layout.of(shape, deep=True) == Layout(chunk, shard)


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 20, 3000, 5000), (1, 1, 100, 30, 17), (1, 9, 5, 2049, 511)])
def test_shards_are_made_of_whole_chunks_and_nest(shape, deep):
    layout, other = Layout.of(shape, deep=deep), Layout.of((shape[0], 1, *shape[2:]), deep=deep)
    assert all(s % c == 0 for s, c in zip(layout.shard, layout.chunk, strict=True))
    assert all(
        max(a, b) % min(a, b) == 0
        for a, b in zip(layout.shard[2:], other.shard[2:], strict=True)
        if min(a, b) < shape[2]
    )


def test_a_slide_of_ten_gigapixels_is_few_files():
    shards = [(s, Layout.of(s).shard) for s in level_shapes((1, 1, 1, 100_000, 100_000))]
    files = sum(math.prod(math.ceil(n / m) for n, m in zip(s, shard, strict=True)) + 1 for s, shard in shards) + 1
    assert (len(shards), files) == (8, 3275)  # docs/stores.md


@pytest.mark.parametrize(
    "box",
    [
        Box((0, 0, 0, 0, 0), (1, 1, 1, 8, 7)),
        Box((0, 0, 0, 0, 0), (1, 1, 1, 7, 8)),
        Box((0, 0, 0, 4, 0), (1, 1, 1, 8, 8)),
        Box((0, 0, 0, 8, 1), (1, 1, 1, 13, 8)),
    ],
    ids=str,
)
@pytest.mark.usefixtures("small_shards")
def test_parts_of_shards_are_not_written(tmp_path, box):
    level = create_level(tmp_path / "a", YX, (1, 1, 1, 13, 19), "uint8")
    with pytest.raises(AssertionError, match="shards of"):
        level.write(box, np.ones(box.shape, "uint8"))
    assert not list((tmp_path / "a" / "c").rglob("*"))


@FORMATS
@pytest.mark.usefixtures("small_shards")
def test_zeros_are_written_too(tmp_path, zarr_format):
    level = create_level(tmp_path / "a", YX, (1, 1, 1, 8, 8), "uint8", zarr_format=zarr_format)
    files = set((tmp_path / "a").rglob("*"))
    fill(level, np.zeros(level.shape, "uint8"))
    assert set((tmp_path / "a").rglob("*")) > files


def test_a_level_goes_to_another_process(tmp_path):
    level = create_level(tmp_path / "a", YX, (1, 1, 1, 9, 7), "uint16")
    fill(level, random_pixels(level.shape))
    np.testing.assert_array_equal(whole(pickle.loads(pickle.dumps(level))), random_pixels(level.shape))


def test_checksums_of_zarr_2_are_not_in_its_metadata(tmp_path):
    path = make(tmp_path / "a.zarr", zarr_format=2)
    assert json.loads((path / "0" / ".zarray").read_text())["compressor"] == {"id": "zstd", "level": 1}


@pytest.mark.parametrize(
    ("damage", "zarr_format"), [("cut", 3), ("flipped", 3), ("cut", 2), ("flipped", 2), ("empty", 2), ("empty", 3)]
)
@pytest.mark.usefixtures("small_shards")
def test_damaged_bytes_are_not_pixels(tmp_path, damage, zarr_format):
    path = make(tmp_path / "a.zarr", zarr_format=zarr_format, pixels=random_pixels((1, 1, 1, 8, 8)))
    (file, *_) = [p for p in sorted((path / "0").rglob("*")) if p.is_file() and not p.name.startswith((".z", "zarr"))]
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0xFF
    file.write_bytes({"cut": content[: len(content) // 2], "flipped": content, "empty": b""}[damage])
    with pytest.raises(InputError, match=r"can not be read at|is missing or empty") as caught:
        whole(open_store(path).images[0].level)
    assert str(path) in str(caught.value)


# ------------------------------------------------------------------------------------------- complete or nothing


@FORMATS
@pytest.mark.parametrize("names", [("",), ("a", "b")], ids=["image", "collection"])
def test_a_finished_store_is_opened(tmp_path, names, zarr_format):
    path = make(tmp_path / "a.zarr", names, zarr_format, attributes={"data": {"ndim": 2}})
    assert not ledger_path(path).exists()
    opened = open_store(path)
    assert [image.name for image in opened.images] == (["a"] if len(names) == 1 else ["a", "b"])
    assert opened.attributes["data"] == {"ndim": 2}
    assert opened.attributes["stage"] == "prep"
    assert opened.attributes["fingerprint"]["settings"] == {"ngff": "0.5"}
    for image in opened.images:
        np.testing.assert_array_equal(whole(image.level), random_pixels((1, 1, 1, 9, 7)))
        np.testing.assert_array_equal(whole(image.labels("truth")), random_pixels((1, 1, 1, 9, 7)) > 50)
        assert opened.image(image.name) is image
        with pytest.raises(InputError, match="has no labels 'other'"):
            image.labels("other")
    with pytest.raises(InputError, match="has no image 'c'"):
        opened.image("c")


def test_images_keep_their_order(tmp_path):
    names = ("t2", "t10", "t1")
    assert [i.name for i in open_store(make(tmp_path / "a.zarr", names)).images] == list(names)


@FORMATS
def test_an_opened_store_is_not_written(tmp_path, zarr_format):
    level = open_store(make(tmp_path / "a.zarr", zarr_format=zarr_format)).images[0].level
    with pytest.raises(ValueError, match="read-only"):
        level.write(Box.whole(level.shape), whole(level))


@FORMATS
@pytest.mark.parametrize("names", [("",), ("a", "b")], ids=["image", "collection"])
@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
def test_an_incomplete_store_is_refused_and_looks_like_nothing(tmp_path, names, zarr_format):
    new = begin(tmp_path / "a.zarr", zarr_format=zarr_format)
    for name in names:
        new.level(name, 0, YX, (1, 1, 1, 9, 7), "uint16")
    with pytest.raises(InputError, match="is not complete") as caught:
        open_store(new.path)
    assert "it continues" in caught.value.fix
    ledger_path(new.path).rename(tmp_path / "lost")  # someone copied the folder without its ledger
    assert not is_store(new.path)
    with pytest.raises(InputError, match="is not an OME-Zarr store"):
        open_store(new.path)
    with pytest.raises(FileNotFoundError):
        zarr.open_group(new.path, mode="r")


@FORMATS
@pytest.mark.parametrize("names", [("",), ("a", "b")], ids=["image", "collection"])
def test_killed_at_any_moment_of_finishing(tmp_path, monkeypatch, names, zarr_format):
    write, n_writes = NewStore._write_group, 0

    def killed(self, group, attributes):
        nonlocal n_writes
        n_writes -= 1
        if n_writes < 0:
            raise KeyboardInterrupt
        write(self, group, attributes)

    monkeypatch.setattr(NewStore, "_write_group", killed)
    for survived in range(20):
        n_writes, path = survived, tmp_path / f"{survived}.zarr"
        try:
            make(path, names, zarr_format)
            break
        except KeyboardInterrupt:
            assert not is_store(path)
            with pytest.raises(InputError, match="is not complete"):
                open_store(path)
            n_writes = 99
            assert len(open_store(make(path, names, zarr_format)).images) == len(names)
    assert survived >= 2 * len(names)


def test_what_a_killed_writer_left_goes_away(tmp_path):
    new = begin(tmp_path / "a.zarr")
    new.level("", 0, YX, (1, 1, 1, 9, 7), "uint16")
    (new.path / "0" / "c" / "0").mkdir(parents=True)
    (new.path / "0" / "c" / "0" / "0.77.partial").write_bytes(b"half")
    new.finish([ImageMetadata("", YX)], {})
    assert list(new.path.rglob("*.partial")) == []


# ------------------------------------------------------------------------------------------- begun before


def test_a_complete_store_of_the_same_run_is_kept(tmp_path):
    path = make(tmp_path / "a.zarr")
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    assert begin(path).complete
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before
    assert not ledger_path(path).exists()


@pytest.mark.parametrize("complete", [True, False])
def test_another_run_is_refused_and_what_changed_is_named(tmp_path, complete):
    path = tmp_path / "a.zarr"
    make(path) if complete else begin(path)
    with pytest.raises(ConfigError, match=r'settings ngff was "0.5", is "0.4"') as caught:
        begin(path, settings={"ngff": "0.4"})
    assert "--overwrite" in caught.value.fix
    assert path.exists()


def test_an_input_that_changed_is_named(tmp_path):
    source, other = tmp_path / "a.tif", tmp_path / "b.tif"
    for file in (source, other):
        file.write_bytes(b"pixels")
    inputs = {"images": [source, other], "labels": None, "model": other}
    begin(tmp_path / "a.zarr", inputs=inputs)
    assert not begin(tmp_path / "a.zarr", inputs=inputs).complete
    source.write_bytes(b"others")
    with pytest.raises(ConfigError, match="inputs images 0 was") as caught:
        begin(tmp_path / "a.zarr", inputs=inputs)
    assert "model" not in str(caught.value)


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize(
    ("out", "source"),
    [("data.zarr", "data.zarr"), ("data.zarr/weights.zarr", "data.zarr"), ("folder", "folder/data.zarr")],
    ids=["is", "lies in", "holds"],
)
def test_an_input_is_never_the_output(tmp_path, out, source, overwrite):
    make(tmp_path / source)
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    for path in (tmp_path / out, tmp_path / "x" / ".." / out):
        with pytest.raises(ConfigError, match="is, lies in or holds"):
            begin(path, inputs={"data": tmp_path / source}, overwrite=overwrite)
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


def test_a_store_among_the_files_that_it_is_made_of_is_refused_or_can_go_on(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"pixels")
    for _ in range(2):
        try:
            begin(tmp_path / "data.zarr", inputs={"images": tmp_path})
        except ConfigError as error:
            assert "lies in" in str(error)  # noqa: PT017


def test_a_run_that_was_killed_goes_on(tmp_path):
    first = begin(tmp_path / "a.zarr")
    level = first.level("", 0, YX, (1, 1, 1, 9, 7), "uint16")
    fill(level, random_pixels(level.shape))
    first.ledger.record("/0/0")
    second = begin(tmp_path / "a.zarr")
    assert not second.complete
    assert "/0/0" in second.ledger
    np.testing.assert_array_equal(whole(second.level("", 0, YX, (1, 1, 1, 9, 7), "uint16")), random_pixels(level.shape))


@pytest.mark.parametrize("complete", [True, False])
def test_overwriting_begins_from_nothing(tmp_path, complete):
    path = tmp_path / "a.zarr"
    make(path) if complete else begin(path).ledger.record("/0/0")
    new = begin(path, settings={"ngff": "0.4"}, overwrite=True)
    assert not new.complete
    assert "/0/0" not in new.ledger
    assert list(path.iterdir()) == []


def precious_file(path):
    path.write_text("precious")


def precious_folder(path):
    path.mkdir()
    (path / "thesis.txt").write_text("precious")


def foreign_store(path):
    zarr.create_group(path, attributes={"ome": {"version": "0.5"}})


def foreign_store_v2(path):
    zarr.create_group(path, zarr_format=2)


def foreign_array(path):
    zarr.create_array(path, shape=(3,), dtype="u1")


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("put", [precious_file, precious_folder, foreign_store, foreign_store_v2, foreign_array])
def test_what_is_not_ours_is_never_touched(tmp_path, put, overwrite):
    path = tmp_path / "out.zarr"
    put(path)
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    with pytest.raises(InputError, match="was not made by unetcli"):
        begin(path, overwrite=overwrite)
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("overwrite", [True, False])
def test_an_empty_folder_is_free_to_take(tmp_path, overwrite):
    (tmp_path / "out.zarr").mkdir()
    assert not begin(tmp_path / "out.zarr", overwrite=overwrite).complete


def test_folders_on_the_way_are_made(tmp_path):
    assert make(tmp_path / "new" / "folders" / "a.zarr").is_dir()


def test_a_place_that_can_not_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can not be written"):
        begin(tmp_path / "file" / "a.zarr")


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("zarr_format", [3, 2], ids=["0.5", "0.4"])
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("moment", ["has_remains", "read_plan", "Ledger", "is_store", "zarr.create_array"])
def test_two_that_begin_at_the_same_instant_keep_each_others_work(tmp_path, monkeypatch, moment, first, zarr_format):
    """At some moment of the beginning, another process begins, writes every other tile and records it."""
    path, pixels = tmp_path / "a.zarr", random_pixels((1, 1, 1, 8, 16)) + 1
    function, other = getattr(new_store.zarr if "." in moment else new_store, moment.rpartition(".")[2]), []

    def work(number):
        new = begin(path, zarr_format=zarr_format)
        level = new.level("", 0, YX, pixels.shape, "uint16")
        for tile in list(TileGrid(level.shape, level.shard))[number::2]:
            level.write(tile.core, pixels[tile.core.slices])
            new.ledger.record(f"/0/{tile.index}")

    def meanwhile(*args, **options):
        is_now = not other
        if is_now:
            other.append(None)
        if is_now and first:
            work(0)
        result = function(*args, **options)
        if is_now and not first:
            work(0)
        return result

    monkeypatch.setattr(new_store.zarr if "." in moment else new_store, moment.rpartition(".")[2], meanwhile)
    work(1)
    monkeypatch.undo()
    if not other:
        work(0)
    last = begin(path, zarr_format=zarr_format)
    level = last.level("", 0, YX, pixels.shape, "uint16")
    assert all(f"/0/{tile.index}" in last.ledger for tile in TileGrid(level.shape, level.shard))
    np.testing.assert_array_equal(whole(level), pixels)


def killing_rmtree(path, **_):
    """Remove half of a folder, then be killed."""
    files = sorted(p for p in Path(path).rglob("*") if p.is_file() and p.name not in ("zarr.json", "plan.json"))
    for file in files[: (len(files) + 1) // 2]:
        file.unlink()
    raise KeyboardInterrupt


@pytest.mark.usefixtures("small_shards")
def test_killed_while_removing_no_recorded_tile_lacks_its_bytes(tmp_path, monkeypatch):
    path, pixels = tmp_path / "a.zarr", random_pixels((1, 1, 1, 8, 16)) + 1
    first = begin(path)
    level = first.level("", 0, YX, pixels.shape, "uint16")
    for tile in TileGrid(level.shape, level.shard):
        level.write(tile.core, pixels[tile.core.slices])
        first.ledger.record(f"/0/{tile.index}")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killing_rmtree)
        with pytest.raises(KeyboardInterrupt):
            begin(path, overwrite=True)
    again = begin(path)
    level = again.level("", 0, YX, pixels.shape, "uint16")
    for tile in TileGrid(level.shape, level.shard):
        if f"/0/{tile.index}" in again.ledger:
            np.testing.assert_array_equal(level.read(tile.core), pixels[tile.core.slices])


def test_killed_while_removing_a_complete_store_another_run_starts_from_nothing(tmp_path, monkeypatch):
    path = make(tmp_path / "a.zarr")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killing_rmtree)
        with pytest.raises(KeyboardInterrupt):
            begin(path, settings={"ngff": "0.4"}, overwrite=True)
    level = begin(path, settings={"ngff": "0.4"}).level("", 0, YX, (1, 1, 1, 30, 20), "uint8")
    assert (level.shape, level.dtype) == ((1, 1, 1, 30, 20), np.uint8)


def test_collections_have_a_name_for_each_image():
    assert collection_groups(["a"]) == [""]
    assert collection_groups(["b", "a"]) == ["b", "a"]
    with pytest.raises(InputError, match="share the names a"):
        collection_groups(["a", "b", "a"])

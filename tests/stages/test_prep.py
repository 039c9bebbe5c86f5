"""Prep: files of any kind become one data set with the pixels, labels and statistics of the files."""

import shutil
import signal

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import Pixels, Stopped, assert_same_files, cells, count_calls, pixels, run_and_signal, stop_after
from unetcli.config import PrepConfig
from unetcli.errors import ConfigError, InputError, UnetcliError
from unetcli.image.dataset import open_dataset
from unetcli.image.statistics import statistics, tally_channels
from unetcli.image.store import Level, open_store
from unetcli.image.streaming import Work, reduce_tiles
from unetcli.image.tiling import Box, Tile
from unetcli.stages import prep


def read_png(path):
    with Image.open(path) as image:
        return np.asarray(image)


# ------------------------------------------------------------------------------------------- labels


def test_masks_become_classes(folders, classes):
    dataset = open_dataset(classes)
    assert (dataset.label_kind, dataset.classes, dataset.ndim) == ("classes", ("background", "foreground"), 2)
    assert dataset.store.attributes["data"]["class_values"] == [0, 255]
    for i in range(3):
        name = f"img_{i:02d}"
        mask = read_png(folders / "masks" / f"mask_{i:02d}.png")
        np.testing.assert_array_equal(pixels(classes, name)[0, 0, 0], read_png(folders / "images" / f"{name}.png"))
        truth = pixels(classes, name, "truth")
        np.testing.assert_array_equal(truth[0, 0, 0], mask // 255)
        assert truth.dtype == np.uint8


def test_ids_become_instances(folders, instances):
    dataset = open_dataset(instances)
    assert (dataset.label_kind, dataset.classes) == ("instances", ("background", "object"))
    for i in range(3):
        truth = pixels(instances, f"img_{i:02d}", "truth")
        np.testing.assert_array_equal(truth[0, 0, 0], tifffile.imread(folders / "ids" / f"ids_{i:02d}.tif"))
        assert truth.dtype == np.uint32


@pytest.mark.parametrize(
    ("config", "values", "kind", "names", "expected"),
    [
        ({}, [0, 1], "classes", ("background", "foreground"), [0, 1]),
        ({}, [0, 7, 9], "instances", ("background", "object"), [0, 7, 9]),
        ({"label_kind": "instances"}, [0, 255], "instances", ("background", "object"), [0, 255]),
        ({"label_kind": "classes"}, [3, 5, 8], "classes", ("class_3", "class_5", "class_8"), [0, 1, 2]),
        ({"classes": "255=border,0=cell"}, [0, 255], "classes", ("border", "cell"), [1, 0]),
        ({"classes": "0=a,9=c,4=b"}, [0, 9], "classes", ("a", "c", "b"), [0, 1]),
    ],
    ids=["0/1", "three ids", "two ids", "three classes", "named and reversed", "a class that is missing"],
)
def test_meaning_of_label_values(tmp_path, config, values, kind, names, expected):
    labels = np.random.default_rng(0).choice(np.array(values, np.int32), (20, 30))
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "image.npy", np.zeros((20, 30), np.uint8))
    prep.run([tmp_path / "image.npy"], tmp_path / "o", PrepConfig(**config), labels=[tmp_path / "labels.npy"])
    dataset = open_dataset(tmp_path / "o")
    assert (dataset.label_kind, dataset.classes) == (kind, names)
    wanted = np.array(expected)[np.searchsorted(values, labels)]
    np.testing.assert_array_equal(pixels(tmp_path / "o", label="truth")[0, 0, 0], wanted)


def test_a_value_that_is_no_class_fails_before_anything_is_written(folders, tmp_path):
    config = PrepConfig(classes="0=background,1=cell")
    with pytest.raises(InputError, match=r"255.*--classes"):
        prep.run([folders / "images"], tmp_path / "o", config, labels=[folders / "masks"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((20, 31), np.uint8), r"labels.*20 x 31; expected yx 20 x 30, as .*image"),
        (np.zeros((20, 30), np.float32), r"labels\.npy: labels are float32; expected integers"),
        (np.zeros((20, 30, 3), np.uint16), r"labels have 3 channels .*; expected yx 20 x 30"),
        (np.zeros((20, 30), np.uint8), r"labels.*only the value 0"),
        (
            np.full((20, 30), -1, np.int16) * np.eye(20, 30, dtype=np.int16) * np.arange(30, dtype=np.int16),
            "ids are -19 to 0",
        ),
    ],
    ids=["size", "float", "deep RGB", "empty", "negative"],
)
def test_labels_that_do_not_fit(tmp_path, labels, message):
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "image.npy", np.zeros((20, 30), np.uint8))
    with pytest.raises(InputError, match=message):
        prep.run([tmp_path / "image.npy"], tmp_path / "out", PrepConfig(), labels=[tmp_path / "labels.npy"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image.npy", "labels.npy"]


# ------------------------------------------------------------------------------------------- axes


def test_tiff_stack_without_names_is_planes_and_says_so(tmp_path):
    stack = cells((5, 24, 30), 0)[0]
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    result = prep.run([tmp_path / "stack.tif"], tmp_path / "o", PrepConfig())
    assert any("taken as z planes" in note for note in result["notes"])
    assert any("separate 2D planes" in note for note in result["notes"])
    assert open_dataset(tmp_path / "o").ndim == 2
    np.testing.assert_array_equal(pixels(tmp_path / "o")[0, 0], stack)


@pytest.mark.parametrize(
    ("named", "label_kind", "ndim"),
    [(True, "instances", 3), (False, "instances", 2), (True, "classes", 2), (True, None, 2)],
    ids=["named z and ids", "unnamed z and ids", "named z and classes", "no labels"],
)
def test_only_ids_in_named_z_are_volumes(tmp_path, named, label_kind, ndim):
    image, labels = cells((6, 24, 30), 1)
    for name, array in (("i.tif", image), ("l.tif", labels)):
        tifffile.imwrite(
            tmp_path / name,
            array,
            photometric="minisblack",
            **({"metadata": {"axes": "ZYX"}, "ome": True} if named else {}),
        )
    truth = [tmp_path / "l.tif"] if label_kind else []
    prep.run([tmp_path / "i.tif"], tmp_path / "o", PrepConfig(label_kind=label_kind), labels=truth)
    assert open_dataset(tmp_path / "o").ndim == ndim


@pytest.mark.parametrize(
    ("axes", "order", "shape"),
    [
        ("tyx", (0, 1, 2), (4, 1, 1, 24, 30)),
        ("cyx", (0, 1, 2), (1, 4, 1, 24, 30)),
        ("zyx", (0, 1, 2), (1, 1, 4, 24, 30)),
    ],
)
def test_axes_are_what_the_user_says(tmp_path, axes, order, shape):
    array = np.random.default_rng(0).integers(0, 99, (4, 24, 30), np.uint8)
    np.save(tmp_path / "a.npy", array.transpose(order))
    prep.run([tmp_path / "a.npy"], tmp_path / "o", PrepConfig(axes=axes))
    np.testing.assert_array_equal(pixels(tmp_path / "o"), array.reshape(shape))


def test_channels_last(tmp_path):
    array = np.random.default_rng(0).integers(0, 99, (24, 30, 2), np.uint8)
    np.save(tmp_path / "a.npy", array)
    prep.run([tmp_path / "a.npy"], tmp_path / "o", PrepConfig(axes="yxc"))
    np.testing.assert_array_equal(pixels(tmp_path / "o")[0, :, 0], array.transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("text", "shape", "scale", "unit"),
    [("0.65um", (8, 9), (0.65, 0.65), "micrometer"), ("50,4,4nm", (3, 8, 9), (50, 4, 4), "nanometer")],
)
def test_pixel_size(tmp_path, text, shape, scale, unit):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    prep.run([tmp_path / "a.npy"], tmp_path / "o", PrepConfig(pixel_size=text))
    axes = open_store(tmp_path / "o").images[0].axes
    assert axes.scale == scale
    assert axes.units == (unit,) * len(scale)


@pytest.mark.parametrize("axes", ["yx", "qyx", "zzx", "zyc"])
def test_axes_that_a_store_can_not_have_are_refused(tmp_path, axes):
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 9), np.uint8))
    prep.run([tmp_path / "a.npy"], tmp_path / "a.zarr", PrepConfig())
    with pytest.raises(InputError, match=f"--axes {axes}"):
        prep.run([tmp_path / "a.zarr"], tmp_path / "o", PrepConfig(axes=axes))


@pytest.mark.parametrize(
    ("axes", "order"), [("ZYX", (0, 1, 2)), ("yxc", (2, 0, 1)), ("xyt", (2, 1, 0))], ids=["same", "yxc", "xyt"]
)
def test_axes_given_for_a_store_are_believed(tmp_path, axes, order):
    array = np.random.default_rng(0).integers(0, 99, (3, 8, 9), np.uint8)
    np.save(tmp_path / "a.npy", array)
    prep.run([tmp_path / "a.npy"], tmp_path / "a.zarr", PrepConfig())
    prep.run([tmp_path / "a.zarr"], tmp_path / "o", PrepConfig(axes=axes))
    assert open_store(tmp_path / "o").images[0].axes.names == "".join(a for a in "tczyx" if a in axes.lower())
    np.testing.assert_array_equal(np.squeeze(pixels(tmp_path / "o")), array.transpose(order))


def test_axes_of_a_store_keep_its_pixel_size(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 9), np.uint8))
    prep.run([tmp_path / "a.npy"], tmp_path / "a.zarr", PrepConfig(pixel_size="0.5um"))
    prep.run([tmp_path / "a.zarr"], tmp_path / "o", PrepConfig(axes="tyx"))
    axes = open_store(tmp_path / "o").images[0].axes
    assert (axes.names, axes.scale_of("x")) == ("tyx", 0.5)


# ------------------------------------------------------------------------------------------- levels and channels


def write_pair(folder, image, labels):
    """Write an image and its labels as NPY files; return what `prep` takes."""
    np.save(folder / "image.npy", image)
    np.save(folder / "labels.npy", labels)
    return [folder / "image.npy"], [folder / "labels.npy"]


def test_a_level_is_read_with_the_labels_that_fit(tmp_path, monkeypatch, small_tiles):
    monkeypatch.setattr("unetcli.image.pyramid.SMALLEST", 8)
    image, ids = cells((61, 47), 0)
    images, labels = write_pair(tmp_path, image, ids)
    prep.run(images, tmp_path / "a", PrepConfig(pixel_size="0.5um"), labels=labels)
    prep.run([tmp_path / "a"], tmp_path / "o", PrepConfig(level=2, label_kind="instances"))
    np.testing.assert_array_equal(pixels(tmp_path / "o")[0, 0, 0], halved(image, 2, is_label=False))
    np.testing.assert_array_equal(pixels(tmp_path / "o", label="truth")[0, 0, 0], halved(ids, 2, is_label=True))
    assert open_store(tmp_path / "o").images[0].axes.scale == (2.0, 2.0)


def test_a_level_that_is_not_there(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((8, 9), np.uint8))
    prep.run([tmp_path / "a.npy"], tmp_path / "a.zarr", PrepConfig())
    for path in ("a.npy", "a.zarr"):
        with pytest.raises(InputError, match=r"a\.(npy|zarr): has .*level") as error:
            prep.run([tmp_path / path], tmp_path / "o", PrepConfig(level=2))
        assert "--level" in error.value.fix


def test_channels_are_chosen_and_named(tmp_path):
    array = np.random.default_rng(0).integers(0, 99, (4, 24, 30), np.uint8)
    np.save(tmp_path / "a.npy", array)
    config = PrepConfig(axes="cyx", channels="3,1", channel_names="GFP,DAPI")
    prep.run([tmp_path / "a.npy"], tmp_path / "o", config)
    np.testing.assert_array_equal(pixels(tmp_path / "o")[0, :, 0], array[[3, 1]])
    assert open_dataset(tmp_path / "o").channels == ("GFP", "DAPI")
    omero = zarr.open_group(tmp_path / "o", mode="r").attrs["ome"]["omero"]["channels"]
    assert [channel["label"] for channel in omero] == ["GFP", "DAPI"]
    assert len(open_dataset(tmp_path / "o").statistics) == 2


def test_planes_are_chosen_of_image_and_labels(tmp_path):
    image, ids = cells((6, 24, 30), 0)
    images, labels = write_pair(tmp_path, image, ids)
    prep.run(images, tmp_path / "o", PrepConfig(planes="1-2,5", split="2"), labels=labels)
    np.testing.assert_array_equal(pixels(tmp_path / "o")[0, 0], image[[1, 2, 5]])
    np.testing.assert_array_equal(pixels(tmp_path / "o", label="truth")[0, 0], ids[[1, 2, 5]])
    assert [z for _, _, z in open_dataset(tmp_path / "o").planes(validation=True)] == [2]


@pytest.mark.parametrize(
    ("config", "size", "scale"),
    [
        ({"downsample": 2}, (30, 23), 1.0),
        ({"downsample": 2.5}, (24, 18), 1.25),
        ({"target_pixel_size": "1um"}, (30, 23), 1.0),
        ({"target_pixel_size": "250nm", "resample": "area"}, (122, 94), 0.25),
    ],
    ids=str,
)
def test_image_and_labels_are_resampled_alike(tmp_path, small_tiles, config, size, scale):
    image, ids = cells((61, 47), 0)
    images, labels = write_pair(tmp_path, image, ids)
    prep.run(images, tmp_path / "o", PrepConfig(pixel_size="0.5um", **config), labels=labels)
    axes = open_store(tmp_path / "o").images[0].axes
    assert axes.scale == pytest.approx((scale, scale))
    found, truth = pixels(tmp_path / "o")[0, 0, 0], pixels(tmp_path / "o", label="truth")[0, 0, 0]
    assert found.shape == truth.shape == size
    centres = [((np.arange(n) + 0.5) * scale / 0.5).astype(int) for n in size]
    np.testing.assert_array_equal(truth, ids[np.ix_(*centres)])
    if config.get("downsample") == 2:
        np.testing.assert_array_equal(found, halved(image, 1, is_label=False))
    inside = truth > 0
    assert found[inside].mean() - found[~inside].mean() > 60  # still on one another


def test_volumes_are_resampled_along_z_too(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(8 * 4 * 4, dtype=np.float32).reshape(8, 4, 4))
    config = PrepConfig(pixel_size="1,0.5,0.5um", target_pixel_size="2,1,1um")
    prep.run([tmp_path / "a.npy"], tmp_path / "o", config)
    expected = np.load(tmp_path / "a.npy").reshape(4, 2, 2, 2, 2, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(pixels(tmp_path / "o")[0, 0], expected)
    assert open_store(tmp_path / "o").images[0].axes.scale == (2, 1, 1)


def test_a_target_needs_a_pixel_size(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((8, 9), np.uint8))
    with pytest.raises(InputError, match=r"its pixel size along y is not known") as error:
        prep.run([tmp_path / "a.npy"], tmp_path / "o", PrepConfig(target_pixel_size="0.5um"))
    assert error.value.fix == "--pixel-size 0.25um"
    assert not (tmp_path / "o").exists()


def test_two_targets_are_refused():
    with pytest.raises(ConfigError, match="--downsample and --target-pixel-size"):
        PrepConfig(downsample=2, target_pixel_size="0.5um")


# ------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_a_store_is_an_input_too(tmp_path, folders, ngff):
    first, again = tmp_path / "first.zarr", tmp_path / "again.zarr"
    config = {"label_kind": "instances", "pixel_size": "0.5um"}
    prep.run([folders / "images"], first, PrepConfig(ngff=ngff, **config), labels=[folders / "ids"])
    assert zarr.open_group(first, mode="r").metadata.zarr_format == (2 if ngff == "0.4" else 3)
    prep.run([first], again, PrepConfig(label_kind="instances"))
    for name in ("img_00", "img_01", "img_02"):
        np.testing.assert_array_equal(pixels(again, name), pixels(first, name))
        np.testing.assert_array_equal(pixels(again, name, "truth"), pixels(first, name, "truth"))
    assert open_store(again).images[0].axes == open_store(first).images[0].axes
    assert open_dataset(again).statistics == open_dataset(first).statistics


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]
)
def test_any_type_of_pixel(tmp_path, dtype):
    array = (np.random.default_rng(0).random((9, 14)) * (1 if dtype == "bool" else 100)).round().astype(dtype)
    np.save(tmp_path / "a.npy", array)
    prep.run([tmp_path / "a.npy"], tmp_path / "o", PrepConfig())
    np.testing.assert_array_equal(pixels(tmp_path / "o")[0, 0, 0], array)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (3, 5)], ids=str)
def test_images_of_few_pixels(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.arange(np.prod(shape), dtype=np.uint16).reshape(shape))
    prep.run([tmp_path / "a.npy"], tmp_path / "o", PrepConfig())
    assert pixels(tmp_path / "o").shape == (1, 1, 1, *shape)


def test_not_finite_values_are_refused_by_the_name_of_the_file(tmp_path):
    array = np.zeros((9, 9), np.float32)
    array[3, 4] = np.nan
    np.save(tmp_path / "broken.npy", array)
    with pytest.raises(InputError, match=r"broken.*NaN"):
        prep.run([tmp_path / "broken.npy"], tmp_path / "o", PrepConfig())


# ------------------------------------------------------------------------------------------- names


def test_names_with_spaces_and_other_scripts(tmp_path):
    names = ["my cell é", "зображення", "画像"]
    for i, name in enumerate(names):
        np.save(tmp_path / f"{name}.npy", np.full((4, 4), i, np.uint8))
    prep.run([tmp_path / f"{n}.npy" for n in names], tmp_path / "o", PrepConfig())
    found = open_store(tmp_path / "o").images
    assert sorted(int(pixels(tmp_path / "o", i.name).max()) for i in found) == [0, 1, 2]


@pytest.mark.parametrize("name", ["OME", "labels", "zarr.json", "0"])
def test_names_that_mean_something_in_a_store(tmp_path, name):
    for i, n in enumerate((name, "other")):
        np.save(tmp_path / f"{n}.npy", np.full((4, 4), i, np.uint8))
    prep.run([tmp_path / f"{name}.npy", tmp_path / "other.npy"], tmp_path / "o", PrepConfig())
    found = open_store(tmp_path / "o").images
    assert [int(pixels(tmp_path / "o", i.name).max()) for i in found] == [0, 1]


def test_two_images_of_one_name_are_refused_before_anything_is_written(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "x.npy", np.zeros((4, 4), np.uint8))
    with pytest.raises(UnetcliError, match="x"):
        prep.run([tmp_path / "a", tmp_path / "b"], tmp_path / "o", PrepConfig())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


# ------------------------------------------------------------------------------------------- split


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        (None, []),
        ("img_01", ["img_01"]),
        ("img_0[02]", ["img_00", "img_02"]),
        ("0.34", ["img_01"]),
        (".34", ["img_01"]),
    ],
    ids=str,
)
def test_split_of_a_collection(folders, tmp_path, split, expected):
    prep.run([folders / "images"], tmp_path / "o", PrepConfig(split=split))
    dataset = open_dataset(tmp_path / "o")
    assert [image.name for image, _, _ in dataset.planes(validation=True)] == expected
    assert len(list(dataset.planes(validation=False))) == 3 - len(expected)


@pytest.mark.parametrize(("split", "expected"), [("4", [4]), ("1-2,5", [1, 2, 5]), ("0.2", [3])], ids=str)
def test_split_of_a_stack(tmp_path, split, expected):
    np.save(tmp_path / "a.npy", np.zeros((6, 8, 9), np.uint8))
    prep.run([tmp_path / "a.npy"], tmp_path / "o", PrepConfig(split=split))
    assert [z for _, _, z in open_dataset(tmp_path / "o").planes(validation=True)] == expected


@pytest.mark.parametrize("split", ["img_9", "img_*", "1.0", "0.999", "20%", "0.0", ",", "", "-1", "0-1"])
def test_split_that_makes_no_sense(folders, tmp_path, split):
    with pytest.raises(UnetcliError, match="--split"):
        prep.run([folders / "images"], tmp_path / "o", PrepConfig(split=split))


@pytest.mark.parametrize("split", ["0-5", "6", "5-2", "2,9", ","])
def test_split_of_a_stack_that_makes_no_sense(tmp_path, split):
    np.save(tmp_path / "a.npy", np.zeros((6, 8, 9), np.uint8))
    with pytest.raises(UnetcliError, match="--split"):
        prep.run([tmp_path / "a.npy"], tmp_path / "o", PrepConfig(split=split))


# ------------------------------------------------------------------------------------------- statistics and pyramid


def whole(array):
    box = Box.whole(array.shape)
    return Work("array/0", Tile(0, box, box), (Pixels(array),))


def test_many_channels_are_measured_one_by_one(tmp_path):
    pixels = np.arange(6)[:, None, None] * 1000 + np.random.default_rng(0).integers(0, 9, (6, 30, 40))
    np.save(tmp_path / "a.npy", pixels.astype("uint16"))
    prep.run([tmp_path / "a.npy"], tmp_path / "o.zarr", PrepConfig(axes="cyx"))
    data = open_dataset(tmp_path / "o.zarr")
    assert [s["mean"] for s in data.statistics] == pytest.approx(pixels.mean(axis=(1, 2)))
    assert {s["pixels"] for s in data.statistics} == {30 * 40}
    assert len(data.images[0].level.channels) == 6


@settings(max_examples=40)
@given(st.data())
def test_statistics_equal_numpy(data):
    dtype = data.draw(st.sampled_from(["bool", "uint8", "int8", "uint16", "int16", "int32", "float32", "float64"]))
    low, high = (
        (0, 1) if dtype == "bool" else (-1000, 1000) if dtype[0] == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    scale = data.draw(st.sampled_from([0.0, 1e-3, 1.0]))
    parts = [
        (low + (high - low) * scale * rng.random((1, 2, 1, 5, data.draw(st.integers(1, 9))))).astype(dtype)
        for _ in range(3)
    ]
    found = statistics(reduce_tiles(tally_channels, [whole(p) for p in parts], workers=2))
    values = np.concatenate([p.swapaxes(0, 1).reshape(2, -1) for p in parts], axis=1).astype(np.float64)
    spread = max(np.ptp(values), 1e-9)
    for channel, s in zip(values, found, strict=True):
        assert s["pixels"] == channel.size
        assert (s["min"], s["max"]) == (channel.min(), channel.max())
        assert s["mean"] == pytest.approx(channel.mean(), rel=1e-12, abs=1e-9)
        assert s["std"] == pytest.approx(channel.std(), rel=1e-6, abs=1e-4 * spread)
        for p, value in s["percentiles"].items():
            nearest = np.percentile(channel, float(p), method="inverted_cdf")
            assert value == pytest.approx(nearest, abs=s["percentile_error"] * 1.01 + 1e-9)


def test_a_constant_image_is_normalized_to_zero(tmp_path):
    np.save(tmp_path / "a.npy", np.full((50, 70), 0.1, np.float32))
    prep.run([tmp_path / "a.npy"], tmp_path / "o", PrepConfig())
    mean, std = open_dataset(tmp_path / "o").normalization()
    assert np.abs((np.float32(0.1) - mean) / std).max() < 1e-3


def halved(array, level, *, is_label):
    for _ in range(level):
        array = array[..., : array.shape[-2] // 2 * 2, : array.shape[-1] // 2 * 2]
        blocks = np.stack([array[..., i::2, j::2] for i in (0, 1) for j in (0, 1)])
        array = blocks[0] if is_label else np.rint(blocks.astype(np.float64).mean(axis=0)).astype(array.dtype)
    return array


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_pyramid(tmp_path, monkeypatch, small_tiles, ngff):
    monkeypatch.setattr("unetcli.image.pyramid.SMALLEST", 16)
    image, labels = cells((77, 90), 3)
    for name, array in (("i.npy", image), ("l.npy", labels)):
        np.save(tmp_path / name, array)
    config = PrepConfig(ngff=ngff, pixel_size="0.5um")
    prep.run([tmp_path / "i.npy"], tmp_path / "o", config, labels=[tmp_path / "l.npy"])
    top = open_store(tmp_path / "o").images[0]
    assert len(top.levels) == 4
    for k in range(4):
        for place, array, is_label in (("", image, False), ("labels/truth", labels, True)):
            level = Level(tmp_path / "o" / place / str(k), top.axes)
            expected = halved(array, k, is_label=is_label)
            np.testing.assert_array_equal(level.read(Box.whole(level.shape))[0, 0, 0], expected)


# ------------------------------------------------------------------------------------------- again and again


def run_masks(folders, out, progress=lambda *_: None, **config):
    return prep.run([folders / "images"], out, PrepConfig(**config), labels=[folders / "masks"], progress=progress)


def test_a_second_call_does_nothing(folders, tmp_path):
    run_masks(folders, tmp_path / "o")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "o").rglob("*")}
    assert run_masks(folders, tmp_path / "o")["already_done"]
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "o").rglob("*")} == times


def test_other_settings_are_refused_unless_it_is_to_be_overwritten(folders, tmp_path):
    run_masks(folders, tmp_path / "o")
    with pytest.raises(ConfigError, match=r"split was not set, is \"img_01\"") as error:
        run_masks(folders, tmp_path / "o", split="img_01")
    assert "--overwrite" in error.value.fix
    prep.run([folders / "images"], tmp_path / "o", PrepConfig(split="img_01"), overwrite=True)
    assert open_dataset(tmp_path / "o").label_kind is None


def test_a_changed_input_is_refused(folders, copy_of, tmp_path):
    images = copy_of(folders / "images")
    prep.run([images], tmp_path / "o", PrepConfig())
    shutil.copy(images / "img_00.png", images / "img_01.png")
    with pytest.raises(ConfigError, match=r"inputs images 1 \(img_01\) was"):
        prep.run([images], tmp_path / "o", PrepConfig())


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_stopped_anywhere_and_called_again_ends_in_the_same_bytes(folders, tmp_path, small_tiles, ngff):
    calls = count_calls(lambda p: run_masks(folders, tmp_path / "whole", p, ngff=ngff))
    for after in range(0, calls, max(1, calls // 7)):
        out = tmp_path / f"stopped_{after}"
        with pytest.raises(Stopped):
            run_masks(folders, out, stop_after(after), ngff=ngff)
        with pytest.raises(InputError, match="not complete"):
            open_store(out)
        run_masks(folders, out, ngff=ngff)
        assert_same_files(out, tmp_path / "whole")
        assert not (tmp_path / f"{out.name}.unetcli").exists()


def test_killed_and_called_again_ends_in_the_same_bytes(folders, tmp_path, small_tiles):
    run_masks(folders, tmp_path / "whole")
    arguments = ["prep", folders / "images", "--labels", folders / "masks", "-o", tmp_path / "o"]
    killed = run_and_signal(signal.SIGKILL, arguments, after=20, shard=32, chunk=16)
    assert killed.returncode == -signal.SIGKILL
    run_masks(folders, tmp_path / "o")
    assert_same_files(tmp_path / "o", tmp_path / "whole")


def test_an_unfinished_store_that_was_removed_is_made_whole(folders, tmp_path, small_tiles):
    run_masks(folders, tmp_path / "whole")
    with pytest.raises(Stopped):
        run_masks(folders, tmp_path / "o", stop_after(30))
    shutil.rmtree(tmp_path / "o")  # but not what lies beside it
    run_masks(folders, tmp_path / "o")
    assert_same_files(tmp_path / "o", tmp_path / "whole")


@pytest.mark.parametrize("overwrite", [False, True])
def test_inputs_are_never_the_output(folders, tmp_path, copy_of, overwrite):
    images = copy_of(folders / "images")
    prep.run([images], tmp_path / "a.zarr", PrepConfig())
    for out in (tmp_path / "a.zarr", images, tmp_path):
        with pytest.raises(UnetcliError):
            prep.run([tmp_path / "a.zarr", images], out, PrepConfig(), overwrite=overwrite)
    assert len(open_store(tmp_path / "a.zarr").images) == 3
    assert len(list(images.iterdir())) == 3


def test_something_else_is_never_overwritten(folders, tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not made by unetcli"):
            prep.run([folders / "images"], tmp_path / "o", PrepConfig(), overwrite=overwrite)
    assert (tmp_path / "o" / "thesis.txt").exists()


def test_dry_run_writes_nothing(folders, tmp_path):
    result = prep.run([folders / "images"], tmp_path / "o", PrepConfig(), labels=[folders / "ids"], dry_run=True)
    assert "3 shards" in result["would_write"]
    assert not list(tmp_path.iterdir())


def test_any_worker_count_gives_the_same_bytes(folders, tmp_path, small_tiles):
    for workers in (1, 3):
        prep.run(
            [folders / "images"], tmp_path / f"o{workers}", PrepConfig(), labels=[folders / "ids"], workers=workers
        )
    assert_same_files(tmp_path / "o1", tmp_path / "o3")


def test_images_of_other_kinds_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 4), np.uint8))
    np.save(tmp_path / "b.npy", np.zeros((4, 4), np.uint16))
    with pytest.raises(InputError, match=r"b\.npy: has 1 channels of uint16; expected 1 of uint8, as a\.npy"):
        prep.run([tmp_path / "a.npy", tmp_path / "b.npy"], tmp_path / "o", PrepConfig())


def test_label_values_of_one_name_are_one_class(tmp_path):
    labels = np.random.default_rng(0).choice(np.array([0, 32, 255], np.uint8), (20, 30))
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "image.npy", np.zeros((20, 30), np.uint8))
    config = PrepConfig(classes="255=cell,0=membrane,32=membrane")
    prep.run([tmp_path / "image.npy"], tmp_path / "o", config, labels=[tmp_path / "labels.npy"])
    assert open_dataset(tmp_path / "o").classes == ("cell", "membrane")
    np.testing.assert_array_equal(pixels(tmp_path / "o", label="truth")[0, 0, 0], labels != 255)


def test_an_image_is_not_its_own_labels(folders, tmp_path):
    with pytest.raises(InputError, match="as its own labels"):
        prep.run([folders / "ids"], tmp_path / "o", PrepConfig(), labels=[folders / "ids"])

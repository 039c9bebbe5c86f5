"""Augmentation: sample k is a function of the seed and k, and warps all arrays by one field."""

import csv
import json
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Stopped, assert_same_files, cells, count_calls, files_of, pixels, stop_after
from unetcli.config import AugmentConfig, PrepConfig, WeightsConfig
from unetcli.errors import ConfigError, InputError
from unetcli.image.dataset import open_dataset
from unetcli.image.new_store import NewStore
from unetcli.image.store import open_store
from unetcli.stages import augment, prep, weights

IDENTITY = {
    "elastic": 0, "rotation": 0, "scaling": 1, "shift": 0, "flip": False, "contrast": 1, "brightness": 0, "gamma": 0,
    "noise": 0,
}  # fmt: skip


def rows_of(path):
    with (path / "parameters.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("with_weights", [False, True], ids=["plain", "weights"])
def test_same_seed_same_bytes_for_any_number_of_workers(instances, weight_maps, tmp_path, with_weights):
    maps = weight_maps if with_weights else None
    for workers in (1, 3):
        augment.run(instances, tmp_path / f"a{workers}", AugmentConfig(samples=3), weights=maps, workers=workers)
    assert_same_files(tmp_path / "a1", tmp_path / "a3")


def test_any_tiling_gives_the_same_pixels(instances, weight_maps, tmp_path, request):
    config = AugmentConfig(samples=2, blur=3)
    augment.run(instances, tmp_path / "whole", config, weights=weight_maps)
    request.getfixturevalue("small_tiles")
    augment.run(instances, tmp_path / "tiled", config, weights=weight_maps)
    for name in ("sample_00000", "sample_00001"):
        for label in (None, "truth", "target"):
            np.testing.assert_array_equal(
                pixels(tmp_path / "tiled", name, label), pixels(tmp_path / "whole", name, label)
            )
        np.testing.assert_array_equal(
            pixels(tmp_path / "tiled" / name / "weights"), pixels(tmp_path / "whole" / name / "weights")
        )


def test_a_sample_does_not_depend_on_how_many_there_are(instances, tmp_path):
    augment.run(instances, tmp_path / "few", AugmentConfig(samples=2, seed=7))
    augment.run(instances, tmp_path / "many", AugmentConfig(samples=5, seed=7))
    augment.run(instances, tmp_path / "other", AugmentConfig(samples=2, seed=8))
    for name in ("sample_00000", "sample_00001"):
        np.testing.assert_array_equal(pixels(tmp_path / "few", name), pixels(tmp_path / "many", name))
        assert not np.array_equal(pixels(tmp_path / "few", name), pixels(tmp_path / "other", name))
    assert rows_of(tmp_path / "few") == rows_of(tmp_path / "many")[:2]


def test_labels_stay_those_of_the_truth(instances, weight_maps, tmp_path):
    augment.run(instances, tmp_path / "a", AugmentConfig(samples=4), weights=weight_maps)
    for row in rows_of(tmp_path / "a"):
        truth = pixels(tmp_path / "a", row["sample"], "truth")
        assert truth.dtype == np.uint32
        assert set(np.unique(truth)) <= set(np.unique(pixels(instances, row["image"], "truth")))
        assert set(np.unique(pixels(tmp_path / "a", row["sample"], "target"))) <= {0, 1}
        assert np.isfinite(pixels(tmp_path / "a" / row["sample"] / "weights")).all()


def test_nothing_asked_for_changes_nothing(instances, weight_maps, tmp_path):
    augment.run(instances, tmp_path / "a", AugmentConfig(samples=3, **IDENTITY), weights=weight_maps)
    for row in rows_of(tmp_path / "a"):
        name = row["sample"]
        np.testing.assert_array_equal(pixels(tmp_path / "a", name), pixels(instances, row["image"]))
        np.testing.assert_array_equal(pixels(tmp_path / "a", name, "truth"), pixels(instances, row["image"], "truth"))
        expected = pixels(weight_maps, row["image"])
        np.testing.assert_allclose(pixels(tmp_path / "a" / name / "weights"), expected, rtol=1e-6)


def test_image_and_labels_are_warped_by_one_field(tmp_path):
    _, labels = cells((60, 70), 4)
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "image.npy", (labels > 0).astype(np.float32))
    data = tmp_path / "d"
    prep.run([tmp_path / "image.npy"], data, PrepConfig(label_kind="instances"), labels=[tmp_path / "labels.npy"])
    gray = {k: IDENTITY[k] for k in ("contrast", "brightness", "gamma", "noise")}
    augment.run(data, tmp_path / "a", AugmentConfig(samples=3, **gray))
    for name in ("sample_00000", "sample_00001", "sample_00002"):
        truth, image = pixels(tmp_path / "a", name, "truth"), pixels(tmp_path / "a", name)
        assert ((image > 0.5) == (truth > 0)).mean() > 0.99


def test_parameters_are_written_down_for_people(instances, tmp_path):
    augment.run(instances, tmp_path / "a", AugmentConfig(samples=9, elastic=5, grid="4", blur=2, rotation=30))
    rows = rows_of(tmp_path / "a")
    assert [r["sample"] for r in rows] == [f"sample_{k:05d}" for k in range(9)]
    assert {r["image"] for r in rows} <= {"img_00", "img_01"}  # img_02 is for validation
    assert {r["flip"] for r in rows} == {"", "x"}
    for row in rows:
        assert [row[k] for k in ("t", "z", "y", "x", "size_z", "size_y", "size_x")] == [*"00001", "80", "80"]
        assert abs(abs(float(row["rotation_deg"])) - 90) >= 60  # what is mirrored along y is turned by 180 degrees
        assert 1 / 1.1 <= float(row["scale"]) <= 1.1
        assert abs(float(row["shift_x_px"])) <= 20
        assert 0 <= float(row["blur_0"]) <= 2
        assert np.shape(json.loads(row["displacement_px"])) == (3, 1, 4, 4)
        turn, mirror = np.deg2rad(float(row["rotation_deg"])), -1 if row["flip"] else 1
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * [1, mirror]
        expected = matrix / float(row["scale"])
        np.testing.assert_allclose(np.array(json.loads(row["matrix"]))[1:, 1:], expected, atol=1e-5)


def test_turned_clockwise_means_clockwise(tmp_path):
    image = np.zeros((65, 65), np.float32)
    image[30:35, 45:] = 1  # to the right of the middle
    np.save(tmp_path / "i.npy", image)
    np.save(tmp_path / "l.npy", (image > 0).astype(np.uint16))
    prep.run([tmp_path / "i.npy"], tmp_path / "d", PrepConfig(label_kind="instances"), labels=[tmp_path / "l.npy"])
    augment.run(tmp_path / "d", tmp_path / "a", AugmentConfig(samples=6, **{**IDENTITY, "rotation": 180}))
    for row in rows_of(tmp_path / "a"):
        ys, xs = np.nonzero(pixels(tmp_path / "a", row["sample"], "truth")[0, 0, 0])
        seen = np.rad2deg(np.arctan2(ys.mean() - 32, xs.mean() - 32))  # y points down
        assert abs((float(row["rotation_deg"]) - seen + 180) % 360 - 180) < 3


# ------------------------------------------------------------------------------------------- again


def assert_same_sample(one, many, k):
    """Compare a store of one sample with sample k of another, array by array and chunk by chunk."""
    group = f"sample_{k:05d}"
    (row,) = rows_of(one)
    assert row == next(r for r in rows_of(many) if r["sample"] == group)
    for place in ("0", "labels/truth/0", "labels/target/0", "weights/0"):
        assert_same_files(one / place, many / group / place)
        assert (one / place).exists()
    assert open_store(one).images[0].name == group


@pytest.fixture(scope="module")
def many(instances, weight_maps, tmp_path_factory):
    """Return a store of samples drawn with unusual settings."""
    out = tmp_path_factory.mktemp("many") / "many.zarr"
    augment.run(instances, out, AugmentConfig(samples=12, seed=3, blur=1.5, elastic=3), weights=weight_maps)
    return out


@pytest.mark.parametrize("k", [0, 11])
@pytest.mark.parametrize("samples", [1, 100])
def test_a_sample_is_replayed_from_the_seed(instances, weight_maps, many, tmp_path, k, samples):
    config = AugmentConfig(samples=samples, seed=3, blur=1.5, elastic=3, replay=k)
    augment.run(instances, tmp_path / "one", config, weights=weight_maps)
    assert_same_sample(tmp_path / "one", many, k)


def test_a_sample_is_replayed_from_its_parameters(instances, weight_maps, many, tmp_path, small_tiles):
    table = {"parameters": many / "parameters.csv", "weights": weight_maps}
    augment.run(instances, tmp_path / "one", AugmentConfig(replay=7), **table)
    for label in (None, "truth", "target"):
        expected = pixels(many, "sample_00007", label)
        np.testing.assert_array_equal(pixels(tmp_path / "one", None, label), expected)
    np.testing.assert_array_equal(pixels(tmp_path / "one" / "weights"), pixels(many / "sample_00007" / "weights"))


def test_all_samples_are_made_again_from_their_parameters(instances, weight_maps, many, tmp_path):
    again = tmp_path / "again.zarr"
    augment.run(instances, again, AugmentConfig(), weights=weight_maps, parameters=many / "parameters.csv")
    assert_same_files(again, many, but=["zarr.json"])
    assert open_store(again).attributes["data"] == open_store(many).attributes["data"]


def test_samples_of_a_fine_grid_are_made_again_from_their_parameters(instances, tmp_path):
    augment.run(instances, tmp_path / "a", AugmentConfig(samples=1, grid="64", elastic=1, patch_size=20))
    augment.run(instances, tmp_path / "b", AugmentConfig(), parameters=tmp_path / "a" / "parameters.csv")
    assert_same_files(tmp_path / "a", tmp_path / "b", but=("zarr.json",))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "uint32", "float16", "float32", "float64"])
def test_gray_values_that_a_type_can_not_hold_are_cut_off(tmp_path, dtype):
    limits = np.finfo("float16") if dtype == "float16" else np.iinfo("int32" if "float" in dtype else dtype)
    half = np.linspace(limits.min / 2, limits.max / 2, 400).reshape(20, 20)
    np.save(tmp_path / "a.npy", (half + (limits.min + limits.max) / 2).astype(dtype))
    np.save(tmp_path / "b.npy", (np.arange(400).reshape(20, 20) % 3 > 0).astype("uint8"))
    prep.run([tmp_path / "a.npy"], tmp_path / "d", PrepConfig(axes="yx"), labels=[tmp_path / "b.npy"])
    augment.run(tmp_path / "d", tmp_path / "out", AugmentConfig(samples=6, **{**IDENTITY, "contrast": 8}))
    for k in range(6):
        values = pixels(tmp_path / "out", f"sample_{k:05d}")[0, 0, 0].astype("float64")
        assert np.isfinite(values).all()
        assert (np.diff(values.ravel()) >= 0).all()


def test_volumes_and_patches_are_made_again_from_their_parameters(tmp_path):
    for name, array in zip(("i.npy", "l.npy"), cells((9, 40, 44), 1), strict=True):
        np.save(tmp_path / name, array)
    data = tmp_path / "d"
    prep.run([tmp_path / "i.npy"], data, PrepConfig(ndim=3, label_kind="instances"), labels=[tmp_path / "l.npy"])
    augment.run(data, tmp_path / "a", AugmentConfig(samples=4, patch_size=20, blur=1))
    augment.run(data, tmp_path / "b", AugmentConfig(), parameters=tmp_path / "a" / "parameters.csv")
    assert_same_files(tmp_path / "a", tmp_path / "b", but=["zarr.json"])
    assert open_dataset(tmp_path / "b").ndim == 3
    assert pixels(tmp_path / "b", "sample_00003").shape == (1, 1, 9, 20, 20)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rotation": 10}, "--rotation: does not go with --parameters"),
        ({"samples": 3, "seed": 1}, "--samples, --seed: does not go with --parameters"),
        ({"replay": 12}, "--replay 12: .* has no such sample; expected one of 0 to 11"),
    ],
    ids=lambda given: ",".join(given) if isinstance(given, dict) else "",
)
def test_settings_that_contradict_the_table_are_refused(instances, many, tmp_path, given, said):
    with pytest.raises(ConfigError, match=said):
        augment.run(instances, tmp_path / "a", AugmentConfig(**given), parameters=many / "parameters.csv")
    assert not (tmp_path / "a").exists()


def damaged(path, column, value):
    """Return the lines of a table of samples with another value in the second sample."""
    with path.open() as file:
        reader = csv.DictReader(file)
        rows, names = list(reader), reader.fieldnames
    rows[1][column] = value
    lines = [",".join(names)]
    lines += [",".join(f'"{row[name]}"' for name in names) for row in rows]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("image", "img_99", "line 3: is of the image img_99, which the data set does not have"),
        ("t", "5", "line 3: time point 5"),
        ("size_y", "0", "line 3: time point 0, 1 x 0 x 80"),
        ("x", "left", "line 3 .* invalid literal"),
        ("contrast_0", "-1", "line 3 .* contrast > 0"),
        ("blur_0", "1e30", "line 3 .* blur <= 1000"),
        ("matrix", "[" * 100_000, "line 3 is not a sample .* recursion"),
        ("matrix", "[[1,0,0],[0,1e308,0],[0,0,1e308]]", "line 3 .* may reach inf pixels"),
        ("shift_x_px", "nan", "line 3 .* may reach nan pixels"),
        ("shift_y_px", "1e10", "line 3 .* may reach 1e.10 pixels; expected less than"),
        ("y", "-99999999999999999999", "line 3: begins at 0, -99999999999999999999, 0"),
        ("matrix", "[[1", "line 3 is not a sample"),
        ("displacement_px", "[[1, 2]]", "line 3 is not a sample .* grid"),
        ("noise_seed", "", "line 3 is not a sample"),
        ("interpolation", "nearest", "line 3: interpolation is nearest; expected linear or cubic"),
        ("sample", "sample_00000", "12 lines for 11 samples"),
    ],
    ids=lambda value: value if value.isidentifier() else "",
)
def test_a_damaged_table_is_refused(instances, many, tmp_path, column, value, said):
    table = tmp_path / "table.csv"
    table.write_text(damaged(many / "parameters.csv", column, value))
    with pytest.raises(InputError, match=said) as caught:
        augment.run(instances, tmp_path / "a", AugmentConfig(), parameters=table)
    assert str(caught.value).startswith(str(table))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "can not be read"), (b"\xff\xfe\x00", "can not be read"), (b"", "has no samples"),
     (b"a,b\n1,2\n", "line 2 is not a sample of augment: column 'image' is missing")],
    ids=["nothing there", "no text", "empty", "another table"],
)  # fmt: skip
def test_what_is_no_table_is_refused(instances, tmp_path, content, said):
    table = tmp_path / "table.csv"
    if content is not None:
        table.write_bytes(content)
    with pytest.raises(InputError, match=said):
        augment.run(instances, tmp_path / "a", AugmentConfig(), parameters=table)


# ------------------------------------------------------------------------------------------- patches, many samples


def test_patches_of_a_size(instances, weight_maps, tmp_path):
    augment.run(instances, tmp_path / "a", AugmentConfig(samples=12, patch_size=24), weights=weight_maps)
    rows = rows_of(tmp_path / "a")
    assert len({(row["y"], row["x"]) for row in rows}) > 8
    for row in rows:
        assert (row["size_y"], row["size_x"]) == ("24", "24")
        for label in (None, "truth", "target"):
            assert pixels(tmp_path / "a", row["sample"], label).shape == (1, 1, 1, 24, 24)


def test_patches_larger_than_the_image(instances, tmp_path):
    augment.run(instances, tmp_path / "a", AugmentConfig(samples=1, patch_size=150), preview=tmp_path / "sheet.png")
    assert pixels(tmp_path / "a").shape == (1, 1, 1, 150, 150)


def test_samples_keep_the_names_of_their_channels(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 44, 3), np.uint8)).save(tmp_path / "i.png")
    np.save(tmp_path / "l.npy", np.eye(40, 44, dtype=np.uint16))
    prep.run([tmp_path / "i.png"], tmp_path / "d", PrepConfig(), labels=[tmp_path / "l.npy"])
    augment.run(tmp_path / "d", tmp_path / "a", AugmentConfig(samples=2, **{**IDENTITY, "contrast": 2}))
    before, after = (open_store(tmp_path / name).images[0].level.channels for name in "da")
    assert after == before
    assert [channel.name for channel in after] == ["red", "green", "blue"]
    for row in rows_of(tmp_path / "a"):
        assert row["contrast_0"] == row["contrast_1"] == row["contrast_2"]


def test_samples_are_made_one_by_one(instances, tmp_path, monkeypatch):
    """What was made before a tile does not grow with the number of samples that follow it."""
    created = []
    level = NewStore.level

    def record(self, group, *args, **options):
        created.append(group)
        return level(self, group, *args, **options)

    monkeypatch.setattr(NewStore, "level", record)
    with pytest.raises(Stopped):
        augment.run(instances, tmp_path / "a", AugmentConfig(samples=500), workers=1, progress=stop_after(3))
    assert len(created) < 20


@pytest.mark.parametrize("given", [{}, {"patch_size": 30}, {"replay": 3}], ids=["whole", "patches", "one"])
def test_dry_run_says_how_much_would_be_written(instances, weight_maps, tmp_path, given):
    config = AugmentConfig(samples=5, **given)
    planned = augment.run(instances, tmp_path / "a", config, weights=weight_maps, dry_run=True)
    assert not (tmp_path / "a").exists()
    augment.run(instances, tmp_path / "a", config, weights=weight_maps)
    images = open_store(tmp_path / "a").images
    levels = [level for i in images for level in (i.level, i.labels("truth"), i.labels("target"))]
    levels += [open_store(i.path / "weights").images[0].level for i in images]
    assert planned["samples"] == len(images)
    assert planned["pixels"] == sum(np.prod(i.level.shape) for i in images)
    assert planned["bytes"] == sum(np.prod(level.shape) * level.dtype.itemsize for level in levels)


def test_the_result_is_a_data_set_to_train_on(instances, weight_maps, tmp_path):
    augment.run(instances, tmp_path / "a", AugmentConfig(samples=2), weights=weight_maps)
    before, after = open_dataset(instances), open_dataset(tmp_path / "a")
    assert (after.classes, after.label_kind, after.statistics) == (before.classes, before.label_kind, before.statistics)
    assert len(list(after.planes(validation=False))) == 2


def test_one_sample_is_the_store_itself(instances, weight_maps, tmp_path):
    augment.run(instances, tmp_path / "one", AugmentConfig(samples=1), weights=weight_maps)
    augment.run(instances, tmp_path / "two", AugmentConfig(samples=2), weights=weight_maps)
    np.testing.assert_array_equal(pixels(tmp_path / "one"), pixels(tmp_path / "two", "sample_00000"))


@pytest.mark.parametrize("ndim", [2, 3])
def test_volumes(tmp_path, ndim):
    image, labels = cells((6, 30, 34), 1)
    for name, array in (("i.npy", image), ("l.npy", labels)):
        np.save(tmp_path / name, array)
    data, maps = tmp_path / "d", tmp_path / "w"
    prep.run([tmp_path / "i.npy"], data, PrepConfig(ndim=ndim, label_kind="instances"), labels=[tmp_path / "l.npy"])
    weights.run(data, maps, WeightsConfig(sigma=2))
    augment.run(data, tmp_path / "a", AugmentConfig(samples=2, blur=1), weights=maps, preview=tmp_path / "sheet.png")
    assert pixels(tmp_path / "a", "sample_00000").shape == (1, 1, 6 if ndim == 3 else 1, 30, 34)
    found = np.unique(pixels(tmp_path / "a", "sample_00000", "truth"))
    assert set(found) <= set(np.unique(labels))
    assert len(found) > 2


def test_preview_is_a_picture(instances, weight_maps, tmp_path):
    config = AugmentConfig(samples=2)
    augment.run(instances, tmp_path / "a", config, weights=weight_maps, preview=tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert min(sheet.size) > 100


def test_the_grid_of_a_preview_ends_at_the_edges_of_the_image(tmp_path):
    _, labels = cells((24, 301), 0)
    for name in ("i.npy", "l.npy"):
        np.save(tmp_path / name, labels)
    prep.run([tmp_path / "i.npy"], tmp_path / "d", PrepConfig(), labels=[tmp_path / "l.npy"])
    with mock.patch("unetcli.stages.augment.draw_sheet") as drawn:
        augment.run(tmp_path / "d", tmp_path / "a", AugmentConfig(samples=1, **IDENTITY), preview=tmp_path / "s.png")
    (sample,) = drawn.call_args.args[0]
    assert sample.grid.shape == (2, 24, 256)
    evenly = np.broadcast_to(np.linspace(0, 300, 256), (24, 256))
    np.testing.assert_allclose(sample.grid[1], evenly, atol=0.5)
    np.testing.assert_allclose(sample.grid[:, -1, -1], [23, 300])


def test_a_grid_that_does_not_fit_fails_before_anything_is_written(instances, tmp_path):
    with pytest.raises(ConfigError, match="--grid 2,3,4: expected one number, or 2"):
        augment.run(instances, tmp_path / "a", AugmentConfig(grid="2,3,4"))
    assert not (tmp_path / "a").exists()


def test_a_preview_that_can_not_be_written_fails_before_the_work(instances, tmp_path):
    with pytest.raises(InputError, match=r"--preview .*sheet.png: can not be written"):
        augment.run(instances, tmp_path / "a", AugmentConfig(samples=1), preview=tmp_path / "none" / "sheet.png")
    assert not (tmp_path / "a").exists()


def test_stopped_anywhere_and_called_again_ends_in_the_same_bytes(instances, weight_maps, tmp_path, small_tiles):
    config = AugmentConfig(samples=3, blur=1)
    calls = count_calls(lambda p: augment.run(instances, tmp_path / "whole", config, weights=weight_maps, progress=p))
    for after in range(0, calls, max(1, calls // 4)):
        out = tmp_path / f"stopped_{after}"
        with pytest.raises(Stopped):
            augment.run(instances, out, config, weights=weight_maps, progress=stop_after(after))
        augment.run(instances, out, config, weights=weight_maps)
        assert_same_files(out, tmp_path / "whole")


def test_other_settings_and_other_weights_are_refused(instances, classes, weight_maps, tmp_path):
    augment.run(instances, tmp_path / "a", AugmentConfig(samples=1))
    before = files_of(tmp_path / "a")
    with pytest.raises(ConfigError, match="seed was 0, is 1"):
        augment.run(instances, tmp_path / "a", AugmentConfig(samples=1, seed=1))
    with pytest.raises(ConfigError, match="weights was"):
        augment.run(instances, tmp_path / "a", AugmentConfig(samples=1), weights=weight_maps)
    with pytest.raises(InputError, match="no weight maps"):
        augment.run(instances, tmp_path / "b", AugmentConfig(samples=1), weights=classes)
    assert files_of(tmp_path / "a") == before
    assert open_store(tmp_path / "a").images


def test_weights_of_another_data_set_are_refused(weight_maps, tmp_path):
    for name, array in zip(("i.npy", "l.npy"), cells((40, 44), 9), strict=True):
        np.save(tmp_path / name, array)
    prep.run([tmp_path / "i.npy"], tmp_path / "d", PrepConfig(), labels=[tmp_path / "l.npy"])
    with pytest.raises(InputError, match="weight map"):
        augment.run(tmp_path / "d", tmp_path / "a", AugmentConfig(samples=1), weights=weight_maps)


def test_weights_of_labels_that_were_corrected_since_are_refused(tmp_path):
    image, labels = cells((40, 44), 9)
    np.save(tmp_path / "i.npy", image)
    for changed in (False, True):
        np.save(tmp_path / "l.npy", labels[::-1] if changed else labels)
        prep.run([tmp_path / "i.npy"], tmp_path / "d", PrepConfig(), labels=[tmp_path / "l.npy"], overwrite=changed)
        if not changed:
            weights.run(tmp_path / "d", tmp_path / "w", WeightsConfig())
    with pytest.raises(InputError, match="made from another data set") as caught:
        augment.run(tmp_path / "d", tmp_path / "a", AugmentConfig(samples=1), weights=tmp_path / "w")
    assert "unetcli weights" in caught.value.fix
    weights.run(tmp_path / "d", tmp_path / "w", WeightsConfig(), overwrite=True)
    augment.run(tmp_path / "d", tmp_path / "a", AugmentConfig(samples=1), weights=tmp_path / "w")

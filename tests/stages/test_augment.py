"""Augmentation: sample k is a function of the seed and k, and warps all arrays by one field."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Stopped, assert_same_files, cells, count_calls, files_of, pixels, stop_after
from unetcli.config import AugmentConfig, PrepConfig, WeightsConfig
from unetcli.errors import ConfigError, InputError, UnetcliError
from unetcli.image.dataset import open_dataset
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
    augment.run(instances, tmp_path / "whole", AugmentConfig(samples=2), weights=weight_maps)
    request.getfixturevalue("small_tiles")
    augment.run(instances, tmp_path / "tiled", AugmentConfig(samples=2), weights=weight_maps)
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


def test_parameters_are_written_down(instances, tmp_path):
    augment.run(instances, tmp_path / "a", AugmentConfig(samples=3, elastic=5, grid="4"))
    rows = rows_of(tmp_path / "a")
    assert [r["sample"] for r in rows] == ["sample_00000", "sample_00001", "sample_00002"]
    assert {r["image"] for r in rows} <= {"img_00", "img_01"}  # img_02 is for validation
    for row in rows:
        assert np.shape(json.loads(row["displacement_px"]))[-2:] == (4, 4)
        assert np.isfinite(json.loads(row["matrix"])).all()
        assert isinstance(json.loads(row["gray"]), dict)


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
    augment.run(data, tmp_path / "a", AugmentConfig(samples=2), weights=maps)
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


def test_a_preview_that_can_not_be_written_fails_before_the_work(instances, tmp_path):
    with pytest.raises((UnetcliError, OSError)):
        augment.run(instances, tmp_path / "a", AugmentConfig(samples=1), preview=tmp_path / "none" / "sheet.png")
    assert not (tmp_path / "a").exists()


def test_stopped_anywhere_and_called_again_ends_in_the_same_bytes(instances, weight_maps, tmp_path, small_tiles):
    config = AugmentConfig(samples=2)
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

"""Weight maps equal a slow oracle, whatever the tiling: one distance transform per object."""

import numpy as np
import pytest
from scipy import ndimage

from tests.conftest import Stopped, assert_same_files, cells, count_calls, pixels, stop_after
from unetcli.config import PrepConfig, WeightsConfig
from unetcli.errors import ConfigError, InputError, UnetcliError
from unetcli.image.store import open_store
from unetcli.stages import prep, weights


def separated(objects, width):
    """Return where an object has another one within a chessboard distance."""
    near = np.zeros(objects.shape, bool)
    size = tuple(min(2 * width + 1, 2 * n - 1) for n in objects.shape)
    for i in np.unique(objects[objects > 0]):
        near |= ndimage.maximum_filter(objects == i, size=size) & (objects > 0) & (objects != i)
    return near


def slow_weights(truth, kind, config, spacing):
    """Return weights and target of one volume: components, cut, balance, one distance transform per object."""
    objects = truth.astype(np.int64)
    if kind == "classes":
        objects, last = np.zeros(truth.shape, np.int64), 0
        for c in range(1, truth.max() + 1):
            found, n = ndimage.label(truth == c)
            objects[found > 0] = found[found > 0] + last
            last += n
    target = (truth if kind == "classes" else truth > 0).astype(np.uint8)
    if config.border_width:
        of_class = truth if kind == "classes" else truth > 0
        parts = [np.where(of_class == c, objects, 0) for c in range(1, of_class.max() + 1)]
        border = np.any([separated(part, config.border_width) for part in parts], axis=0)
        target, objects = np.where(border, 0, target).astype(np.uint8), np.where(border, 0, objects)
    distances = [
        ndimage.distance_transform_edt(objects != i, sampling=spacing) for i in np.unique(objects[objects > 0])
    ]
    term = np.zeros(truth.shape)
    if len(distances) > 1:
        d1, d2 = np.sort(distances, axis=0)[:2]
        term = np.where(objects == 0, config.w0 * np.exp(-((d1 + d2) ** 2) / (2 * config.sigma**2)), 0)
    return term, target


def slow_map(truth, kind, config, *, ndim, spacing=(1, 1, 1), n_classes=2):
    """Return weights and target of (z, y, x) labels: volume by volume, the balance over all of them."""
    volumes = truth[:, None] if ndim == 2 else truth[None]
    terms, targets = zip(*(slow_weights(v, kind, config, spacing) for v in volumes), strict=True)
    term, target = np.concatenate(terms), np.concatenate(targets)
    counts = np.bincount(target.ravel(), minlength=n_classes)
    balance = counts.sum() / ((counts > 0).sum() * np.maximum(counts, 1)) * (counts > 0)
    return balance[target] + term, target


def prepared(folder, image, labels, **config):
    for name, array in (("image.npy", image), ("labels.npy", labels)):
        np.save(folder / name, array)
    prep.run([folder / "image.npy"], folder / "d.zarr", PrepConfig(**config), labels=[folder / "labels.npy"])
    return folder / "d.zarr"


CASES = {
    "2D instances": ((70, 85), {"label_kind": "instances"}, {}),
    "2D classes": ((70, 85), {"label_kind": "classes"}, {}),
    "2D wide cut": ((50, 61), {"label_kind": "instances"}, {"border_width": 3, "sigma": 2.0}),
    "2D no cut": ((50, 61), {"label_kind": "instances"}, {"border_width": 0}),
    "2D no border term": ((50, 61), {"label_kind": "instances"}, {"w0": 0.0}),
    "planes": ((3, 40, 45), {"label_kind": "instances", "ndim": 2}, {}),
    "planes of classes": ((3, 40, 45), {"label_kind": "classes", "ndim": 2}, {}),
    "3D instances": ((5, 27, 33), {"label_kind": "instances", "ndim": 3}, {"sigma": 3.0}),
    "3D classes": ((5, 27, 33), {"label_kind": "classes", "ndim": 3}, {"sigma": 3.0}),
    "3D spacing": ((5, 27, 33), {"label_kind": "instances", "ndim": 3, "pixel_size": "2.5,1,1um"}, {"sigma": 3.0}),
    "one row": ((1, 50), {"label_kind": "instances"}, {}),
    "3x5": ((3, 5), {"label_kind": "instances"}, {}),
}


@pytest.mark.parametrize("how", ["whole", "tiled", "tiled 0.4"])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_oracle(tmp_path, request, case, how):
    if how != "whole":
        request.getfixturevalue("small_tiles")
    shape, preparation, settings = CASES[case]
    image, labels = cells(shape, 5, pitch=9)
    if preparation["label_kind"] == "classes":
        labels = np.where(labels == 0, 0, labels % 2 + 1)
    if max(shape) <= 5:
        labels = np.array([[0, 0, 1, 1, 2]] * 3, np.uint16)
    data = prepared(tmp_path, image, labels, ngff="0.4" if how.endswith("0.4") else "0.5", **preparation)
    config = WeightsConfig(**settings)
    weights.run(data, tmp_path / "w", config)
    spacing = (2.5, 1, 1) if "pixel_size" in preparation else (1, 1, 1)
    volume = labels.reshape((1,) * (3 - labels.ndim) + labels.shape)
    kind = preparation["label_kind"]
    n_classes = 3 if kind == "classes" else 2
    ndim = preparation.get("ndim", 2)
    expected, target = slow_map(volume, kind, config, ndim=ndim, spacing=spacing, n_classes=n_classes)
    np.testing.assert_array_equal(pixels(tmp_path / "w", label="target")[0, 0], target)
    np.testing.assert_allclose(pixels(tmp_path / "w")[0, 0], expected, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("kind", ["instances", "classes"])
@pytest.mark.parametrize("shape", [(50, 61), (5, 27, 33)], ids=["2D", "3D"])
def test_tiles_give_the_bytes_of_the_whole(tmp_path, monkeypatch, shape, kind):
    image, labels = cells(shape, 6, pitch=8)
    labels = labels if kind == "instances" else np.where(labels == 0, 0, labels % 2 + 1)
    found = []
    for i, (shard, chunk) in enumerate([(2048, 512), (32, 16), (24, 8)]):
        monkeypatch.setattr("unetcli.image.new_store.SHARD", shard)
        monkeypatch.setattr("unetcli.image.new_store.CHUNK", chunk)
        folder = tmp_path / str(i)
        folder.mkdir()
        data = prepared(folder, image, labels, label_kind=kind, ndim=len(shape))
        weights.run(data, folder / "w", WeightsConfig(), workers=i + 1)
        found.append((pixels(folder / "w"), pixels(folder / "w", label="target")))
    for w, target in found[1:]:
        assert w.tobytes() == found[0][0].tobytes()
        assert target.tobytes() == found[0][1].tobytes()


def test_objects_that_touch_are_cut_apart(tmp_path):
    labels = np.zeros((20, 30), np.uint8)
    labels[4:16, 5:15], labels[4:16, 15:25] = 1, 2
    data = prepared(tmp_path, labels, labels)
    weights.run(data, tmp_path / "w", WeightsConfig(balance="none"))
    target, w = pixels(tmp_path / "w", label="target")[0, 0, 0], pixels(tmp_path / "w")[0, 0, 0]
    assert not target[4:16, 14:16].any()
    assert target[4:16, 5:14].all()
    assert target[4:16, 16:25].all()
    assert w[10, 14] == pytest.approx(1 + 10 * np.exp(-(3**2) / 50))  # 1 px to one object, 2 to the other
    assert (w[target == 1] == 1).all()


@pytest.mark.parametrize(
    ("balance", "expected"), [("none", (1, 1)), ("1,2.5", (1, 2.5)), ("0,3", (0, 3))], ids=["none", "numbers", "zero"]
)
def test_balance(instances, tmp_path, balance, expected):
    weights.run(instances, tmp_path / "w", WeightsConfig(balance=balance, w0=0))
    for image in open_store(tmp_path / "w").images:
        target = pixels(tmp_path / "w", image.name, "target")
        np.testing.assert_array_equal(pixels(tmp_path / "w", image.name), np.float32(expected)[target])


def test_inverse_balance_is_that_of_the_whole_data_set(instances, weight_maps):
    names = [image.name for image in open_store(instances).images]
    target = np.concatenate([pixels(weight_maps, n, "target").ravel() for n in names])
    found = open_store(weight_maps).attributes["weights"]["balance"]
    np.testing.assert_allclose(found, target.size / (2 * np.bincount(target)))


@pytest.mark.parametrize("balance", ["1", "1,2,3", "a,b", "-1,2", "nan,1", "0,0", ""])
def test_balance_that_makes_no_sense_is_refused_before_anything_is_written(instances, tmp_path, balance):
    with pytest.raises(ConfigError, match="--balance"):
        weights.run(instances, tmp_path / "w", WeightsConfig(balance=balance))
    assert not list(tmp_path.iterdir())


def test_without_labels(folders, tmp_path):
    prep.run([folders / "images"], tmp_path / "d", PrepConfig())
    with pytest.raises(InputError, match="no labels"):
        weights.run(tmp_path / "d", tmp_path / "w", WeightsConfig())
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("kind", ["instances", "classes"])
def test_stopped_anywhere_and_called_again_ends_in_the_same_bytes(request, tmp_path, small_tiles, kind):
    image, labels = cells((60, 70), 2, pitch=12)
    data = prepared(tmp_path, image, np.minimum(labels, 1) if kind == "classes" else labels, label_kind=kind)
    calls = count_calls(lambda p: weights.run(data, tmp_path / "whole", WeightsConfig(), progress=p))
    for after in range(0, calls, max(1, calls // 5)):
        out = tmp_path / f"stopped_{after}"
        with pytest.raises(Stopped):
            weights.run(data, out, WeightsConfig(), progress=stop_after(after))
        with pytest.raises(InputError, match="not complete"):
            open_store(out)
        weights.run(data, out, WeightsConfig())
        assert_same_files(out, tmp_path / "whole")


def test_a_second_call_does_nothing_and_other_settings_are_refused(instances, weight_maps, copy_of):
    out = copy_of(weight_maps)
    assert weights.run(instances, out, WeightsConfig())["already_done"]
    with pytest.raises(ConfigError, match=r"sigma was 5\.0, is 4"):
        weights.run(instances, out, WeightsConfig(sigma=4))
    weights.run(instances, out, WeightsConfig(sigma=4), overwrite=True)
    assert open_store(out).attributes["fingerprint"]["settings"]["sigma"] == 4


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_data_set_is_never_the_output(instances, copy_of, overwrite):
    data = copy_of(instances)
    with pytest.raises(UnetcliError):
        weights.run(data, data, WeightsConfig(), overwrite=overwrite)
    assert_same_files(data, instances)


def test_dry_run_writes_nothing(instances, tmp_path):
    weights.run(instances, tmp_path / "w", WeightsConfig(), dry_run=True)
    assert not list(tmp_path.iterdir())


def test_different_classes_that_touch_stay_what_they_are(tmp_path):
    labels = np.repeat([[0] * 5 + [1] * 6 + [2] * 7 + [3] * 8], 20, axis=0).astype(np.uint8)
    data = prepared(tmp_path, np.zeros(labels.shape, np.uint8), labels, label_kind="classes")
    weights.run(data, tmp_path / "w", WeightsConfig())
    np.testing.assert_array_equal(pixels(tmp_path / "w", label="target")[0, 0, 0], labels)

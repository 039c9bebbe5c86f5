"""Weight maps equal a slow oracle, whatever the tiling: one distance transform per object."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from tests.conftest import Stopped, assert_same_files, cells, count_calls, files_of, pixels, stop_after
from tests.kernels import oracles
from unetcli.config import PrepConfig, WeightsConfig
from unetcli.errors import ConfigError, InputError, UnetcliError
from unetcli.image.store import open_store
from unetcli.image.tiling import Box
from unetcli.kernels.weight_map import class_balance
from unetcli.stages import prep, weights


def parts_of(values):
    """Return the connected parts of each value, numbered."""
    objects, last = np.zeros(values.shape, np.int64), 0
    for value in np.unique(values[values > 0]):
        found, n = ndimage.label(values == value)
        objects[found > 0] = found[found > 0] + last
        last += n
    return objects


def slow_weights(truth, kind, config, spacing, ids=None):
    """Return the target of one volume, and the gain of each pixel: one distance transform per object."""
    classes = (truth if kind == "classes" else truth > 0).astype(np.uint8)
    values = truth if ids is None else ids
    objects = parts_of(values) if config.relabel or (ids is None and kind == "classes") else values.astype(np.int64)
    ignored = truth == int(config.ignore) if config.ignore else np.zeros(truth.shape, bool)
    classes = np.where(ignored, 0, classes)
    objects = np.where(classes > 0, objects, 0)
    if config.border_width:
        parts = [np.where(classes == c, objects, 0) for c in range(1, classes.max() + 1)]
        border = np.any([oracles.separation_border(p, config.border_width) for p in parts], axis=0) if parts else False
        classes, objects = np.where(border, 0, classes), np.where(border, 0, objects)
    d1, d2 = oracles.nearest_two(objects, spacing, np.inf)
    narrow = config.w0 * np.exp(-((d1 + d2) ** 2) / (2 * config.sigma**2))
    is_background = classes == 0
    gain = np.where(is_background | (config.inside & (objects > 0)), narrow, 0)
    if config.recipe == "plugin":
        surroundings = (1 - config.background) * np.exp(-(d1**2) / (2 * config.sigma1**2))
        gain += np.where(is_background, surroundings, 0)
    return gain, classes.astype(np.uint8), ignored


def slow_map(truth, kind, config, *, ndim, spacing=(1, 1, 1), n_classes=2, ids=None):
    """Return weights and target of (z, y, x) labels: volume by volume, the balance over all of them."""
    volumes, of_ids = (v if v is None else v[:, None] if ndim == 2 else v[None] for v in (truth, ids))
    parts = [
        slow_weights(v, kind, config, spacing, None if ids is None else i)
        for v, i in zip(volumes, volumes if ids is None else of_ids, strict=True)
    ]
    gain, target, ignored = (np.concatenate(part) for part in zip(*parts, strict=True))
    counts = np.bincount(target[~ignored], minlength=n_classes)
    balance = counts.sum() / ((counts > 0).sum() * np.maximum(counts, 1)) * (counts > 0)
    if config.recipe == "plugin":
        balance = np.array([config.background] + [1] * (n_classes - 1))
    return np.where(ignored, 0, balance[target] + gain), target


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
    "plugin": ((70, 85), {"label_kind": "instances"}, {"recipe": "plugin", "sigma": 4.0, "sigma1": 3.0}),
    "plugin, classes": ((50, 61), {"label_kind": "classes"}, {"recipe": "plugin", "background": 0.25}),
    "plugin, 3D spacing": (
        (5, 27, 33),
        {"label_kind": "instances", "ndim": 3, "pixel_size": "2.5,1,1um"},
        {"recipe": "plugin", "sigma": 2.0, "sigma1": 2.0},
    ),
    "inside": ((50, 61), {"label_kind": "instances"}, {"inside": True}),
    "inside, plugin, 3D": (
        (5, 27, 33),
        {"label_kind": "classes", "ndim": 3},
        {"inside": True, "recipe": "plugin", "sigma": 2.0, "sigma1": 2.0},
    ),
    "an id ignored": ((50, 61), {"label_kind": "instances"}, {"ignore": "3"}),
    "a class ignored": ((50, 61), {"label_kind": "classes"}, {"ignore": "2", "border_width": 2}),
    "background ignored": ((50, 61), {"label_kind": "classes"}, {"ignore": "0"}),
    "a class ignored, 3D": ((5, 27, 33), {"label_kind": "classes", "ndim": 3}, {"ignore": "1", "sigma": 3.0}),
    "ids that repeat": ((50, 61), {"label_kind": "instances"}, {"relabel": True, "border_width": 2}),
    "ids that repeat in planes": ((3, 40, 45), {"label_kind": "instances", "ndim": 2}, {"relabel": True}),
    "ids that repeat, 3D": ((5, 27, 33), {"label_kind": "instances", "ndim": 3}, {"relabel": True, "sigma": 3.0}),
    "one row": ((1, 50), {"label_kind": "instances"}, {}),
    "3x5": ((3, 5), {"label_kind": "instances"}, {}),
}


@pytest.mark.parametrize(
    ("case", "how"),
    [
        *((case, how) for case in CASES for how in ("whole", "tiled")),
        *((case, "tiled 0.4") for case in ("2D instances", "planes of classes", "3D spacing")),
    ],
)
def test_equals_the_oracle(tmp_path, request, case, how):
    if how != "whole":
        request.getfixturevalue("small_tiles")
    shape, preparation, settings = CASES[case]
    image, labels = cells(shape, 5, pitch=9)
    if preparation["label_kind"] == "classes":
        labels = np.where(labels == 0, 0, labels % 2 + 1)
    if settings.get("relabel"):
        labels = np.where(labels == 0, 0, labels % 3 + 1)
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


def prepared_twice(folder, shape, *, ndim=2):
    """Prepare the same picture with classes, and with ids that are neither parts of them nor all within."""
    image, ids = cells(shape, 5, pitch=9)
    classes = np.where(ids == 0, 0, ids % 2 + 1)
    classes[..., :8] = 2  # pixels of a class but of no object, and background within objects
    classes[..., 20:24] = 0
    sets = []
    for kind, labels in (("classes", classes), ("instances", ids)):
        (folder / kind).mkdir()
        sets.append(prepared(folder / kind, image, labels.astype(np.uint16), label_kind=kind, ndim=ndim))
    volume = (1,) * (3 - len(shape)) + shape
    return *sets, classes.reshape(volume), ids.reshape(volume)


@pytest.mark.parametrize("how", ["whole", "tiled"])
@pytest.mark.parametrize(
    ("shape", "settings"),
    [((50, 61), {}), ((50, 61), {"recipe": "plugin", "inside": True}), ((50, 61), {"relabel": True}),
     ((5, 27, 33), {"sigma": 3.0, "ignore": "class_1"})],
    ids=["2D", "plugin", "relabel", "3D, ignore"],
)  # fmt: skip
def test_classes_with_object_ids_of_their_own(tmp_path, request, shape, settings, how):
    if how == "tiled":
        request.getfixturevalue("small_tiles")
    data, objects, classes, ids = prepared_twice(tmp_path, shape, ndim=len(shape))
    weights.run(data, tmp_path / "w", WeightsConfig(**settings), objects=objects)
    oracle = WeightsConfig(**{**settings, **({"ignore": "1"} if "ignore" in settings else {})})
    expected, target = slow_map(classes, "classes", oracle, ndim=len(shape), n_classes=3, ids=ids)
    np.testing.assert_array_equal(pixels(tmp_path / "w", label="target")[0, 0], target)
    np.testing.assert_allclose(pixels(tmp_path / "w")[0, 0], expected, rtol=1e-6, atol=2e-7)


def test_objects_that_do_not_fit(tmp_path, instances, classes):
    data, objects, _, _ = prepared_twice(tmp_path, (50, 61))
    for given, other, said in (
        (objects, data, "its labels are instances; expected classes"),
        (data, data, "--objects .*: its labels are classes; expected ids"),
        (data, instances, "object ids of image are none; expected 1x1x1x50x61"),
    ):
        with pytest.raises(InputError, match=said):
            weights.run(given, tmp_path / "w", WeightsConfig(), objects=other)
    assert not (tmp_path / "w").exists()
    weights.run(classes, tmp_path / "w", WeightsConfig(), objects=instances)
    with pytest.raises(ConfigError, match="was made with other inputs"):
        weights.run(classes, tmp_path / "w", WeightsConfig())


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


def test_median_balance_counts_image_by_image(instances, tmp_path):
    names = [image.name for image in open_store(instances).images]
    weights.run(instances, tmp_path / "w", WeightsConfig(balance="median"))
    counts = [np.bincount(pixels(tmp_path / "w", n, "target").ravel()) for n in names]
    found = open_store(tmp_path / "w").attributes["weights"]["balance"]
    np.testing.assert_allclose(found, class_balance(np.array(counts), "median"))


@pytest.mark.parametrize(
    ("kind", "ignore", "said"),
    [
        ("classes", "3", "--ignore 3: expected the number or name of a class: 0 background, 1 foreground"),
        ("classes", "cell", "--ignore cell: expected the number or name"),
        ("instances", "0", "--ignore 0: expected an object id"),
        ("instances", "object", "--ignore object: expected an object id"),
    ],
)
def test_ignored_values_that_can_not_be(request, tmp_path, kind, ignore, said):
    with pytest.raises(ConfigError, match=said):
        weights.run(request.getfixturevalue(kind), tmp_path / "w", WeightsConfig(ignore=ignore))
    assert not list(tmp_path.iterdir())


def test_everything_ignored(tmp_path):
    labels = np.zeros((20, 30), np.uint8)
    labels[5:8, 5:9] = 1
    data = prepared(tmp_path, labels, labels, label_kind="instances")
    truth = replace(open_store(data).images[0].labels("truth"), writable=True)
    truth.write(Box.whole(truth.shape), np.ones(truth.shape, np.uint32))
    with pytest.raises(InputError, match="--ignore 1: all pixels"):
        weights.run(data, tmp_path / "w", WeightsConfig(ignore="1"))


@pytest.mark.parametrize("recipe", ["paper", "plugin"])
@pytest.mark.parametrize("ignore", ["1", None], ids=["no object", "one object"])
def test_no_second_object(tmp_path, recipe, ignore):
    labels = np.zeros((20, 30), np.uint8)
    labels[5:8, 5:9] = 1
    data = prepared(tmp_path, labels, labels, label_kind="instances")
    config = WeightsConfig(recipe=recipe, sampling=0.5, ignore=ignore)
    weights.run(data, tmp_path / "w", config, explain=tmp_path / "e.png")
    expected, _ = slow_map(labels[None], "instances", config, ndim=2)
    np.testing.assert_allclose(pixels(tmp_path / "w")[0, 0], expected, rtol=1e-6, atol=2e-7)


SAMPLED = {
    "2D": ((70, 85), {"label_kind": "instances"}, {}),
    "2D ignore": ((70, 85), {"label_kind": "classes"}, {"ignore": "1"}),
    "planes": ((3, 40, 45), {"label_kind": "instances", "ndim": 2}, {}),
    "3D": ((5, 33, 27), {"label_kind": "instances", "ndim": 3}, {"ignore": "2"}),
}


@pytest.mark.parametrize("tile", [2048, 32, 24])
@pytest.mark.parametrize("case", SAMPLED)
def test_sampling_map(tmp_path, monkeypatch, case, tile):
    monkeypatch.setattr("unetcli.image.new_store.SHARD", tile)
    monkeypatch.setattr("unetcli.image.new_store.CHUNK", tile // 2)
    shape, preparation, settings = SAMPLED[case]
    image, labels = cells(shape, 5, pitch=9)
    labels = labels if preparation["label_kind"] == "instances" else np.where(labels == 0, 0, labels % 2 + 1)
    data = prepared(tmp_path, image, labels, pixel_size="0.5um", **preparation)
    weights.run(data, tmp_path / "w", WeightsConfig(sampling=0.3, balance="none", **settings))
    target, w = (pixels(tmp_path / "w", label=label)[0, 0] for label in ("target", None))
    density = np.where(w == 0, 0, np.where(target > 0, 1, 0.3))
    sampling = open_store(tmp_path / "w" / "sampling").images[0]
    found = sampling.level.read(Box.whole(sampling.level.shape))[0, 0]
    assert found.shape == (density.shape[0], *(-(-n // 32) for n in density.shape[1:]))
    for z, y, x in np.ndindex(found.shape):
        part = density[z, 32 * y : 32 * y + 32, 32 * x : 32 * x + 32]
        assert found[z, y, x] == pytest.approx(part.mean())
    assert [sampling.axes.scale_of(a) for a in "yx"] == [16, 16]
    assert sampling.level.dtype == np.float32


def test_an_ignored_id_that_occurs_nowhere_is_told(instances, tmp_path):
    result = weights.run(instances, tmp_path / "w", WeightsConfig(ignore="54321"))
    assert result["ignored"] == "0.0% of pixels"


@pytest.mark.parametrize("sigma", [300.0, 1e6, 0.01])
def test_a_reach_past_the_image_costs_no_more_than_the_image(tmp_path, small_tiles, sigma):
    labels = cells((50, 61), 5, pitch=9)[1]
    config = WeightsConfig(sigma=sigma)
    weights.run(prepared(tmp_path, *cells((50, 61), 5, pitch=9)), tmp_path / "w", config)
    expected = slow_map(labels.reshape(1, 50, 61), "instances", config, ndim=2)[0]
    np.testing.assert_allclose(pixels(tmp_path / "w")[0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("sigma", [5.0, 1e6])
def test_explain_where_much_is_ignored(tmp_path, small_tiles, sigma):
    image, labels = cells((80, 61), 5, pitch=9)
    labels[:64] = 99
    config = WeightsConfig(ignore="99", sigma=sigma)
    data = prepared(tmp_path, image, labels, label_kind="instances")
    weights.run(data, tmp_path / "w", config, explain=tmp_path / "e.png")
    assert (tmp_path / "e.png").is_file()


def test_explain_on_a_store_that_is_complete_changes_nothing(classes, tmp_path):
    weights.run(classes, tmp_path / "w", WeightsConfig(), explain=tmp_path / "a.png")
    before = files_of(tmp_path / "w")
    result = weights.run(classes, tmp_path / "w", WeightsConfig(), explain=tmp_path / "b.png")
    assert result["already_done"]
    assert result["explained"] == str(tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert files_of(tmp_path / "w") == before


def test_explain_where_nothing_can_be_written(instances, tmp_path):
    with pytest.raises(InputError, match=r"--explain .*: can not be written"):
        weights.run(instances, tmp_path / "w", WeightsConfig(), explain=tmp_path / "no" / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("balance", ["1", "1,2,3", "a,b", "-1,2", "nan,1", "0,0", "1,1e300", ""])
def test_balance_that_makes_no_sense_is_refused_before_anything_is_written(instances, tmp_path, balance):
    with pytest.raises(ConfigError, match="--balance"):
        weights.run(instances, tmp_path / "w", WeightsConfig(balance=balance))
    assert not list(tmp_path.iterdir())


def test_without_labels(folders, tmp_path):
    prep.run([folders / "images"], tmp_path / "d", PrepConfig())
    with pytest.raises(InputError, match="no labels"):
        weights.run(tmp_path / "d", tmp_path / "w", WeightsConfig())
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("kind", ["instances", pytest.param("classes", marks=pytest.mark.slow)])
def test_stopped_anywhere_and_called_again_ends_in_the_same_bytes(request, tmp_path, small_tiles, kind):
    image, labels = cells((60, 70), 2, pitch=12)
    data = prepared(tmp_path, image, np.minimum(labels, 1) if kind == "classes" else labels, label_kind=kind)
    config = WeightsConfig(relabel=True, recipe="plugin", sampling=0.2, ignore="1" if kind == "instances" else None)
    calls = count_calls(lambda p: weights.run(data, tmp_path / "whole", config, progress=p))
    for after in range(0, calls, max(1, calls // 5)):
        out = tmp_path / f"stopped_{after}"
        with pytest.raises(Stopped):
            weights.run(data, out, config, progress=stop_after(after))
        with pytest.raises(InputError, match="not complete"):
            open_store(out)
        weights.run(data, out, config)
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

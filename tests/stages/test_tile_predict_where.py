"""Prediction where it is worth it, and at several scales: blocks outside of a region are 0, all else is as ever."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.filters import threshold_otsu

from tests.conftest import cells, pixels
from tests.stages.test_tile_predict import make_model, prepared
from tests.stages.test_tile_predict_outputs import predict
from unetcli.config import PredictConfig, PrepConfig
from unetcli.errors import ConfigError, InputError
from unetcli.image.levels import Subject
from unetcli.image.region import region_of
from unetcli.image.source import read_mirrored
from unetcli.image.store import open_store
from unetcli.image.tiling import Box
from unetcli.prediction.where import otsu, restricted
from unetcli.stages import prep, tile_predict


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "same": make_model(folder / "same.safetensors"),
        "valid": make_model(folder / "valid.safetensors", padding="valid"),
        "volumes": make_model(folder / "volumes.safetensors", ndim=3, features=(2, 3)),
    }


@pytest.fixture
def small_blocks(monkeypatch):
    """Make the blocks that are computed, or left out, small."""
    monkeypatch.setattr("unetcli.image.region.BLOCKS", {False: (1, 1, 1, 12, 12), True: (1, 1, 3, 8, 8)})
    return {2: (1, 12, 12), 3: (3, 8, 8)}


def blocks_with(inside, block):
    """Tell of each pixel (z, y, x) whether its block holds any pixel that is inside, one block at a time."""
    result = np.zeros_like(inside)
    for start in itertools.product(*(range(0, n, b) for n, b in zip(inside.shape, block, strict=True))):
        at = tuple(slice(a, a + b) for a, b in zip(start, block, strict=True))
        result[at] = inside[at].any()
    return result


def store_of(folder, array, **config):
    """Write an array as a store of its own."""
    folder.mkdir()
    return prepared(folder, array, **config)


def test_there_are_no_objects_where_nothing_is_predicted(tmp_path, models, small_tiles, small_blocks):
    data = prepared(tmp_path, cells((60, 70), 0)[0])
    inside = np.zeros((1, 60, 70), np.uint8)
    inside[:, 20:30, 25:40] = 1
    region = store_of(tmp_path / "region", inside[0])
    written = {"probabilities": tmp_path / "p", "instances": tmp_path / "i"}
    config = PredictConfig(threshold=0.3)
    tile_predict.run(data, tmp_path / "m", config, model=models["same"], where=str(region), **written)
    expected = np.where(blocks_with(inside, small_blocks[2]), pixels(tmp_path / "p")[0, 1] >= 0.3, False)
    np.testing.assert_array_equal(pixels(tmp_path / "i")[0, 0], ndimage.label(expected)[0])
    assert expected.any()


@pytest.mark.parametrize("shard", [16, 32, 4096])
@pytest.mark.parametrize(
    ("kind", "shape", "axes"),
    [("same", (70, 51), "yx"), ("valid", (3, 40, 30), "zyx"), ("volumes", (5, 20, 26), "zyx")],
    ids=lambda v: str(v),
)
def test_blocks_outside_are_0_and_all_else_is_as_ever(tmp_path, models, small_blocks, kind, shape, axes, shard):
    data = prepared(tmp_path, cells(shape, 0)[0], axes=axes)
    inside = np.zeros(shape, bool)
    inside[..., 5, 7] = inside[..., -9:, 20:23] = inside[-1, ..., 3] = True
    roi = store_of(tmp_path / "roi", inside.astype(np.uint8), axes=axes)
    every = predict(data, tmp_path / "all", models[kind], beside=("probabilities", "uncertainty"))
    some = {"options": {"where": str(roi)}, "beside": ("probabilities", "uncertainty")}
    found = predict(data, tmp_path / "some", models[kind], shard=shard, **some)
    inside = inside if inside.ndim == 3 else inside[None]
    computed = blocks_with(inside, small_blocks[3 if kind == "volumes" else 2])
    assert 0 < computed.mean() < 0.9
    for name, expected in every.items():
        np.testing.assert_allclose(found[name], np.where(computed, expected, 0), atol=1e-5)
        assert found[name].dtype == expected.dtype


@pytest.mark.parametrize("size", [(70, 51), (35, 25), (18, 13), (140, 102), (7, 5), (1, 1)], ids=str)
def test_a_mask_of_any_size_of_pixels_tells_the_region(tmp_path, small_blocks, size):
    """Each pixel of the mask is spread over the pixels of the image that it covers, slowly."""
    rng = np.random.default_rng(0)
    mask = (rng.random(size) < 0.05).astype(np.uint8)
    mask[-1, 0] = 1
    shape = (1, 1, 1, 70, 51)
    level = open_store(store_of(tmp_path / "roi", mask)).images[0].level
    factors = [n / m for n, m in zip((70, 51), size, strict=True)]
    inside = np.zeros((1, 70, 51), bool)
    for j, i in np.argwhere(mask):
        spans = [
            slice(math.floor(k * f + 1e-6), max(math.ceil((k + 1) * f - 1e-6), math.floor(k * f + 1e-6) + 1))
            for k, f in zip((j, i), factors, strict=True)
        ]
        inside[(0, *spans)] = True
    region = region_of(level, lambda pixels: pixels != 0, shape, (1.0, 1.0, 1.0), deep=False)
    full = np.ones(shape)
    region.clear(full, Box.whole(shape))
    np.testing.assert_array_equal(full[0, 0] != 0, blocks_with(inside, small_blocks[2]))


@pytest.mark.parametrize("name", ["tissue", "truth", "store"])
def test_shards_without_anything_are_not_read(tmp_path, models, small_blocks, monkeypatch, name):
    picture = np.full((96, 96), 10, np.uint8)
    picture[76:80, 75:80] = 200
    inside = (picture > 100).astype(np.uint8)
    np.save(tmp_path / "image.npy", picture)
    np.save(tmp_path / "inside.npy", inside)
    prep.run([tmp_path / "image.npy"], tmp_path / "d", PrepConfig(), labels=[tmp_path / "inside.npy"])
    where = str(store_of(tmp_path / "s", inside)) if name == "store" else name
    boxes = []
    read = "unetcli.prediction.predictor.read_mirrored"
    monkeypatch.setattr(read, lambda source, box: boxes.append(box) or read_mirrored(source, box))
    found = predict(tmp_path / "d", tmp_path / "m", models["same"], shard=24, options={"where": where})
    assert len(boxes) == 1  # of 9 shards
    assert (found["probabilities"].max(1)[..., 76:80, 75:80] > 0).all()


@pytest.mark.parametrize(("edge", "skipped"), [(120, "99.0%"), (121, "99.0%"), (31, "91.3%")])
def test_the_share_that_is_skipped_is_told_and_counts_no_tiles(tmp_path, models, small_blocks, edge, skipped):
    mask = np.zeros((edge, edge), np.uint8)
    mask[29, 18] = 1
    data, roi = prepared(tmp_path, cells((edge, edge), 0)[0]), store_of(tmp_path / "roi", mask)
    options = {"model": models["same"], "device": "cpu", "where": str(roi)}
    dry = tile_predict.run(data, tmp_path / "m", PredictConfig(), dry_run=True, **options)
    done = tile_predict.run(data, tmp_path / "m", PredictConfig(), **options)
    assert dry["skipped"] == done["skipped"] == f"{skipped} of the image"
    assert dry["tiles"] == done["tiles"] == 1


def test_another_region_is_another_run(tmp_path, models):
    data = prepared(tmp_path, cells((40, 30), 0)[0])
    first, second = (store_of(tmp_path / f"roi{k}", np.full((40, 30), k, np.uint8)) for k in (0, 1))
    run = partial(tile_predict.run, data, tmp_path / "m", PredictConfig(), model=models["same"], device="cpu")
    run(where=str(first))
    assert run(where=str(first))["already_done"]
    with pytest.raises(ConfigError, match="inputs where was"):
        run(where=str(second))
    with pytest.raises(ConfigError, match="where was"):
        run(where="tissue")
    with pytest.raises(ConfigError, match="where was"):
        run()


@pytest.mark.parametrize(
    ("shape", "message"), [((40, 90), "expected the same field"), ((2, 40, 30), "expected the same field")], ids=str
)
def test_regions_of_another_field_are_refused(tmp_path, models, shape, message):
    data = prepared(tmp_path, cells((40, 30), 0)[0])
    roi = store_of(tmp_path / "roi", np.ones(shape, np.uint8), axes="zyx"[-len(shape) :])
    with pytest.raises(InputError, match=message):
        predict(data, tmp_path / "m", models["same"], options={"where": str(roi)})
    assert not (tmp_path / "m" / "mask").exists()


def test_a_collection_has_a_region_for_each_image(tmp_path, models, small_blocks):
    for folder in ("images", "roi"):
        (tmp_path / folder).mkdir()
    for i, shape in enumerate([(40, 50), (33, 71)]):
        np.save(tmp_path / "images" / f"i_{i}.npy", cells(shape, i)[0])
        np.save(tmp_path / "roi" / f"i_{i}.npy", np.eye(*shape, k=7 * i, dtype=np.uint8))
    for folder in ("images", "roi"):
        prep.run([tmp_path / folder], tmp_path / f"{folder}.zarr", PrepConfig())
    options = {"model": models["same"], "device": "cpu"}
    arguments = PredictConfig(), tmp_path / "images.zarr"
    tile_predict.run(arguments[1], tmp_path / "a", arguments[0], **options, probabilities=tmp_path / "ap")
    roi = {"where": str(tmp_path / "roi.zarr")}
    tile_predict.run(arguments[1], tmp_path / "b", arguments[0], **options, probabilities=tmp_path / "bp", **roi)
    for i in range(2):
        inside = np.load(tmp_path / "roi" / f"i_{i}.npy")[None] != 0
        computed = blocks_with(inside, small_blocks[2])
        expected = np.where(computed, pixels(tmp_path / "ap", f"i_{i}"), 0)
        np.testing.assert_allclose(pixels(tmp_path / "bp", f"i_{i}"), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["fluorescence", "bright field", "two channels", "flat", "float"])
def test_tissue_is_what_is_bright_or_in_colours_what_is_dark_or_coloured(tmp_path, small_blocks, kind):
    rng = np.random.default_rng(0)
    tissue = np.zeros((96, 84), bool)
    tissue[10:30, 5:40] = tissue[70:80, 60:70] = True
    noise = rng.normal(0, 3, (3, 96, 84))
    picture = {
        "fluorescence": (np.where(tissue, 900, 100) + noise[:1]).astype(np.uint16),
        "float": (np.where(tissue, 0.9, 0.1) + noise[:1] / 100).astype(np.float32),
        "bright field": (np.where(tissue, [[[220]], [[140]], [[190]]], 235) + noise).astype(np.uint8),
        "two channels": 100
        + noise[:2]
        + 900 * np.stack([tissue & (np.arange(84) < 50), tissue & (np.arange(84) > 50)]),
        "flat": np.full((1, 96, 84), 7, np.uint8),
    }[kind]
    picture = picture.astype(np.uint16) if kind == "two channels" else picture
    source = open_store(store_of(tmp_path / "d", picture, axes="cyx"))
    subjects, inputs = restricted(source, {"": Subject.of(source.images[0], 0, "bilinear")}, "tissue", deep=False)
    full = np.ones((1, 1, 1, 96, 84))
    subjects[""].region.clear(full, Box.whole(full.shape))
    expected = np.ones_like(tissue) if kind == "flat" else blocks_with(tissue[None], small_blocks[2])[0]
    np.testing.assert_array_equal(full[0, 0, 0] != 0, expected)
    assert inputs == []


@settings(max_examples=30)
@given(st.lists(st.integers(0, 20), min_size=2, max_size=40).filter(lambda counts: np.count_nonzero(counts) > 1))
def test_otsu_is_that_of_others(counts):
    separations = [
        sum(counts[: k + 1]) * sum(counts[k + 1 :]) * (mean_of(counts, 0, k + 1) - mean_of(counts, k + 1)) ** 2
        for k in range(len(counts) - 1)
    ]
    found = separations[otsu(np.array(counts))]
    assert found == pytest.approx(max(separations))
    expected = threshold_otsu(hist=(np.array(counts), np.arange(len(counts))))
    assert separations[int(expected)] == pytest.approx(found)


def mean_of(counts, start, stop=None):
    """Return the mean bin of a part of a histogram."""
    part = counts[start:stop]
    return sum((start + k) * n for k, n in enumerate(part)) / max(1, sum(part))


# ------------------------------------------------------------------------------------------- several levels


@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
@pytest.mark.parametrize(
    ("kind", "shape"), [("same", (70, 51)), ("valid", (45, 90)), ("volumes", (5, 20, 26))], ids=str
)
def test_scales_are_the_mean_of_levels_for_any_tiling(tmp_path, models, monkeypatch, kind, shape, upsample):
    monkeypatch.setattr("unetcli.image.pyramid.SMALLEST", 4)
    data = prepared(tmp_path, cells(shape, 0)[0], axes="zyx"[-len(shape) :])
    each = [predict(data, tmp_path / f"{k}", models[kind], level=k, upsample=upsample) for k in (0, 1, 2)]
    expected = np.mean([found["probabilities"] for found in each], axis=0)
    for shard, tile in ((4096, None), (32, 2)):
        found = predict(
            data, tmp_path / f"m{shard}", models[kind], shard=shard, tile=tile, scales="0, 2,1", upsample=upsample
        )
        np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
        np.testing.assert_array_equal(found["mask"][:, 0], found["probabilities"].argmax(1))


def test_scales_go_together_with_views_and_regions(tmp_path, models, small_blocks, monkeypatch):
    monkeypatch.setattr("unetcli.image.pyramid.SMALLEST", 4)
    data, mask = prepared(tmp_path, cells((60, 50), 0)[0]), np.zeros((60, 50), np.uint8)
    mask[30, 20] = 1
    where = str(store_of(tmp_path / "roi", mask))
    config = {"tta": "flips", "uncertainty_kind": "variance", "beside": ("probabilities", "uncertainty")}
    each = [predict(data, tmp_path / f"{k}", models["same"], level=k, **config) for k in (1, 2)]
    found = predict(data, tmp_path / "m", models["same"], scales="1,2", shard=32, options={"where": where}, **config)
    computed = blocks_with(mask[None] != 0, small_blocks[2])
    for name in config["beside"]:
        expected = np.mean([one[name] for one in each], axis=0)
        np.testing.assert_allclose(found[name], np.where(computed, expected, 0), atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {"scales": "a"},
        {"scales": "0,0"},
        {"scales": ""},
        {"scales": "0,1", "level": 1},
        {"scales": "0", "upsample": "none"},
    ],
    ids=str,
)
def test_scales_that_can_not_be(config):
    with pytest.raises(ConfigError, match="--scales"):
        PredictConfig(**config)

"""Progressive resizing: at which step which resolution, and what is left of a patch."""

import numpy as np
import pytest
import torch

from tests.conftest import cells
from tests.training.test_batches import maker
from unetcli.config import PrepConfig, TrainConfig
from unetcli.errors import ConfigError, GeometryError
from unetcli.stages import prep, train
from unetcli.training.resizing import Resolution, reduce_images, reduce_labels

STILL = {
    "elastic": 0, "rotation": 0, "scaling": 1, "flip": False, "contrast": 1, "brightness": 0, "gamma": 0, "noise": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """Return a volume whose planes are twice as far apart as its pixels."""
    folder = tmp_path_factory.mktemp("volume")
    for name, array in zip(("i.npy", "l.npy"), cells((20, 50, 60), 1), strict=True):
        np.save(folder / name, array)
    config = PrepConfig(axes="zyx", pixel_size="2,1,1um")
    prep.run([folder / "i.npy"], folder / "d", config, labels=[folder / "l.npy"])
    return folder / "d"


def test_the_resolution_is_a_function_of_the_step(instances):
    made = maker(instances, patch_size=64, resize_schedule="4:0.3,2:0.3,1", steps=20)
    assert [made.resolution(step).factors[2] for step in (0, 5, 6, 11, 12, 19, 25)] == [4, 4, 2, 2, 1, 1, 1]
    assert made.resolution(0) == Resolution((1, 4, 4), (1, 16, 16), (0, 0, 0))


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({"patch_size": 64, "stride": 4}, (1, 16, 16)),
        ({"patch_size": 56, "stride": 8}, (1, 16, 16)),  # 14 is not legal
        ({"patch_size": 50, "stride": 4, "margin": 7}, (1, 18, 18)),  # nor is 12.5 for 4 k + 18
    ],
    ids=["legal", "the nearest", "the smallest"],
)
def test_the_network_sees_a_legal_size(instances, changes, shape):
    assert maker(instances, resize_schedule="4:0.5,1", **changes).resolution(0).shape == shape


@pytest.mark.parametrize(("factor", "factors"), [(2, (1, 2, 2)), (4, (2, 4, 4))])
def test_what_is_coarse_along_z_is_reduced_less(volume, factor, factors):
    made = maker(volume, ndim=3, patch_size="8,16,16", resize_schedule=f"{factor}:0.5,1")
    assert made.resolution(0).factors == factors
    batch = made.make(0)
    shape = tuple(n // f for n, f in zip((8, 16, 16), factors, strict=True))
    assert (batch.image.shape[2:], batch.target.shape[1:], batch.weights.shape[1:]) == (shape,) * 3


@pytest.mark.parametrize("margin", [0, 2])
def test_a_reduced_patch_is_the_mean_of_its_blocks_and_the_labels_at_their_centres(instances, weight_maps, margin):
    options = {**STILL, "patch_size": 32 + 2 * margin, "margin": margin, "batch_size": 1}
    small = maker(instances, weight_maps, resize_schedule="2:0.5,1", steps=10, **options)
    (sample,), resolution, batch = small.samples(1), small.resolution(1), small.make(1)
    assert sample.shape == resolution.region
    mean, std = small.dataset.normalization()
    image, (target,), weights = sample.render((0, 0, 0), sample.shape, mean, std, [sample.example.target])
    n = sample.shape[1]
    np.testing.assert_allclose(batch.image[0, 0], image[0, 0].reshape(n // 2, 2, n // 2, 2).mean((1, 3)), atol=1e-5)
    inside = np.s_[0, 2 * margin + 1 : n - 2 * margin : 2, 2 * margin + 1 : n - 2 * margin : 2]
    np.testing.assert_array_equal(batch.target[0], target[inside])
    np.testing.assert_allclose(batch.weights[0], weights[inside], rtol=1e-6)


@pytest.mark.parametrize("factors", [(3, 2), (2, 3, 4)])
def test_reducing_is_a_mean_and_a_choice(factors):
    rng = np.random.default_rng(0)
    image, labels = (torch.from_numpy(rng.random((2, *([1] * c), *(5 * f for f in factors)))) for c in (1, 0))
    small, chosen = reduce_images(image, factors), reduce_labels(labels, factors)
    for at in np.ndindex(*(5,) * len(factors)):
        block = tuple(slice(f * i, f * i + f) for f, i in zip(factors, at, strict=True))
        torch.testing.assert_close(small[(0, 0, *at)], image[(0, 0, *block)].mean())
        assert chosen[(0, *at)] == labels[(0, *(s.start + f // 2 for s, f in zip(block, factors, strict=True)))]


def test_one_resolution_for_all_steps():
    assert TrainConfig(steps=50).resize_steps() == [(1, 50)]


@pytest.mark.parametrize(
    "schedule", ["2:0.3", "2:0.6,3:0.4,1", "0:0.5,1", "2:x,1", "", "2:0.5,", "1.5:0.5,1", "4:0.3,2", "2"]
)
def test_a_schedule_that_says_nothing(schedule):
    with pytest.raises(ConfigError, match="--resize-schedule"):
        TrainConfig(resize_schedule=schedule)


def test_a_factor_of_which_nothing_is_left(instances):
    with pytest.raises(GeometryError, match="nothing is left of a patch of 32 pixels at 1/64"):
        maker(instances, resize_schedule="64:0.5,1").make(0)


def test_the_device_does_not_augment_what_it_does_not_know(instances, volume, tmp_path):
    for data, changes, said in [
        (instances, {"resize_schedule": "2:0.5,1"}, "does not go with --resize-schedule"),
        (instances, {"patch_size": "32,64"}, "does not go with patches of 32,64 pixels"),
        (volume, {"ndim": 3, "patch_size": 16}, "does not go with volumes"),
    ]:
        config = TrainConfig(**{"features": "4,8", "augment_on": "device", "patch_size": 32, **changes})
        with pytest.raises(ConfigError, match=said):
            train.run(data, tmp_path / "run", config, device="cpu")

"""The batch of a step: the same from the host and from the device, and the rule that chooses between them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.conftest import TINY, cells
from unetcli.config import PrepConfig, TrainConfig
from unetcli.image.dataset import open_dataset
from unetcli.models.geometry import AxisGeometry, Geometry
from unetcli.stages import prep
from unetcli.training import batches
from unetcli.training.batches import BatchMaker, ahead, choose_augmentation
from unetcli.training.places import Places, open_planes

CONFIG = TrainConfig(**{**TINY, "elastic": 6.0, "batch_size": 3})
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def maker(
    data, weights=None, *, device="cpu", augment_on="host", margin=0, stride=1, ndim=2, rank=0, count=1, **changes
):
    dataset, config = open_dataset(data), replace(CONFIG, **changes)
    planes = open_planes(dataset, weights, ndim, validation=False)
    places = Places.of(planes, config, dataset, ndim, workers=2)
    axis = AxisGeometry(stride=stride, margin=margin, halo=margin, reach=margin, smallest=2 * margin + stride)
    geometry = Geometry((axis,) * ndim)
    return BatchMaker(places, config, dataset, geometry, torch.device(device), augment_on, rank=rank, count=count)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("kind", "weighted", "changes"),
    [
        ("instances", True, {}),
        ("instances", False, {}),
        ("classes", False, {}),
        ("instances", True, {"patch_size": 60, "margin": 8}),
        ("instances", True, {"patch_size": 128}),
        ("instances", True, {"noise": 0.0, "grid": "5,1", "interpolation": "linear"}),
        ("instances", True, {"blur": 3.0, "patch_size": 60, "margin": 8}),
    ],
    ids=["weights", "object ids", "classes", "valid", "larger than the image", "linear", "blur"],
)
def test_host_and_device_make_the_same_batches(request, device, kind, weighted, changes):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    data = request.getfixturevalue(kind)
    weights = request.getfixturevalue("weight_maps") if weighted else None
    host, other = (maker(data, weights, device=device, augment_on=on, **changes) for on in ("host", "device"))
    for step in (0, 5):
        image, target, weight = host.place(host.make(step))
        made = other.place(other.make(step))
        assert [part.dtype for part in made] == [image.dtype, target.dtype, weight.dtype]
        assert {part.device.type for part in made} == {device}
        torch.testing.assert_close(made.image, image, atol=1e-4, rtol=0)
        torch.testing.assert_close(made.target, target, atol=0, rtol=0)
        torch.testing.assert_close(made.weights, weight, atol=1e-4, rtol=0)


def test_batches_come_in_order_and_no_more_than_asked_for_are_ahead():
    made = []
    for step, value in enumerate(ahead(lambda step: made.append(step) or step, range(3, 20), workers=3, depth=4), 3):
        assert value == step
        assert max(made) <= step + 4
    assert sorted(made) == list(range(3, 20))


def test_an_error_of_a_thread_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda step: 1 // (step - 2), range(5), workers=2, depth=3))


@pytest.mark.parametrize(
    ("asked", "device", "batch", "step", "expected"),
    [
        ("auto", "cpu", None, None, "host"),
        ("host", "cuda", None, None, "host"),
        ("device", "cuda", None, None, "device"),
        ("device", "cpu", None, None, "device"),
        ("auto", "cuda", 1.0, 2.0, "host"),
        ("auto", "cuda", 1.0, 1.1, "device"),
        ("auto", "cuda", 2.0, 1.0, "device"),
    ],
)
def test_the_host_augments_where_it_keeps_up(monkeypatch, asked, device, batch, step, expected):
    host = SimpleNamespace(
        config=replace(CONFIG, augment_on=asked), device=torch.device(device), make=lambda k: k, place=lambda k: k,
        places=SimpleNamespace(ndim=2),
    )  # fmt: skip
    monkeypatch.setattr(batches, "_seconds_per_batch", lambda *_: batch)
    assert choose_augmentation(host, 2, lambda _: step) == expected


def test_the_rate_of_the_threads_is_measured(instances):
    seconds = batches._seconds_per_batch(maker(instances), workers=2)
    assert 0 < seconds < 10


def test_blocks_hold_only_what_patches_show(instances):
    made = maker(instances, augment_on="device", elastic=0.0, rotation=0.0, scaling=1.0, shift=0.0).make(0)
    assert np.all(np.diff(made.first.numpy()) <= (32 + 4) ** 2)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int16", "uint32", "float32", "float64"])
def test_pictures_of_any_type(tmp_path, dtype):
    image, labels = cells((50, 60), 1)
    np.save(tmp_path / "i.npy", image > 90 if dtype == "bool" else image.astype(dtype))
    np.save(tmp_path / "l.npy", labels)
    prep.run([tmp_path / "i.npy"], tmp_path / "d", PrepConfig(), labels=[tmp_path / "l.npy"])
    host, other = (maker(tmp_path / "d", augment_on=on, noise=0.0) for on in ("host", "device"))
    torch.testing.assert_close(other.place(other.make(0)).image, host.make(0).image, atol=1e-4, rtol=0)

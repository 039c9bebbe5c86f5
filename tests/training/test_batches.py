"""The batch of a step: the same from the host and from the device, and the rule that chooses between them."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import TINY, cells
from unetcli.config import PrepConfig, TrainConfig
from unetcli.errors import DeviceError, InputError
from unetcli.image.dataset import open_dataset
from unetcli.models.geometry import AxisGeometry, Geometry
from unetcli.sampling import Sample
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


def identities(maker, step):
    """Return what tells the samples of a process in a step apart from all others."""
    return [
        (k, s.example.name, s.t, s.origin, s.shape, s.gray.seed, s.deformation.matrix.tobytes())
        for k, s in zip(maker.numbers(step), maker.samples(step), strict=True)
    ]


@settings(max_examples=12)
@given(
    sampling=st.sampled_from(["uniform", "foreground"]),
    workers=st.integers(1, 4),
    count=st.sampled_from([1, 2, 3, 6]),
    stops=st.lists(st.integers(1, 7), max_size=3),
)
def test_the_samples_are_a_function_of_seed_and_step(instances, sampling, workers, count, stops):
    options = {"batch_size": 6, "sampling": sampling, "steps": 8, "resize_schedule": "2:0.4,1"}
    alone = maker(instances, **options)
    expected = [identities(alone, step) for step in range(8)]
    assert [k for step in expected for k, *_ in step] == list(range(48))
    assert len(set(map(tuple, itertools.chain(*expected)))) == 48
    found = [[] for _ in range(8)]
    for rank in range(count):
        mine = maker(instances, rank=rank, count=count, **options)
        ends = sorted({0, *stops, 8})
        for first, stop in itertools.pairwise(ends):  # each is a run that goes on from a checkpoint
            made = ahead(lambda step, m=mine: identities(m, step), range(first, stop), workers=workers, depth=workers)
            for step, part in enumerate(made, first):
                found[step] += part
    assert found == expected


@pytest.mark.parametrize("augment_on", ["host", "device"])
@pytest.mark.parametrize("parts", [1, 2])
def test_processes_and_parts_make_together_what_one_makes(instances, weight_maps, augment_on, parts):
    options = {"batch_size": 4, "augment_on": augment_on}
    made = [
        part
        for rank in (0, 1)
        for m in [maker(instances, weight_maps, rank=rank, count=2, **options)]
        for part in m.place(m.make(5)).split(parts)
    ]
    alone = maker(instances, weight_maps, **options)
    for found, expected in zip(zip(*made, strict=True), alone.place(alone.make(5)), strict=True):
        torch.testing.assert_close(torch.cat(found), expected, atol=0, rtol=0)


@pytest.mark.parametrize("augment_on", ["host", "device"])
@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (InputError("a.zarr: chunk is damaged", fix="copy it"), InputError, "training sample 2, of img_0.: a.zarr"),
        (MemoryError(), DeviceError, "training sample 2, of img_0.: out of memory"),
    ],
    ids=["damaged", "memory"],
)
def test_what_fails_in_a_thread_names_the_sample(instances, monkeypatch, augment_on, error, raised, said):
    made = maker(instances, augment_on=augment_on, batch_size=2)

    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(Sample, "blocks", fail)
    with pytest.raises(raised, match=said):
        list(ahead(made.make, range(1, 2), workers=1, depth=1))


def test_what_fails_unexpectedly_names_the_sample_too(instances, monkeypatch):
    monkeypatch.setattr(Sample, "render", lambda *_args, **_options: 1 // 0)
    with pytest.raises(ZeroDivisionError) as caught:
        maker(instances, batch_size=2).make(1)
    assert caught.value.__notes__[0].startswith("in training sample 2, of img_0")


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

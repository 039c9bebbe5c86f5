"""The tile that is chosen: it fits the shard and the memory, pays, and is remembered."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.prediction.test_engine import make_engine
from unetcli.models.geometry import AxisGeometry, Geometry
from unetcli.prediction import tile_choice
from unetcli.prediction.engine import Engine
from unetcli.prediction.tile_choice import choose_step, fitted


@given(st.integers(1, 5000), st.integers(1, 3000), st.sampled_from([1, 8, 12, 16, 48]))
def test_parts_are_equal_and_cover_the_core_without_overhang(n, size, stride):
    axis = AxisGeometry(stride=stride, margin=0, halo=stride, reach=stride, smallest=stride)
    (step,) = fitted(Geometry((axis,)), (n,), size)
    assert step % stride == 0
    assert step < size + stride
    parts = math.ceil(n / step)
    assert parts <= math.ceil(n / size)
    assert parts * step - n < parts * stride


@pytest.fixture
def usual_64(monkeypatch):
    """Make the usual tile small, so that passes are fast."""
    monkeypatch.setattr(tile_choice, "USUAL", {2: {"cpu": 64}, 3: {"cpu": 16}})
    monkeypatch.setattr(tile_choice, "SMALL", {2: 16, 3: 8})


@pytest.mark.parametrize(
    ("core", "expected"),
    [((256, 256), (64, 64)), ((64, 61), (64, 64)), ((60, 50), (60, 52)), ((300, 70), (60, 36)), ((10, 10), (12, 12))],
    ids=["large", "one tile", "small image", "equal parts", "tiny image"],
)
def test_the_usual_tile_is_taken_where_memory_is_not_short(models, usual_64, core, expected):
    engine = make_engine(models["same"])
    assert choose_step(engine, core) == engine.step == expected


@pytest.mark.parametrize(("kind", "size"), [("same", 64), ("same", 32), ("valid", 32), ("volumes", 16), ("volumes", 8)])
def test_the_tile_is_halved_until_it_fits_into_memory(models, usual_64, monkeypatch, kind, size):
    engine = make_engine(models[kind])
    axes, small = engine.header.geometry.axes, tile_choice.SMALL[engine.header.ndim]

    def pixels(step):
        return math.prod(axis.read_size(step) for axis in axes)

    def rise(run):
        run()
        return 1000 * engine.batch * pixels(small)

    monkeypatch.setattr(tile_choice, "rise_of_memory", rise)
    monkeypatch.setattr(tile_choice, "available_memory", lambda _: 1000 * pixels(size) / tile_choice.SHARE + 1)
    assert choose_step(engine, (256,) * len(axes)) == (size,) * len(axes)


def test_memory_held_by_a_shard_counts(models, usual_64, monkeypatch):
    monkeypatch.setattr(tile_choice, "available_memory", lambda _: 2**31)
    assert choose_step(make_engine(models["same"]), (256, 256)) == (64, 64)
    assert choose_step(make_engine(models["valid"]), (256, 256), held=2**31) < (64, 64)


def test_a_choice_is_remembered_and_garbage_is_not(models, usual_64, monkeypatch, tmp_path):
    passes, run = [], Engine.pass_of_tiles
    monkeypatch.setattr(Engine, "pass_of_tiles", lambda engine: passes.append(run(engine)))
    for _ in range(2):
        assert choose_step(make_engine(models["same"]), (256, 256)) == (64, 64)
    assert len(passes) == 1
    (file,) = (tmp_path / "node").iterdir()
    for content in ("", "{}", "[7, 7]", "[-4, 4]", '["a", 4]', "[4]", "null", "\x00"):
        file.write_text(content)
        assert choose_step(make_engine(models["same"]), (256, 256)) == (64, 64)
    choose_step(make_engine(models["same"], precision="bfloat16"), (256, 256))
    choose_step(make_engine(models["three"]), (256, 256))
    assert len(list((tmp_path / "node").iterdir())) == 3


def test_without_a_place_to_remember_it_is_chosen_each_time(models, usual_64, monkeypatch, tmp_path):
    (tmp_path / "node").write_text("a file where the folder would be")
    assert choose_step(make_engine(models["same"]), (256, 256)) == (64, 64)


def test_memory_that_is_short_now_is_not_remembered(models, usual_64, monkeypatch, tmp_path):
    monkeypatch.setattr(tile_choice, "available_memory", lambda _: 1)
    assert choose_step(make_engine(models["same"]), (256, 256)) < (64, 64)
    assert not (tmp_path / "node").exists()


def test_a_device_says_by_a_pass_what_fits(models, monkeypatch):
    """What happens on CUDA, with a network that refuses large tiles."""
    engine = make_engine(models["same"])

    def refuse(_, inputs):
        if inputs[0].shape[-1] > 100:
            raise torch.OutOfMemoryError

    engine.network.register_forward_pre_hook(refuse)
    assert tile_choice._fits_device(engine, 1000, (16, 16))
    assert not tile_choice._fits_device(engine, 1000, (128, 128))
    assert not tile_choice._fits_device(engine, 2**60, (16, 16))

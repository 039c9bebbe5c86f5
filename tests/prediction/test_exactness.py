"""The same bytes for any workers, devices and restart; the same to rounding for any tile, batch and engine."""

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Stopped, assert_same_files, cells, pixels, stop_after
from tests.prediction.test_engine import block_for, make_engine, predict, run
from tests.stages.test_tile_predict import prepared, whole_image
from unetcli.models.checkpoint import load_model
from unetcli.prediction import engine as module
from unetcli.prediction.engine import Engine

ENGINES = ["torch", *(name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name))]
ROUGH = 0.02
"""Greatest difference of probabilities that tiles of different sizes may have in bfloat16."""


@pytest.mark.slow
@settings(max_examples=50, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_way_to_run_over_an_image_gives_the_same(models, small_tiles, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("combination")
    model = models[data.draw(st.sampled_from(["same", "valid", "batch", "three"]), label="network")]
    image = cells((data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))), data.draw(st.integers(0, 9)))[0]
    store, axis = prepared(folder, image), load_model(model)[1].geometry.axes[-1]
    tile_size = axis.read_size(axis.stride * data.draw(st.integers(1, 12), label="strides of a tile"))
    engine = data.draw(st.sampled_from(ENGINES), label="engine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module.BATCH_PIXELS, "cpu", data.draw(st.sampled_from([1, 10_000, 100_000]), label="batch"))

        def go(name, **options):
            given = {"tile_size": tile_size, "engine": engine, "probabilities": folder / f"{name}_p", **options}
            predict(store, folder / name, model, **given)

        go("plain")
        device = data.draw(st.sampled_from(["cpu", "cpu,cpu", "cpu,cpu,cpu"]), label="devices")
        workers = data.draw(st.integers(1, 4), label="workers")
        try:
            go("other", device=device, workers=workers, progress=stop_after(data.draw(st.integers(0, 9), label="stop")))
        except Stopped:
            go("other", device=device)
    for name in ("", "_p"):
        assert_same_files(folder / f"plain{name}", folder / f"other{name}")
    np.testing.assert_allclose(pixels(folder / "plain_p")[0, :, 0], whole_image(model, image[None]), atol=1e-5)


@pytest.mark.parametrize("kind", ["same", "valid", "batch"])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", ROUGH)])
def test_tile_sizes_and_batches_agree_to_rounding(models, kind, precision, tolerance, monkeypatch):
    engine, core = make_engine(models[kind], precision=precision), (60, 76)
    block = block_for(engine, core)
    first = run(engine, block, core, (4, 4))
    for step, batch in (((4, 8), 5), ((20, 20), 1), ((20, 20), 4), ((60, 76), 1)):
        engine.batch = batch
        found = run(engine, block, core, step)
        assert np.abs(found - first).max() < tolerance
        flipped = found.argmax(1) != first.argmax(1)
        top = np.sort(first, axis=1)
        assert (top[:, -1] - top[:, -2])[flipped].max(initial=0) < 2 * tolerance  # ties only


def test_a_network_that_looks_at_whole_tiles_does_not_agree(models):
    """Shows that the tests above can fail, and why such a network gets a note."""
    engine, core = make_engine(models["instance"]), (60, 76)
    block = block_for(engine, core)
    assert np.abs(run(engine, block, core, (8, 8)) - run(engine, block, core, (60, 76))).max() > 1e-3


def test_the_same_block_gives_the_same_bytes_each_time(models):
    engine, core = make_engine(models["same"]), (60, 76)
    block = block_for(engine, core)
    network, header = load_model(models["same"])
    other = Engine(network, header, torch.device("cpu"), engine.step)
    np.testing.assert_array_equal(run(engine, block, core), run(other, block, core))

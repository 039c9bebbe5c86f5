"""The worked pixel: the formula at it gives the weight that is stored."""

from unittest import mock

import numpy as np
import pytest

from tests.conftest import cells, pixels
from unetcli.config import PrepConfig, WeightsConfig
from unetcli.stages import prep, weights

CASES = {
    "paper": ((190, 240), {"label_kind": "instances"}, {}),
    "plugin": ((190, 240), {"label_kind": "instances"}, {"recipe": "plugin"}),
    "classes": ((90, 85), {"label_kind": "classes"}, {}),
    "parts of ids": ((190, 240), {"label_kind": "instances"}, {"relabel": True, "ignore": "2"}),
    "inside": ((90, 85), {"label_kind": "instances"}, {"inside": True}),
    "no border term": ((90, 85), {"label_kind": "instances"}, {"w0": 0}),
    "planes": ((3, 60, 65), {"label_kind": "instances", "ndim": 2}, {}),
    "volume": ((9, 60, 65), {"label_kind": "instances", "ndim": 3, "pixel_size": "2.5,1,1um"}, {"sigma": 3}),
}


SLOW = {"volume", "parts of ids", "plugin"}


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow if c in SLOW else ()) for c in CASES])
def test_the_formula_gives_the_stored_weight(tmp_path, small_tiles, case):
    shape, preparation, settings = CASES[case]
    image, labels = cells(shape, 3, pitch=14)
    if preparation["label_kind"] == "classes" or "relabel" in settings:
        labels = np.where(labels == 0, 0, labels % 3 + 1)
    for name, array in (("image.npy", image), ("labels.npy", labels)):
        np.save(tmp_path / name, array)
    prep.run([tmp_path / "image.npy"], tmp_path / "d", PrepConfig(**preparation), labels=[tmp_path / "labels.npy"])
    config = WeightsConfig(**settings)
    with mock.patch("unetcli.explain.draw_explanation") as drawn:
        weights.run(tmp_path / "d", tmp_path / "w", config, explain=tmp_path / "e.png")
    shown = drawn.call_args.args[0]
    d1, d2 = (n.distance for n in shown.nearest)
    assert d1 == pytest.approx(shown.d1[shown.pixel])
    assert d2 == pytest.approx(shown.d2[shown.pixel])
    narrow = config.w0 * np.exp(-((d1 + d2) ** 2) / (2 * config.sigma**2))
    far = (1 - config.background) * np.exp(-(d1**2) / (2 * config.sigma1**2)) if config.recipe == "plugin" else 0
    assert shown.weights[shown.pixel] == pytest.approx(shown.formula.background + far + narrow, rel=1e-5)
    y, x = (a + b for a, b in zip(shown.corner, shown.pixel, strict=True))
    z = int(shown.place.rpartition(" ")[2]) if len(shape) == 3 else 0
    assert pixels(tmp_path / "w")[0, 0, z, y, x] == shown.weights[shown.pixel]
    for n in shown.nearest:
        place = (z + n.planes, shown.corner[0] + n.pixel[0], shown.corner[1] + n.pixel[1])
        found = labels.reshape((1,) * (3 - len(shape)) + shape)[place]
        assert found > 0
        assert found == n.label or not shown.has_ids

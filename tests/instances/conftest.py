"""Objects of arrays in memory."""

import pytest

from tests.conftest import Pixels
from unetcli.config import PredictConfig
from unetcli.image.axes import Axes
from unetcli.image.ledger import Ledger
from unetcli.image.tiling import Box
from unetcli.instances.find import Segmented, find_objects
from unetcli.labelling import scratch_level


@pytest.fixture
def found(tmp_path_factory, small_tiles):
    """Return a function that finds the objects of classes (z, y, x), tile by tile."""

    def find(classes, *, ndim=2, probabilities=None, workers=2, axes="zyx", scale=None, **settings):
        described = Axes.of(axes, scale)
        ledger = Ledger(tmp_path_factory.mktemp("objects") / "x", {})
        source = None if probabilities is None else Pixels(probabilities[None], axes=Axes.of("czyx", scale))
        mask = Pixels(classes[None, None], axes=described)
        segmented = Segmented("image", mask, source, ndim)
        target = scratch_level("ids", described, mask.shape, "uint32", ndim, ledger)
        n = find_objects(segmented, target, PredictConfig(**settings), ledger, workers=workers)
        ids = target.read(Box.whole(target.shape))[0, 0]
        assert ids.max() == n
        return ids

    return find

"""Labels that were resized with interpolation, or stored as JPEG, are told from classes and object ids."""

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.Image import Resampling

from tests.conftest import cells
from unetcli.image.inspect import interpolated

DATA = Path(__file__).parents[2].parent / "shared" / "data"


def of(labels):
    return interpolated(*np.unique(labels, return_counts=True))


def resized(mask, how, factor):
    size = [round(n * factor) for n in mask.shape[::-1]]
    return np.asarray(Image.fromarray(mask).resize(size, how))


def as_jpeg(mask, quality):
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


MASK = np.where(cells((200, 230), 0, pitch=40)[1] > 0, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("factor", [0.5, 0.7, 1.3, 2])
@pytest.mark.parametrize("how", [Resampling.BILINEAR, Resampling.BICUBIC, Resampling.LANCZOS], ids=lambda how: how.name)
def test_a_mask_resized_with_interpolation(how, factor):
    assert of(resized(MASK, how, factor)) == (0, 255)
    assert of(resized(MASK, Resampling.NEAREST, factor)) == ()


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_a_mask_stored_as_jpeg(quality):
    assert of(as_jpeg(MASK, quality)) == (0, 255)


def test_three_classes():
    classes = MASK.copy()
    classes[:, :90][MASK[:, :90] > 0] = 128
    assert of(resized(classes, Resampling.BILINEAR, 1.5)) == (0, 128, 255)
    assert of(classes) == ()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("pitch", [10, 16, 40])
def test_ids_of_objects_are_not_mixtures(seed, pitch):
    assert of(cells((150, 150), seed, pitch=pitch)[1]) == ()


@pytest.mark.parametrize(
    ("values", "counts"),
    [([0], [9]), ([0, 255], [9, 1]), ([0, 1, 2, 3], [9, 5, 1, 5]), (range(100), [10**6, *[50] * 98, 99])],
    ids=["one value", "two classes", "four classes", "a crowd of objects"],
)
def test_what_is_made_of_few_values_or_of_many_alike(values, counts):
    assert interpolated(list(values), counts) == ()


@pytest.mark.parametrize(
    ("rare", "expected"),
    [([3], (0, 255)), ([1, 1], (0, 255)), ([60], ()), ([3, 60], ())],
    ids=["one value", "two values", "a small class", "a small class and another"],
)
def test_a_few_values_between_are_mixtures_if_they_are_very_rare(rare, expected):
    values = [0, *range(100, 100 + len(rare)), 255]
    assert interpolated(values, [90000, *rare, 5000]) == expected


def test_values_of_64_bits():
    values = [0, 2**63, *(k * 2**59 for k in range(1, 16))]
    assert interpolated(np.array(values, np.uint64), [9000, 5000, *[20] * 15]) == (0, 2**63)


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data are not here")
def test_real_labels():
    files = [*DATA.glob("dsb2018_nuclei/labels/*.tif"), *DATA.glob("ctc*/**/man_*.tif"), *DATA.glob("*pairs/mask*")]
    assert len(files) > 80
    assert [f.name for f in files if of(tifffile.imread(f))] == []
    assert of(np.asarray(Image.open(DATA / "vnc_sstem" / "labels_00.png"))) == ()
    for name in ("mitochondria_00", "mitochondria_05", "synapses_02"):
        assert of(np.asarray(Image.open(DATA / "vnc_sstem" / f"{name}.png"))) == (0, 255)

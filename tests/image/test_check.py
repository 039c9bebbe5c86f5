"""Reading everything finds what is damaged, missing or can not be right, all of it, in memory that does not grow."""

import numpy as np
import pytest
import tifffile
import zarr
from PIL.Image import Resampling

from tests.conftest import Pixels
from tests.image.test_foreign import numbered, write_image
from tests.image.test_inspect import MASK, resized
from tests.image.test_new_store import begin, fill, make, random_pixels
from unetcli.image import check
from unetcli.image.axes import Axes
from unetcli.image.check import Subject, check_pixels
from unetcli.image.files import open_file
from unetcli.image.ngff import ImageMetadata
from unetcli.image.store import open_store
from unetcli.image.tiling import TileGrid


def subjects(path, *, is_label=False):
    return [Subject(level, level.name, is_label) for level in open_store(path, is_label=is_label).images[0].levels]


def found(path, **settings):
    findings = check_pixels(subjects(path, **settings))
    return [str(fault) for fault in findings.faults], findings.notes


def chunk_files(path):
    """Return the files of an array that hold pixels."""
    return sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith((".z", "zarr.json")))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return a store of our own of six shards."""
    monkeypatch.setattr("unetcli.image.new_store.CHUNK", 8)
    monkeypatch.setattr("unetcli.image.new_store.SHARD", 16)
    return make(tmp_path / "own.zarr", pixels=random_pixels((1, 1, 1, 40, 30)))


@pytest.fixture
def foreign(tmp_path):
    """Return an image of another program, of four chunks with checksums."""
    path = write_image(tmp_path / "a.zarr", numbered(40, 30))
    checked = zarr.codecs.ZstdCodec(checksum=True)
    array = zarr.create_array(
        path / "0", shape=(40, 30), chunks=(20, 15), dtype="u2", compressors=checked, overwrite=True
    )
    array[...] = numbered(40, 30)
    return path


def test_sound_stores(own, foreign):
    for path in (own, own / "labels" / "truth", foreign):
        assert found(path) == ([], [])


def test_missing_shards_of_our_own_are_faults_each(own):
    files = chunk_files(own / "0")
    assert len(files) == 6
    for file in files[:2]:
        file.unlink()
    faults, notes = found(own)
    assert len(faults) == 2
    assert all(f"{file}: is missing or empty" in fault for file, fault in zip(files, faults, strict=False))
    assert notes == []


def test_missing_chunks_of_others_are_counted(foreign):
    chunk_files(foreign / "0")[0].unlink()
    faults, (note,) = found(foreign)
    assert faults == []
    assert note == f"{foreign / '0'}: 1 of 4 chunks are not stored: read as the fill value"


@pytest.mark.parametrize("which", ["own", "foreign"])
@pytest.mark.parametrize("damage", ["cut", "empty", "flipped"])
def test_damaged_chunks(request, which, damage):
    path = request.getfixturevalue(which)
    file = chunk_files(path / "0")[1]
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[len(content) // 3] ^= 4
    file.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "flipped": content}[damage])
    faults, _ = found(path)
    assert len(faults) >= 1
    assert all(str(path / "0") in fault for fault in faults)
    assert ("empty" in faults[0]) == (damage == "empty")


def test_many_damaged_parts_are_not_all_listed(own, monkeypatch):
    monkeypatch.setattr(check, "MAX_LISTED", 2)
    for file in chunk_files(own / "0"):
        file.unlink()
    faults, _ = found(own)
    assert len(faults) == 3
    assert faults[-1].endswith("4 more parts can not be read")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted(tmp_path, value):
    array = np.ones((30, 40), "f4")
    array[17, 3:6] = value
    path = write_image(tmp_path / "a.zarr", array)
    (fault,), _ = found(path)
    assert "3 values are NaN or infinite, the first at y 0:30 x 0:40" in fault


@pytest.mark.parametrize(("is_label", "n_faults", "n_notes"), [(True, 1, 0), (False, 0, 1)], ids=["labels", "image"])
def test_interpolated_labels(is_label, n_faults, n_notes):
    blurred = resized(MASK, Resampling.BILINEAR, 1.5)
    for pixels, wanted in ((MASK, (0, 0)), (blurred, (n_faults, n_notes))):
        findings = check_pixels([Subject(Pixels(pixels[None, None, None]), "mask", is_label)])
        assert (len(findings.faults), len(findings.notes)) == wanted


def test_labels_of_a_single_value_are_noted():
    findings = check_pixels([Subject(Pixels(np.zeros((1, 1, 1, 8, 8), "u1")), "mask", is_label=True)])
    assert (findings.faults, findings.notes) == ([], ["mask: labels hold only the value 0"])


def test_a_cut_tiff(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (300, 300), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, tile=(64, 64), compression="zlib")
    source = open_file(tmp_path / "a.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = b"\0" * 400
    (tmp_path / "a.tif").write_bytes(content)
    findings = check_pixels([Subject(source, "a.tif")])
    assert len(findings.faults) == 1


def test_progress_counts_all_tiles_of_all_subjects(own):
    calls = []
    listed = [*subjects(own), *subjects(own / "labels" / "truth", is_label=True)]
    check_pixels(listed, progress=lambda *call: calls.append(call))
    assert calls == [(k, 7) for k in range(1, 8)]  # six shards of the image, all the labels at once


class Counting(Pixels):
    """A source that remembers the largest block that was asked for."""

    largest = 0

    @property
    def shape(self):
        return (1, 1, 1, 50_000, 20_000)

    @property
    def dtype(self):
        return np.dtype("u2")

    def read(self, box):
        self.largest = max(self.largest, int(np.prod(box.shape)))
        return np.broadcast_to(np.uint16(7), box.shape)


def test_memory_does_not_grow_with_the_image():
    source = Counting(np.zeros(0))
    check_pixels([Subject(source, "a")])
    assert source.largest == 2048 * 2048


def test_shards_too_large_for_memory_are_read_by_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "MAX_TILE_BYTES", 1000)
    array = zarr.create_array(tmp_path / "a.zarr", shape=(64, 64), chunks=(16, 16), shards=(64, 64), dtype="u2")
    array[...] = numbered(64, 64)
    (subject,) = subjects(tmp_path / "a.zarr")
    monkeypatch.setattr(check, "SMALLEST_TILE", 16)
    assert check._tile_of(subject.source) == (1, 1, 1, 16, 16)
    assert check_pixels([subject]).faults == []


def test_an_image_of_our_own_without_labels(tmp_path):
    new = begin(tmp_path / "b.zarr")
    level = new.level("", 0, Axes.of("zyx"), (1, 1, 3, 9, 9), "uint8")
    fill(level, random_pixels((1, 1, 3, 9, 9), "uint8"))
    new.finish([ImageMetadata("", Axes.of("zyx"))], {})
    assert len(TileGrid(level.shape, level.shard)) == 1
    assert found(tmp_path / "b.zarr") == ([], [])

"""A digest changes with what it is of, and with nothing else."""

import os
import shutil

import pytest

from unetcli.image.fingerprint import SAMPLE, WHOLE, fingerprint


def flip(path, at):
    """Change one byte, keep the size."""
    with path.open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte[0] ^ 1]))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data.zarr"
    (root / "0" / "c").mkdir(parents=True)
    (root / "zarr.json").write_text("{}")
    (root / "0" / "zarr.json").write_text('{"shape": [2]}')
    (root / "0" / "c" / "0").write_bytes(os.urandom(5 * SAMPLE))
    return root


@pytest.mark.parametrize("of", ["data.zarr", "data.zarr/0/c/0"], ids=["folder", "file"])
def test_does_not_depend_on_place_name_or_time(folder, of):
    path = folder.parent / of
    before = fingerprint(path)
    moved = folder.parent / "elsewhere" / "other"
    moved.parent.mkdir()
    (shutil.copytree if path.is_dir() else shutil.copy)(path, moved)
    os.utime(moved, (0, 0))
    assert fingerprint(moved) == before


@pytest.mark.parametrize("at", [0, 12_345, -1], ids=["start", "middle", "end"])
def test_each_byte_of_a_file_counts(folder, at):
    file = folder / "0" / "c" / "0"
    before = fingerprint(file)
    flip(file, at % file.stat().st_size)
    assert fingerprint(file) != before


@pytest.mark.parametrize("at", [0, SAMPLE - 1, -SAMPLE, -1])
def test_both_ends_of_a_large_file_count(tmp_path, at):
    file = tmp_path / "large"
    file.touch()
    os.truncate(file, WHOLE + 3)  # sparse: takes no space
    before = fingerprint(file)
    flip(file, at % file.stat().st_size)
    assert fingerprint(file) != before


def test_the_size_of_a_large_file_counts(tmp_path):
    file = tmp_path / "large"
    file.touch()
    os.truncate(file, WHOLE + 3)
    before = fingerprint(file)
    os.truncate(file, WHOLE + 4)
    assert fingerprint(file) != before


CHANGES = {
    "attribute": lambda root: (root / "zarr.json").write_text("[]"),
    "index of a shard": lambda root: flip(root / "0" / "c" / "0", 5 * SAMPLE - 1),
    "new file": lambda root: (root / "new").touch(),
    "lost file": lambda root: (root / "0" / "zarr.json").unlink(),
    "renamed": lambda root: (root / "0" / "c" / "0").rename(root / "0" / "c" / "1"),
    "longer": lambda root: (root / "0" / "c" / "0").write_bytes((root / "0" / "c" / "0").read_bytes() + b"1"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_in_a_folder_count(folder, change):
    before = fingerprint(folder)
    change(folder)
    assert fingerprint(folder) != before

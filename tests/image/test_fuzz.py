"""Damaged files of many kinds never crash, hang or fill the memory: exit code 0 or 3, nothing else."""

import shutil
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.image.limited import GIB, prep_each
from unetcli.config import PrepConfig
from unetcli.stages import prep

h5py = pytest.importorskip("h5py", reason="HDF5 files are an extra")

BATCH = 100
ADDRESS_SPACE = 6 * GIB  # libraries are mapped, too
DEFAULT, ALL = 200, 2000


def cells(*shape, dtype="u1", seed=0):
    """Return pixels that compress, but not to nothing."""
    noise = np.random.default_rng(seed).integers(0, 12, shape)
    return (noise + np.add.outer(np.arange(shape[0]), np.arange(shape[1]))[(..., *[None] * (len(shape) - 2))]).astype(
        dtype
    )


GREY, COLOUR, DEEP, REAL = cells(70, 90), cells(70, 90, 3), cells(70, 90, dtype="u2"), cells(70, 90, dtype="f4")
STRIPS, TILED = {"rowsperstrip": 16}, {"tile": (32, 48)}
RGB = {"photometric": "rgb"}

TIFFS = {
    "raw": (GREY, {}),
    "raw-strips": (DEEP, STRIPS),
    "raw-tiled": (COLOUR, {**TILED, **RGB}),
    "big": (DEEP, {"bigtiff": True, "byteorder": ">"}),
    "bits": (GREY > 40, {"photometric": "minisblack", "compression": "packbits"}),
    "lzw": (GREY, {"compression": "lzw", **STRIPS}),
    "lzw-rgb": (COLOUR, {"compression": "lzw", "predictor": True, **TILED, **RGB}),
    "lzw-planar": (COLOUR.transpose(2, 0, 1), {"compression": "lzw", "planarconfig": "separate", **RGB}),
    "deflate": (DEEP, {"compression": "zlib", "predictor": True, **STRIPS}),
    "deflate-float": (REAL, {"compression": "zlib", "predictor": True, **TILED}),
    "zstd": (DEEP, {"compression": "zstd", **TILED}),
    "lzma": (DEEP, {"compression": "lzma", **STRIPS}),
    "packbits": (GREY, {"compression": "packbits", **STRIPS}),
    "jpeg": (COLOUR, {"compression": "jpeg", **TILED, **RGB}),
    "jpeg-grey": (GREY, {"compression": "jpeg"}),
    "jpeg2000": (DEEP, {"compression": "jpeg2000", **TILED}),
    "webp": (COLOUR, {"compression": "webp", **TILED, **RGB}),
    "png": (GREY, {"compression": "png", **TILED}),
    "lerc": (REAL, {"compression": "lerc", **TILED}),
    "jpegxl": (COLOUR, {"compression": "jpegxl", **TILED, **RGB}),
    "jpegxr": (GREY, {"compression": "jpegxr", **TILED}),
    "palette": (GREY, {"photometric": "palette", "colormap": np.arange(768, dtype="u2").reshape(3, 256) * 80}),
    "white": (GREY, {"photometric": "miniswhite", "compression": "lzw"}),
    "stack": (cells(4, 40, 50), {"photometric": "minisblack", "compression": "zlib"}),
    "imagej": (cells(3, 2, 40, 50, dtype="u2"), {"imagej": True}),
    "ome": (cells(3, 2, 40, 50, dtype="u2"), {"ome": True, "photometric": "minisblack", "compression": "lzw"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Sound files of many kinds; stores are folders."""
    folder = tmp_path_factory.mktemp("sound")
    for name, (array, options) in TIFFS.items():
        tifffile.imwrite(folder / f"{name}.tif", array, **options)
    Image.fromarray(GREY > 40).save(folder / "fax.tif", compression="group4")
    Image.fromarray(GREY > 40).save(folder / "fax3.tif", compression="group3")
    write_pyramid(folder / "pyramid.tif")
    for name, picture in {"grey": GREY, "rgb": COLOUR, "deep": DEEP}.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    Image.fromarray(COLOUR).convert("P").save(folder / "palette.png")
    (folder / "deep-rgb.png").write_bytes(imagecodecs.png_encode(COLOUR.astype("u2") * 300))
    Image.fromarray(COLOUR).save(folder / "rgb.jpg")
    np.save(folder / "a.npy", DEEP)
    np.savez_compressed(folder / "a.npz", DEEP)
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("image", data=DEEP, chunks=(32, 32), compression="gzip", shuffle=True)
    tifffile.imwrite(folder / "source.tif", COLOUR, **RGB)
    for version in ("0.4", "0.5"):
        prep.run([folder / "source.tif"], folder / f"ngff-{version}.zarr", PrepConfig(ngff=version))
    return sorted(folder.iterdir())


def write_pyramid(path):
    with tifffile.TiffWriter(path) as writer:
        writer.write(COLOUR, subifds=1, compression="lzw", **TILED, **RGB)
        writer.write(COLOUR[::2, ::2], subfiletype=1, compression="lzw", **TILED, **RGB)


def damaged(original, folder, rng):
    """Write a copy of a file, or of a store with one of its files, that was damaged at random."""
    copy = folder / original.name
    if original.is_dir():
        shutil.copytree(original, copy)
        files = sorted(p for p in copy.rglob("*") if p.is_file())
        victim = files[rng.integers(len(files))]
    else:
        copy.write_bytes(original.read_bytes())
        victim = copy
    data = bytearray(victim.read_bytes())
    for _ in range(rng.integers(1, 5)):
        data = DAMAGES[rng.integers(len(DAMAGES))](data, rng)
    victim.write_bytes(data)
    return copy


def place(data, rng, longest):
    """Return the two ends of a random range; half of them lie in the first bytes, where headers are."""
    size = len(data) if rng.random() < 0.5 else min(len(data), 300)
    start = int(rng.integers(size)) if size else 0
    return start, min(len(data), start + int(rng.integers(1, longest)))


def flip(data, rng):
    start, stop = place(data, rng, 5)
    data[start:stop] = rng.integers(0, 256, stop - start).astype("u1").tobytes()
    return data


def flip_bit(data, rng):
    start, stop = place(data, rng, 2)
    data[start:stop] = bytes(b ^ 1 << int(rng.integers(8)) for b in data[start:stop])
    return data


def cut(data, rng):
    return data[: int(rng.integers(len(data) + 1))] if rng.random() < 0.3 else data


def cut_out(data, rng):
    start, stop = place(data, rng, 40)
    return data[:start] + data[stop:]


def fill(data, rng):
    start, stop = place(data, rng, 60)
    data[start:stop] = bytes([int(rng.choice([0, 0, 255, 127]))]) * (stop - start)
    return data


def repeat(data, rng):
    start, stop = place(data, rng, 60)
    return data[:start] + data[start:stop] * int(rng.integers(1, 4)) + data[start:]


def swap(data, rng):
    (a, b), (c, _) = place(data, rng, 30), place(data, rng, 30)
    data[a:b], data[c : c + b - a] = data[c : c + b - a], data[a:b]
    return data


DAMAGES = (flip, flip, flip_bit, flip_bit, cut, cut_out, fill, repeat, swap)


def run_batch(originals, folder, seeds):
    paths = []
    for seed in seeds:
        place_ = folder / str(seed)
        place_.mkdir()
        paths.append(damaged(originals[seed % len(originals)], place_, np.random.default_rng(seed)))
    outcome = prep_each(paths, folder / "out.zarr", address_space=ADDRESS_SPACE)
    assert {p: c for p, c in outcome.codes.items() if c not in (0, 3)} == {}
    assert outcome.peak < 2 * GIB
    assert "Traceback" not in outcome.stderr
    assert set(outcome.codes.values()) == {0, 3}


@pytest.mark.parametrize("first", range(0, DEFAULT, BATCH))
def test_damaged_files(originals, tmp_path, first):
    run_batch(originals, tmp_path, range(first, first + BATCH))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(DEFAULT, ALL, BATCH))
def test_many_damaged_files(originals, tmp_path, first):
    run_batch(originals, tmp_path, range(first, first + BATCH))


def test_sound_files_are_read(originals, tmp_path):
    outcome = prep_each(originals, tmp_path / "out.zarr", address_space=ADDRESS_SPACE)
    assert set(outcome.codes.values()) == {0}


def test_a_string_used_before_there_is_any_is_found(tmp_path):
    """The stream that crashed the decoder: a CLEAR, then a code that is no byte."""
    codes = [256, 460, 258, 257]
    stream = int("".join(f"{c:09b}" for c in codes) + "0000", 2).to_bytes(5, "big")
    tifffile.imwrite(tmp_path / "a.tif", np.arange(64, dtype="u1").reshape(8, 8), compression="lzw")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        at = tif.pages[0].dataoffsets[0]
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[at : at + 5] = stream
    Path(tmp_path / "a.tif").write_bytes(data)
    outcome = prep_each([tmp_path / "a.tif"], tmp_path / "out.zarr")
    assert set(outcome.codes.values()) == {3}
    assert "damaged LZW stream" in outcome.stderr

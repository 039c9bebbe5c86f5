"""Conversion of a large TIFF to a pyramid in OME-Zarr: speed and peak memory beside other converters."""

from __future__ import annotations

import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from benchmarks.machine import ROUNDS, describe

SIZE = 16_384
TILE = 512

PEAK = """
from pathlib import Path
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""
"""Prints the peak of a process's own resident memory, KiB."""

UNETCLI = """
import sys
from unetcli.cli import main
main(["prep", sys.argv[1], "-o", sys.argv[2], "--quiet"])
"""

NGFF_ZARR = """
import sys
import dask.array, ngff_zarr, tifffile, zarr
pixels = dask.array.from_zarr(zarr.open_array(tifffile.imread(sys.argv[1], aszarr=True), mode="r"), chunks=(2048, 2048))
image = ngff_zarr.to_ngff_image(pixels, dims=("y", "x"))
levels = ngff_zarr.to_multiscales(image, scale_factors=[2, 4, 8, 16], chunks=512)
ngff_zarr.to_ngff_zarr(sys.argv[2], levels, version="0.5", chunks_per_shard=4)
"""

OME_ZARR = """
import sys
import dask.array, tifffile, zarr
from ome_zarr.writer import write_image
pixels = dask.array.from_zarr(zarr.open_array(tifffile.imread(sys.argv[1], aszarr=True), mode="r"), chunks=(2048, 2048))
group = zarr.open_group(sys.argv[2], mode="w", zarr_format=3)
options = {"chunks": (512, 512), "shards": (2048, 2048)}
write_image(pixels, group, axes="yx", storage_options=options)
"""

RAW = """
import sys
from concurrent.futures import ThreadPoolExecutor
import imagecodecs, tifffile
from pathlib import Path
out = Path(sys.argv[2])
out.mkdir()
with tifffile.TiffFile(sys.argv[1]) as tif:
    page, file = tif.pages[0], tif.filehandle
    def copy(item):
        segment, index = item
        pixels, _, _ = page.decode(segment, index)
        return imagecodecs.zstd_encode(pixels, level=1)
    segments = file.read_segments(page.dataoffsets, page.databytecounts)
    with ThreadPoolExecutor(2) as pool, (out / "pixels").open("wb") as target:
        while part := [s for _, s in zip(range(64), segments)]:
            target.writelines(pool.map(copy, part))
"""
"""Decodes every tile, compresses it again and writes it: no pyramid, no statistics, no metadata, no checksums."""

RAW_ZARR = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy, tifffile, zarr
from zarr.codecs import ZstdCodec
with tifffile.TiffFile(sys.argv[1]) as tif:
    page, file = tif.pages[0], tif.filehandle
    codec = ZstdCodec(level=1, checksum=True)
    target = zarr.create_array(sys.argv[2], shape=page.shape, dtype=page.dtype, chunks=(512, 512), shards=(512, 16384),
                               compressors=codec)
    n = page.shape[1] // page.tilewidth
    def copy(row):
        band = numpy.empty((page.tilelength, page.shape[1]), page.dtype)
        at = slice(row * n, row * n + n)
        segments = file.read_segments(page.dataoffsets[at], page.databytecounts[at])
        for i, (segment, _) in enumerate(segments):
            pixels, _, _ = page.decode(segment, row * n + i)
            band[:, i * 512 : i * 512 + 512] = pixels[0, :, :, 0]
        target[row * 512 : row * 512 + 512] = band
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(copy, range(page.shape[0] // page.tilelength)))
"""
"""The same with zarr-python: a sharded array, and nothing else."""

CONVERTERS = {
    "unetcli prep: pyramid, statistics": (UNETCLI, "unetcli"),
    "ngff-zarr": (NGFF_ZARR, "ngff-zarr"),
    "ome-zarr-py": (OME_ZARR, "ome-zarr"),
    "raw pass to one file, no format": (RAW, "tifffile"),
    "raw pass to a Zarr array of one level": (RAW_ZARR, "tifffile"),
}
"""What is compared: name to program and the package that it stands for."""


def run() -> None:
    """Print megabytes per second and peak memory of each converter that is installed."""
    n_bytes = SIZE * SIZE
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "image.tif"
        write_image(source, SIZE)
        present = {name: (code, of) for name, (code, of) in CONVERTERS.items() if find_spec(of.replace("-", "_"))}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in present}
        for _ in range(ROUNDS):
            for name, (code, _) in present.items():
                found[name].append(_measure(code, source, Path(folder) / "out.zarr"))
    print(f"\nconversion of a TIFF of {SIZE} squared, 8 bits, deflate tiles, to OME-Zarr   {describe()}")
    print(f"{'':46} {'MB/s':>9} {'ratio':>7} {'peak MiB':>9}")
    seconds = {name: statistics.median(s for s, _ in runs) for name, runs in found.items()}
    first = next(iter(seconds.values()))
    for name, (_, package) in present.items():
        peak = statistics.median(m for _, m in found[name])
        label = f"{name} ({package} {version(package)})" if package not in ("unetcli", "tifffile") else name
        print(f"{label:46} {n_bytes / 1e6 / seconds[name]:9.1f} {seconds[name] / first:7.2f} {peak:9.0f}")


def _measure(code: str, source: Path, out: Path) -> tuple[float, float]:
    """Convert once in a process of its own; return seconds and peak memory, MiB."""
    start = time.perf_counter()
    command = [sys.executable, "-W", "ignore", "-c", code + PEAK, str(source), str(out)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    seconds = time.perf_counter() - start
    shutil.rmtree(out)
    return seconds, int(result.stdout.split()[-1]) / 1024


def write_image(path: Path, size: int) -> None:
    """Write a grey picture of smooth blobs with noise, tile by tile, as a scanner would."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:TILE, :TILE]

    def tiles() -> Iterator[NDArray[np.uint8]]:
        for _ in range(math.ceil(size / TILE) ** 2):
            a, b, c = rng.uniform(10, 60, 3)
            blobs = 128 + 60 * np.sin(y / a) * np.cos(x / b) + 20 * np.sin((x + y) / c)
            yield np.clip(blobs + rng.normal(0, 4, (TILE, TILE)), 0, 255).astype(np.uint8)

    tifffile.imwrite(
        path, tiles(), shape=(size, size), dtype="uint8", tile=(TILE, TILE), compression="zlib", bigtiff=True,
        photometric="minisblack", metadata=None,
    )  # fmt: skip

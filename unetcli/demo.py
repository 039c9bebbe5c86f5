"""A synthetic microscope: touching cells with exact truth, and all six commands run on them."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from unetcli.atomic import write_atomically
from unetcli.config import AugmentConfig, EvaluateConfig, PredictConfig, PrepConfig, WeightsConfig
from unetcli.image.streaming import Progress, silent
from unetcli.presets import with_preset
from unetcli.stages import augment, evaluate, prep, tile_predict, train, weights

PIXEL_UM = 0.65
N_TRAINING, N_NEW = 6, 2
SIZE = 384
STEPS = 160

Say = Callable[[str], None]
Call = Callable[[], dict[str, Any]]


def run(
    out: Path, *, overwrite: bool = False, dry_run: bool = False, say: Say = print, progress: Progress = silent
) -> dict[str, Any]:
    """Make images of touching cells, and run prep, weights, augment, train, tile-predict and evaluate.

    Parameters
    ----------
    out
        Folder for everything.
    overwrite
        Run every stage again.
    dry_run
        Say the commands, run none of them.
    say
        Prints a line for people.
    progress
        Called after each step of each stage.

    Returns
    -------
    dict
        The scores, and the path of the report.
    """
    started = time.monotonic()
    say(f"A synthetic microscope takes {N_TRAINING} pictures to learn from and {N_NEW} to segment: {out}")
    if not dry_run:
        for part, first, n in (("train", 0, N_TRAINING), ("new", 100, N_NEW)):
            write_pictures(out, part, first, n)
    result: dict[str, Any] = {}
    steps = _steps(out, {"overwrite": overwrite, "progress": progress})
    for number, (purpose, calls) in enumerate(steps.items(), start=1):
        say(f"\n[{number}/{len(steps)}] {purpose}   ({time.monotonic() - started:.0f} s)")
        for command, call in calls.items():
            say(f"      $ unetcli {command}")
            result = {} if dry_run else call()
    if dry_run:
        return {"would_run": f"{sum(map(len, steps.values()))} commands on {N_TRAINING + N_NEW} pictures"}
    say(f"\nDone in {time.monotonic() - started:.0f} s.\n")
    return {**result, "report": str(out / "report" / "report.html")}


def _steps(out: Path, again: dict[str, Any]) -> dict[str, dict[str, Call]]:
    """Return what each step is for, the commands that do it, and what these call."""
    data, maps, model, new = out / "train.zarr", out / "weights.zarr", out / "run", out / "new.zarr"
    mask, probabilities, truth, images = out / "mask.zarr", out / "p.zarr", out / "new_labels", out / "new_images"
    small = {"features": "16,32,64,128", "steps": STEPS, "patch_size": 192, "validate_every": 40}
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in small.items())
    return {
        "Images and their labels become one data set": {
            f"prep {out}/train_images --labels {out}/train_labels --split cells_05 -o {data}": lambda: prep.run(
                [out / "train_images"], data, PrepConfig(split="cells_05"), labels=[out / "train_labels"], **again
            ),
            f"prep {images} -o {new}": lambda: prep.run([images], new, PrepConfig(), **again),
        },
        "Narrow gaps between cells get a high weight": {
            f"weights {data} --balance none -o {maps} --explain {out}/weights.png": lambda: weights.run(
                data, maps, WeightsConfig(balance="none"), explain=out / "weights.png", **again
            ),
        },
        "What augmentation looks like": {
            f"augment {data} --weights {maps} -n 6 -o {out}/augmented.zarr --preview {out}/augmented.png": lambda: (
                augment.run(
                    data,
                    out / "augmented.zarr",
                    AugmentConfig(samples=6),
                    weights=maps,
                    preview=out / "augmented.png",
                    **again,
                )
            ),
        },
        f"A small U-Net learns for {STEPS} steps": {
            f"train {data} --weights {maps} -o {model} --preset fast {options}": lambda: train.run(
                data, model, with_preset("fast", **small), weights=maps, **again
            ),
        },
        "It segments pictures that it has never seen": {
            f"tile-predict {new} --model {model} -o {mask} --probabilities {probabilities}": lambda: tile_predict.run(
                new, mask, PredictConfig(), model=model, probabilities=probabilities, **again
            ),
        },
        "The result is compared with the truth": {
            f"evaluate {probabilities} {truth} --images {images} -o {out}/report": lambda: evaluate.run(
                probabilities, truth, out / "report", EvaluateConfig(), images=images, **again
            ),
        },
    }


def write_pictures(out: Path, part: str, first_seed: int, n: int) -> None:
    """Write pictures and labels as TIFF files; those that are there already stay."""
    for kind in ("images", "labels"):
        (out / f"{part}_{kind}").mkdir(parents=True, exist_ok=True)
    for i in range(n):
        files = [out / f"{part}_{kind}" / f"cells_{i:02d}.tif" for kind in ("images", "labels")]
        if all(file.exists() for file in files):
            continue
        resolution = {"resolution": (1e4 / PIXEL_UM, 1e4 / PIXEL_UM), "resolutionunit": "CENTIMETER"}
        for file, pixels in zip(files, touching_cells(SIZE, seed=first_seed + i), strict=True):
            content = io.BytesIO()
            tifffile.imwrite(content, pixels, photometric="minisblack", **resolution)
            write_atomically(file, content.getvalue())


def touching_cells(size: int, seed: int) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Make a picture of crowded cells with dark borders, and the exact ids of the cells.

    Parameters
    ----------
    size
        Side of the picture, pixels.
    seed
        The picture is a function of it alone.

    Returns
    -------
    image : (y, x) uint16
        Photon counts of a blurred scene over a background, with shot noise and the camera's read noise.
    labels : (y, x) uint16
        Ids of the cells, 0 = background. Neighbours touch.

    Notes
    -----
    Cells are the Voronoi regions of jittered grid points, in coordinates bent by a smooth random field so
    that borders curve, cut to a distance from their centre so that there are gaps; one in ten is missing.
    """
    rng = np.random.default_rng(seed)
    bend = [ndimage.gaussian_filter(rng.normal(size=(size, size)), 12) for _ in range(2)]
    bend = [4 * b / b.std() for b in bend]
    y, x = np.mgrid[:size, :size] + np.stack(bend)
    pitch = 34
    centres = np.mgrid[-pitch : size + pitch : pitch, -pitch : size + pitch : pitch].reshape(2, -1).T
    centres = centres + rng.uniform(-0.35, 0.35, centres.shape) * pitch
    distance = np.full((2, size, size), np.inf)
    nearest = np.zeros((size, size), dtype=np.intp)
    for i, (cy, cx) in enumerate(centres):
        d = np.hypot(y - cy, x - cx)
        is_nearer = d < distance[0]
        distance[1] = np.where(is_nearer, distance[0], np.minimum(distance[1], d))
        distance[0] = np.where(is_nearer, d, distance[0])
        nearest[is_nearer] = i
    radius = rng.uniform(0.5, 0.8, len(centres)) * pitch
    missing = rng.random(len(centres)) < 0.1
    inside = (distance[0] < radius[nearest]) & ~missing[nearest]
    ids = np.unique(np.where(inside, nearest + 1, 0), return_inverse=True)[1]
    labels = ids.reshape(inside.shape)
    border = np.clip((distance[1] - distance[0]) / 6, 0.35, 1)
    brightness = rng.uniform(0.7, 1.3, len(centres))[nearest]
    texture = ndimage.gaussian_filter(rng.normal(size=(size, size)), 1.5)
    scene = np.where(inside, 220 * brightness * border * (1 + 0.5 * texture), 0) + 60
    photons = rng.poisson(ndimage.gaussian_filter(scene, 1.2))
    return (photons + rng.normal(100, 3, photons.shape)).clip(0).astype(np.uint16), labels.astype(np.uint16)

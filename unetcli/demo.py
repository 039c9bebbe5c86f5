"""A synthetic microscope: touching cells with exact truth, and all six commands run on them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy import ndimage

from unetcli.config import (
    AugmentConfig,
    EvaluateConfig,
    PredictConfig,
    PrepConfig,
    WeightsConfig,
    with_preset,
)
from unetcli.image.streaming import Progress, silent
from unetcli.stages import augment, evaluate, prep, tile_predict, train, weights

PIXEL_UM = 0.65
N_TRAINING, N_NEW = 6, 2
SIZE = 384
STEPS = 160

Say = Callable[[str], None]


def run(out: Path, *, overwrite: bool = False, say: Say = print, progress: Progress = silent) -> dict[str, Any]:
    """Make images of touching cells, and run prep, weights, augment, train, tile-predict and evaluate.

    Parameters
    ----------
    out
        Folder for everything.
    overwrite
        Run every stage again.
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
    again: dict[str, Any] = {"overwrite": overwrite, "progress": progress}

    def stage(number: int, purpose: str, command: str) -> None:
        say(f"\n[{number}/6] {purpose}   ({time.monotonic() - started:.0f} s)\n      $ unetcli {command}")

    say(f"A synthetic microscope takes {N_TRAINING} pictures to learn from and {N_NEW} to segment: {out}")
    for part, first, n in (("train", 0, N_TRAINING), ("new", 100, N_NEW)):
        write_pictures(out, part, first, n)
    data, maps, model, new = out / "train.zarr", out / "weights.zarr", out / "run", out / "new.zarr"
    stage(
        1,
        "Images and their labels become one data set",
        f"prep {out}/train_images --labels {out}/train_labels -o {data}",
    )
    prep.run([out / "train_images"], data, PrepConfig(split="cells_05"), labels=[out / "train_labels"], **again)
    prep.run([out / "new_images"], new, PrepConfig(), **again)
    stage(2, "Narrow gaps between cells get a high weight", f"weights {data} -o {maps}")
    weights.run(data, maps, WeightsConfig(balance="none"), **again)
    stage(3, "What augmentation looks like", f"augment {data} --weights {maps} -n 6 -o {out}/augmented.zarr")
    config = AugmentConfig(samples=6)
    augment.run(data, out / "augmented.zarr", config, weights=maps, preview=out / "augmented.png", **again)
    stage(
        4,
        f"A small U-Net learns for {STEPS} steps",
        f"train {data} --weights {maps} -o {model} --preset fast --steps {STEPS}",
    )
    fast = with_preset("fast", features="16,32,64,128", steps=STEPS, patch_size=192, validate_every=40)
    train.run(data, model, fast, weights=maps, **again)
    stage(
        5,
        "It segments pictures that it has never seen",
        f"tile-predict {new} --model {model} -o {out}/mask.zarr",
    )
    tile_predict.run(new, out / "mask.zarr", PredictConfig(), model=model, probabilities=out / "p.zarr", **again)
    stage(6, "The result is compared with the truth", f"evaluate {out}/p.zarr {out}/new_labels -o {out}/report")
    metrics = evaluate.run(
        out / "p.zarr",
        out / "new_labels",
        out / "report",
        EvaluateConfig(),
        images=out / "new_images",
        **again,
    )
    say(f"\nDone in {time.monotonic() - started:.0f} s.\n")
    return {**metrics, "report": str(out / "report" / "report.html")}


def write_pictures(out: Path, part: str, first_seed: int, n: int) -> None:
    """Write pictures and labels as TIFF files; those that are there already stay."""
    for kind in ("images", "labels"):
        (out / f"{part}_{kind}").mkdir(parents=True, exist_ok=True)
    for i in range(n):
        name = f"cells_{i:02d}.tif"
        if (out / f"{part}_labels" / name).exists():
            continue
        image, labels = touching_cells(SIZE, seed=first_seed + i)
        resolution = (1e4 / PIXEL_UM, 1e4 / PIXEL_UM)
        for kind, pixels in (("images", image), ("labels", labels)):
            tifffile.imwrite(
                out / f"{part}_{kind}" / name, pixels, resolution=resolution, resolutionunit="CENTIMETER",
                photometric="minisblack",
            )  # fmt: skip


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
    labels = np.where(inside, nearest + 1, 0)
    border = np.clip((distance[1] - distance[0]) / 6, 0.35, 1)
    brightness = rng.uniform(0.7, 1.3, len(centres))[nearest]
    texture = ndimage.gaussian_filter(rng.normal(size=(size, size)), 1.5)
    scene = np.where(inside, 220 * brightness * border * (1 + 0.5 * texture), 0) + 60
    photons = rng.poisson(ndimage.gaussian_filter(scene, 1.2))
    return (photons + rng.normal(100, 3, photons.shape)).clip(0).astype(np.uint16), labels.astype(np.uint16)

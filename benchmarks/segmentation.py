"""What networks, losses and augmentations are worth: trained alike on real pictures, scored on ones held back.

``python -m benchmarks.segmentation DATA OUT [SET...]``, where DATA holds the folders that `SETS` name. Every run is
kept under OUT: called again, what is finished is not done again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.machine import describe
from unetcli.config import EvaluateConfig, PredictConfig, PrepConfig, WeightsConfig
from unetcli.image.inputs import open_inputs
from unetcli.image.store import open_store
from unetcli.image.tiling import Box
from unetcli.metrics.tables import confusion_table
from unetcli.models.device import choose_device
from unetcli.presets import with_preset
from unetcli.stages import evaluate, prep, tile_predict, train, weights


class Budget(NamedTuple):
    """What every run of a comparison gets, but for what its line changes."""

    small: Mapping[str, Any]
    """Of sets with many lines."""
    wide: Mapping[str, Any]
    """Of the others."""
    valid: Mapping[str, Any]
    """In place of the patch of `small`, for networks of valid convolutions."""


BUDGETS = {
    "cpu": Budget(
        {"features": "8,16,32,64,128", "patch_size": 192, "batch_size": 4, "steps": 800, "validate_every": 800},
        {"features": "16,32,64,128,256", "patch_size": 256, "batch_size": 4, "steps": 800, "validate_every": 800},
        {"patch_size": 284},
    ),
    "cuda": Budget({}, {}, {}),  # the presets as they are
}
"""By device."""


@dataclass(frozen=True)
class Case:
    """One line of a comparison.

    Parameters
    ----------
    name
        What is printed.
    preset
        Settings to start from.
    settings
        What is changed.
    weights
        Settings of the weight map; `None`: none is made.
    tta
        Views that are averaged.
    """

    name: str
    preset: str = "default"
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] | None = field(default_factory=dict)
    tta: str = "none"


@dataclass(frozen=True)
class Set:
    """Pictures to learn from and pictures to score, all with truth.

    Parameters
    ----------
    training, held_back
        Picture and its truth, of each.
    prep
        Settings of `prep`, and of the truth that is scored.
    metrics
        What is printed.
    cases
        What is compared.
    rim
        Width along the edges of the pictures to learn from where not all objects are in the truth, pixels: its
        background there becomes `IGNORED`.
    """

    training: Sequence[tuple[Path, Path]]
    held_back: Sequence[tuple[Path, Path]]
    prep: Mapping[str, Any]
    metrics: Sequence[str]
    cases: Sequence[Case]
    rim: int = 0


IGNORED = 65535
"""Label that says nothing, where a weight map is made with ``ignore``."""


MEMBRANES = {"balance": "none", "w0": 5.0, "sigma": 3.0}
"""Weights of membranes, which are objects and no gaps between them."""


def membranes(data: Path, budget: Budget) -> Set:
    """ISBI 2012: slices 0 to 21 to learn from, 22 and 23 held back."""
    folder = data / "isbi2012"
    pairs = [(folder / f"train_image_{n:02}.png", folder / f"train_label_{n:02}.png") for n in range(24)]
    small, as_published = budget.small, {**budget.small, **budget.valid}
    shorter = {"decay_every": 10} if small else {}
    cases = [
        Case("default", settings=small, weights=MEMBRANES),
        Case("default, eight views", settings=small, weights=MEMBRANES, tta="d4"),
        Case("default without weight map", settings=small, weights=None),
        Case("default without elastic deformation", settings={**small, "elastic": 0.0}, weights=MEMBRANES),
        Case("default without any augmentation", settings={**small, **NO_AUGMENTATION}, weights=MEMBRANES),
        Case("paper", "paper", {**as_published, "batch_size": 1}, weights=MEMBRANES),
        Case("paper, batches of 4", "paper", {**as_published, "batch_size": 4}, weights=MEMBRANES),
        Case("classic", "classic", {**small, **shorter}, weights=None),
        *(
            Case(arch, settings={**small, "arch": arch, "ndim": 2, **changes}, weights=MEMBRANES)
            for arch, changes in ARCHITECTURES.items()
        ),
    ]
    return Set(pairs[:22], pairs[22:], {"label_kind": "classes", "pixel_size": "4nm"}, OF_MEMBRANES, cases)


OF_MEMBRANES = ("v_rand", "v_info", "warping_error", "min_warping_error", "rand_error", "pixel_error", "iou")


def choices(data: Path, budget: Budget) -> Set:
    """Compare what the preset ``default`` could do otherwise, on membranes; its seeds show what is chance."""
    changes: dict[str, dict[str, Any]] = {
        "default": {},
        "default, another seed": {"seed": 1},
        "default, a third seed": {"seed": 2},
        "averaged parameters": {"ema": 0.99},
        "Dice and cross-entropy": {"loss": "dice-cross-entropy"},
        "cosine": {"schedule": "cosine", "warmup": 40},
        "SGD as nnU-Net": {
            "optimizer": "sgd", "learning_rate": 1e-2, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5,
            "schedule": "poly",
        },
        "group normalization": {"norm": "group"},
        "half the learning rate": {"learning_rate": 1e-3},
        "twice the learning rate": {"learning_rate": 4e-3},
    }  # fmt: skip
    cases = [Case(name, settings={**budget.small, **changed}, weights=MEMBRANES) for name, changed in changes.items()]
    return replace(membranes(data, budget), cases=cases)


NO_AUGMENTATION = {
    "elastic": 0.0, "rotation": 0.0, "scaling": 1.0, "shift": 0.0, "flip": False, "contrast": 1.0, "brightness": 0.0,
    "gamma": 0.0, "noise": 0.0,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "attention-unet": {},
    "unet++": {"deep_supervision": True},
    "resunet": {},
    "vnet": {"loss": "weighted-cross-entropy"},
    "sliding-window": {"features": "12,12,12,12,50"},
}
"""What a comparison changes beside the architecture."""


def cells(data: Path, budget: Budget) -> Set:
    """PhC-U373: hand-made truth of five frames held back; the others, and silver truth where there is no other.

    The truth leaves out cells that touch the rim of 50 pixels, as the Cell Tracking Challenge does.
    """
    folder = data / "ctc_phc_c2dh_u373"
    held_back = ("041", "049", "051", "052", "059")
    pairs: dict[str, list[tuple[Path, Path]]] = {"training": [], "held_back": []}
    for picture in sorted((folder / "02").glob("t*.tif")):
        frame = picture.stem.removeprefix("t")
        hand = folder / "02_GT" / "SEG" / f"man_seg{frame}.tif"
        truth = hand if hand.exists() else folder / "02_ST" / "SEG" / f"man_seg{frame}.tif"
        pairs["held_back" if frame in held_back else "training"].append((picture, truth))
    weighted, longer = (
        {"ignore": str(IGNORED)},
        {**budget.wide, **({"steps": 1600, "validate_every": 1600} if budget.wide else {})},
    )
    even = {**weighted, "balance": "none"}
    cases = [
        Case("default", settings=budget.wide, weights=weighted),
        Case("default, classes not balanced", settings=budget.wide, weights=even),
        Case("default, classes not balanced, longer", settings=longer, weights=even),
        Case("default, classes not balanced, longer, eight views", settings=longer, weights=even, tta="d4"),
    ]
    kept = {"pixel_size": "0.65um", "label_kind": "instances"}
    return Set(**pairs, prep=kept, metrics=("seg", "iou", "ap50"), cases=cases, rim=50)


def nuclei(data: Path, budget: Budget) -> Set:
    """Fluorescent nuclei of the Data Science Bowl: every fifth gray picture is held back."""
    folder = data / "dsb2018_nuclei"
    with (folder / "index.csv").open() as file:
        names = [row["name"] for row in csv.DictReader(file) if row["kind"] == "grey"]
    pairs = [(folder / "images" / f"{name}.png", folder / "labels" / f"{name}.tif") for name in names]
    training = [pair for i, pair in enumerate(pairs) if i % 5 != 2]
    cases = [
        Case("default", settings=budget.wide),
        Case("default, classes not balanced", settings=budget.wide, weights={"balance": "none"}),
        Case("default without weight map", settings=budget.wide, weights=None),
    ]
    kept = {"label_kind": "instances", "channels": "0"}
    return Set(training, pairs[2::5], kept, ("ap50", "seg", "iou"), cases)


def crowded(data: Path, budget: Budget) -> Set:
    """Crowded cells in phase contrast: two pictures to learn from, one held back."""
    folder = data / "usiigaci_phase"
    pairs = [(folder / f"set{n}_raw.tif", folder / f"set{n}_instances.png") for n in (1, 15, 30)]
    cases = [
        Case("default", settings=budget.wide),
        Case("default, classes not balanced", settings=budget.wide, weights={"balance": "none"}),
        Case("default without weight map", settings=budget.wide, weights=None),
    ]
    return Set(pairs[:2], pairs[2:], {"label_kind": "instances"}, ("ap50", "seg", "iou"), cases)


VNC_CLASSES = {
    0: "membrane-a", 32: "membrane-b", 64: "membrane-c", 96: "membrane-d", 128: "junction", 159: "glia",
    191: "mitochondria", 223: "synapse", 255: "inside",
}  # fmt: skip


def nine_classes(data: Path, budget: Budget) -> Set:
    """Nine classes in electron microscopy: slices 0 to 4 to learn from, 5 and 6 held back."""
    folder = data / "vnc_sstem"
    pairs = [(folder / f"raw_{n:02}.tif", folder / f"labels_{n:02}.png") for n in range(7)]
    classes = ",".join(f"{value}={name}" for value, name in VNC_CLASSES.items())
    cases = [
        Case("default", settings=budget.wide, weights=None),
        Case("default, Dice and cross-entropy", settings={**budget.wide, "loss": "dice-cross-entropy"}, weights=None),
        Case("default, classes weighted", settings=budget.wide, weights={"balance": "inverse"}),
    ]
    return Set(pairs[:5], pairs[5:], {"classes": classes, "pixel_size": "4.6nm"}, tuple(VNC_CLASSES.values()), cases)


SETS = {
    "membranes": membranes,
    "choices": choices,
    "cells": cells,
    "nuclei": nuclei,
    "crowded": crowded,
    "nine-classes": nine_classes,
}


def run(data: Path, out: Path, names: Sequence[str], *, steps: int | None = None, device: str = "auto") -> None:
    """Print a table for each set.

    Parameters
    ----------
    data
        Where the folders of pictures are.
    out
        Where everything is kept.
    names
        Sets of `SETS`.
    steps
        In place of the steps of each line, for a trial.
    device
        Where to train.
    """
    print(describe())
    budget = BUDGETS[choose_device(device).type]
    for name in names:
        chosen = SETS[name](data, budget)
        print(f"\n| {name} | parameters | steps | " + " | ".join(chosen.metrics) + " |")
        print("|---" * (len(chosen.metrics) + 3) + "|")
        for case in chosen.cases:
            row = _cached(chosen, case, out / name, steps, device)
            scores = " | ".join(_shown(row["scores"][m]) for m in chosen.metrics)
            print(f"| {case.name} | {row['parameters']:,} | {row['steps']:,} | {scores} |", flush=True)


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if value >= 0.01 else f"{value:.5f}"


def _cached(chosen: Set, case: Case, out: Path, steps: int | None, device: str) -> dict[str, Any]:
    """Do a line of a comparison, unless it was done."""
    folder = out / case.name.replace(",", "").replace(" ", "-")
    done = folder / "row.json"
    if not done.exists():
        row = _measure(chosen, case, out, folder, steps, device)
        done.write_text(json.dumps(row, indent=1))
    return dict(json.loads(done.read_text()))


def _measure(chosen: Set, case: Case, out: Path, folder: Path, steps: int | None, device: str) -> dict[str, Any]:
    """Prepare, train, segment what was held back, and score it."""
    data, new = out / "train.zarr", out / "new.zarr"
    config = PrepConfig(**chosen.prep)
    pictures = [picture for picture, _ in chosen.training]
    truths = [_without_rim(truth, chosen.rim, out / "truth") for _, truth in chosen.training]
    prep.run(pictures, data, config, labels=truths)
    unlabelled = {k: v for k, v in chosen.prep.items() if k not in ("label_kind", "classes")}
    prep.run([picture for picture, _ in chosen.held_back], new, PrepConfig(**unlabelled))
    maps = None
    if case.weights is not None:
        kind = "-".join(f"{k}={v}" for k, v in case.weights.items()) or "paper"
        maps = out / f"weights-{kind}.zarr"
        weights.run(data, maps, WeightsConfig(**case.weights))
    settings = {**case.settings, **({} if steps is None else {"steps": steps, "validate_every": steps})}
    trained = out / "runs" / _digest([case.preset, settings, case.weights])  # lines may share it
    summary = train.run(data, trained, with_preset(case.preset, **settings), weights=maps, device=device)
    outputs = {"probabilities": folder / "p.zarr", "device": device}
    tile_predict.run(new, folder / "mask.zarr", PredictConfig(tta=case.tta), model=trained, **outputs)
    return {
        "scores": _scores(chosen, folder),
        "parameters": summary["parameters"],
        "steps": int(summary["step"]),
    }


def _without_rim(truth: Path, rim: int, folder: Path) -> Path:
    """Write labels again, with `IGNORED` in place of the background of the rim."""
    if not rim:
        return truth
    (found,) = open_inputs([truth], is_label=True)
    labels = found.source.read(Box.whole(found.source.shape))[0, 0, 0].astype(np.uint16)
    outside = np.ones(labels.shape, np.bool_)
    outside[rim:-rim, rim:-rim] = False
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{truth.stem}.npy", np.where(outside & (labels == 0), IGNORED, labels))
    return folder / f"{truth.stem}.npy"


def _digest(value: object) -> str:
    """Name a value by its content."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _scores(chosen: Set, folder: Path) -> dict[str, float]:
    """Score as `evaluate` does; of several classes, the IoU of each over all pixels."""
    if "classes" in chosen.prep:
        return _iou_per_class(chosen, folder)
    truth = folder / "truth"
    truth.mkdir(exist_ok=True)
    for picture, labels in chosen.held_back:
        link = truth / f"{picture.stem}{labels.suffix}"
        if not link.exists():
            link.symlink_to(labels.resolve())
    kind = chosen.prep.get("label_kind")
    config = EvaluateConfig(metrics=",".join(chosen.metrics), label_kind=kind)
    return dict(evaluate.run(folder / "p.zarr", truth, folder / "report", config, overwrite=True)["mean"])


def _iou_per_class(chosen: Set, folder: Path) -> dict[str, float]:
    names = list(VNC_CLASSES.values())
    table = np.zeros((len(names), len(names)), np.int64)
    masks = {image.name: image.level for image in open_store(folder / "mask.zarr").images}
    for picture, labels in chosen.held_back:
        mask = masks[picture.stem] if len(masks) > 1 else next(iter(masks.values()))
        (found,) = open_inputs([labels], is_label=True)
        codes = found.source.read(Box.whole(found.source.shape))
        classes = np.searchsorted(list(VNC_CLASSES), codes)
        table += confusion_table(classes.ravel(), mask.read(Box.whole(mask.shape)).ravel(), len(names))
    both = np.diag(table)
    return dict(zip(names, (both / (table.sum(0) + table.sum(1) - both)).tolist(), strict=True))


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or list(SETS))

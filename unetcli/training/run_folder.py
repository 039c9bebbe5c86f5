"""The folder of a run: whether it may be written, what the run is, and what came out."""

from __future__ import annotations

import json
import logging
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unetcli import __version__
from unetcli.atomic import write_atomically
from unetcli.errors import InputError
from unetcli.image.ledger import check_fingerprint
from unetcli.image.location import making
from unetcli.models.checkpoint import save_model
from unetcli.report.curves import draw_curves
from unetcli.training.record import best_row, panels_of, read_rows
from unetcli.training.trainer import Trainer

logger = logging.getLogger(__name__)


def is_complete(out: Path, plan: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Tell whether a run is finished; refuse to go on with one that was begun otherwise."""
    run_file = out / "run.json"
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: exists and is not a training run", fix="another -o")
    begun = _plan_of(out) if run_file.exists() else None
    if begun is None and out.is_dir() and any(not path.match(".*.partial") for path in out.iterdir()):
        raise InputError(f"{out}: exists and is not a training run", fix="another -o, or remove it by hand")
    if begun is not None and overwrite:
        _remove(out)
    elif any((out / name).exists() for name in ("last.ckpt", "model.safetensors")):  # else nothing is lost
        check_fingerprint(out, begun or {}, plan)
    return (out / "model.safetensors").exists()


def _plan_of(out: Path) -> dict[str, Any] | None:
    """Return the plan of a run; `None` where the file is not one of a run."""
    try:
        plan = json.loads((out / "run.json").read_text())["fingerprint"]
        return dict(plan) if plan["stage"] == "train" else None
    except (ValueError, LookupError, TypeError):
        return None


def _remove(out: Path) -> None:
    """Remove a run: what makes it complete at first, what tells that it is one at last, whenever this is cut short."""
    (out / "model.safetensors").unlink(missing_ok=True)
    for path in out.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "run.json":
            path.unlink()
    shutil.rmtree(out)


def write_run_file(out: Path, plan: Mapping[str, Any], trainer: Trainer) -> None:
    """Write down what is trained, of what, and on which machine; the folder is made if it is not there."""
    with making(out):
        out.mkdir(parents=True, exist_ok=True)
    for partial in out.glob(".*.partial"):  # of a run that was killed while it wrote
        partial.unlink(missing_ok=True)
    if (out / "last.ckpt").exists():
        _warn_of_rounding(out, trainer.machine)
    content = {
        "version": __version__,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        **trainer.machine,
        "augment_on": trainer.history.augment_on,
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "fingerprint": plan,
    }
    write_atomically(out / "run.json", json.dumps(content, indent=1))


def _warn_of_rounding(out: Path, machine: Mapping[str, Any]) -> None:
    """Say what of a machine is not as it was when a run was begun, so that sums are rounded otherwise."""
    before = json.loads((out / "run.json").read_text())
    changed = [f"{k} was {before[k]}, is {v}" for k, v in machine.items() if k in before and before[k] != v]
    if changed:
        logger.warning(
            "%s: goes on otherwise: %s; by rounding, its results differ from those of a run never stopped",
            out, ", ".join(changed),
        )  # fmt: skip


def write_results(trainer: Trainer, out: Path) -> None:
    """Write the curves, then the model, with which the run is complete."""
    draw_curves(trainer.history.rows, panels_of(trainer.history.rows), out / "curves.png")
    best, model = out / "best.safetensors", out / "model.safetensors"
    if trainer.config.keep == "last" or trainer.history.best is None:
        save_model(model, trainer.result.state_dict(), trainer.header)
        return
    if not best.is_file():
        raise InputError(f"{best}: is missing; expected the best model of this run", fix="--overwrite starts again")
    write_atomically(model, best.read_bytes())


def summarize(out: Path, *, already: bool) -> dict[str, Any]:
    """Say what came out, where it is, and what to do with it."""
    run_file = json.loads((out / "run.json").read_text())
    rows, times = read_rows(out / "metrics.csv"), read_rows(out / "timing.csv")
    settings = run_file["fingerprint"]["settings"]
    seconds = sum(t["seconds"] for t in times)
    best = best_row(rows, settings["best_by"]) if settings["best_by"] in rows[-1] else None
    shown = rows[-1] if best is None or settings["keep"] == "last" else best
    return {
        "out": str(out), "already_done": already, "parameters": run_file["parameters"], **shown,
        "step": int(shown["step"]), "last_step": int(rows[-1]["step"]),
        **({} if best is None else {"best_step": int(best["step"])}),
        "waiting_for_data_percent": 100 * sum(t["seconds"] * t["data_wait"] for t in times) / seconds,
        "next": f"unetcli tile-predict IMAGE --model {out} -o mask.zarr",
    }  # fmt: skip

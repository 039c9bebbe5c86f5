"""What a path is, in plain words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unetcli.errors import InputError, first_line
from unetcli.image.axes import describe_shape
from unetcli.image.files import open_file
from unetcli.image.ledger import require_complete
from unetcli.image.ome_tiff import written_attributes
from unetcli.image.store import is_store, open_store


def run(path: Path) -> dict[str, Any]:
    """Describe a store, an image file, a model, a training run, or a report.

    Raises
    ------
    InputError
        If it is missing, unfinished, or nothing that `unetcli` reads.
    """
    require_complete(path)
    if not path.exists():
        raise InputError(f"{path}: does not exist")
    if is_store(path):
        return _describe_store(path)
    if (path / "metrics.json").is_file() and not (path / "run.json").exists():
        return _describe_report(path / "metrics.json")
    if path.is_dir() and not any((path / name).exists() for name in ("run.json", "model.safetensors")):
        raise InputError(f"{path}: is a folder; expected a store, an image file, a model or a training run")
    if path.is_dir() or path.suffix == ".safetensors":
        return _describe_model(path)
    source = open_file(path)
    written_by = written_attributes(path).get("stage")
    return {
        "kind": "image file" + (f", written by unetcli {written_by}" if written_by else ""),
        "size": describe_shape(source.shape),
        "type": str(source.dtype),
        "axes": source.axes.describe(),
        "notes": list(source.notes),
    }


def _describe_store(path: Path) -> dict[str, Any]:
    store = open_store(path)
    first = store.images[0]
    data = store.attributes.get("data", {})
    described = {
        "kind": f"OME-Zarr store, written by {store.attributes.get('stage', 'another program')}",
        "images": len(store.images),
        "size": describe_shape(first.level.shape) + (" (the first)" if len(store.images) > 1 else ""),
        "type": str(first.level.dtype),
        "axes": first.axes.describe(),
        "levels": len(first.level_paths),
        "labels": ", ".join(first.label_names) or "none",
    }
    if data:
        described["classes"] = f"{data['label_kind']}: {', '.join(data['classes'])}" if data["label_kind"] else "none"
        described["gray_values"] = "; ".join(
            f"{s['min']:g} to {s['max']:g}, mean {s['mean']:.4g}" for s in data["statistics"]
        )
        described["validation"] = ", ".join(data["validation"]) or "none"
    return described


def _describe_model(path: Path) -> dict[str, Any]:
    from unetcli.models.checkpoint import read_header  # imports torch

    header = read_header(path)
    geometry = header.geometry
    return {
        "kind": "model",
        "architecture": f"{header.arch} {json.dumps(dict(header.parameters))}",
        "classes": ", ".join(header.classes),
        "channels": header.channels,
        "geometry": f"stride {geometry.stride}, halo {geometry.halo}, inputs {geometry.stride}*k + "
        f"{geometry.smallest % geometry.stride} from {geometry.smallest} on",
        "pixel_size": json.dumps(dict(header.pixel_size)),
        "made_with": f"unetcli {header.provenance.get('version')}",
    }


def _describe_report(file: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(file.read_text())
        return {"kind": "report", "images": len(metrics["images"]), **metrics["mean"]}
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"{file}: is not the report of unetcli evaluate ({first_line(error)})") from error

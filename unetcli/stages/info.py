"""What a path is, in plain words, and what is wrong with it: by tile, no halo."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from unetcli.architectures import ARCHITECTURES
from unetcli.config import default_settings
from unetcli.errors import FaultsError, InputError, first_line
from unetcli.image.axes import Channel, describe_shape
from unetcli.image.check import Findings, Subject, check_pixels
from unetcli.image.dataset import shares_text
from unetcli.image.faults import differences, store_faults
from unetcli.image.inputs import open_inputs
from unetcli.image.ledger import require_complete
from unetcli.image.location import Location, require_local
from unetcli.image.nodes import is_store
from unetcli.image.pairing import MAX_LISTED, list_images
from unetcli.image.source import Source, sizes_text
from unetcli.image.store import Image, Level, Store, survey
from unetcli.image.streaming import Progress, silent

T = TypeVar("T")


def run(
    path: Location, *, check: bool = False, workers: int | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """Describe a store, an image file, a folder of images, a model, a training run, or a report.

    Parameters
    ----------
    path
        What is looked at; nothing of it is changed.
    check
        Also read every pixel, and every parameter of a model.
    workers, progress
        See `reduce_tiles`.

    Returns
    -------
    dict
        Plain words by property; assumptions and the like under ``notes``.

    Raises
    ------
    InputError
        If it is missing, unfinished, or nothing that `unetcli` reads.
    FaultsError
        If it is described, but has faults; ``result`` lists them under ``faults``.
    """
    require_complete(path)
    if is_store(path):
        described, subjects, found = _store(path)
    elif (path / "metrics.json").is_file() and not (path / "run.json").exists():
        described, subjects, found = _report(path / "metrics.json"), [], Findings()
    elif path.suffix in (".safetensors", ".onnx") or any(
        (path / n).exists() for n in ("run.json", "model.safetensors")
    ):
        described, subjects, found = _model(path, check=check), [], Findings()
    else:
        described, subjects, found = _files(path)
    if check:
        read = check_pixels(subjects, workers=workers, progress=progress)
        found.faults += read.faults
        found.notes += read.notes
        described["checked"] = "every pixel was read" if subjects else "everything was read"
    inside = f"{path}/"
    faults = list(dict.fromkeys(_one_line(fault).removeprefix(inside) for fault in found.faults))
    described |= {"faults": faults, "notes": list(dict.fromkeys(note.removeprefix(inside) for note in found.notes))}
    if faults:
        raise FaultsError(f"{path}: {len(faults)} fault{'s' if len(faults) > 1 else ''}", result=described)
    return described


def _one_line(fault: InputError) -> str:
    return f"{fault}" + (f" (fix: {fault.fix})" if fault.fix else "")


def _as_image_or_labels(open_as: Callable[[bool], T]) -> T:
    """Open something as an image, or else as labels, which may be integers of any size."""
    try:
        return open_as(False)
    except InputError:
        with suppress(InputError):
            return open_as(True)
        raise


def _few(names: Sequence[str]) -> str:
    """List some names: all of them, or the first and how many more."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


# ------------------------------------------------------------------------------------------- stores

KINDS = {
    "image": "image",
    "collection": "collection of images (bioformats2raw layout)",
    "plate": "plate",
    "well": "well of a plate",
    "labels": "group of label images",
}


def _store(path: Location) -> tuple[dict[str, Any], list[Subject], Findings]:
    store = _as_image_or_labels(lambda is_label: survey(path, is_label=is_label))
    found = Findings(store_faults(store))
    described: dict[str, Any] = {"kind": _kind(store)}
    if store.kind not in ("image", "array"):
        described["images"] = f"{len(store.images)}: {_few([image.name for image in store.images])}"
    if not store.images:
        return described, [], found
    first = store.images[0]
    described |= _pixels([image.level for image in store.images])
    described |= _layout(first)
    labels = [label for image in store.images for label in _labels_of(image)]
    described["labels"] = _labels(labels, len(store.images))
    described |= _recorded(store.attributes)
    found.notes += [note for image in store.images for note in image.level.notes]
    every = [(image, image.is_label) for image in store.images] + [(label, True) for label in labels]
    return described, [s for image, is_label in every for s in _subjects(image, is_label=is_label)], found


def _kind(store: Store) -> str:
    by = store.attributes.get("stage")
    writer = f"written by unetcli {by}" if by else "written by another program"
    if store.kind == "array":
        return f"Zarr array, {writer}"
    version = next((f" {image.version}" for image in store.images if image.version), "")
    is_label = store.kind == "image" and store.images[0].is_label
    return f"OME-Zarr{version} {'label image' if is_label else KINDS[store.kind]}, {writer}"


def _labels_of(image: Image) -> list[Image]:
    """Return the label images of an image that can be opened; why others can not is among the faults."""
    opened = []
    for name in image.label_names:
        with suppress(InputError):
            opened.append(image.label_image(name))
    return opened


def _labels(labels: Sequence[Image], n_images: int) -> list[str] | str:
    """Say the label images of an image; of a collection, how many images have each."""
    if n_images == 1:
        lines = [f"{label.name}: {label.level.dtype}, {describe_shape(label.level.shape)}" for label in labels]
    else:
        kinds = Counter((label.name, label.level.dtype.name) for label in labels)
        lines = [f"{name}: {dtype}, of {n} images" for (name, dtype), n in kinds.items()]
    return lines or "none"


def _subjects(image: Image, *, is_label: bool) -> list[Subject]:
    """Return the levels of an image that can be opened, to be read whole."""
    found = []
    for k, level in enumerate(image.levels):
        with suppress(InputError):
            level.shape  # noqa: B018 - opens the array
            found.append(Subject(level, str(level.path), is_label=is_label and k == 0))
    return found


def _layout(image: Image) -> dict[str, Any]:
    """Say how an image is kept: levels, chunks, shards and files."""
    level = image.level
    sizes = [describe_shape(subject.source.shape) for subject in _subjects(image, is_label=False)]
    n = math.prod(-(-n // s) for n, s in zip(level.shape, level.shard, strict=True))
    files = f"{'' if level.dense else 'up to '}{n} file{'s' if n > 1 else ''} at full resolution"
    shards = f" in shards of {sizes_text(_own(level, level.shard))}" if level.shard != level.chunk else ""
    return {
        "levels": f"{len(image.levels)}: {', '.join(sizes)}",
        "chunks": f"{sizes_text(_own(level, level.chunk))}{shards}, {files}",
    }


def _own(level: Level, shape: Sequence[int]) -> tuple[int, ...]:
    return level.axes.keep(tuple(shape))


def _pixels(sources: Sequence[Source]) -> dict[str, Any]:
    """Describe the pixels of one image, or of a collection."""
    first = sources[0]
    shapes = sorted({source.shape for source in sources}, key=math.prod)
    size = describe_shape(first.shape)
    if len(shapes) > 1:
        size = f"{len(shapes)} different sizes, from {describe_shape(shapes[0])} to {describe_shape(shapes[-1])}"
    names, _, pixel_size = first.axes.describe().partition(", pixel size ")
    described = {"size": size, "type": _few(sorted({source.dtype.name for source in sources}))}
    described |= {"axes": names.removeprefix("axes "), "pixel_size": pixel_size}
    if first.channels or first.shape[1] > 1:
        described["channels"] = f"{first.shape[1]}: {_channels(first.channels)}"
    return described


def _channels(channels: Sequence[Channel]) -> str:
    named = [channel.name + (f" (shown in #{channel.color})" if channel.color else "") for channel in channels]
    return _few(named) or "without names"


def _recorded(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Say what `unetcli` wrote down about a store."""
    described: dict[str, Any] = {}
    data = attributes.get("data", {})
    if data:
        described["classes"] = f"{data['label_kind']}: {', '.join(data['classes'])}" if data["label_kind"] else "none"
        if data.get("class_pixels"):
            described["shares"] = shares_text(data["classes"], data["class_pixels"])
        described["gray_values"] = [f"{s['min']:g} to {s['max']:g}, mean {s['mean']:.4g}" for s in data["statistics"]]
        described["validation"] = _few(list(data["validation"])) or "none"
    if "prediction" in attributes:
        described["classes"] = ", ".join(attributes["prediction"].get("classes", ()))
    if "version" in attributes:
        settings = attributes.get("fingerprint", {}).get("settings", {})
        defaults = default_settings(attributes["stage"])
        plain = {k: v for k, v in settings.items() if isinstance(v, (str, int, float)) and v != defaults.get(k)}
        given = [f"{k} {v}" for k, v in plain.items()]
        described["made_by"] = f"unetcli {attributes['stage']}, version {attributes['version']}"
        described["settings"] = ", ".join(given) or "the defaults"
    return described


# ------------------------------------------------------------------------------------------- files


def _files(path: Location) -> tuple[dict[str, Any], list[Subject], Findings]:
    """Describe a file, or all images of a folder, whatever they are."""
    found = Findings()
    opened = []
    paths = list_images([path])
    for file in paths:
        try:
            opened += _as_image_or_labels(lambda is_label, file=file: open_inputs([file], is_label=is_label))  # type: ignore[misc]
        except InputError as error:
            found.faults.append(error)
    if paths == [path] and not opened:
        raise found.faults[0]
    described: dict[str, Any] = {"kind": "image file"}
    if paths != [path]:
        described = {"kind": "folder of images", "images": f"{len(paths)}: {_few([file.name for file in paths])}"}
    elif opened and "stage" in opened[0].attributes:
        described["kind"] += f", written by unetcli {opened[0].attributes['stage']}"
    if opened:
        described |= _pixels([item.source for item in opened])
    found.notes += [str(difference) for difference in differences(path.name, [(i.name, i.source) for i in opened])]
    found.notes += [note for item in opened for note in item.source.notes]
    return described, [Subject(item.source, item.source.name) for item in opened], found


# ------------------------------------------------------------------------------------------- models and reports


def _model(path: Location, *, check: bool) -> dict[str, Any]:
    from unetcli.models.checkpoint import load_model, read_header  # imports torch
    from unetcli.models.geometry import receptive_field
    from unetcli.models.summary import count_parameters

    file = require_local(path)
    header = load_model(file)[1] if check else read_header(file)
    return {
        "kind": "model",
        "architecture": _architecture(header.arch, header.parameters),
        "classes": ", ".join(header.classes),
        "channels": header.channels,
        **({"channel_names": ", ".join(header.channel_names)} if header.channel_names else {}),
        "paper": ARCHITECTURES[header.arch].paper,
        "parameters": count_parameters(header.arch, header.parameters),
        "geometry": header.geometry.describe(),
        "receptive_field": sizes_text(receptive_field(header.arch, header.parameters)),
        "pixel_size": _model_pixel_size(header.pixel_size),
        "made_by": f"unetcli {header.provenance.get('version')}",
    }


def _architecture(arch: str, parameters: Mapping[str, Any]) -> str:
    """Say an architecture in words: ``unet in 2D: features 16, 32; padding same``."""
    shown = {k: v for k, v in parameters.items() if k not in ("ndim", "channels", "classes")}
    listed = {k: ", ".join(map(str, v)) if isinstance(v, (list, tuple)) else v for k, v in shown.items()}
    parts = [f"{k} {listed[k]}" for k in sorted(listed, key=lambda name: name != "features")]
    return f"{arch} in {parameters.get('ndim', 2)}D: {'; '.join(parts)}"


def _model_pixel_size(size: Mapping[str, Any]) -> str:
    unit = size.get("unit")
    return ", ".join(f"{a} {size[a]:g} {unit}" for a in "zyx" if a in size) if unit else "not known"


def _report(file: Location) -> dict[str, Any]:
    try:
        metrics = json.loads(file.read_text())
        return {"kind": "report", "images": len(metrics["images"]), **metrics["mean"]}
    except (ValueError, TypeError, LookupError) as error:
        raise InputError(f"{file}: is not the report of unetcli evaluate ({first_line(error)})") from error

"""What is wrong with a store, told from its metadata alone: no pixel is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from unetcli.errors import InputError
from unetcli.image.axes import describe_shape
from unetcli.image.location import Location, is_listable
from unetcli.image.nodes import is_array, is_store
from unetcli.image.source import Source
from unetcli.image.store import Image, Store


def store_faults(store: Store) -> list[InputError]:
    """Return all faults: images that can not be opened, levels and labels that do not fit, images that differ."""
    own = [fault for image in store.images for fault in image_faults(image)]
    alike = [] if store.kind == "labels" else [(image.name, image.level) for image in store.images]
    return [*store.faults, *own, *differences(str(store.path), alike)]


def image_faults(image: Image) -> Iterator[InputError]:
    """Yield the faults of the levels of an image, and of its labels."""
    yield from _level_faults(image)
    yield from _unlisted(image)
    shape = image.level.shape
    expected = (shape[0], 1, *shape[2:])
    for name in image.label_names:
        try:
            label = image.label_image(name)
        except InputError as error:
            yield error
            continue
        yield from _level_faults(label)
        if label.level.shape != expected:
            yield InputError(
                f"{label.path}: labels are {describe_shape(label.level.shape)}; expected {describe_shape(expected)}, "
                "as their image",
                fix="make the labels at the size of the image",
            )


def _level_faults(image: Image) -> Iterator[InputError]:
    """Yield what is wrong with the further levels: missing, of another type, or not of the same image."""
    first = image.level
    for k, level in enumerate(image.levels[1:], start=1):
        try:
            shape, dtype = level.shape, level.dtype
        except InputError as error:
            yield error
            continue
        if dtype != first.dtype:
            yield InputError(f"{level.path}: level {k} is {dtype}; expected {first.dtype}, as level 0", fix=REMAKE)
        if shape[:2] != first.shape[:2] or any(a > b for a, b in zip(shape, first.shape, strict=True)):
            yield InputError(
                f"{level.path}: level {k} is {describe_shape(shape)}; expected the same times and channels as level 0, "
                f"{describe_shape(first.shape)}, and no more pixels",
                fix=REMAKE,
            )


REMAKE = "write the store again, with a pyramid of this image"


def _unlisted(image: Image) -> Iterator[InputError]:
    """Yield label images that are there, but that no reader finds."""
    group = image.path / "labels"
    if not group.is_dir() or not is_listable(group):
        return
    if is_store(group) and is_array(group):
        yield InputError(f"{group}: is an array; expected a group of label images", fix="write the labels again")
    entries: list[Location] = list(group.iterdir())
    for entry in sorted(entries, key=str):
        if entry.is_dir() and is_store(entry) and entry.name not in image.label_names:
            yield InputError(
                f"{entry}: is not among the label images that {group} lists, so readers do not find it",
                fix=f"add {entry.name!r} to 'labels' in the metadata of {group}",
            )


def differences(place: str, images: Sequence[tuple[str, Source]]) -> Iterator[InputError]:
    """Yield in what the images of a collection differ, though those of one data set may not."""
    properties: dict[str, Callable[[Source], str]] = {
        "type of pixel": lambda source: source.dtype.name,
        "number of channels": lambda source: str(source.shape[1]),
        "pixel size": lambda source: source.axes.describe().partition(", pixel size ")[2],
    }
    for what, measure in properties.items():
        found: dict[str, str] = {}
        for name, source in images:
            found.setdefault(measure(source), name)
        if len(found) > 1:
            shown = "; ".join(f"{value}, as {name}" for value, name in list(found.items())[:5])
            yield InputError(f"{place}: images differ in {what}: {shown}", fix="prepare them apart, or make them alike")

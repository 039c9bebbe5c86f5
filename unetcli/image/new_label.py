"""Label images that are attached to the images of a store which is there already."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import zarr

from unetcli.errors import ConfigError, InputError
from unetcli.image.dataset import TRUTH
from unetcli.image.location import Location, zarr_path
from unetcli.image.new_store import NewStore, write_group
from unetcli.image.ngff import ZARR_FORMATS, ImageMetadata
from unetcli.image.nodes import read_attributes
from unetcli.image.store import Image, Level

"""Zarr format by version of OME-Zarr; labels of older ones are not read by others."""


def check_labels(images: Sequence[Image], name: str) -> None:
    """Refuse what can not be attached, before anything is written.

    Raises
    ------
    ConfigError
        If the name can not be that of a result.
    InputError
        If an image is of an old OME-Zarr version, or has labels of this name that `unetcli` did not attach.
    """
    taken = name in (TRUTH, "zarr.json") or name.endswith(".unetcli")
    if taken or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
        raise ConfigError(
            f"--as-label {name}: expected letters, digits, '.', '_' and '-', and not {TRUTH!r}, which is the truth",
            fix="--as-label prediction",
        )
    for image in images:
        zarr_format_of(image)
        if name in image.label_names and not is_attached(image, name):
            raise InputError(
                f"{image.path}: has labels {name!r} that were not made by unetcli tile-predict",
                fix="--as-label with another name",
            )


def zarr_format_of(image: Image) -> int:
    """Return the Zarr format of an image's store: its labels have the same."""
    attributes = read_attributes(image.path)
    ome = attributes.get("ome", attributes)
    version = str(ome.get("version") or ome["multiscales"][0].get("version"))
    if version not in ZARR_FORMATS:
        raise InputError(
            f"{image.path}: is OME-Zarr of version {version}; labels can be attached to {' and '.join(ZARR_FORMATS)}",
            fix=f"unetcli prep {image.path} -o data.zarr makes 0.5 of it; or -o mask.zarr in place of --as-label",
        )
    return ZARR_FORMATS[version]


def is_attached(image: Image, name: str) -> bool:
    """Tell whether a label image was attached by `unetcli`: it is a result then, not a truth."""
    return "unetcli" in read_attributes(image.path / "labels" / name, missing_ok=True)


class NewLabel(NewStore):
    """A label image that is being attached to an image: a store of its own within that of the image.

    It is listed among the image's labels at the very end; until then readers of the image do not see it.

    Parameters
    ----------
    root
        The store of the image.
    image
        The image.
    name
        Name of the label image; see `check_labels`.
    settings, inputs
        As in `NewStore`; the image's pixels and axes are added to them.
    begun
        The other parameters of `NewStore`.
    """

    def __init__(
        self,
        root: Location,
        image: Image,
        name: str,
        *,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Location],
        **begun: Any,  # noqa: ANN401 - as NewStore takes them
    ) -> None:
        self._root, self._labels = root, image.path / "labels"
        super().__init__(
            self._labels / name,
            settings={**settings, "axes": image.axes.describe()},
            inputs={**inputs, "image": image.level.path},
            zarr_format=zarr_format_of(image),
            **begun,
        )
        self.n_levels = len(image.levels)
        if self.complete:
            self._list(listed=True)

    def _begin(self, *, anew: bool, is_begun: bool) -> None:
        if anew:
            self._list(listed=False)
        super()._begin(anew=anew, is_begun=is_begun)

    def level(self, group: str, *args: Any, **options: Any) -> Level:  # noqa: ANN401, ARG002 - as NewStore takes them
        """Create one level; the store holds one image, in no group."""
        return super().level("", *args, **options)

    def finish(self, images: Iterable[ImageMetadata], attributes: Mapping[str, Any]) -> None:
        """Write all metadata, and then list the label image."""
        (image,) = images
        super().finish([replace(image, group="", name=self.path.name, source="../../")], attributes)
        self._list(listed=True)

    def _list(self, *, listed: bool) -> None:
        """Add the name to the image's list of labels, or take it off."""
        attributes = read_attributes(self._labels, missing_ok=True)
        ome = attributes.get("ome", attributes)
        before = list(ome.get("labels", ()))
        names = [name for name in before if name != self.path.name] + [self.path.name] * listed
        if set(names) == set(before):
            self._consolidate(listed=listed)  # a run that was killed here did not
            return
        described = {"ome": {"version": "0.5", **ome, "labels": names}} if self.zarr_format == 3 else {}
        write_group(self._labels, {**attributes, **described, "labels": names}, self.zarr_format)
        self._consolidate(listed=listed)

    def _consolidate(self, *, listed: bool) -> None:
        """Renew consolidated metadata where groups have it: readers would not look for the labels elsewhere."""
        above = [self._labels, *self._labels.parents]
        for group in above[: above.index(self._root) + 1]:
            if _is_stale(group, self.path.name, listed=listed):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that consolidated metadata is not in the specification
                    zarr.consolidate_metadata(zarr_path(group))


def _is_stale(group: Location, name: str, *, listed: bool) -> bool:
    """Tell whether a group has consolidated metadata that does not know yet that labels are listed, or are not."""
    for file, key in ((group / "zarr.json", "consolidated_metadata"), (group / ".zmetadata", "metadata")):
        if file.is_file():
            found = json.loads(file.read_bytes()).get(key)
            nodes = found.get("metadata", found) if found else None
            return nodes is not None and any(name in node.split("/") for node in nodes) != listed
    return False

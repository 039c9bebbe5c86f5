"""What is written to the path that a user gives: an OME-TIFF if it is named so, else an OME-Zarr store."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unetcli.errors import ConfigError, InputError
from unetcli.image.ledger import Ledger, begin_anew, forget, has_remains, ledger_path, read_plan
from unetcli.image.location import Location, local_path
from unetcli.image.new_store import NewStore
from unetcli.image.ngff import ImageMetadata
from unetcli.image.ome_tiff import PIXEL_TYPES, write_ome_tiff, written_attributes
from unetcli.image.store import Level
from unetcli.image.streaming import Progress, silent


def is_tiff_name(path: Location) -> bool:
    """Tell whether a path is named like a TIFF file."""
    return path.suffix.lower() in (".tif", ".tiff")


def check_output(path: Location, *, images: int, labels: bool = False, dtype: str = "uint8", ngff: str = "0.5") -> None:
    """Refuse an output that can not hold what is to be written, before anything is.

    Parameters
    ----------
    images
        Number of images.
    labels
        Whether there are labels beside them.
    dtype
        Type of the pixels.
    ngff
        Version of OME-Zarr that was asked for.

    Raises
    ------
    ConfigError
        If it is named like a TIFF file, which holds one image, of some types, and is no OME-Zarr.
    """
    if not is_tiff_name(path):
        return
    local_path(path)
    reasons = {
        f"{images} images": images > 1,
        "an image with its labels": labels,
        f"pixels of {dtype}": dtype not in PIXEL_TYPES,
        f"OME-Zarr {ngff} (--ngff)": ngff != "0.5",
    }
    for what in (reason for reason, holds in reasons.items() if holds):
        raise ConfigError(
            f"{path}: a TIFF file can not hold {what}; expected one image of integers, float32 or float64",
            fix=f"-o {path.name.split('.')[0]}.zarr",
        )


def new_output(path: Location, *, workers: int | None = None, progress: Progress = silent, **begun: Any) -> NewStore:  # noqa: ANN401 - as NewStore takes them
    """Begin what a path is named like.

    Parameters
    ----------
    path
        A store, or a TIFF file; see `check_output`.
    workers, progress
        For the export to TIFF: see `reduce_tiles`.
    begun
        The other parameters of `NewStore`.
    """
    if is_tiff_name(path):
        return NewTiff(local_path(path), workers=workers, progress=progress, **begun)
    return NewStore(path, **begun)


class NewTiff(NewStore):
    """An OME-TIFF that is being written.

    A TIFF file has one writer and can not be continued. So the levels are first written as those of a store, in
    the ledger's folder, and exported when all of them are there: to a file in that folder, which is then renamed.
    Each process that does so has a file of its own; if the ledger is gone then, so may be the levels, and what was
    exported of them counts for nothing: another process was faster.

    Parameters
    ----------
    path
        The file.
    workers, progress
        For the export: see `reduce_tiles`.
    begun
        The other parameters of `NewStore`.
    """

    def __init__(self, path: Path, *, workers: int | None, progress: Progress, **begun: Any) -> None:  # noqa: ANN401
        self._workers, self._progress = workers, progress
        self._levels: dict[int, Level] = {}
        self.file = path
        super().__init__(path, **begun)

    def _find(self) -> str:
        recorded = has_remains(self.path)  # before the plan: another process may be beginning it
        plan = read_plan(self.path)
        if plan is not None:
            return "begun" if plan else "remains"
        if not self.path.exists():
            return "remains" if recorded else "nothing"
        if self.written():
            return "complete"
        raise InputError(f"{self.path}: exists and was not made by unetcli", fix="another -o, or remove it by hand")

    def written(self) -> dict[str, Any]:
        """Return what was written down about the complete output that is there."""
        return written_attributes(self.file)

    def _begin(self, *, anew: bool, is_begun: bool) -> None:
        if anew:
            begin_anew(self.path)
        self.ledger = Ledger(self.path, self.fingerprint, is_begun=is_begun)

    @property
    def _pixels(self) -> Location:
        return self.ledger.scratch("pixels")

    def level(self, group: str, level: int, *args: Any, **options: Any) -> Level:  # noqa: ANN401 - as NewStore takes them
        """Create one level of the image."""
        self._levels[level] = super().level(group, level, *args, **options)
        return self._levels[level]

    def finish(self, images: Iterable[ImageMetadata], attributes: Mapping[str, Any]) -> None:
        """Export the levels of the one image with all metadata, and forget the ledger."""
        (image,) = images
        file = ledger_path(self.file) / f"export-{os.getpid()}-{os.urandom(4).hex()}.tif"
        levels = [self._levels[k] for k in sorted(self._levels)]
        try:
            with self.ledger.present():
                write_ome_tiff(
                    file, levels, image, self._ours(attributes), workers=self._workers, progress=self._progress
                )
            with self.ledger.present():
                file.replace(self.file)
        finally:
            file.unlink(missing_ok=True)
        forget(self.path)

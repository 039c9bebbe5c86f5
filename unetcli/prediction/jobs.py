"""The shards of what is predicted: computed all at once or in parts, by one process or many, and counted at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

from unetcli.errors import MissingShardsError
from unetcli.image.ledger import JointLedger, Ledger
from unetcli.image.levels import Subject
from unetcli.image.parts import MAX_PARTS, Part, array_text, parts_with
from unetcli.image.store import Level
from unetcli.image.streaming import Progress, Work, work_name, work_on
from unetcli.image.tiling import TileGrid
from unetcli.prediction.outputs import Written
from unetcli.prediction.predictor import Predictor

T = TypeVar("T", bound=Sized)


@dataclass(frozen=True)
class ImageShards:
    """The shards of one image.

    Parameters
    ----------
    name
        Of the image, as ledgers have it.
    subject
        What is segmented of it.
    grid
        Their cores.
    targets
        The arrays that are written.
    """

    name: str
    subject: Subject
    grid: TileGrid
    targets: tuple[Level, ...]

    def __len__(self) -> int:
        return len(self.grid)


@dataclass(frozen=True)
class Batch:
    """The shards of a mask, and of what is written with it.

    Parameters
    ----------
    written
        The stores that are not complete yet, the mask's first; none, where the mask is complete.
    images
        The shards of each image.
    """

    written: list[Written]
    images: list[ImageShards]

    @classmethod
    def of(cls, mask: Written, others: Sequence[Written], predictor: Predictor) -> Batch:
        """Create the arrays of all images, or open them."""
        written = [] if mask.store.complete else [mask, *(w for w in others if not w.store.complete)]
        images = []
        for group, subject in mask.subjects.items():
            targets = tuple(w.level(group, deep=predictor.header.ndim == 3) for w in written)
            images.append(ImageShards(group or "image", subject, predictor.grid(subject), targets))
        return cls(written, images)

    def __len__(self) -> int:
        return sum(map(len, self.images))

    @property
    def ledgers(self) -> list[Ledger]:
        """The records of the stores."""
        return [w.store.ledger for w in self.written]

    def works(self, predictor: Predictor, span: range) -> list[Work]:
        """Return those shards of a span as work whose mask is not complete."""
        works: list[Work] = []
        for first, image in _numbered(self.images):
            tiles = (predictor.tile(image.subject, image.grid[k]) for k in _within(span, first, len(image)))
            works += work_on(image.name, tiles, [image.subject.level], image.targets) if self.written else []
        return works

    def missing(self) -> list[int]:
        """Return the numbers of the shards that are not on record in all stores."""
        names = (work_name(image.name, k) for image in self.images for k in range(len(image)))
        ledger = JointLedger(self.ledgers)
        return [k for k, name in enumerate(names) if name not in ledger]


def compute(
    batches: Sequence[Batch], predictor: Predictor, part: Part | None, workers: int | None, progress: Progress
) -> dict[str, Any]:
    """Run over the shards of a part, or all; write all that is made of them, and say how many these are."""
    span = (part or Part(0, 1)).span(sum(map(len, batches)))
    if part is not None:
        for ledger in (ledger for batch in batches for ledger in batch.ledgers):
            ledger.note_parts(part.of)
    for first, batch in _numbered(batches):
        works = batch.works(predictor, _within(span, first, len(batch)))
        if works:
            outputs, record = [w.output for w in batch.written], JointLedger(batch.ledgers)
            predictor.run_over(works, outputs, record, workers=workers, progress=progress)
    if part is not None:
        return {"part": str(part), "shards": len(span)}
    return {"tiles": predictor.count_tiles(image.subject for batch in batches for image in batch.images)}


def require_all(batches: Sequence[Batch], path: str) -> None:
    """Refuse to finish where shards are missing; say in which parts they are.

    Raises
    ------
    MissingShardsError
        With ``missing`` (parts, as ``--array`` takes them), ``parts`` (of so many), ``missing_shards`` and ``shards``.
    """
    missing = {first + k for first, batch in _numbered(batches) for k in batch.missing()}
    if not missing:
        return
    total = sum(map(len, batches))
    noted = [n for batch in batches for ledger in batch.ledgers for n in ledger.noted_parts()]
    n = max(noted, default=min(total, MAX_PARTS))
    parts = array_text(parts_with(missing, total, n))
    result: dict[str, Any] = {"missing": parts, "parts": n, "missing_shards": len(missing), "shards": total}
    raise MissingShardsError(
        f"{path}: {len(missing)} of {total} shards are missing, in parts {parts} of {n}",
        fix=f"the same command with --part I/{n} for these I (sbatch --array={parts}), then --finish",
        result=result,
    )


def _numbered(items: Iterable[T]) -> Iterator[tuple[int, T]]:
    """Yield each item with the number of its first shard."""
    first = 0
    for item in items:
        yield first, item
        first += len(item)


def _within(span: range, first: int, n: int) -> range:
    """Return which of `n` shards are in a span, which counts the first of them as `first`."""
    return range(n)[max(span.start - first, 0) : max(span.stop - first, 0)]

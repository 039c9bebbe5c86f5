"""The shards of what is predicted: computed all at once or in parts, by one process or many, and counted at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from unetcli.errors import MissingShardsError
from unetcli.image.ledger import JointLedger, Ledger
from unetcli.image.levels import Subject
from unetcli.image.parts import MAX_PARTS, Part, array_text, parts_with
from unetcli.image.streaming import Progress, Work, work_on
from unetcli.prediction.outputs import Written
from unetcli.prediction.predictor import Predictor


@dataclass(frozen=True)
class Batch:
    """The shards of a mask, and of what is written with it.

    Parameters
    ----------
    written
        The stores that are not complete yet, the mask's first.
    works
        The shards; none, where the mask is complete.
    n_shards
        How many there are, whether complete or not.
    subjects
        What is segmented of each image.
    """

    written: list[Written]
    works: list[Work]
    n_shards: int
    subjects: list[Subject]

    @classmethod
    def of(cls, mask: Written, others: Sequence[Written], predictor: Predictor) -> Batch:
        """Create the arrays of all images, or open them, and list the shards."""
        written = [w for w in (mask, *others) if not w.store.complete]
        works: list[Work] = []
        n_shards = 0
        for group, subject in mask.subjects.items():
            tiles = list(predictor.tiles(subject))
            n_shards += len(tiles)
            if mask in written:
                targets = tuple(w.level(group, deep=predictor.header.ndim == 3) for w in written)
                works += work_on(group or "image", tiles, [subject.level], targets)
        return cls(written, works, n_shards, list(mask.subjects.values()))

    @property
    def ledgers(self) -> list[Ledger]:
        """The records of the stores."""
        return [w.store.ledger for w in self.written]


def compute(
    batches: Sequence[Batch], predictor: Predictor, part: Part | None, workers: int | None, progress: Progress
) -> dict[str, Any]:
    """Run over the shards of a part, or all; write all that is made of them, and say how many these are."""
    span = (part or Part(0, 1)).span(sum(batch.n_shards for batch in batches))
    if part is not None:
        for ledger in (ledger for batch in batches for ledger in batch.ledgers):
            ledger.note_parts(part.of)
    for first, batch in _numbered(batches):
        works = batch.works[max(span.start - first, 0) : max(span.stop - first, 0)]
        if works:
            outputs, record = [w.output for w in batch.written], JointLedger(batch.ledgers)
            predictor.run_over(works, outputs, record, workers=workers, progress=progress)
    if part is not None:
        return {"part": str(part), "shards": len(span)}
    return {"tiles": predictor.count_tiles(subject for batch in batches for subject in batch.subjects)}


def require_all(batches: Sequence[Batch], path: str) -> None:
    """Refuse to finish where shards are missing; say in which parts they are.

    Raises
    ------
    MissingShardsError
        With ``missing`` (parts, as ``--array`` takes them), ``parts`` (of so many), ``missing_shards`` and ``shards``.
    """
    missing: set[int] = set()
    for first, batch in _numbered(batches):
        ledger = JointLedger(batch.ledgers)
        missing |= {first + k for k, work in enumerate(batch.works) if work.name not in ledger}
    if not missing:
        return
    total = sum(batch.n_shards for batch in batches)
    noted = [n for batch in batches for ledger in batch.ledgers for n in ledger.noted_parts()]
    n = max(noted, default=min(total, MAX_PARTS))
    parts = array_text(parts_with(missing, total, n))
    result: dict[str, Any] = {"missing": parts, "parts": n, "missing_shards": len(missing), "shards": total}
    raise MissingShardsError(
        f"{path}: {len(missing)} of {total} shards are missing, in parts {parts} of {n}",
        fix=f"the same command with --part I/{n} for these I (sbatch --array={parts}), then --finish",
        result=result,
    )


def _numbered(batches: Sequence[Batch]) -> Iterator[tuple[int, Batch]]:
    """Yield each batch with the number of its first shard."""
    first = 0
    for batch in batches:
        yield first, batch
        first += batch.n_shards

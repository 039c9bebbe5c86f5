"""Image and model to mask and probabilities: by shard, halo: the network's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from unetcli.config import PredictConfig
from unetcli.errors import ConfigError, MissingShardsError
from unetcli.image.ledger import JointLedger
from unetcli.image.levels import Subject
from unetcli.image.location import Location
from unetcli.image.new_label import NewLabel, check_labels
from unetcli.image.new_output import check_output, new_output
from unetcli.image.new_store import NewStore, check_apart, collection_groups
from unetcli.image.parts import MAX_PARTS, Part, Phase, array_text, parts_with
from unetcli.image.pyramid import build_pyramids, nearest_2x2
from unetcli.image.scheduling import run_scheduled
from unetcli.image.store import Level, Store, open_store
from unetcli.image.streaming import Progress, Work, silent, work_on
from unetcli.models.checkpoint import model_file
from unetcli.prediction import outputs
from unetcli.prediction.estimate import estimate, sbatch_line
from unetcli.prediction.outputs import Output, Written
from unetcli.prediction.predictor import Predictor


def run(
    image: Location,
    out: Location | None,
    config: PredictConfig,
    *,
    model: Path,
    as_label: str | None = None,
    probabilities: Location | None = None,
    verify_seams: bool = False,
    device: str = "auto",
    create: bool = False,
    part: str | None = None,
    finish: bool = False,
    scheduler: str | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Segment each image of a store; called again, go on where it stopped.

    Parameters
    ----------
    image
        An OME-Zarr store.
    out
        The new store, or of one image a TIFF file: class of each pixel (uint8). None with `as_label`.
    config
        Settings.
    model
        A model file, or the folder of a training run.
    as_label
        Attach the mask to each image in place of a new store: name of the label image.
    probabilities
        Also write the probability of each class to this store or TIFF file.
    verify_seams
        Compare tiles with one large tile on a sample first.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    create, part, finish
        Do one phase only: make the empty store; compute part ``I/N`` of the shards; check that all are there,
        and complete it. Parts may run at once, in any number of processes on any machines.
    scheduler
        Have the parts computed by the workers of dask.distributed: address of its scheduler, or ``local``.
    dry_run
        Check everything, return what would be done, write nothing.
    overwrite, workers, progress
        See `NewStore` and `stream_tiles`.

    Returns
    -------
    dict
        Images, shards, tiles, and with `verify_seams` the greatest difference.

    Raises
    ------
    MissingShardsError
        If shards are missing where the store is to be finished.
    """
    phase = Phase.of(create=create, part=part, finish=finish, overwrite=overwrite)
    if scheduler is not None and not dry_run:
        if phase != Phase() or verify_seams:
            raise ConfigError("--scheduler: goes with neither --create, --part, --finish nor --verify-seams")
        options: dict[str, Any] = {
            "as_label": as_label,
            "probabilities": probabilities and probabilities.resolve(),
            "device": device,
        }
        call = partial(run, image.resolve(), out and out.resolve(), config, model=model.resolve(), **options)
        return run_scheduled(call, scheduler, overwrite=overwrite, workers=workers, progress=progress)
    if (out is None) == (as_label is None):
        raise ConfigError(
            f"{'neither' if out is None else 'both'} -o and --as-label given; expected one of them",
            fix="-o mask.zarr for a new store, or --as-label prediction for labels beside the image",
        )
    source = open_store(image)
    predictor = Predictor.load(model, config, device if phase.computes else "cpu")
    predictor.check(source)
    subjects = [Subject.of(i, config.level, config.upsample) for i in source.images]
    notes = predictor.notes(source)
    groups = dict(zip(collection_groups(s.name for s in subjects), subjects, strict=True))
    _check_outputs(source, out, as_label, probabilities, config)
    kinds = _outputs(predictor, probabilities is not None)
    if dry_run:
        found = estimate(predictor, subjects, kinds, workers)
        command = _command(image, out, config, model, as_label, probabilities)
        line = sbatch_line(command, found, predictor.device.type)
        return {**predictor.dry_run(subjects), **found, "sbatch": line, **notes}
    settings = {**asdict(config), "outputs": ["mask", *(["probabilities"] if probabilities else [])]}
    inputs = {"image": image, "model": model_file(model)}
    begun: dict[str, Any] = {
        "settings": settings, "inputs": inputs, "overwrite": overwrite, "shared": phase.is_shared,
    }  # fmt: skip
    masks, others = _begin(source, groups, out or as_label or "", probabilities, begun, kinds, workers, progress)
    done = [written.store.path for written in masks if written.store.complete]
    if done and not all(written.store.complete for written in others):
        raise ConfigError(f"{done[0]} is complete, but {probabilities} is not", fix="--overwrite makes both again")
    batches = [_Batch.of(mask, others, predictor) for mask in masks]
    written_to = str(out) if out else f"{image}, labels {as_label}"
    summary: dict[str, Any] = {"out": written_to, "already_done": len(done) == len(masks), "images": len(subjects)}
    summary |= {"shards": sum(batch.n_shards for batch in batches)}
    if phase.computes:
        predictor = predictor.settled([w.store.ledger for batch in batches for w in batch.written])
    if verify_seams and phase.computes:
        summary["greatest_difference_at_seams"] = predictor.verify_seams(subjects[0].level)
    if summary["already_done"]:
        return {**summary, **notes}
    if phase.computes:
        summary |= _compute(batches, predictor, phase.part, workers, progress)
    if phase.finishes:
        _require_all(batches, written_to)
        _finish(batches, others, predictor, workers, progress)
    if phase == Phase():
        summary["tiles"] = predictor.count_tiles(subjects)
    return {**summary, **notes}


@dataclass(frozen=True)
class _Batch:
    """The shards of a mask, and of what is written with it; no works, where it is complete."""

    written: list[Written]
    levels: dict[str, Level]
    works: list[Work]
    n_shards: int

    @classmethod
    def of(cls, mask: Written, others: Sequence[Written], predictor: Predictor) -> _Batch:
        """Create the arrays of all images, or open them, and list the shards."""
        written = [w for w in (mask, *others) if not w.store.complete]
        works: list[Work] = []
        levels: dict[str, Level] = {}
        n_shards = 0
        for group, subject in mask.subjects.items():
            tiles = list(predictor.tiles(subject))
            n_shards += len(tiles)
            if mask in written:
                targets = tuple(w.level(group, deep=predictor.header.ndim == 3) for w in written)
                levels[group] = targets[0]
                works += work_on(group or "image", tiles, [subject.level], targets)
        return cls(written, levels, works, n_shards)

    @property
    def ledger(self) -> JointLedger:
        """What is on record in all stores."""
        return JointLedger([w.store.ledger for w in self.written])


def _compute(
    batches: Sequence[_Batch], predictor: Predictor, part: Part | None, workers: int | None, progress: Progress
) -> dict[str, Any]:
    """Run over the shards of a part, or all; write all that is made of them."""
    span = (part or Part(0, 1)).span(sum(batch.n_shards for batch in batches))
    if part is not None:
        for ledger in (w.store.ledger for batch in batches for w in batch.written):
            ledger.note_parts(part.of)
    first = 0
    for batch in batches:
        works = batch.works[max(span.start - first, 0) : max(span.stop - first, 0)]
        first += batch.n_shards
        if works:
            outputs = [w.output for w in batch.written]
            predictor.run_over(works, outputs, batch.ledger, workers=workers, progress=progress)
    return {} if part is None else {"part": str(part), "shards": len(span)}


def _require_all(batches: Sequence[_Batch], path: str) -> None:
    """Refuse to finish where shards are missing; say in which parts they are."""
    missing: set[int] = set()
    first = 0
    for batch in batches:
        missing |= {first + k for k, work in enumerate(batch.works) if work.name not in batch.ledger}
        first += batch.n_shards
    if not missing:
        return
    noted = [n for batch in batches for w in batch.written for n in w.store.ledger.noted_parts()]
    n = max(noted, default=min(first, MAX_PARTS))
    parts = array_text(parts_with(missing, first, n))
    raise MissingShardsError(
        f"{path}: {len(missing)} of {first} shards are missing, in parts {parts} of {n}",
        fix=f"the same command with --part I/{n} for these I (sbatch --array={parts}), then --finish",
        result={"missing": parts, "parts": n, "missing_shards": len(missing), "shards": first},
    )


def _finish(
    batches: Sequence[_Batch],
    others: Sequence[Written],
    predictor: Predictor,
    workers: int | None,
    progress: Progress,
) -> None:
    """Build the pyramids of the masks, and write all metadata."""
    masks = [(batch.written[0], batch.levels) for batch in batches if batch.works]
    for mask, levels in masks:
        build_pyramids(mask.store, levels, nearest_2x2, workers=workers, progress=progress)
    for written in (*others, *(mask for mask, _ in masks)):  # the masks last: they stand for the run
        if not written.store.complete:
            written.finish(predictor.header.classes)


def _outputs(predictor: Predictor, with_probabilities: bool) -> list[Output]:
    """Return what is made of the probabilities: the mask, and what else is asked for."""
    dtype, classes = predictor.config.probability_dtype, predictor.header.classes
    return [outputs.mask(), *([outputs.probabilities(classes, dtype)] if with_probabilities else [])]


def _command(
    image: Location,
    out: Location | None,
    config: PredictConfig,
    model: Path,
    as_label: str | None,
    probabilities: Location | None,
) -> list[str]:
    """Return the command line that asks for the same."""
    options = {"--model": model, "-o": out, "--as-label": as_label, "--probabilities": probabilities}
    changed = [f for f in fields(config) if getattr(config, f.name) != f.default]
    options |= {f"--{f.name.replace('_', '-')}": getattr(config, f.name) for f in changed}
    given = [(name, str(value)) for name, value in options.items() if value is not None]
    return ["tile-predict", str(image), *(text for pair in given for text in pair)]


def _check_outputs(
    source: Store, out: Location | None, as_label: str | None, probabilities: Location | None, config: PredictConfig
) -> None:
    """Refuse outputs that can not be, before anything is written."""
    if out is not None:
        check_output(out, images=len(source.images))
    if as_label is not None:
        check_labels(source.images, as_label)
        if config.level and config.upsample == "none":
            raise ConfigError(
                f"--as-label {as_label} --level {config.level} --upsample none: labels have the size of their image",
                fix="leave out --upsample none; or -o mask.zarr in place of --as-label",
            )
    if probabilities is not None:
        check_output(probabilities, images=len(source.images), dtype=config.probability_dtype)


def _begin(
    source: Store,
    groups: dict[str, Subject],
    out: Location | str,
    probabilities: Location | None,
    begun: dict[str, Any],
    kinds: Sequence[Output],
    workers: int | None,
    progress: Progress,
) -> tuple[list[Written], list[Written]]:
    """Begin the outputs: masks, and maps of probabilities, one or none.

    The masks are a new store, or, where `out` is the name of labels, one for each image.
    """

    def begin(path: Location, stage: str) -> NewStore:
        return new_output(path, stage=stage, workers=workers, progress=progress, **begun)

    if probabilities is not None:
        check_apart(probabilities, [*begun["inputs"].values(), *([] if isinstance(out, str) else [out])])
    if not isinstance(out, str):
        masks = [Written(kinds[0], begin(out, "tile-predict"), groups)]
    else:
        labels = [NewLabel(source.path, i, out, stage="tile-predict", **begun) for i in source.images]
        masks = [Written(kinds[0], label, {group: groups[group]}) for label, group in zip(labels, groups, strict=True)]
    if probabilities is None:
        return masks, []
    return masks, [Written(kinds[1], begin(probabilities, "tile-predict probabilities"), groups)]

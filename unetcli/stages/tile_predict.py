"""Image and model to mask and probabilities: by shard, halo: the network's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unetcli.config import PredictConfig
from unetcli.errors import ConfigError
from unetcli.image.ledger import JointLedger
from unetcli.image.levels import Subject
from unetcli.image.location import Location
from unetcli.image.new_label import NewLabel, check_labels
from unetcli.image.new_output import check_output, new_output
from unetcli.image.new_store import NewStore, check_apart, collection_groups
from unetcli.image.pyramid import build_pyramids, nearest_2x2
from unetcli.image.store import Level, Store, open_store
from unetcli.image.streaming import Progress, Work, silent, work_on
from unetcli.instances.run import Reports, Results, check_instances, write_instances
from unetcli.models.checkpoint import model_file
from unetcli.prediction import outputs
from unetcli.prediction.outputs import Written
from unetcli.prediction.predictor import Predictor


def run(
    image: Location,
    out: Location | None,
    config: PredictConfig,
    *,
    model: Path,
    as_label: str | None = None,
    probabilities: Location | None = None,
    instances: Location | None = None,
    table: Path | None = None,
    outlines: Path | None = None,
    verify_seams: bool = False,
    device: str = "auto",
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
    instances
        Also write ids of objects (uint32) to this store or TIFF file, from the mask: one that is complete is taken.
    table, outlines
        Also write a row for each object to this CSV or Parquet file, or its outline to this GeoJSON file.
    verify_seams
        Compare tiles with one large tile on a sample first.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    dry_run
        Check everything, return what would be done, write nothing.
    overwrite, workers, progress
        See `NewStore` and `stream_tiles`.

    Returns
    -------
    dict
        Images, tiles, and with `verify_seams` the greatest difference.
    """
    if (out is None) == (as_label is None):
        raise ConfigError(
            f"{'neither' if out is None else 'both'} -o and --as-label given; expected one of them",
            fix="-o mask.zarr for a new store, or --as-label prediction for labels beside the image",
        )
    source = open_store(image)
    predictor = Predictor.load(model, config, device)
    predictor.check(source)
    subjects = [Subject.of(i, config.level, config.upsample) for i in source.images]
    notes = predictor.notes(source)
    groups = dict(zip(collection_groups(s.name for s in subjects), subjects, strict=True))
    _check_outputs(source, out, as_label, probabilities, config)
    reports, ndim = Reports(table, outlines), predictor.header.ndim
    check_instances(instances, config, reports, probabilities=probabilities, images=len(subjects), ndim=ndim)
    if dry_run:
        return {**predictor.dry_run(subjects), **notes}
    settings = {
        **config.pixel_settings(),
        "step": predictor.step,
        "device": predictor.device.type,
        "outputs": ["mask", *(["probabilities"] if probabilities else [])],
    }
    inputs = {"image": image, "model": model_file(model)}
    begun: dict[str, Any] = {"settings": settings, "inputs": inputs, "overwrite": overwrite}
    masks, others = _begin(source, groups, out or as_label or "", probabilities, begun, predictor, workers, progress)
    objects = (
        None if instances is None else _begin_instances(instances, out, probabilities, begun, config, workers, progress)
    )
    done = [written.store.path for written in masks if written.store.complete]
    if done and not all(written.store.complete for written in others):
        raise ConfigError(f"{done[0]} is complete, but {probabilities} is not", fix="--overwrite makes both again")
    written_to = str(out) if out else f"{image}, labels {as_label}"
    summary: dict[str, Any] = {"out": written_to, "already_done": len(done) == len(masks), "images": len(subjects)}
    if verify_seams:
        summary["greatest_difference_at_seams"] = predictor.verify_seams(subjects[0].level)
    for mask in masks:
        if not mask.store.complete:
            _predict(mask, [w for w in (mask, *others) if not w.store.complete], predictor, workers, progress)
    for written in (*others, *masks):  # the masks last: they stand for the run
        if not written.store.complete:
            written.finish(predictor.header.classes)
    if not summary["already_done"]:
        summary["tiles"] = predictor.count_tiles(subjects)
    if objects is not None:
        places = [w.store.path for w in masks]
        results = Results(groups, places, probabilities, predictor.header.classes, config.object_ndim or ndim)
        summary |= write_instances(objects, results, config, reports, workers=workers, progress=progress)
    return {**summary, **notes}


def _begin_instances(
    path: Location,
    out: Location | None,
    probabilities: Location | None,
    begun: dict[str, Any],
    config: PredictConfig,
    workers: int | None,
    progress: Progress,
) -> NewStore:
    """Begin the store of ids: they follow from what the mask follows from, and from their own settings."""
    check_apart(path, [place for place in (out, probabilities) if place is not None])
    settings = {**begun["settings"], **config.instance_settings()}
    return new_output(
        path,
        stage="tile-predict instances",
        workers=workers,
        progress=progress,
        **{**begun, "settings": settings},
    )


def _predict(
    mask: Written, written: Sequence[Written], predictor: Predictor, workers: int | None, progress: Progress
) -> None:
    """Run over the images of a mask, and write all that is made of them; then the pyramids of the mask."""
    works: list[Work] = []
    masks: dict[str, Level] = {}
    for group, subject in mask.subjects.items():
        targets = tuple(w.level(group, deep=predictor.header.ndim == 3) for w in written)
        masks[group] = targets[0]
        works += work_on(group or "image", predictor.tiles(subject), [subject.level], targets)
    ledger = JointLedger([w.store.ledger for w in written])
    predictor.run_over(works, [w.output for w in written], ledger, workers=workers, progress=progress)
    build_pyramids(mask.store, masks, nearest_2x2, workers=workers, progress=progress)


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
    predictor: Predictor,
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
        masks = [Written(outputs.mask(), begin(out, "tile-predict"), groups)]
    else:
        labels = [NewLabel(source.path, i, out, stage="tile-predict", **begun) for i in source.images]
        masks = [
            Written(outputs.mask(), label, {group: groups[group]}) for label, group in zip(labels, groups, strict=True)
        ]
    if probabilities is None:
        return masks, []
    output = outputs.probabilities(predictor.header.classes, predictor.config.probability_dtype)
    return masks, [Written(output, begin(probabilities, "tile-predict probabilities"), groups)]

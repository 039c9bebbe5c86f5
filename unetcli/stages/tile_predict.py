"""Image and model to mask and probabilities: by shard, halo: the network's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unetcli.config import PredictConfig
from unetcli.errors import ConfigError
from unetcli.image.ledger import JointLedger
from unetcli.image.levels import Subject
from unetcli.image.location import Location
from unetcli.image.new_label import NewLabel, check_labels
from unetcli.image.new_output import begun_settings, check_output, new_output
from unetcli.image.new_store import NewStore, check_apart, collection_groups
from unetcli.image.store import Store, open_store
from unetcli.image.streaming import Progress, Work, silent, work_on
from unetcli.instances.run import Reports, Results, check_instances, write_instances
from unetcli.models.checkpoint import model_file
from unetcli.prediction import outputs
from unetcli.prediction.outputs import Output, Written
from unetcli.prediction.predictor import Predictor
from unetcli.prediction.where import restricted, share_skipped


def run(
    image: Location,
    out: Location | None,
    config: PredictConfig,
    *,
    model: Path,
    as_label: str | None = None,
    probabilities: Location | None = None,
    uncertainty: Location | None = None,
    where: str | None = None,
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
        The new store, or of one image a TIFF file: class of each pixel (uint8, of more than 256 classes
        uint16). None with `as_label`.
    config
        Settings.
    model
        A model file, or the folder of a training run.
    as_label
        Attach the mask to each image in place of a new store: name of the label image.
    probabilities
        Also write the probability of each class to this store or TIFF file.
    uncertainty
        Also write how uncertain the class of each pixel is to this store or TIFF file.
    where
        Predict there alone: ``tissue``, the name of labels of the image, or a store of labels of the same field.
    instances
        Also write ids of objects (uint32) to this store or TIFF file, from the mask: one that is complete is taken.
    table, outlines
        Also write a row for each object to this CSV or Parquet file, or its outline to this GeoJSON file.
    verify_seams
        Compare tiles with one large tile on a sample first.
    device
        ``auto``, ``cpu``, ``cuda``, ``cuda:N``, several (``cuda:0,cuda:1``) or ``cuda:all``.
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
    first = out or source.images[0].path / "labels" / str(as_label)
    predictor = Predictor.load(model, config, device, {} if overwrite else begun_settings(first))
    predictor.check(source)
    subjects = [Subject.of_scales(i, config.levels, config.upsample) for i in source.images]
    notes = predictor.notes(source)
    groups = dict(zip(collection_groups(s.name for s in subjects), subjects, strict=True))
    maps = _maps(predictor, config, probabilities, uncertainty)
    _check_outputs(source, out, as_label, maps, config)
    inputs: dict[str, Any] = {"image": image, "model": model_file(model)}
    share: dict[str, Any] = {}
    if where is not None:
        groups, inputs["where"] = restricted(source, groups, where, deep=predictor.header.ndim == 3)
        subjects = list(groups.values())
        share["skipped"] = share_skipped(subjects)
    predictor.choose_tile(subjects)
    reports, ndim = Reports(table, outlines), predictor.header.ndim
    check_instances(instances, config, reports, probabilities=probabilities, images=len(subjects), ndim=ndim)
    if dry_run:
        return {**predictor.dry_run(subjects), **share, **notes}
    settings = {
        **config.pixel_settings(),
        **predictor.chosen,
        "outputs": ["mask", *(output.kind for output in maps.values())],
        "where": where and ("labels" if inputs["where"] else where),
    }
    begun: dict[str, Any] = {"settings": settings, "inputs": inputs, "overwrite": overwrite}
    masks, others = _begin(source, groups, out or as_label or "", maps, begun, predictor, workers, progress)
    objects = (
        None if instances is None else _begin_instances(instances, out, probabilities, begun, config, workers, progress)
    )
    done = [written.store.path for written in masks if written.store.complete]
    missing = [written.store.path for written in others if not written.store.complete]
    if done and missing:
        raise ConfigError(f"{done[0]} is complete, but {missing[0]} is not", fix="--overwrite makes all again")
    written_to = str(out) if out else f"{image}, labels {as_label}"
    summary: dict[str, Any] = {"out": written_to, "already_done": len(done) == len(masks), "images": len(subjects)}
    if verify_seams:
        summary["greatest_difference_at_seams"] = predictor.verify_seams(subjects[0].level)
    for mask in masks:
        if not mask.store.complete:
            _predict(mask, [w for w in (mask, *others) if not w.store.complete], predictor, workers, progress)
    for written in (*others, *masks):  # the masks last: they stand for the run
        if not written.store.complete:
            written.build_pyramids(deep=predictor.header.ndim == 3, workers=workers, progress=progress)
            written.finish(predictor.header.classes)
    if not summary["already_done"]:
        summary["tiles"] = predictor.count_tiles(subjects)
    if objects is not None:
        places = [w.store.path for w in masks]
        results = Results(groups, places, probabilities, predictor.header.classes, config.object_ndim or ndim)
        summary |= write_instances(objects, results, config, reports, workers=workers, progress=progress)
    return {**summary, **share, **notes}


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
    """Run over the images of a mask, and write all that is made of them."""
    works: list[Work] = []
    for group, subject in mask.subjects.items():
        targets = tuple(w.level(group, deep=predictor.header.ndim == 3) for w in written)
        works += work_on(group or "image", predictor.tiles(subject), [subject.level], targets)
    ledger = JointLedger([w.store.ledger for w in written])
    predictor.run_over(works, [w.output for w in written], ledger, workers=workers, progress=progress)


def _maps(
    predictor: Predictor, config: PredictConfig, probabilities: Location | None, uncertainty: Location | None
) -> dict[Location, Output]:
    """Return what is written beside the mask, by path."""
    if config.classes is not None and probabilities is None:
        raise ConfigError(
            f"--classes {config.classes} without --probabilities: the mask always holds all classes",
            fix="--probabilities p.zarr, or leave out --classes",
        )
    is_entropy = config.uncertainty_kind == "entropy"
    if not is_entropy and (uncertainty is None or config.tta == "none"):
        lacking = "--uncertainty" if uncertainty is None else "--tta"
        raise ConfigError(
            f"--uncertainty-kind {config.uncertainty_kind} without {lacking}: expected where to write it, and several "
            "views to take it of",
            fix="--uncertainty u.zarr --uncertainty-kind variance --tta d4",
        )
    classes, dtype = predictor.header.classes, config.probability_dtype
    maps = {}
    if probabilities is not None:
        chosen = outputs.chosen_classes(classes, config.classes)
        maps[probabilities] = outputs.probabilities(classes, dtype, chosen)
    if uncertainty is not None:
        check_apart(uncertainty, list(maps))
        maps[uncertainty] = outputs.entropy(dtype) if is_entropy else outputs.variance(dtype)
    return maps


def _check_outputs(
    source: Store,
    out: Location | None,
    as_label: str | None,
    maps: Mapping[Location, Output],
    config: PredictConfig,
) -> None:
    """Refuse outputs that can not be, before anything is written."""
    if out is not None:
        check_output(out, images=len(source.images), ngff=config.ngff)
    if as_label is not None:
        check_labels(source.images, as_label)
        if config.level and config.upsample == "none":
            raise ConfigError(
                f"--as-label {as_label} --level {config.level} --upsample none: labels have the size of their image",
                fix="leave out --upsample none; or -o mask.zarr in place of --as-label",
            )
    for path, output in maps.items():
        check_output(path, images=len(source.images), dtype=output.dtype, ngff=config.ngff)


def _begin(
    source: Store,
    groups: dict[str, Subject],
    out: Location | str,
    maps: Mapping[Location, Output],
    begun: dict[str, Any],
    predictor: Predictor,
    workers: int | None,
    progress: Progress,
) -> tuple[list[Written], list[Written]]:
    """Begin the outputs: the masks, and what is written beside them.

    The masks are a new store, or, where `out` is the name of labels, one for each image.
    """
    zarr_format = 2 if predictor.config.ngff == "0.4" else 3

    def begin(path: Location, stage: str) -> NewStore:
        return new_output(path, stage=stage, zarr_format=zarr_format, workers=workers, progress=progress, **begun)

    given = [begun["inputs"]["image"], begun["inputs"]["model"], *begun["inputs"].get("where", ())]
    for path in maps:
        check_apart(path, [*given, *([] if isinstance(out, str) else [out])])
    output = outputs.mask(len(predictor.header.classes))
    if not isinstance(out, str):
        masks = [Written(output, begin(out, "tile-predict"), groups)]
    else:
        labels = [NewLabel(source.path, i, out, stage="tile-predict", **begun) for i in source.images]
        masks = [Written(output, label, {group: groups[group]}) for label, group in zip(labels, groups, strict=True)]
    return masks, [Written(made, begin(path, f"tile-predict {made.kind}"), groups) for path, made in maps.items()]

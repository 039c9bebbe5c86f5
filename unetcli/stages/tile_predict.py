"""Image and model to mask and probabilities: by shard, halo: the network's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from unetcli.config import PredictConfig
from unetcli.errors import ConfigError
from unetcli.image.ledger import read_settled
from unetcli.image.levels import Subject
from unetcli.image.location import Location
from unetcli.image.new_output import new_output
from unetcli.image.new_store import NewStore, check_apart, collection_groups
from unetcli.image.ngff import ZARR_FORMATS
from unetcli.image.parts import Phase
from unetcli.image.scheduling import run_scheduled
from unetcli.image.store import open_store
from unetcli.image.streaming import Progress, silent
from unetcli.instances.run import Reports, Results, check_instances, write_instances
from unetcli.models.checkpoint import model_file
from unetcli.prediction import outputs
from unetcli.prediction.estimate import estimate, sbatch_line
from unetcli.prediction.jobs import Batch, compute, require_all
from unetcli.prediction.predictor import COMPUTED, Predictor
from unetcli.prediction.targets import Stored, Targets
from unetcli.prediction.where import absolute, restricted, share_skipped


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
    create, part, finish
        Do one phase only: make the empty stores; compute part ``I/N`` of the shards; check that all are there,
        and complete the stores. Parts may run at once, in any number of processes on any machines.
    scheduler
        Have the parts computed by the workers of dask.distributed: address of its scheduler, ``local`` or ``slurm``.
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
        If shards are missing where the stores are to be finished.
    """
    phase = Phase.of(create=create, part=part, finish=finish, overwrite=overwrite)
    targets, reports = Targets(out, as_label, probabilities, uncertainty), Reports(table, outlines)
    targets.check_mask()
    source = open_store(image)
    asked: dict[str, Any] = {"model": model, "out": out, "as_label": as_label, "probabilities": probabilities}
    asked |= {"uncertainty": uncertainty, "where": where, "instances": instances, "table": table, "outlines": outlines}
    run_with: dict[str, Any] = {"workers": workers, "progress": progress}
    if scheduler is not None and not dry_run:
        if phase != Phase() or verify_seams:
            raise ConfigError("--scheduler: goes with neither --create, --part, --finish nor --verify-seams")
        given = {**_resolved(asked), "where": absolute(source, where), "config": config, "device": device}
        return run_scheduled(partial(run, image.resolve(), **given), scheduler, overwrite=overwrite, **run_with)
    begun = {} if overwrite else read_settled(targets.first(source)).get(COMPUTED, {})
    predictor = Predictor.load(model, config, device, begun) if phase.computes else Predictor.idle(model, config)
    predictor.check(source)
    ndim, classes, told = predictor.header.ndim, predictor.header.classes, predictor.notes(source)
    subjects = [Subject.of_scales(i, config.levels, config.upsample) for i in source.images]
    groups = dict(zip(collection_groups(s.name for s in subjects), subjects, strict=True))
    maps = targets.maps(classes, config)
    targets.check(source, maps, config)
    stored = outputs.chosen_classes(classes, config.classes)
    found_in: dict[str, Any] = {"probabilities": probabilities, "stored": stored, "classes": classes}
    check_instances(instances, config, reports, **found_in, images=len(groups), ndim=ndim)
    inputs: dict[str, Any] = {"image": image, "model": model_file(model)}
    if where is not None:
        groups, inputs["where"] = restricted(source, groups, where, deep=ndim == 3)
        told = {"skipped": share_skipped(list(groups.values())), **told}
    _check_all_apart([image, inputs["model"], *inputs.get("where", ())], [out, *maps, instances, table, outlines])
    if dry_run:
        of_each = targets.stored(source, maps, classes, config.ngff)
        if instances is not None:
            of_each.append(Stored(instances, "uint32", zarr_format=ZARR_FORMATS[config.ngff]))
        found = estimate(predictor, list(groups.values()), of_each, workers)
        asked |= {"device": device if device != "auto" else None, "workers": workers}
        line = sbatch_line(_command(image, config, asked), found, predictor.device.type)
        return {**found, "sbatch": line, **told}
    settings = {**config.pixel_settings(), "outputs": ", ".join(["mask", *(output.kind for output in maps.values())])}
    settings["where"] = where and ("labels" if inputs["where"] else where)
    fixed: dict[str, Any] = {"settings": settings, "inputs": inputs, "overwrite": overwrite}
    masks, others = targets.begin(
        source, groups, maps, classes, config.ngff, {**fixed, "shared": phase.is_shared}, run_with
    )
    ids = None if phase.part else _begin_instances(instances, fixed, config, run_with)
    batches = [Batch.of(mask, others, predictor) for mask in masks]
    is_done = all(mask.store.complete for mask in masks)
    summary: dict[str, Any] = {"out": targets.described(image), "already_done": is_done, "images": len(groups)}
    summary["shards"] = sum(map(len, batches))
    if phase.computes and (verify_seams or not is_done):
        predictor.choose_tile(groups.values())
        predictor.settle([ledger for batch in batches for ledger in batch.ledgers])
        if verify_seams:
            summary["greatest_difference_at_seams"] = predictor.verify_seams(subjects[0].level)
        summary |= {} if is_done else compute(batches, predictor, phase.part, **run_with)
    if phase.finishes:
        require_all(batches, targets.described(image))
        for written in (*others, *masks):  # the masks last: they stand for the run
            written.complete(classes, deep=ndim == 3, **run_with)
    if phase.finishes and ids is not None:
        places = [mask.store.path for mask in masks]
        summary["already_done"] = is_done and ids.complete
        results = Results(groups, places, **found_in, ndim=config.object_ndim or ndim)
        summary |= write_instances(ids, results, config, reports, **run_with)
    return {**summary, **told}


def _resolved(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked for with whole paths: other computers start elsewhere."""
    return {name: value.resolve() if isinstance(value, Location) else value for name, value in asked.items()}


def _check_all_apart(inputs: Sequence[Location], places: Sequence[Location | None]) -> None:
    """Refuse outputs that are, lie in or hold an input or another output."""
    taken = list(inputs)
    for place in (place for place in places if place is not None):
        check_apart(place, taken)
        taken.append(place)


def _command(image: Location, config: PredictConfig, asked: Mapping[str, Any]) -> list[str]:
    """Return the command line that asks for the same."""
    given = {f"--{name.replace('_', '-')}": str(value) for name, value in asked.items() if value is not None}
    return ["tile-predict", str(image), *(text for pair in given.items() for text in pair), *config.to_options()]


def _begin_instances(
    path: Location | None, fixed: dict[str, Any], config: PredictConfig, run_with: dict[str, Any]
) -> NewStore | None:
    """Begin the store of ids, if there is one: they follow from what the mask follows from, and from their settings."""
    if path is None:
        return None
    settings = {**fixed["settings"], **config.instance_settings()}
    begun = {**fixed, "settings": settings, "zarr_format": ZARR_FORMATS[config.ngff]}
    return new_output(path, stage="tile-predict instances", **begun, **run_with)

"""The command line: options to settings, one stage, its result. It alone parses and exits."""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
import typer.core
from typer import Argument, Option

from unetcli import __version__
from unetcli.config import (
    AugmentConfig,
    Config,
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    PrepConfig,
    TrainConfig,
    WeightsConfig,
)
from unetcli.errors import BelowBoundError, FaultsError, Interrupted, MissingShardsError, UnetcliError, is_disk_full
from unetcli.image.location import local_path, parse_location
from unetcli.launch import read_launch
from unetcli.node import node_cache
from unetcli.options import Common, Create, Finish, ManyLabels, Part, Scheduler, common_options, setting_options
from unetcli.presets import PRESETS, with_preset
from unetcli.printing import fail, print_architectures, print_presets, print_result, start_logging
from unetcli.progress import GRACE_S, NOTHING_KEPT, Progress, seconds_until_stop

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="U-Net segmentation of microscopy images, from annotated images to masks of gigapixel slides.",
)

TOGETHER = ("train",)
"""Commands whose processes work together, where `torchrun` or `srun` starts several; the first one speaks for all."""
SLOW_TILES = ("tile-predict",)
"""Commands of which a tile may take longer than a scheduler waits: a signal stops them within one."""
WITHOUT_RECORD = ("evaluate", "export", "info")
"""Commands that begin anew when they were stopped."""
LOCAL: Any = {"parser": local_path, "show_default": False}
STORE: Any = {"parser": parse_location, "show_default": False}
"""A place that may be remote; annotated as a path nevertheless, because typer takes no unions."""
Out = Annotated[Path, Option("-o", "--out", help="The store that is written: path or s3:// URL.", **STORE)]
Folder = Annotated[Path, Option("-o", "--out", help="Folder that is written.", **LOCAL)]
Weights = Annotated[Optional[Path], Option("--weights", help="Weight maps of the data set: path or URL.", **STORE)]  # noqa: UP045 - typer
Device = Annotated[str, Option("--device", help="auto, cpu, cuda or cuda:N.")]
DataSet = Annotated[Path, Argument(help="A prepared data set: path or URL.", metavar="DATA.zarr", **STORE)]


def command(config_class: type[Config] | None, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a command; the settings of a config, and the common options, become its options.

    The function gets its own parameters, ``given`` (the settings that the user gave) and ``common``.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        own = [
            p
            for p in inspect.signature(function, eval_str=True).parameters.values()
            if p.name not in ("given", "common")
        ]
        settings = setting_options(config_class) if config_class else []
        shared = common_options()

        def run(**values: Any) -> None:  # noqa: ANN401 - what typer parsed
            common = Common(**{p.name: values.pop(p.name) for p in shared})
            given = {p.name: v for p in settings if (v := values.pop(p.name)) is not None}
            is_heard = name not in TOGETHER or read_launch().rank == 0
            common = common if is_heard else replace(common, quiet=True)
            start_logging(common)
            try:
                result = function(**values, given=given, common=common)
            except (BelowBoundError, FaultsError, MissingShardsError) as error:
                print_result(name, error.result or {}, common)
                raise
            except UnetcliError as error:
                error.is_spoken = is_heard if error.is_spoken is None else error.is_spoken
                raise
            except KeyboardInterrupt:
                keeps = name not in WITHOUT_RECORD
                stopped = Interrupted(
                    f"stopped at once; {'what was on record before is kept' if keeps else NOTHING_KEPT}",
                    fix=f"run the same command again: it {'continues from there' if keeps else 'begins anew'}",
                )
                stopped.is_spoken = is_heard
                raise stopped from None
            print_result(name, result, common)

        parameters = [*own, *settings, *shared]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__doc__ = function.__doc__
        app.command(name, cls=ManyLabels)(run)
        return function

    return register


def _ended_by(printing: Callable[[], None]) -> Callable[[bool], None]:
    """Return the callback of an option that prints something instead of running the command."""

    def answer(asked: bool) -> None:
        if asked:
            printing()
            raise typer.Exit

    return answer


def click_commands() -> list[str]:
    """Return the names of all commands."""
    return [c.name or "" for c in app.registered_commands]


# ------------------------------------------------------------------------------------------- commands


@command(PrepConfig, "prep")
def prep(
    images: Annotated[
        list[Path],
        Argument(
            help="TIFF, slides, PNG, NumPy, HDF5, folders of them; OME-Zarr, also at s3://, https://.",
            metavar="IMAGE...",
            **STORE,
        ),
    ],
    out: Out,
    labels: Annotated[
        list[Path] | None,
        Option("--labels", help="Truth, paired with the images by name or number.", **STORE),
    ] = None,
    *,
    given: Mapping[str, Any],
    common: Common,
) -> dict[str, Any]:
    """Convert images, and their labels, to one OME-Zarr data set, or one image to x.ome.tif.

    [bold]Example[/bold]: unetcli prep images/ --labels labels/ --label-kind classes -o train.zarr
    """
    from unetcli.stages import prep as stage

    with _progress("prep", common) as progress:
        return stage.run(images, out, PrepConfig(**given), labels=labels or [], **_passed(common), progress=progress)


@command(WeightsConfig, "weights")
def weights(
    data: DataSet,
    out: Out,
    objects: Annotated[
        Path | None,
        Option(
            "--objects",
            help="Object ids, where labels are classes: a prepared data set of the same images.",
            **STORE,
        ),
    ] = None,
    explain: Annotated[
        Path | None,
        Option("--explain", help="Also draw, to this PNG, how the weight of a pixel comes about.", **LOCAL),
    ] = None,
    *,
    given: Mapping[str, Any],
    common: Common,
) -> dict[str, Any]:
    """Weight the pixels between touching objects, so that training keeps them apart.

    [bold]Example[/bold]: unetcli weights train.zarr -o weights.zarr --explain weights.png
    """
    config = WeightsConfig(**given)
    from unetcli.stages import weights as stage

    with _progress("weights", common) as progress:
        return stage.run(data, out, config, objects=objects, explain=explain, **_passed(common), progress=progress)


@command(AugmentConfig, "augment")
def augment(
    data: DataSet,
    out: Out,
    weights: Weights = None,
    parameters: Annotated[
        Path | None,
        Option("--parameters", help="Make the samples of this parameters.csv of an earlier run again.", **STORE),
    ] = None,
    preview: Annotated[
        Path | None,
        Option("--preview", help="Also draw a sheet of the first samples to this PNG.", **LOCAL),
    ] = None,
    *,
    given: Mapping[str, Any],
    common: Common,
) -> dict[str, Any]:
    """Write randomly deformed copies of the training images, with labels and weights.

    [bold]Example[/bold]: unetcli augment train.zarr --weights weights.zarr -n 20 -o augmented.zarr --preview sheet.png
    """
    config = AugmentConfig(**given)
    from unetcli.stages import augment as stage

    with _progress("augment", common) as progress:
        paths: dict[str, Any] = {"weights": weights, "parameters": parameters, "preview": preview}
        return stage.run(data, out, config, **paths, **_passed(common), progress=progress)


@command(TrainConfig, "train")
def train(
    data: DataSet,
    out: Folder,
    weights: Weights = None,
    preset: Annotated[str, Option("--preset", help="Settings to start from.", metavar="|".join(PRESETS))] = "default",
    device: Device = "auto",
    *,
    list_archs: Annotated[  # noqa: ARG001 - ends before the command runs
        bool,
        Option(
            "--list-archs",
            help="Print a table of the architectures.",
            is_eager=True,
            callback=_ended_by(print_architectures),
        ),
    ] = False,
    tensorboard: Annotated[bool, Option(help="Write events for TensorBoard, where that is installed.")] = True,
    list_presets: Annotated[  # noqa: ARG001 - its callback ends the program
        bool,
        Option(
            "--list-presets", help="Print in what the presets differ.", is_eager=True, callback=_ended_by(print_presets)
        ),
    ] = False,
    given: Mapping[str, Any],
    common: Common,
) -> dict[str, Any]:
    """Train a U-Net on a data set; called again, go on from the last checkpoint.

    [bold]Example[/bold]: unetcli train train.zarr --weights weights.zarr -o run/ --preset fast
    """
    config = with_preset(preset, **given)
    from unetcli.stages import train as stage

    with _progress("train", common) as progress:
        return stage.run(
            data,
            out,
            config,
            weights=weights,
            device=device,
            tensorboard=tensorboard,
            **_passed(common),
            progress=progress,
        )


@command(PredictConfig, "tile-predict")
def tile_predict(
    image: Annotated[Path, Argument(help="OME-Zarr store to segment: path or URL.", metavar="IMAGE.zarr", **STORE)],
    model: Annotated[
        Path, Option("--model", help="Folder of a training run, or model file: .safetensors, .onnx.", **LOCAL)
    ],
    out: Annotated[
        Path | None, Option("-o", "--out", help="The mask: a new store (path or s3:// URL), or mask.ome.tif.", **STORE)
    ] = None,
    as_label: Annotated[
        str | None,
        Option("--as-label", help="Attach the mask to the image, as labels of this name.", show_default=False),
    ] = None,
    probabilities: Annotated[
        Path | None,
        Option("--probabilities", help="Also write the probability of each class, to a store or p.ome.tif.", **STORE),
    ] = None,
    uncertainty: Annotated[
        Path | None,
        Option("--uncertainty", help="Also write how uncertain each pixel is, to a store or u.ome.tif.", **STORE),
    ] = None,
    where: Annotated[
        str | None,
        Option(
            "--where",
            help="Predict there alone: tissue, labels of the image by name, or a store of masks of the same field.",
            show_default=False,
        ),
    ] = None,
    instances: Annotated[
        Path | None,
        Option("--instances", help="Also write an id for each object, to a store or i.ome.tif.", **STORE),
    ] = None,
    table: Annotated[
        Path | None, Option("--table", help="Of instances: a row for each object, .csv or .parquet.", **LOCAL)
    ] = None,
    outlines: Annotated[
        Path | None,
        Option("--outlines", help="Of instances: a polygon for each object, .geojson for QuPath.", **LOCAL),
    ] = None,
    device: Annotated[
        str, Option("--device", help="auto, cpu, cuda, cuda:N, several (cuda:0,cuda:1) or cuda:all.")
    ] = "auto",
    *,
    verify_seams: Annotated[
        bool, Option("--verify-seams", help="Compare tiles with the whole on a sample first.")
    ] = False,
    create: Create = False,
    part: Part = None,
    finish: Finish = False,
    scheduler: Scheduler = None,
    given: Mapping[str, Any],
    common: Common,
) -> dict[str, Any]:
    """Segment images of any size, tile by tile, without seams.

    [bold]Example[/bold]: unetcli tile-predict new.zarr --model run/ -o mask.zarr --probabilities p.zarr
    """
    config = PredictConfig(**given)
    from unetcli.stages import tile_predict as stage

    with _progress("tile-predict", common) as progress:
        return stage.run(
            image,
            out,
            config,
            model=model,
            as_label=as_label,
            probabilities=probabilities,
            uncertainty=uncertainty,
            where=where,
            instances=instances,
            table=table,
            outlines=outlines,
            verify_seams=verify_seams,
            device=device,
            create=create,
            part=part,
            finish=finish,
            scheduler=scheduler,
            **_passed(common),
            progress=progress,
        )


@command(EvaluateConfig, "evaluate")
def evaluate(
    prediction: Annotated[
        Path,
        Argument(
            help="Masks, labels or probabilities: store (path or URL), file or folder.",
            metavar="PREDICTION",
            **STORE,
        ),
    ],
    truth: Annotated[Path, Argument(help="Truth: store (path or URL), file or folder.", metavar="TRUTH", **STORE)],
    out: Folder,
    images: Annotated[Path | None, Option("--images", help="The segmented pictures, for the report.", **STORE)] = None,
    roi: Annotated[
        Path | None,
        Option(
            "--roi",
            help="Masks, paired like the truth: pixels that are 0 there do not count. One plane holds for a stack.",
            **STORE,
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        Option(
            "--compare", help="A second prediction B of the same images; differences are B minus PREDICTION.", **STORE
        ),
    ] = None,
    *,
    given: Mapping[str, Any],
    common: Common,
) -> dict[str, Any]:
    """Score predictions against the truth, with a report.

    [bold]Example[/bold]: unetcli evaluate p.zarr new_labels/ -o report/ --fail-under iou=0.8
    """
    config = EvaluateConfig(**given)
    from unetcli.stages import evaluate as stage

    with _progress("evaluate", common) as progress:
        places: dict[str, Any] = {"images": images, "roi": roi, "compare": compare}
        return stage.run(prediction, truth, out, config, **places, **_passed(common), progress=progress)


@command(ExportConfig, "export")
def export(
    model: Annotated[
        Path, Argument(help="Folder of a training run, or its model.safetensors.", metavar="RUN", **LOCAL)
    ],
    out: Annotated[
        Path,
        Option("-o", "--out", help="What is written: model.onnx, or model.zip for the BioImage Model Zoo.", **LOCAL),
    ],
    *,
    given: Mapping[str, Any],
    common: Common,
) -> dict[str, Any]:
    """Write a model for other programs: as ONNX, or as a package of the BioImage Model Zoo.

    [bold]Example[/bold]: unetcli export run/ -o model.onnx
    """
    config = ExportConfig(**given)
    from unetcli.stages import export as stage

    return stage.run(model, out, config, overwrite=common.overwrite, dry_run=common.dry_run)


@command(None, "info")
def info(
    path: Annotated[
        Path,
        Argument(
            help="Store (path or URL), image file, folder of images, model, run or report.", metavar="PATH", **STORE
        ),
    ],
    *,
    check: Annotated[bool, Option("--check", help="Also read everything, and list all that is damaged.")] = False,
    given: Mapping[str, Any],  # noqa: ARG001 - there are no settings
    common: Common,
) -> dict[str, Any]:
    """Say in plain words what a path is, and what is wrong with it.

    [bold]Example[/bold]: unetcli info train.zarr --check
    """
    from unetcli.stages import info as stage

    with _progress("info", common) as progress:
        return stage.run(path, check=check, workers=common.workers, progress=progress)


@command(None, "demo")
def demo(
    out: Annotated[Path, Option("-o", "--out", help="Folder of the demonstration.", parser=local_path)] = Path("demo"),
    *,
    given: Mapping[str, Any],  # noqa: ARG001
    common: Common,
) -> dict[str, Any]:
    """Run all six commands on touching cells of a synthetic microscope; minutes on a CPU.

    [bold]Example[/bold]: unetcli demo -o demo/
    """
    from unetcli import demo as demonstration

    def say(line: str) -> None:
        if not (common.quiet or common.json):
            print(line, file=sys.stderr, flush=True)

    with _progress("demo", common) as progress:
        return demonstration.run(out, overwrite=common.overwrite, dry_run=common.dry_run, say=say, progress=progress)


# ------------------------------------------------------------------------------------------- the program


def _passed(common: Common) -> dict[str, Any]:
    return {"overwrite": common.overwrite, "workers": common.workers, "dry_run": common.dry_run}


def _progress(name: str, common: Common) -> Progress:
    terminal = sys.stderr.isatty()
    style = "none" if common.quiet else "json" if common.json else "bar" if terminal else "lines"
    limit = seconds_until_stop(common.stop_after) if common.stop_after else math.inf
    grace_s = GRACE_S if name in SLOW_TILES else math.inf
    return Progress(name, style, limit, grace_s=grace_s, keeps=name not in WITHOUT_RECORD)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    # Compiled kernels are cached outside of the home, which is shared and slow, or read-only, on clusters.
    os.environ.setdefault("NUMBA_CACHE_DIR", str(node_cache()))
    debug = "--debug" in (sys.argv if arguments is None else arguments)
    try:
        app(arguments)
    except SystemExit as done:  # typer's own way to end: after --help, or wrong usage
        return int(done.code or 0)
    except UnetcliError as error:
        if error.is_spoken is False:  # by another process
            return error.exit_code
        return fail(str(error), error.exit_code, fix=error.fix, debug=debug)
    except MemoryError:
        return fail("out of memory", 5, fix="fewer --workers", debug=debug)
    except OSError as error:
        if is_disk_full(error):
            return fail(
                f"no space left on the disk{f', for {error.filename}' if error.filename else ''}",
                5,
                fix="free some space, then run the same command again",
                debug=debug,
            )
        if error.filename is None:
            raise
        return fail(f"{error.filename}: {error.strerror}", 3, debug=debug)
    return 0


@app.callback(invoke_without_command=True)
def _root(*, version: Annotated[bool, Option("--version", help="Print the version.", is_eager=True)] = False) -> None:
    if version:
        print(f"unetcli {__version__}")
        raise typer.Exit

"""From settings to the options of a command, and from a configuration file to their defaults."""

from __future__ import annotations

import dataclasses
import inspect
import operator
import tomllib
from pathlib import Path
from typing import Annotated, Any, Optional, get_args, get_type_hints

import typer
import typer.core
from typer import Option

from unetcli.config import Config
from unetcli.errors import ConfigError, InputError


@dataclasses.dataclass(frozen=True)
class Common:
    """The options that every command has."""

    workers: Annotated[Optional[int], Option(help=r"Threads. \[default: the processors allotted]", min=1)] = None  # noqa: UP045
    overwrite: Annotated[bool, Option("--overwrite", help="Make it again from the start.")] = False
    dry_run: Annotated[bool, Option("--dry-run", help="Check everything, say what would be done, write nothing.")] = (
        False
    )
    stop_after: Annotated[
        str | None,
        Option(
            help="Save and exit with 75 before so many minutes are over; auto: before a SLURM job is.",
            metavar="MIN|auto",
        ),
    ] = None
    config: Annotated[Optional[Path], Option(help="TOML file with a table for each command.", is_eager=True)] = None  # noqa: UP045
    json: Annotated[bool, Option("--json", help="Print the result, and progress, as JSON.")] = False
    verbose: Annotated[bool, Option("-v", "--verbose", help="Say more.")] = False
    quiet: Annotated[bool, Option("-q", "--quiet", help="Say nothing but errors.")] = False
    debug: Annotated[bool, Option("--debug", help="Show the traceback of an error.")] = False


_JOBS: Any = {"rich_help_panel": "Many jobs", "show_default": False}
Create = Annotated[bool, Option("--create", help="Only make the empty store, for jobs with --part.", **_JOBS)]
Part = Annotated[
    Optional[str],  # noqa: UP045 - typer
    Option("--part", help="Only compute part I of N, 0 <= I < N; any number of jobs at once.", metavar="I/N", **_JOBS),
]
Finish = Annotated[bool, Option("--finish", help="Only check that all parts are there, and complete it.", **_JOBS)]
Scheduler = Annotated[
    Optional[str],  # noqa: UP045 - typer
    Option(
        "--scheduler",
        help="Have the parts computed by workers of dask.distributed: tcp://HOST:PORT, local, or jobs of slurm.",
        metavar="ADDRESS|local|slurm",
        **_JOBS,
    ),
]


class ManyLabels(typer.core.TyperCommand):
    """A command whose ``--labels`` takes all paths up to the next option, as a shell's ``labels/*.png`` gives them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer brings its own click
        """Repeat ``--labels`` before each path that follows it."""
        if "--labels" in args:
            first = args.index("--labels") + 1
            end = next((i for i in range(first, len(args)) if args[i].startswith("-")), len(args))
            # Where no image comes before, the paths after the first are the images.
            end = end if first > 1 else min(end, first + 1)
            args = [*args[:first], *args[first : first + 1], *_each("--labels", args[first + 1 : end]), *args[end:]]
        return super().parse_args(ctx, args)


def _each(flag: str, values: list[str]) -> list[str]:
    return [part for value in values for part in (flag, value)]


def setting_options(config_class: type[Config]) -> list[inspect.Parameter]:
    """Turn the fields of a config into options; what is not given stays None, so that a default lives once."""
    hints = get_type_hints(config_class)
    return [_option(field, hints[field.name]) for field in dataclasses.fields(config_class)]


def _option(field: dataclasses.Field[Any], hint: Any) -> inspect.Parameter:  # noqa: ANN401 - a type
    plain = next((t for t in get_args(hint) if t is not type(None)), hint)
    flag = "--" + field.name.replace("_", "-")
    names = [f"{flag}/--no-{flag[2:]}"] if plain is bool else ["-n", flag] if field.name == "samples" else [flag]
    text, choices = field.metadata["help"], field.metadata["choices"]
    if field.default is not None:
        text += f" [default: {str(field.default).lower() if plain is bool else field.default}]"
    option = Option(
        *names,
        help=text.replace("[", r"\["),
        show_default=False,
        metavar="|".join(choices) if choices else None,
        rich_help_panel=field.metadata["group"],
    )
    return _parameter(field.name, plain | None, option, None)


def common_options() -> list[inspect.Parameter]:
    """Turn the fields of `Common` into options."""
    hints = get_type_hints(Common, include_extras=True)
    found = []
    for field in dataclasses.fields(Common):
        hint = hints[field.name]
        plain, option = get_args(hint)
        option.rich_help_panel = "Run"
        if field.name == "config":
            option.callback = _read_config
        found.append(_parameter(field.name, plain, option, field.default))
    return found


def _parameter(name: str, hint: Any, option: Any, default: Any) -> inspect.Parameter:  # noqa: ANN401 - a type, an option
    annotation = operator.getitem(Annotated, (hint, option))
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the command's table of a TOML file its defaults."""
    if path is None:
        return None
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: can not be read ({error.strerror})") from error
    except ValueError as error:  # not TOML, or not text
        raise InputError(f"{path}: is not TOML ({error})") from error
    commands = context.find_root().command.commands  # type: ignore[attr-defined]
    unknown = [t for t in tables if t not in commands]
    if unknown:
        raise ConfigError(f"{path}: has tables {unknown}; expected names of commands: {', '.join(commands)}")
    found = tables.get(context.info_name or "", {})
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: {context.info_name} is {found!r}; expected a table, [{context.info_name}]")
    table = {k.replace("-", "_"): v for k, v in found.items()}
    options = {p.name: p for p in context.command.params}
    strange = [k for k in table if k not in options]
    if strange:
        raise ConfigError(f"{path}: [{context.info_name}] has {', '.join(strange)}; expected options of the command")
    for name, value in table.items():
        if isinstance(value, bool) and not getattr(options[name], "is_flag", False):
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{path}: [{context.info_name}] {option} is {str(value).lower()}; expected a value")
        if isinstance(value, list) and not getattr(options[name], "multiple", False):
            table[name] = ",".join(map(str, value))
    context.default_map = {**(context.default_map or {}), **table}
    return path

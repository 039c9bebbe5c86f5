"""The command line: help, usage, messages, exit codes, settings from a file, and what goes to which stream."""

import errno
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import TINY, files_of, run_and_signal
from unetcli import __version__, errors
from unetcli.cli import app, click_commands
from unetcli.image.store import open_store
from unetcli.presets import PRESETS
from unetcli.progress import SAVING_S, Progress, seconds_until_stop

COMMANDS = click_commands()
SHARED = (
    "--workers",
    "--stop-after",
    "--overwrite",
    "--dry-run",
    "--config",
    "--json",
    "--verbose",
    "--quiet",
    "--debug",
    "-v",
    "-q",
)
TRAIN = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items()]
WRITING = ["prep", "weights", "augment", "train", "tile-predict", "evaluate"]


@pytest.fixture
def lines(request, folders):
    """Return a function that gives a short, complete command line of each command that writes, and of info."""

    def line(name, out):
        if name == "prep":
            return [name, folders / "images", "--labels", folders / "ids", "-o", out]
        if name == "evaluate":
            return [name, folders / "masks", folders / "ids", "-o", out, "--metrics", "iou,dice"]
        data = request.getfixturevalue("instances")
        if name == "tile-predict":
            return [name, data, "-o", out, "--model", request.getfixturevalue("trained"), "--device", "cpu"]
        return {
            "weights": [name, data, "-o", out],
            "augment": [name, data, "-o", out, "-n", "2", "--elastic", "2"],
            "train": [name, data, "-o", out, "--device", "cpu", *TRAIN],
            "info": [name, data],
        }[name]

    return line


def unetcli(*arguments, **options):
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "unetcli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


def settings_of(store):
    return open_store(Path(store)).attributes["fingerprint"]["settings"]


def words(text):
    """Join the lines of a box, without its frame."""
    return re.sub(r"[\s│╭╮╰╯─]+", " ", text)


# ------------------------------------------------------------------------------------------- help


def test_the_commands_of_a_workflow_are_there():
    assert set(COMMANDS) >= {*WRITING, "info", "demo"}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_says_the_purpose_an_example_and_the_shared_options(cli, name, flag):
    assert cli(name, flag) == 0
    text = words(cli.out)
    purpose = next(c.callback.__doc__ for c in app.registered_commands if c.name == name).splitlines()[0]
    assert purpose in text
    assert f"Example: unetcli {name} " in text
    for option in SHARED:
        assert f"{option} " in text
    assert cli.err == ""


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_commands(cli, flag):
    assert cli(flag) == 0
    for name in COMMANDS:
        assert re.search(rf"\b{name} +\S", cli.out)


def test_help_shows_every_default_and_choice(cli):
    cli("weights", "--help")
    assert "[default: 5.0 (paper), 6.0 (plugin)]" in words(cli.out)
    assert "[default: 10.0 (plugin)]" in words(cli.out)
    cli("train", "--help")
    assert "|".join(PRESETS) in words(cli.out)
    assert "valid|same" in words(cli.out)


@pytest.mark.parametrize("width", [80, 200])
def test_the_architectures_are_listed_without_any_data(cli, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli("train", "--list-archs") == 0
    for text in ("attention-unet", "Zhou et al. 2018", "19.07 M", "548", "48,48,48,48,200"):
        assert text in cli.out
    assert "…" not in cli.out


def test_nothing_asked_is_answered_by_help(cli):
    assert cli() in (0, 2)
    assert "tile-predict" in cli.out


def test_version(cli):
    assert cli("--version") == 0
    assert cli.out == f"unetcli {__version__}\n"


# ------------------------------------------------------------------------------------------- usage: 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["--no-such-option"],
        ["prep"],
        ["prep", "x"],
        ["weights", "x"],
        ["weights", "-o", "x"],
        ["weights", "x", "y", "-o", "z"],
        ["weights", "x", "-o", "y", "--no-such-option"],
        ["weights", "x", "-o", "y", "--sigma", "wide"],
        ["weights", "x", "-o", "y", "--sigma"],
        ["weights", "x", "-o", "y", "--border-width", "1.5"],
        ["weights", "x", "-o", "y", "--workers", "0"],
        ["augment", "x"],
        ["train", "x"],
        ["tile-predict", "x", "-o", "y"],
        ["evaluate", "x", "-o", "y"],
        ["evaluate", "x", "y"],
        ["export", "x"],
        ["info"],
        ["info", "x", "y"],
        ["demo", "x"],
    ],
    ids=" ".join,
)
def test_wrong_usage(cli, in_tmp, arguments):
    assert cli(*arguments) == 2
    assert "─ Error ─" in cli.err
    assert "Traceback" not in cli.err
    assert cli.out == ""
    assert not list(in_tmp.iterdir())


# ------------------------------------------------------------------------------------------- input: 3

MISSING = {
    "prep": ["gone", "-o", "out"],
    "prep labels": ["{images}", "--labels", "gone", "-o", "out"],
    "weights": ["gone", "-o", "out"],
    "augment": ["gone", "-o", "out"],
    "augment weights": ["{data}", "--weights", "gone", "-o", "out"],
    "augment parameters": ["{data}", "--parameters", "gone", "-o", "out"],
    "train": ["gone", "-o", "out"],
    "train weights": ["{data}", "--weights", "gone", "-o", "out", *TRAIN],
    "tile-predict": ["gone", "-o", "out", "--model", "{data}"],
    "tile-predict model": ["{data}", "-o", "out", "--model", "gone"],
    "evaluate": ["gone", "{images}", "-o", "out"],
    "evaluate truth": ["{images}", "gone", "-o", "out"],
    "evaluate images": ["{images}", "{images}", "--images", "gone", "-o", "out"],
    "export": ["gone", "-o", "out"],
    "info": ["gone"],
}


@pytest.mark.parametrize("case", MISSING)
def test_a_missing_input_is_named_in_one_line(cli, in_tmp, folders, instances, case):
    arguments = [a.format(images=folders / "images", data=instances) for a in MISSING[case]]
    assert cli(case.split()[0], *arguments) == 3
    assert re.match(r"error: gone: \S", cli.err)
    assert len([line for line in cli.err.splitlines() if not line.startswith("  fix: ")]) == 1
    assert cli.out == ""
    assert not list(in_tmp.iterdir())


@pytest.mark.parametrize("name", ["weights", "augment", "train", "tile-predict"])
def test_a_folder_of_pictures_is_refused_with_the_command_that_converts_it(cli, in_tmp, folders, trained, name):
    images = folders / "images"
    model = ["--model", trained] if name == "tile-predict" else []
    assert cli(name, images, "-o", "out", *model) == 3
    what, fix = cli.err.splitlines()
    assert what == f"error: {images}: is not an OME-Zarr store"
    assert fix.startswith(f"  fix: unetcli prep {images} -o ")
    assert not list(in_tmp.iterdir())


def test_a_message_says_where_what_expected_and_remedy(cli, in_tmp, instances):
    arguments = ["train", instances, "-o", "out", "--padding", "valid", "--features", "4,8,16", "--patch-size", "75"]
    assert cli(*arguments) == 4
    assert re.fullmatch(r"error: --patch-size 75: .*4\*k.*\n  fix: --patch-size \d+ or --patch-size \d+\n", cli.err)
    sizes = re.findall(r"--patch-size (\d+)", cli.err.splitlines()[1])
    for size in sizes:
        assert cli(*arguments[:-1], size, "--dry-run") == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["info", "gone"], 3), (["weights", "gone", "-o", "o", "--sigma", "-1"], 4), (["weights", "gone"], 2)],
    ids=["input", "configuration", "usage"],
)
def test_in_a_process_of_its_own_there_is_no_traceback_either(tmp_path, arguments, code):
    done = unetcli(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(cli, in_tmp):
    assert cli("info", "gone", "--debug") == 3
    assert "Traceback" in cli.err
    assert "error: gone: " in cli.err


# ------------------------------------------------------------------------------------------- exit codes


def stage_that_raises(monkeypatch, error):
    """Make `info` fail with an error."""

    def run(*_, **__):
        raise error

    monkeypatch.setattr("unetcli.stages.info.run", run)


CODES = {
    "bad input": (errors.InputError("x: is y", fix="z"), 3, "error: x: is y\n  fix: z\n"),
    "bad configuration": (errors.ConfigError("x"), 4, "error: x\n"),
    "bad geometry": (errors.GeometryError("x"), 4, "error: x\n"),
    "no device": (errors.DeviceError("x"), 5, "error: x\n"),
    "below a bound": (errors.BelowBoundError("x"), 7, "error: x\n"),
    "stopped in time": (errors.Unfinished("x", fix="y"), 75, "stopped: x\n  fix: y\n"),
    "Ctrl-C": (KeyboardInterrupt(), 130, "stopped: "),
    "memory": (MemoryError(), 5, "error: out of memory\n"),
    "full disk": (OSError(errno.ENOSPC, "No space left on device"), 5, "error: no space left on the disk\n"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), 5, "error: no space left on the disk\n"),
    "permission": (PermissionError(errno.EACCES, "Permission denied", "x.tif"), 3, "error: x.tif: Permission denied"),
}


@pytest.mark.parametrize("case", CODES)
def test_exit_codes(cli, monkeypatch, case):
    error, code, said = CODES[case]
    stage_that_raises(monkeypatch, error)
    assert cli("info", "x") == code
    assert cli.err.startswith(said)
    assert cli.out == ""


def test_each_kind_of_error_has_the_exit_code_of_the_contract():
    kinds = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.UnetcliError)]
    found = {e.__name__: e.exit_code for e in kinds if e is not errors.UnetcliError}
    contract = {
        "InputError": 3, "ConfigError": 4, "GeometryError": 4, "DeviceError": 5, "BelowBoundError": 7,
        "Unfinished": 75, "Interrupted": 130,
    }  # fmt: skip
    assert {k: found[k] for k in contract} == contract
    assert set(found.values()) <= {3, 4, 5, 6, 7, 75, 130}


def test_what_is_unexpected_keeps_its_traceback_and_exits_with_1(tmp_path):
    code = (
        "import sys, unetcli.stages.info as i; i.run = lambda *p, **q: 1 / 0\n"
        "from unetcli.cli import main; sys.exit(main(['info', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" in done.stderr


def test_a_device_that_is_not_there(cli, in_tmp, instances):
    assert cli("train", instances, "-o", "out", *TRAIN, "--device", "cuda:99") == 5
    assert cli.err.startswith("error: --device cuda:99: ")
    assert "fix: " in cli.err


@pytest.mark.parametrize("device", ["gpu", "tpu", "cuda:x", ""])
def test_a_device_that_is_none(cli, in_tmp, instances, device):
    assert cli("train", instances, "-o", "out", *TRAIN, "--device", device) in (4, 5)
    assert cli.err.startswith("error: --device")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)], ids=lambda v: str(v)
)
def test_a_signal_stops_in_time_and_the_same_command_continues(cli, instances, tmp_path, number, code):
    out = tmp_path / "w.zarr"
    stopped = run_and_signal(number, ["weights", instances, "-o", out], after=4, shard=32, chunk=16)
    assert stopped.returncode == code
    assert stopped.stderr.splitlines()[-2].startswith("stopped: ")
    assert "again" in stopped.stderr.splitlines()[-1]
    assert "Traceback" not in stopped.stderr
    assert cli("info", out) == 3
    assert cli("weights", instances, "-o", out) == 0
    assert cli("info", out) == 0


def test_what_keeps_nothing_when_it_is_stopped_says_so(cli, folders, tmp_path, monkeypatch):
    class Stopping(Progress):
        def __call__(self, done, total):
            self.signal = "SIGTERM"
            super().__call__(done, total)

    arguments = ["evaluate", folders / "masks", folders / "masks", "-o", tmp_path / "r", "--metrics", "iou"]
    monkeypatch.setattr("unetcli.cli.Progress", Stopping)
    assert cli(*arguments) == 75
    assert cli.err == (
        "stopped: stopped by SIGTERM after 1 of 3; nothing is kept: the result comes at the end\n"
        "  fix: run the same command again: it begins anew\n"
    )
    assert not (tmp_path / "r").exists()


def test_a_reader_that_goes_away_is_no_traceback(instances):
    command = f"{sys.executable} -m unetcli info {instances} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------- --config


@pytest.fixture
def config(in_tmp):
    """Return a function that writes a file of settings and returns the option that names it."""

    def write(text):
        (in_tmp / "run.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return ["--config", "run.toml"]

    return write


def test_the_settings_of_a_file_are_used_and_the_command_line_goes_first(cli, config, instances):
    options = config("[weights]\nsigma = 3.5\nborder-width = 2\n[prep]\nngff = '0.4'\n")
    assert cli("weights", instances, "-o", "a", *options) == 0
    assert cli("weights", instances, "-o", "b", *options, "--sigma", "4") == 0
    assert cli("weights", instances, "-o", "c", "--sigma", "4", *options) == 0
    a, b, c = map(settings_of, "abc")
    assert (a["sigma"], a["border_width"], a["w0"]) == (3.5, 2, 10)
    assert (b["sigma"], b["border_width"]) == (4, 2)
    assert c == b


@pytest.mark.parametrize("key", ["border-width", "border_width"])
def test_keys_are_the_names_of_options_or_of_fields(cli, config, instances, key):
    assert cli("weights", instances, "-o", "a", *config(f"[weights]\n{key} = 3\n")) == 0
    assert settings_of("a")["border_width"] == 3


def test_tables_of_other_commands_are_left_alone(cli, config, instances):
    assert cli("weights", instances, "-o", "a", *config("[train]\nsteps = 3\n[demo]\nout = 'x'\n")) == 0


def test_an_empty_file_changes_nothing(cli, config, instances, weight_maps):
    assert cli("weights", instances, "-o", "a", *config("")) == 0
    assert settings_of("a") == settings_of(weight_maps)


def test_paths_flags_lists_and_presets_may_be_in_the_file(cli, config, folders, instances):
    text = f"[prep]\nout = 'a'\nlabels = ['{folders / 'ids'}']\njson = true\n"
    assert cli("prep", folders / "images", *config(text)) == 0
    assert cli.json["labels"] != "none"
    assert cli("train", instances, "-o", "b", *config("[train]\npreset = 'fast'\nflip = false\n"), "--dry-run") == 0
    assert re.search(f"steps +{PRESETS['fast']['steps']}", cli.out)
    assert cli("train", instances, "-o", "b", *config("[train]\npreset = 'fast'\n"), "--dry-run", "--steps", "7") == 0
    assert re.search("steps +7 *$", cli.out, flags=re.MULTILINE)
    assert cli("augment", instances, "-o", "c", *config("[augment]\nsamples = 3\nflip = false\n")) == 0
    assert (settings_of("c")["samples"], settings_of("c")["flip"]) == (3, False)
    assert cli("augment", instances, "-o", "d", *config("[augment]\nsamples = 3\nflip = false\n"), "--flip") == 0
    assert settings_of("d")["flip"] is True


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("[weights]\nsigmaa = 3\n", 4, "sigmaa"),
        ("[weights]\nsigma = 3\ntypo = 1\nother = 2\n", 4, "typo, other"),
        ("[weight]\nsigma = 3\n", 4, "weight"),
        ("sigma = 3\n", 4, "sigma"),
        ("weights = 3\n", 4, "weights"),
        ("[[weights]]\nsigma = 3\n", 4, "weights"),
        ("[weights\n", 3, "is not TOML"),
        ("weights:\n  sigma: 3\n", 3, "is not TOML"),
        (b"\xff\xfe[weights]", 3, "is not TOML"),
    ],
    ids=["key", "keys", "table", "no table", "number", "array", "broken", "YAML", "not text"],
)
def test_mistakes_in_the_file_are_refused_by_name(cli, config, instances, in_tmp, text, code, said):
    assert cli("weights", instances, "-o", "a", *config(text)) == code
    assert re.match(rf"error: run\.toml: .*{re.escape(said)}", cli.err)
    assert len(cli.err.splitlines()) <= 2
    assert not (in_tmp / "a").exists()


@pytest.mark.parametrize("text", ["sigma = -1", "sigma = nan", "recipe = 'best'"])
def test_values_out_of_range_in_the_file_are_bad_configuration(cli, config, instances, in_tmp, text):
    assert cli("weights", instances, "-o", "a", *config(f"[weights]\n{text}\n")) == 4
    assert cli.err.startswith(f"error: --{text.split()[0]} ")
    assert not (in_tmp / "a").exists()


@pytest.mark.parametrize("text", ["sigma = 'wide'", "sigma = true", "border-width = 1.5", "sigma = [1, 2]"])
def test_values_of_another_type_in_the_file_are_refused(cli, config, instances, in_tmp, text):
    assert cli("weights", instances, "-o", "a", *config(f"[weights]\n{text}\n")) in (2, 4)
    assert f"--{text.split()[0]}" in cli.err
    assert not (in_tmp / "a").exists()


def test_a_missing_file_is_bad_input(cli, in_tmp, instances):
    assert cli("weights", instances, "-o", "a", "--config", "gone.toml") == 3
    assert cli.err.startswith("error: gone.toml: can not be read")
    assert cli("weights", instances, "-o", "a", "--config", in_tmp) == 3


# ------------------------------------------------------------------------------------------- --dry-run


@pytest.mark.parametrize("name", WRITING)
def test_dry_run_says_what_would_be_done_and_writes_nothing(cli, lines, in_tmp, name):
    extra = {"augment": ["--preview", "p.png"], "tile-predict": ["--probabilities", "p.zarr", "--verify-seams"]}
    arguments = [*lines(name, "out"), *extra.get(name, []), "--dry-run"]
    assert cli(*arguments) == 0
    assert cli.out.strip()
    assert cli(*arguments, "--json") == 0
    assert cli.json
    assert not list(in_tmp.iterdir())


@pytest.mark.parametrize("name", WRITING)
def test_dry_run_leaves_what_is_there_even_with_overwrite(cli, lines, in_tmp, name):
    assert cli(*lines(name, "out")) == 0
    before = files_of(in_tmp)
    assert cli(*lines(name, "out"), "--dry-run", "--overwrite") == 0
    assert files_of(in_tmp) == before


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("weights", "--sigma=-1"), ("weights", "--balance=1,2,3"), ("train", "--patch-size=33"),
        ("augment", "--grid=0"), ("augment", "--grid=2,5,5"), ("train", "--grid=2,5,5"),
    ],
)  # fmt: skip
def test_dry_run_finds_mistakes(cli, lines, in_tmp, name, option):
    assert cli(*lines(name, "out"), option, "--dry-run") == 4
    assert option.split("=")[0] in cli.err


# ------------------------------------------------------------------------------------------- output


@pytest.mark.parametrize("name", [*WRITING, "info"])
def test_quiet_says_nothing(cli, lines, in_tmp, name):
    assert cli(*lines(name, "out"), "-q") == 0
    assert cli.out + cli.err == ""


def test_quiet_still_says_errors(cli, in_tmp):
    assert cli("info", "gone", "-q") == 3
    assert cli.err.startswith("error: gone")


def strict(text):
    """Read JSON as the standard has it: without NaN."""

    def refuse(constant):
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("name", [*WRITING, "info"])
def test_json_is_one_object_on_stdout_and_lines_of_objects_on_stderr(cli, lines, in_tmp, monkeypatch, name):
    monkeypatch.setattr("unetcli.progress.LOG_INTERVAL_S", 0)
    assert cli(*lines(name, "out"), "--json") == 0
    assert isinstance(strict(cli.out), dict)
    assert cli.out.count("\n") == 1
    lines_of_json = [strict(line) for line in cli.err.splitlines()]
    assert {entry["event"] for entry in lines_of_json} <= {"progress", "log", "validation"}
    entries = [entry for entry in lines_of_json if entry["event"] == "progress"]
    for entry in entries:
        assert entry["command"] == name
        assert 0 <= entry["done"] <= entry["total"]
    if name != "info":
        assert entries[-1]["done"] == entries[-1]["total"]


def test_numbers_are_numbers_in_json(cli, lines, in_tmp):
    assert cli(*lines("train", "out"), "--json") == 0
    strings = {k for k, v in cli.json.items() if isinstance(v, str)}
    assert strings == {"out", "next"}


def test_the_log_has_lines_of_progress_and_the_result_is_on_stdout(cli, lines, in_tmp, monkeypatch):
    monkeypatch.setattr("unetcli.progress.LOG_INTERVAL_S", 0)
    assert cli(*lines("weights", "out")) == 0
    for line in cli.err.splitlines():
        assert re.fullmatch(r"weights: \d+ of \d+, ([\d.e+]+/s, [\d.]+ min left|time left not known yet)", line)
    assert cli.err
    assert re.search(r"^images +3 *$", cli.out, flags=re.MULTILINE)


def test_without_a_terminal_a_short_run_logs_no_progress(cli, lines, in_tmp):
    assert cli(*lines("weights", "out")) == 0
    assert cli.err == ""


@pytest.mark.parametrize(("options", "said"), [([], True), (["-q"], False), (["-v"], True)], ids=["", "-q", "-v"])
def test_the_device_is_said_on_stderr(cli, lines, tmp_path, options, said):
    arguments = [a for a in lines("tile-predict", tmp_path / "out") if a not in ("--device", "cpu")]
    assert cli(*arguments, "--dry-run", *options) == 0
    assert ("device: " in cli.err) == said
    assert not re.search("^device: ", cli.out, flags=re.MULTILINE)


def test_a_second_run_says_that_there_was_nothing_to_do(cli, lines, in_tmp):
    assert cli(*lines("weights", "out")) == 0
    assert "complete already" not in cli.out
    assert cli(*lines("weights", "out")) == 0
    assert "was complete already" in cli.out
    assert cli(*lines("weights", "out"), "--json") == 0
    assert cli.json["already_done"] is True


@pytest.mark.parametrize("name", ["a[old].zarr", "a[/b].zarr", "a[bold]", "ä µ.zarr"])
def test_names_are_printed_as_they_are(cli, lines, in_tmp, name):
    assert cli(*lines("prep", name), "--dry-run") == 0
    assert name in cli.out


def test_notes_are_printed_as_they_are(cli, in_tmp):
    np.save("x[old].npy", np.zeros((3, 20, 30), np.uint8))
    assert cli("prep", "x[old].npy", "-o", "a", "--json") == 0
    notes = cli.json["notes"]
    assert notes
    assert cli("prep", "x[old].npy", "-o", "b") == 0
    for note in notes:
        assert note in cli.out


def test_labels_take_all_paths_up_to_the_next_option(cli, folders, in_tmp):
    images, labels = (sorted((folders / kind).iterdir()) for kind in ("images", "ids"))
    assert cli("prep", *images, "--labels", *labels, "-o", "a", "--json") == 0
    assert cli.json["images"] == len(images)
    assert cli.json["labels"] != "none"
    assert cli("prep", "--labels", folders / "ids", folders / "images", "-o", "b", "--json") == 0
    assert {**cli.json, "out": "a"}["images"] == len(images)


def test_the_level_of_the_log(cli, lines, in_tmp):
    logger = logging.getLogger("unetcli")
    for option, level in (("-v", logging.DEBUG), ("-q", logging.ERROR), ("--overwrite", logging.INFO)):
        assert cli(*lines("info", None), option) == 0
        assert logger.level == level


# ------------------------------------------------------------------------------------------- progress


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that stands still until it is set."""
    time = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("unetcli.progress.time", SimpleNamespace(monotonic=lambda: time.now))
    return time


def said_after(capsys, clock, calls, style="lines"):
    """Return the lines that progress prints at some seconds: (second, done, total)."""
    progress = Progress("weights", style)
    for second, done, total in calls:
        clock.now = 1000.0 + second
        progress(done, total)
    return capsys.readouterr().err.splitlines()


def test_a_line_now_and_then_with_rate_and_time_left(capsys, clock):
    calls = [(0, 0, 100), (10, 5, 100), (40, 20, 100), (50, 25, 100), (80, 40, 100)]
    assert said_after(capsys, clock, calls) == [
        "weights: 20 of 100, 0.5/s, 2.7 min left",
        "weights: 40 of 100, 0.5/s, 2.0 min left",
    ]


def test_the_first_step_tells_no_rate(capsys, clock):
    calls = [(0, 0, 5), (40, 1, 40), (80, 2, 40)]
    assert said_after(capsys, clock, calls) == [
        "weights: 1 of 40, time left not known yet",
        "weights: 2 of 40, 0.025/s, 25.3 min left",
    ]


def test_a_run_that_continues_counts_its_own_rate(capsys, clock):
    calls = [(0, 5000, 6000), (60, 5060, 6000)]
    assert said_after(capsys, clock, calls) == ["weights: 5060 of 6000, 1/s, 15.7 min left"]


def test_each_pass_counts_its_own_rate(capsys, clock):
    calls = [(0, 0, 10), (10, 10, 10), (10, 0, 50), (50, 20, 50)]
    assert said_after(capsys, clock, calls) == ["weights: 20 of 50, 0.5/s, 1.0 min left"]


def test_progress_as_json_lines(capsys, clock):
    (line,) = said_after(capsys, clock, [(0, 0, 10), (40, 4, 10)], style="json")
    assert strict(line) == {"event": "progress", "command": "weights", "done": 4, "total": 10, "per_second": 0.1}


ROW = {
    "step": 20, "loss": 0.5, "validation_loss": 0.25, "validation_iou": 0.875, "learning_rate": 1e-3,
    "data_wait": 0.01, "steps_per_second": 2.0,
}  # fmt: skip


def show_rows(style, clock):
    """Show two rows of 60 steps, the first the best, then step 41."""
    with Progress("train", style) as progress:
        for step, is_best in ((20, True), (40, False)):
            clock.now += 10
            progress(step, 60)
            progress.show_row({**ROW, "step": step}, 60, is_best=is_best, seconds_left=12.0 * (60 - step) / 20)
        clock.now += 30
        progress(50, 60)


def test_a_row_is_a_line_in_a_log_and_the_time_left_goes_on_from_what_it_said(capsys, clock, restored_signals):
    show_rows("lines", clock)
    assert capsys.readouterr().err.splitlines() == [
        "step 20 of 60: loss 0.5, validation loss 0.25, iou 0.875, 2 steps/s, 0.4 min left",
        "step 40 of 60: loss 0.5, validation loss 0.25, iou 0.875, 2 steps/s, 0.2 min left",
        "train: 50 of 60, 0.75/s, 0.1 min left",
    ]


def test_a_row_is_an_object_in_json(capsys, clock, restored_signals):
    show_rows("json", clock)
    first, *_ = [strict(line) for line in capsys.readouterr().err.splitlines()]
    assert first == {
        "event": "validation", "command": "train", **ROW, "total": 60, "is_best": True, "seconds_left": 24.0,
    }  # fmt: skip


def test_rows_are_a_table_on_a_terminal_which_stays_when_the_bar_goes(capsys, clock, restored_signals, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    show_rows("bar", clock)
    last = capsys.readouterr().err.splitlines()[-4:]
    assert [word for line in last for word in line.split()] == [
        "validation", "learning", "data", "steps", "step", "loss", "loss", "iou", "rate", "wait", "/s",
        "best", "20", "0.5", "0.25", "0.875", "0.001", "1.0", "%", "2", "40", "0.5", "0.25", "0.875", "0.001", "1.0",
        "%", "2",
    ]  # fmt: skip


def test_a_run_that_goes_on_calls_no_row_the_best_that_is_not(capsys, clock, restored_signals):
    with Progress("train", "bar") as progress:
        progress.show_row(ROW, 60, is_best=False, seconds_left=1.0)
    assert "best" not in capsys.readouterr().err


def test_no_progress_where_none_is_wanted(capsys, clock):
    assert said_after(capsys, clock, [(0, 0, 10), (40, 4, 10)], style="none") == []


def test_a_bar_on_a_terminal_leaves_nothing_behind(capsys, restored_signals):
    with Progress("weights", "bar") as progress:
        for done in range(3):
            progress(done, 2)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_is_remembered_until_the_next_call_but_not_after_the_last(restored_signals, number):
    with Progress("weights", "none") as progress:
        progress(1, 3)
        signal.raise_signal(number)
        with pytest.raises(errors.Unfinished, match=f"stopped by {signal.Signals(number).name} after 2 of 3"):
            progress(2, 3)
        progress(3, 3)  # complete: there is nothing left to stop


@pytest.mark.parametrize(
    ("calls", "stops_at"),
    [
        (range(20, 100), 99),  # as long as the first step, which gets ready, no other takes
        ([*range(20, 90, 10), 86], 86),  # 10 s a step: the next may take 15
        ([80], 80),
        ([20, 21, 22], None),
    ],
)
def test_a_deadline_stops_before_a_step_that_would_not_fit(clock, calls, stops_at):
    progress = Progress("train", "none", stop_after_s=100.0)
    for k, second in enumerate(calls, 1):
        clock.now = 1000.0 + second
        if second == stops_at:
            with pytest.raises(errors.Unfinished, match=f"stopped by --stop-after after {k} of 99"):
                progress(k, 99)
            return
        progress(k, 99)
    assert stops_at is None


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [("1-02:03:04\n", 93784), ("02:03:04", 7384), ("3:04", 184), ("45", 45), ("INVALID", None), ("UNLIMITED", None)],
)
def test_the_time_left_of_a_job_is_asked_of_slurm(monkeypatch, tmp_path, answer, seconds):
    (tmp_path / "squeue").write_text(f"#!/bin/sh\necho {answer}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert seconds_until_stop("auto") == (math.inf if seconds is None else seconds - SAVING_S)


def test_without_slurm_there_is_no_limit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert seconds_until_stop("auto") == math.inf


@pytest.mark.parametrize("wish", ["soon", "0", "-3", "nan"])
def test_a_deadline_is_minutes(wish):
    with pytest.raises(errors.ConfigError, match="--stop-after"):
        seconds_until_stop(wish)


def test_of_two_signals_the_later_one_ends_at_once():
    """Those of one scheduler come within a moment and are one."""
    code = """
import os, signal, time
from unetcli import progress
progress.SAME_SIGNAL_S = 0.5
with progress.Progress("train", "none"):
    for wait in (0, 0.1, 1):
        time.sleep(wait)
        print(wait, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stdout.split() == ["0", "0.1", "1"]
    assert ended.returncode == -signal.SIGTERM


def test_ctrl_c_waits_for_the_next_step_and_a_second_one_does_not(restored_signals):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Progress("train", "none") as progress:
        progress(1, 3)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(errors.Interrupted, match="stopped by Ctrl-C after 2 of 3"):
            progress(2, 3)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_list_in_the_file_is_what_commas_are_on_the_command_line(cli, config, instances):
    assert (
        cli("train", instances, "-o", "b", *config("[train]\nfeatures = [4, 8]\npatch-size = 32\n"), "--dry-run") == 0
    )


@pytest.mark.parametrize("line", ["prep . -o ../o.zarr", "info .", "info ./"])
def test_the_folder_that_one_is_in_is_a_path(cli, tmp_path, monkeypatch, line):
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", np.zeros((20, 30), "uint8"))
    monkeypatch.chdir(tmp_path / "in")
    assert cli(*line.split()) == 0


@pytest.mark.parametrize("line", [["prep", "", "-o", "o.zarr"], ["prep", "a.npy", "-o", ""], ["info", " "]])
def test_an_empty_path_is_refused(cli, in_tmp, line):
    assert cli(*line) == 4
    assert "a path is empty" in cli.err


def test_presets_are_listed_with_nothing_else_given(cli):
    assert cli("train", "--list-presets") == 0
    for name in PRESETS:
        assert name in cli.out
    assert re.search(r"--epochs +- +60 +- +-", cli.out)


def test_steps_and_epochs_are_not_given_both(cli, instances):
    assert cli("train", instances, "-o", "r", "--preset", "classic", "--steps", "3", "--epochs", "2") == 4
    assert "--steps 3 and --epochs 2: expected one of them" in cli.err

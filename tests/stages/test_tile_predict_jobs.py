"""Prediction in many jobs: any cut into parts, any order, twice or at once, ends in the bytes of one run."""

import shlex
import shutil

import numpy as np
import pytest

from tests.conftest import assert_same_files, cells, files_of
from tests.forks import at_once, killed
from tests.stages.test_tile_predict import make_model
from unetcli.config import PredictConfig, PrepConfig
from unetcli.errors import ConfigError, MissingShardsError, Unfinished
from unetcli.image.ledger import ledger_path
from unetcli.stages import prep, tile_predict

SHAPE = (90, 100)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [make_model(folder / "a.safetensors"), make_model(folder / "b.safetensors", norm="batch")]


@pytest.fixture(scope="module")
def model(models):
    return models[0]


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Return an image of 12 shards, as `small` makes them."""
    folder = tmp_path_factory.mktemp("image")
    np.save(folder / "image.npy", cells(SHAPE, 3)[0])
    prep.run([folder / "image.npy"], folder / "image.zarr", PrepConfig())
    return folder / "image.zarr"


@pytest.fixture
def small(small_tiles, monkeypatch):
    monkeypatch.setattr("unetcli.image.pyramid.SMALLEST", 20)


def predict(image, out, model, **options):
    config = options.pop("config", PredictConfig())
    return tile_predict.run(image, out, config, model=model, device="cpu", **options)


def in_parts(parts, go):
    go(create=True)
    for part in parts:
        go(part=part)
    return go(finish=True)


CUTS = {
    "three": ["0/3", "1/3", "2/3"],
    "backwards": ["2/3", "1/3", "0/3"],
    "twice": ["0/2", "0/2", "1/2", "0/2"],
    "of another number": ["0/4", "1/4", "1/2"],
    "more than shards": [f"{k}/40" for k in range(40)],
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_any_cut_into_parts_ends_in_the_same_bytes(tmp_path, image, model, small, cut):
    predict(image, tmp_path / "whole", model, probabilities=tmp_path / "whole_p")
    in_parts(cut, lambda **phase: predict(image, tmp_path / "m", model, probabilities=tmp_path / "p", **phase))
    assert_same_files(tmp_path / "m", tmp_path / "whole")
    assert_same_files(tmp_path / "p", tmp_path / "whole_p")
    assert not ledger_path(tmp_path / "m").exists()


def test_parts_of_a_tiff(tmp_path, image, model, small):
    predict(image, tmp_path / "whole.tif", model)
    in_parts(CUTS["three"], lambda **phase: predict(image, tmp_path / "m.tif", model, **phase))
    assert (tmp_path / "m.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_parts_of_labels_of_a_collection(tmp_path, model, small):
    (tmp_path / "images").mkdir()
    for i, shape in enumerate([(40, 50), (33, 71), (5, 6)]):
        np.save(tmp_path / "images" / f"i_{i}.npy", cells(shape, i)[0])
    prep.run([tmp_path / "images"], tmp_path / "whole.zarr", PrepConfig())
    shutil.copytree(tmp_path / "whole.zarr", tmp_path / "parts.zarr")
    predict(tmp_path / "whole.zarr", None, model, as_label="found")
    in_parts(CUTS["three"], lambda **phase: predict(tmp_path / "parts.zarr", None, model, as_label="found", **phase))
    assert_same_files(tmp_path / "parts.zarr", tmp_path / "whole.zarr")


def test_a_finished_part_does_nothing(tmp_path, image, model, small, monkeypatch):
    predict(image, tmp_path / "m", model, part="1/3")
    before = files_of(tmp_path / "m")
    monkeypatch.setattr("unetcli.prediction.predictor.Predictor.predict", None)
    assert predict(image, tmp_path / "m", model, part="1/3")["shards"] == 4
    assert files_of(tmp_path / "m") == before


def test_finishing_too_early_names_the_parts(tmp_path, image, model, small, cli):
    command = ["tile-predict", image, "--model", model, "-o", tmp_path / "m", "--device", "cpu"]
    assert cli(*command, "--create") == 0
    for part in ("0/12", "3/12", "4/12", "8/12", "10/12"):
        assert cli(*command, "--part", part) == 0
    assert cli(*command, "--finish", "--json") == 6
    assert cli.json == {"missing": "1-2,5-7,9,11", "parts": 12, "missing_shards": 7, "shards": 12}
    assert "7 of 12 shards are missing, in parts 1-2,5-7,9,11 of 12" in cli.err
    assert "sbatch --array=1-2,5-7,9,11" in cli.err
    for part in ("0/2", "1/2"):
        assert cli(*command, "--part", part) == 0
    assert cli(*command, "--finish") == 0
    assert cli(*command, "--finish") == 0
    assert "was complete already" in cli.out
    assert cli(*command, "--part", "1/12") == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"create": True, "finish": True}, "--create and --finish"),
        ({"part": "0/2", "finish": True}, "--part 0/2 and --finish"),
        ({"part": "2/2"}, "--part 2/2: expected I/N"),
        ({"part": "0/0"}, "--part 0/0"),
        ({"part": "-1/2"}, "--part -1/2"),
        ({"part": "1"}, "--part 1:"),
        ({"part": ""}, "--part :"),
        ({"part": "0/2", "overwrite": True}, "--part 0/2 --overwrite: would remove"),
        ({"finish": True, "overwrite": True}, "--finish --overwrite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_phases_that_can_not_be(tmp_path, image, model, options, said):
    with pytest.raises(ConfigError, match=said):
        predict(image, tmp_path / "m", model, **options)
    assert not (tmp_path / "m").exists()


def remove_root(path):
    (path / "zarr.json").unlink(missing_ok=True)


def remove_array_metadata(path):
    (path / "0" / "zarr.json").unlink()


def remove_record(path):
    shutil.rmtree(ledger_path(path))


def leave_partial(path):
    (path / "0" / "c" / "0").mkdir(parents=True, exist_ok=True)
    (path / "0" / "c" / "0" / "0.12ab.partial").write_bytes(b"torn")


@pytest.mark.parametrize("damage", [remove_root, remove_array_metadata, remove_record, leave_partial, shutil.rmtree])
@pytest.mark.parametrize("begun", ["created", "a part"])
def test_creating_again_mends(tmp_path, image, model, small, damage, begun):
    predict(image, tmp_path / "whole", model)
    predict(image, tmp_path / "m", model, create=True)
    if begun == "a part":
        predict(image, tmp_path / "m", model, part="0/2")
    damage(tmp_path / "m")
    in_parts(["0/2", "1/2"], lambda **phase: predict(image, tmp_path / "m", model, **phase))
    assert_same_files(tmp_path / "m", tmp_path / "whole")


def test_creating_again_leaves_alone_what_is_there(tmp_path, image, model, small):
    predict(image, tmp_path / "m", model, create=True)
    predict(image, tmp_path / "m", model, part="0/2")
    before = files_of(tmp_path / "m", ledger_path(tmp_path / "m"))
    predict(image, tmp_path / "m", model, create=True)
    assert files_of(tmp_path / "m", ledger_path(tmp_path / "m")) == before
    predict(image, tmp_path / "m", model)
    before = files_of(tmp_path / "m")
    assert predict(image, tmp_path / "m", model, create=True)["already_done"]
    assert files_of(tmp_path / "m") == before


def test_a_complete_store_that_lost_its_root_is_made_again(tmp_path, image, model, small):
    """A workflow removes what is declared as the output of a rule before it runs the rule again."""
    predict(image, tmp_path / "whole", model)
    shutil.copytree(tmp_path / "whole", tmp_path / "m")
    remove_root(tmp_path / "m")
    with pytest.raises(MissingShardsError):
        predict(image, tmp_path / "m", model, finish=True)
    predict(image, tmp_path / "m", model)
    assert_same_files(tmp_path / "m", tmp_path / "whole")


def test_what_is_left_of_another_run_is_not_removed_by_a_part(tmp_path, image, model, small):
    predict(image, tmp_path / "m", model, part="0/2")
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(ConfigError, match="what is left of another run") as error:
        predict(image, tmp_path / "m", model, part="1/2")
    assert "--create" in error.value.fix


@pytest.mark.parametrize(
    ("changed", "said"),
    [("model", "inputs model was"), ("pixels", "inputs image was"), ("settings", 'settings tta was "none", is "d4"')],
)
@pytest.mark.parametrize("phase", [{"create": True}, {"part": "1/2"}, {"finish": True}], ids=str)
def test_what_changed_between_parts_is_named(tmp_path, image, models, small, changed, said, phase):
    shutil.copytree(image, tmp_path / "i")
    predict(tmp_path / "i", tmp_path / "m", models[0], create=True)
    predict(tmp_path / "i", tmp_path / "m", models[0], part="0/2")
    if changed == "pixels":
        shutil.rmtree(tmp_path / "i")
        np.save(tmp_path / "image.npy", cells(SHAPE, 4)[0])
        prep.run([tmp_path / "image.npy"], tmp_path / "i", PrepConfig())
    config = PredictConfig(tta="d4" if changed == "settings" else "none")
    with pytest.raises(ConfigError, match=said):
        predict(tmp_path / "i", tmp_path / "m", models[changed == "model"], config=config, **phase)


def test_the_first_process_decides_how_is_computed(tmp_path, image, model, small, monkeypatch):
    """A tile may follow from the memory of a machine, and the one that creates the store may have no GPU."""
    predict(image, tmp_path / "whole", model)
    predict(image, tmp_path / "m", model, create=True)
    predict(image, tmp_path / "m", model, part="0/2")
    monkeypatch.setattr("unetcli.prediction.predictor.choose_step", lambda engine, *_: engine.use((8, 8)) or (8, 8))
    predict(image, tmp_path / "m", model, part="1/2")
    predict(image, tmp_path / "m", model, finish=True)
    assert_same_files(tmp_path / "m", tmp_path / "whole")


def test_another_kind_of_device_is_refused(tmp_path, image, model, small, monkeypatch):
    predict(image, tmp_path / "m", model, part="0/2")
    settled = ledger_path(tmp_path / "m") / "computed.settled.json"
    settled.write_text(settled.read_text().replace('"cpu"', '"cuda"'))
    with pytest.raises(ConfigError, match="was begun with --device cuda; this is cpu") as error:
        predict(image, tmp_path / "m", model, part="1/2")
    assert "--device cuda" in error.value.fix


def command_of(image, model, out, *phase):
    return ["tile-predict", image, "--model", model, "-o", out, "--device", "cpu", "--quiet", *phase]


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts",
    [["0/4", "1/4", "2/4", "3/4"], ["0/1"] * 3, [None, None, "0/2"]],
    ids=["four parts", "the same part", "whole runs"],
)
def test_processes_that_begin_at_once_do_not_destroy_each_others_work(tmp_path, image, model, small, parts):
    predict(image, tmp_path / "whole", model)
    for k in range(2):
        out = tmp_path / f"m{k}"
        phases = [[] if part is None else ["--part", part] for part in parts]
        codes = at_once([command_of(image, model, out, *phase) for phase in phases])
        assert set(codes) <= {0, 75}
        assert at_once([command_of(image, model, out, "--finish")]) == [0]
        assert_same_files(out, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["zarr", "tif"])
def test_finishing_several_times_at_once(tmp_path, image, model, small, ending):
    """One of them completes the outputs; what the others read meanwhile may be gone, and must not be written."""

    def command(name, *phase):
        others = ["--probabilities", tmp_path / f"{name}_p.{ending}", "--instances", tmp_path / f"{name}_i.{ending}"]
        return command_of(image, model, tmp_path / f"{name}.{ending}", *others, *phase)

    at_once([command("whole")])
    for k in range(3):
        at_once([command(f"m{k}", "--part", "0/1")])
        codes = at_once([command(f"m{k}", "--finish")] * 3)
        assert set(codes) <= {0, 75}
        assert at_once([command(f"m{k}", "--finish")]) == [0]
        for output in ("", "_p", "_i"):
            made, expected = (tmp_path / f"{name}{output}.{ending}" for name in (f"m{k}", "whole"))
            if ending == "tif":
                assert made.read_bytes() == expected.read_bytes()
            else:
                assert_same_files(made, expected)
            assert not ledger_path(made).exists()


def test_a_shard_that_was_lost_is_noticed(tmp_path, image, model, small, cli):
    """It is on record, so nothing but reading it tells: zeros in its place would be taken for background."""
    predict(image, tmp_path / "m", model, part="0/1")
    (tmp_path / "m" / "0" / "c" / "1" / "1").unlink()
    assert cli("tile-predict", image, "--model", model, "-o", tmp_path / "m", "--finish") == 3
    assert "0/c/1/1: is missing" in cli.err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a store", "a TIFF"])
def test_killed_at_thirty_random_moments(tmp_path, model, small, kind):
    np.save(tmp_path / "image.npy", cells((200, 210), 3)[0])
    image, ending = tmp_path / "image.zarr", {"a store": "zarr", "a TIFF": "tif"}[kind]
    prep.run([tmp_path / "image.npy"], image, PrepConfig())
    whole, out = tmp_path / f"whole.{ending}", tmp_path / f"m.{ending}"
    codes = killed(command_of(image, model, whole), command_of(image, model, out), 30)
    assert codes.count(-9) > 5, codes
    assert at_once([command_of(image, model, out)]) == [0]
    if kind == "a TIFF":
        assert out.read_bytes() == whole.read_bytes()
    else:
        assert_same_files(out, whole)
    assert not list(out.parent.rglob("*.partial"))
    assert not ledger_path(out).exists()


@pytest.mark.parametrize("version", [[], ["--ngff", "0.4"]], ids=["shards", "chunks"])
def test_a_dry_run_says_what_it_takes_and_how_to_cut_it(tmp_path, image, model, small, cli, monkeypatch, version):
    monkeypatch.setattr("unetcli.prediction.estimate.JOB_S", 1e-3)
    command = ["tile-predict", image, "--model", model, "-o", tmp_path / "m", "--probabilities", tmp_path / "p"]
    ids = tmp_path / ("i" if version else "i.tif")
    command += ["--instances", ids, *version]
    assert cli(*command, "--device", "cpu", "--tta", "flips", "--json", "--dry-run") == 0
    found = cli.json
    assert not (tmp_path / "m").exists()
    assert cli(*command, "--device", "cpu", "--tta", "flips") == 0
    levels = [SHAPE, (45, 50), (22, 25), (11, 12)]
    names = {p.relative_to(tmp_path).parts for p in tmp_path.rglob("*") if p.is_file() and p.name != ".zattrs"}
    assert (found["shards"], found["tiles"], found["parts"]) == (12, 12, 12)
    assert abs(found["files"] - sum(parts[0] in ("m", "p", "i", "i.tif") for parts in names)) <= 2
    assert found["bytes"] == (1 + 2 * 4 + 4) * sum(y * x for y, x in levels)
    assert found["seconds"] > 0
    assert 50 < found["memory_mib"] < 20_000
    assert found["sbatch"].startswith("sbatch --array=0-11 --cpus-per-task=")
    places = f"--out {tmp_path / 'm'} --probabilities {tmp_path / 'p'} --instances {ids}"
    asked = f"array.sbatch 12 tile-predict {image} --model {model} {places}"
    assert found["sbatch"].endswith(" ".join([asked, "--device cpu --tta flips", *version]))


def test_the_line_of_a_dry_run_asks_for_the_same(tmp_path, image, model, small, cli, monkeypatch):
    """It is copied from a terminal of any width: whole, with spaces in names, and with values of 0."""
    monkeypatch.setenv("COLUMNS", "60")
    places = ["-o", tmp_path / "a mask", "--probabilities", tmp_path / "p", "--instances", tmp_path / "i"]
    settings = ["--split", "probability", "--split-sigma", "0", "--workers", "1"]
    command = ["tile-predict", image, "--model", model, "--device", "cpu", *places, *settings]
    assert cli(*command, "--dry-run") == 0
    (line,) = [line for line in cli.out.splitlines() if line.startswith("sbatch ")]
    given = shlex.split(line)
    assert cli(*command) == 0
    assert cli(*given[given.index("tile-predict") :], "--finish") == 0
    assert "was complete already" in cli.out


@pytest.mark.parametrize("twice", ["--probabilities", "--uncertainty", "--instances"])
@pytest.mark.parametrize("dry_run", [True, False], ids=["dry run", "run"])
def test_outputs_lie_apart(tmp_path, image, model, cli, twice, dry_run):
    command = ["tile-predict", image, "--model", model, "-o", tmp_path / "m", *["--dry-run"] * dry_run]
    assert cli(*command, twice, tmp_path / "m") == 4
    assert "is, lies in or holds" in cli.err
    if twice != "--uncertainty":
        assert cli(*command, twice, tmp_path / "u", "--uncertainty", tmp_path / "u") == 4
        assert "is, lies in or holds" in cli.err
    assert not (tmp_path / "m").exists()


def test_a_choice_that_another_process_made_first_is_followed_when_called_again(tmp_path, image, model, small):
    """Of jobs that begin at once on different devices, each proposes what is best for its own."""
    predict(image, tmp_path / "m", model, part="0/2")
    settled = ledger_path(tmp_path / "m") / "computed.settled.json"
    settled.write_text(settled.read_text().replace('"float32"', '"bfloat16"'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unetcli.stages.tile_predict.read_settled", lambda _: {})
        with pytest.raises(Unfinished, match="just begun the output with --precision bfloat16"):
            predict(image, tmp_path / "m", model, part="1/2")
    assert predict(image, tmp_path / "m", model, part="1/2")["shards"] == 6

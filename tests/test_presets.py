"""Presets are settings, and their differences are seen in one place."""

import pytest

from unetcli.config import TrainConfig, WeightsConfig
from unetcli.errors import ConfigError
from unetcli.presets import PRESETS, preset_table, with_preset


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    made = with_preset(name, seed=3)
    assert made.seed == 3
    assert {k: getattr(made, k) for k in PRESETS[name]} == PRESETS[name]
    default = TrainConfig()
    for k, value in PRESETS[name].items():
        assert value != getattr(default, k), f"preset {name} repeats the default of {k}"


def test_the_default_preset_is_the_defaults():
    assert with_preset("default") == TrainConfig()


def test_the_preset_of_the_paper_is_the_papers():
    paper = with_preset("paper")
    assert paper.feature_list == (64, 128, 256, 512, 1024)
    assert (paper.padding, paper.norm, paper.network_settings()["skip"]) == ("valid", "none", "concat")
    assert (paper.optimizer, paper.momentum, paper.batch_size, paper.patch_size) == ("sgd", 0.99, 1, 572)
    assert (paper.loss, paper.clip_norm, paper.ema, paper.flip) == ("weighted-cross-entropy", 0, 0, False)
    assert (paper.elastic, paper.grid_points(2)) == (10, (1, 3, 3))
    assert (WeightsConfig().w0, WeightsConfig().sigma) == (10, 5)


def test_the_classic_preset_is_the_common_implementation():
    classic = with_preset("classic")
    assert (classic.padding, classic.norm, classic.loss) == ("same", "batch", "bce")
    assert (classic.optimizer, classic.learning_rate, classic.momentum) == ("sgd", 0.01, 0.99)
    assert (classic.weight_decay, classic.nesterov, classic.clip_norm) == (5e-4, False, 0)
    assert (classic.schedule, classic.decay, classic.decay_every, classic.epochs) == ("step", 0.1, 30, 60)
    assert (classic.flip, classic.elastic, classic.rotation, classic.scaling) == (True, 0, 0, 1)
    assert (classic.contrast, classic.brightness, classic.gamma, classic.noise, classic.blur) == (1, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("preset", "given", "steps", "epochs"),
    [
        ("paper", {"steps": 7}, 7, None),
        ("fast", {"epochs": 3}, 2500, 3),  # the steps of a run are then counted from its data
        ("classic", {}, 8000, 60),
        ("classic", {"steps": 7}, 7, None),
        ("classic", {"steps": 7, "epochs": None}, 7, None),
        ("classic", {"epochs": 7}, 8000, 7),
    ],
)
def test_what_is_given_goes_before_the_preset(preset, given, steps, epochs):
    made = with_preset(preset, **given, seed=3)
    assert (made.steps, made.epochs, made.seed) == (steps, epochs, 3)


@pytest.mark.parametrize("preset", PRESETS)
def test_steps_and_epochs_are_not_given_both(preset):
    with pytest.raises(ConfigError, match="--steps 5 and --epochs 2: expected one of them"):
        with_preset(preset, steps=5, epochs=2)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="--preset best: expected one of paper, classic, default, fast"):
        with_preset("best")


def test_a_mistake_on_top_of_a_preset_is_refused():
    with pytest.raises(ConfigError, match="--steps 0"):
        with_preset("fast", steps=0)


@pytest.mark.parametrize(
    ("preset", "given", "said"),
    [
        ("default", {"momentum": 0.99}, "--momentum 0.99: expected with --optimizer sgd only"),
        ("default", {"decay_every": 9}, "--decay-every 9: expected with --schedule step only"),
        ("classic", {"decay": 0.5, "schedule": "cosine"}, "--decay 0.5: expected with --schedule step only"),
        ("paper", {"momentum": 0.9, "optimizer": "adamw"}, "--momentum 0.9: expected with --optimizer sgd only"),
    ],
)
def test_what_would_have_no_effect_is_refused(preset, given, said):
    with pytest.raises(ConfigError, match=said):
        with_preset(preset, **given)


@pytest.mark.parametrize(
    ("preset", "given"),
    [
        ("classic", {"momentum": 0.9, "decay": 0.5}),
        ("fast", {"momentum": 0.9, "optimizer": "sgd"}),
        ("paper", {"optimizer": "adam"}),
    ],
)
def test_what_has_an_effect_is_taken(preset, given):
    assert {k: getattr(with_preset(preset, **given), k) for k in given} == given


def test_the_table_has_each_setting_in_which_presets_differ():
    (_, *names), *rows = preset_table()
    assert names == list(PRESETS)
    changed = {"--" + k.replace("_", "-") for settings in PRESETS.values() for k in settings}
    assert {row[0] for row in rows} == changed
    table = {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}
    assert table["--loss"]["classic"] == "bce"
    assert (table["--steps"]["classic"], table["--epochs"]["classic"]) == ("-", "60")
    assert table["--weight-decay"] == {"paper": "0", "classic": "0.0005", "default": "0.01", "fast": "0.01"}
    assert table["--flip"]["paper"] == "no"

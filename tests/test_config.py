"""Every setting has a range that is checked, and every preset is within them."""

import dataclasses
import math

import pytest

from unetcli import config
from unetcli.config import (
    RECIPES,
    AugmentConfig,
    Config,
    DeformConfig,
    EvaluateConfig,
    ExportConfig,
    LabelConfig,
    PredictConfig,
    PrepConfig,
    TrainConfig,
    WeightsConfig,
)
from unetcli.errors import ConfigError

CONFIGS = [
    LabelConfig,
    PrepConfig,
    WeightsConfig,
    DeformConfig,
    AugmentConfig,
    TrainConfig,
    PredictConfig,
    ExportConfig,
    EvaluateConfig,
]


def settings():
    return [pytest.param(c, f, id=f"{c.__name__}.{f.name}") for c in CONFIGS for f in dataclasses.fields(c)]


def option(field):
    return "--" + field.name.replace("_", "-")


def outside(field):
    """List values just outside the range of a setting."""
    rule = field.metadata
    low, above, high = rule["minimum"], rule["above"], rule["maximum"]
    numbers = [n for n in (low - 1, above, high + 1) if math.isfinite(n)]
    if numbers:
        numbers += [math.inf, -math.inf, math.nan]
    return numbers + (["nonsense", ""] if rule["choices"] else [])


def inside(field):
    """List values at the edges of the range of a setting."""
    rule = field.metadata
    return [n for n in (rule["minimum"], rule["maximum"]) if math.isfinite(n)] + list(rule["choices"])


def test_all_configs_are_tested():
    named = {c for c in vars(config).values() if isinstance(c, type) and issubclass(c, Config) and c is not Config}
    assert named == set(CONFIGS)


@pytest.mark.parametrize(("stage", "field"), settings())
def test_values_outside_the_range_are_refused(stage, field):
    for value in outside(field):
        with pytest.raises(ConfigError, match=f"{option(field)} .*: expected") as caught:
            stage(**{field.name: value})
        assert str(value) in str(caught.value)


NEEDS = {
    "background": {"recipe": "plugin"}, "sigma1": {"recipe": "plugin"}, "foreground_share": {"sampling": "foreground"},
    "split_depth": {"split": "distance"}, "split_reach": {"split": "distance"}, "split_sigma": {"split": "probability"},
}  # fmt: skip
"""What a setting goes together with only."""


@pytest.mark.parametrize(("stage", "field"), settings())
def test_values_at_the_edges_are_taken(stage, field):
    for value in inside(field):
        given = {field.name: value, **NEEDS.get(field.name, {})}
        assert getattr(stage(**given), field.name) == value


@pytest.mark.parametrize(("stage", "field"), settings())
def test_each_number_has_a_range_and_each_setting_a_help(stage, field):
    assert field.metadata["help"].endswith((".", "]", ")"))
    if isinstance(field.default, (int, float)) and not isinstance(field.default, bool):
        assert outside(field), f"{stage.__name__}.{field.name} takes any number"


@pytest.mark.parametrize("stage", CONFIGS)
def test_defaults_are_valid_and_frozen(stage):
    default = stage()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(default, dataclasses.fields(stage)[0].name, None)
    with pytest.raises(TypeError):
        stage(no_such_setting=1)
    with pytest.raises(TypeError):
        stage(*[f.default for f in dataclasses.fields(stage)])  # by name only


def test_all_mistakes_are_said_at_once():
    with pytest.raises(ConfigError) as caught:
        TrainConfig(batch_size=0, learning_rate=-1, padding="mirror", features="32", momentum=2, steps=5)
    message = str(caught.value)
    for mistake in (
        "--batch-size 0",
        "--learning-rate -1",
        "--padding mirror",
        "--features 32",
        "--momentum 2",
    ):
        assert mistake in message
    assert "--steps" not in message


@pytest.mark.parametrize(
    ("stage", "given", "said"),
    [
        (WeightsConfig, {"sigma": 0}, "--sigma 0: expected 0.01 to 1e+06"),
        (WeightsConfig, {"w0": -1}, "--w0 -1: expected 0 to 1e+06"),
        (AugmentConfig, {"rotation": 181}, "--rotation 181: expected 0 to 180"),
        (PrepConfig, {"ngff": "0.6"}, "--ngff 0.6: expected one of 0.4, 0.5"),
        (WeightsConfig, {"w0": math.nan}, "--w0 nan: expected a finite number"),
    ],
)
def test_messages(stage, given, said):
    with pytest.raises(ConfigError) as caught:
        stage(**given)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "features", ["", "32", "32,", ",32", "32,x", "32,-64", "32,0", "32;64", "3.5,7", "32,²"], ids=repr
)
def test_features_that_make_no_network(features):
    with pytest.raises(ConfigError, match="--features"):
        TrainConfig(features=features)


@pytest.mark.parametrize("grid", ["", "0", "65", "3,", "3,3,3,3", "-3", "2.5", "3x3"], ids=repr)
def test_grids_of_no_control_points(grid):
    with pytest.raises(ConfigError, match="--grid"):
        TrainConfig(grid=grid)


@pytest.mark.parametrize(("grid", "ndim"), [("2,5,5", 2), ("5,5", 3)])
def test_control_points_of_axes_that_there_are_not(grid, ndim):
    with pytest.raises(ConfigError, match=f"--grid {grid}: expected one number, or {ndim} for"):
        TrainConfig(grid=grid).grid_points(ndim)


@pytest.mark.parametrize(("features", "expected"), [("32,64", (32, 64)), ("8, 16, 24", (8, 16, 24))])
def test_features(features, expected):
    assert TrainConfig(features=features).feature_list == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"arch": "u-net"}, "--arch u-net: expected one of unet, unet3d, attention-unet, unet++, resunet, vnet, "),
        ({"arch": "resunet", "skip": "add"}, "--skip add: does not go with --arch resunet; expected concat or attent"),
        ({"arch": "sliding-window", "skip": "concat"}, "--skip concat: does not go with --arch sliding-window; it has"),
        ({"deep_supervision": True}, "--deep-supervision: does not go with --arch unet; expected unet++"),
        ({"flat_levels": 1}, "--flat-levels 1: expected with --ndim 3 only"),
        ({"arch": "unet3d", "flat_levels": 4}, "--flat-levels 4: the network has 3 poolings; expected no more"),
        ({"pyramid": 7}, "--pyramid 7: expected 0 to 6"),
        ({"ndim": 4}, "--ndim 4: expected 2 to 3"),
    ],
    ids=str,
)
def test_networks_that_can_not_be(given, said):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**given)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"ndim": 2, "features": [32, 64, 128, 256, 512], "skip": "concat"}),
        ({"arch": "vnet"}, {"ndim": 3, "features": [16, 32, 64, 128, 256], "skip": "concat"}),
        ({"arch": "vnet", "ndim": 2, "skip": "add"}, {"ndim": 2, "features": [16, 32, 64, 128, 256], "skip": "add"}),
        ({"arch": "attention-unet", "features": "4,8"}, {"ndim": 2, "features": [4, 8], "skip": "attention"}),
        ({"arch": "sliding-window"}, {"ndim": 2, "features": [48, 48, 48, 48, 200]}),
        (
            {"arch": "unet++", "deep_supervision": True, "features": "4,8", "downsample": 2},
            {"ndim": 2, "features": [4, 8], "skip": "concat", "deep_supervision": True, "downsample": 2,
             "upsample": "bilinear"},
        ),
    ],
    ids=str,
)  # fmt: skip
def test_settings_of_a_network(given, expected):
    always = {"padding": "same", "norm": "batch", "dropout": 0.0}
    assert TrainConfig(**given).network_settings() == {**always, **expected}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name):
    made = WeightsConfig(recipe=name)
    assert {k: getattr(made, k) for k in RECIPES[name]} == RECIPES[name]
    assert WeightsConfig(**dataclasses.asdict(made)) == made
    assert WeightsConfig(recipe=name, sigma=3).sigma == 3


def test_the_recipe_of_the_plugin_is_the_plugins():
    plugin = WeightsConfig(recipe="plugin")
    assert (plugin.background, plugin.sigma1, plugin.w0, plugin.sigma) == (0.1, 10, 50, 6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"background": 0.2}, "--background 0.2: expected with --recipe plugin only"),
        ({"sigma1": 3}, "--sigma1 3: expected with --recipe plugin only"),
        ({"recipe": "plugin", "balance": "none"}, "--balance none: expected with --recipe paper only"),
        ({"sampling": 0}, "--sampling 0: expected above 0, at most 1"),
        ({"sampling": 1.5}, "--sampling 1.5: expected above 0, at most 1"),
    ],
)
def test_settings_of_weights_that_can_not_be(given, said):
    with pytest.raises(ConfigError, match=said):
        WeightsConfig(**given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"boundary_value": 0}, "--boundary-value: expected with --label-kind boundaries"),
        ({"boundary_value": 0, "label_kind": "classes"}, "--boundary-value: expected with"),
        ({"classes": "0=a,1=b", "label_kind": "instances"}, "--classes: does not go with --label-kind instances"),
        ({"classes": "0=a,1=b", "label_kind": "boundaries"}, "--classes: does not go with --label-kind boundaries"),
        ({"label_threshold": 128, "label_kind": "instances"}, "--label-threshold: makes two classes"),
    ],
)
@pytest.mark.parametrize("stage", [PrepConfig, EvaluateConfig])
def test_settings_of_labels_that_do_not_go_together(stage, given, said):
    with pytest.raises(ConfigError, match=said):
        stage(**given)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (127, 0), (128, 1), (255, 1)])
def test_a_boundary_value_is_cut_by_the_threshold_as_labels_are(value, expected):
    config = PrepConfig(label_kind="boundaries", boundary_value=value, label_threshold=128)
    assert config.meaning()["boundary"] == expected

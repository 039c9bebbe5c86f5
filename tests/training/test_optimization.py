"""Optimizers, schedules and averaged parameters: their formulas, and that all of them go on as if never stopped."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from unetcli.config import OPTIMIZERS as OPTIMIZER_NAMES
from unetcli.config import SCHEDULES as SCHEDULE_NAMES
from unetcli.config import TrainConfig
from unetcli.training.optimization import (
    OPTIMIZERS,
    SCHEDULES,
    AveragedNetwork,
    learning_rate_factor,
    make_optimizer,
    make_scheduler,
    steps_of_epoch,
)

STEPS = 100
schedules = pytest.mark.parametrize("schedule", SCHEDULE_NAMES)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1))


def learn(net, optimizer, step):
    """Take a step on a batch that is a function of its number."""
    torch.manual_seed(step)
    optimizer.zero_grad()
    net(torch.randn(4, 1, 6, 6)).square().mean().backward()
    optimizer.step()


def rates(schedule, n=STEPS, **settings):
    config = TrainConfig(schedule=schedule, steps=n, **settings)
    factor = learning_rate_factor(config, epoch_steps=2)
    return np.array([factor(step) for step in range(n)])


def test_names_are_those_of_the_settings():
    assert tuple(OPTIMIZERS) == OPTIMIZER_NAMES
    assert {*SCHEDULES, "step"} == set(SCHEDULE_NAMES)


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        ("constant", lambda _: 1),
        ("step", lambda step: 0.1 ** (step // 60)),  # 30 epochs of 2 steps
        ("cosine", lambda step: (1 + math.cos(math.pi * step / STEPS)) / 2),
        ("poly", lambda step: (1 - step / STEPS) ** 0.9),
    ],
)
def test_schedules_are_their_formulas(schedule, formula):
    np.testing.assert_allclose(rates(schedule), [formula(step) for step in range(STEPS)], atol=1e-12)


def test_one_cycle_rises_to_1_and_falls_to_nearly_nothing():
    found = rates("one-cycle", 1000)
    assert found[0] == pytest.approx(1 / 25)
    assert found.max() == pytest.approx(1)
    assert found.argmax() == 150
    assert (np.diff(found[:150]) > 0).all()
    assert (np.diff(found[150:]) < 0).all()
    assert 0 < found[-1] < 1e-4


def test_one_cycle_is_that_of_torch():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    torchs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=1001, pct_start=0.15, cycle_momentum=False)
    expected = []
    for _ in range(1000):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        torchs.step()
    np.testing.assert_allclose(rates("one-cycle", 1000), expected, atol=0.02)  # its steps are counted from 1


def test_the_step_schedule_counts_epochs():
    found = rates("step", decay=0.5, decay_every=3)
    np.testing.assert_allclose(found[:13], [1] * 6 + [0.5] * 6 + [0.25])


@schedules
@pytest.mark.parametrize("warmup", [1, 7, 500])
def test_warm_up_rises_linearly_to_the_schedule(schedule, warmup):
    ramp = np.minimum(1, np.arange(1, STEPS + 1) / (warmup + 1))
    np.testing.assert_allclose(rates(schedule, warmup=warmup), ramp * rates(schedule))


@schedules
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_shortest_trainings_have_a_learning_rate(schedule, steps):
    found = rates(schedule, steps)
    assert ((found > 0) & (found <= 1)).all()


@pytest.mark.parametrize(
    ("pixels", "patch", "batch", "expected"),
    [
        (28 * 512 * 512, 512 * 512, 1, 28),
        (28 * 512 * 512, 512 * 512, 4, 7),
        (28 * 512 * 512, 388 * 388, 1, 49),
        (100, 256, 8, 1),
        (0, 256, 8, 1),
    ],
)
def test_an_epoch_shows_as_many_pixels_as_there_are(pixels, patch, batch, expected):
    assert steps_of_epoch(pixels, patch, batch) == expected


def test_optimizers_have_the_settings():
    sgd = make_optimizer(
        network(), TrainConfig(optimizer="sgd", learning_rate=0.01, momentum=0.99, weight_decay=5e-4, nesterov=True)
    )
    (group,) = sgd.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.01, 0.99, 5e-4, True)
    assert len(group["params"]) == 6


def test_adamw_decays_kernels_alone():
    net = network()
    kernels, others = make_optimizer(net, TrainConfig(optimizer="adamw", weight_decay=0.3)).param_groups
    assert {id(p) for p in kernels["params"]} == {id(net[0].weight), id(net[3].weight)}
    assert (kernels["weight_decay"], others["weight_decay"], len(others["params"])) == (0.3, 0, 4)


@pytest.mark.parametrize(
    ("optimizer", "settings", "torchs"),
    [
        ("sgd", {"momentum": 0.9}, lambda p: torch.optim.SGD(p, 0.02, momentum=0.9, weight_decay=0.01)),
        ("adam", {}, lambda p: torch.optim.Adam(p, 0.02, weight_decay=0.01)),
        ("adamw", {"weight_decay": 0.0}, lambda p: torch.optim.AdamW(p, 0.02, weight_decay=0.0)),
    ],
)
def test_optimizers_are_those_of_torch(optimizer, settings, torchs):
    mine, other = network(), network()
    config = TrainConfig(**{"optimizer": optimizer, "learning_rate": 0.02, "weight_decay": 0.01, **settings})
    for net, made in ((mine, make_optimizer(mine, config)), (other, torchs(other.parameters()))):
        for step in range(5):
            learn(net, made, step)
    for a, b in zip(mine.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def history(decay, steps):
    """Train, and return the averaged network, the one in training, and all its parameters after each step."""
    net = network()
    average, optimizer, seen = AveragedNetwork(net, decay), torch.optim.SGD(net.parameters(), 0.1), []
    for step in range(steps):
        learn(net, optimizer, step)
        average.update(net)
        seen.append(nn.utils.parameters_to_vector(net.parameters()).detach().double())
    return average, net, seen


@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_the_average_is_its_formula(decay, steps):
    average, net, seen = history(decay, steps)
    shares = torch.tensor([decay ** (steps - 1 - i) for i in range(steps)], dtype=torch.float64)
    expected = (torch.stack(seen) * shares[:, None]).sum(0) / shares.sum()
    found = nn.utils.parameters_to_vector(average.network.parameters()).double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for mine, others in zip(average.network.buffers(), net.buffers(), strict=True):
        assert torch.equal(mine, others)
    assert not any(p.requires_grad for p in average.network.parameters())
    assert all(p.requires_grad for p in net.parameters())


@schedules
@pytest.mark.parametrize("optimizer", OPTIMIZER_NAMES)
@pytest.mark.parametrize("stop", [0, 1, 4])
def test_what_is_resumed_is_as_if_never_stopped(optimizer, schedule, stop):
    config = TrainConfig(optimizer=optimizer, schedule=schedule, steps=8, warmup=3, decay_every=1, learning_rate=0.05)

    def begin():
        net = network()
        optimizer = make_optimizer(net, config)
        return net, optimizer, make_scheduler(optimizer, config, epoch_steps=2), AveragedNetwork(net, 0.9)

    def train(parts, steps):
        net, optimizer, scheduler, average = parts
        for step in steps:
            learn(net, optimizer, step)
            scheduler.step()
            average.update(net)
        return [part.state_dict() for part in parts]

    states = train(begin(), range(stop))
    resumed = begin()
    for part, state in zip(resumed, states, strict=True):
        part.load_state_dict(state)
    (net, *_, average), (whole, *_, expected) = train(resumed, range(stop, 8)), train(begin(), range(8))
    for name in net:
        assert torch.equal(net[name], whole[name])
        assert torch.equal(average["network"][name], expected["network"][name])

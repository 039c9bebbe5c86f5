"""Memory that is taken and that is left."""

import numpy as np
import pytest
import torch

from unetcli.models import memory
from unetcli.models.memory import available_memory, rise_of_memory


def test_the_rise_of_memory_is_measured_while_a_function_runs():
    assert 50e6 < rise_of_memory(lambda: np.ones(10_000_000)) < 150e6


def test_where_the_system_does_not_tell_the_peak_of_the_process_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "missing")
    assert rise_of_memory(lambda: None) == 0


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"": ("max", 5)}, None),
        ({"": ("1000", 600)}, 400),
        ({"": ("1000", 1200)}, 0),
        ({"": ("900", 100), "job": ("max", 7), "job/step": ("500", 200)}, 300),
        ({"job": ("700", 100), "job/step": ("max", 100)}, 600),
        ({}, None),
    ],
    ids=["none", "own", "exceeded", "of the step", "of the job", "no files"],
)
def test_limits_of_containers_and_jobs_count(tmp_path, monkeypatch, limits, expected):
    monkeypatch.setattr(memory, "PROCESS", tmp_path)
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path / "groups")
    (tmp_path / "cgroup").write_text("5:cpu:/\n0::/job/step\n")
    for name, (limit, taken) in limits.items():
        folder = tmp_path / "groups" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{taken}\n")
    found = available_memory(torch.device("cpu"))
    assert found == expected if expected is not None else found > 1000

"""Memory that is taken and that is left."""

import numpy as np
import pytest

from unetcli import memory
from unetcli.memory import available_memory, rise_of_memory


def test_the_rise_of_memory_is_measured_while_a_function_runs():
    assert 50e6 < rise_of_memory(lambda: np.ones(10_000_000)) < 150e6


def test_where_the_system_does_not_tell_the_peak_of_the_process_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "missing")
    assert rise_of_memory(lambda: None) == 0


@pytest.mark.parametrize(
    ("said", "expected"),
    [("MemFree: 1 kB\nMemAvailable: 7 kB\n", 7168), ("MemTotal: 9 kB\n", None), (None, None)],
    ids=["said", "an old kernel", "no such file"],
)
def test_files_in_memory_count_as_free(tmp_path, monkeypatch, said, expected):
    monkeypatch.setattr(memory, "PROCESS", tmp_path)
    monkeypatch.setattr(memory, "MEMORY", tmp_path / "meminfo")
    if said is not None:
        (tmp_path / "meminfo").write_text(said)
    assert available_memory() == expected if expected else available_memory() > 10_000


GROUPS = {
    "none": ({"": ("max", 5, 0)}, None),
    "own": ({"": ("1000", 600, 0)}, 400),
    "exceeded": ({"": ("1000", 1200, 0)}, 0),
    "of the step": ({"": ("900", 100, 0), "job": ("max", 7, 0), "job/step": ("500", 200, 0)}, 300),
    "of the job": ({"job": ("700", 100, 0), "job/step": ("max", 100, 0)}, 600),
    "files are given up": ({"job": ("700", 600, 250)}, 350),
    "no files": ({}, None),
}


@pytest.mark.parametrize("version", [2, 1])
@pytest.mark.parametrize(("limits", "expected"), GROUPS.values(), ids=GROUPS)
def test_limits_of_containers_and_jobs_count(tmp_path, monkeypatch, limits, expected, version):
    groups = memory.VERSIONS[2 - version]._replace(root=tmp_path / "groups")
    monkeypatch.setattr(memory, "PROCESS", tmp_path)
    monkeypatch.setattr(memory, "VERSIONS", [groups])
    (tmp_path / "cgroup").write_text("5:cpu:/elsewhere\n4:memory:/job/step\n0::/job/step\n")
    for name, (most, held, in_files) in limits.items():
        folder = tmp_path / "groups" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / groups.limit).write_text(f"{most}\n")
        (folder / groups.taken).write_text(f"{held}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{groups.files} {in_files}\n")
    found = available_memory()
    assert found == expected if expected is not None else found > 10_000

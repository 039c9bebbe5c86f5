"""Which of several processes this one is, as `torchrun` or `srun` tell it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launch:
    """The place of this process among those that were started together.

    Parameters
    ----------
    rank, count
        Its number, 0 <= rank < count, and how many there are on all nodes.
    local_rank, local_count
        The same, of those on its node.
    by
        ``torchrun``, ``srun`` or, of a single process, ``itself``.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    by: str = "itself"


def read_launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Return the place of this process.

    Notes
    -----
    `torchrun` sets RANK. `srun` counts its tasks in SLURM_STEP_NUM_TASKS; SLURM_PROCID alone says nothing, for the
    shell of a batch job has it too, and SLURM_NTASKS is of the job, not of the step. Within `srun`, `torchrun` wins.
    """
    if "RANK" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, count, local_rank, local_count = (int(environment[name]) for name in names)
        return Launch(rank, count, local_rank, local_count, "torchrun")
    count = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    if count == 1:
        return Launch()
    tasks, node = _tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"]), int(environment["SLURM_NODEID"])
    return Launch(int(environment["SLURM_PROCID"]), count, int(environment["SLURM_LOCALID"]), tasks[node], "srun")


def _tasks_per_node(text: str) -> list[int]:
    """Spell out SLURM's ``2(x3),1``: 2, 2, 2, 1."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, nodes in found for _ in range(int(nodes or 1))]

"""The processes that train together: how they are started, what they add up, and how they end."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from unetcli.errors import ConfigError, DeviceError, UnetcliError
from unetcli.image.streaming import available_cpus
from unetcli.launch import Launch

T = TypeVar("T")

FIRST_PORT, N_PORTS = 12_000, 20_000
"""Where processes that `srun` started find each other: below the ports that systems give away by themselves."""


class Processes:
    """The processes that train together, one device each; a single one adds up nothing and asks nobody.

    Parameters
    ----------
    launch
        The place of this process among them.
    device
        What it computes on.
    precision
        ``float32`` or ``bfloat16``.

    Notes
    -----
    Numbers of the device are summed on the device (nccl, gloo). What the hosts agree on (to stop, where to go on)
    goes by a group of its own over gloo, so that nobody waits for a GPU.
    """

    def __init__(self, launch: Launch, device: torch.device, precision: str) -> None:
        for name in ("lightning_fabric", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)  # the device was said already
        self.rank, self.count = launch.rank, launch.count
        self.device, self.precision = device, precision
        several: dict[str, Any] = {"plugins": LightningEnvironment()}  # asks SLURM nothing
        if self.count > 1:
            _tell_environment(launch)
            several = {
                "strategy": DDPStrategy(
                    # Fabric picks by local rank, and wants one for each process: of whatever node.
                    parallel_devices=[device] * self.count,
                    cluster_environment=TorchElasticEnvironment(),
                    process_group_backend="nccl" if device.type == "cuda" else "gloo",
                )
            }
        self.fabric = Fabric(
            accelerator=device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision="bf16-mixed" if precision == "bfloat16" else "32-true",
            **several,
        )
        self.hosts: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Meet the others, and part from them; of an error that ends all, one process speaks.

        The first that fails says why. The others see it leave, and end without a word and with its exit code.
        """
        if self.count == 1:
            yield
            return
        self.fabric.launch()
        self.hosts = dist.new_group(backend="gloo")
        try:
            yield
        except UnetcliError as error:
            error.is_spoken = self._speaks_first()
            raise
        except Exception as error:
            if not isinstance(error, RuntimeError) or not _is_lost_connection(error):
                self._speaks_first()
                raise
            lost = UnetcliError(
                f"process {self.rank}: another of the {self.count} processes has ended; the last checkpoint is kept",
                fix="run the same command again: it continues from there",
            )
            lost.is_spoken = self._speaks_first()
            raise lost from error
        finally:
            dist.destroy_process_group()

    def _speaks_first(self) -> bool:
        try:
            return int(dist.distributed_c10d._get_default_store().add("unetcli/failed", 1)) == 1
        except RuntimeError:  # the process that keeps the store has left: it has spoken
            return False

    def setup(self, network: nn.Module, optimizer: torch.optim.Optimizer, *, compiled: bool) -> tuple[Any, Any]:
        """Return what passes forward and backward go through, and the optimizer; `network` keeps its names."""
        passes: Any = torch.compile(network) if compiled else network
        wrapped, optimizer = self.fabric.setup(passes, optimizer)
        return wrapped, optimizer

    def sum(self, values: Tensor) -> Tensor:
        """Add up numbers of the device over the processes."""
        return values if self.count == 1 else self.fabric.all_reduce(values, reduce_op="sum")

    def gather(self, value: T) -> list[T]:
        """Return what each of the processes has, in order, to all of them."""
        if self.hosts is None:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value, group=self.hosts)
        return values

    def any(self, statement: bool) -> bool:
        """Tell whether a statement holds in one of the processes at least."""
        if self.hosts is None:
            return statement
        holds = torch.tensor(int(statement))
        dist.all_reduce(holds, group=self.hosts)
        return bool(holds)

    def from_first(self, value: T) -> T:
        """Return what the first process has."""
        if self.hosts is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0, group=self.hosts)
        return values[0]

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return the part of this process of what all do."""
        return items[self.rank :: self.count]

    def same_buffers(self, network: nn.Module) -> None:
        """Take the running means of normalizations from the first process."""
        if self.count > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, src=0)

    def without_sum(self, passes: nn.Module, *, enabled: bool) -> AbstractContextManager[None]:
        """Leave gradients unsummed for now: of the parts of a step but the last."""
        return self.fabric.no_backward_sync(passes, enabled=enabled and self.count > 1)  # type: ignore[no-any-return]


def _is_lost_connection(error: RuntimeError) -> bool:
    """Tell whether an error says that another process has left, in the words of gloo or nccl."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "closed by peer"))


def _tell_environment(launch: Launch) -> None:
    """Tell torch about tasks of `srun` what `torchrun` would have told it."""
    if launch.by != "srun":
        return
    job, step = (int(os.environ[name]) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    names = {
        "RANK": launch.rank, "WORLD_SIZE": launch.count,
        "LOCAL_RANK": launch.local_rank, "LOCAL_WORLD_SIZE": launch.local_count,
    }  # fmt: skip
    os.environ.update({name: str(value) for name, value in names.items()})
    nodes = os.environ["SLURM_STEP_NODELIST"]
    os.environ.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
    os.environ.setdefault("MASTER_PORT", str(FIRST_PORT + (16 * job + step) % N_PORTS))


def allotted_cpus(launch: Launch) -> int:
    """Return the processors for this process: those of its SLURM task, or its share of those of all on the node."""
    by_task = launch.by == "srun" and "SLURM_CPUS_PER_TASK" in os.environ
    return available_cpus() if by_task else max(1, available_cpus() // launch.local_count)


def device_name(launch: Launch, name: str) -> str:
    """Return the name of the device of this process: of several on a node, each has a GPU of its own.

    Raises
    ------
    ConfigError, DeviceError
        If one device is named for all, or there are too few.
    """
    if launch.count == 1 or name == "cpu" or not torch.cuda.is_available():
        return name
    if name not in ("auto", "cuda"):
        raise ConfigError(
            f"--device {name}: is one device, and there are {launch.count} processes", fix="--device auto"
        )
    seen = torch.cuda.device_count()
    if 1 < seen < launch.local_count:
        raise DeviceError(
            f"--device {name}: {launch.local_count} processes on this node, and {seen} CUDA devices",
            fix=f"start {seen} processes on each node",
        )
    return f"cuda:{launch.local_rank if seen > 1 else 0}"  # where each task sees its own one only, that is number 0


def check_batch(batch_size: int, accumulate: int, count: int) -> None:
    """Refuse a batch that does not part evenly among the processes, and each share into the parts of a step."""
    parts = count * accumulate
    if batch_size % parts:
        more = -(-batch_size // parts) * parts
        raise ConfigError(
            f"--batch-size {batch_size}: does not part evenly into {count} processes x --accumulate {accumulate}",
            fix=f"--batch-size {more}",
        )

"""The device that a network runs on."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shutil

import torch

from unetcli.errors import DeviceError

logger = logging.getLogger(__name__)

LAYOUTS = {
    ("channels_first", 2): torch.contiguous_format,
    ("channels_first", 3): torch.contiguous_format,
    ("channels_last", 2): torch.channels_last,
    ("channels_last", 3): torch.channels_last_3d,
}
"""Order of the pixels in memory, by its name and the number of axes."""


def choose_precision(name: str, device: torch.device) -> str:
    """Return ``bfloat16`` or ``float32``; ``auto`` takes bfloat16 where the device is made for it, and says so."""
    if name == "auto":
        name = "bfloat16" if has_fast_bfloat16(device) else "float32"
        logger.info("precision: %s", name)
    return name


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 faster than float32: CUDA from Ampere on, CPUs with instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if not hasattr(torch.cpu, "get_capabilities"):  # an older release of torch can not tell
        return False
    return any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def choose_layout(device: torch.device, precision: str, norm: str) -> str:
    """Return in which order pixels lie in memory where a network is trained: ``channels_last`` or ``channels_first``.

    Notes
    -----
    Tensor cores of CUDA devices want the channels last, and so do the vector instructions AVX-512 of a CPU: a step in
    float32 is faster so by 5 to 20 %, one in bfloat16 by up to 15 %. With AVX2 float32 is slower so, by up to 65 % on
    large tiles. Group and instance normalization on a CPU are slower with channels last by up to 50 %.
    """
    if device.type == "cuda":
        return "channels_last"
    wide = precision == "bfloat16" or torch.backends.cpu.get_cpu_capability() == "AVX512"
    return "channels_last" if wide and norm in ("none", "batch") else "channels_first"


def pays_to_compile(device: torch.device) -> bool:
    """Tell whether to compile a network for training: on CUDA, where Triton and the C++ compiler it needs are there."""
    return device.type == "cuda" and has_compiler(device)


def has_compiler(device: torch.device) -> bool:
    """Tell whether there is what it takes to compile a network: a C++ compiler, and on CUDA Triton."""
    compilers = (os.environ.get("CXX", "c++"), "g++", "clang++")
    return any(shutil.which(compiler) for compiler in compilers) and (
        device.type != "cuda" or importlib.util.find_spec("triton") is not None
    )


def choose_device(name: str) -> torch.device:
    """Return the device of a name: ``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes CUDA where there is one.

    Raises
    ------
    DeviceError
        If a device is asked for that is not there. ``auto`` never fails: it says what it takes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        logger.info("device: %s", torch.cuda.get_device_name() if name == "cuda" else "cpu (no CUDA device found)")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise DeviceError(f"--device {name}: is not a device; expected auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"--device {name}: there are {torch.cuda.device_count()} CUDA devices",
            fix="--device cpu, or auto",
        )
    return device


def choose_devices(names: str) -> tuple[torch.device, ...]:
    """Return the devices of a list of names: ``cuda:0,cuda:1``, or ``cuda:all``; see `choose_device`.

    Raises
    ------
    DeviceError
        If one is not there, or they are of different kinds: their results would not be the same.
    """
    if names == "cuda:all":
        names = ",".join(f"cuda:{k}" for k in range(max(1, torch.cuda.device_count())))
    devices = tuple(choose_device(name.strip()) for name in names.split(","))
    if len({device.type for device in devices}) > 1:
        raise DeviceError(f"--device {names}: are of different kinds; expected CUDA devices, or the CPU alone")
    if devices[0].type == "cuda" and len(set(devices)) < len(devices):
        raise DeviceError(f"--device {names}: names one twice")
    return devices

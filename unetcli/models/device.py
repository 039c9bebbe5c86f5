"""The device that a network runs on."""

from __future__ import annotations

import logging
import re

import torch

from unetcli.errors import DeviceError

logger = logging.getLogger(__name__)


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

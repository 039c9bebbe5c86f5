"""Memory of a device: how much can be had, and how it is told that it is used up."""

from __future__ import annotations

import torch

from unetcli import memory


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory of the device, or of the host, is used up."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error)
        for words in ("not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")
    )


def available_memory(device: torch.device) -> int:
    """Return the bytes of a device that are free; where the system does not tell, a great many."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory.available_memory()

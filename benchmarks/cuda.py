"""The presets on a CUDA device: training steps and prediction per second; ready for a machine that has one."""

from __future__ import annotations

import time

import torch

from benchmarks.machine import describe
from unetcli.config import PRESETS, with_preset
from unetcli.models import build_model
from unetcli.models.geometry import geometry_of
from unetcli.models.losses import weighted_cross_entropy

STEPS = 30


def run() -> None:
    """Print images per second of a training step and of a forward pass, for each preset."""
    print(describe())
    if not torch.cuda.is_available():
        print("no CUDA device: nothing to measure")
        return
    for preset in PRESETS:
        step, forward = _rates(preset)
        print(f"{preset:>8}: {step:8.1f} patches/s in training, {forward:8.1f} patches/s forward, bf16")


def _rates(preset: str) -> tuple[float, float]:
    config = with_preset(preset)
    parameters = {
        "ndim": 2, "channels": 1, "classes": 2, "features": list(config.feature_list), "padding": config.padding,
        "norm": config.norm, "skip": config.skip, "dropout": config.dropout,
    }  # fmt: skip
    margin = geometry_of(config.arch, parameters).margin
    network = build_model(config.arch, parameters).cuda()
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    n, size, out = config.batch_size, config.patch_size, config.patch_size - 2 * margin
    image = torch.randn(n, 1, size, size, device="cuda")
    target = torch.randint(2, (n, out, out), device="cuda")
    weights = torch.rand(n, out, out, device="cuda")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            logits = network(image)
        weighted_cross_entropy(logits.float(), target, weights).backward()
        optimizer.step()

    def forward() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            network(image)

    return n / _seconds(step), n / _seconds(forward)


def _seconds(function: object) -> float:
    assert callable(function)
    for _ in range(5):
        function()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS):
        function()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / STEPS

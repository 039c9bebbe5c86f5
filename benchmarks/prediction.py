"""Prediction end to end, beside bare passes of its tiles, MONAI, nnU-Net's way, and the rate of a matrix product."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import Timing, describe, interleaved, named, table
from unetcli.config import PredictConfig, PrepConfig
from unetcli.image.levels import Subject
from unetcli.image.source import read_mirrored
from unetcli.image.store import open_store
from unetcli.image.tiling import Box
from unetcli.models import build_model
from unetcli.models.checkpoint import ModelHeader, save_model
from unetcli.models.geometry import geometry_of
from unetcli.prediction.predictor import Predictor
from unetcli.stages import prep, tile_predict


@dataclass(frozen=True)
class Case:
    """A network, an image, and how often it is measured.

    Parameters
    ----------
    features
        Channels of each level.
    size
        Extent of the image along y and x, pixels.
    rounds
        Whose medians count.
    peers
        Whether others are measured, too.
    """

    features: tuple[int, ...]
    size: int
    rounds: int = 3
    peers: bool = True


LIGHT, PAPER = (16, 32, 64, 128, 256), (64, 128, 256, 512, 1024)
CASES = {
    "cpu": {"16 channels": Case(LIGHT, 4096), "the paper's": Case(PAPER, 1024, rounds=1)},
    "cuda": {"16 channels": Case(LIGHT, 16384), "the paper's": Case(PAPER, 16384)},
}
ENGINES = {"cpu": ("torch", "onnxruntime", "openvino"), "cuda": ("torch", "compiled")}
WINDOW = 512
"""Of the peers, pixels."""
SAMPLE = 8
"""Windows of nnU-Net that are measured, of hundreds."""
PRODUCT = {"cpu": 3072, "cuda": 16384}
DENSE = 16384
"""A pass of so many pixels has hardly any context: what a pixel costs at least."""


def run() -> None:
    """Print a table for each network, on CUDA where there is a device, else on the CPU."""
    print(describe(), "; ".join(named(package) for package in ("monai", "onnxruntime", "openvino")), sep="; ")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, case in CASES[device].items():
        with tempfile.TemporaryDirectory() as folder:
            _compare(name, case, Path(folder), device)


def _compare(name: str, case: Case, folder: Path, device: str) -> None:
    model, image = _model(folder, case.features), _image(folder, case.size)
    size, names = PRODUCT[device], [e for e in ENGINES[device] if e in ("torch", "compiled") or _is_there(e)]
    predictors = {engine: _predictor(model, image, engine, device) for engine in names}
    flops = {engine: _flops(case.features, p) for engine, p in predictors.items()}
    _check(image, folder / "checked.zarr", model, device)
    functions: dict[str, Callable[[], object]] = {}
    for engine, predictor in predictors.items():
        functions[f"tile-predict, {engine}"] = partial(_ours, image, folder, model, predictor, device)
        functions[f"bare passes of its tiles, {engine}"] = partial(_bare, predictor, image)
    dtype = torch.bfloat16 if predictors["torch"].choices["precision"] == "bfloat16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    functions["matrix product"] = lambda: (a @ b, _wait())
    if case.peers:
        functions |= _peers(case, device, dtype)
    timings = interleaved(functions, rounds=case.rounds)
    product = 2 * size**3 / timings.pop("matrix product").wall
    timings = {name: _whole(name, timing, case.size) for name, timing in timings.items()}
    table(f"{name}, {case.size} squared", timings, case.size**2 / 1e6)
    print(f"matrix product {product / 1e12:.3g} TFLOP/s in {str(dtype).removeprefix('torch.')}")
    for engine, predictor in predictors.items():
        ours, bare = (timings[f"{what}, {engine}"].wall for what in ("tile-predict", "bare passes of its tiles"))
        done, least = (case.size**2 * n for n in flops[engine])
        core = "x".join(map(str, predictor.step))
        print(f"{engine}: core {core}, end to end {bare / ours:.3f} of the bare passes")
        print(f"{engine}: bare passes {done / bare / product:.3f} of the matrix product")
        print(f"{engine}: {done / least:.3f} times the arithmetic of a dense pass")
        if device == "cuda":
            busy = _busy(functions[f"tile-predict, {engine}"])
            print(f"{engine}: the device computes {busy:.3f} of the time")


def _ours(image: Path, folder: Path, model: Path, predictor: Predictor, device: str) -> None:
    config = PredictConfig(engine=predictor.engine_name)
    tile_predict.run(image, folder / "mask.zarr", config, model=model, device=device, overwrite=True)


def _bare(predictor: Predictor, image: Path) -> None:
    """Run the network as often as its tiles need it, and do nothing else."""
    engine, subjects = predictor.engines[0], [Subject.of(i, 0, "none") for i in open_store(image).images]
    size = predictor.read_sizes(predictor.step)
    tiles = torch.randn(engine.batch, 1, *size, device=engine.device)
    with torch.inference_mode(), torch.autocast(engine.device.type, torch.bfloat16, engine.precision == "bfloat16"):
        for _ in range(-(-predictor.count_tiles(subjects) // engine.batch)):
            engine.network(tiles)
    _wait()


def _flops(features: tuple[int, ...], predictor: Predictor) -> tuple[float, float]:
    """Return the operations of a pixel: in tiles of the predictor, and in one dense pass."""
    tile = predictor.read_sizes(predictor.step)[0]
    return _per_pixel(features, tile, predictor.step[0]), _per_pixel(features, DENSE + 12, DENSE + 12 - 184)


def _per_pixel(features: tuple[int, ...], size: int, out: int) -> float:
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        build_model("unet", _parameters(features, "valid"))(torch.empty(1, 1, size, size))
    return float(counter.get_total_flops()) / out**2


def _busy(function: Callable[[], object]) -> float:
    """Return the share of the time in which kernels run on the device; copies do not count."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        start = time.perf_counter()
        function()
        _wait()
        seconds = time.perf_counter() - start
    kernels = [e for e in profile.key_averages() if not e.key.startswith(("Memcpy", "Memset"))]
    return sum(kernel.self_device_time_total for kernel in kernels) / 1e6 / seconds


# ------------------------------------------------------------------------------------------- peers


def _peers(case: Case, device: str, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """Return what others do with a padded network of the same width, each with the channels last."""
    network = build_model("unet", _parameters(case.features, "same")).eval().to(device)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.randn(1, 1, case.size, case.size, device=device)
    found: dict[str, Callable[[], object]] = {}
    if _is_there("monai"):
        for overlap, mode in ((0.25, "constant"), (0.5, "gaussian")):
            found[f"MONAI, overlap {overlap}, {mode}"] = partial(_monai, image, network, overlap, mode, dtype)
    found["nnU-Net's way: half overlap, Gaussian, mirrored"] = partial(_nnunet, image, network, dtype)
    return found


def _monai(image: Tensor, network: nn.Module, overlap: float, mode: str, dtype: torch.dtype) -> Tensor:
    from monai.inferers import SlidingWindowInferer

    batch = 1 if image.device.type == "cpu" else 8
    inferer = SlidingWindowInferer(WINDOW, sw_batch_size=batch, overlap=overlap, mode=mode)
    with torch.inference_mode(), _mixed(image, dtype):
        return inferer(image, network).argmax(1).to(torch.uint8).cpu()  # type: ignore[union-attr, no-any-return]


def _nnunet(image: Tensor, network: nn.Module, dtype: torch.dtype) -> None:
    """Add up logits of windows that overlap by half, of four mirror images each, weighted by a Gaussian."""
    size = image.shape[-1]
    along = np.linspace(0, size - WINDOW, _windows(size)).round().astype(int)
    line = torch.exp(-0.5 * ((torch.arange(WINDOW, device=image.device) - (WINDOW - 1) / 2) / (WINDOW / 8)) ** 2)
    gauss, total = line[:, None] * line, torch.zeros(2, size, size, device=image.device)
    weight = torch.zeros(size, size, device=image.device)
    with torch.inference_mode(), _mixed(image, dtype):
        for y, x in [(y, x) for y in along for x in along][:SAMPLE]:
            window = image[..., y : y + WINDOW, x : x + WINDOW]
            logits = torch.zeros(2, WINDOW, WINDOW, device=image.device)
            for axes in ((), (-1,), (-2,), (-2, -1)):
                logits += network(window.flip(axes))[0].flip(axes).float()
            total[:, y : y + WINDOW, x : x + WINDOW] += gauss * logits / 4
            weight[y : y + WINDOW, x : x + WINDOW] += gauss
    _wait()


def _windows(size: int) -> int:
    """Return how many windows nnU-Net takes along an axis."""
    return -(-max(size - WINDOW, 0) // (WINDOW // 2)) + 1


def _whole(name: str, timing: Timing, size: int) -> Timing:
    """Extrapolate what was measured in part."""
    n = _windows(size) ** 2
    return timing.times(n / SAMPLE) if name.startswith("nnU-Net") and n > SAMPLE else timing


def _mixed(image: Tensor, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(image.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


# ------------------------------------------------------------------------------------------- what it is done with


def _parameters(features: tuple[int, ...], padding: str) -> dict[str, object]:
    return {
        "ndim": 2, "channels": 1, "classes": 2, "features": list(features), "padding": padding, "norm": "none",
        "skip": "concat", "dropout": 0.0,
    }  # fmt: skip


def _model(folder: Path, features: tuple[int, ...]) -> Path:
    torch.manual_seed(0)
    parameters = _parameters(features, "valid")
    header = ModelHeader(
        "unet", parameters, geometry_of("unet", parameters), ("background", "object"), 1, (128.0,), (40.0,),
        {"unit": None}, {"version": "benchmark"},
    )  # fmt: skip
    save_model(folder / "model.safetensors", build_model("unet", parameters).state_dict(), header)
    return folder / "model.safetensors"


def _image(folder: Path, size: int) -> Path:
    """Write an image of noise that is smooth over a few pixels."""
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, size, size), np.float32))
    smooth = torch.nn.functional.avg_pool2d(pad(noise, (2, 2, 2, 2), mode="reflect"), 5, stride=1)
    np.save(folder / "image.npy", (128 + 200 * smooth[0, 0]).clamp(0, 255).to(torch.uint8).numpy())
    prep.run([folder / "image.npy"], folder / "image.zarr", PrepConfig())
    return folder / "image.zarr"


def _predictor(model: Path, image: Path, engine: str, device: str) -> Predictor:
    predictor = Predictor.load(model, PredictConfig(engine=engine), device)
    predictor.choose_tile([Subject.of(i, 0, "none") for i in open_store(image).images])
    return predictor


def _check(image: Path, out: Path, model: Path, device: str) -> None:
    """Compare a part of the mask, from the corner on, with one pass through the network."""
    tile_predict.run(image, out, PredictConfig(precision="float32"), model=model, device=device)
    level, n = open_store(image).images[0].level, 256
    n = min(n, *level.shape[-2:])
    predictor = Predictor.load(model, PredictConfig(precision="float32"), device)
    box = Box((0,) * 5, (1, 1, 1, n, n))
    step = [-(-n // axis.stride) * axis.stride for axis in predictor.geometry.axes]
    found = predictor.predict(box, read_mirrored(level, predictor.read_box(box, 1, step)), step)
    mask = open_store(out).images[0].level.read(box)[0, 0, 0]
    differing = int((mask != found[0, :, 0].argmax(0)).sum())
    if differing > n * n // 1000:
        raise AssertionError(f"{differing} of {n * n} pixels differ from one pass")


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

"""The device asked for is the one taken, or an error."""

import logging

import pytest
import torch

from unetcli.errors import DeviceError
from unetcli.models.device import (
    choose_device,
    choose_devices,
    choose_layout,
    choose_precision,
    has_fast_bfloat16,
    pays_to_compile,
)


@pytest.fixture
def devices(monkeypatch):
    """Pretend that there are so many CUDA devices."""

    def pretend(n):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "A Fine Device")

    return pretend


@pytest.mark.parametrize(
    ("n", "name", "expected"),
    [
        (0, "cpu", "cpu"),
        (0, "auto", "cpu"),
        (1, "auto", "cuda"),
        (1, "cpu", "cpu"),
        (1, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_is_taken(devices, n, name, expected):
    devices(n)
    assert choose_device(name) == torch.device(expected)


@pytest.mark.parametrize(("n", "said"), [(0, "cpu (no CUDA device found)"), (1, "A Fine Device")])
def test_auto_says_what_it_takes(devices, caplog, n, said):
    devices(n)
    with caplog.at_level(logging.INFO, "unetcli"):
        choose_device("auto")
    assert caplog.messages == [f"device: {said}"]


@pytest.mark.parametrize(("n", "name"), [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1"), (2, "cuda:7")])
def test_a_cuda_device_that_is_not_there_is_an_error_never_the_cpu(devices, n, name):
    devices(n)
    with pytest.raises(DeviceError, match=f"--device {name}: there are {n} CUDA devices") as caught:
        choose_device(name)
    assert "--device cpu" in caught.value.fix


@pytest.mark.parametrize("name", ["", "gpu", "CUDA", "cuda:x", "cuda:-1", "0", "meta", "xla"])
def test_what_is_no_device_is_refused(devices, name):
    devices(1)
    with pytest.raises(DeviceError, match="expected auto, cpu, cuda or cuda:N"):
        choose_device(name)


@pytest.mark.parametrize(
    ("asked", "is_fast", "expected"),
    [
        ("auto", True, "bfloat16"),
        ("auto", False, "float32"),
        ("float32", True, "float32"),
        ("bfloat16", False, "bfloat16"),
    ],
)
def test_precision_is_that_of_the_device_unless_asked_for(monkeypatch, asked, is_fast, expected):
    monkeypatch.setattr("unetcli.models.device.has_fast_bfloat16", lambda _: is_fast)
    assert choose_precision(asked, torch.device("cpu")) == expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_bfloat16_is_fast_from_ampere_on(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert has_fast_bfloat16(torch.device("cuda")) == expected


@pytest.mark.parametrize(
    ("device", "capability", "precision", "norm", "expected"),
    [
        ("cuda", "AVX2", "bfloat16", "group", "channels_last"),
        ("cuda", "AVX2", "float32", "batch", "channels_last"),
        ("cpu", "AVX2", "float32", "batch", "channels_first"),
        ("cpu", "AVX512", "float32", "batch", "channels_last"),
        ("cpu", "AVX512", "float32", "group", "channels_first"),
        ("cpu", "AVX2", "bfloat16", "batch", "channels_last"),
        ("cpu", "AVX2", "bfloat16", "none", "channels_last"),
        ("cpu", "AVX512", "bfloat16", "group", "channels_first"),
    ],
)
def test_the_layout_in_which_a_step_is_fast(monkeypatch, device, capability, precision, norm, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert choose_layout(torch.device(device), precision, norm) == expected


@pytest.mark.parametrize(
    ("device", "triton", "compiler", "expected"),
    [
        ("cuda", True, True, True),
        ("cuda", False, True, False),
        ("cuda", True, False, False),
        ("cpu", True, True, False),
    ],
)
def test_networks_are_compiled_where_it_pays_and_can_be_done(monkeypatch, device, triton, compiler, expected):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if triton else None)
    monkeypatch.setattr("shutil.which", lambda name: name if compiler else None)
    assert pays_to_compile(torch.device(device)) == expected


@pytest.mark.parametrize(
    ("names", "n_cuda", "expected"),
    [
        ("cpu", 0, ["cpu"]),
        ("cpu,cpu", 0, ["cpu", "cpu"]),
        ("cuda:0,cuda:1", 2, ["cuda:0", "cuda:1"]),
        ("cuda:1, cuda:0", 2, ["cuda:1", "cuda:0"]),
        ("cuda:all", 3, ["cuda:0", "cuda:1", "cuda:2"]),
    ],
    ids=str,
)
def test_several_devices(monkeypatch, names, n_cuda, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_cuda)
    assert choose_devices(names) == tuple(map(torch.device, expected))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cuda:all", "there are 0"),
        ("cpu,cuda:0", "0 CUDA devices"),
        ("cpu,", "is not a device"),
        ("all", "is not a device"),
    ],
)
def test_several_devices_of_which_one_can_not_be(names, message):
    with pytest.raises(DeviceError, match=message):
        choose_devices(names)


@pytest.mark.parametrize(
    ("names", "message"), [("cpu,cuda:0", "of different kinds"), ("cuda:0,cuda:0", "names one twice")]
)
def test_devices_that_do_not_go_together(monkeypatch, names, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match=message):
        choose_devices(names)

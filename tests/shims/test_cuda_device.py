"""torch.cuda: which device there is, what it is like, and which is current."""

from __future__ import annotations

import os
import re

import pytest
import torch

import torchdevice_mode
from torchdevice_mode.errors import UnsupportedByTargetError

pytestmark = pytest.mark.usefixtures("redirected")

DEVICES = [None, 0, "cuda", "cuda:0", "cuda:3"]


def test_there_is_one_device_and_it_is_ready():
    assert torch.cuda.is_available() is True
    assert torch.cuda.device_count() == 1
    assert torch.cuda.current_device() == 0
    assert torch.cuda.is_initialized() is True
    assert torch.cuda._is_in_bad_fork() is False


def asks(module):
    """What code in a module of that name finds."""
    code = "torch.cuda.is_available(), torch.cuda.device_count()"
    return eval(code, {"__name__": module, "torch": torch})


@pytest.mark.parametrize(
    "module",
    [
        "bitsandbytes.cextension",
        "torch._dynamo.device_interface",
        "torch._inductor.utils",
        "torch.accelerator",
        "triton.backends.nvidia.driver",
    ],
)
def test_who_generates_or_loads_code_for_a_gpu_is_told_the_truth(module):
    with torchdevice_mode.native():
        plain = asks(module)
    assert asks(module) == plain


@pytest.mark.parametrize(
    "module", ["__main__", "torch._dynamo.utils", "triton_kernels", "bitsandbytes_cuda", None]
)
def test_all_others_find_one_device(module):
    assert asks(module) == (True, 1)


def test_torch_still_says_how_it_was_built():
    said = torch.version.cuda
    with torchdevice_mode.native():
        assert said == torch.version.cuda


@pytest.mark.parametrize("device", DEVICES)
def test_properties_are_the_machines(device):
    properties = torch.cuda.get_device_properties(device)
    assert properties.total_memory > 2**28
    assert properties.multi_processor_count >= 1
    assert (properties.major, properties.minor) == torch.cuda.get_device_capability(device)
    assert properties.name == torch.cuda.get_device_name(device)
    assert "via torchdevice" in properties.name


# The fields of torch 2.11 and 2.13, from the classes that their CUDA builds have.
FIELDS = {
    str: ["name", "gcnArchName"],
    int: [
        "L2_cache_size", "clock_rate", "is_integrated", "is_multi_gpu_board", "major",
        "max_threads_per_block", "max_threads_per_multi_processor", "memory_bus_width",
        "memory_clock_rate", "minor", "multi_processor_count", "pci_bus_id", "pci_device_id",
        "pci_domain_id", "regs_per_multiprocessor", "shared_memory_per_block",
        "shared_memory_per_block_optin", "shared_memory_per_multiprocessor", "total_memory",
        "warp_size",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "kind"), [(field, kind) for kind, fields in FIELDS.items() for field in fields]
)
def test_properties_have_cudas_fields(field, kind):
    properties = torch.cuda.get_device_properties(0)
    assert type(getattr(properties, field)) is kind
    with pytest.raises(AttributeError):
        setattr(properties, field, getattr(properties, field))


def test_properties_have_every_field_that_this_torch_declares():
    real = getattr(torch._C, "_CudaDeviceProperties", None)
    declared = {n for n in dir(real) if not n.startswith("_")} if real else set()
    assert declared <= set(dir(torch.cuda.get_device_properties(0)))


def test_the_number_of_a_device_is_the_same_each_time():
    number = torch.cuda.get_device_properties(0).uuid
    assert str(number) == str(torch.cuda.get_device_properties("cuda").uuid)
    assert bytes(number.bytes).hex() == str(number).replace("-", "")


def test_properties_print_like_cudas():
    text = repr(torch.cuda.get_device_properties(0))
    assert re.fullmatch(
        r"_CudaDeviceProperties\(name='.+', major=\d+, minor=\d+, total_memory=\d+MB, "
        r"multi_processor_count=\d+, uuid=[0-9a-f-]{36}, pci_bus_id=\d+, pci_device_id=\d+, "
        r"pci_domain_id=\d+, L2_cache_size=\d+MB\)",
        text,
    )
    assert type(torch.cuda.get_device_properties(0)).__name__ == "_CudaDeviceProperties"


@pytest.mark.parametrize("device", [1, 99, -1])
def test_properties_of_an_absent_device_fail_as_on_cuda(device):
    with pytest.raises(AssertionError, match="Invalid device id"):
        torch.cuda.get_device_properties(device)


def test_bfloat16_is_supported_where_it_computes():
    one = torch.ones(2, 2, dtype=torch.bfloat16, device="cuda")
    assert torch.cuda.is_bf16_supported() is ((one @ one).sum().item() == 8.0)


@pytest.mark.parametrize("device", [0, "cuda:0", "cuda:1", -1])
def test_a_device_can_be_selected(device):
    torch.cuda.set_device(device)
    with torch.cuda.device(device):
        assert torch.cuda.current_device() == 0


def test_a_tensors_device_can_be_selected():
    x = torch.ones(2, device="cuda")
    torch.cuda.set_device(x.device)
    with torch.cuda.device(x.device), torch.cuda.device_of(x), torch.cuda.device(None):
        assert torch.cuda.get_device_name(x.device)


@pytest.mark.parametrize("select", [torch.cuda.set_device, lambda i: torch.cuda.device(i)])
def test_selecting_an_absent_device_fails_as_on_cuda(select):
    del select
    with pytest.raises(RuntimeError, match="CUDA error: invalid device ordinal"):
        torch.cuda.set_device(99)
    with (
        pytest.raises(RuntimeError, match="CUDA error: invalid device ordinal"),
        torch.cuda.device(99),
    ):
        pass


NOT_DEVICES = {
    "set_device": [("cuda", ValueError), (None, ValueError), (object(), ValueError)],
    "synchronize": [("meta", ValueError), ("cudaa", RuntimeError), (99, RuntimeError)],
    "get_device_name": [("meta", ValueError), ("cuda:x", RuntimeError), (1, AssertionError)],
    "get_device_capability": [(torch.device("meta"), ValueError), (-2, AssertionError)],
    "memory_allocated": [("meta", ValueError), (99, RuntimeError), (-1, RuntimeError)],
    "mem_get_info": [("meta", ValueError), (99, RuntimeError)],
    "utilization": [("meta", ValueError), (99, RuntimeError)],
    "list_gpu_processes": [(99, RuntimeError)],
}
"""What CUDA raises for what is no device, read off torch's sources."""


@pytest.mark.parametrize(
    ("name", "wrong", "error"),
    [(name, *row) for name, rows in NOT_DEVICES.items() for row in rows],
)
def test_what_is_no_device_is_refused_as_on_cuda(name, wrong, error):
    with pytest.raises(error) as caught:
        getattr(torch.cuda, name)(wrong)
    assert caught.type in (error, torch.AcceleratorError)


@pytest.mark.parametrize("name", ["synchronize", "get_device_name", "memory_allocated"])
def test_what_has_nothing_of_a_device_is_the_current_one_as_on_cuda(name):
    getattr(torch.cuda, name)(object())


def test_the_cpu_is_no_cuda_device_where_another_is(target):
    if target.type == "cpu":
        torch.cuda.synchronize("cpu")
        return
    with pytest.raises(ValueError, match="Expected a cuda device, but got: cpu"):
        torch.cuda.synchronize("cpu")


@pytest.mark.parametrize("device", DEVICES)
def test_synchronising_waits_for_the_target(device):
    x = torch.ones(64, 64, device="cuda")
    y = x @ x
    torch.cuda.synchronize(device)
    assert y[0, 0].item() == 64.0


def test_there_is_no_peer():
    assert torch.cuda.can_device_access_peer(0, 0) is False
    with pytest.raises(AssertionError, match="Invalid peer device id"):
        torch.cuda.can_device_access_peer(0, 1)


def test_the_module_of_the_device_is_torch_cuda():
    x = torch.ones(1, device="cuda")
    assert torch.get_device_module("cuda") is torch.cuda
    assert torch.get_device_module(x.device) is torch.cuda
    assert torch.get_device_module() is torch.cuda


def test_the_runtime_counts_memory_and_starts_profilers():
    runtime = torch.cuda.cudart()
    torch.cuda.check_error(runtime.cudaProfilerStart())
    torch.cuda.check_error(runtime.cudaProfilerStop())
    free, total = runtime.cudaMemGetInfo(0)
    assert 0 < free <= total
    with pytest.raises(RuntimeError):
        torch.cuda.check_error(1)


@pytest.mark.parametrize("name", ["utilization", "memory_usage"])
def test_what_nvidia_smi_would_say_in_percent(name):
    found = getattr(torch.cuda, name)()
    assert type(found) is int and 0 <= found <= 100


def test_the_memory_in_use_is_a_part_of_all():
    used = torch.cuda.device_memory_used()
    assert type(used) is int and 0 < used < torch.cuda.mem_get_info()[1]


@pytest.mark.parametrize("name", ["temperature", "power_draw", "clock_rate"])
def test_what_cannot_be_measured_is_no_number(name):
    try:
        found = getattr(torch.cuda, name)()
    except UnsupportedByTargetError as error:
        assert f"torch.cuda.{name} does not work on" in str(error)
    else:
        assert type(found) is int and found > 0


def test_this_process_is_listed_with_its_memory():
    first, second = torch.cuda.list_gpu_processes().splitlines()
    assert first == "GPU:0"
    assert re.fullmatch(rf"process +{os.getpid()} uses +[\d.]+ MB GPU memory", second)


@pytest.mark.parametrize(("mode", "number"), [("warn", 1), (2, 2), ("default", 0)])
def test_the_debug_mode_is_remembered(mode, number):
    torch.cuda.set_sync_debug_mode(mode)
    assert torch.cuda.get_sync_debug_mode() == number


def test_a_bad_debug_mode_is_refused():
    with pytest.raises(RuntimeError, match="invalid value of debug_mode"):
        torch.cuda.set_sync_debug_mode("loud")


def test_plain_torch_answers_inside_native():
    before = torch.cuda.is_available()
    with torchdevice_mode.native():
        inside = torch.cuda.is_available()
    assert before is True
    assert inside is (torch.version.cuda is not None and inside)

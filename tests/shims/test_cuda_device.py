"""torch.cuda: which device there is, what it is like, and which is current."""

from __future__ import annotations

import pytest
import torch

import torchdevice_mode

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
        "torch._dynamo.device_interface",
        "torch._inductor.utils",
        "torch.accelerator",
        "triton.backends.nvidia.driver",
    ],
)
def test_who_generates_code_for_a_gpu_is_told_the_truth(module):
    with torchdevice_mode.native():
        plain = asks(module)
    assert asks(module) == plain


@pytest.mark.parametrize("module", ["__main__", "torch._dynamo.utils", "triton_kernels", None])
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


@pytest.mark.parametrize(
    "field",
    ["warp_size", "max_threads_per_multi_processor", "shared_memory_per_block", "L2_cache_size",
     "is_integrated", "is_multi_gpu_board", "regs_per_multiprocessor", "clock_rate",
     "memory_clock_rate", "memory_bus_width", "pci_bus_id"],
)  # fmt: skip
def test_properties_have_cudas_numbers(field):
    assert isinstance(getattr(torch.cuda.get_device_properties(0), field), int)


def test_properties_print_like_cudas():
    text = repr(torch.cuda.get_device_properties(0))
    assert text.startswith("_CudaDeviceProperties(name='")
    assert "MB, multi_processor_count=" in text


@pytest.mark.parametrize("device", [1, 99, -1])
def test_properties_of_an_absent_device_fail_as_on_cuda(device):
    with pytest.raises(AssertionError, match="Invalid device id"):
        torch.cuda.get_device_properties(device)


def test_bfloat16_is_supported_where_it_computes():
    one = torch.ones(2, 2, dtype=torch.bfloat16, device="cuda")
    assert torch.cuda.is_bf16_supported() is ((one @ one).sum().item() == 8.0)


@pytest.mark.parametrize("device", [0, "cuda", "cuda:1", -1, torch.device("meta")][:-1])
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


@pytest.mark.parametrize("wrong", ["cudaa", "meta", object()])
def test_what_is_no_device_is_refused(wrong):
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        torch.cuda.synchronize(wrong)


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


@pytest.mark.parametrize("name", ["utilization", "temperature", "power_draw", "clock_rate",
                                  "memory_usage", "device_memory_used"])  # fmt: skip
def test_what_nvidia_smi_would_say_is_a_number(name):
    assert isinstance(getattr(torch.cuda, name)(), int)


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

"""Every torch function that takes a device has a row, or a reason why it needs none."""

from __future__ import annotations

import pytest
import torch
import torch.fft
import torch.nested
import torch.special

import torchdevice_mode
from torchdevice_mode._registry import Rule, build, resolve_path
from torchdevice_mode._rules import ROWS, RULES
from torchdevice_mode._shims import ALL_PATCHES

# Functions whose aten schema has a device and that need no row, with the reason.
WITHOUT_ROW = {
    "torch.Generator": "a class; replaced by _shims.generic",
    "torch._assert_tensor_metadata": "checks a traced tensor; the device is the tensor's own",
    "torch._cudnn_init_dropout_state": "called by torch for cuDNN, which a target is not",
    "torch._efficientzerotensor": "called by autograd in C++ with the device of a tensor",
    "torch._make_dep_token": "called by export with the device of a tensor",
    "torch._nested_tensor_from_tensor_list": "called by torch.nested, whose functions are patched",
    "torch._pin_memory": "below Tensor.pin_memory, which has a row",
    "torch._resize_output_": "called by torch.nested with the device of a tensor",
    "torch.eq": "the overload that compares two devices is TorchScript's",
    "torch.ne": "the overload that compares two devices is TorchScript's",
    "torch.Tensor.eq": "the overload that compares two devices is TorchScript's",
    "torch.Tensor.ne": "the overload that compares two devices is TorchScript's",
}

NAMESPACES = {
    "torch": torch,
    "torch.Tensor": torch.Tensor,
    "torch._C._nn": torch._C._nn,
    "torch.fft": torch.fft,
    "torch.special": torch.special,
    "torch.linalg": torch.linalg,
    "torch.sparse": torch.sparse,
}


def functions_with_a_device_in_their_schema():
    names = {
        schema.name.removeprefix("aten::")
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("aten::")
        and any("Device" in str(argument.type) for argument in schema.arguments)
    }
    for path, namespace in NAMESPACES.items():
        for name in sorted(names):
            for spelled in {name, name.removeprefix("fft_"), name.removeprefix("special_")}:
                function = getattr(namespace, spelled, None)
                if callable(function):
                    yield f"{path}.{spelled}", function


@pytest.mark.parametrize(
    ("name", "function"),
    [pytest.param(*pair, id=pair[0]) for pair in functions_with_a_device_in_their_schema()],
)
def test_a_function_that_takes_a_device_has_a_row_or_a_reason(name, function):
    assert (function in RULES) != (name in WITHOUT_ROW)


def test_every_row_has_a_reason_and_names_functions_of_torch():
    for rule in ROWS:
        assert rule.reason
        assert rule.names()
    known = [name for rule in ROWS for name in rule.names() if resolve_path(name) is not None]
    assert len(known) > 60


def test_every_patch_has_a_reason():
    assert all(patch.reason for patch in ALL_PATCHES)


def test_a_function_has_one_row():
    def one(context, func, args, kwargs):
        return None

    def other(context, func, args, kwargs):
        return None

    with pytest.raises(ValueError, match=r"torch\.zeros"):
        build([Rule(("torch.zeros",), one, "a"), Rule(("torch.zeros",), other, "b")])


def test_a_name_that_this_torch_lacks_is_left_out():
    assert build([Rule(("torch.of_the_future",), lambda *a: None, "")]) == {}


@pytest.mark.parametrize("compiled", [True, False])
def test_ruled_functions_compile_without_a_graph_break(target, compiled):
    def program(x):
        y = torch.zeros(3, device="cuda") + torch.ones(3).cuda()
        z = torch.arange(3.0, device=torch.device("cuda")).to("cuda:0")
        return torch.relu(x.cuda() + y * z) + x.new_ones(1, device="cuda") + torch.ones_like(z)

    with torchdevice_mode.redirect():
        x = torch.ones(3)
        call = torch.compile(program, fullgraph=True, backend="eager") if compiled else program
        result = call(x)
        assert result.device == target
        assert result.tolist() == [3, 4, 5]

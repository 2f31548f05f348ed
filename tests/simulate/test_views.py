"""A view of a tensor on the simulated device is the tensor: what is written in one is in both."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

if os.environ.get("TORCHDEVICE_TEST_SIMULATED") not in ("1", "mps"):
    pytest.skip("the device is not simulated in this run", allow_module_level=True)

View = Callable[[torch.Tensor], torch.Tensor]

# Each takes a tensor of shape (4, 6).
VIEWS: dict[str, View] = {
    "view": lambda x: x.view(6, 4),
    "view_as": lambda x: x.view_as(torch.empty(2, 12)),
    "view_of_another_dtype": lambda x: x.view(torch.int32),
    "view_of_a_smaller_dtype": lambda x: x.view(torch.uint8),
    "reshape": lambda x: x.reshape(24),
    "flatten": lambda x: x.flatten(),
    "unflatten": lambda x: x.unflatten(1, (2, 3)),
    "transpose": lambda x: x.transpose(0, 1),
    "t": lambda x: x.t(),
    "T": lambda x: x.T,
    "mT": lambda x: x.mT,
    "permute": lambda x: x.permute(1, 0),
    "movedim": lambda x: x.movedim(0, 1),
    "swapaxes": lambda x: x.swapaxes(0, 1),
    "select": lambda x: x.select(0, 1),
    "narrow": lambda x: x.narrow(1, 2, 3),
    "index_by_integer": lambda x: x[1],
    "index_by_slice": lambda x: x[1:3, ::2],
    "index_by_ellipsis_and_none": lambda x: x[..., None, 2:],
    "unsqueeze": lambda x: x.unsqueeze(1),
    "squeeze": lambda x: x[:1].squeeze(0),
    "expand": lambda x: x[:, :1].expand(4, 3),
    "broadcast_to": lambda x: x[:1].broadcast_to(2, 6),
    "diagonal": lambda x: x.diagonal(1),
    "linalg_diagonal": lambda x: torch.linalg.diagonal(x),
    "unfold": lambda x: x.unfold(1, 2, 1),
    "as_strided": lambda x: x.as_strided((3, 2), (2, 1), 5),
    "as_strided_of_a_view": lambda x: x[2:].as_strided((2, 2), (6, 1)),
    "chunk": lambda x: x.chunk(3, dim=1)[1],
    "split": lambda x: x.split([1, 3])[1],
    "tensor_split": lambda x: x.tensor_split(4)[2],
    "hsplit": lambda x: x.hsplit(2)[1],
    "unbind": lambda x: x.unbind(1)[5],
    "iteration": lambda x: list(x)[3],
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "alias": lambda x: torch.ops.aten.alias(x),
    "view_as_complex": lambda x: torch.view_as_complex(x.view(4, 3, 2)),
    "real": lambda x: torch.view_as_complex(x.view(4, 3, 2)).real,
    "imag": lambda x: torch.view_as_complex(x.view(4, 3, 2)).imag,
    "imag_of_conj": lambda x: torch.view_as_complex(x.view(4, 3, 2)).conj().imag,
    "view_as_real": lambda x: torch.view_as_real(torch.view_as_complex(x.view(4, 3, 2))),
    "set_from_storage": lambda x: x.new_empty(0).set_(x.untyped_storage(), 3, (5,), (2,)),
    "set_from_tensor": lambda x: x.new_empty(0).set_(x[1:, 2:]),
    "same_device": lambda x: x.to("mps") if x.device.type == "mps" else x.to("cpu"),
    "contiguous_already": lambda x: x.contiguous(),
    "numpy_style_swap": lambda x: x.moveaxis(1, 0)[::2],
    "parameter": lambda x: torch.nn.Parameter(x[2], requires_grad=False),
}

WRITES: dict[str, Callable[[torch.Tensor], object]] = {
    "fill": lambda view: view.fill_(9),
    "copy": lambda view: view.copy_(torch.full(view.shape, 2)),
    "out": lambda view: torch.add(view.clone(), 3, out=view),
    "index_put": lambda view: view.__setitem__(view.real != 0, 4),
}

# torch refuses to write where elements share memory; a part of the view is written there.
ELEMENTS_ONCE: dict[str, View] = {
    "expand": lambda x: x[:, 0],
    "broadcast_to": lambda x: x[0],
    "unfold": lambda x: x[..., 0],
    "as_strided": lambda x: x[..., 0],
}


def base(device: str) -> torch.Tensor:
    return torch.arange(24.0).reshape(4, 6).clone().to(device)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("view", VIEWS)
def test_writing_into_a_view_writes_into_its_base(view: str, write: str) -> None:
    expected, actual = base("cpu"), base("mps")
    for tensor in (expected, actual):
        seen = VIEWS[view](tensor)
        WRITES[write](ELEMENTS_ONCE.get(view, lambda x: x)(seen))
    assert not torch.equal(expected, base("cpu")), "the write changed nothing"
    assert torch.equal(actual.cpu(), expected)


@pytest.mark.parametrize("view", VIEWS)
def test_writing_into_a_base_shows_in_its_view(view: str) -> None:
    expected, actual = base("cpu"), base("mps")
    seen = [VIEWS[view](tensor) for tensor in (expected, actual)]
    for tensor in (expected, actual):
        tensor.mul_(-2).add_(1)
    torch.testing.assert_close(seen[1].cpu(), seen[0].detach(), rtol=0, atol=0)
    assert seen[1].untyped_storage().data_ptr() == actual.untyped_storage().data_ptr()
    assert (seen[1].stride(), seen[1].storage_offset()) == (
        seen[0].stride(),
        seen[0].storage_offset(),
    )


@pytest.mark.parametrize("view", VIEWS)
def test_autograd_knows_a_view_as_it_does_on_the_cpu(view: str) -> None:
    def known(device: str) -> tuple[bool, bool, int, int]:
        tensor = base(device)
        seen = VIEWS[view](tensor)
        before = tensor._version
        with torch.no_grad():
            seen.flatten()[:0].fill_(0)  # touches the view's counter without changing a value
        seen[..., 0].zero_()
        return seen._is_view(), seen._base is tensor, tensor._version - before, seen._version

    assert known("mps") == known("cpu")


def test_gradients_flow_through_a_write_into_a_view() -> None:
    def gradient(device: str) -> torch.Tensor:
        leaf = base(device).requires_grad_()
        tensor = leaf * 2
        tensor[1:3].mul_(leaf[0])
        tensor.t()[2].neg_()
        (tensor.diagonal() ** 2).sum().backward()
        return leaf.grad.cpu()

    torch.testing.assert_close(gradient("mps"), gradient("cpu"))


def test_one_half_copied_onto_the_other_is_the_other() -> None:
    tensor = torch.arange(8.0, device="mps")
    tensor[4:].copy_(tensor[:4])
    assert tensor.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_a_storage_that_grows_keeps_its_views() -> None:
    tensor = torch.arange(4.0, device="mps")
    view = tensor[:2]
    tensor.resize_(1000).fill_(7)
    assert view.tolist() == [7, 7]
    assert tensor.sum().item() == 7000


def test_operators_that_resize_their_output_keep_its_views() -> None:
    out = torch.empty(1, device="mps")
    view = out.detach()
    with pytest.warns(UserWarning, match="resized"):
        torch.mul(torch.arange(5.0, device="mps"), 2, out=out)
    assert out.tolist() == [0, 2, 4, 6, 8]
    assert view.untyped_storage().data_ptr() == out.untyped_storage().data_ptr()


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_in_inference_mode_a_view_is_what_its_base_is(device):
    outside = torch.ones(4, device=device)
    with torch.inference_mode():
        inside = torch.ones(4, device=device)
        assert not outside.view(2, 2).is_inference()
        assert inside.view(2, 2).is_inference()
        outside[0].add_(1)
    assert outside.tolist() == [2, 1, 1, 1]
    assert outside._version == 1

"""Operators that the target lacks run on the CPU, and come back."""

from __future__ import annotations

import threading

import pytest
import torch

import torchdevice_mode
from torchdevice_mode import _fallback, _log, _session, redirect, simulate
from torchdevice_mode._log import TorchDeviceWarning

pytestmark = [
    pytest.mark.simulated,
    pytest.mark.filterwarnings("ignore::torchdevice_mode._log.TorchDeviceWarning"),
]

LACKING = sorted(simulate.REAL_GAPS_2_13)
# torch makes it of others, for out= as well.
NO_KERNEL_EITHER = {"aten::linalg_lu_solve"}
# An older torch's CPU has not all of them.
EXISTING = {
    name
    for full in torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
    for name in (full, full.partition(".")[0])
}


@pytest.fixture
def without():
    """Metal's real gaps, and redirection."""
    with simulate.missing_operators(LACKING), redirect() as redirection:
        yield redirection


def fallbacks():
    return {
        entry.site.asked: entry
        for entry in _session.ledger.entries()
        if entry.site.kind == "fallback" and entry.site.file == __file__
    }


@pytest.mark.parametrize("name", sorted((set(LACKING) & EXISTING) - NO_KERNEL_EITHER))
def test_each_real_gap_gets_a_kernel_and_loses_it_again(name):
    def has_kernel():
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        every = torch._C._dispatch_get_all_op_names()
        names = [n for n in every if name in (n, n.partition(".")[0])]
        return any(has(found, "MPS") for found in names)

    with simulate.missing_operators([name]):
        assert not has_kernel()
        with redirect():
            assert has_kernel()
        assert not has_kernel()
    assert has_kernel()


def test_a_result_comes_back_with_its_gradient(without, target):
    x = torch.tensor([[2.0, 0.0], [0.0, 1.0]], device="cuda", requires_grad=True)
    values, vectors = torch.linalg.eigh(x)
    values.sum().backward()
    assert values.device == vectors.device == x.grad.device == target
    assert torch.allclose(x.grad, torch.eye(2))


def test_what_is_written_into_is_the_programs_own(without):
    x = torch.zeros(3, device="cuda")
    address = x.data_ptr()
    assert x.put_(torch.tensor([1]), torch.tensor([5.0])) is x
    assert x.tolist() == [0.0, 5.0, 0.0] and x.data_ptr() == address
    out = torch.empty(0, device="cuda")
    assert torch.take(x, torch.tensor([1, 2]), out=out) is out
    assert out.tolist() == [5.0, 0.0]


def test_named_results_keep_their_names(without):
    result = torch.mode(torch.tensor([1.0, 1.0, 2.0], device="cuda"))
    assert result.values.item() == 1.0 and type(result).__name__ == "mode"


def test_random_numbers_follow_from_the_seed(without):
    rate = torch.full((64,), 4.0, device="cuda")

    def drawn(seed):
        torch.cuda.manual_seed(seed)
        return torch.poisson(rate).tolist()

    assert drawn(1) == drawn(1) != drawn(2)
    generator = torch.Generator("cuda").manual_seed(3)
    first, second = torch.poisson(rate, generator), torch.poisson(rate, generator)
    generator.manual_seed(3)
    assert torch.equal(first, torch.poisson(rate, generator)) and not torch.equal(first, second)


def test_half_precision_that_the_cpu_lacks_is_computed_in_float32(without):
    x = torch.eye(2, device="cuda", dtype=torch.half)
    result = torch.special.ndtri(x / 2)
    assert result.dtype is torch.half
    assert torch.allclose(result.float(), torch.special.ndtri(x.float() / 2))


def test_a_number_that_cpp_wrapped_is_taken():
    with simulate.missing_operators(["remainder"]), redirect():
        assert torch.remainder(torch.tensor([7], device="cuda"), 4).tolist() == [3]


def test_running_statistics_are_written_though_the_schema_does_not_say_so():
    layer = torch.nn.BatchNorm1d(2)
    expected = torch.nn.BatchNorm1d(2)
    x = torch.randn(8, 2)
    expected(x)
    with simulate.missing_operators(["native_batch_norm"]), redirect(policy="explicit"):
        layer.cuda()(x.cuda())
        assert torch.allclose(layer.running_mean.cpu(), expected.running_mean)


def test_an_operator_taken_away_later_is_found_when_it_fails():
    with redirect(), simulate.missing_operators(["take"]):
        x = torch.tensor([1.0, 2.0], device="cuda")
        assert torch.take(x, torch.tensor([1])).item() == 2.0


def test_an_operator_of_another_library_gets_a_kernel_when_it_fails(target):
    with torch.library._scoped_library("torchdevice_fallback", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CPU")
        with redirect():
            result = torch.ops.torchdevice_fallback.twice(torch.ones(2, device="cuda"))
            assert result.tolist() == [2.0, 2.0] and result.device == target
        with pytest.raises(NotImplementedError):
            torch.ops.torchdevice_fallback.twice(torch.ones(2, device="mps"))


def test_collectives_get_no_kernel(without):
    names = [name for name, _ in _fallback.kernels._registered]
    assert names and not [name for name in names if name.startswith(("c10d", "_c10d"))]


def test_calls_bytes_and_time_are_counted_by_line(without):
    x = torch.ones(256, 256, device="cuda", requires_grad=True)
    for _ in range(3):
        loss = torch.nn.functional.multi_margin_loss(x, torch.zeros(256, dtype=torch.long))
    loss.backward()
    found = fallbacks()
    forward = found["aten::multi_margin_loss"]
    assert forward.count == 3 and forward.moved > 3 * 256 * 256 * 4 and forward.seconds > 0
    backward = found["aten::multi_margin_loss_backward"]
    assert backward.count == 1 and backward.moved > 2 * 256 * 256 * 4 and backward.seconds > 0


def test_one_warning_for_each_operator():
    with simulate.missing_operators(LACKING), redirect():
        _log.forget_warnings()
        x = torch.ones(3, device="cuda")
        with pytest.warns(TorchDeviceWarning) as caught:
            for _ in range(3):
                torch.take(x, torch.tensor([0]))
                torch.mode(x)
        said = [str(warning.message) for warning in caught]
        assert len([text for text in said if "aten::take runs on the CPU" in text]) == 1
        assert len([text for text in said if "aten::mode runs on the CPU" in text]) == 1


def test_a_thread_without_redirection_gets_torchs_error(without):
    errors = []

    def work():
        with torchdevice_mode.native():
            try:
                torch.take(torch.ones(1, device="mps"), torch.tensor([0], device="mps"))
            except NotImplementedError as error:
                errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors and errors[0].startswith("The operator 'aten::take' is not currently impl")


def test_mapped_and_compiled_functions_reach_the_kernel(without):
    x = torch.tensor([[1.0, 1.0, 2.0], [3.0, 4.0, 4.0]], device="cuda")
    assert torch.vmap(lambda row: torch.mode(row).values)(x).tolist() == [1.0, 4.0]
    compiled = torch.compile(lambda row: torch.heaviside(row, row), backend="aot_eager")
    assert compiled(x).tolist() == [[1.0] * 3] * 2

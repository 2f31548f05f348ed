"""The simulated device fails where Metal fails, and says what Metal says."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path

import pytest
import torch

from torchdevice_mode import SimulatorError, simulate

pytestmark = pytest.mark.simulated_mps

DEVICE = "mps"


def ones(*size: int, **options: object) -> torch.Tensor:
    return torch.ones(*size, device=DEVICE, **options)


# --- dtypes ------------------------------------------------------------------------------------

NO_FLOAT64 = (
    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. "
    "Please use float32 instead."
)
WAYS = {
    "zeros": lambda dtype: torch.zeros(2, dtype=dtype, device=DEVICE),
    "empty": lambda dtype: torch.empty(2, dtype=dtype, device=DEVICE),
    "full": lambda dtype: torch.full((2,), 1, dtype=dtype, device=DEVICE),
    "tensor": lambda dtype: torch.tensor([1.0], dtype=dtype, device=DEVICE),
    "as_tensor": lambda dtype: torch.as_tensor(torch.ones(2, dtype=dtype).numpy(), device=DEVICE),
    "from_cpu": lambda dtype: torch.ones(2, dtype=dtype).to(DEVICE),
    "to": lambda dtype: ones(2).to(dtype),
    "type": lambda dtype: ones(2).type(dtype),
    "ones_like": lambda dtype: torch.ones_like(ones(2), dtype=dtype),
    "new_ones": lambda dtype: ones(2).new_ones(2, dtype=dtype),
    "sum": lambda dtype: ones(2).sum(dtype=dtype),
    "module": lambda dtype: torch.nn.Linear(2, 2).to(DEVICE).to(dtype),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_float64_is_refused(way):
    with pytest.raises(TypeError) as raised:
        way(torch.float64)
    assert str(raised.value) == NO_FLOAT64


def test_float64_may_come_from_the_cpu_as_another_dtype_and_not_go_there():
    assert torch.ones(2, dtype=torch.float64).to(DEVICE, torch.float32).device.type == "mps"
    for copy in (
        lambda: ones(2).to("cpu", torch.float64),
        lambda: torch.zeros(2, dtype=torch.float64).copy_(ones(2)),
    ):
        with pytest.raises(TypeError, match="Cannot convert a float64 Tensor to MPS as the MPS"):
            copy()


HELD_ONLY = {
    "ComplexDouble": torch.complex128,
    "Float8_e4m3fn": torch.float8_e4m3fn,
    "Float8_e5m2": torch.float8_e5m2,
}


@pytest.mark.parametrize("name", HELD_ONLY)
def test_a_dtype_may_be_held_that_no_kernel_computes_with(name):
    held = torch.tensor([1.0, 2.0]).to(HELD_ONLY[name]).to(DEVICE)
    assert held[1:].cpu().to(torch.complex64).tolist() == [2.0]
    for convert in (lambda: held.to(torch.float32), lambda: ones(2).to(held.dtype)):
        with pytest.raises(TypeError, match=f"Trying to convert {name} to the MPS backend but it"):
            convert()
    for compute in (lambda: held + held, lambda: torch.ones(2, dtype=held.dtype, device=DEVICE)):
        with pytest.raises(RuntimeError, match=f"Undefined type {name}"):
            compute()


# --- memory ------------------------------------------------------------------------------------

MIB = 1 << 20


def test_memory_runs_out_with_metals_words_and_is_usable_afterwards():
    held = torch.mps.current_allocated_memory()
    with simulate.memory_limit(held + 4 * MIB):
        kept = torch.empty(2 * MIB, dtype=torch.uint8, device=DEVICE)
        with pytest.raises(RuntimeError) as raised:
            torch.empty(3 * MIB, dtype=torch.uint8, device=DEVICE)
        assert torch.mps.current_allocated_memory() == held + 2 * MIB
        del kept
        assert torch.empty(3 * MIB, dtype=torch.uint8, device=DEVICE).numel() == 3 * MIB
    assert type(raised.value) is RuntimeError  # Metal's is no torch.OutOfMemoryError
    size = r"[\d.]+ (bytes|KiB|MiB|GiB)"
    assert re.fullmatch(
        rf"MPS backend out of memory \(MPS allocated: {size}, other allocations: {size}, "
        rf"max allowed: {size}\)\. Tried to allocate 3\.00 MiB on private pool\. Use "
        r"PYTORCH_MPS_HIGH_WATERMARK_RATIO=0\.0 to disable upper limit for memory allocations "
        r"\(may cause system failure\)\.",
        str(raised.value),
    )
    assert torch.empty(8 * MIB, dtype=torch.uint8, device=DEVICE).numel() == 8 * MIB


ALLOCATING = {
    "move": lambda x: torch.ones(2 * MIB, dtype=torch.uint8).to(DEVICE),
    "operator": lambda x: x + 1,
    "clone": lambda x: x.clone(),
    "out": lambda x: torch.add(x, 1, out=torch.empty(0, dtype=torch.uint8, device=DEVICE)),
    "index": lambda x: x.nonzero(),
}


@pytest.mark.parametrize("allocate", ALLOCATING.values(), ids=ALLOCATING)
def test_memory_runs_out_wherever_it_is_taken(allocate):
    gc.collect()  # what earlier tests left must not go meanwhile
    x = ones(2 * MIB, dtype=torch.uint8)
    before = torch.mps.current_allocated_memory()
    with simulate.memory_limit(before + MIB):
        with pytest.raises(RuntimeError, match="MPS backend out of memory"):
            allocate(x)
        x.add_(1)
    assert torch.mps.current_allocated_memory() == before
    assert int(x.max()) == 2


def test_memory_limits_nest_and_end():
    with simulate.memory_limit(64 * MIB):
        with simulate.memory_limit(32 * MIB):
            assert torch.mps.recommended_max_memory() == 32 * MIB
        assert torch.mps.recommended_max_memory() == 64 * MIB
        free, total = torch.accelerator.get_memory_info()
        assert (free, total) == (64 * MIB - torch.mps.current_allocated_memory(), 64 * MIB)
    assert torch.mps.recommended_max_memory() > 64 * MIB


def test_memory_fraction_limits_the_device():
    held = torch.mps.current_allocated_memory()
    with simulate.memory_limit(2 * (held + 4 * MIB)):
        torch.mps.set_per_process_memory_fraction(0.5)
        try:
            with pytest.raises(RuntimeError, match="MPS backend out of memory"):
                torch.empty(5 * MIB, dtype=torch.uint8, device=DEVICE)
            torch.empty(3 * MIB, dtype=torch.uint8, device=DEVICE)
        finally:
            torch.mps.set_per_process_memory_fraction(0.0)
        torch.empty(5 * MIB, dtype=torch.uint8, device=DEVICE)


def test_block_that_no_device_has_is_refused():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50, dtype=torch.uint8, device=DEVICE)
    assert str(raised.value) == "Invalid buffer size: 1048576.00 GiB"


@pytest.mark.parametrize(
    "pin",
    [
        lambda: torch.ones(2).pin_memory(),
        lambda: torch.empty(2, pin_memory=True),
        lambda: torch.empty(2, pin_memory=True, device=DEVICE),
        lambda: ones(2).pin_memory(),
    ],
    ids=["pin_memory", "empty", "empty on the device", "device tensor"],
)
def test_memory_cannot_be_pinned(pin):
    with pytest.raises(RuntimeError, match=r"[Cc]annot pin|can be pinned"):
        pin()


# --- missing operators -------------------------------------------------------------------------

MISSING = (
    "The operator '{}' is not currently implemented for the MPS device. If you want this op to be "
    "considered for addition please comment on https://github.com/pytorch/pytorch/issues/141287 "
    "and mention use-case, that resulted in missing op as well as commit hash simulated. As a "
    "temporary fix, you can set the environment variable `PYTORCH_ENABLE_MPS_FALLBACK=1` to use "
    "the CPU as a fallback for this op. WARNING: this will be slower than running natively on MPS."
)
CALLS = [
    # what is taken away, a call, the operator that torch then misses
    ("linalg_eig", lambda x: torch.linalg.eig(x), "aten::linalg_eig"),
    ("aten::linalg_eig", lambda x: torch.linalg.eig(x), "aten::linalg_eig"),
    ("aten::_linalg_eigh", lambda x: torch.linalg.eigh(x), "aten::_linalg_eigh.eigenvalues"),
    ("linalg_lstsq", lambda x: torch.linalg.lstsq(x, x), "aten::linalg_lstsq.out"),
    ("aten::frexp", lambda x: torch.frexp(x), "aten::frexp.Tensor_out"),
    ("aten::mode", lambda x: torch.mode(x), "aten::mode"),
    ("aten::put_", lambda x: x.put_(torch.tensor([0], device=DEVICE), ones(1)), "aten::put_"),
    ("aten::add", lambda x: x + x, "aten::add.out"),
    ("aten::add.out", lambda x: torch.add(x, x, out=torch.empty_like(x)), "aten::add.out"),
    ("aten::relu", lambda x: torch.relu(x), "aten::relu"),
]


@pytest.mark.parametrize("name, call, missed", CALLS, ids=[name for name, _, _ in CALLS])
def test_missing_operator_is_named_as_metal_names_it(name, call, missed):
    with simulate.missing_operators([name]):
        with pytest.raises(NotImplementedError) as raised:
            call(ones(2, 2))
        assert str(raised.value) == MISSING.format(missed)
    call(ones(2, 2))


def test_missing_operator_is_missed_in_backward_and_leaves_others():
    x = ones(3).requires_grad_()
    y = torch.sigmoid(x).sum()
    with simulate.missing_operators(["aten::sigmoid_backward"]):
        with pytest.raises(NotImplementedError, match="aten::sigmoid_backward"):
            y.backward()
        torch.relu(x).sum().backward()
    assert x.grad.tolist() == [1, 1, 1]


def has_kernel(name: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(name, "MPS")


def overloads(name: str) -> list[str]:
    return [n for n in torch._C._dispatch_get_all_op_names() if n.partition(".")[0] == name]


def kernels() -> set[str]:
    return {n for n in torch._C._dispatch_get_all_op_names() if has_kernel(n)}


@pytest.mark.parametrize("name", sorted(simulate.REAL_GAPS_2_13))
def test_real_gap_can_be_made(name):
    with simulate.missing_operators([name]):
        ours = [found for found in overloads(name) if has_kernel(found)]
    # torch itself, in Python, gives every device this one.
    assert set(ours) <= {"aten::linalg_lu_solve.out"}


def test_all_real_gaps_at_once_nested_and_given_back(capfd):
    before = kernels()
    with simulate.missing_operators(simulate.REAL_GAPS_2_13):
        inside = kernels()
        with simulate.missing_operators(simulate.REAL_GAPS_2_13):
            assert kernels() == inside
        assert kernels() == inside
        with pytest.raises(NotImplementedError):
            torch.linalg.eig(ones(2, 2))
        assert (ones(2) + 1).tolist() == [2, 2]
    assert len(before) > len(inside)
    assert kernels() == before
    assert capfd.readouterr().err == ""  # torch complains where a kernel replaces another


def test_operators_are_given_back_after_an_error():
    before = kernels()
    with pytest.raises(SimulatorError, match="nonsense"):
        simulate.missing_operators(["aten::add", "aten::nonsense"]).__enter__()
    with pytest.raises(ZeroDivisionError), simulate.missing_operators("aten::add"):
        1 / 0
    assert kernels() == before


# Of no use to programs, or run on the CPU without being asked to; see REAL_GAPS_2_13.
_NOT_CALLED = re.compile(
    r"_test|_foobar|_nested|_jagged|_padded|_transform_bias|_native_multi_head|_transformer_encoder"
    r"|mkldnn|to_mkldnn|quantize|dequantize|_empty_\w*affine|_make_per|_dyn_quant|\w+_for_cpu"
    r"|from_file|_make_dep_token|_functional_assert|_fused_sdp_choice|_spdiags|embedding_renorm_"
    r"|_to_sparse_|_?slow_conv|narrow_copy|_validate_compressed|batch_norm_update_stats|heaviside_"
)


@pytest.mark.skipif(not torch.__version__.startswith("2.13"), reason="gaps of torch 2.13")
def test_real_gaps_are_what_torchs_own_list_lacks_for_metal():
    torchgen = pytest.importorskip("torchgen")
    yaml = pytest.importorskip("yaml")

    folder = Path(os.path.dirname(torchgen.__file__))
    rows = yaml.safe_load((folder / "packaged/ATen/native/native_functions.yaml").read_text())
    listed = {row["func"].partition("(")[0]: row for row in rows}

    def keys(name: str) -> set[str]:
        row = listed[name]
        if "structured_delegate" in row:
            return keys(row["structured_delegate"])
        return {
            key for keys in row.get("dispatch") or () for key in keys.replace(" ", "").split(",")
        }

    served = {"MPS", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional"}
    served.add("CompositeImplicitAutograd")
    lacking = {name for name in listed if "CPU" in keys(name) and not served & keys(name)}
    with_metal = {name.partition(".")[0] for name in listed if "MPS" in keys(name)}
    named = {
        name if name.partition(".")[0] in with_metal else name.partition(".")[0]
        for name in lacking
        if not _NOT_CALLED.match(name)
    }
    assert {"aten::" + name for name in named} == simulate.REAL_GAPS_2_13


@pytest.mark.parametrize(
    "name, said",
    [
        ("einsum", "torch makes 'einsum' of other operators on every device"),
        ("aten::linalg_svd", "torch makes 'aten::linalg_svd' of other operators"),
        ("aten::add.Tensor", "torch makes 'aten::add.Tensor' of other operators"),
        ("nonsense", "torch has no operator 'nonsense'"),
        ("aten::add.Nonsense", "torch has no operator 'aten::add.Nonsense'"),
    ],
)
def test_operator_that_cannot_be_taken_away_is_named(name, said):
    with pytest.raises(SimulatorError, match=re.escape(said)):
        simulate.missing_operators([name]).__enter__()


# --- operators of others -----------------------------------------------------------------------


@pytest.fixture
def library():
    with torch.library._scoped_library("simulated_test", "FRAGMENT") as library:
        library.define("twice(Tensor x) -> Tensor")
        yield library


def test_operator_of_a_library_without_a_kernel_is_missing(library):
    library.impl("twice", lambda x: x * 2, "CPU")
    assert torch.ops.simulated_test.twice(torch.ones(2)).tolist() == [2, 2]
    with pytest.raises(NotImplementedError) as raised:
        torch.ops.simulated_test.twice(ones(2))
    assert str(raised.value) == MISSING.format("simulated_test::twice")


@pytest.mark.parametrize("key", ["MPS", "CompositeImplicitAutograd", "CompositeExplicitAutograd"])
def test_operator_of_a_library_with_a_kernel_runs(library, key):
    library.impl("twice", lambda x: x * 2, key)
    result = torch.ops.simulated_test.twice(ones(2))
    assert (result.device.type, result.tolist()) == ("mps", [2, 2])


def test_library_fills_a_gap_as_on_metal():
    with simulate.missing_operators(["aten::linalg_eigvals", "aten::_linalg_eigvals"]):
        with torch.library._scoped_library("aten", "IMPL") as library:
            library.impl(
                "_linalg_eigvals", lambda x: torch.linalg.eigvals(x.cpu()).to(x.device), "MPS"
            )
            assert torch.linalg.eigvals(torch.eye(2, device=DEVICE)).tolist() == [1, 1]
        with pytest.raises(NotImplementedError):
            torch.linalg.eigvals(torch.eye(2, device=DEVICE))
    assert torch.linalg.eigvals(torch.eye(2, device=DEVICE)).tolist() == [1, 1]

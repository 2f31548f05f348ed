"""Every text by which torch refuses tensors on different devices is known, and no other."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import pytest
import torch

from torchdevice_mode._mismatch import is_mismatch, wants_cpu

# As raised on the CPU, CUDA and MPS by torch 2.11 to 2.13, and by older releases.
TEXTS = [
    # operators of every kind
    "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
    "cpu! (when checking argument for argument mat2 in method wrapper_CUDA_mm)",
    "Expected all tensors to be on the same device, but got mat2 is on cpu, different from other "
    "tensors on cuda:0 (when checking argument in method wrapper_CUDA_mm)",
    "Expected all tensors to be on the same device, but found at least two devices.",
    "Expected all tensors to be on the same device. Found: mps:0, cpu",
    "Expected tensors to be on the same device, but found at least two devices",
    "Unhandled FakeTensor Device Propagation for aten.add.Tensor, found two different devices "
    "mps:0, cpu",
    "Tensor on device cpu is not on the expected device mps:0!",
    "Tensor device mismatch! Expected: mps:0, Got: cpu",
    "Tensor for 'out' is on CPU, Tensor for argument #1 'self' is on CPU, but expected them to be "
    "on GPU (while checking arguments for addmm)",
    "Tensor for argument weight is on cpu but expected on mps",
    "Expected object of device type cuda but got device type cpu for argument #1 'self' in call "
    "to _th_index_select",
    "Trying to pass too many CPU scalars to non-CPU kernel!",
    "CPU Scalar support for self argument is not supported when calling addcmul on CUDA tensors.",
    # on MPS
    "Placeholder storage has not been allocated on MPS device!",
    "Passed CPU tensor to MPS op",
    "Output tensor is not MPS",
    "MPS device expected, got: cpu",
    "Expected a MPS device, but got cpu",
    "Could not run 'aten::_copy_from_and_resize' with arguments from the 'CPU' backend. This could "
    "be because the operator doesn't exist for this backend",
    "linear: input(device='cpu') and weight(device=mps:0')  must be on the same device",
    "Expected !t.defined() || t.device().type() == device_type to be true, but got false.  (Could "
    "this error message be improved?  If so, please report an enhancement request to PyTorch.)",
    "Expected t1->get_device() == t2->get_device() to be true, but got false.",
    # indexing
    "indices should be either on cpu or on the same device as the indexed tensor (cpu)",
    "expected self and mask to be on the same device, but got mask on cpu and self on mps:0",
    "masked_fill_: Expected inputs to be on same device",
    "index_copy_(): self, index and source expected to be in the same device, but got (self) "
    "mps:0, (index) cpu, and (source) mps:0",
    "take(): self, index and out expected to be in the same device, but got self.device = mps:0, "
    "index.device = cpu, and out.device = mps:0",
    "Input, output and indices must be on the current device",
    "output indices must be on same device as input",
    "device type of index (cpu) does not match device type of out parameter (mps)",
    "Mismatching aten.index_put_.default device between self (mps:0) and values (cpu)",
    # layers and losses
    "Input type (MPSFloatType) and weight type (torch.FloatTensor) should be the same",
    "Input type (torch.FloatTensor) and weight type (torch.cuda.FloatTensor) should be the same or "
    "input should be a MKLDNN tensor and weight is a dense tensor",
    "Input type (MPSFloatType) and bias type (torch.FloatTensor) should be the same",
    "Tensor for argument #2 'mat1' is on CPU, but expected it to be on GPU (while checking "
    "arguments for addmm)",
    "Expected mat.is_mps() to be true, but got false.",
    "conv2d: expects input and weight tensors to be on the same device.",
    "Input and parameter tensors are not at the same device, found input tensor at cpu and "
    "parameter tensor at mps:0",
    "Input and hidden tensors are not at the same device, found input tensor at mps:0 and hidden "
    "tensor at cpu",
    "grid_sampler(): expected input and grid to be on same device, but input is on cpu and grid is "
    "on mps:0",
    "weight_norm: expected v_in and g_in to be on the same device, but v_in is on cpu",
    "Expected query, key, and value to have the same device type, but got query.device: cuda:0, "
    "key.device: cpu, and value.device: cuda:0 instead.",
    "Expect q/k/v and block_mask to be on the same device but got mps:0 and cpu.",
    "query must be a CUDA tensor",
    "cu_seqlens_k must be on CUDA",
    "seqused_k must be on CUDA device",
    "All tensors need to be on cuda device. Got query on device: cpu",
    "Expected indices.is_cuda() to be true, but got false.",
    "Expected per_sample_weights_.value().device() == weight.device() to be true, but got false.",
    "Expected data.get_device() == lengths_value.get_device() to be true, but got false.",
    # lists, and tensors to write into
    "meshgrid expects all tensors to have the same device",
    "torch.block_diag: input tensors must all be on the same device. Input 0 is on device cpu",
    "_chunk_cat expects all inputs tensors on the same device",
    "_chunk_cat_out_cuda: mismatch between input and out tensor devices",
    "all.dims: output must be on the same device as input",
    "reduce_op(): expected input and both outputs to be on same device, but input is on cpu",
    "Expected out tensor to have device mps:0, but got cpu instead",
    "dot: Expected the output and input tensors to be on the same device, but got the output "
    "tensor on cpu, the input tensor on mps:0",
    "quantile() q tensor must be on the same device as the input tensor",
    "torch.gradient expected each tensor to be on the same device, but got devices cpu and mps:0.",
    "torch.cat(): all input tensors must be on the same device. Received mps:0 and cpu",
    "When constructing a nested tensor, all tensors in list must be on the same device",
    # linear algebra, sorting, spectra
    "multi_dot(): expected out tensor to be on device mps:0 but got cpu",
    "multi_dot(): all tensors must be on the same device but tensor 0 is on cpu and tensor 1 mps:0",
    "torch.linalg.qr: Expected Q and input tensors to be on the same device, but got Q on cpu",
    "Expected b and A to be on the same device, but found b on cpu and A on mps:0 instead.",
    'input.device() == tau.device() INTERNAL ASSERT FAILED at "BatchLinearAlgebra.cpp":2351',
    "X1 and X2 must have the same device type. X1: cpu X2: mps",
    "torch.searchsorted(): boundaries and input value tensors should have same device type, but "
    "got boundaries tensor device type cpu and input value tensor device type mps",
    "torch.searchsorted(): boundary and sorter must have same device type, but got sorter tensor "
    "device type cpu",
    "stft input and window must be on the same device but got self on mps:0 and window on cpu",
    "Expected tensor to have mps:0 Device, but got tensor with cpu Device (while checking "
    "arguments for batch_norm_cpu)",
    "Expected tensor to have mps DeviceType, but got tensor with cpu DeviceType",
    "CUDA_tensor_apply2: Expected tensors to have CUDA DeviceType, but got tensors with type CPU",
    "multinomial arguments must have the same device",
    "Cannot compare two tensors on different devices. Got: cuda:0 and cpu",
    "Expected divisor (b) to be on the same device (mps:0) as dividend (a), but it is found on cpu",
    # sparse and quantised
    "device of indices (cpu) must match device of values (mps:0)",
    "device type of indices (cpu) must match device type of values (mps)",
    "Values and compressed sparse tensor instance need to have the same device.",
    "Expected all tensors to be on the same device. addmm: expected 'mat1' to be CUDA, but got CPU",
    "add: expected 'other' to be a CUDA tensor, but got a CPU tensor",
    "add: expected 'out' to be CUDA tensor, but got tensor on device: cpu",
    "add: expected 'other' to be an MPS tensor, got cpu",
    "sparse_mask: expected tensors to be on MPS device",
    "sparse_mask_projection: expected MPS tensors",
    "add: expected 'src' to match dense tensor, but got tensor on device: cpu",
    "Expected cuda::check_device({r_, t, src}) to be true, but got false.",
    "expects a quantized and float tensors to be on the same device.",
    # optimizers and gradients
    "params, grads, exp_avgs, and exp_avg_sqs must have same dtype, device, and layout",
    "Tensors of the same index must be on the same device and the same dtype except `step` tensors "
    "that can be CPU and float32/64",
    "found_inf must be on the same GPU device as the params",
    "scaled_grads must be CUDA tensors.",
    "one of scaled_grads was not a CPU tensor. scaled_grads must be on the same device.",
    "found_inf must be a CPU tensor.",
    "Found two parameters on different devices, this is currently not supported.",
    "attempting to assign a gradient with device type 'cpu' to a tensor with device type 'cuda'. "
    "Please ensure that the gradient and the tensor are on the same device",
    "attempting to assign a gradient located on device with index '0' to a tensor located on "
    "device with index '1'. Please ensure that the gradient and the tensor are on the same device",
    "Function MulBackward0 returned an invalid gradient at index 0 - expected device mps:0 but "
    "got cpu",
    # random numbers
    "Expected a 'mps' device type for generator but found 'cpu'",
    "Expected a 'mps:0' generator device but found 'cpu'",
    # memory that is somewhere else
    "The specified pointer resides on host memory and is not registered with any CUDA device.",
]

OTHERS = [
    "The size of tensor a (4) must match the size of tensor b (3) at non-singleton dimension 0",
    "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)",
    "mat1 and mat2 must have the same dtype, but got Float and Half",
    "expected scalar type Long but found Float",
    "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, "
    "Int; but got torch.FloatTensor instead (while checking arguments for embedding)",
    "stack expects each tensor to be equal size, but got [2] at entry 0 and [3] at entry 1",
    "Tensors must have same number of dimensions: got 1 and 2",
    "index 5 is out of bounds for dimension 0 with size 4",
    "a leaf Variable that requires grad is being used in an in-place operation.",
    "Trying to backward through the graph a second time",
    "one of the variables needed for gradient computation has been modified by an inplace "
    "operation",
    "attempting to assign a gradient of size '[2]' to a tensor of size '[3]'. Please ensure that "
    "the gradient and the tensor are the same size",
    "Function MulBackward0 returned an invalid gradient at index 0 - got [2] but expected shape "
    "compatible with [3]",
    "CUDA error: device-side assert triggered",
    "CUDA error: invalid device ordinal",
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB",
    "MPS backend out of memory (MPS allocated: 1 bytes, max allowed: 2 bytes)",
    "The operator 'aten::mode' is not currently implemented for the MPS device. If you want this "
    "op to be considered for addition please comment",
    "Could not run 'aten::mode' with arguments from the 'MPS' backend.",
    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.",
    "Conv3D is not supported on MPS",
    "\"addmm_impl_cpu_\" not implemented for 'Bool'",
    "Torch not compiled with CUDA enabled",
    "PyTorch is not linked with support for cuda devices",
    "Invalid device string: 'cudaa'",
    "Device index must not be negative",
    "Expected one of cpu, cuda, ipu, xpu, mkldnn, opengl, opencl, ideep, hip, ve, fpga, maia, xla, "
    "lazy, vulkan, mps, meta, hpu, mtia, privateuseone device type at start of device string: it",
    "Cannot copy out of meta tensor; no data!",
    "can't convert mps:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
    "memory first.",
    "map_ is only implemented on CPU tensors",
    "softmax with half to float conversion is not supported on CPU",
    "torch.linalg.svd: keyword argument `driver=` is only supported on CUDA inputs with cuSOLVER "
    "backend.",
    "Only dense CPU tensors can be pinned",
    # A copy would not put these right.
    'Attempted to set the storage of a tensor on device "cpu" to a storage on different device '
    '"mps:0".  This is no longer allowed; the devices must match.',
    "_swap_data_ptr_: storages must be on the same device, got cpu and mps:0",
    "Expected all futures to have the same devices, but found cuda:0 and cuda:1",
]

WANT_CPU = [
    "'lengths' argument should be a 1D CPU int64 tensor, but got 1D mps:0 Long tensor",
    "tensor_split expected tensor_indices_or_sections to be on cpu, but it's on mps:0",
    "batch_sizes tensor should be on CPU, but got device mps:0",
    "batch_sizes should always be on CPU. Instances of PackedSequence should never be created",
    "tensor_indices_or_sections must be on CPU, got mps:0",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_refusal_of_mixed_devices_is_recognised(text):
    assert is_mismatch(RuntimeError(text))
    assert not wants_cpu(RuntimeError(text))


@pytest.mark.parametrize("text", OTHERS)
def test_another_error_is_not_taken_for_one(text):
    assert not is_mismatch(RuntimeError(text))


@pytest.mark.parametrize("kind", [RuntimeError, IndexError, ValueError, TypeError])
def test_torchs_kinds_of_exceptions_are_read(kind):
    assert is_mismatch(kind(TEXTS[0]))


@pytest.mark.parametrize("kind", [AssertionError, KeyError, AttributeError, KeyboardInterrupt])
def test_other_kinds_of_exceptions_are_not_read(kind):
    assert not is_mismatch(kind(TEXTS[0]))


@pytest.mark.parametrize("text", WANT_CPU)
def test_what_is_wanted_on_the_cpu_is_recognised(text):
    assert wants_cpu(RuntimeError(text))


# --- the torch installed --------------------------------------------------------------------

# Pieces of texts, as compilers and source lines cut them, that speak of other things.
_ABOUT_OTHER_THINGS = (
    "Events are not on the same device",
    "Expected all futures to have the same devices",
    "storage on different device",
    "storages must be on the same device",
)
_SAYS_SO = re.compile(r"(?i)\b(same|different|mismatch\w*)\b[^.]{0,40}\bdevices?\b(?! type)")
TORCH = Path(torch.__file__).parent


def pieces_of_a_library(path: Path):
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        at = text.find(b" device")
        while at >= 0:
            begin, end = text.rfind(b"\0", at - 300, at), text.find(b"\0", at, at + 300)
            if begin > 0 and end > 0:
                yield text[begin + 1 : end].decode(errors="replace")
            at = text.find(b" device", at + 1)


def pieces_of_the_sources():
    for place in ("nn", "nested", "sparse", "optim", "_refs", "_prims_common", "_decomp"):
        for path in (TORCH / place).rglob("*.py"):
            for line in path.read_text().splitlines():
                if not line.lstrip().startswith(("#", 'r"', "*")):
                    yield from re.findall(r"f?\"([^\"]{15,})\"", line)


def assert_known(pieces):
    texts = {piece for piece in pieces if _SAYS_SO.search(piece)}
    assert texts, "found none: the search is wrong"
    others = {text for text in texts for other in _ABOUT_OTHER_THINGS if other in text}
    assert [text for text in sorted(texts - others) if not is_mismatch(RuntimeError(text))] == []


@pytest.mark.parametrize("name", ["torch_cpu", "torch_python"])
def test_every_text_of_torchs_libraries_is_known(name):
    paths = [*(TORCH / "lib").glob(f"lib{name}.*"), *(TORCH / "lib").glob(f"{name}.dll")]
    assert_known(pieces_of_a_library(paths[0]))


def test_every_text_of_torchs_sources_is_known():
    assert_known(pieces_of_the_sources())

"""How torch says that tensors are on different devices: hundreds of places, each in its own words.

Read off torch's Python sources and off the strings of its libraries for the CPU, CUDA and MPS, 2.11
to 2.13; `tests/test_mismatch.py` has the texts, and looks through the torch installed for others.
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["is_mismatch", "wants_cpu"]

_DEVICE = r"(cuda|cpu|mps|xpu|gpu)"

# Compiled by `re` when they are first needed, as that takes milliseconds.
_TEXTS = rf"""
    # "on the same device", "same dtype, device, and layout", "two different devices"
      \b (same|different|two) ,? (\ (dtype,|type\ of|gpu|different))? \ devices? \b
    # "device of indices (cpu) must match device of values", "mismatch ... tensor devices"
    | \b device \b .* (must\ match | mismatch | does\ not\ match) | \b mismatch .* \b devices? \b
    # "expected device mps:0 but got cpu", "to have mps:0 Device, but got", of generators as well
    | device (type)? ,? \ (\S+\ )? but\ (got|found)
    | \b device\ type\ for\ generator\ but | \b to\ have\ \S+\ device
    | device\ type\ \S+\ but\ got
    # "mat2 is on cpu, different from", "'self' is on CPU, but expected them to be on GPU"
    | \b (is|are)\ (currently\ )? on\ (device\ )? '? {_DEVICE} \S* ,?\ (but|different)
    # "query must be a CUDA tensor", "scaled_grads must be CUDA tensors", "must be on CUDA"
    | \b (must|should|need\ to)\ be\ ((an?|on|on\ the)\ )? {_DEVICE} \b
    # "expected 'mat1' to be CUDA, but got CPU", "but got tensor on device: cpu"
    | \b to\ (be|have)\ ((an?|on|all)\ )? {_DEVICE} \b .* \b (but|got) \b
    | \b (tensors?|data\ ptrs)\ to\ be\ on\ ({_DEVICE}|a)?\ ?device | expected\ {_DEVICE}\ tensors
    | \b but\ got\ ((an?)\ )? (tensor\ on|{_DEVICE}\ tensor)
    | \b (passed|expects?)\ ((an?|all)\ )? {_DEVICE}\ (tensor|device) | \b not\ {_DEVICE} $
    | \b not\ on\ the\ expected\ device | {_DEVICE}\ device\ expected | on\ {_DEVICE}\ device:
    | \b on\ the\ current\ device | located\ on\ device\ with\ index
    | \b inputs?\ to\ \w+\ must\ be\ {_DEVICE} | must\ be\ on\ devices\[0\]
    # "Expected a.device() == b.device() to be true, but got false", and asserts of that kind
    | (\.|->) (get_)? device (_type)? \(\) (\.type\(\))? \ [=!]= | (check|same)_?device \w* \(
    | (\.|->) (device\(\)\.)? is_ {_DEVICE} \(\) .* \b to\ be\ true
    # no word of devices in these
    | Input\ type\ \(.*\)\ and\ (weight|bias)\ type\ \(.*\)\ should\ be\ the\ same
    | Placeholder\ (storage|tensor) | {_DEVICE}\ scalars?\b .* (support|non-cpu)
    | 'aten::_copy_from\w*'\ with\ arguments\ from\ the\ 'CPU'
    | resides\ on\ host | indices\ should\ be\ either
    | must\ have\ the\ same\ device | should\ have\ same\ device
    """
# What a copy would not put right: who shares memory, and how numbers are moved between processes.
_OF_ANOTHER_KIND = (
    r"Attempted to set the storage|storages must be on the same device|device-side assert"
    r"|\bfutures\b|\bEvents are\b|\bRPC\b|out of memory"
)
# Arguments that torch takes on the CPU only, beside others that may be anywhere.
_WANTS_CPU = (
    r"argument should be a 1D CPU int64 tensor|expected \w+ to be on cpu"
    r"|batch_sizes \w*\s?should (always )?be on CPU|tensor_indices_or_sections must be on CPU"
)


@lru_cache(maxsize=1_000)  # to search a text takes longer than many a call
def _says_mismatch(text: str) -> bool:
    if re.search(_TEXTS, text, re.IGNORECASE | re.VERBOSE) is None:
        return False
    return re.search(_OF_ANOTHER_KIND, text) is None


def is_mismatch(error: Exception) -> bool:
    """Whether torch refused a call because its tensors are on different devices.

    Args:
        error: What the call raised.

    Returns:
        True for the kinds of exceptions that torch raises then, with such a text.
    """
    if not isinstance(error, (RuntimeError, IndexError, ValueError, TypeError)):
        return False
    return _says_mismatch(str(error))


def wants_cpu(error: Exception) -> bool:
    """Whether torch refused an accelerator tensor where it takes one on the CPU only.

    Args:
        error: What the call raised.

    Returns:
        True if so: lengths of sequences, and places to split at.
    """
    return isinstance(error, RuntimeError) and re.search(_WANTS_CPU, str(error)) is not None

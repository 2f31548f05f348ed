"""`torch.testing.assert_close` where the CPU means the target, and where it does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import torchdevice_mode


def from_numpy(*values):
    return torch.from_numpy(np.array(values, dtype=np.float32))


def test_a_result_is_compared_with_what_numpy_expects(redirected):
    for pair in [(torch.ones(2), from_numpy(1, 1)), (from_numpy(1, 1), torch.ones(2))]:
        torch.testing.assert_close(*pair)
    torch.testing.assert_close({"a": [torch.ones(1)]}, {"a": [from_numpy(1)]})


DIFFERENT = {
    "values": (lambda: from_numpy(1, 2), "not close"),
    "shapes": (lambda: from_numpy(1, 1, 1), "shape"),
    "dtypes": (lambda: from_numpy(1, 1).half(), "dtype"),
}


@pytest.mark.parametrize(("expected", "text"), DIFFERENT.values(), ids=DIFFERENT)
def test_what_differs_still_differs(redirected, expected, text):
    with pytest.raises(AssertionError, match=text):
        torch.testing.assert_close(torch.ones(2), expected())


@pytest.mark.simulated
def test_devices_differ_where_the_cpu_is_the_cpu(redirected):
    placed = torch.ones(2, device="cuda")
    with (
        torchdevice_mode.redirect(policy="explicit"),
        pytest.raises(AssertionError, match="device"),
    ):
        torch.testing.assert_close(placed, from_numpy(1, 1))
    with torchdevice_mode.cpu_override(), pytest.raises(AssertionError, match="device"):
        torch.testing.assert_close(placed, from_numpy(1, 1))
    with torchdevice_mode.native(), pytest.raises(AssertionError, match="device"):
        torch.testing.assert_close(placed, from_numpy(1, 1))

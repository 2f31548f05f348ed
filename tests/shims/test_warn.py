"""Warnings that torch's C++ code gives come from the program's line."""

from __future__ import annotations

import sys
import warnings

import torch

import torchdevice_mode


def test_a_warning_from_c_plus_plus_names_the_users_line(redirected):
    x = torch.ones(2, 3, 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        line = sys._getframe().f_lineno + 1
        torch.set_warn_always(True)
        x.T  # deprecated for three dimensions
        torch.set_warn_always(False)
    (warning,) = caught
    assert (warning.filename, warning.lineno) == (__file__, line + 1)


def test_a_warning_of_the_program_keeps_its_place(redirected):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("mine", stacklevel=1)
    assert caught[0].filename == __file__


def test_warnings_are_pythons_own_afterwards():
    before = warnings._showwarnmsg
    with torchdevice_mode.redirect():
        assert warnings._showwarnmsg is not before
    assert warnings._showwarnmsg is before

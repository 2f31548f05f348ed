"""What Dynamo keeps of redirection: nothing, whenever it was imported or first used."""

from __future__ import annotations

import logging
import operator
import subprocess
import sys

import pytest
import torch
import torch._dynamo
import torch._dynamo.testing
import torch._dynamo.variables

from torchdevice_mode import redirect
from torchdevice_mode._patches import imported, original_of
from torchdevice_mode._shims.compiler import _CHANGES, _DYNAMO

pytestmark = pytest.mark.filterwarnings("ignore")

FIRST_USED_UNDER_REDIRECTION = """
import torch, torchdevice_mode
from torchdevice_mode._patches import original_of

def use(x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = x @ x
    return y + int(torch.is_autocast_enabled("cpu"))

with torchdevice_mode.redirect():
    assert "_dynamo" not in vars(torch)
    compiled = torch.compile(use, fullgraph=True, backend="eager")
    compiled(torch.ones(2, 2, device="cuda"))

from torch._dynamo import trace_rules
from torch._dynamo.variables import torch as variables

tables = [
    trace_rules.get_torch_obj_rule_map(),
    variables.TorchInGraphFunctionVariable._get_handlers(),
    variables.constant_fold_functions,
    variables.constant_fold_functions_need_guards,
]
for table in tables:
    ours = [key for key in table if original_of(key) is not key]
    ours += [key for key in table if "torchdevice" in str(getattr(key, "__code__", ""))]
    assert not ours, ours
assert torch.get_rng_state in tables[0]
assert torch.is_autocast_enabled in tables[2]
x = torch.ones(2, 2)
assert torch.equal(compiled(x), use(x))
"""


def test_its_tables_hold_torchs_own_functions_where_it_is_first_used_under_redirection():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FIRST_USED_UNDER_REDIRECTION],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_its_own_functions_are_back_after_redirection():
    names = [name for _, _, name, _, _ in _CHANGES]
    owners = [
        imported(f"{_DYNAMO}.{module}", of_class, having=name)()
        for module, of_class, name, _, _ in _CHANGES
    ]
    assert None not in owners
    before = [vars(owner)[name] for owner, name in zip(owners, names, strict=True)]
    with redirect():
        during = [vars(owner)[name] for owner, name in zip(owners, names, strict=True)]
    after = [vars(owner)[name] for owner, name in zip(owners, names, strict=True)]
    assert all(map(operator.is_, before, after))
    kept = {name for name, old, new in zip(names, before, during, strict=True) if old is new}
    assert kept == {"constant_fold_functions", "constant_fold_functions_need_guards"}


def test_frames_of_this_package_are_not_compiled():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    logging.disable(logging.WARNING)
    with redirect():
        # A generator is not compiled, and its calls are made one by one.
        def moves():
            for width in range(2, 6):
                yield torch.ones(width).to("cuda").device

        @torch.compile(backend=counter)
        def use(made):
            return next(made)

        made = moves()
        for _ in range(4):
            use(made)
    logging.disable(logging.NOTSET)
    torch._dynamo.reset()
    assert counter.frame_count == 0


def test_a_function_knows_what_it_replaces():
    plain = torch.get_rng_state
    with redirect():
        assert torch.get_rng_state is not plain
        assert original_of(torch.get_rng_state) is plain
    assert original_of(plain) is plain

"""Whose line is logged, counted and warned of: the user's, whatever stands between it and torch.

Each case is a program. Lines that end in `# here` are those that ask for CUDA.
"""

from __future__ import annotations

import linecache
import logging
import re
import sys
import textwrap
import types

import pytest
import torch

import torchdevice_mode
from torchdevice_mode import _context, _log, _session
from torchdevice_mode._log import logger

pytestmark = pytest.mark.off_cuda

CASES = {
    "a plain call": """
        torch.zeros(1, device="cuda")  # here
    """,
    "a method": """
        torch.zeros(1).cuda()  # here
    """,
    "a call on several lines": """
        torch.zeros(  # here
            1,
            device="cuda",
        )
    """,
    "methods on several lines": """
        (
            torch.zeros(1)
            .add(1)
            .cuda()  # here
            .add(2)
        )
    """,
    "an argument on its own line": """
        print(
            1,
            torch.zeros(1, device="cuda"),  # here
            file=open(os.devnull, "w"),
        )
    """,
    "a function": """
        def make():
            return torch.zeros(1, device="cuda")  # here

        make()
    """,
    "a lambda": """
        make = lambda: torch.zeros(1, device="cuda")  # here
        make()
    """,
    "a default argument": """
        def make(device=torch.device("cuda")):  # here
            return device

        make()
    """,
    "a list comprehension": """
        [
            torch.zeros(1, device=name)  # here
            for name in ("cuda", "cuda:0")
        ]
    """,
    "a generator": """
        def make():
            yield torch.zeros(1, device="cuda")  # here

        list(make())
    """,
    "a generator expression in a library": """
        sorted(float(x) for x in (torch.zeros(1).cuda() for _ in range(2)))  # here
    """,
    "a coroutine": """
        async def make():
            await asyncio.sleep(0)
            return torch.zeros(1, device="cuda")  # here

        asyncio.run(make())
    """,
    "a decorator of the user's": """
        def decorate(function):
            @functools.wraps(function)
            def call(*args):
                return function(*args)
            return call

        @decorate
        def make():
            return torch.zeros(1, device="cuda")  # here

        make()
    """,
    "torch's decorators": """
        @torch.no_grad()
        @torch.autocast("cpu")
        @functools.lru_cache
        @contextlib.contextmanager
        def make():
            yield torch.zeros(1, device="cuda")  # here

        with make():
            pass
    """,
    "our own decorator": """
        @torchdevice_mode.redirect("cpu")
        def make():
            return torch.zeros(1, device="cuda")  # here

        make()
    """,
    "a class that is decorated": """
        @torchdevice_mode.redirect("cpu")
        class Maker:
            def __init__(self):
                self.made = torch.zeros(1, device="cuda")  # here

        Maker()
    """,
    "a callback of Python": """
        list(map(functools.partial(torch.zeros, device="cuda"), [1]))  # here
    """,
    "a sort's key": """
        sorted([1, 2], key=lambda n: float(torch.tensor(n, device="cuda")))  # here
    """,
    "a property": """
        class Model:
            @property
            def weight(self):
                return torch.zeros(1, device="cuda")  # here

        Model().weight
    """,
    "a layer": """
        torch.nn.Linear(2, 2, device="cuda")  # here
    """,
    "a layer of layers": """
        torch.nn.TransformerEncoderLayer(4, 1, 4, device="cuda")  # here
    """,
    "a module that moves": """
        torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()).to("cuda")  # here
    """,
    "a module's cuda()": """
        torch.nn.Linear(2, 2).cuda()  # here
    """,
    "a forward in a Sequential": """
        class Make(torch.nn.Module):
            def forward(self, x):
                return x + torch.zeros(1, device="cuda")  # here

        torch.nn.Sequential(torch.nn.Identity(), Make())(torch.ones(1))
    """,
    "apply": """
        def fill(module):
            module.extra = torch.zeros(1, device="cuda")  # here

        torch.nn.Linear(2, 2).apply(fill)
    """,
    "hooks of modules": """
        def before(module, args):
            torch.zeros(1, device="cuda")  # here

        def after(module, args, result):
            torch.ones(1, device="cuda")  # here

        layer = torch.nn.Linear(2, 2)
        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)
        layer(torch.ones(1, 2))
    """,
    "a hook of a tensor": """
        x = torch.ones(1, requires_grad=True)
        x.register_hook(lambda grad: grad * torch.ones(1, device="cuda"))  # here
        (x * 2).sum().backward()
    """,
    "a hook of a module in the backward pass": """
        def hook(module, given, made):
            torch.ones(1, device="cuda")  # here

        layer = torch.nn.Linear(2, 2)
        layer.register_full_backward_hook(hook)
        layer(torch.ones(1, 2)).sum().backward()
    """,
    "a function of one's own in the backward pass": """
        class Double(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x * torch.full((1,), 2.0, device="cuda")  # here

            @staticmethod
            def backward(ctx, grad):
                return grad * torch.full((1,), 2.0, device="cuda")  # here

        Double.apply(torch.ones(1, requires_grad=True)).sum().backward()
    """,
    "a checkpoint": """
        from torch.utils.checkpoint import checkpoint

        def block(x):
            return x * torch.ones(1, device="cuda")  # here

        x = torch.ones(1, requires_grad=True)
        checkpoint(block, x, use_reentrant=False).sum().backward()
    """,
    "vmap and grad": """
        def loss(x):
            return (x * torch.ones(1, device="cuda")).sum()  # here

        torch.func.vmap(torch.func.grad(loss))(torch.ones(2, 1))
    """,
    "a thread": """
        def make():
            torch.zeros(1, device="cuda")  # here

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
    """,
    "a thread that is a library's own": """
        thread = threading.Thread(target=torch.zeros, args=(1,), kwargs={"device": "cuda"})
        thread.start()
        thread.join()
    """,
    "a pool of threads": """
        from concurrent.futures import ThreadPoolExecutor

        def make(_):
            return torch.zeros(1, device="cuda")  # here

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(make, range(4)))
    """,
    "a timer": """
        timer = threading.Timer(0, lambda: torch.zeros(1, device="cuda"))  # here
        timer.start()
        timer.join()
    """,
    "a data loader": """
        class Numbers(torch.utils.data.Dataset):
            def __len__(self):
                return 2

            def __getitem__(self, index):
                return torch.tensor(index, device="cuda")  # here

        def collate(items):
            return torch.stack(items).to("cuda")  # here

        list(torch.utils.data.DataLoader(Numbers(), batch_size=2, collate_fn=collate))
    """,
    "an optimiser's step": """
        weight = torch.ones(1, requires_grad=True)
        weight.grad = torch.ones(1)

        def closure():
            return torch.ones(1, device="cuda").sum()  # here

        torch.optim.SGD([weight], lr=0.1).step(closure)
    """,
    "a checkpoint file": """
        file = io.BytesIO()
        torch.save(torch.ones(1), file)
        file.seek(0)
        torch.load(file, map_location="cuda")  # here
    """,
    "torch.cuda": """
        torch.cuda.manual_seed(0)  # here
        with torch.device("cuda"):  # here
            pass
    """,
    "code that is executed": """
        code = "import torch\\ntorch.zeros(1, device='cuda')"
        exec(code)  # here
        eval("torch.ones(1, device='cuda')")  # here
    """,
    "code with a file name of its own": """
        code = compile("torch.zeros(1, device='cuda')", "<template 7>", "exec")
        exec(code)
    """,
    "a data class's default": """
        @dataclasses.dataclass
        class Options:
            made: object = dataclasses.field(
                default_factory=lambda: torch.zeros(1, device="cuda")  # here
            )

        Options()
    """,
    "a data class's default that is torch's": """
        @dataclasses.dataclass
        class Options:
            device: object = dataclasses.field(
                default_factory=functools.partial(torch.device, "cuda")
            )

        Options()  # here
    """,
    "a finaliser": """
        class Last:
            def __del__(self):
                torch.zeros(1, device="cuda")  # here

        Last()
    """,
    "an error's handler": """
        try:
            raise ValueError
        except ValueError:
            torch.zeros(1, device="cuda")  # here
        finally:
            torch.ones(1, device="cuda")  # here
    """,
    "a loop": """
        for device in ["cuda", "cuda:1"]:
            torch.zeros(1, device=device)  # here
    """,
    "compiled code": """
        class Make(torch.nn.Module):
            def forward(self, x):
                return x + torch.zeros(  # here
                    3,
                    device="cuda",
                )

        layers = torch.nn.Sequential(torch.nn.Identity(), Make())

        @torch.compile(backend="eager")
        def make(x):
            ones = lambda: torch.ones(3, device="cuda")  # here
            y = layers(x) + ones()
            torch._dynamo.graph_break()
            return y + x.cuda() + torch.arange(len(x), device="cuda")  # here

        for length in (3, 1):
            make(torch.ones(length))
    """,
    "a tensor class": """
        class Named(torch.Tensor):
            @classmethod
            def __torch_function__(cls, func, types, args=(), kwargs=None):
                return super().__torch_function__(func, types, args, kwargs or {})

        torch.ones(1).as_subclass(Named).to("cuda")  # here
    """,
    "a mode of the user's": """
        class Mode(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, func, types, args=(), kwargs=None):
                return func(*args, **(kwargs or {}))

        with Mode():
            torch.zeros(1, device="cuda")  # here
    """,
}
PREAMBLE = """\
import asyncio, contextlib, dataclasses, functools, io, os, threading
import torch, torchdevice_mode
"""
# Where nobody but a library calls torch, its line is the only one there is.
ELSEWHERE = {"a thread that is a library's own", "code with a file name of its own"}
# For random states and streams, in code that torch writes into the program's own.
ASKED_BY_TORCH = {"a checkpoint", "compiled code"}


def source(case):
    return PREAMBLE + textwrap.dedent(CASES[case])


def places(text, file):
    lines = text.splitlines()
    return {(file, n) for n, line in enumerate(lines, start=1) if line.endswith("# here")}


@pytest.fixture
def logged(monkeypatch, caplog):
    """Places of what was logged, as the message tells them and as the record does."""
    monkeypatch.setenv("TORCHDEVICE_LOG_LEVEL", "INFO")
    monkeypatch.setattr(_log, "_level_given", None)
    level = logger.level
    # Places that earlier tests passed would not be logged again.
    monkeypatch.setattr(_context, "_by_number", {})
    monkeypatch.setattr(_context, "_numbers", {})
    monkeypatch.setattr(_session, "ledger", torchdevice_mode.ledger().__class__())

    def found():
        told = set()
        for record in (one for one in caplog.records if one.name == logger.name):
            file, line = re.match(r"(.+?):(\d+): ", record.getMessage()).groups()
            assert (record.pathname, record.lineno) == (file, int(line))
            assert record.levelno == logging.INFO
            told.add((file, int(line)))
        return told

    yield found
    logger.setLevel(level)


def execute(text, file, monkeypatch, name="program"):
    module = types.ModuleType(name)
    module.__file__ = file
    monkeypatch.setitem(sys.modules, name, module)  # where data classes look
    lines = (len(text), None, text.splitlines(True), file)
    monkeypatch.setitem(linecache.cache, file, lines)
    with torchdevice_mode.redirect("cpu"):
        exec(compile(text, file, "exec"), vars(module))


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="as below")
def test_a_line_is_counted_once_however_often_it_is_compiled(logged, monkeypatch):
    execute("\n" + source("compiled code"), "compiled.py", monkeypatch)
    counts = {e.site.line: e.count for e in torchdevice_mode.ledger().entries()}
    assert counts == {line: 1 for _, line in logged()}


@pytest.mark.parametrize("case", CASES)
def test_the_users_line_is_named(case, logged, monkeypatch):
    if case in ASKED_BY_TORCH and torch.backends.mps.is_available():
        pytest.skip("torch itself asks for the accelerator there, which is not the target")
    text = source(case)
    execute(text, "/home/somebody/project/train.py", monkeypatch)
    expected = places(text, "/home/somebody/project/train.py")
    if case in ELSEWHERE:
        assert len(logged()) == 1 and not expected
    else:
        assert logged() == expected


@pytest.mark.parametrize(
    "file",
    [
        "train.py",  # as frozen programs have it
        "C:\\Users\\somebody\\train.py",
        "/tmp/ipykernel_4242/1903744.py",
        "<ipython-input-3-f2e1d0>",
        "<stdin>",
        "<console>",
        "<doctest train[0]>",
        "/app/train.pyz/__main__.py",
        "/home/a b/ü/train.py",
    ],
)
@pytest.mark.parametrize("case", ["a plain call", "a layer", "a hook of a tensor", "a thread"])
def test_wherever_the_program_lies(case, file, logged, monkeypatch):
    text = source(case)
    execute(text, file, monkeypatch)
    assert logged() == places(text, file)

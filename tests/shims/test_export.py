"""Exported programs, FX graphs and packages, with devices in them."""

from __future__ import annotations

import copy
import io
import pickle
import zipfile

import pytest
import torch
from torch import fx, nn
from torch.export.passes import move_to_device_pass as plain_move  # noqa: F401 - imports it early
from torch.fx.experimental.proxy_tensor import make_fx
from torch.package import PackageExporter, PackageImporter

import torchdevice_mode

pytestmark = [
    pytest.mark.usefixtures("redirected"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torchdevice_mode.TorchDeviceWarning"),
]


class Inner(nn.Module):
    def forward(self, x):
        return x + torch.zeros(2, device="cuda:0")


class Program(nn.Module):
    """Devices in every place: arguments, moves, parameters, buffers, constants, submodules."""

    def __init__(self, device="cuda"):
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False, device=device)
        nn.init.eye_(self.linear.weight)
        self.register_buffer("offset", torch.ones(2, device=device))
        self.register_buffer("fleeting", torch.ones(2, device=device), persistent=False)
        self.constant = torch.zeros(2, device=device)
        self.inner = Inner()
        self.device = torch.device(device)

    def forward(self, x):
        y = self.linear(x.to("cuda")) + self.offset - self.fleeting + self.constant
        y = y + torch.arange(2, device=self.device) * 0 + torch.tensor([0.0], device="cuda")
        return self.inner(y + torch.zeros(2, device=torch.device("cuda")).cuda())


@pytest.fixture
def x():
    return torch.tensor([[1.0, 2.0]], device="cuda")


@pytest.fixture
def program(x):
    return torch.export.export(Program(), (x,))


def check(result, target):
    assert (result.device, result.tolist()) == (target, [[1.0, 2.0]])


@pytest.mark.parametrize("strict", [False, True])
def test_a_program_is_exported(strict, x, target):
    program = torch.export.export(Program(), (x,), strict=strict)
    check(program.module()(x), target)
    check(program.run_decompositions().module()(x), target)
    check(copy.deepcopy(program).module()(x), target)
    # Last: in plain torch as well the program cannot be copied afterwards.
    check(torch.export.unflatten(program)(x), target)


def test_a_program_of_any_batch_is_exported(target):
    batch = {"x": {0: torch.export.Dim("batch")}}
    example = torch.ones(3, 2, device="cuda")
    program = torch.export.export(Program(), (example,), dynamic_shapes=batch)
    assert program.module()(torch.ones(5, 2, device="cuda")).shape == (5, 2)


@pytest.mark.parametrize("location", ["cuda", "cuda:0", {"cuda:0": "cuda"}])
def test_a_program_is_moved(program, x, target, location):
    moved = torch.export.passes.move_to_device_pass(program, location)
    check(moved.module()(x), target)


def saved(program):
    file = io.BytesIO()
    torch.export.save(program, file)
    return file


def test_a_program_saved_here_is_found_on_the_target(program, x, target):
    loaded = torch.export.load(io.BytesIO(saved(program).getvalue()))
    check(loaded.module()(x), target)
    assert {p.device for p in loaded.module().parameters()} == {target}
    assert {c.device for c in loaded.constants.values()} == {target}
    assert loaded.example_inputs[0][0].device == target


def test_a_program_saved_here_is_on_the_cpu_in_plain_torch(program):
    data = saved(program).getvalue()
    with torchdevice_mode.native():
        loaded = torch.export.load(io.BytesIO(data))
        assert {p.device.type for p in loaded.module().parameters()} == {"cpu"}
        assert loaded.module()(torch.tensor([[1.0, 2.0]])).tolist() == [[1.0, 2.0]]


@pytest.mark.off_cuda
def test_a_program_that_names_cuda_is_loaded(program, x, target):
    """As a machine with CUDA writes it: the files differ in the devices' names alone."""
    with torchdevice_mode.native():
        plain = torch.export.export(Inner2(), (torch.tensor([[1.0, 2.0]]),))
    marked = io.BytesIO()
    with zipfile.ZipFile(saved_plainly(plain)) as old, zipfile.ZipFile(marked, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith(".json"):
                data = data.replace(
                    b'"device": {"type": "cpu"', b'"device": {"index": 1, "type": "cuda"'
                ).replace(b'"as_device": {"type": "cpu"', b'"as_device": {"type": "cuda"')
                assert b'"cpu"' not in data
            new.writestr(entry.filename, data)
    marked.seek(0)
    loaded = torch.export.load(marked)
    check(loaded.module()(x), target)


class Inner2(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return x + self.offset + torch.zeros(2, device="cpu")


def saved_plainly(program):
    with torchdevice_mode.native():
        return saved(program)


def test_a_bad_file_gives_torchs_own_error(program):
    for bad in (b"", b"no program", saved(program).getvalue()[:300]):
        with torchdevice_mode.native(), pytest.raises(Exception) as expected:
            torch.export.load(io.BytesIO(bad))
        with pytest.raises(type(expected.value)) as found:
            torch.export.load(io.BytesIO(bad))
        assert str(found.value) == str(expected.value)


# --- FX -----------------------------------------------------------------------------------------


class Symbolic(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.linear.weight)

    def forward(self, x):
        x = x.to("cuda")
        zeros = x.new_zeros(2, device=torch.device("cuda:0")) + torch.zeros_like(x, device="cuda")
        return self.linear(x) + zeros.cuda()


def test_a_module_is_traced_symbolically(x, target):
    graph = fx.symbolic_trace(Symbolic().cuda())
    for module in (graph, copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        check(module(x), target)
    check(fx.Interpreter(graph).run(x), target)
    file = io.BytesIO()
    torch.save(graph, file)
    file.seek(0)
    check(torch.load(file, weights_only=False)(x), target)


def test_a_graph_that_was_traced_in_plain_torch_is_redirected(x, target):
    with torchdevice_mode.native():
        graph = fx.symbolic_trace(Symbolic())
    check(graph.cuda()(x), target)


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_a_function_is_traced_to_operators(mode, x, target):
    def function(y):
        return y.to("cuda") + torch.zeros(2, device="cuda")

    check(make_fx(function, tracing_mode=mode)(x)(x), target)


# --- torch.package ------------------------------------------------------------------------------


def test_a_package_carries_tensors_for_any_machine(x, target):
    file = io.BytesIO()
    with PackageExporter(file) as exporter:
        exporter.extern("**")
        exporter.save_pickle("package", "state.pkl", {"x": x, "device": torch.device("cuda")})

    def load(location=None):
        reader = PackageImporter(io.BytesIO(file.getvalue()))
        return reader.load_pickle("package", "state.pkl", map_location=location)

    with torchdevice_mode.native():
        assert load()["x"].device.type == "cpu"
    check(load("cuda")["x"], target)
    assert load()["device"] == torch.device("cuda")
    assert load("cpu:-1")["x"].device.type == "cpu"

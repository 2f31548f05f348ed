# ruff: noqa: UP006, UP035, UP045 - TorchScript reads these spellings
"""TorchScript under redirection: compiled, traced, saved, loaded, with CUDA baked in or not."""

import io
import threading
import warnings
import zipfile
from typing import Dict, List, Optional, Tuple

import numpy as np
import pytest
import torch
from torch import nn

import torchdevice_mode

pytestmark = [
    pytest.mark.usefixtures("redirected"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


# --- programs, written before redirection begins ------------------------------------------------


def takes_device(x, device: torch.device):
    return torch.zeros(2, device=device) + x.to(device)


def takes_optional_device(x, device: Optional[torch.device] = None, times: int = 2):
    if device is None:
        device = x.device
    return torch.ones(2, device=device) * times + x.to(device) - times


def takes_devices(x, some: List[torch.device], named: Dict[str, torch.device]):
    return x.to(some[0]) + torch.zeros(2, device=named["here"])


def names_devices(x):
    made = torch.zeros(2, device="cuda") + torch.zeros(2, device=torch.device("cuda:0"))
    return made + x.cuda() + x.to("cuda") - x.to(device="cuda:0").cuda()


def names_devices_in_branches(x, again: bool):
    if again:
        for _ in range(2):
            x = x + torch.zeros(2, device="cuda")
        return x
    return x.cuda()


def asks(x):
    if x.is_cuda:
        return x + torch.zeros(2, device="cuda")
    return x + 100


def inner(x):
    return x + torch.zeros(2, device="cuda:0")


def forks(x):
    future = torch.jit.fork(inner, x)
    return torch.jit.wait(future)


def draws(x, generator: Optional[torch.Generator] = None):
    return torch.zeros_like(x).uniform_(0.0, 1.0, generator=generator) * 0 + x


def takes_generator(x, generator: torch.Generator):
    return torch.rand(x.shape, device=x.device, generator=generator)


def takes_stream(x, stream: Optional[torch.Stream] = None):
    return x * 1


CALLS = {
    "a device": lambda x: torch.jit.script(takes_device)(x, torch.device("cuda")),
    "a device by name": lambda x: torch.jit.script(takes_device)(x, "cuda"),
    "a device by keyword": lambda x: torch.jit.script(takes_device)(x, device="cuda:0"),
    "no optional device": lambda x: torch.jit.script(takes_optional_device)(x),
    "an optional device": lambda x: torch.jit.script(takes_optional_device)(x, "cuda", times=3),
    "containers of devices": lambda x: torch.jit.script(takes_devices)(
        x, [torch.device("cuda")], {"here": torch.device("cuda:0")}
    ),
    "baked in": lambda x: torch.jit.script(names_devices)(x),
    "baked in branches": lambda x: torch.jit.script(names_devices_in_branches)(x, again=True),
    "baked in other branch": lambda x: torch.jit.script(names_devices_in_branches)(x, False),
    "is_cuda": lambda x: torch.jit.script(asks)(x),
    "fork": lambda x: torch.jit.script(forks)(x),
    "no generator": lambda x: torch.jit.script(draws)(x),
    "a generator": lambda x: torch.jit.script(draws)(x, torch.Generator("cuda")),
    "a stream": lambda x: torch.jit.script(takes_stream)(x),
    "traced": lambda x: torch.jit.trace(names_devices, x)(x),
    "traced, from the CPU": lambda x: torch.jit.trace(lambda y: y.cuda() * 1, x)(x),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_program_gives_its_result_on_the_target(call, target):
    x = torch.tensor([1.0, 2.0], device="cuda")
    for _ in range(3):  # TorchScript optimises at the second call
        result = CALLS[call](x)
        assert result.device == target
        assert result.tolist() == [1.0, 2.0]


def test_a_generator_draws_what_it_draws_elsewhere():
    x = torch.zeros(3, device="cuda")
    generators = [torch.Generator("cuda").manual_seed(1) for _ in range(2)]
    scripted = torch.jit.script(takes_generator)(x, generators[0])
    assert scripted.tolist() == torch.rand(3, device="cuda", generator=generators[1]).tolist()


def test_gradients_flow_through_baked_in_devices():
    x = torch.ones(2, device="cuda", requires_grad=True)
    torch.jit.script(names_devices)(x).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "options"), [((), {}), ((1, 2, 3, 4), {}), ((torch.ones(1),), {"dev": "cuda"})]
)
def test_a_wrong_call_fails_as_in_torch(arguments, options):
    scripted = torch.jit.script(names_devices_in_branches)
    with pytest.raises(RuntimeError, match=r"names_devices_in_branches\(\)"):
        scripted(*arguments, **options)


def test_a_program_is_used_by_threads():
    scripted = torch.jit.script(names_devices)
    found = []

    def work():
        found.append(scripted(torch.ones(2, device="cuda")).tolist())

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [[1.0, 1.0]] * 4


# --- modules ------------------------------------------------------------------------------------


class Placed(nn.Module):
    """A module that knows its device, as an attribute, a constant and in its code."""

    device: torch.device
    named: torch.jit.Final[str]

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = torch.device(device)
        self.named = "cuda"
        self.linear = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.linear.weight)
        self.register_buffer("offset", torch.ones(2))

    def forward(self, x, device: Optional[torch.device] = None):
        if device is not None:
            x = x.to(device)
        zeros = torch.zeros(2, device=self.device) + torch.zeros(2, device=self.named)
        return self.linear(x.to(self.device)) + self.offset + zeros + torch.zeros(2, device="cuda")

    @torch.jit.export
    def other(self, x):
        return x.cuda() + 1

    @torch.jit.ignore
    def in_python(self, x):
        return x.to("cuda")


def saved_for_cuda(*, tensors_on_cuda: bool) -> io.BytesIO:
    """What a machine with CUDA saves: plain torch's file, its tensors marked as CUDA's."""
    file = io.BytesIO()
    with torchdevice_mode.native(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Placed("cuda:0")), file)
    if not tensors_on_cuda:
        file.seek(0)
        return file
    marked = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(marked, "w") as new:
        for entry in old.infolist():
            data = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"X\x03\x00\x00\x00cpu" in data
                data = data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            new.writestr(entry.filename, data)
    marked.seek(0)
    return marked


def check(module, target) -> None:
    for argument in (torch.zeros(1, 2, device="cuda"), torch.zeros(1, 2)):
        assert module(argument).tolist() == [[1.0, 1.0]]
        assert module(argument, torch.device("cuda")).device == target
        assert module(argument, device="cuda").device == target
    assert module.other(torch.zeros(1)).device == target
    assert {p.device for p in module.parameters()} == {target}
    assert {b.device for b in module.buffers()} == {target}


def test_a_scripted_module_runs_on_the_target(target):
    module = torch.jit.script(Placed("cuda").cuda())
    check(module, target)
    check(torch.jit.script(Placed("cuda")).cuda(), target)


@pytest.mark.parametrize("location", [None, "cuda", "cuda:0", torch.device("cpu"), "absent"])
def test_a_module_saved_here_can_be_loaded(location, target):
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(Placed("cuda").cuda()), file)
    file.seek(0)
    options = {} if location == "absent" else {"map_location": location}
    check(torch.jit.load(file, **options), target)


@pytest.mark.parametrize("tensors_on_cuda", [False, True])
@pytest.mark.parametrize("location", ["cuda", "cuda:0", None])
def test_a_module_saved_with_cuda_can_be_loaded(location, tensors_on_cuda, target, tmp_path):
    file = saved_for_cuda(tensors_on_cuda=tensors_on_cuda)
    path = tmp_path / "module.pt"
    path.write_bytes(file.getvalue())
    for source in (file, path, str(path)):
        module = torch.jit.load(source, map_location=location)
        check(module.cuda() if location is None else module, target)


@pytest.mark.off_cuda
def test_what_is_saved_names_the_devices_that_its_author_named():
    module = torch.jit.script(Placed("cuda").cuda())
    check(module, next(module.parameters()).device)
    assert 'torch.device("cuda")' in module.code
    file = io.BytesIO()
    torch.jit.save(module, file)
    with zipfile.ZipFile(file) as archive:
        code = b"".join(archive.read(name) for name in archive.namelist() if "/code/" in name)
    assert b'torch.device("cuda")' in code
    assert b"mps" not in code


def test_other_ways_to_compile_work(target):
    x = torch.zeros(1, 2, device="cuda")
    module = Placed("cuda").cuda().eval()
    scripted = torch.jit.script(module)
    for compiled in (
        torch.jit.freeze(scripted, preserved_attrs=["other"]),
        torch.jit.optimize_for_inference(torch.jit.script(module)),
        torch.jit.trace(module, x),
    ):
        for _ in range(3):
            assert compiled(x).device == target
            assert compiled(x).tolist() == [[1.0, 1.0]]


def test_outside_of_redirection_a_program_is_plain():
    scripted = torch.jit.script(names_devices)
    x = torch.ones(2, device="cuda")
    scripted(x)
    with torchdevice_mode.native():
        if torch.cuda.is_available():
            pytest.skip("this machine has CUDA")
        with pytest.raises((RuntimeError, NotImplementedError)):
            scripted(torch.ones(2))
    assert scripted(x).tolist() == [1.0, 1.0]


def test_a_scripted_class_takes_a_device(target):
    @torch.jit.script
    class Maker:
        def __init__(self, device: torch.device):
            self.device = device

        def make(self):
            return torch.ones(1, device=self.device)

    @torch.jit.script
    def make(pair: Tuple[torch.device, int]):
        return Maker(pair[0]).make()

    assert make((torch.device("cuda"), 1)).device == target


@pytest.mark.off_cuda
def test_methods_of_classes_in_cpp_are_called_as_they_are():
    weight = torch.quantize_per_tensor(torch.ones(2, 2), 0.5, 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(weight, None)
    with torchdevice_mode.redirect():
        assert packed.unpack()[0].shape == (2, 2)


@pytest.mark.simulated_mps
def test_the_cost_of_a_copy_is_not_traced():
    left = torch.from_numpy(np.ones(3, dtype=np.float32))
    traced = torch.jit.trace(lambda y: y.to("cuda") * 2, left)
    assert "numel" not in str(traced.graph)
    assert all(type(entry.moved) is int for entry in torchdevice_mode.ledger().entries())

"""Files of TorchScript and exported programs: what is saved here runs in plain torch elsewhere."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch
from _files import needs_other_machine, read_by_plain_torch
from torch import nn

import torchdevice_mode
from torchdevice_mode import _override

pytestmark = [
    pytest.mark.usefixtures("redirected"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torchdevice_mode.TorchDeviceWarning"),
]


class Quiet(nn.Module):
    """A program that names no device, with tensors in every place that has room for one."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.linear.weight)
        self.register_buffer("offset", torch.ones(2))
        self.held = [torch.ones(2, device="cuda")]
        self.label = "mps:0"

    def forward(self, x):
        return self.linear(x) + self.offset - self.held[0]


class Outspoken(Quiet):
    """A program that names its device: in its code, and in an attribute."""

    def __init__(self):
        super().__init__()
        self.device = torch.device("cuda")

    def forward(self, x):
        zeros = torch.zeros(2, device=self.device) + torch.zeros(2, device="cuda:0")
        return self.linear(x.cuda()) + self.offset - self.held[0] + zeros


class BakesIn(Quiet):
    """A program of which tracing keeps the device of a tensor."""

    def forward(self, x):
        return self.linear(x) + torch.zeros(2, device=x.device)


CONSTANT = {}


def adds_constant(x):
    return x + CONSTANT["one"] - CONSTANT["one"]


def programs():
    x = torch.ones(1, 2, device="cuda")
    CONSTANT["one"] = torch.ones(2, device="cuda")
    return {
        "quiet-script": torch.jit.script(Quiet().cuda()),
        "quiet-trace": torch.jit.trace(Quiet().cuda(), x),
        "quiet-frozen": torch.jit.freeze(torch.jit.script(Quiet().cuda().eval())),
        "quiet-function": torch.jit.trace(adds_constant, x),
        "outspoken-script": torch.jit.script(Outspoken().cuda()),
        "outspoken-trace": torch.jit.trace(BakesIn().cuda(), x),
        "outspoken-frozen": torch.jit.freeze(torch.jit.script(Outspoken().cuda().eval())),
    }


READER = """
import pathlib
x = torch.tensor([[1.0, 2.0]])
for path in sorted(pathlib.Path(folder).iterdir()):
    if path.suffix == ".pt2":
        program = torch.export.load(path)
        assert program.module()(x).tolist() == [[1.0, 2.0]], path
        if machine != "cpu":
            from torch.export.passes import move_to_device_pass
            moved = move_to_device_pass(program, machine).module()(x.to(machine))
            assert (moved.device.type, moved.tolist()) == (machine, [[1.0, 2.0]])
        continue
    if path.name.startswith("quiet"):
        program = torch.jit.load(path)
        assert program(x).tolist() == [[1.0, 2.0]], path
        on_device = torch.jit.load(path, map_location=machine)(x.to(machine))
        assert (on_device.device.type, on_device.tolist()) == (machine, [[1.0, 2.0]]), path
        assert getattr(program, "label", "mps:0") == "mps:0"
    elif machine == "cuda":
        result = torch.jit.load(path)(x.cuda())
        assert (result.device.type, result.tolist()) == ("cuda", [[1.0, 2.0]]), path
print("all read")
"""


@pytest.mark.parametrize("machine", ["cpu", "mps", "cuda"])
def test_plain_torch_on_any_machine_runs_what_is_saved(machine, target, tmp_path):
    needs_other_machine(machine, target)
    x = torch.tensor([[1.0, 2.0]], device="cuda")
    for name, program in programs().items():
        if name.startswith("quiet") or target.type != "cpu":
            torch.jit.save(program, str(tmp_path / f"{name}.pt"))
            program.save(str(tmp_path / f"{name}-2.pt"))
    torch.export.save(torch.export.export(Outspoken().cuda(), (x,)), tmp_path / "program.pt2")
    assert read_by_plain_torch(READER, tmp_path, machine).endswith("all read\n")


def saved(program, **options):
    file = io.BytesIO()
    torch.jit.save(program, file, **options)
    file.seek(0)
    return file


@pytest.mark.parametrize(
    "name",
    [
        *("quiet-script", "quiet-trace", "quiet-frozen", "quiet-function"),
        *("outspoken-script", "outspoken-trace", "outspoken-frozen"),
    ],
)
def test_a_redirected_program_finds_its_tensors_on_the_target(name, target, tmp_path):
    x = torch.tensor([[1.0, 2.0]], device="cuda")
    program = programs()[name]
    torch.jit.save(program, str(tmp_path / "file.pt"))
    for source in (saved(program), tmp_path / "file.pt", str(tmp_path / "file.pt")):
        loaded = torch.jit.load(source)
        for _ in range(2):
            result = loaded(x)
            assert (result.device, result.tolist()) == (target, [[1.0, 2.0]])
        if isinstance(loaded, torch.jit.ScriptModule):
            assert {p.device for p in loaded.parameters()} <= {target}
            assert getattr(loaded, "label", "mps:0") == "mps:0"


def test_extra_files_are_the_programs_own():
    file = saved(torch.jit.script(Quiet().cuda()), _extra_files={"mine": "kept"})
    extra = {"mine": "", "absent": ""}
    torch.jit.load(file, _extra_files=extra)
    assert extra["mine"] in ("kept", b"kept")
    assert set(extra) == {"mine", "absent"}


def test_a_file_of_a_program_without_the_target_is_torchs_own():
    program = torch.jit.script(adds_nothing)
    with torchdevice_mode.native():
        plain = saved(program)
    with zipfile.ZipFile(saved(program)) as ours, zipfile.ZipFile(plain) as theirs:
        assert ours.namelist() == theirs.namelist()


def adds_nothing(x):
    return x + 0


def test_the_cpu_itself_is_the_cpu():
    loaded = torch.jit.load(saved(torch.jit.script(Quiet().cuda())), map_location="cpu:-1")
    assert _override.active()
    assert {p.device.type for p in loaded.parameters()} == {"cpu"}


@pytest.mark.parametrize("bad", [b"", b"text", b"PK\x03\x04 and no more"])
def test_a_bad_file_gives_torchs_own_error(bad):
    with torchdevice_mode.native(), pytest.raises(RuntimeError) as expected:
        torch.jit.load(io.BytesIO(bad))
    with pytest.raises(RuntimeError) as found:
        torch.jit.load(io.BytesIO(bad))
    assert str(found.value) == str(expected.value)


def test_a_missing_file_gives_torchs_own_error(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        torch.jit.load(tmp_path / "nothing.pt")


# --- tracing calls that torch refuses -----------------------------------------------------------


def meets_the_cpu(x):
    return (x + torch.ones_like(x, device=torch.device("cuda")) + CONSTANT["stray"]) * 2


def asks_for_float64(x):
    return x + torch.ones(2, dtype=torch.float64, device="cuda").to(x)


@pytest.mark.parametrize("function", [meets_the_cpu, asks_for_float64])
def test_a_call_that_is_made_otherwise_is_traced(function, target):
    with torchdevice_mode.native():
        CONSTANT["stray"] = torch.ones(2)
    x = torch.ones(2, device="cuda")
    expected = function(x)
    traced = torch.jit.trace(function, x)
    for _ in range(2):
        assert (traced(x).device, traced(x).tolist()) == (target, expected.tolist())
    assert "aten::add" in str(traced.graph)

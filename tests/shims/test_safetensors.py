"""safetensors, whose loader is written in Rust and calls torch from there."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn

import torchdevice_mode
from torchdevice_mode import _override

safetensors = pytest.importorskip("safetensors")
torch_files = pytest.importorskip("safetensors.torch")

pytestmark = [pytest.mark.usefixtures("redirected"), pytest.mark.off_cuda]


@pytest.fixture
def path(tmp_path):
    with torchdevice_mode.native():
        tensors = {"whole": torch.arange(3.0), "half": torch.ones(2).half()}
        torch_files.save_file(tensors, tmp_path / "file.safetensors")
    return tmp_path / "file.safetensors"


@pytest.mark.parametrize("device", ["cuda", "cuda:0", 0, "cuda:3", "mps"])
def test_a_file_loads_onto_the_target(path, target, device):
    loaded = torch_files.load_file(path, device=device)
    assert (loaded["whole"].device, loaded["whole"].tolist()) == (target, [0, 1, 2])
    assert (loaded["half"].device, loaded["half"].dtype) == (target, torch.float16)
    with safetensors.safe_open(path, framework="pt", device=device) as file:
        part = file.get_slice("whole")[1:]
        assert (part.device, part.tolist()) == (target, [1, 2])
        assert file.get_tensor("whole").device == target


@pytest.mark.parametrize("backend", ["mmap", "pread"])
def test_memory_is_read_and_written_on_the_cpu_only(path, tmp_path, target, backend):
    """A pointer of MPS is none to memory; the simulated device would forgive it."""
    asked = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if getattr(func, "__name__", "") == "data_ptr":
                asked.append(args[0].device.type)
            return func(*args, **(kwargs or {}))

    with Watch(), torchdevice_mode.redirect():  # below ours, which must see who asks
        with safetensors.safe_open(path, framework="pt", device="cuda", backend=backend) as file:
            assert file.get_tensor("whole").device == target
            assert file.get_slice("whole")[:].tolist() == [0, 1, 2]
            assert file.get_slice("whole").get_shape() == [3]
            loaded = file.get_tensors()
        torch_files.load_file(path, device="cuda", backend=backend)
        torch_files.save_file(loaded, tmp_path / "copy")
        torch_files.save(loaded)
    assert set(asked) <= {"cpu"}


def test_what_is_read_for_the_cpu_stays_there(path):
    assert torch_files.load_file(path)["whole"].device.type == "cpu"
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.get_tensor("whole").device.type == "cpu"
        assert file.get_slice("whole")[1:].device.type == "cpu"


def test_the_cpu_itself_is_the_cpu(path):
    loaded = torch_files.load_file(path, device="cpu:-1")
    assert loaded["whole"].device.type == "cpu"
    assert _override.active()
    assert torch_files.load_file(path, device="cpu")["whole"].device.type == "cpu"


@pytest.mark.skipif(
    "safetensors" not in inspect.getsource(torch.serialization.load),
    reason="this torch does not read such files",
)
def test_torch_loads_such_a_file(path, target):
    assert torch.load(path, map_location="cuda")["whole"].device == target


def test_what_is_saved_loads_in_plain_torch(tmp_path):
    saved = {"whole": torch.arange(3.0, device="cuda"), "part": torch.ones(4, device="cuda")[1:3]}
    torch_files.save_file({name: t.contiguous() for name, t in saved.items()}, tmp_path / "file")
    data = torch_files.save({"whole": saved["whole"]})
    with torchdevice_mode.native():
        loaded = torch_files.load_file(tmp_path / "file")
        assert torch_files.load(data)["whole"].tolist() == [0, 1, 2]
    assert {name: t.tolist() for name, t in loaded.items()} == {"whole": [0, 1, 2], "part": [1, 1]}
    assert {t.device.type for t in loaded.values()} == {"cpu"}


def test_a_model_is_saved_and_loaded(tmp_path, target):
    layer = nn.Linear(2, 2).cuda()
    torch_files.save_model(layer, str(tmp_path / "model"))
    other = nn.Linear(2, 2).cuda()
    assert torch_files.load_model(other, tmp_path / "model", device="cuda") == (set(), [])
    assert other.weight.device == target
    assert other.weight.tolist() == layer.weight.tolist()


@pytest.mark.filterwarnings("ignore::torchdevice_mode.TorchDeviceWarning")
def test_float64_in_a_file_fits_the_target(tmp_path, target):
    with torchdevice_mode.native():
        wide = {"wide": torch.tensor([1.5], dtype=torch.float64)}
        torch_files.save_file(wide, tmp_path / "file")
    loaded = torch_files.load_file(tmp_path / "file", device="cuda")["wide"]
    assert (loaded.device, loaded.tolist()) == (target, [1.5])


def test_a_bad_file_gives_its_own_error(tmp_path):
    (tmp_path / "file").write_bytes(b"\x08\0\0\0\0\0\0\0{nothing")
    with torchdevice_mode.native(), pytest.raises(safetensors.SafetensorError) as expected:
        torch_files.load_file(tmp_path / "file")
    with pytest.raises(safetensors.SafetensorError) as found:
        torch_files.load_file(tmp_path / "file", device="cuda")
    assert str(found.value) == str(expected.value)

"""Building and loading the simulated device, each time in a process of its own."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from torchdevice_mode import SimulatorError, simulate
from torchdevice_mode.simulate import _build

# Every test starts processes, which run the same whatever this one has loaded.
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the simulated device runs on Linux"),
    pytest.mark.skipif(
        bool(os.environ.get("TORCHDEVICE_TEST_SIMULATED")), reason="runs in the plain run"
    ),
]

LOAD = "from torchdevice_mode import simulate; simulate.load()\n"


def start(*arguments: str | Path, **environment: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **{k: str(v) for k, v in environment.items()}},
    )


def result(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def execute(code: str, **environment: str | Path) -> tuple[int, str, str]:
    return result(start("-c", textwrap.dedent(code), **environment))


@pytest.fixture(scope="module")
def built() -> Path:
    """The compiled device in the user's cache, compiled now if it is not there."""
    try:
        return _build.library_path("mps")
    except SimulatorError as error:
        pytest.skip(str(error))


@pytest.fixture
def compiler(tmp_path: Path, built: Path) -> Path:
    """A compiler that takes a second and gives the device that was compiled before."""
    script = tmp_path / "fake-c++"
    script.write_text(
        f"""#!/bin/sh
        cat > {tmp_path}/unit.cpp
        echo called >> {tmp_path}/calls
        sleep 1
        while [ "$1" != -o ]; do shift; done
        cp {built} "$2"
        """
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


# --- what cannot be ----------------------------------------------------------------------------

NO_COMPILER = (
    "The simulated accelerator needs a C++ compiler and found none (/nonexistent): install g++, "
    "or name a compiler in CXX."
)
FAILED = "The C++ compiler '{}' could not build the simulated accelerator: device.cpp:1: error: no"
NOT_A_DIRECTORY = (
    "The simulated device cannot be kept in {} (Not a directory): set TORCHDEVICE_CACHE to a "
    "directory that can be written to."
)
TOO_LATE = (
    "Something asked torch about MPS before the simulated device was loaded: call simulate.load() "
    "earlier."
)
UNKNOWN = "There is no simulated '{}': the devices to simulate are 'mps' and 'cuda'."
NOT_LOADED = "The simulated device is not loaded: call simulate.load() first."


def failure_to_build(monkeypatch: pytest.MonkeyPatch, **environment: str | Path) -> str:
    """What the simulator says that it raises where it would compile, in this process."""
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SimulatorError) as raised:
        simulate.load()
    assert not simulate.is_loaded()
    return str(raised.value)


def failure_of(code: str, **environment: str | Path) -> str:
    """What the simulator says that it raises, which must be its last word."""
    status, out, err = execute(code, **environment)
    assert (status, out) == (1, "")
    prefix = "torchdevice_mode.errors.SimulatorError: "
    last = err.splitlines()[-1]
    assert last.startswith(prefix), err
    return last.removeprefix(prefix)


def test_missing_compiler_is_one_sentence(tmp_path):
    assert failure_of(LOAD, CXX="/nonexistent", TORCHDEVICE_CACHE=tmp_path) == NO_COMPILER
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_no_compiler_on_the_path_names_those_that_were_looked_for(tmp_path, monkeypatch):
    said = failure_to_build(monkeypatch, CXX="", PATH=tmp_path, TORCHDEVICE_CACHE=tmp_path)
    assert "found none (c++, g++, clang++): install g++" in said


def test_missing_compiler_is_one_line_on_the_command_line(tmp_path):
    process = start(
        "-m",
        *("torchdevice_mode", "run", "--simulate", "mps", __file__),
        CXX="/nonexistent",
        TORCHDEVICE_CACHE=tmp_path,
    )
    assert result(process) == (2, "", f"torchdevice: error: {NO_COMPILER}\n")


def test_failing_compiler_gives_its_first_error_and_leaves_nothing(tmp_path, monkeypatch):
    script = tmp_path / "bad-c++"
    script.write_text(
        "#!/bin/sh\necho 'warning: x' >&2\necho 'device.cpp:1: error: no' >&2\nexit 1\n"
    )
    script.chmod(0o755)
    cache = tmp_path / "cache"
    said = failure_to_build(monkeypatch, CXX=script, TORCHDEVICE_CACHE=cache)
    assert said == FAILED.format(script)
    assert [path.name for path in cache.iterdir()] == ["lock"]


def test_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "cache"
    said = failure_to_build(monkeypatch, TORCHDEVICE_CACHE=cache)
    assert said == NOT_A_DIRECTORY.format(cache)


def test_a_gpu_that_torch_finds_is_named():
    asked = "import torch; torch._C._cuda_getDeviceCount = lambda: 2; " + LOAD
    assert failure_of(asked).startswith("torch finds a GPU here and has one accelerator at most")


@pytest.mark.parametrize("device", ["cuda:0", "mps:0", "toaster", ""])
def test_unknown_device_is_named(device):
    with pytest.raises(SimulatorError) as raised:
        simulate.load(device)
    assert str(raised.value) == UNKNOWN.format(device)


def load_after(question: str) -> tuple[int, str, str]:
    return execute(f"""
        import torch
        from torchdevice_mode import simulate
        try:
            {question}
        except Exception:
            pass
        for _ in range(2):
            try:
                simulate.load()
            except simulate.SimulatorError as error:
                print(error)
        print(simulate.is_loaded(), torch.backends.mps.is_available())
    """)


@pytest.mark.parametrize(
    "question", ["torch.backends.mps.is_available()", "torch.accelerator.is_available()"]
)
def test_loading_after_torch_was_asked_about_mps_is_refused(built, question):
    assert load_after(question) == (0, f"{TOO_LATE}\n{TOO_LATE}\nFalse False\n", "")


def test_loading_after_torch_drew_numbers_or_failed_to_make_a_tensor_is_not_too_late(built):
    question = "torch.manual_seed(0); torch.mps.device_count(); torch.ones(1, device='mps')"
    assert load_after(question) == (0, "True True\n", "")


@pytest.mark.parametrize(
    "use",
    [
        lambda: simulate.counters(),
        lambda: simulate.counting().__enter__(),
        lambda: simulate.memory_limit(1).__enter__(),
        lambda: simulate.missing_operators(["add"]).__enter__(),
    ],
    ids=["counters", "counting", "memory_limit", "missing_operators"],
)
def test_use_before_loading_says_so(use):
    assert not simulate.is_loaded()
    with pytest.raises(SimulatorError, match=re.escape(NOT_LOADED)):
        use()


cpu_build = pytest.mark.skipif(
    torch.version.cuda is not None, reason="a CUDA build of torch has that device itself"
)


@pytest.mark.parametrize(
    ("first", "second"), [("mps", "cuda"), pytest.param("cuda", "mps", marks=cpu_build)]
)
def test_a_process_has_one_simulated_device(built, first, second):
    code = f"from torchdevice_mode import simulate; simulate.load('{first}')\n"
    assert failure_of(code + f"simulate.load('{second}')") == (
        f"This process simulates '{first}' and cannot simulate '{second}' as well: use another "
        "process."
    )


@cpu_build
@pytest.mark.parametrize("question", ["pass", "torch.cuda.is_available(); torch.zeros(1).cuda()"])
def test_a_cpu_build_of_torch_gets_a_cuda_device(built, question):
    """The device's own tests run in a process of theirs; this is the proof that there is one."""
    status, out, err = execute(f"""
        import torch
        from torchdevice_mode import simulate
        try:
            {question}
        except AssertionError:
            pass
        simulate.load("cuda")
        model = torch.nn.Linear(2, 1).cuda()
        torch.optim.Adam(model.parameters()).step()
        model(torch.ones(3, 2, device="cuda")).sum().backward()
        print(torch.cuda.is_available(), torch.accelerator.current_accelerator(), model.weight.grad)
    """)
    assert (status, err) == (0, "")
    assert out == "True cuda tensor([[3., 3.]], device='cuda:0')\n"


def test_a_cuda_build_of_torch_is_not_given_a_simulated_cuda():
    code = """
        import torch
        from torchdevice_mode import simulate
        torch._C._cuda_getDeviceCount = lambda: 0
        simulate.load("cuda")
    """
    assert failure_of(code).endswith("use a CPU build of torch to simulate it.")


# --- building and caching ----------------------------------------------------------------------


def test_processes_that_start_together_compile_once(tmp_path, compiler):
    cache = tmp_path / "cache"
    code = LOAD + "import torch; print(torch.ones(2, device='mps').sum().item())"
    together = [start("-c", code, CXX=compiler, TORCHDEVICE_CACHE=cache) for _ in range(3)]
    assert [result(process) for process in together] == [(0, "2.0\n", "")] * 3
    assert (tmp_path / "calls").read_text() == "called\n"
    kinds = sorted(path.suffix for path in cache.iterdir())
    assert kinds == ["", ".so"]  # the lock and the library, and nothing half made


def test_one_unit_has_every_source(tmp_path, compiler):
    assert execute(LOAD, CXX=compiler, TORCHDEVICE_CACHE=tmp_path / "cache") == (0, "", "")
    included = (tmp_path / "unit.cpp").read_text()
    for source in Path(_build.__file__).parent.glob("*.cpp"):
        if source.name == "cuda.cpp":
            continue  # the other device's
        assert f'#include "{source}"\n' in included


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({"TORCHDEVICE_CACHE": "/a/b"}, "/a/b"),
        ({"TORCHDEVICE_CACHE": "", "XDG_CACHE_HOME": "/c"}, "/c/torchdevice"),
        ({"TORCHDEVICE_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/d"}, "/d/.cache/torchdevice"),
    ],
)
def test_cache_lies_where_the_user_says(monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _build._cache_directory() == Path(expected)


# --- loading -----------------------------------------------------------------------------------


def test_importing_imports_no_torch_and_a_later_start_needs_no_compiler_and_no_time(built):
    code = f"""
        import sys, time
        from torchdevice_mode import simulate
        print("torch" in sys.modules)
        import torch
        started = time.process_time()
        {LOAD.strip()}
        print(time.process_time() - started < 1)
        print(any(name.startswith(("torch._dynamo", "torch._inductor")) for name in sys.modules))
    """
    assert execute(code, CXX="/nonexistent") == (0, "False\nTrue\nFalse\n", "")


def test_threads_that_load_together_load_one(built):
    code = """
        import threading
        from torchdevice_mode import simulate
        import torch
        threads = [threading.Thread(target=simulate.load) for _ in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        plain = torch._TorchCompileInductorWrapper.__call__, torch.UntypedStorage.__new__
        simulate.load("mps")
        print(plain == (torch._TorchCompileInductorWrapper.__call__, torch.UntypedStorage.__new__))
        print(simulate.is_loaded(), torch.ones(1, device="mps").device)
    """
    assert execute(code) == (0, "True\nTrue mps:0\n", "")


# What is there when a process ends, and the status that it ends with.
OBJECTS = """
import atexit
atexit.register(lambda: torch.ones(2, device='mps').tolist())
model = torch.nn.Linear(2, 2).to('mps')
optimizer = torch.optim.Adam(model.parameters())
model(torch.ones(1, 2, device='mps')).sum().backward()
optimizer.step()
x = torch.ones(3, device='mps', requires_grad=True)
x.me, graph = x, (x * 2).sum()
event, other = torch.mps.Event(enable_timing=True), torch.Event('mps')
event.record(), other.record()
generator = torch.Generator('mps')
storage = torch.UntypedStorage(3, device='mps')
blocks = [simulate.missing_operators(['aten::add']), simulate.memory_limit(1 << 20)]
[block.__enter__() for block in blocks]
"""
THREADS = """
import sys, threading, time
def work():
    y = torch.ones(3, device='mps')
    time.sleep(60)
x = torch.ones(3, device='mps')
threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
threading.Thread(target=lambda: [x.add_(1) for _ in range(200)]).start()
sys.exit(3)
"""


@pytest.mark.parametrize(
    ("program", "status"), [(OBJECTS, 0), (THREADS, 3)], ids=["objects", "threads"]
)
def test_process_ends_quietly_with_the_status_of_the_program(built, program, status):
    assert execute(f"{LOAD}import torch\n{program}") == (status, "", "")


FORKED = "Cannot use the simulated MPS device in a forked subprocess: real MPS hangs there."


def test_forked_child_has_the_cpu_and_an_error_for_the_device(built):
    code = f"""
        {LOAD.strip()}
        import os, torch
        x = torch.ones(2, device="mps")
        if os.fork() == 0:
            print(torch.mps._is_in_bad_fork(), (torch.ones(2) + 1).tolist())
            for use in [lambda: x + 1, lambda: torch.zeros(2, device="mps")]:
                try:
                    use()
                except RuntimeError as error:
                    print(error)
            torch.manual_seed(0)
            raise SystemExit(0)
        print(os.wait()[1], (x + 1).tolist(), torch.mps._is_in_bad_fork())
    """
    status, out, err = execute(code)
    assert (status, err) == (0, "")
    first, *errors, last = out.splitlines()
    assert first == "True [2.0, 2.0]"
    assert len(errors) == 2 and all(error.startswith(FORKED) for error in errors)
    assert last == "0 [2.0, 2.0] False"


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_data_loader_workers_give_cpu_tensors(built, tmp_path, method):
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent(f"""
        import torch
        from torchdevice_mode import simulate

        class Numbers(torch.utils.data.Dataset):
            def __len__(self):
                return 4
            def __getitem__(self, i):
                return torch.tensor(float(i))

        if __name__ == "__main__":
            simulate.load()
            x = torch.ones(1, device="mps")
            loader = torch.utils.data.DataLoader(
                Numbers(), 2, num_workers=1, multiprocessing_context={method!r}
            )
            print([(batch.to("mps") + x).tolist() for batch in loader])
        """)
    )
    assert result(start(script)) == (0, "[[1.0, 2.0], [3.0, 4.0]]\n", "")


# --- pytest ------------------------------------------------------------------------------------

PYTEST = """
import torch

AT_IMPORT = torch.backends.mps.is_available()

def test_option():
    assert AT_IMPORT and torch.ones(2, device="mps").sum().item() == 2

def test_fixture(simulated_mps):
    with simulated_mps.counting() as counts:
        torch.ones(2, device="mps").cpu()
    assert counts.copies_from_device == 1
"""


def run_pytest(folder: Path, *options: str) -> tuple[int, str]:
    (folder / "test_it.py").write_text(PYTEST)
    (folder / "pytest.ini").write_text("[pytest]\n")
    process = start("-m", "pytest", "-q", "-p", "no:cacheprovider", *options, folder)
    status, out, err = result(process)
    return status, out + err


def test_pytest_option_simulates_before_modules_are_imported(built, tmp_path):
    status, said = run_pytest(tmp_path, "--torchdevice-simulate", "mps")
    assert (status, "2 passed" in said) == (0, True), said


def test_pytest_fixture_alone_is_too_late_where_a_module_asked_before(built, tmp_path):
    status, said = run_pytest(tmp_path)
    assert status == 1
    assert TOO_LATE in said.replace("\n", " ")


def test_pytest_option_refuses_another_device_in_one_line(tmp_path):
    status, said = run_pytest(tmp_path, "--torchdevice-simulate", "toaster")
    assert status == 4
    error = "ERROR: --torchdevice-simulate=toaster is not a value that it can have: "
    assert said.strip() == error + "give 'mps' or 'cuda'."

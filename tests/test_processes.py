"""Processes that a redirected program starts: redirected alike, and added up in its report."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import traceback
from multiprocessing import connection
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
import torch.multiprocessing as mp
from conftest import SIMULATED
from installation import ROOT, Installation, environment
from torch.utils.data import DataLoader, Dataset

import torchdevice_mode
from torchdevice_mode import TorchDeviceWarning
from torchdevice_mode._log import forget_warnings

TARGET = ["--simulate", SIMULATED] if SIMULATED else ["--target", "cpu"]
METHODS = ["fork", "spawn", "forkserver"]
REFUSED = (
    "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must "
    "use the 'spawn' start method"
)


@pytest.fixture(autouse=True)
def said_anew():
    forget_warnings()
    yield
    forget_warnings()


def run(folder, source: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A program under `torchdevice run`."""
    (folder / "program.py").write_text(textwrap.dedent(source))
    return subprocess.run(
        [sys.executable, "-m", "torchdevice", "run", *TARGET, *options, "program.py"],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT / "src"), OMP_NUM_THREADS="1", **variables),
        capture_output=True,
        text=True,
        timeout=240,
    )


def summary(stderr: str) -> str:
    return stderr[stderr.index("torchdevice: ") :]


# --- data loaders -------------------------------------------------------------------------------


class Reports(Dataset):
    """Items that tell where the worker makes tensors, by three ways of asking."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        made = torch.zeros(1), torch.zeros(1, device="cuda"), torch.zeros(1, device="cpu").cuda()
        return torch.tensor([index]), [tensor.device.type for tensor in made]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("persistent", [False, True], ids=["", "persistent"])
def test_tensors_of_workers_are_cpu_tensors_and_move_as_the_program_says(
    redirected, target, method, persistent
):
    torch.ones(1, device="cuda")  # so that a fork could not use the device
    loader = DataLoader(
        Reports(), 2, num_workers=1, multiprocessing_context=method, persistent_workers=persistent
    )
    for _ in range(2 if persistent or method == "fork" else 1):
        batches = list(loader)
        assert [batch.flatten().tolist() for batch, _ in batches] == [[0, 1], [2, 3]]
        assert {batch.device.type for batch, _ in batches} == {"cpu"}
        assert {batch.cuda().device for batch, _ in batches} == {target}
        assert {kind for _, told in batches for one in told for kind in one} == {"cpu"}


class CountsAllocations(Reports):
    def __getitem__(self, index):
        super().__getitem__(index)
        return torchdevice_mode.simulate.counters().allocations


@pytest.mark.simulated
def test_no_accelerator_is_used_in_a_fork(redirected):
    loader = DataLoader(CountsAllocations(), None, num_workers=1, multiprocessing_context="fork")
    assert len(set(loader)) == 1


class Fails(Reports):
    def __getitem__(self, index):
        raise KeyError("missing", torch.zeros(1, device="cpu").item())


class IsKilled(Reports):
    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (Fails(), KeyError, "Caught KeyError in DataLoader worker process 0."),
        (IsKilled(), RuntimeError, "is killed by signal: Killed."),
    ],
)
def test_what_ends_a_worker_is_what_plain_torch_says(data, error, words, monkeypatch):
    # How long torch waits for the worker to end: all of it, as the end of a loader has no news.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.5)
    for context in (torchdevice_mode.native(), torchdevice_mode.redirect()):
        with context, pytest.raises(error) as caught:
            list(DataLoader(data, num_workers=1, multiprocessing_context="fork"))
        assert words in "".join(traceback.format_exception(caught.value))
        assert type(caught.value) is error
        # The loader goes now: in the next worker, its end would be an error.
        del caught
        gc.collect()


# --- a program that starts processes in every way -----------------------------------------------

STARTS = """
    import os, sys
    import torch
    import torch.multiprocessing as mp
    from concurrent.futures import ProcessPoolExecutor

    AT_IMPORT = torch.zeros(1, device="cuda").device.type

    def work(rank):
        return torch.ones(2, device="cuda").device.type, AT_IMPORT

    def check(rank, expected, x):
        assert work(rank) == (expected, expected), work(rank)
        assert (x.device.type, x.tolist()) == (expected, [0.0, 1.0, 2.0]), x

    def send(queue, received):
        queue.put((torch.arange(3.0).cuda(), torch.nn.Parameter(torch.ones(1).cuda())))
        received.wait()  # CUDA's rules: memory that was sent lives as long as its process

    if __name__ == "__main__":
        kind = work(0)[0]
        mp.spawn(check, args=(kind, torch.arange(3.0).cuda()), nprocs=1)
        with ProcessPoolExecutor(1, mp_context=mp.get_context("forkserver")) as pool:
            assert list(pool.map(work, range(3))) == [(kind, kind)] * 3
        with mp.get_context("spawn").Pool(1) as pool:
            assert pool.map(work, range(4)) == [(kind, kind)] * 4
            pool.apply(os.getpid)
        context = mp.get_context("spawn")
        queue, received = context.Queue(), context.Event()
        process = context.Process(target=send, args=(queue, received))
        process.start()
        x, parameter = queue.get()
        received.set()
        print(x.device.type == kind, x.tolist(), type(parameter).__name__, parameter.device.type)
        process.join()
        print(kind)
"""


def test_processes_are_redirected_as_their_parent_and_added_to_its_report(tmp_path):
    done = run(tmp_path, STARTS)
    kind = SIMULATED or "cpu"
    assert done.stdout == f"True [0.0, 1.0, 2.0] Parameter {kind}\n{kind}\n", done.stderr
    # By the parent, and by processes started by spawn, forkserver, a pool that ends by a kill.
    if SIMULATED != "cuda":
        assert f"{1 + 1 + 3 + 4}x  program.py:10  cuda -> " in summary(done.stderr)
        assert "5x  program.py:7 " in summary(done.stderr)
    assert "left no counts" not in done.stderr


@pytest.fixture(scope="module")
def hooked(tmp_path_factory):
    installation = Installation(tmp_path_factory.mktemp("hooked"))
    installation.add_hook()
    return installation


CHILD = """
import sys, torch
rank = torch.ones(1, device="cuda")
print(sys.argv[1], rank.device.type, flush=True)
"""
PARENT = """
import os, subprocess, sys
assert "torch" not in sys.modules or "--simulate" in sys.orig_argv
subprocess.run([sys.executable, "child.py", "subprocess"], check=True)
if os.fork() == 0:
    os.execv(sys.executable, [sys.executable, "child.py", "fork and exec"])
os.wait()
torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
subprocess.run([*torchrun, "child.py", "torchrun"], check=True)
"""


def test_programs_that_a_program_starts_are_redirected_by_their_environment(hooked, tmp_path):
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / "parent.py").write_text(PARENT)
    done = subprocess.run(
        [hooked.python, "-m", "torchdevice", "run", *TARGET, "parent.py"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT / "src"), OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=240,
    )
    kind = SIMULATED or "cpu"
    ways = ["fork and exec", "subprocess", "torchrun", "torchrun"]
    assert sorted(done.stdout.splitlines()) == [f"{way} {kind}" for way in ways], done.stderr
    if SIMULATED != "cuda":
        assert "4x  child.py:3  cuda -> " in summary(done.stderr)


# --- what travels -------------------------------------------------------------------------------


def test_enable_sets_the_variables_of_children_and_disable_takes_them_back(monkeypatch):
    monkeypatch.setenv("TORCHDEVICE_POLICY", "explicit")
    before = dict(os.environ)
    torchdevice_mode.enable("cpu", rng="cpu")
    try:
        told = {name: value for name, value in os.environ.items() if before.get(name) != value}
        told.pop("TORCHDEVICE_LEDGERS", None)
        told.pop("TORCHDEVICE_SIMULATE", None)
        assert told == {
            "ACTIVATE_TORCH_DEVICE": "1",
            "TORCHDEVICE_TARGET": "cpu",
            "TORCHDEVICE_OVERRIDE": "cpu",
            "TORCHDEVICE_DISPATCH": "auto",
            "TORCHDEVICE_FLOAT64": "downcast",
            "TORCHDEVICE_RNG": "cpu",
        }
        assert os.environ.get("TORCHDEVICE_SIMULATE") == (SIMULATED or None)
    finally:
        torchdevice_mode.disable()
    assert dict(os.environ) == before


def test_a_variable_that_the_program_changes_while_enabled_stays_changed(monkeypatch):
    monkeypatch.setenv("TORCHDEVICE_RNG", "target")
    torchdevice_mode.enable("cpu", rng="cpu")
    os.environ["TORCHDEVICE_RNG"] = "target"
    torchdevice_mode.disable()
    assert os.environ["TORCHDEVICE_RNG"] == "target"


def test_a_block_changes_no_variable():
    before = dict(os.environ)
    with torchdevice_mode.redirect("cpu"):
        assert dict(os.environ) == before


def test_a_process_is_told_what_holds_in_the_thread_that_starts_it(monkeypatch):
    from multiprocessing import spawn

    def told() -> str:
        data = spawn.get_preparation_data("child")
        return str(data["torchdevice"].__reduce__()[1]) if "torchdevice" in data else ""

    plain = spawn.get_preparation_data
    with torchdevice_mode.redirect("cpu", policy="explicit"):
        assert "'TORCHDEVICE_POLICY': 'explicit'" in told()
        with torchdevice_mode.native():
            assert told() == ""
            monkeypatch.setenv("ACTIVATE_TORCH_DEVICE", "1")
            assert "'ACTIVATE_TORCH_DEVICE': None" in told()
    assert spawn.get_preparation_data is plain


def test_a_child_that_cannot_import_the_package_goes_on():
    with torchdevice_mode.redirect("cpu"):
        from multiprocessing import spawn

        data = pickle.dumps(spawn.get_preparation_data("child")["torchdevice"])
    code = f"import pickle; print(pickle.loads({data!r}))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")


# --- tensors between processes ------------------------------------------------------------------


def sent(value):
    """What another process would unpickle."""
    return pickle.loads(bytes(ForkingPickler.dumps(value)))


TENSORS = {
    "float": lambda: torch.arange(6.0, device="cuda").reshape(2, 3),
    "view": lambda: torch.arange(6.0, device="cuda").reshape(2, 3).t()[1:],
    "bfloat16": lambda: torch.ones(3, device="cuda", dtype=torch.bfloat16),
    "empty": lambda: torch.empty(0, 2, device="cuda"),
    "leaf": lambda: torch.ones(2, device="cuda", requires_grad=True),
    "sparse": lambda: torch.eye(3, device="cuda").to_sparse(),
}


@pytest.mark.skipif(SIMULATED == "cuda", reason="there CUDA's own memory handles would be needed")
@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_arrives_on_the_device_that_it_was_sent_from(redirected, name):
    x = TENSORS[name]()
    y = sent(x)
    assert (y.device, y.dtype, y.layout, y.requires_grad) == (
        *(x.device, x.dtype, x.layout, x.requires_grad),
    )
    assert torch.equal(x.to_dense(), y.to_dense())


@pytest.mark.simulated_mps
def test_a_parameter_that_is_sent_is_a_copy_and_that_is_said(redirected):
    with pytest.warns(TorchDeviceWarning, match=r"as a copy.*\[sent-by-copy\]"):
        received = sent(torch.nn.Parameter(torch.ones(2, device="cuda"), requires_grad=True))
    assert type(received) is torch.nn.Parameter


@pytest.mark.skipif(SIMULATED == "cuda", reason="there CUDA's own memory handles would be needed")
def test_a_tensor_with_a_graph_is_refused_as_by_plain_torch(redirected):
    x = torch.ones(2, device="cuda", requires_grad=True) * 2
    with pytest.raises(RuntimeError, match="Cowardly refusing to serialize non-leaf tensor"):
        sent(x)


HOGWILD = """
    import torch
    import torch.multiprocessing as mp

    def train(rank, model, device):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(4, 2).to(device)).sum().backward()
            optimizer.step()

    if __name__ == "__main__":
        device = torch.device("cuda")
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 1).to(device)
        before = model.bias.item()
        model.share_memory()
        mp.spawn(train, (model, device), nprocs=1)
        print(round(before - model.bias.item(), 4), model.bias.is_shared())
        print(model(torch.ones(1, 2).cuda()).device.type)
"""


@pytest.mark.skipif(SIMULATED == "cuda", reason="there CUDA's own memory handles would be needed")
def test_a_shared_model_is_trained_by_other_processes(tmp_path):
    done = run(tmp_path, HOGWILD)
    # Three steps of 0.1 times a gradient of 4.
    assert done.stdout == f"1.2 True\n{SIMULATED or 'cpu'}\n", done.stderr
    said = [word for word in done.stderr.split() if word.startswith("[")]
    assert said == (["[shared-on-cpu]"] if SIMULATED else []), done.stderr


# --- forks --------------------------------------------------------------------------------------


def in_fork(function) -> object:
    """What a function gives in a forked child, or the error that it raises there."""
    receive, send = mp.Pipe(duplex=False)
    gc.collect()
    child = os.fork()
    if child == 0:
        try:
            result = function()
        except BaseException as error:
            result = type(error).__name__, str(error)
        send.send(result)
        os._exit(0)
    send.close()
    assert connection.wait([receive], timeout=60), "the child hangs"
    result = receive.recv()
    os.waitpid(child, 0)
    return result


REQUESTS = {
    "factory": lambda: torch.ones(1, device="cuda"),
    "move": lambda: torch.ones(1).cuda(),
    "index": lambda: torch.ones(1).to(0),
    "module": lambda: torch.nn.Linear(1, 1).to("cuda"),
    "initialisation": lambda: torch.cuda.init(),
}


@pytest.mark.simulated_mps
@pytest.mark.parametrize("name", REQUESTS)
def test_a_fork_of_a_process_that_used_the_device_is_refused_it_as_by_cuda(redirected, name):
    torch.ones(1, device="cuda")
    assert in_fork(REQUESTS[name]) == ("RuntimeError", REFUSED)
    assert torch.ones(1, device="cuda").item() == 1, "the parent goes on"


@pytest.mark.simulated_mps
def test_a_fork_that_entered_redirection_itself_is_refused_too(target):
    torch.ones(1, device=target)

    def enter():
        with torchdevice_mode.redirect():
            return torch.ones(1).device.type, str(torch.ones(1).cuda())

    assert in_fork(enter) == ("RuntimeError", REFUSED)


def test_a_fork_computes_on_the_cpu(redirected):
    torch.ones(1, device="cuda")

    def compute():
        return (torch.ones(2) + torch.ones(2, device="cpu")).sum().item(), torch.ones(1).device.type

    assert in_fork(compute) == (4.0, "cpu")


@pytest.mark.skipif(bool(SIMULATED), reason="about the CPU as target")
@pytest.mark.parametrize("name", REQUESTS)
def test_a_fork_uses_the_cpu_that_stands_for_cuda(redirected, name):
    def ask():
        REQUESTS[name]()
        return torch.cuda._is_in_bad_fork()

    torch.ones(1, device="cuda")
    assert in_fork(ask) is False


@pytest.mark.simulated_mps
def test_torch_cuda_knows_a_bad_fork(redirected):
    torch.ones(1, device="cuda")
    assert not torch.cuda._is_in_bad_fork()
    assert in_fork(torch.cuda._is_in_bad_fork) is True
    assert in_fork(torch.cuda.is_initialized) is False


def test_a_fork_counts_what_it_does_and_not_what_its_parent_did(redirected):
    torch.ones(1, device="cpu")

    def count():
        before = torchdevice_mode.ledger().total()
        torch.device("xpu")
        return before, torchdevice_mode.ledger().total()

    torch.device("xpu")
    assert in_fork(count) == (0, 1)


# --- faults -------------------------------------------------------------------------------------

FAULTS = """
    import os, resource, signal, sys, torch

    def child(end):
        if os.fork() == 0:
            x = torch.device("cuda")
            end()
            sys.exit(0)
        print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)

    def fill_the_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    def fail():
        raise ValueError("of the child")

    child(lambda: None)
    child(lambda: os.kill(os.getpid(), signal.SIGKILL))
    child(lambda: os._exit(3))
    child(fail)
    child(fill_the_disk)
"""


def test_a_child_that_ends_badly_costs_its_counts_and_nothing_else(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = run(tmp_path, FAULTS, TMPDIR=str(scratch))
    assert done.returncode == 0
    assert done.stdout == "0\n-9\n3\n1\n0\n", done.stderr
    assert "ValueError: of the child" in done.stderr
    assert done.stderr.count("[ledger-lost]") == 1 and "(File too large)" in done.stderr
    last = done.stderr[done.stderr.rindex("torchdevice: ") :]
    assert last == (
        "torchdevice: 3 child processes left no counts: ended from outside, or still running\n"
    )
    if SIMULATED != "cuda":
        # The one that ended well, and the one that raised.
        assert "  2x  program.py:6  cuda -> " in done.stderr
    assert list(scratch.iterdir()) == [], "nothing is left behind"


def test_a_summary_goes_out_to_a_full_disk_quietly(tmp_path):
    program = "import torch; torch.ones(1, device='cuda')"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "torchdevice", "run", *TARGET, "-c", program],
            env=environment(PYTHONPATH=str(ROOT / "src")),
            stderr=full,
            timeout=120,
        )
    assert done.returncode == 0

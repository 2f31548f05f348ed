"""A program under `torchdevice run` does what it does under `python`, output for output."""

from __future__ import annotations

import os
import py_compile
import re
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SHOW = """
import sys, types
main = sys.modules["__main__"]
assert vars(main) is globals() and main.__class__ is types.ModuleType
print("argv", sys.argv)
print("path", sys.path)
for name, value in sorted(globals().items()):
    if name in ("__loader__", "__spec__"):
        value = getattr(value, "name", None), getattr(value, "__name__", type(value))
    print(name, value)
print("package", __package__, "origin", getattr(__spec__, "origin", None))
"""
SHOW_INPUT = SHOW + "print('input', sys.stdin.read())\n"

FILES = {
    "show.py": SHOW,
    "show_input.py": SHOW_INPUT,
    "sub/neighbour.py": "print('neighbour', __name__)",
    "sub/script.py": "import neighbour",
    "package/__init__.py": "print('package')",
    "package/__main__.py": SHOW,
    "package/inner.py": "from . import other\n" + SHOW,
    "package/other.py": "print('other', __name__)",
    "package/fails.py": "def fail():\n    raise ValueError('of the module')\n\nfail()",
    "no_main/__init__.py": "",
    "folder/__main__.py": SHOW,
    "folder/beside.py": "",
    "empty/readme.txt": "",
    "syntax.py": "x = 1\ny = = 2\n",
    "imports_syntax.py": "import syntax",
    "latin.py": b"# -*- coding: latin-1 -*-\nprint(ascii('\xe9'))",
    "fails.py": "def fail():\n    return 1 / 0\n\nfail()",
    "chained.py": """
        def fail():
            try:
                {}["key"]
            except KeyError as error:
                raise ValueError("bad") from error
        try:
            fail()
        except ValueError:
            raise RuntimeError("worse")
    """,
    "hook.py": """
        import sys, traceback
        def hook(kind, value, tb):
            print("hook", kind.__name__, value, len(traceback.extract_tb(tb)))
            print(tb is value.__traceback__ is sys.last_traceback, sys.last_value is value)
        sys.excepthook = hook
        1 / 0
    """,
    "no_hook.py": "import sys\ndel sys.excepthook\nprint('before')\nsys.exit(3)",
    "hook_exits.py": """
        import sys
        sys.excepthook = lambda *_: sys.exit(7)
        1 / 0
    """,
    "base.py": "class Stop(BaseException): pass\nraise Stop('now')",
    "system_exit_subclass.py": "class Stop(SystemExit): pass\nraise Stop(9)",
    "generator_exit.py": "raise GeneratorExit",
    "no_excepthook_frames.py": """
        import traceback
        try:
            1 / 0
        except ZeroDivisionError:
            traceback.print_exc()
    """,
    "cleared.py": "error = ValueError('x').with_traceback(None)\nraise error",
    "interrupt.py": """
        import atexit, os, signal, time
        atexit.register(print, "at exit")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    """,
    "interrupt_raised.py": "raise KeyboardInterrupt",
    "terminate.py": """
        import atexit, os, signal, time
        atexit.register(print, "not printed")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    """,
    "at_exit.py": """
        import atexit, sys, threading, time
        def late():
            threading.main_thread().join()
            print("thread", vars(sys.modules["__main__"]) is globals())
        threading.Thread(target=late).start()
        atexit.register(lambda: print("first registered"))
        atexit.register(lambda: 1 / 0)
        atexit.register(lambda: print("last registered"))
        print("end")
    """,
    "thread_fails.py": """
        import threading
        thread = threading.Thread(target=lambda: 1 / 0, name="worker")
        thread.start(); thread.join()
    """,
    "future.py": """
        def annotated(x: 1 + 1): ...
        print(annotated.__annotations__, sorted(__annotations__))
        y: int = 1
        print(__annotations__)
    """,
    "docstring.py": "'''The docstring.'''\nprint(__doc__)",
    "pickles.py": """
        import inspect, pickle
        class Point:
            x = 1
        assert type(pickle.loads(pickle.dumps(Point()))) is Point
        print(Point.__module__, inspect.getsource(Point), inspect.getsourcefile(Point) == __file__)
        import __main__
        print(__main__.Point is Point)
    """,
    "unbuffered.py": "import sys\nsys.stdout.write('no newline')\nsys.stderr.write('error')",
    "spawns.py": """
        import multiprocessing as mp
        print("top", __name__)
        def double(x):
            return 2 * x
        if __name__ == "__main__":
            with mp.get_context("spawn").Pool(1) as pool:
                print(pool.map(double, [1, 2]))
    """,
    "forks.py": """
        import os, sys
        child = os.fork()
        if child == 0:
            sys.exit(5)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """,
    "changes_folder.py": """
        import os, sys
        os.chdir("/")
        print(__file__ == os.path.abspath(__file__))
        1 / 0
    """,
    "warns.py": """
        import warnings
        warnings.warn("careful")
        warnings.warn("old", DeprecationWarning)
    """,
}


@dataclass
class Case:
    """A command line for python, and for `torchdevice run` after python's own options."""

    id: str
    words: list[str]
    flags: list[str] = field(default_factory=list)
    stdin: str = ""


def exits(value: str) -> Case:
    return Case(f"exit {value}", ["-c", f"import sys; sys.exit({value})"])


CASES = [
    Case("script", ["show.py", "a", "-b", "--target", "x", "--", "-m", "c"]),
    Case("script that looks like options", ["show.py", "--help", "-h", "--quiet"]),
    Case("script by a winding path", ["./folder/../show.py"]),
    Case("script reads input", ["show_input.py"], stdin="given"),
    Case("script with neighbour", ["sub/script.py"]),
    Case("script by link", ["link.py"]),
    Case("script compiled", ["compiled.pyc", "a"]),
    Case("script without suffix", ["plain", "a"]),
    Case("module", ["-m", "show", "a", "-m"]),
    Case("module joined", ["-mshow", "a"]),
    Case("module in package", ["-m", "package.inner", "a"]),
    Case("package", ["-m", "package", "-c"]),
    Case("folder", ["folder", "a"]),
    Case("folder with slash", ["./folder/", "a"]),
    Case("zip", ["archive.zip", "a"]),
    Case("code", ["-c", SHOW, "a", "-c"]),
    Case("code joined", ["-cprint(1)"]),
    Case("stdin", ["-", "a", "-"], stdin=SHOW_INPUT),
    Case("safe path, script", ["show.py"], flags=["-P"]),
    Case("safe path, module", ["-m", "json.tool", "--help"], flags=["-P"]),
    Case("safe path, folder", ["folder"], flags=["-P"]),
    Case("isolated", ["sub/script.py"], flags=["-I"]),
    Case("optimised", ["-c", "assert False; print(__debug__)"], flags=["-O"]),
    Case("warnings as errors", ["warns.py"], flags=["-W", "error"]),
    Case("missing script", ["missing.py"]),
    Case("script in a missing folder", ["missing/./x.py", "a"]),
    Case("script is unreadable", ["unreadable.py"]),
    Case("empty folder", ["empty"]),
    Case("missing module", ["-m", "missing"]),
    Case("missing module in package", ["-m", "package.missing"]),
    Case("module is no package", ["-m", "show.missing"]),
    Case("module named as a file", ["-m", "show.py"]),
    Case("package without main", ["-m", "no_main"]),
    Case("module fails", ["-m", "package.fails"]),
    Case("code fails", ["-c", "1 / 0"]),
    Case("code is wrong", ["-c", "1 +"]),
    Case("stdin fails", ["-"], stdin="\n1 / 0\n"),
    Case("stdin is wrong", ["-"], stdin="1 +\n"),
    Case("os._exit", ["-c", "import os; os._exit(4)"]),
    *(exits(value) for value in ["", "None", "0", "3", "256", "-1", "True", "2.5", "'text'"]),
    *(
        Case(name, [name])
        for name in FILES
        if "/" not in name and not name.startswith("show") and name != "plain"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("programs")
    for name, content in FILES.items():
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if type(content) is bytes else textwrap.dedent(content).encode())
    (root / "link.py").symlink_to("sub/script.py")
    (root / "plain").write_text(SHOW)
    # A link to itself: nobody can read it, not even root.
    (root / "unreadable.py").symlink_to("unreadable.py")
    with zipfile.ZipFile(root / "archive.zip", "w") as archive:
        archive.writestr("__main__.py", SHOW)
    py_compile.compile(str(root / "show.py"), cfile=str(root / "compiled.pyc"))
    return root


def execute(folder: Path, words: list[str], stdin: str = "", **variables: str):
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | variables
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        input=stdin,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    # `python` names itself before "can't open file", by its path; our command by its name.
    stderr = done.stderr.replace(f"{sys.executable}: can't open", "torchdevice: can't open")
    return done.returncode, done.stdout, re.sub("0x[0-9a-f]+", "0x", stderr)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_behaves_as_python(folder, case):
    if "-P" in case.flags and sys.version_info < (3, 11):
        pytest.skip("this python has no -P")
    plain = execute(folder, [*case.flags, *case.words], case.stdin)
    ours = execute(
        folder, [*case.flags, "-m", "torchdevice", "run", "--quiet", *case.words], case.stdin
    )
    assert ours == plain


def test_interrupt_and_termination_end_by_their_signals(folder):
    run = ["-m", "torchdevice", "run"]
    assert execute(folder, [*run, "interrupt.py"])[:2] == (-2, "at exit\n")
    assert execute(folder, [*run, "terminate.py"])[:2] == (-15, "")


def test_installed_command_is_not_on_the_programs_path(folder):
    command = Path(sys.executable).with_name("torchdevice")
    if not command.exists():
        pytest.skip("the command is not installed beside this python")
    plain = execute(folder, ["show.py", "a"])
    ours = execute(folder, [str(command), "run", "--quiet", "show.py", "a"])
    assert ours == plain


def test_a_program_without_torch_does_not_import_it(folder):
    code = "import sys; print('torch' in sys.modules)"
    code_, out, err = execute(folder, ["-m", "torchdevice", "run", "-c", code])
    assert (code_, out) == (0, "False\n")
    assert err == "torchdevice: nothing was redirected: the program did not import torch\n"


# --- with torch: a second or two for each process --------------------------------------------

REDIRECTED = {"TORCHDEVICE_TARGET": "", "OMP_NUM_THREADS": "1"}


def execute_redirected(folder, source: str, *options: str, **variables: str):
    (folder / "program.py").write_text(textwrap.dedent(source))
    return execute(
        folder, ["-m", "torchdevice", "run", *options, "program.py"], **REDIRECTED | variables
    )


def test_cuda_code_runs_in_every_thread_with_mains_classes(folder):
    code, out, err = execute_redirected(
        folder,
        """
        import os
        os.environ["OMP_NUM_THREADS"] = "1"
        import io, threading, torch, inspect
        assert torch.get_num_threads() == 1, "set before torch was imported"
        class Net(torch.nn.Module):
            def forward(self, x):
                return x.cuda() + torch.ones(2, device="cuda:0")
        net = Net().cuda()
        results = []
        thread = threading.Thread(target=lambda: results.append(torch.zeros(2).cuda()))
        thread.start(); thread.join()
        compiled = torch.compile(net, backend="eager", fullgraph=True)
        print(compiled(results[0]).cpu().tolist(), "forward" in inspect.getsource(Net))
        file = io.BytesIO()
        torch.save(net, file); file.seek(0)
        print(type(torch.load(file, weights_only=False)) is Net)
        """,
        "--quiet",
        OMP_NUM_THREADS="2",
        PYTHONWARNINGS="ignore:Guards may run slower",  # torch says so on Python 3.13.0
    )
    assert (code, out, err) == (0, "[1.0, 1.0] True\nTrue\n", "")


def test_spawned_workers_find_main(folder):
    code, out, err = execute_redirected(
        folder,
        """
        import torch
        from torch.utils.data import DataLoader, Dataset
        class Numbers(Dataset):
            def __len__(self):
                return 4
            def __getitem__(self, index):
                return torch.tensor([index])
        if __name__ == "__main__":
            loader = DataLoader(
                Numbers(), batch_size=2, num_workers=2, multiprocessing_context="spawn"
            )
            for batch in loader:
                print(batch.cuda().flatten().tolist())
        """,
        "--target",
        "cpu",
    )
    assert (code, out) == (0, "[0, 1]\n[2, 3]\n"), err
    # One summary: the children print none.
    assert err.count("torchdevice:") == 1 and "torchdevice: 2 redirections" in err


FAILS_AFTER_CUDA = """
import os, sys, torch
x = torch.ones(2).cuda()
for _ in range(3):
    y = torch.zeros(2, device="cuda")
if os.fork() == 0:
    sys.exit(0)
os.wait()
1 / 0
"""


def test_summary_follows_an_exception_and_is_not_printed_by_forked_children(folder):
    code, out, err = execute_redirected(folder, FAILS_AFTER_CUDA, "--target", "cpu")
    assert (code, out) == (1, "")
    traceback, _, summary = err.partition("torchdevice: ")
    top = f'Traceback (most recent call last):\n  File "{folder}/program.py", line 9, in <module>\n'
    assert traceback.startswith(top) and traceback.endswith("ZeroDivisionError: division by zero\n")
    assert summary == (
        "4 redirections, target cpu\n"
        '  3x  program.py:5  cuda -> cpu  y = torch.zeros(2, device="cuda")\n'
        "  1x  program.py:3  cuda -> cpu  x = torch.ones(2).cuda()\n"
    )


def test_summary_is_lost_quietly_when_stderr_is_closed(folder):
    source = "import sys, torch\ntorch.ones(1).cuda()\nsys.stderr.close()"
    assert execute_redirected(folder, source, "--target", "cpu") == (0, "", "")


def test_simulated_device_is_there_before_the_program(folder):
    code, out, err = execute_redirected(
        folder,
        "import torch; print(torch.ones(2).cuda().device, torch.zeros(1).device)",
        "--simulate",
        "mps",
        "--log-level",
        "info",
    )
    if "torchdevice: error:" in err:
        pytest.skip(err.strip())  # no compiler here
    assert (code, out) == (0, "mps:0 mps:0\n")
    assert f"{folder}/program.py:1: cuda -> mps:0" in err  # the log, as asked for
    assert "torchdevice: 3 redirections, target mps:0\n" in err


@pytest.mark.parametrize("through", ["argument", "variable"])
def test_absent_target_does_not_start_the_program(folder, through):
    options = ["--target", "xpu"] if through == "argument" else []
    variables = {"TORCHDEVICE_TARGET": "xpu"} if through == "variable" else {}
    code, out, err = execute_redirected(folder, "print('started')", *options, **variables)
    assert (code, out) == (2, "")
    place = {"argument": "--target 'xpu'", "variable": "TORCHDEVICE_TARGET='xpu'"}[through]
    assert err.startswith(f"torchdevice: error: {place} is not on this machine")
    assert err.count("\n") == 1

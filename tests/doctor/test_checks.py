"""What the doctor finds in a program's text: one row for each thing that there is to find."""

from __future__ import annotations

import re

import pytest

from torchdevice_mode._doctor._rules import BY_ID

from ._reading import found, read

NOTE, WARNING, ERROR = "note", "warning", "error"

ROWS = [
    # --- names of torch
    ("import torch\ntorch.cuda.synchronize()", [(2, "torch-mapped", NOTE)]),
    ("import torch.cuda as c\nc.synchronize()", [(2, "torch-mapped", NOTE)]),
    ("import torch.cuda\ntorch.cuda.synchronize()", [(2, "torch-mapped", NOTE)]),
    ("from torch import cuda\ncuda.synchronize()", [(2, "torch-mapped", NOTE)]),
    ("from torch.cuda import synchronize as s\ns()", [(2, "torch-mapped", NOTE)]),
    ("from torch.cuda import amp\namp.autocast()", [(2, "torch-native", NOTE)]),
    ("import torch\nc = torch.cuda\nc.synchronize()", [(3, "torch-mapped", NOTE)]),
    ("import torch\ngetattr(torch, 'cuda').synchronize()", [(2, "torch-mapped", NOTE)]),
    (
        "import importlib\nm = importlib.import_module('torch.cuda')\nm.synchronize()",
        [(3, "torch-mapped", NOTE)],
    ),
    ("import torch\n@torch.cuda.amp.autocast()\ndef f(): ...", [(2, "torch-native", NOTE)]),
    ("import torch\nclass A:\n  x = torch.cuda.synchronize", [(3, "torch-mapped", NOTE)]),
    ("import torch\ntorch.cuda.nvtx.range_push('a')", [(2, "torch-stubbed", NOTE)]),
    ("import torch\ntorch.cuda.nccl.all_reduce(x)", [(2, "torch-unsupported", ERROR)]),
    ("import torch\ntorch.cuda.gone", [(2, "torch-absent", ERROR)]),
    # names that are no name of torch
    ("def f(torch):\n  torch.cuda.synchronize()", []),
    ("synchronize()", []),
    ("import other\nother.cuda.synchronize()", []),
    # --- devices
    ("x.to('cuda')", [(1, "device-string", NOTE)]),
    ("x.to(device='cuda:1')", [(1, "device-string", NOTE)]),
    ("import torch\ntorch.device('cuda')", [(2, "device-string", NOTE)]),
    ("device = 'cuda'", [(1, "device-string", NOTE)]),
    ("device = f'cuda:{rank}'", [(1, "device-string", NOTE)]),
    ("device = 'cuda:' + str(rank)", [(1, "device-string", NOTE)]),
    ("device = 'cuda:%d' % rank", [(1, "device-string", NOTE)]),
    ("device = 'cuda:{}'.format(rank)", [(1, "device-string", NOTE)]),
    ("def f(device='cuda'): ...", [(1, "device-string", NOTE)]),
    ("p.add_argument('--device', default='cuda', choices=['cuda'])", [(1, "device-string", NOTE)]),
    ("x.to('mps')", [(1, "device-string", NOTE)]),
    ("x.to('cpu')", [(1, "cpu-device", NOTE)]),
    ("y = f(device='cpu')", [(1, "cpu-device", NOTE)]),
    ("place = 'cpu'", []),
    ("x.cuda()", [(1, "tensor-cuda", NOTE)]),
    ("self.model.cuda(0)", [(1, "tensor-cuda", NOTE)]),
    ("import torch\nx.type(torch.cuda.FloatTensor)", [(2, "tensor-type", NOTE)]),
    ("x.type('torch.cuda.FloatTensor')", [(1, "tensor-type", NOTE)]),
    (
        "import torch\nd = 'cuda' if torch.cuda.is_available() else 'cpu'",
        [(2, "device-choice", NOTE)],
    ),
    (
        "import torch\nd = torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        [(2, "device-choice", NOTE)],
    ),
    (
        "if x.device.type == 'cuda': f()",
        [(1, "device-comparison", WARNING), (1, "known-branch", NOTE)],
    ),
    ("if str(x.device) == 'cuda:0': f()", [(1, "device-comparison", WARNING)]),
    ("if str(x.device).startswith('cuda'): f()", [(1, "device-comparison", WARNING)]),
    ("if str(args.device) == 'cuda' or str(device) == 'cuda': f()", []),
    # numbers of devices
    ("import torch\ntorch.cuda.get_device_name(1)", [(2, "device-number", ERROR)]),
    ("import torch\ntorch.cuda.get_device_name(device=1)", [(2, "device-number", ERROR)]),
    ("import torch\nwith torch.cuda.device(1): f()", [(2, "device-number", ERROR)]),
    (
        "import torch\nif rank:\n  torch.cuda.get_device_name(1)",
        [(3, "device-number", WARNING)],
    ),
    ("import torch\ntorch.cuda.get_device_name(0)", []),
    ("import torch\ntorch.cuda.get_device_name(rank)", []),
    # texts that name no device
    ("'cuda' in name", []),
    ("name == 'cuda'", []),
    ("name.startswith('cuda')", []),
    ("print('cuda')", []),
    ("'''cuda'''", []),
    ("table = {'cuda': 1}", []),
    ("table['cuda']", []),
    ("x = 'cudax'", []),
    # --- dtypes
    ("import torch\nx = torch.zeros(2, dtype=torch.float64)", [(2, "float64", WARNING)]),
    ("x.double()", [(1, "float64", WARNING)]),
    ("import torch\nif x.dtype == torch.float64: f()", []),
    # --- files, mixed precision, processes
    ("import torch\ntorch.load('a.pt')", [(2, "saved-devices", NOTE)]),
    ("import torch\ntorch.load('a.pt', map_location='cpu')", []),
    (
        "import torch\ntorch.load('a.pt', map_location='cuda:0')",
        [(2, "saved-devices", NOTE), (2, "device-string", NOTE)],
    ),
    ("import torch\ntorch.autocast(dev)", []),
    (
        "import torch\nwith torch.autocast('cuda'): f()",
        [(2, "autocast", NOTE)],
    ),
    (
        "import torch.distributed as dist\ndist.init_process_group(backend='nccl')",
        [(2, "nccl", NOTE)],
    ),
    ("if backend == 'nccl': f()", []),
    ("from torch import nn\nnn.DataParallel(m)", [(2, "data-parallel", NOTE)]),
    (
        "from torch.utils.data import DataLoader\nDataLoader(d, num_workers=4)",
        [(2, "loader-workers", NOTE)],
    ),
    ("from torch.utils.data import DataLoader\nDataLoader(d, num_workers=0)", []),
    (
        "import torch.multiprocessing as mp\nmp.set_start_method('fork')",
        [(2, "fork", WARNING)],
    ),
    ("import torch.multiprocessing as mp\nmp.set_start_method('spawn')", []),
    # --- packages
    ("import flash_attn", [(1, "cuda-package", ERROR)]),
    ("from flash_attn import flash_attn_func, other", [(1, "cuda-package", ERROR)]),
    ("from flash_attn.layers import rotary", [(1, "cuda-package", ERROR)]),
    ("from apex import amp", [(1, "cuda-package", ERROR)]),
    ("import bitsandbytes as bnb", [(1, "partly-cuda-package", WARNING)]),
    ("from numba import cuda", [(1, "partly-cuda-package", WARNING)]),
    ("import numba", []),
    ("def f():\n  import xformers.ops", [(2, "cuda-package", WARNING)]),
    ("from .apex import amp", []),
    # --- what is built
    (
        "from torch.utils.cpp_extension import CUDAExtension\nCUDAExtension('a', ['a.cu'])",
        [(2, "cuda-extension-build", ERROR)],
    ),
    (
        "from torch.utils import cpp_extension as e\ne.load_inline('a', '', cuda_sources='')",
        [(2, "cuda-extension-build", ERROR)],
    ),
    ("from torch.utils.cpp_extension import load_inline\nload_inline('a', cpp_sources='')", []),
    (
        "from torch.utils.cpp_extension import load\nload('a', sources=['a.cpp', 'b.cu'])",
        [(2, "cuda-extension-build", ERROR)],
    ),
    ("from torch.utils.cpp_extension import load\nload('a', sources=['a.cpp'])", []),
    (
        "from torch.utils.cpp_extension import load\nload('a', sources=files)",
        [(2, "cuda-extension-build", WARNING)],
    ),
    ("import ctypes\nctypes.CDLL('libcudart.so')", [(2, "cuda-library", ERROR)]),
    ("import ctypes\nctypes.CDLL('libm.so')", []),
    ("import torch\ntorch.ops.load_library('a.so')", [(2, "compiled-library", WARNING)]),
    # --- environment
    ("import os\nos.environ['CUDA_VISIBLE_DEVICES'] = '0'", [(2, "visible-devices", NOTE)]),
    ("import os\nos.environ['CUDA_VISIBLE_DEVICES'] = ''", [(2, "visible-devices", WARNING)]),
    ("from os import environ\nenviron['CUDA_LAUNCH_BLOCKING'] = '1'", [(2, "cuda-variable", NOTE)]),
    ("import os\nos.environ.setdefault('NCCL_DEBUG', 'INFO')", [(2, "cuda-variable", NOTE)]),
    ("import os\nos.environ['PYTORCH_ENABLE_MPS_FALLBACK'] = '1'", [(2, "mps-fallback", NOTE)]),
    ("import os\nx = os.environ['CUDA_VISIBLE_DEVICES']", []),
    ("import subprocess\nsubprocess.run(['nvidia-smi'])", [(2, "nvidia-tool", ERROR)]),
    ("import os\nos.system('nvidia-smi -L')", [(2, "nvidia-tool", WARNING)]),
    (
        "import subprocess\nsubprocess.run('nvidia-smi', shell=True)",
        [(2, "nvidia-tool", WARNING)],
    ),
    (
        "import subprocess\nsubprocess.run('nvidia-smi', shell=True, check=True)",
        [(2, "nvidia-tool", ERROR)],
    ),
    (
        "import subprocess\ntry:\n  subprocess.run(['nvidia-smi'])\nexcept OSError: pass",
        [(3, "nvidia-tool", WARNING)],
    ),
    ("import subprocess\nsubprocess.run(['ls'])", []),
    # --- torch.version.cuda
    ("import torch\ntorch.version.cuda.split('.')", [(2, "cuda-version", ERROR)]),
    (
        "import torch\nfloat(torch.version.cuda)",
        [(2, "cuda-version", ERROR), (2, "torch-native", NOTE)],
    ),
    (
        "import torch\nv = torch.version.cuda\nv[:2]",
        [(2, "torch-native", NOTE), (3, "cuda-version", ERROR), (3, "torch-native", NOTE)],
    ),
]  # fmt: skip
IDS = [text.replace("\n", "; ") for text, _ in ROWS]


@pytest.mark.parametrize(
    ("text", "expected"), ROWS, ids=[row[0].replace("\n", "; ") for row in ROWS]
)
def test_a_text_gives_its_findings(text, expected):
    assert sorted(found(text)) == sorted(expected)


def test_every_rule_about_programs_has_a_row():
    of_programs = {rule for _, expected in ROWS for _, rule, _ in expected}
    elsewhere = {"torch-emulated", "torch-name", "known-failure", "cuda-extension-import"}
    elsewhere |= {"cuda-source", "cuda-requirement", "unparsable-file", "unreadable-file"}
    assert set(BY_ID) - of_programs == elsewhere


@pytest.mark.parametrize(
    ("text", "expected"), ROWS, ids=[row[0].replace("\n", "; ") for row in ROWS]
)
def test_messages_are_one_sentence(text, expected):
    for finding in read(text).findings:
        assert finding.message.endswith(".") and ". " not in finding.message
        assert not finding.suggestion or finding.suggestion.endswith(".")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("mps", ["device-string", "float64", "cuda-package"]),
        ("cpu", ["device-string", "cuda-package"]),
        ("cuda", ["device-string"]),
    ],
)
def test_what_matters_depends_on_the_target(target, expected):
    text = "x.to('cuda')\nx.double()\nimport flash_attn\nfrom torch import nn\n"
    text += "if x.device.type == 'cuda': f()" if target == "cuda" else ""
    assert [rule for _, rule, _ in found(text, target=target)] == expected


def test_a_finding_knows_its_place_in_characters():
    (finding,) = read("def f():\n    é = 'é'; x.to('cuda')").findings
    assert (finding.line, finding.column, finding.end_column) == (2, 19, 25)
    assert finding.function == "f" and finding.source == "é = 'é'; x.to('cuda')"


@pytest.mark.parametrize(
    ("comment", "kept"),
    [
        ("# torchdevice: ignore", []),
        ("# torchdevice: ignore[device-string]", ["tensor-cuda"]),
        ("# torchdevice: ignore[device-string, tensor-cuda]", []),
        ("# torchdevice: ignore[other]", ["device-string", "tensor-cuda"]),
        ("# ignore", ["device-string", "tensor-cuda"]),
    ],
)
def test_a_comment_silences_its_line(comment, kept):
    assert sorted(rule for _, rule, _ in found(f"x.to('cuda').cuda()  {comment}")) == kept


def test_a_module_of_the_project_is_no_package():
    assert found("from apex import amp", local=["apex"]) == []


@pytest.mark.parametrize("line", ["import own._C", "from own import _C", "from . import _C"])
def test_an_extension_that_the_project_builds_cannot_be_imported(line):
    assert found(line, extensions=["own._C"]) == [(1, "cuda-extension-import", "error")]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("print 'old'", "Missing parentheses"),
        ("x = \x00", "null bytes"),
        ("x = " + "(" * 5000, "too many nested|deeply|recursion|was never closed|overflow"),
        ("x = " + "-" * 100_000 + "1", "deeply|recursion|complex|memory"),
    ],
    ids=["Python 2", "a null byte", "open brackets", "deep nesting"],
)
def test_what_is_not_python_is_said_and_passed_over(text, why):
    (finding,) = read(text).findings
    assert finding.rule == "unparsable-file"
    assert re.search(why, finding.message)

"""Lists of requirements: what only machines of NVIDIA's can install."""

from __future__ import annotations

import pytest

from torchdevice_mode._doctor._requirements import examine_requirements


def found(text: str, path: str) -> list[tuple[int, str, str]]:
    return [
        (finding.line, finding.name, finding.severity.word)
        for finding in examine_requirements(text, path, "mps")
    ]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("torch==2.1.0+cu118", "+cu118"),
        ("--extra-index-url https://example.org/whl/cu121", "/whl/cu121"),
        ("flash-attn>=2", "flash-attn"),
        ("flash_attn @ https://example.org/flash_attn.whl", "flash_attn"),
        ("cupy-cuda12x", "cupy-cuda12x"),
        ("nvidia-cublas-cu12==12.1  # for speed", "nvidia-cublas-cu12"),
        ("xformers[all]", "xformers"),
        ("bitsandbytes", "bitsandbytes"),
        ("torch", None),
        ("# flash-attn", None),
        ("-r other.txt", None),
        ('triton; sys_platform == "linux"', None),
        ("flash-attn  # torchdevice: ignore", None),
        ("", None),
    ],
)
def test_a_line_of_requirements(line, name):
    expected = [] if name is None else [(1, name, "warning")]
    assert found(line, "requirements.txt") == expected


PYPROJECT = """\
[project]
name = "flash-attn"
keywords = ["cuda", "triton"]
dependencies = [
    "torch",
    "triton>=3",
]

[project.optional-dependencies]
fast = ["flash-attn", "apex"]

[dependency-groups]
dev = ["cupy-cuda12x"]

[tool.poetry.dependencies]
xformers = "^0.0.20"

[[tool.uv.index]]
url = "https://example.org/whl/cu128"
"""


def test_a_pyproject_is_read_where_it_lists_requirements():
    assert found(PYPROJECT, "pyproject.toml") == [
        (6, "triton", "warning"),
        (10, "flash-attn", "note"),
        (10, "apex", "note"),
        (13, "cupy-cuda12x", "note"),
        (16, "xformers", "warning"),
        (19, "/whl/cu128", "warning"),
    ]


ENVIRONMENT = """\
name: cuda
dependencies:
  - python=3.10
  - cudatoolkit=11.3
  - nvidia::cuda-nvcc
  - pytorch=1.10=py3.8_cuda11.3_cudnn8
  - pip:
    - flash-attn
"""


def test_an_environment_of_conda_is_read():
    assert [line for line, _, _ in found(ENVIRONMENT, "environment.yml")] == [4, 5, 6, 8]


SETUP = """\
[metadata]
name = apex

[options]
install_requires =
    torch
    cupy

[options.extras_require]
fast =
    triton
"""


def test_a_setup_cfg_is_read_where_it_lists_requirements():
    assert found(SETUP, "setup.cfg") == [(7, "cupy", "warning"), (11, "triton", "note")]


def test_with_cuda_as_the_target_all_is_well():
    assert examine_requirements("flash-attn", "requirements.txt", "cuda") == []

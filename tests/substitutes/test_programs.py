"""Programs as their users run them: `torchdevice run --substitute PACKAGE program.py`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"


def output_of(program, *options, arguments=()):
    command = [sys.executable, "-m", "torchdevice", "run", "--quiet", *options]
    done = subprocess.run(
        [*command, str(PROGRAMS / program), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("options", "expected"), [((), "plain"), (("--substitute", "flash_attn"), "flash_attn")]
)
def test_a_program_that_does_without_takes_it_where_it_was_asked_for(options, expected):
    if importlib.util.find_spec("flash_attn") is not None:
        pytest.skip("flash_attn is installed")
    assert output_of("optional_flash.py", *options) == f"{expected} 64.0\n"


@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs transformers")
def test_transformers_takes_flash_attention_2():
    assert output_of("transformers_flash.py", "--substitute", "flash_attn").endswith("same\n")


@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs transformers")
def test_transformers_takes_an_optimizer_of_eight_bits():
    assert "learned\n" in output_of("trainer_8bit.py", "--substitute", "bitsandbytes")


def test_attention_of_an_image_model_by_xformers():
    assert output_of("xformers_attention.py", "--substitute", "xformers") == "same\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--opt-level", "O0"],
        ["--opt-level", "O1", "--sync_bn", "--distributed"],
        ["--opt-level", "O2", "--keep-batchnorm-fp32", "True", "--loss-scale", "128.0"],
    ],
)
def test_a_training_loop_in_apexs_manner(arguments):
    assert output_of("apex_imagenet.py", "--substitute", "apex", arguments=arguments).endswith(
        "learned\n"
    )

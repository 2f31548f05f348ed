"""`torchdevice info`: facts, as text and as JSON."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest
import torch

import torchdevice_mode
from torchdevice_mode import _info, _session
from torchdevice_mode._info import REQUESTS, collect, render
from torchdevice_mode._machine import Machine
from torchdevice_mode._settings import SETTINGS, Arguments, Settings, gather
from torchdevice_mode.cli import main
from torchdevice_mode.errors import TargetError

MAC = Machine((("mps", 1),), platform="darwin", torch_version="2.13.0")
TWO_GPUS = Machine((("cuda", 2),), torch_version="2.13.0+cu130")
DEFAULTS = gather(SETTINGS, [])


@pytest.fixture
def on(monkeypatch):
    """Collect the facts of another machine."""

    def collected(machine, settings=None, found=DEFAULTS):
        monkeypatch.setattr(_session, "machine", lambda: machine)
        monkeypatch.setattr(_info, "_name", lambda kind: f"Made-up {kind}")
        return collect(settings or Settings(), found)

    return collected


def test_versions_are_those_that_run(on):
    facts = on(MAC)
    assert facts["torchdevice"] == torchdevice_mode.__version__
    assert facts["python"] == platform.python_version()
    assert facts["torch"] == "2.13.0"


def test_target_has_its_reason(on):
    chosen = {"device": "mps:0", "reason": "mps is the machine's accelerator"}
    assert on(MAC)["target"] == chosen
    assert on(MAC, Settings(target="cpu"))["target"] == {
        "device": "cpu",
        "reason": "the user chose it",
    }


def test_every_kind_of_request_is_decided_with_a_reason(on):
    rows = on(MAC)["decisions"]
    assert tuple(row["request"] for row in rows) == REQUESTS
    assert all(row["reason"] for row in rows)
    devices = {row["request"]: row["device"] for row in rows}
    assert devices == {
        None: "mps:0",
        "cpu": "mps:0",
        "cpu:0": "mps:0",
        "cpu:-1": "cpu",
        "cuda": "mps:0",
        "cuda:1": "mps:0",
        0: "mps:0",
        "mps": None,
        "xpu": "mps:0",
        "npu": "mps:0",
        "meta": None,
        "nonsense": None,
    }


def test_target_absent_is_an_error(on):
    with pytest.raises(TargetError, match="target='xpu'"):
        on(MAC, Settings(target="xpu"))


@pytest.mark.parametrize(
    ("machine", "line"),
    [
        (Machine(), "accelerators  none"),
        (MAC, "accelerators  mps (Made-up mps)"),
        (TWO_GPUS, "accelerators  cuda (Made-up cuda, 2 devices)"),
        (
            Machine((("mps", 1),), simulated=frozenset({"mps"})),
            "accelerators  mps (Made-up mps, simulated on the CPU)",
        ),
    ],
    ids=["none", "mac", "two", "simulated"],
)
def test_accelerators_are_described(on, machine, line):
    assert line in render(on(machine)).splitlines()


def test_text_shows_settings_with_origin_and_decisions_with_reason(on):
    found = gather(SETTINGS, [Arguments({"policy": "explicit", "silence": ["a", "b"]})])
    text = render(on(MAC, Settings(policy="explicit"), found))
    assert "  policy          explicit  argument\n" in text
    assert "  silence         a,b       argument\n" in text
    assert "  'cuda:1'    mps:0      the machine has no cuda\n" in text
    assert "  'meta'      unchanged  meta tensors hold no data and stay meta\n" in text
    assert "  no device   unchanged  " in text


def test_command_prints_json(capsys):
    assert main(["info", "--json", "--policy", "explicit", "--target", "cpu"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"] == str(torch.__version__)
    assert facts["settings"]["policy"] == {"value": "explicit", "origin": "option --policy"}
    assert facts["target"]["device"] == "cpu"


def test_command_prints_text(capsys, monkeypatch):
    monkeypatch.setenv("TORCHDEVICE_TARGET", "cpu")
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "target        cpu (the user chose it)\n" in out
    assert "environment variable TORCHDEVICE_TARGET\n" in out


@pytest.mark.parametrize(
    "words", [["info"], ["run", "--target", "mps", "-c", "print('started')"]], ids=["info", "run"]
)
def test_without_torch_one_sentence_says_so(words):
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from torchdevice_mode.cli import main\n"
        f"sys.exit(main({words!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    sentence = f"torch is not installed for {sys.executable}: install it with pip."
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"torchdevice: error: {sentence}\n"

"""What commands print, where standard output takes it badly."""

from __future__ import annotations

import os
import sys

import pytest

from torchdevice_mode import TorchDeviceError
from torchdevice_mode._printing import print_out


@pytest.fixture
def output(monkeypatch, tmp_path):
    """Lets a descriptor be standard output; the descriptor is closed in the end."""
    files = []

    def use(descriptor: int, encoding: str = "utf-8") -> None:
        files.append(open(descriptor, "w", encoding=encoding))
        monkeypatch.setattr(sys, "stdout", files[0])

    yield use
    files[0].close()


def test_what_the_encoding_lacks_is_escaped(output, tmp_path):
    path = tmp_path / "out.txt"
    output(os.open(path, os.O_CREAT | os.O_WRONLY), "ascii")
    print_out("an arrow: \u2192")
    assert path.read_bytes().split() == [b"an", b"arrow:", rb"\u2192"]


def test_a_reader_that_went_away_is_no_error(output):
    reading, writing = os.pipe()
    os.close(reading)
    output(writing)
    print_out("x" * 100_000)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux alone has it")
def test_a_full_disk_is_told_in_one_sentence(output):
    output(os.open("/dev/full", os.O_WRONLY))
    with pytest.raises(TorchDeviceError, match=r"cannot write to standard output \(No space"):
        print_out("x" * 100_000)
